"""Workspaces: each travels apart, into the one of its name, or into the one that the user says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_bundle.archive import scan_groups
from mlflow_bundle.bundles.recovering import MendedTree
from mlflow_bundle.bundles.tree import DirectoryReader
from mlflow_bundle.report import Report
from tests.compare import row_dump
from tests.servers import MlflowServer, launch_server
from tests.tables import compare_databases
from tests.transfer.commands import Json, command, export, import_
from tests.transfer.small import Small
from tests.world_traces import start_trace

pytestmark = pytest.mark.server

DESCRIPTIONS = {"red": "Rot ünï", "empty": "nothing in it"}


def fill(uri: str) -> dict[str, Small]:
    """The same names in ``default`` and ``red``, a third workspace without contents."""
    whole = Small(uri)
    for name, description in DESCRIPTIONS.items():
        whole.call("workspaces", api="3.0", name=name, description=description)
    update = {"trace_archival_config": {"retention": "30d"}}
    whole.call("workspaces/red", method="PATCH", api="3.0", **update)
    return {name: fill_workspace(Small(uri, name), name) for name in ("default", "red")}


def fill_workspace(build: Small, workspace: str) -> Small:
    build.experiment("one", "one", {"where": workspace})
    run = build.run("first", "one", params={"where": workspace}, metrics={"m": [(1.0, 0, 0)]})
    files = {"where.txt": workspace.encode(), "model/x": b"x"}
    build.put_files(build.artifact_uri(run), files)
    tree = build.logged_model("tree", "one", name="tree", source_run_id=run, files={"t": b"tree"})
    build.model("churn", workspace)
    build.version("churn", f"runs:/{run}/model", run_id=run, tags={"where": workspace})
    build.version("churn", f"models:/{tree}", run_id=run, model_id=tree)
    build.version("churn", f"{build.artifact_uri(run)}/model", run_id=run)
    build.alias("churn", "champion", 2)
    build.call(
        "webhooks",
        name="told",
        url="https://127.0.0.1:9/told",
        events=[{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
        status="DISABLED",
    )
    if workspace == "red":
        build.model("only red")
    return build


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server with workspaces that holds `fill`; for reading only."""
    server = launch_server(tmp_path_factory.mktemp("workspaces"), workspaces=True, workers=1)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def contents(source: MlflowServer) -> dict[str, Small]:
    """Ids of what ``source`` holds, by workspace."""
    return fill(source.uri)


