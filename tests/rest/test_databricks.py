"""Exports from and imports into Databricks, before a stand-in of what is Databricks' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compare import snapshot
from tests.conftest import LendServer
from tests.rest.databricks_standin import USER, Workspace, workspace
from tests.servers import MlflowServer, launch_server
from tests.transfer.commands import Done, command
from tests.transfer.small import Small, build_small

pytestmark = pytest.mark.server

NOTEBOOK = "/Users/ana@example.org/Train it"
REVISION = "1700000000123"
IN_NOTEBOOKS = ("made in a notebook", "too large", "no revision", "brought its notebook")


@dataclass(frozen=True)
class Exported:
    """The small world with runs of notebooks, exported through ``databricks``."""

    server: MlflowServer
    small: Small
    here: Workspace
    bundle: Path
    done: Done


def run_command(here: Workspace, home: Path, *words: str | Path, expect: int = 0) -> Done:
    """Run a command against the tracking URI ``databricks``, without this machine's settings."""
    env = here.env | {"MLFLOW_TRACKING_URI": "databricks", "HOME": str(home)}
    return command(*words, "--json", "--quiet", expect=expect, env=env)


def _build(server: MlflowServer) -> Small:
    path, revision = "mlflow.databricks.notebookPath", "mlflow.databricks.notebookRevisionID"
    small = build_small(server.uri)
    small.experiment("notebooks", "/Users/ana@example.org/notebooks")
    small.run("made in a notebook", "notebooks", tags={path: NOTEBOOK, revision: REVISION})
    small.run("too large", "notebooks", tags={path: "/Large", revision: REVISION})
    small.run("no revision", "notebooks", tags={path: NOTEBOOK})
    brought = small.run(
        "brought its notebook", "notebooks", tags={path: NOTEBOOK, revision: REVISION}
    )
    small.put_files(small.artifact_uri(brought), {"notebooks/Train it.html": b"brought"})
    system_tags = {
        "mlflow.user": "ana",
        "mlflow.rootRunId": small.runs["first"],
        "mlflow.parentRunId": small.runs["first"],
        "mlflow.source.name": "train.py",
    }
    small.run("with system tags", "one", tags=system_tags)
    small.call(
        "experiments/set-experiment-tag",
        experiment_id=small.experiments["one"],
        key="mlflow.experiment.sourceType",
        value="NOTEBOOK",
    )
    return small


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    home = tmp_path_factory.mktemp("databricks")
    bundle = home / "f.mlbundle"
    server = launch_server(home / "server", workers=1)
    try:
        small = _build(server)
        with workspace(server.uri) as here:
            for format in ("SOURCE", "HTML", "JUPYTER", "DBC"):
                here.notebooks[NOTEBOOK, REVISION, format] = b"\x00revision as " + format.encode()
                here.notebooks[NOTEBOOK, "latest", format] = b"another revision"
            here.notebooks["/Large", REVISION, "DBC"] = "MAX_NOTEBOOK_SIZE_EXCEEDED"
            here.notebooks["/Large", REVISION, "HTML"] = b""
            formats = ["--notebook-formats", "source,HTML", "--notebook-formats", "DBC"]
            done = run_command(here, home, "export-all", "-o", bundle, *formats, expect=3)
            yield Exported(server, small, here, bundle, done)
    finally:
        server.stop()


def test_an_export_from_databricks_brings_all_and_the_notebooks_that_it_can(
    exported: Exported, tmp_path: Path
) -> None:
    report = exported.done.report
    made, large, bare, brought = (exported.small.runs[label] for label in IN_NOTEBOOKS)
    reasons = {loss["id"]: (loss["kind"], loss["reason"]) for loss in report["lost"]}
    assert reasons.keys() == {
        f"{large}/notebooks/Large.dbc",
        f"{large}/notebooks/Large.source",
        *(f"{bare}/notebooks/Train it.{ending}" for ending in ("dbc", "html", "source")),
    }
    assert {kind for kind, _ in reasons.values()} == {"artifact"}
    assert "MAX_NOTEBOOK_SIZE_EXCEEDED" in reasons[f"{large}/notebooks/Large.dbc"][1]
    assert "RESOURCE_DOES_NOT_EXIST" in reasons[f"{large}/notebooks/Large.source"][1]
    assert "which revision" in reasons[f"{bare}/notebooks/Train it.dbc"][1]
    # Seven files of the small world, one that was brought, 3 + 1 + 0 + 2 notebooks.
    assert report["done"]["artifact"] == 7 + 1 + 6
    assert report["done"]["run"] == 5 + 4 + 1
    command("extract", exported.bundle, "-o", tmp_path / "tree")
    files = {
        (path.parts[-4], path.name): path.read_bytes()
        for path in (tmp_path / "tree").rglob("artifacts/notebooks/*")
    }
    assert files == {
        (made, "Train it.dbc"): b"\x00revision as DBC",
        (made, "Train it.html"): b"\x00revision as HTML",
        (made, "Train it.source"): b"\x00revision as SOURCE",
        (large, "Large.html"): b"",
        (brought, "Train it.html"): b"brought",
        (brought, "Train it.dbc"): b"\x00revision as DBC",
        (brought, "Train it.source"): b"\x00revision as SOURCE",
    }
    asked = exported.here.asked.count("GET /api/2.0/workspace/export")
    assert asked == 3 + 3 + 2
    assert not {line.split()[0] for line in exported.here.asked if "/mlflow/" not in line} - {
        "GET",
        "HEAD",
        "POST",  # /graphql, and addresses of files to read
    }


