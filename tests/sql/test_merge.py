"""Imports into a database that holds something: nothing mixes, and nothing is overwritten."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.errors import ConflictError
from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.sql.databases import change
from tests.sql.imports import Place, import_into, place
from tests.sql.test_interruption import NOT_REPEATED
from tests.sql.test_sink import broken_references
from tests.table_exemptions import EXEMPT, Exemption
from tests.tables import changed_rows, compare_databases
from tests.transfer.commands import command
from tests.transfer.test_everything import IN_EXPERIMENTS
from tests.world import World

pytestmark = [pytest.mark.server, pytest.mark.slow]


def scalar(file: Path, statement: str, *values: Any) -> Any:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute(statement, values).fetchone()[0]


@pytest.fixture
def target(genai_bundle: Path, tmp_path: Path) -> Place:
    """The small world in a database of its own."""
    made = place(tmp_path / "target")
    assert import_into(made, genai_bundle, placeholder_secrets=True).losses == []
    return made


def test_two_servers_merge_into_one_without_mixing(
    full_server: MlflowServer,
    full_bundle: Path,
    genai_server: MlflowServer,
    genai_world: World,
    genai_bundle: Path,
    tmp_path: Path,
) -> None:
    made = place(tmp_path / "both")
    prompt = next(iter(genai_world.prompts.values()))
    import_into(
        made,
        genai_bundle,
        placeholder_secrets=True,
        experiment_name_prefix="second/",
        rename_models={prompt: "second"},
    )
    # The ids of its experiments are taken now.
    report = import_into(made, full_bundle, on_conflict="update")
    assert report.losses == []
    renamed = Exemption(
        "spans",
        "content",
        "the prompt's new name",
        same=lambda text: text.replace(prompt, "second"),
    )
    comparison = compare_databases(
        genai_server.database,
        made.file,
        tables=IN_EXPERIMENTS,
        exempt=(*EXEMPT, renamed),
        may_have_more=True,
        experiment_name=lambda name: f"second/{name}",
        model_name=lambda name: "second" if name == prompt else name,
    )
    assert comparison.differences == []
    comparison = compare_databases(full_server.database, made.file, may_have_more=True)
    assert comparison.differences == []
    assert broken_references(made.file) == []


def test_another_prefix_makes_a_second_copy_and_finds_it_again(
    full_server: MlflowServer, full_bundle: Path, tmp_path: Path
) -> None:
    made = place(tmp_path / "twice")
    import_into(made, full_bundle, placeholder_secrets=True)
    report = import_into(made, full_bundle, experiment_name_prefix="copy/")
    # A trace has one id wherever it is, and can be in one experiment only.
    assert {loss.kind for loss in report.losses} == {"trace"}
    comparison = compare_databases(
        full_server.database,
        made.file,
        tables=[
            table
            for table in IN_EXPERIMENTS
            if not table.startswith(("trace", "span", "assessment", "review_queue_items"))
        ],
        may_have_more=True,
        experiment_name=lambda name: f"copy/{name}",
    )
    assert comparison.differences == []
    assert broken_references(made.file) == []
    before = row_dump(made.file)
    again = import_into(made, full_bundle, experiment_name_prefix="copy/")
    assert list(changed_rows(before, made.file)) == []
    assert sum(again.done.values()) == 0


def test_what_is_missing_is_added(genai_bundle: Path, target: Place) -> None:
    before = row_dump(target.file)
    change(target.file, "DELETE FROM assessments")
    change(target.file, "DELETE FROM spans WHERE parent_span_id IS NOT NULL")
    change(target.file, "DELETE FROM tags")
    change(target.file, "DELETE FROM review_queue_items")
    change(target.file, "DELETE FROM webhook_events")
    report = import_into(target, genai_bundle)
    assert report.conflicts == []
    assert list(changed_rows(before, target.file)) == []


def test_values_that_differ_are_kept_and_reported(genai_bundle: Path, target: Place) -> None:
    change(target.file, "UPDATE issues SET status = 'resolved'")
    before = row_dump(target.file)
    report = import_into(target, genai_bundle)
    assert {(c.kind, c.field) for c in report.conflicts} == {("issue", "status")}
    assert list(changed_rows(before, target.file)) == []


def test_update_takes_the_bundles_values(genai_bundle: Path, target: Place) -> None:
    before = row_dump(target.file)
    change(target.file, "UPDATE issues SET status = 'resolved'")
    change(target.file, "UPDATE runs SET name = 'renamed'")
    import_into(target, genai_bundle, on_conflict="update")
    assert list(changed_rows(before, target.file)) == []


def test_fail_stops_before_anything_is_written(genai_bundle: Path, target: Place) -> None:
    change(target.file, "UPDATE issues SET status = 'resolved'")
    change(target.file, "DELETE FROM assessments")
    before = row_dump(target.file)
    words = ("--tracking-uri", target.uri, "--artifacts-destination", target.artifacts)
    refused = command("import-all", genai_bundle, *words, "--on-conflict", "fail", expect=1)
    assert "nothing was written" in refused.stderr
    assert list(changed_rows(before, target.file)) == []


def test_the_end_of_a_run_that_was_running_is_no_conflict(
    genai_bundle: Path, target: Place
) -> None:
    before = row_dump(target.file)
    run_id = scalar(target.file, "SELECT run_uuid FROM runs WHERE end_time IS NOT NULL")
    statement = "UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?"
    change(target.file, statement, run_id)
    assert import_into(target, genai_bundle).conflicts == []
    assert list(changed_rows(before, target.file)) == []


def test_a_run_that_was_deleted_stays_deleted(genai_bundle: Path, target: Place) -> None:
    where = "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'"
    run_id = scalar(target.file, where)
    statement = "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"
    change(target.file, statement, run_id)
    before = row_dump(target.file)
    report = import_into(target, genai_bundle, on_conflict="update")
    assert [(c.kind, c.id, c.field) for c in report.conflicts] == [
        ("run", run_id, "lifecycle_stage")
    ]
    assert list(changed_rows(before, target.file)) == []


def test_an_experiment_that_was_deleted_is_a_conflict(genai_bundle: Path, target: Place) -> None:
    change(
        target.file,
        "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE experiment_id ="
        " (SELECT max(experiment_id) FROM experiments WHERE lifecycle_stage = 'active')",
    )
    before = row_dump(target.file)
    with pytest.raises(ConflictError, match="is deleted at the destination") as refused:
        import_into(target, genai_bundle)
    assert "--rename-experiment" in refused.value.hint
    assert list(changed_rows(before, target.file)) == []


def test_a_deleted_experiment_gets_what_an_interrupted_import_left_out(
    full_bundle: Path, tmp_path: Path
) -> None:
    made = place(tmp_path / "target")
    assert import_into(made, full_bundle, placeholder_secrets=True).losses == []
    whole = tmp_path / "whole.db"
    shutil.copyfile(made.file, whole)
    of_deleted = (
        "IN (SELECT run_uuid FROM runs JOIN experiments USING (experiment_id)"
        " WHERE experiments.lifecycle_stage = 'deleted')"
    )
    for table in ("params", "tags", "metrics", "latest_metrics", "runs"):
        change(made.file, f"DELETE FROM {table} WHERE run_uuid {of_deleted}")
    report = import_into(made, full_bundle, placeholder_secrets=True)
    assert report.losses == []
    assert report.done["run"] > 1
    assert compare_databases(whole, made.file, exempt=NOT_REPEATED).differences == []
