"""What is damaged in a file store is lost with its path and its reason, and nothing else is."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_bundle.filestore.filling import Filling
from mlflow_bundle.filestore.tables import Tables
from mlflow_bundle.report import Loss

Places = dict[str, Path]
"""One directory of each kind."""


@pytest.fixture
def places(copy: Path) -> Places:
    (param,) = copy.glob("[0-9]*/*/params/rate")
    run = param.parents[1]
    (model_tag,) = run.parent.glob("models/*/tags/t")
    found = {"run": run, "experiment": run.parent, "model": model_tag.parents[1]}
    for kind, pattern in {
        "dataset": "datasets/*",
        "trace": "traces/*",
        "input": f"{run.name}/inputs/*",
        "output": f"{run.name}/outputs/*",
    }.items():
        (found[kind],) = run.parent.glob(pattern)
    registered = copy / "models" / "iris"
    return found | {"root": copy, "registered": registered, "version": registered / "version-1"}


def document(places: Places, kind: str) -> Path:
    return places[kind] / ("trace_info.yaml" if kind == "trace" else "meta.yaml")


def losses_of(root: Path) -> list[Loss]:
    file = root.parent / "filestore.db"
    file.unlink(missing_ok=True)
    tables = Tables(file)
    filling = Filling(root, tables)
    filling.run()
    tables.close()
    return filling.losses


@pytest.mark.parametrize(
    ("kind", "pattern", "replacement", "reason"),
    [
        ("run", "status: 1", "status: 99", "status: unknown value 99"),
        ("run", "status: 1", "status: null", "status: unknown value None"),
        ("run", "source_type: 4", "source_type: 99", "source_type: unknown value 99"),
        ("run", "start_time: .*", "start_time: abc", "start_time: {integer}'abc'"),
        ("run", "end_time: .*", "end_time: 0.5", "end_time: {integer}0.5"),
        ("run", "end_time: .*", "end_time: [1]", "end_time: {integer}[1]"),
        ("run", "lifecycle_stage: .*", "lifecycle_stage: x", "lifecycle_stage: unknown value 'x'"),
        ("run", "run_name: .*", "run_name: 007", "run_name: expected text, got 7"),
        ("experiment", "creation_time: .*", "creation_time: x", "creation_time: {integer}'x'"),
        ("experiment", "name: .*", "name: ''", "name: it is empty"),
        ("model", "artifact_location: .*", "artifact_location:", "'artifact_location' is missing"),
        ("model", "status: .*", "status: 9", "status: unknown value 9"),
        ("model", "creation_timestamp: .*", "creation_timestamp: true", "{at}{integer}True"),
        ("registered", "creation_timestamp: .*", "creation_timestamp: 1.5", "{at}{integer}1.5"),
        ("version", "version: .*", "version: -1", "version: expected a number from 1 on, got '-1'"),
        ("version", "status: .*", "status: X", "status: unknown value 'X'"),
        ("version", "current_stage: .*", "current_stage: X", "current_stage: unknown value 'X'"),
        ("trace", "(execution_duration_ms): .*", r"\1: x", "execution_duration_ms: {integer}'x'"),
        ("trace", "trace_location:", "trace_location: 7\nx:", "not what MLflow writes there"),
        ("input", "source_type: .*", "source_type: X", "source_type: unknown value 'X'"),
        ("output", "step: .*", "step: x", "step: {integer}'x'"),
    ],
)
def test_a_value_that_mlflow_does_not_write_is_a_loss(
    places: Places, kind: str, pattern: str, replacement: str, reason: str
) -> None:
    file = document(places, kind)
    text, count = re.subn(f"(?m)^{pattern}$", replacement, file.read_text())
    assert count == 1
    file.write_text(text)
    reason = reason.format(
        integer="expected an integer of 64 bits, got ", at="creation_timestamp: "
    )
    assert [loss.reason for loss in losses_of(places["root"])] == [
        f"{file.relative_to(places['root'])}: {reason}"
    ]


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("experiment", "name"),
        ("run", "user_id"),
        ("dataset", "source_type"),
        ("input", "tags"),
        ("output", "tags"),
        ("model", "status"),
        ("trace", "trace_location"),
        ("registered", "name"),
        ("version", "version"),
    ],
)
def test_a_document_that_was_cut_is_a_loss(places: Places, kind: str, last: str) -> None:
    file = document(places, kind)
    lines = file.read_text().splitlines(keepends=True)
    (end,) = (number for number, line in enumerate(lines) if line.startswith(f"{last}:"))
    path = str(file.relative_to(places["root"]))
    for number in range(end + 1):
        file.write_text("".join(lines[:number]))
        reasons = [loss.reason for loss in losses_of(places["root"])]
        assert path in [reason.partition(": ")[0] for reason in reasons], number


def _copied(kind: str, name: str) -> Callable[[Places], object]:
    return lambda places: shutil.copytree(places[kind], places[kind].parent / name)


def _second_of_its_name(places: Places) -> None:
    shutil.copytree(places["experiment"], places["root"] / ("9" * 18))
    (places["root"] / ("9" * 18) / "tags" / "second").write_text("x")


def _into_trash(places: Places) -> None:
    shutil.copytree(places["experiment"], places["root"] / ".trash" / places["experiment"].name)


def _copied_model(places: Places) -> None:
    shutil.copytree(places["registered"], places["registered"].with_name("iris.bak"))
    (places["registered"].with_name("iris.bak") / "tags" / "second").write_text("x")


def _copied_assessment(places: Places) -> None:
    first, *_ = (places["trace"] / "assessments").iterdir()
    shutil.copy(first, first.with_name("z.yaml"))


TWICE = "another one with its id, name or version was read before it"
ABSENT = "No such file or directory"


@pytest.mark.parametrize(
    ("damage", "kind", "field", "reason"),
    [
        (lambda at: (at["run"] / "meta.yaml").unlink(), "run", "", ABSENT),
        (lambda at: (at["trace"] / "trace_info.yaml").unlink(), "trace", "", ABSENT),
        (lambda at: (at["experiment"] / "r").symlink_to("/no"), "run", "", ABSENT),
        (_into_trash, "experiment", "", TWICE),
        (_second_of_its_name, "experiment", "", TWICE),
        (_copied("experiment", "\u0663"), "experiment", "", "its id is no number"),
        (_copied_model, "registered_model", "", TWICE),
        (_copied("version", "version-9"), "model_version", "", TWICE),
        (_copied_assessment, "trace", "assessments.z", TWICE),
        (
            lambda at: (at["registered"] / "aliases" / "gone").write_text("9"),
            *("registered_model", "aliases.gone", "there is no version 9"),
        ),
        (
            lambda at: (at["registered"] / "aliases" / "champion").write_text("one"),
            *("registered_model", "aliases.champion"),
            "version: expected a number from 1 on, got 'one'",
        ),
        (
            lambda at: (at["run"] / "metrics" / "m").touch(),
            *("run", "metrics.m", "it is empty"),
        ),
        (
            lambda at: (at["run"] / "metrics" / "m").write_text("1 0.5 1 more\n"),
            *("run", "metrics.m", "line 1 is malformed: '1 0.5 1 more'"),
        ),
        (
            lambda at: (at["run"] / "metrics" / "m").write_text("1 0.5 1\n" + "9" * 30 + " 1 1\n"),
            *("run", "metrics.m", "line 2 is malformed: '999999999999...999999999 1 1'"),
        ),
        (
            lambda at: (at["run"] / "params" / "p").symlink_to("/no/where"),
            *("run", "params.p", ABSENT),
        ),
        (
            lambda at: os.mkfifo(at["run"] / "params" / "p"),
            *("run", "params.p", "no regular file"),
        ),
        (
            lambda at: (at["run"] / "params" / "p").symlink_to(at["run"] / "tags"),
            *("run", "params.p", "no regular file"),
        ),
        (
            lambda at: (at["run"] / "params" / os.fsdecode(b"\xff")).write_text("x"),
            *("run", "params.\\udcff", "not UTF-8"),
        ),
    ],
)
def test_what_cannot_be_taken_is_a_loss(
    places: Places, damage: Callable[[Places], object], kind: str, field: str, reason: str
) -> None:
    damage(places)
    losses = losses_of(places["root"])
    assert [(loss.kind, loss.field, loss.reason.partition(": ")[2]) for loss in losses] == [
        (kind, field, reason)
    ]


def test_nothing_of_a_second_one_is_added_to_the_first(places: Places) -> None:
    _copied_model(places)
    _second_of_its_name(places)
    losses_of(places["root"])
    connection = sqlite3.connect(places["root"].parent / "filestore.db")
    for table in ("registered_model_tags", "experiment_tags"):
        rows = connection.execute(f"SELECT 1 FROM {table} WHERE key = 'second'").fetchall()
        assert rows == []
    connection.close()


def test_a_long_history_is_whole(places: Places) -> None:
    lines = (f"{step} 0.5 {step}\n" for step in range(20_001))
    (places["run"] / "metrics" / "long").write_text("".join(lines))
    assert losses_of(places["root"]) == []
    connection = sqlite3.connect(places["root"].parent / "filestore.db")
    (count,) = connection.execute("SELECT count(*) FROM metrics WHERE key = 'long'").fetchone()
    connection.close()
    assert count == 20_001
