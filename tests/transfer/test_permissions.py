"""What an account may not read or write is lost with its reason, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.compare import snapshot
from tests.conftest import LendServer
from tests.servers import ADMIN, MlflowServer, basic_auth, launch_server
from tests.transfer.commands import Done, command, export, import_
from tests.transfer.small import Small
from tests.world import T0

pytestmark = pytest.mark.server

ANA = ("ana", "a-password-of-hers")


@dataclass
class Guarded:
    """A server with basic authentication and an account, ana, that may not do everything."""

    server: MlflowServer
    build: Small
    """Makes things as the administrator."""
    tree: str = ""
    """A logged model that ana may not read, but that a run names which she may."""
    versions: Mapping[str, int] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.server.uri

    def grant(self, resource_type: str, id: str, permission: str) -> None:
        self.build.call(
            "users/permissions/grant",
            api="3.0",
            username=ANA[0],
            resource_type=resource_type,
            resource_id=id,
            permission=permission,
        )

    def as_ana(self, name: str, *words: str | Path, expect: int = 3) -> Done:
        """Run a command with ana's credentials."""
        env = {"MLFLOW_TRACKING_USERNAME": ANA[0], "MLFLOW_TRACKING_PASSWORD": ANA[1]}
        where = ("--tracking-uri", self.uri, "--json", "--quiet")
        return command(name, *words, *where, expect=expect, env=env)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    server = launch_server(directory / "server", workers=1, **basic_auth(directory))  # type: ignore[arg-type]
    try:
        yield _guarded(server)
    finally:
        server.stop()


def _guarded(server: MlflowServer) -> Guarded:
    build = Small(server.uri)
    build._session.auth = ADMIN
    guarded = Guarded(server, build)
    build.call("users/create", username=ANA[0], password=ANA[1])
    for name in ("open", "secret"):
        build.experiment(name, name)
        run = build.run(name, name, metrics={"m": [(1.0, T0, 0)]})
        build.put_files(build.artifact_uri(run), {"model/f.txt": name.encode()})
    guarded.tree = build.logged_model("tree", "secret", name="tree", files={"m": b"x"})
    reads = [{"model_id": guarded.tree}]
    build.call("runs/log-inputs", run_id=build.runs["open"], datasets=[], models=reads)
    for name in ("open", "hidden"):
        build.model(name)
        for run in ("open", "secret"):
            build.version(name, f"runs:/{build.runs[run]}/model", run_id=build.runs[run])
    guarded.grant("experiment", build.experiments["secret"], "DENY")
    guarded.grant("registered_model", "hidden", "DENY")
    return guarded


def of_core_kinds(done: Done) -> list[tuple[str, str, str]]:
    """Losses without those of kinds that only administrators may list."""
    core = {"experiment", "run", "logged_model", "registered_model", "model_version"}
    return [loss for loss in done.losses if loss[0] in core]


def test_an_export_loses_what_is_denied_and_brings_the_rest(
    guarded: Guarded, empty_server: LendServer, tmp_path: Path
) -> None:
    done = guarded.as_ana("export-all", "-o", tmp_path / "f.mlbundle")
    experiments, runs = guarded.build.experiments, guarded.build.runs
    assert of_core_kinds(done) == sorted(
        [
            ("experiment", experiments["secret"], ""),
            ("registered_model", "hidden", ""),
            ("run", runs["secret"], ""),
            ("logged_model", guarded.tree, ""),
            ("model_version", "open/2", "artifacts"),
        ]
    )
    reasons = {loss["kind"]: loss["reason"] for loss in done.report["lost"]}
    assert "403" in reasons["run"]
    assert "403" in reasons["logged_model"]
    assert reasons["experiment"] == "it is denied to this account"
    assert "may not be read" in reasons["model_version"]
    assert any("no administrator" in note for note in done.report["notes"])
    server = empty_server()
    import_(server, tmp_path / "f.mlbundle")
    found = snapshot(server.uri).data
    assert sorted(e["name"] for e in found["experiments"].values()) == ["Default", "open"]
    (run,) = found["runs"].values()
    assert run["artifacts"].keys() == {"model/f.txt"}
    assert run["histories"]["m"] == [[T0, 0, "1.0"]]
    assert found["registered_models"].keys() == {"open"}
    assert found["registered_models"]["open"]["versions"].keys() == {"1", "2"}