def test_a_server_that_is_no_databricks_loses_notebooks_with_that_reason(
    exported: Exported, tmp_path: Path
) -> None:
    words = ["--experiments", "/Users/ana@example.org/notebooks", "--notebook-formats", "HTML"]
    where = ["--tracking-uri", exported.server.uri, "-o", str(tmp_path / "f.mlbundle"), "--json"]
    done = command("export-experiments", *where, *words, expect=3)
    reasons = {loss["id"]: loss["reason"] for loss in done.report["lost"]}
    made, large, bare, _ = (exported.small.runs[label] for label in IN_NOTEBOOKS)
    assert reasons.keys() == {
        f"{made}/notebooks/Train it.html",
        f"{large}/notebooks/Large.html",
        f"{bare}/notebooks/Train it.html",
    }
    assert "is no Databricks workspace" in reasons[f"{made}/notebooks/Train it.html"]


def test_notebooks_need_artifacts_to_travel(tmp_path: Path) -> None:
    refused = command(
        *("export-all", "-o", tmp_path / "f", "--tracking-uri", "http://127.0.0.1:9"),
        *("--notebook-formats", "HTML", "--artifacts", "skip"),
        expect=2,
    )
    assert "--artifacts skip leaves out" in refused.stderr


def test_an_import_into_databricks_leaves_to_it_what_only_it_sets(
    exported: Exported, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    some = ["import-experiments", exported.bundle, "--experiments", "one"]
    words = [*some, "--experiment-name-prefix", "/Users/ana/new/"]
    with workspace(server.uri) as here:
        refused = run_command(here, tmp_path, *some, expect=3)
        here.refused_tags.add("mlflow.source.name")
        done = run_command(here, tmp_path, *words)
        again = run_command(here, tmp_path, *words)
    assert refused.report["done"] == {}
    assert "--experiment-name-prefix" in refused.report["lost"][0]["reason"]
    adjusted = done.report["adjusted"]
    assert adjusted["run.user_id (Databricks sets it)"] == 4
    assert adjusted["run.tags.mlflow.user (Databricks sets it)"] == 1
    assert adjusted["run.tags.mlflow.rootRunId (Databricks sets it)"] == 1
    assert adjusted["experiment.tags.mlflow.experiment.sourceType (Databricks sets it)"] == 1
    # One that is not known to be refused is found out.
    assert adjusted["run.tags.mlflow.source.name (Databricks sets it)"] == 1
    assert done.report["done"]["artifact"] == 5
    assert again.report["done"] == {}
    assert again.report["adjusted"]["run.tags.mlflow.source.name (Databricks sets it)"] == 1
    assert here.directories == {"/", "/Users", "/Users/ana", "/Users/ana/new"}
    runs = snapshot(server.uri).data["runs"].values()
    assert {run["user_id"] for run in runs} == {USER}
    assert {run["tags"]["mlflow_bundle.source_user"] for run in runs} == {"ana"}


def test_a_wrong_token_is_told_in_one_line(exported: Exported, tmp_path: Path) -> None:
    env = exported.here.env | {"DATABRICKS_TOKEN": "wrong", "HOME": str(tmp_path)}
    done = command(
        *("export-all", "--tracking-uri", "databricks", "-o", tmp_path / "f"), expect=1, env=env
    )
    assert "403 PERMISSION_DENIED: Invalid access token" in done.stderr