@pytest.fixture(scope="module")
def bundle(
    source: MlflowServer, contents: dict[str, Small], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``export-all`` of ``source``."""
    path = tmp_path_factory.mktemp("workspaces_bundle") / "all.mlbundle"
    rows = row_dump(source.database)
    done = export(source, path)
    assert done.report["done"]["workspace"] == 2
    assert row_dump(source.database) == rows
    return path


@pytest.fixture(scope="module")
def _destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = launch_server(tmp_path_factory.mktemp("destination"), workspaces=True, workers=1)
    yield server
    server.stop()


@pytest.fixture
def destination(_destination: MlflowServer) -> MlflowServer:
    """An empty server with workspaces."""
    _destination.reset()
    return _destination


def names_in(server: MlflowServer, workspace: str | None) -> set[str]:
    """Experiments of a workspace."""
    found = Small(server.uri, workspace).call("experiments/search", max_results=100)
    return {row["name"] for row in found.get("experiments", ())} - {"Default"}


def workspaces_of(server: MlflowServer) -> dict[str, Json]:
    answer = Small(server.uri).send("GET", "api/3.0/mlflow/workspaces")
    return {row["name"]: row for row in answer["workspaces"]}


def files_of(server: MlflowServer, workspace: str | None) -> set[bytes]:
    """Contents of the runs' artifacts named where.txt, read through the workspace."""
    build = Small(server.uri, workspace)
    experiments = build.call("experiments/search", max_results=100)["experiments"]
    ids = [row["experiment_id"] for row in experiments]
    runs = build.call("runs/search", experiment_ids=ids, max_results=100).get("runs", [])
    found = set()
    for run in runs:
        root = run["info"]["artifact_uri"].partition(":")[2].strip("/")
        url = f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{root}/where.txt"
        reply = build._session.get(url)
        assert reply.status_code == 200, reply.text
        found.add(reply.content)
    return found


def test_every_workspace_arrives_in_the_one_of_its_name_and_a_second_import_changes_nothing(
    source: MlflowServer, bundle: Path, destination: MlflowServer
) -> None:
    planned = command(
        "import-all", bundle, "--tracking-uri", destination.uri, "--dry-run", "--json"
    ).report
    assert planned["planned"]["run"] == 2
    assert planned["present"] == {"experiment": 1}  # Default
    assert workspaces_of(destination).keys() == {"default"}
    first = import_(destination, bundle).report
    assert (first["lost"], first["conflicts"]) == ([], [])
    asked = "webhook 'told' (https://127.0.0.1:9/told): set its secret again, if it had one"
    assert sorted(first["notes"]) == [f"in workspace red: {asked}", asked]
    compared = compare_databases(source.database, destination.database)
    print(compared)
    assert compared.differences == []
    assert {"workspaces", "experiments", "runs", "model_versions"} <= compared.rows.keys()
    for workspace in ("default", "red"):
        assert files_of(destination, workspace) == {workspace.encode()}
    rows = row_dump(destination.database)
    second = import_(destination, bundle).report
    assert row_dump(destination.database) == rows
    assert second["done"] == {}
    assert second["present"]["workspace"] == 2
    # And again from there: nothing is lost on the way.
    assert export(destination, bundle.with_name("again.mlbundle")).report["lost"] == []


def test_a_workspace_that_is_there_keeps_its_settings_unless_told_otherwise(
    bundle: Path, destination: MlflowServer
) -> None:
    Small(destination.uri).call("workspaces", api="3.0", name="red", description="mine")
    refused = import_(destination, bundle, "--on-conflict", "fail", expect=1)
    assert "workspace red" in refused.stderr
    assert workspaces_of(destination).keys() == {"default", "red"}
    assert names_in(destination, "default") == set()
    done = import_(destination, bundle)
    assert ("workspace", "red", "description") in done.conflicts
    here = workspaces_of(destination)["red"]
    assert here["description"] == "mine"
    assert here["trace_archival_config"] == {"retention": "30d"}  # was not set: an addition
    result = command("diff", bundle, destination.uri, "--json", expect=3).report
    (told,) = (d for d in result["differences"] if d["kind"] == "workspace")
    assert (told["id"], told["field"], told["change"]) == ("red", "description", "different")
    assert (told["a"], told["b"]) == (f'"{DESCRIPTIONS["red"]}"', '"mine"')
    assert result["kinds"]["workspace"] == {
        "equal": 1, "different": 1, "only_in_a": 0, "only_in_b": 0,
    }  # fmt: skip
    import_(destination, bundle, "--on-conflict", "update", "--verify")
    assert workspaces_of(destination)["red"]["description"] == DESCRIPTIONS["red"]


def test_a_server_without_workspaces_takes_only_the_default_one_and_lists_the_others(
    bundle: Path, empty_server: Callable[[], MlflowServer]
) -> None:
    plain = empty_server()
    done = import_(plain, bundle, expect=3)
    assert done.losses == [("workspace", "empty", ""), ("workspace", "red", "")]
    reasons = {loss["id"]: loss["reason"] for loss in done.report["lost"]}
    assert "1 run" in reasons["red"]
    assert "2 registered models" in reasons["red"]
    assert "--workspace-map red=default" in reasons["red"]
    assert files_of(plain, None) == {b"default"}
    rows = row_dump(plain.database)
    refused = import_(plain, bundle, "--workspace-map", "red=default", expect=2)
    assert "--workspace-map default=default --workspace-map red=default" in refused.stderr
    assert row_dump(plain.database) == rows
    done = import_(plain, bundle, "--workspace-map", "red=other", expect=3)
    assert ("workspace", "red", "") in done.losses


def test_a_map_brings_a_workspace_into_another_one(
    source: MlflowServer,
    bundle: Path,
    destination: MlflowServer,
    empty_server: Callable[[], MlflowServer],
) -> None:
    mapped = {"red": "blue", "default": "red"}
    options = [word for old, new in mapped.items() for word in ("--workspace-map", f"{old}={new}")]
    import_(destination, bundle, *options)
    for name, where in mapped.items():
        assert files_of(destination, where) == {name.encode()}
    assert names_in(destination, "default") == set()
    assert workspaces_of(destination)["blue"]["description"] == DESCRIPTIONS["red"]
    command("verify", bundle, "--against", destination.uri, *options)
    command("verify", bundle, "--against", destination.uri, expect=3)
    plain = empty_server()
    options = ["--workspace", "red", "--workspace-map", "red=default"]
    import_(plain, bundle, *options)
    assert files_of(plain, None) == {b"red"}
    result = command("diff", bundle, plain.uri, "--json", *options, expect=3).report
    told = [(d["kind"], d["id"], d["workspace"], d["change"]) for d in result["differences"]]
    assert told == [("experiment", "0", "red", "only_in_b")]
    command("verify", bundle, "--against", plain.uri, *options)
    result = command("diff", bundle, plain.uri, "--json", *options[:2], expect=3).report
    told = [(d["kind"], d["id"], d["change"]) for d in result["differences"]]
    assert told == [("workspace", "red", "only_in_a")]
    refused = command("diff", bundle, plain.uri, "--workspace", "rde", expect=2)
    assert 'no such workspace "rde"' in refused.stderr
    refused = command("verify", bundle, "--workspace", "red", expect=2)
    assert "of use with --against only" in refused.stderr


def test_a_trace_that_is_in_another_workspace_is_a_loss_and_stays_there(
    destination: MlflowServer, tmp_path: Path
) -> None:
    build = Small(destination.uri, "default")
    build.experiment("one", "one")
    trace = start_trace(build, "trace", "one")
    path = tmp_path / "b.mlbundle"
    export(destination, path)
    done = import_(destination, path, "--workspace-map", "default=blue", expect=3)
    (loss,) = done.report["lost"]
    assert (loss["kind"], loss["id"]) == ("trace", trace)
    assert "has it in another workspace" in loss["reason"]
    command("verify", path, "--against", destination.uri)


def test_two_workspaces_come_together_only_when_both_are_named(
    bundle: Path, destination: MlflowServer
) -> None:
    refused = import_(destination, bundle, "--workspace-map", "empty=red", expect=2)
    assert "workspaces empty and red would be imported into one, red" in refused.stderr
    in_red = {"MLFLOW_WORKSPACE": "red"}
    words = ("import-all", bundle, "--tracking-uri", destination.uri)
    refused = command(*words, env=in_red, expect=2)
    assert "workspaces default and red would be imported into one, red" in refused.stderr
    assert workspaces_of(destination).keys() == {"default"}
    both = ("--workspace-map", "default=red", "--workspace-map", "red=red")
    import_(destination, bundle, "--experiment-name-prefix", "x/", *both, expect=None)
    assert names_in(destination, "red") == {"x/one", "x/Default"}


def test_a_part_goes_where_it_belongs_and_makes_no_other_workspace(
    bundle: Path, destination: MlflowServer
) -> None:
    import_(destination, bundle, "--models", "only red", name="import")
    assert workspaces_of(destination).keys() == {"default", "red"}
    import_(destination, bundle, "--models", "churn/1", "--workspace", "red", name="import")
    assert files_of(destination, "red") == {b"red"}
    assert names_in(destination, "default") == set()
    refused = import_(destination, bundle, "--models", "nosuch", name="import", expect=2)
    assert 'no such model "nosuch"' in refused.stderr
    words = ("--models", "only red", "--workspace", "default")
    refused = import_(destination, bundle, *words, name="import", expect=2)
    assert 'no such model "only red"' in refused.stderr
    refused = import_(destination, bundle, "--workspace", "rod", expect=2)
    assert 'no such workspace "rod"; nearest: red' in refused.stderr
    refused = import_(destination, bundle, "--rename-model", "onlyred=x", expect=2)
    assert 'no such model "onlyred"; nearest: only red' in refused.stderr


def test_conflicts_in_any_workspace_are_found_before_one_is_written(
    bundle: Path, destination: MlflowServer
) -> None:
    import_(destination, bundle, "--workspace", "red")
    build = Small(destination.uri, "red")
    found = build.call("experiments/search", max_results=10)["experiments"]
    build.call(
        "experiments/set-experiment-tag",
        experiment_id=found[0]["experiment_id"],
        key="where",
        value="elsewhere",
    )
    rows = row_dump(destination.database)
    refused = import_(destination, bundle, "--on-conflict", "fail", expect=1)
    assert "experiment one in workspace red, tags.where" in refused.stderr
    assert row_dump(destination.database) == rows
    conflicts = import_(destination, bundle).report["conflicts"]
    assert [(c["workspace"], c["kind"], c["field"]) for c in conflicts] == [
        ("red", "experiment", "tags.where")
    ]


def test_an_export_takes_the_workspaces_that_are_asked_for(
    source: MlflowServer, contents: dict[str, Small], tmp_path: Path
) -> None:
    def tree(name: str) -> set[str]:
        listed = command("list", tmp_path / name, "", "--json").report["members"]
        return {member["path"] for member in listed}

    done = export(source, tmp_path / "red.mlbundle", "--workspace", "red")
    assert done.report["done"]["run"] == 1
    run_id = contents["red"].runs["first"]
    assert any(
        path.startswith("workspaces/red/") and run_id in path for path in tree("red.mlbundle")
    )
    assert "experiments/0/manifest.json" not in tree("red.mlbundle")
    words = ("export-models", "--tracking-uri", source.uri, "-o")
    command(*words, tmp_path / "models.mlbundle", env={"MLFLOW_WORKSPACE": "red"})
    assert "workspaces/red/models/only%20red/model.json" not in tree("models.mlbundle")
    assert "workspaces/red/models/only red/model.json" in tree("models.mlbundle")
    command(*words, tmp_path / "default.mlbundle")
    assert not any("workspaces" in path for path in tree("default.mlbundle"))
    refused = command(*words, tmp_path / "x", "--workspace", "red,default", expect=2)
    assert "exports from one workspace" in refused.stderr
    refused = export(source, tmp_path / "x", "--workspace", "nosuch", expect=2)
    assert 'no such workspace "nosuch"' in refused.stderr
    planned = command(
        "export-all", "--tracking-uri", source.uri, "-o", tmp_path / "x", "--dry-run", "--json"
    ).report
    assert planned["planned"]["run"] == 2
    assert planned["planned"]["workspace"] == 2


def test_a_server_without_workspaces_refuses_to_be_asked_for_one(
    small_server: MlflowServer, bundle: Path, tmp_path: Path
) -> None:
    words = ("export-all", "--tracking-uri", small_server.uri, "-o", tmp_path / "x")
    for options, env in ((("--workspace", "red"), {}), ((), {"MLFLOW_WORKSPACE": "red"})):
        refused = command(*words, *options, env=env, expect=2)
        assert "has no workspaces" in refused.stderr
    rows = row_dump(small_server.database)
    words = ("import-all", bundle, "--tracking-uri", small_server.uri)
    refused = command(*words, env={"MLFLOW_WORKSPACE": "red"}, expect=2)
    assert "has no workspaces" in refused.stderr
    assert row_dump(small_server.database) == rows


def test_a_bundle_with_workspaces_is_verified_listed_extracted_and_packed(
    bundle: Path, contents: dict[str, Small], tmp_path: Path
) -> None:
    verified = command("verify", bundle, "--json").report
    assert (verified["ok"], verified["documents"]["workspace"]) == (True, 2)
    listed = command("list", bundle, "--json").report
    assert [entry["name"] for entry in listed["workspaces"]] == ["empty", "red"]
    red = listed["workspaces"][1]
    assert [model["name"] for model in red["models"]] == ["churn", "only red"]
    assert red["experiments"][0]["runs"] == 1
    assert (listed["totals"]["run"], listed["totals"]["workspace"]) == (2, 2)
    text = command("list", bundle, "--workspace", "red", "--models", "only*").stdout
    assert "workspace red (Rot ünï):" in text
    assert "churn" not in text
    tar = subprocess.run(
        ["tar", "--zstd", "-xf", str(bundle), "-C", str(tmp_path)], check=True, capture_output=True
    )
    assert tar.stderr == b""
    command("extract", bundle, "-o", tmp_path / "tree")
    for path in (tmp_path / "workspaces").rglob("*"):
        if path.is_file():
            twin = tmp_path / "tree" / path.relative_to(tmp_path)
            assert twin.read_bytes() == path.read_bytes()
    command("pack", tmp_path / "tree", "-o", tmp_path / "packed.mlbundle")
    command("verify", tmp_path / "packed.mlbundle")
    shown = command("show", tmp_path / "packed.mlbundle", "workspaces/red/workspace.json").stdout
    assert json.loads(shown)["entity"]["trace_archival_retention"] == "30d"


def test_a_comparison_goes_through_every_workspace(
    bundle: Path, destination: MlflowServer, tmp_path: Path
) -> None:
    verified = import_(destination, bundle, "--verify").report["verification"]
    assert (verified["equal"], verified["kinds"]["run"]["equal"]) == (True, 2)
    words = ("verify", bundle, "--against", destination.uri, "--json")
    against = command(*words).report["against"]
    assert (against["equal"], against["kinds"]["run"]["equal"]) == (True, 2)
    command("extract", bundle, "-o", tmp_path / "tree")
    assert command("diff", bundle, tmp_path / "tree", "--json").report["kinds"]["run"]["equal"] == 2
    shutil.rmtree(tmp_path / "tree/workspaces/empty")
    [run] = (tmp_path / "tree/workspaces/red").rglob("run.json")
    document = json.loads(run.read_bytes())
    document["params"]["p"] = "changed"
    run.write_text(json.dumps(document))
    result = command("diff", bundle, tmp_path / "tree", "--json", expect=3).report
    told = {(d["kind"], d["workspace"], d["field"], d["change"]) for d in result["differences"]}
    assert ("workspace", "", "", "only_in_a") in told
    assert {(kind, where) for kind, where, *_ in told} == {("workspace", ""), ("run", "red")}


def test_what_is_recovered_of_a_workspace_says_in_which_one_it_lost_something(
    bundle: Path, contents: dict[str, Small], destination: MlflowServer, tmp_path: Path
) -> None:
    red = contents["red"]
    run, experiment = red.runs["first"], red.experiments["one"]
    document = f"workspaces/red/experiments/{experiment}/{run}/run.json"
    data = bytearray(bundle.read_bytes())
    with bundle.open("rb") as stream:
        for group, _ in scan_groups(stream).iter_groups():
            if document in group.paths:
                frame = group.frames[group.paths.index(document)]
                offset = group.preamble.offset + group.preamble.length
                data[offset + sum(group.lengths[:frame]) + 20] ^= 1
    damaged, saved = tmp_path / "damaged.mlbundle", tmp_path / "saved.mlbundle"
    damaged.write_bytes(data)
    done = command("recover", damaged, "-o", saved, "--json", "--quiet", expect=3)
    where = {loss["id"]: loss["workspace"] for loss in done.report["lost"]}
    assert where[document] == "red"
    for id, workspace in where.items():
        top, *below = id.split("/")
        inside = top == "workspaces" and below[1:] != ["workspace.json"]
        assert workspace == (below[0] if inside else "")
    command("verify", saved)
    shown = json.loads(command("show", saved, "manifest.json").stdout)
    assert {loss["id"]: loss.get("workspace", "") for loss in shown["losses"]} == where
    import_(destination, saved, expect=None)
    command("verify", saved, "--against", destination.uri, expect=None)


def test_what_is_missing_below_a_workspace_is_lost_there_beside_what_the_export_lost(
    bundle: Path, contents: dict[str, Small], tmp_path: Path
) -> None:
    tree, red = tmp_path / "tree", contents["red"]
    command("extract", bundle, "-o", tree)
    run, model, experiment = red.runs["first"], red.logged_models["tree"], red.experiments["one"]
    below = tree / "workspaces/red/experiments" / experiment
    (below / run / "run.json").unlink()
    (below / "logged_models" / model / "logged_model.json").unlink()
    (tree / "workspaces/red/models/only red/model.json").unlink()
    (tree / "workspaces/empty/workspace.json").unlink()
    manifest = json.loads((tree / "manifest.json").read_text())
    before = {"kind": "run", "id": "f" * 32, "workspace": "red", "reason": "before"}
    manifest["losses"] = [before]
    (tree / "manifest.json").write_text(json.dumps(manifest))
    report = Report()
    mended = MendedTree(DirectoryReader(tree), report)
    mended.examine()
    told = {(loss.kind, loss.id, loss.workspace) for loss in report.losses}
    assert {
        ("run", run, "red"),
        ("logged_model", model, "red"),
        ("registered_model", "only red", "red"),
    } <= told
    assert {where for kind, _, where in told if kind != "workspace"} == {"red"}
    losses = json.loads(mended.read("manifest.json"))["losses"]
    assert [losses[0][name] for name in before] == list(before.values())
    assert len(losses) == 1 + len(report.losses)


def test_a_part_of_a_bundle_with_workspaces_is_extracted_whole(
    bundle: Path, contents: dict[str, Small], tmp_path: Path
) -> None:
    command("extract", bundle, "-o", tmp_path / "red", "--workspace", "red")
    command("verify", tmp_path / "red")
    assert not (tmp_path / "red/experiments/0").exists()
    assert not (tmp_path / "red/workspaces/empty").exists()
    command("extract", bundle, "-o", tmp_path / "churn", "--models", "churn/1")
    command("verify", tmp_path / "churn")
    for prefix, workspace in (("", "default"), ("workspaces/red/", "red")):
        build = contents[workspace]
        experiment = tmp_path / f"churn/{prefix}experiments/{build.experiments['one']}"
        assert (experiment / build.runs["first"] / "run.json").is_file()
    assert not (tmp_path / "churn/workspaces/red/models/only red").exists()


def test_an_edited_tree_with_workspaces_gets_manifests_of_what_is_there(
    bundle: Path, contents: dict[str, Small], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    command("extract", bundle, "-o", tree)
    experiment = f"workspaces/red/experiments/{contents['red'].experiments['one']}"
    run = tree / experiment / contents["red"].runs["first"]
    (run / "run.json").rename(tree / "run.json")
    problems = command("verify", tree, expect=4).stdout
    assert f"{experiment}/manifest.json: export_info.ok_runs: names {experiment}/" in problems
    (tree / "run.json").rename(run / "run.json")
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.rmdir()
    command("pack", tree, "-o", tmp_path / "packed.mlbundle")
    listed = command("list", tmp_path / "packed.mlbundle", "--json").report
    assert listed["totals"]["run"] == 1
    assert listed["workspaces"][1]["experiments"][0]["runs"] == 0
    (tree / "workspaces/red/workspace.json").unlink()
    refused = command("pack", tree, "-o", tmp_path / "x.mlbundle", expect=4)
    assert "workspaces/red/workspace.json: missing" in refused.stderr
    twin = '{"kind":"workspace","entity":{"name":"x"}}'
    (tree / "workspaces/red/workspace.json").write_text(twin)
    refused = command("verify", tree, expect=4)
    assert "workspaces/red/workspace.json: entity: belongs to workspaces/x/" in refused.stdout
