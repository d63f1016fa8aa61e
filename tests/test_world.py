"""The world holds what it promises, and the comparison is able to fail."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.compare import EXEMPT, KINDS, ORIGIN, Snapshot, differences, row_dump, snapshot
from tests.servers import MlflowServer
from tests.world import ARTIFACT_NAMES, LONG_HISTORY_POINTS, MANY_RUNS, T0, World

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_world_holds_the_odd_values(world: World, source_snapshot: Snapshot) -> None:
    data = source_snapshot.data
    runs, classic = data["runs"], data["runs"][world.runs["many_params"]]
    assert {run["status"] for run in runs.values()} == {
        "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED",
    }  # fmt: skip
    assert (len(classic["params"]), len(classic["tags"])) == (150, 151)  # and mlflow.runName
    assert runs[world.runs["bare"]]["start_time"] == 0
    odd = runs[world.runs["histories"]]["histories"]["odd"]
    assert len(odd) == 3000
    assert {"nan", "1.7976931348623157e+308", "-1.7976931348623157e+308"} <= {p[2] for p in odd}
    assert any(step < 0 for _, step, _ in odd)
    long = runs[world.runs["long_history"]]["histories"]["long"]
    assert len(long) == LONG_HISTORY_POINTS > 25_000
    assert sum("shared" in run["metrics"] for run in runs.values()) == MANY_RUNS > 100
    files = runs[world.runs["artifacts"]]["artifacts"]
    assert set(files) == {*ARTIFACT_NAMES, "empty.bin", "noise.bin", "repeats.txt"}
    assert files["empty.bin"]["size"] == 0
    assert len(runs[world.runs["many_files"]]["artifacts"]) == 300
    assert runs[world.runs["deleted"]]["lifecycle_stage"] == "deleted"
    assert runs[world.runs["deleted"]]["artifacts"].keys() == {"kept.txt"}
    assert data["experiments"][world.experiments["deleted"]]["lifecycle_stage"] == "deleted"
    assert world.runs["parent_with_larger_id"] > world.runs["child_with_smaller_id"]
    assert world.runs["parent_with_smaller_id"] < world.runs["child_with_larger_id"]
    assert data["logged_models"][world.logged_models["deleted"]]["deleted"]
    assert len(data["logged_models"][world.logged_models["ready"]]["params"]) == 152
    iris = data["registered_models"]["sklearn_iris"]
    assert sorted(map(int, iris["versions"])) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert {v["current_stage"] for v in iris["versions"].values()} == {
        "Archived", "Staging", "Production", "None",
    }  # fmt: skip
    assert data["prompts"].keys() == set(world.prompts.values())
    assert len(data["prompts"]["greeting"]["versions"]) == 11


def test_world_finds_every_label(world: World, source_snapshot: Snapshot) -> None:
    for kind in KINDS:
        labelled = getattr(world, kind).values()
        assert set(labelled) <= source_snapshot.data[kind].keys()


def test_snapshot_equals_itself_and_changes_nothing(
    source_server: MlflowServer, source_snapshot: Snapshot
) -> None:
    before = row_dump(source_server.database)
    assert differences(source_snapshot, snapshot(source_server.uri)) == []
    assert row_dump(source_server.database) == before


def _changes(world: World) -> list[tuple[str, str, dict[str, Any], str]]:
    """Endpoint, method, body, and the line expected to begin with."""
    run, many = world.runs["finished"], world.runs["many_007"]
    ready = world.logged_models["ready"]
    history = {"key": "shared", "value": 9.0, "timestamp": 1, "step": -9}
    nan = {"key": "only nan", "value": 1.0, "timestamp": T0, "step": 0}
    odd_run = world.runs["histories"]
    moved = world.runs["child"]
    evaluator = world.runs["evaluator"]
    return [
        (
            "experiments/set-experiment-tag", "POST",
            {"experiment_id": world.experiments["classic"], "key": "team", "value": "x"},
            "experiments[iris classifiers] tags/team: 'Blumen & Söhne' != 'x'",
        ),
        (
            "experiments/delete", "POST", {"experiment_id": world.experiments["empty"]},
            "experiments[no runs] lifecycle_stage: 'active' != 'deleted'",
        ),
        ("runs/update", "POST", {"run_id": run, "status": "KILLED"}, f"runs[{run}] status:"),
        (
            "runs/update", "POST", {"run_id": world.runs["failed"], "end_time": T0},
            f"runs[{world.runs['failed']}] end_time: {T0 + 1} != {T0}",
        ),
        (
            "runs/log-batch", "POST", {"run_id": run, "params": [{"key": "new", "value": ""}]},
            f"runs[{run}] params/new: (absent) != ''",
        ),
        (
            "runs/delete-tag", "POST", {"run_id": world.runs["unicode"], "key": "empty"},
            f"runs[{world.runs['unicode']}] tags/empty: '' != (absent)",
        ),
        (
            "runs/log-batch", "POST", {"run_id": many, "metrics": [history]},
            f"runs[{many}] histories/shared: 3 against 4 entries, first difference at index 0",
        ),
        (
            "runs/log-batch", "POST", {"run_id": odd_run, "metrics": [nan]},
            f"runs[{odd_run}] histories/only nan:",
        ),
        (
            "runs/set-tag", "POST",
            {"run_id": moved, "key": "mlflow.parentRunId", "value": world.runs["grandchild"]},
            f"runs[{moved}] tags/mlflow.parentRunId: '<run {world.runs['root']}>' !=",
        ),
        (
            "runs/log-inputs", "POST",
            {"run_id": evaluator, "models": [{"model_id": world.logged_models["failed"]}]},
            f"runs[{evaluator}] model_inputs:",
        ),
        (
            "runs/outputs", "POST",
            {"run_id": run, "models": [{"model_id": ready, "step": 1}]},
            f"runs[{run}] model_outputs: [] != [['<model {ready}>', 1]]",
        ),
        (
            f"logged-models/{ready}/params", "POST",
            {"model_id": ready, "params": [{"key": "new", "value": "1"}]},
            f"logged_models[{ready}] params/new:",
        ),
        (
            "registered-models/alias", "POST",
            {"name": "sklearn_iris", "alias": "best", "version": "9"},
            "registered_models[sklearn_iris] aliases/best: '3' != '9'",
        ),
        (
            "model-versions/update", "PATCH",
            {"name": "twelve versions", "version": "10", "description": ""},
            "registered_models[twelve versions] versions/10/description: 'v10' != ''",
        ),
        (
            "model-versions/delete", "DELETE", {"name": "a\\b", "version": "1"},
            "registered_models[a\\b] versions/1/source: 's3://bucket/x' != (absent)",
        ),
        (
            "registered-models/delete", "DELETE", {"name": "con"},
            "registered_models[con]: only in the first",
        ),
        (
            "model-versions/set-tag", "POST",
            {"name": "greeting", "version": "3", "key": "mlflow.prompt.text", "value": "x"},
            "prompts[greeting] versions/3/tags/mlflow.prompt.text:",
        ),
        (
            "registered-models/create", "POST", {"name": "more"},
            "registered_models[more]: only in the second",
        ),
    ]  # fmt: skip


def test_differences_finds_every_changed_field(
    world: World, source_snapshot: Snapshot, filled_server: Callable[[], MlflowServer]
) -> None:
    changed = filled_server()
    changes = _changes(world)
    for endpoint, method, body, _ in changes:
        url = f"{changed.uri}/api/2.0/mlflow/{endpoint}"
        reply = requests.request(method, url, json=body)
        assert reply.status_code == 200, reply.text
    root = source_snapshot.data["runs"][world.runs["artifacts"]]["artifact_uri"]
    files = f"{changed.uri}/api/2.0/mlflow-artifacts/artifacts/{root.partition(':/')[2]}"
    requests.put(f"{files}/noise.bin", data=b"other").raise_for_status()
    requests.put(f"{files}/one/more", data=b"").raise_for_status()
    artifacts = f"runs[{world.runs['artifacts']}] artifacts"
    expected = [line for *_, line in changes]
    expected += [f"{artifacts}/noise.bin/sha256:", f"{artifacts}/one/more/size: (absent) != 0"]

    lines = differences(source_snapshot, snapshot(changed.uri))

    for start in expected:
        assert any(line.startswith(start) for line in lines), start
    touched = {line.split("]")[0] for line in expected}
    assert {line.split("]")[0] for line in lines} == touched


def test_differences_allows_more_objects_when_asked(source_snapshot: Snapshot) -> None:
    runs = list(source_snapshot.data["runs"])[:3]
    part = source_snapshot.only(runs=runs)
    assert len(differences(part, source_snapshot)) > 100
    # A part does not know the experiments and other runs that its runs name.
    whole = source_snapshot.only(runs=runs, experiments=source_snapshot.data["experiments"])
    lines = differences(whole, source_snapshot, subset=True)
    assert [line for line in lines if "only in" in line] == []


def _moved(source: Snapshot) -> Snapshot:
    """The same objects with new ids everywhere, and their old ids as origins."""
    text = json.dumps(source.data)
    for run_id in source.data["runs"]:
        text = text.replace(run_id, uuid.uuid4().hex)
    for model_id in source.data["logged_models"]:
        text = text.replace(model_id, f"m-{uuid.uuid4().hex}")
    data = json.loads(text)
    for kind in ("runs", "logged_models"):
        for old, new in zip(source.data[kind], data[kind].values(), strict=True):
            new["tags"][ORIGIN] = old
    return Snapshot("http://elsewhere", data)


def test_differences_follows_new_ids(world: World, source_snapshot: Snapshot) -> None:
    moved = _moved(source_snapshot)
    assert moved.data["runs"].keys().isdisjoint(source_snapshot.data["runs"])
    assert differences(source_snapshot, moved) == []


def test_differences_finds_references_that_kept_the_old_id(
    world: World, source_snapshot: Snapshot
) -> None:
    moved = _moved(source_snapshot)
    new = {
        row["tags"][ORIGIN]: row
        for kind in ("runs", "logged_models")
        for row in moved.data[kind].values()
    }
    root, old_style = world.runs["root"], world.runs["old_style_model"]
    ready = world.logged_models["ready"]
    new[world.runs["child"]]["tags"]["mlflow.parentRunId"] = root
    history = new[old_style]["tags"]["mlflow.log-model.history"]
    new[old_style]["tags"]["mlflow.log-model.history"] = history.replace(
        new[old_style]["run_id"], old_style
    )
    model_file = new[ready]["artifacts"]["MLmodel"]
    model_file["text"] = model_file["text"].replace(new[ready]["model_id"], ready)
    iris = moved.data["registered_models"]["sklearn_iris"]["versions"]
    iris["1"]["source"] = f"runs:/{old_style}/model"
    iris["3"]["run_id"] = world.runs["trainer"]
    starts = {line.split(":")[0] for line in differences(source_snapshot, moved)}
    assert starts == {
        f"runs[{world.runs['child']}] tags/mlflow.parentRunId",
        f"runs[{old_style}] tags/mlflow.log-model.history",
        f"logged_models[{ready}] artifacts/MLmodel/text",
        "registered_models[sklearn_iris] versions/1/source",
        "registered_models[sklearn_iris] versions/3/run_id",
    }


def test_differences_finds_duplicates_and_unfinished_objects(
    world: World, source_snapshot: Snapshot
) -> None:
    moved = _moved(source_snapshot)
    first, second = list(moved.data["runs"].values())[:2]
    second["tags"][ORIGIN] = first["tags"][ORIGIN]
    first["tags"]["mlflow_bundle.state"] = "importing"
    lines = differences(source_snapshot, moved)
    assert lines[0].startswith(f"runs[{first['tags'][ORIGIN]}]: twice on http://elsewhere")
    moved = _moved(source_snapshot)
    run = moved.data["runs"].popitem()[1]
    assert differences(source_snapshot, moved)
    moved.data["runs"][run["run_id"]] = run
    run["tags"]["mlflow_bundle.state"] = "importing"
    (line,) = differences(source_snapshot, moved)
    assert line.endswith("tags/mlflow_bundle.state: (absent) != 'importing'")


def test_every_exemption_has_a_reason() -> None:
    assert all(exemption.reason for exemption in EXEMPT)
    assert {exemption.path[0] for exemption in EXEMPT} == set(KINDS)


def test_row_dump_sees_a_single_write(filled_server: Callable[[], MlflowServer]) -> None:
    server = filled_server()
    before = row_dump(server.database)
    requests.post(
        f"{server.uri}/api/2.0/mlflow/experiments/set-experiment-tag",
        json={"experiment_id": "0", "key": "a", "value": "b"},
    ).raise_for_status()
    after = row_dump(server.database)
    assert {name for name in before if before[name] != after[name]} == {"experiment_tags"}


def test_lent_servers_are_empty(empty_server: Callable[[], MlflowServer]) -> None:
    server = empty_server()
    other = empty_server()
    assert server.uri != other.uri
    for one in (server, other):
        counts = snapshot(one.uri).counts()
        assert counts == {**dict.fromkeys(KINDS, 0), "experiments": 1}