@pytest.mark.parametrize(
    ("name", "option", "label", "kind"),
    [
        ("export-models", "--models", "hidden", "registered_model"),
        ("export-experiments", "--experiments", "secret", "experiment"),
        ("export", "--run-ids", "secret", "run"),
    ],
)
def test_what_is_named_and_denied_is_a_loss_and_not_missing(
    guarded: Guarded, tmp_path: Path, name: str, option: str, label: str, kind: str
) -> None:
    runs = guarded.build.runs
    denied, readable = (label, "open") if kind != "run" else (runs["secret"], runs["open"])
    done = guarded.as_ana(name, "-o", tmp_path / "f", option, f"{denied},{readable}")
    assert (kind, denied, "") in done.losses
    assert done.report["done"]["run"] == 1
    (reason,) = [loss["reason"] for loss in done.report["lost"] if loss["id"] == denied]
    assert "403" in reason


def test_an_export_of_nothing_but_what_is_denied_fails(guarded: Guarded, tmp_path: Path) -> None:
    done = guarded.as_ana("export-models", "-o", tmp_path / "f", "--models", "hidden", expect=1)
    assert "403" in done.stderr
    assert "ask for the permission" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_import_loses_what_may_not_be_written_and_brings_the_rest(
    guarded: Guarded, empty_server: LendServer, tmp_path: Path
) -> None:
    source = Small(empty_server().uri)
    for name in ("locked", "editable", "new"):
        source.experiment(name, name, {"tag": "new"})
        source.run(name, name, params={"p": name}, metrics={"m": [(1.0, T0, 0)]})
        source.put_files(source.artifact_uri(source.runs[name]), {"f.txt": b"f"})
    source.run("deleted", "editable")
    source.call("runs/delete", run_id=source.runs["deleted"])
    source.experiment("gone", "gone")
    source.call("experiments/delete", experiment_id=source.experiments["gone"])
    for name in ("locked-model", "new-model"):
        source.model(name, "described", tag="new")
        source.version(name, f"runs:/{source.runs['new']}/f.txt", run_id=source.runs["new"])
    export(source, tmp_path / "f.mlbundle")

    for name in ("locked", "editable", "gone"):
        guarded.build.experiment(name, name)
    guarded.build.model("locked-model")
    for name in ("editable", "gone"):
        guarded.grant("experiment", guarded.build.experiments[name], "EDIT")
    done = guarded.as_ana("import-all", tmp_path / "f.mlbundle")
    experiments, runs = source.experiments, source.runs
    assert done.losses == sorted(
        [
            ("experiment", experiments["locked"], ""),
            ("run", runs["locked"], ""),
            ("run", runs["deleted"], "lifecycle_stage"),
            ("registered_model", "locked-model", ""),
        ]
    )
    assert all("403" in loss["reason"] for loss in done.report["lost"])
    # It is another one of that name, which nobody asked to delete.
    conflicts = {(each["id"], each["field"]) for each in done.report["conflicts"]}
    assert (experiments["gone"], "lifecycle_stage") in conflicts
    found = guarded_contents(guarded)
    assert found["editable"] == {"editable": "f.txt", "deleted": ""}
    assert found["new"] == {"new": "f.txt"}
    assert found["locked"] == {}
    versions = guarded.build.get("registered-models/get", name="new-model")
    assert len(versions["registered_model"]["latest_versions"]) == 1
    again = guarded.as_ana("import-all", tmp_path / "f.mlbundle")
    assert (again.report["done"], again.losses) == ({}, done.losses)


def guarded_contents(guarded: Guarded) -> dict[str, dict[str, Any]]:
    """Experiment to run to its files, of what the administrator sees."""
    build = guarded.build
    found: dict[str, dict[str, Any]] = {}
    for experiment in build.call("experiments/search", max_results=100)["experiments"]:
        runs = build.call("runs/search", experiment_ids=[experiment["experiment_id"]])
        found[experiment["name"]] = {
            run["info"]["run_name"]: ",".join(
                file["path"]
                for file in build.get("artifacts/list", run_id=run["info"]["run_id"]).get(
                    "files", []
                )
            )
            for run in runs.get("runs", [])
        }
    return found
