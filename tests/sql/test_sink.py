"""Imports into an SQLite database: everything is kept, and nothing is there twice."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from mlflow_bundle.errors import SinkError, SourceError
from mlflow_bundle.importing import ImportOptions
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql import versions
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.sink import SqlSink
from mlflow_bundle.sql.source import SqlSource
from mlflow_bundle.transfer import transfer
from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.sql.imports import Place, import_into, place
from tests.table_exemptions import ARCHIVED, CHANGED, EXEMPT, MADE, NOT_CARRIED, Exemption
from tests.tables import USER_TABLES, Comparison, changed_rows, compare_databases
from tests.transfer.commands import command

pytestmark = [pytest.mark.server, pytest.mark.slow]

KEPT = (MADE, CHANGED, "MLflow sets it anew", "of the name and the time of the last change")
"""Reasons that are none where the database itself is written."""

NOT_SHOWN = (
    # The bundle comes from REST, which tells neither.
    ("entity_associations", "association_id"),
    ("entity_associations", "created_time"),
    ("evaluation_datasets", "last_updated_by"),
)

ALWAYS = (
    ("trace_info", "db_payload_generation"),
    ("mcp_server_versions", "tools"),
)
"""Operational; and a record tells no empty list from none."""

IDS = (
    ("experiments", "experiment_id"),
    ("runs", "run_uuid"),
    ("logged_models", "model_id"),
    ("evaluation_datasets", "dataset_id"),
    ("evaluation_dataset_records", "dataset_record_id"),
    ("issues", "issue_id"),
    ("label_schemas", "schema_id"),
    ("review_queues", "queue_id"),
    ("scorers", "scorer_id"),
    ("model_definitions", "model_definition_id"),
    ("endpoints", "endpoint_id"),
    ("endpoint_model_mappings", "mapping_id"),
    ("guardrails", "guardrail_id"),
    ("budget_policies", "budget_policy_id"),
    ("mcp_access_endpoints", "id"),
)


def exemptions() -> list[Exemption]:
    """Those of REST, without what a database can be given."""
    return [
        exemption
        for exemption in EXEMPT
        if exemption.reason not in KEPT or (exemption.table, exemption.column) in NOT_SHOWN
    ]


def shown(what: str, comparison: Comparison) -> None:
    print(f"{what}: {comparison}")
    for line in comparison.differences:
        print(" ", line)


def column(file: Path, table: str, name: str) -> set[object]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return {row[0] for row in connection.execute(f'SELECT "{name}" FROM "{table}"')}


def broken_references(file: Path) -> list[object]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA foreign_key_check").fetchall()


@pytest.fixture(scope="module")
def imported(full_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The full world in a new database. For reading only."""
    made = place(tmp_path_factory.mktemp("imported"))
    report = import_into(made, full_bundle, placeholder_secrets=True)
    assert report.losses == []
    assert report.conflicts == []
    return made


def test_everything_arrives_row_for_row(full_server: MlflowServer, imported: Place) -> None:
    comparison = compare_databases(full_server.database, imported.file, exempt=exemptions())
    shown("full world", comparison)
    assert comparison.differences == []
    assert set(USER_TABLES) <= comparison.rows.keys()
    assert broken_references(imported.file) == []


@pytest.mark.parametrize(("table", "id"), IDS)
def test_ids_are_kept(full_server: MlflowServer, imported: Place, table: str, id: str) -> None:
    ids = column(imported.file, table, id)
    assert ids
    assert ids <= column(full_server.database, table, id)


def test_a_second_import_changes_nothing(full_bundle: Path, imported: Place) -> None:
    before = row_dump(imported.file)
    report = import_into(imported, full_bundle, placeholder_secrets=True)
    assert list(changed_rows(before, imported.file)) == []
    assert report.losses == []
    assert report.conflicts == []
    assert sum(report.done.values()) == 0


def test_a_dry_run_makes_no_database(full_bundle: Path, tmp_path: Path) -> None:
    target = place(tmp_path / "new")
    report = import_into(target, full_bundle, dry_run=True)
    assert report.planned["run"] > 100
    assert not target.file.exists()
    assert list(target.artifacts.iterdir()) == []


