"""Importing again adds what is new, changes what was asked for, and makes nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare import Snapshot, differences, row_dump, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, import_
from tests.transfer.small import Small
from tests.world import HOUR, T0

pytestmark = [pytest.mark.server, pytest.mark.slow]

FilledSmall = Callable[[], tuple[MlflowServer, Small]]


def by_origin(server: MlflowServer) -> dict[str, dict[str, Any]]:
    runs = snapshot(server.uri, artifacts=False).data["runs"].values()
    return {run["tags"]["mlflow_bundle.origin"]: run for run in runs}


@pytest.fixture
def changed(
    small_bundle: Path, small: Small, empty_server: LendServer
) -> tuple[MlflowServer, dict[str, str]]:
    """A server that imported ``small_bundle`` and then went its own way; ids of its runs."""
    server = empty_server()
    import_(server, small_bundle)
    here = Small(server.uri)
    ids = {origin: run["run_id"] for origin, run in by_origin(server).items()}
    first = ids[small.runs["first"]]
    here.call("runs/set-tag", run_id=first, key="colour", value="blue")
    here.call("runs/set-tag", run_id=first, key="own", value="stays")
    here.call("runs/update", run_id=first, status="FAILED", run_name="renamed")
    here.put_files(here.artifact_uri(first), {"notes.txt": b"other notes"})
    (one,) = (
        row["experiment_id"]
        for row in snapshot(server.uri, artifacts=False).data["experiments"].values()
        if row["name"] == "one"
    )
    here.call("experiments/set-experiment-tag", experiment_id=one, key="team", value="z")
    for endpoint, more in (
        ("registered-models/update", {"description": "changed"}),
        ("model-versions/update", {"version": "1", "description": "changed v1"}),
    ):
        here.call(endpoint, method="PATCH", name="churn", **more)
    here.call("registered-models/set-tag", name="churn", key="team", value="z")
    here.call("model-versions/set-tag", name="churn", version="2", key="v", value="z")
    here.stage("churn", 1, "Archived")
    here.alias("churn", "champion", 3)
    return server, ids


def conflicts_of(small: Small) -> list[tuple[str, str, str]]:
    first = small.runs["first"]
    return sorted(
        [
            ("experiment", "one", "tags.team"),
            ("run", first, "tags.colour"),
            ("run", first, "tags.mlflow.runName"),
            ("run", first, "status"),
            ("run", first, "run_name"),
            ("run", first, "artifacts/notes.txt"),
            ("registered_model", "churn", "description"),
            ("registered_model", "churn", "tags.team"),
            ("registered_model", "churn", "aliases.champion"),
            ("model_version", "churn/1", "description"),
            ("model_version", "churn/1", "current_stage"),
            ("model_version", "churn/2", "tags.v"),
        ]
    )


def test_skip_keeps_the_destinations_values_and_reports_each(
    small_bundle: Path, small: Small, changed: tuple[MlflowServer, dict[str, str]]
) -> None:
    server, _ = changed
    rows = row_dump(server.database)
    done = import_(server, small_bundle)
    assert done.conflicts == conflicts_of(small)
    assert done.report["done"] == {}
    assert row_dump(server.database) == rows


def test_fail_stops_before_anything_is_written(
    small_bundle: Path, small: Small, changed: tuple[MlflowServer, dict[str, str]]
) -> None:
    server, _ = changed
    rows = row_dump(server.database)
    done = command(
        "import-all", small_bundle, "--tracking-uri", server.uri, "--on-conflict", "fail", expect=1
    )
    assert f"{len(conflicts_of(small))} conflicts, nothing was written" in done.stderr
    assert row_dump(server.database) == rows


def test_update_takes_the_bundles_values_and_lists_what_it_overwrote(
    small: Small,
    small_bundle: Path,
    small_snapshot: Snapshot,
    changed: tuple[MlflowServer, dict[str, str]],
) -> None:
    server, ids = changed
    done = import_(server, small_bundle, "--on-conflict", "update")
    assert done.conflicts == conflicts_of(small)
    assert all(c["reason"].endswith("which is taken") for c in done.report["conflicts"])
    left = differences(small_snapshot, snapshot(server.uri))
    first = next(origin for origin, id in ids.items() if f"runs[{origin}]" in " ".join(left))
    assert left == [f"runs[{first}] tags/own: (absent) != 'stays'"]
    again = import_(server, small_bundle, "--on-conflict", "update")
    assert again.report["done"] == {}
    assert again.report["conflicts"] == []


def test_a_dry_run_lists_the_same_conflicts_and_changes_nothing(
    small_bundle: Path, small: Small, changed: tuple[MlflowServer, dict[str, str]]
) -> None:
    server, _ = changed
    rows = row_dump(server.database)
    done = import_(server, small_bundle, "--dry-run")
    assert done.conflicts == conflicts_of(small)
    assert done.report["done"] == {}
    assert row_dump(server.database) == rows


def test_a_param_is_a_conflict_that_update_cannot_settle(
    small: Small, small_bundle: Path, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    import_(server, small_bundle)
    command("extract", small_bundle, "-o", tmp_path / "tree")
    run = tmp_path / "tree" / "experiments" / small.experiments["one"] / small.runs["first"]
    document = (run / "run.json").read_text()
    assert '"alpha":"0.1"' in document
    (run / "run.json").write_text(document.replace('"alpha":"0.1"', '"alpha":"0.2"'))
    done = command(
        "import-all",
        "--input-dir",
        tmp_path / "tree",
        "--tracking-uri",
        server.uri,
        "--on-conflict",
        "update",
        "--json",
        "--quiet",
        expect=None,
    )
    assert ("run", small.runs["first"], "params.alpha") in done.conflicts
    assert by_origin(server)[small.runs["first"]]["params"]["alpha"] == "0.1"


def test_additions_of_a_newer_bundle_arrive_and_nothing_is_made_twice(
    filled_small: FilledSmall, empty_server: LendServer, tmp_path: Path
) -> None:
    source, build = filled_small()
    server = empty_server()
    export(source, tmp_path / "old.mlbundle")
    import_(server, tmp_path / "old.mlbundle")
    first, large = build.runs["first"], build.runs["large"]
    build.log_metrics(first, {"loss": [(9.0, T0 + 99, 99)], "new": [(1.0, T0, 0)]})
    build.call("runs/set-tag", run_id=first, key="new", value="tag")
    build.call("runs/log-batch", run_id=first, params=[{"key": "new", "value": "param"}])
    build.put_files(build.artifact_uri(first), {"new/file.txt": b"new"})
    build.call("runs/update", run_id=large, status="FINISHED", end_time=T0 + 5 * HOUR)
    fresh = build.run("fresh", "one")
    build.experiment("new", "new one")
    build.run("in new", "new")
    number = build.version("churn", f"runs:/{fresh}/model", run_id=fresh)
    build.alias("churn", "newest", number)
    build.call("registered-models/set-tag", name="churn", key="new", value="tag")
    export(source, tmp_path / "new.mlbundle")
    done = import_(server, tmp_path / "new.mlbundle")
    assert done.report["conflicts"] == []
    counted = {k: v for k, v in done.report["done"].items() if k != "metric_point"}
    assert counted == {
        "artifact": 1,
        "experiment": 1,
        "model_version": 1,
        "registered_model": 1,
        "run": 4,
    }
    assert done.report["done"]["metric_point"] == 2
    assert differences(snapshot(source.uri), snapshot(server.uri)) == []
    # The older bundle has nothing to say any more.
    rows = row_dump(server.database)
    import_(server, tmp_path / "old.mlbundle")
    assert row_dump(server.database) == rows


def test_a_bundle_finds_its_own_objects_at_home_after_a_round_trip(
    filled_small: FilledSmall, empty_server: LendServer, tmp_path: Path
) -> None:
    home, _ = filled_small()
    away = empty_server()
    export(home, tmp_path / "out.mlbundle")
    import_(away, tmp_path / "out.mlbundle")
    rows = row_dump(home.database)
    same = import_(home, tmp_path / "out.mlbundle")
    assert same.report["done"] == {}
    assert row_dump(home.database) == rows
    other = Small(away.uri)
    (one,) = (
        row["experiment_id"]
        for row in snapshot(away.uri, artifacts=False).data["experiments"].values()
        if row["name"] == "one"
    )
    other.experiments["one"] = one
    made = other.run("made away", "one")
    export(away, tmp_path / "back.mlbundle")
    done = import_(home, tmp_path / "back.mlbundle")
    assert done.report["conflicts"] == []
    assert done.report["done"] == {"run": 1}
    assert by_id(home)[made]["run_name"] == "made away"
    assert len(by_id(home)) == 6


def by_id(server: MlflowServer) -> dict[str, dict[str, Any]]:
    runs = snapshot(server.uri, artifacts=False).data["runs"].values()
    return {run["tags"].get("mlflow_bundle.origin", run["run_id"]): run for run in runs}


def test_two_servers_go_into_one(
    small_bundle: Path, filled_small: FilledSmall, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    second, _ = filled_small()
    export(second, tmp_path / "second.mlbundle")
    import_(server, small_bundle)
    # Experiments of one name are one; models' numbers are taken.
    done = import_(server, tmp_path / "second.mlbundle", expect=3)
    assert done.report["done"]["run"] == 5
    assert {kind for kind, _, _ in done.losses} == {"model_version"}
    assert len(done.losses) == 6
    found = snapshot(server.uri, artifacts=False)
    assert len(found.data["experiments"]) == 4
    assert len(found.data["runs"]) == 10
    rows = row_dump(server.database)
    import_(server, small_bundle)
    import_(server, tmp_path / "second.mlbundle", expect=3)
    assert row_dump(server.database) == rows


def test_a_run_deleted_at_the_destination_stays_deleted_and_is_reported(
    small_bundle: Path, small: Small, empty_server: LendServer
) -> None:
    server = empty_server()
    import_(server, small_bundle)
    second = small.runs["second"]
    Small(server.uri).call("runs/delete", run_id=by_origin(server)[second]["run_id"])
    rows = row_dump(server.database)
    done = import_(server, small_bundle)
    assert done.conflicts == [("run", second, "lifecycle_stage")]
    assert row_dump(server.database) == rows


def test_an_experiment_deleted_at_the_destination_is_a_conflict_with_a_way_out(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer
) -> None:
    server = empty_server()
    import_(server, small_bundle, name="import-experiments")
    (one,) = (
        row["experiment_id"]
        for row in snapshot(server.uri, artifacts=False).data["experiments"].values()
        if row["name"] == "one"
    )
    Small(server.uri).call("experiments/delete", experiment_id=one)
    rows = row_dump(server.database)
    done = command("import-all", small_bundle, "--tracking-uri", server.uri, expect=1)
    assert "experiment 'one' is deleted at the destination" in done.stderr
    assert "--rename-experiment" in done.stderr
    assert row_dump(server.database) == rows
    import_(server, small_bundle, "--rename-experiment", "one=another one")
    names = {row["name"] for row in snapshot(server.uri).data["experiments"].values()}
    assert "another one" in names


def test_what_a_part_left_out_of_a_deleted_experiment_comes_when_that_is_restored(
    filled_small: FilledSmall, empty_server: LendServer, tmp_path: Path
) -> None:
    source, small = filled_small()
    one = small.experiments["one"]
    small.call("experiments/delete", experiment_id=one)
    export(source, tmp_path / "f.mlbundle")
    server = empty_server()
    import_(server, tmp_path / "f.mlbundle", "--run-ids", small.runs["second"], name="import")
    done = import_(server, tmp_path / "f.mlbundle", expect=3)
    reasons = {loss["id"]: loss["reason"] for loss in done.report["lost"]}
    assert small.runs["large"] in reasons
    assert "restore it there and import again" in reasons[small.runs["large"]]
    (here,) = (
        row["experiment_id"]
        for row in snapshot(server.uri, artifacts=False).data["experiments"].values()
        if row["name"] == "one"
    )
    Small(server.uri).call("experiments/restore", experiment_id=here)
    import_(server, tmp_path / "f.mlbundle")
    assert differences(snapshot(source.uri), snapshot(server.uri)) == []


def test_a_second_import_at_once_is_refused_unless_it_steals(
    small_bundle: Path, empty_server: LendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow_bundle.rest.sink import RestSink

    server = empty_server()
    import_(server, small_bundle, "--experiments", "one", name="import-experiments")
    seen: list[Any] = []
    original = RestSink.finish

    def meanwhile(self: RestSink) -> None:
        if not seen:
            seen.append(None)
            words = ["import-all", small_bundle, "--tracking-uri", server.uri]
            seen.append(command(*words, expect=1))
            seen.append(command(*words, "--steal"))
        original(self)

    monkeypatch.setattr(RestSink, "finish", meanwhile)
    import_(server, small_bundle)
    assert "another import is writing to experiment" in seen[1].stderr
    assert "--steal" in seen[1].stderr
    found = snapshot(server.uri)
    assert len(found.data["runs"]) == 5
    for row in found.data["experiments"].values():
        assert "mlflow_bundle.importer" not in row["tags"]
