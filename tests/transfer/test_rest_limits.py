"""What MLflow's REST API cannot set is told, and what its server would mix up is lost by name."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_bundle.archive import ArchiveReader
from tests.conftest import LendServer
from tests.servers import MlflowServer, prepare_directory
from tests.sql.databases import change
from tests.transfer.commands import command, import_

pytestmark = pytest.mark.server


@pytest.fixture
def source(tmp_path: Path) -> tuple[str, Path]:
    """A database in which nothing is yet, and a directory for artifacts."""
    database, artifacts = prepare_directory(tmp_path / "source")
    return f"sqlite:///{database}", artifacts


def bundle_of(uri: str, artifacts: Path, path: Path) -> Path:
    command(
        *("export-all", "-o", path, "--tracking-uri", uri, "--quiet"),
        *("--artifacts-destination", artifacts),
    )
    return path


def test_a_file_whose_name_the_server_would_change_is_lost_and_replaces_no_other(
    source: tuple[str, Path], empty_server: LendServer, tmp_path: Path
) -> None:
    uri, artifacts = source
    client = MlflowClient(uri)
    id = client.create_experiment("e", artifact_location=str(artifacts / "e"))
    run_id = client.create_run(id).info.run_id
    directory = artifacts / "e" / run_id / "artifacts"
    directory.mkdir(parents=True)
    directory.joinpath("a%20b").write_text("escaped")
    directory.joinpath("a b").write_text("a space")
    directory.joinpath("100% b").write_text("no escape")
    directory.joinpath("why?").write_text("an empty query, if it were a URL")
    directory.joinpath("How?really").write_text("a query")
    server = empty_server()
    report = import_(server, bundle_of(uri, artifacts, tmp_path / "f"), expect=3).report
    lost = {loss["id"].partition("/")[2]: loss["reason"] for loss in report["lost"]}
    assert lost.keys() == {"a%20b", "why?"}
    assert "'a b'" in lost["a%20b"]
    assert "'why'" in lost["why?"]
    there = MlflowClient(server.uri)
    (run,) = there.search_runs([there.get_experiment_by_name("e").experiment_id])
    files = {file.path: file.file_size for file in there.list_artifacts(run.info.run_id)}
    assert files == {
        "a b": len("a space"),
        "100% b": len("no escape"),
        "How?really": len("a query"),
    }


@pytest.mark.parametrize("is_proxied", [True, False])
def test_a_file_for_which_the_server_gives_another_one_is_lost(
    empty_server: LendServer, tmp_path: Path, is_proxied: bool
) -> None:
    server = empty_server()
    client = MlflowClient(server.uri)
    location = None if is_proxied else str(tmp_path / "e")
    id = client.create_experiment("e", artifact_location=location)
    run_id = client.create_run(id).info.run_id
    directory = server.artifact_directory / id if is_proxied else tmp_path / "e"
    directory = directory / run_id / "artifacts"
    directory.mkdir(parents=True)
    contents = {"a%20b": "one", "a b": "two", "why?": "tre", "why": "for"}
    for name, content in contents.items():
        directory.joinpath(name).write_text(content)
    command(
        *("export-all", "-o", tmp_path / "f", "--tracking-uri", server.uri, "--quiet"),
        expect=3,
    )
    lost = {"a%20b", "why?"}
    with ArchiveReader.open(tmp_path / "f") as reader:
        told = json.loads(reader.read("manifest.json"))["losses"]
        files = [reader.read(m) for m in reader.iter_members() if "/artifacts/" in m.path]
    assert {loss["id"].partition("/")[2] for loss in told} == lost
    assert sorted(files) == sorted(contents[name].encode() for name in contents.keys() - lost)
    imported = command(
        *("import-all", tmp_path / "f", "--tracking-uri", f"sqlite:///{tmp_path}/new.db"),
        *("--artifacts-destination", tmp_path, "--dry-run", "--json"),
    )
    assert any("lost 2 things" in note for note in imported.report["notes"])


def test_another_experiment_of_a_deleted_ones_name_lives_on(
    source: tuple[str, Path], empty_server: LendServer, tmp_path: Path
) -> None:
    uri, artifacts = source
    client, server = MlflowClient(uri), empty_server()
    for name in ("prod", "gone"):
        id = client.create_experiment(name, artifact_location=str(artifacts / name))
        client.delete_experiment(id)
    there = MlflowClient(server.uri)
    mine = there.create_experiment("prod")
    bundle = bundle_of(uri, artifacts, tmp_path / "f")
    for _ in range(2):
        report = import_(server, bundle).report
        assert [(c["kind"], c["field"]) for c in report["conflicts"]] == [
            ("experiment", "lifecycle_stage")
        ]
        assert there.get_experiment(mine).lifecycle_stage == "active"
        assert there.get_experiment_by_name("gone").lifecycle_stage == "deleted"
    import_(server, bundle, "--on-conflict", "update")
    assert there.get_experiment(mine).lifecycle_stage == "deleted"


def test_what_the_server_sets_itself_is_counted(
    filled_genai_server: Callable[[], MlflowServer], empty_server: LendServer, tmp_path: Path
) -> None:
    server = filled_genai_server()
    client = MlflowClient(server.uri)
    client.create_registered_model("m")
    client.create_model_version("m", "s3://elsewhere/m")
    run_id = client.create_run("0").info.run_id
    change(
        server.database,
        "UPDATE model_versions SET status = 'FAILED_REGISTRATION' WHERE name = 'm'",
    )
    change(server.database, "UPDATE assessments SET run_id = ?", run_id)
    with contextlib.closing(sqlite3.connect(server.database)) as connection:
        trace_id, span_id, text = connection.execute(
            "SELECT trace_id, span_id, content FROM spans ORDER BY span_id LIMIT 1"
        ).fetchone()
    content = {**json.loads(text), "end_time_unix_nano": None}
    change(
        server.database,
        "UPDATE spans SET content = ?, end_time_unix_nano = NULL"
        " WHERE trace_id = ? AND span_id = ?",
        *(json.dumps(content), trace_id, span_id),
    )
    command(
        *("export-all", "-o", tmp_path / "f", "--tracking-uri", f"sqlite:///{server.database}"),
        *("--artifacts-destination", server.artifact_directory, "--artifacts", "skip", "--quiet"),
        expect=None,
    )
    report = import_(empty_server(), tmp_path / "f", expect=None).report
    for name in (
        "model_version.status (READY)",
        "assessment.run_id (the server takes it from the metadata)",
        "trace.spans.end_time (0 where there is none)",
    ):
        assert report["adjusted"].get(name, 0) >= 1, name