@pytest.mark.parametrize("placeholders", [False, True])
def test_a_dry_run_foretells_what_happens_to_secrets(
    genai_bundle: Path, tmp_path: Path, placeholders: bool
) -> None:
    told = [
        import_into(
            place(tmp_path), genai_bundle, dry_run=dry_run, placeholder_secrets=placeholders
        )
        for dry_run in (True, False)
    ]
    dry, real = ([loss for loss in each.losses if "gateway" in loss.kind] for each in told)
    assert dry == real
    assert bool(real) != placeholders
    dry_adjusted, real_adjusted = (
        {name: count for name, count in each.adjusted.items() if "secret" in name} for each in told
    )
    assert dry_adjusted == {k: v for k, v in real_adjusted.items() if not k.startswith("webhook.")}


@pytest.mark.parametrize("option", ["--artifacts-destination", "--default-artifact-root"])
def test_a_place_that_cannot_hold_files_is_refused_before_the_database_is_made(
    genai_bundle: Path, tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").touch()
    words = ("import-all", genai_bundle, "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    refused = command(*words, option, tmp_path / "file" / "below", expect=2)
    assert f"{option} {tmp_path}/file/below: {tmp_path}/file is not a directory" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_imports_at_once_are_refused(genai_bundle: Path, imported: Place) -> None:
    database = Database(imported.uri, error=SinkError)
    with contextlib.closing(database), database.dialect.lock(database.engine) as is_held:
        assert is_held
        with pytest.raises(SinkError, match="another import is writing to"):
            import_into(imported, genai_bundle)
    assert not list(imported.file.parent.glob("*lock*"))


def test_a_database_of_another_mlflow_is_refused(genai_bundle: Path, tmp_path: Path) -> None:
    target = place(tmp_path / "old")
    with contextlib.closing(sqlite3.connect(target.file)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('0584bdc529eb')")
        connection.commit()
    before = target.file.read_bytes()
    with pytest.raises(SinkError, match="of an older MLflow") as refused:
        import_into(target, genai_bundle)
    assert "mlflow db upgrade" in refused.value.hint
    assert target.file.read_bytes() == before


def test_a_database_arrives_in_another_row_for_row(
    full_server: MlflowServer, tmp_path: Path
) -> None:
    """From database to database nothing is exempt but what only a server's work can tell."""
    target = place(tmp_path / "direct")
    report = Report("copy")
    target.artifacts.mkdir()
    source = SqlSource(
        f"sqlite:///{full_server.database}",
        open_tree=ArtifactStore(
            artifacts_destination=str(full_server.artifact_directory), error=SourceError
        ).tree,
        include_secrets=True,
    )
    sink = SqlSink(
        target.uri,
        report,
        options=ImportOptions(),
        artifact_store=ArtifactStore(artifacts_destination=str(target.artifacts), error=SinkError),
        include_secrets=True,
    )
    try:
        transfer(source, sink, Selection.all(), report)
    finally:
        sink.close()
        source.close()
    # Buckets that nobody can read here: what they belong to arrives all the same.
    assert {loss.field for loss in report.losses} == {"artifacts"}
    left = [
        exemption
        for exemption in EXEMPT
        if (exemption.table, exemption.column) in ALWAYS
        or exemption.reason == ARCHIVED
        or exemption.reason.startswith("derived")
    ]
    comparison = compare_databases(
        full_server.database,
        target.file,
        tables=(*USER_TABLES, "latest_metrics", "secrets"),
        exempt=left,
        exempt_rows=[exemption for exemption in NOT_CARRIED if exemption.reason == ARCHIVED],
    )
    shown("from database to database", comparison)
    assert comparison.differences == []
    assert broken_references(target.file) == []


def test_an_import_says_that_the_installed_mlflow_is_newer_than_what_is_known(
    full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = versions.migrations().get_current_head()
    revisions = list(versions.FIRST_VERSION)
    known = revisions[: revisions.index(str(newest))]
    for revision in set(revisions) - set(known):
        monkeypatch.delitem(versions.FIRST_VERSION, revision)
    monkeypatch.setattr(versions, "_LAST_REVISION", known[-1])
    report = import_into(place(tmp_path / "to"), full_bundle)
    (note,) = [note for note in report.notes if "newer than this mlflow-bundle knows" in note]
    assert f"(revision {newest})" in note
