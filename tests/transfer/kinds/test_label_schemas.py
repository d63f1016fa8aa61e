"""Label schemas travel without a write at the source, unless the user permits it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer, fast_session
from tests.transfer.commands import command, export, import_
from tests.transfer.faults import Answer, faulty

pytestmark = pytest.mark.server

API = "api/3.0/mlflow"
INPUTS: dict[str, dict[str, Any]] = {
    "pass": {"pass_fail": {"positive_label": "Ja ✓", "negative_label": "Nein"}},
    "one": {"categorical": {"options": ["a", "ünï"]}},
    "many": {"categorical": {"options": ["a", "b"], "multi_select": True}},
    "number": {"numeric": {"min_value": 0, "max_value": 2.5}},
    "any number": {"numeric": {}},
    "text": {"text": {"max_length": 500}},
    "any text": {"text": {}},
}


def call(server: MlflowServer, path: str, method: str = "POST", **body: Any) -> Any:
    how = {"params": body} if method == "GET" else {"json": body}
    reply = fast_session().request(method, f"{server.uri}/{path}", **how)
    assert reply.ok, reply.text
    return reply.json()


def experiment(server: MlflowServer, name: str) -> str:
    id: str = call(server, "api/2.0/mlflow/experiments/create", name=name)["experiment_id"]
    return id


def create(server: MlflowServer, experiment_id: str, name: str, **fields: Any) -> str:
    body = {"type": "FEEDBACK", "input": INPUTS.get(name, INPUTS["text"]), **fields}
    answer = call(
        server, f"{API}/label-schemas/create", experiment_id=experiment_id, name=name, **body
    )
    id: str = answer["label_schema"]["schema_id"]
    return id


def contents(server: MlflowServer) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:
        return database.execute(
            "SELECT e.name, l.name, type, instruction, enable_comment, input_type, input_config,"
            " is_default FROM label_schemas l JOIN experiments e"
            " ON e.experiment_id = l.experiment_id ORDER BY 1, 2"
        ).fetchall()


def test_schemas_arrive_once_and_exports_write_nothing_unasked(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    used, unlisted = experiment(source, "used"), experiment(source, "unlisted")
    for name in INPUTS:
        create(source, used, name)
    more = {"type": "EXPECTATION", "instruction": "*Wie?*\nünï", "enable_comment": True}
    create(source, used, "with all", **more)
    create(source, used, "empty instruction", instruction="")
    call(source, f"{API}/label-schemas/list", "GET", experiment_id=used)
    named = create(source, unlisted, "named by a queue")
    create(source, unlisted, "named by nothing")
    gone = create(source, unlisted, "deleted, named")
    call(
        source,
        f"{API}/review-queues/create",
        experiment_id=unlisted,
        name="q",
        queue_type="CUSTOM",
        schema_ids=[named, gone],
    )
    call(source, f"{API}/label-schemas/delete", "DELETE", schema_id=gone)
    before = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    assert row_dump(source.database) == before
    assert exported.report["planned"]["label_schema"] == len(INPUTS) + 4
    (note,) = (note for note in exported.report["notes"] if "label schemas" in note)
    assert "in 2 experiments" in note  # and of Default
    assert "--list-label-schemas" in note
    command("verify", bundle)

    done = import_(destination, bundle)
    assert done.report["adjusted"]["review_queue.schema_ids (points outside)"] == 1
    expected = [row for row in contents(source) if row[1] != "named by nothing"]
    assert contents(destination) == expected
    rows = row_dump(destination.database)
    again = import_(destination, bundle, "--on-conflict", "update")
    assert again.report["present"]["label_schema"] == len(INPUTS) + 4
    assert row_dump(destination.database) == rows

    # Newer, and with leave to make the default one: everything.
    call(
        source,
        f"{API}/label-schemas/update",
        "PATCH",
        schema_id=named,
        instruction="new",
        input={"text": {"max_length": 7}},
    )
    newer = tmp_path / "newer.mlbundle"
    listed = export(source, newer, "--list-label-schemas")
    assert not any("label schemas" in note for note in listed.report["notes"])
    assert import_(destination, newer, "--dry-run").conflicts
    assert row_dump(destination.database) == rows
    kept = import_(destination, newer)
    assert {(kind, field) for kind, _, field in kept.conflicts} == {
        ("label_schema", "instruction"),
        ("label_schema", "input_config"),
    }
    import_(destination, newer, "--on-conflict", "update")
    assert contents(destination) == contents(source)
    assert ("unlisted", "named by nothing") in {row[:2] for row in contents(destination)}

    # What never changes: a loss when the bundle's is wanted.
    other = empty_server()
    create(other, experiment(other, "used"), "number", input=INPUTS["text"])
    lost = import_(other, bundle, "--on-conflict", "update", expect=3)
    assert [(kind, field) for kind, _, field in lost.losses] == [("label_schema", "input_type")]


def test_what_cannot_be_told_of_an_experiment_names_it(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source = empty_server()
    broken = experiment(source, "broken")

    def fail(method: str, path: str) -> Answer | None:
        is_of_it = "label-schemas/get-by-name" in path and f"experiment_id={broken}&" in path
        return Answer(403, "application/json", b"{}") if is_of_it else None

    with faulty(source.uri, instead=fail) as uri:
        words = ["export-all", "-o", tmp_path / "b.mlbundle", "--tracking-uri", uri, "--json"]
        (loss,) = command(*words, expect=3).report["lost"]
    assert loss["kind"] == "label_schema"
    assert f"of experiment {broken}" in loss["reason"]
