"""Deleted logged models that something names travel; no listing shows them on either side."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_bundle.errors import SinkError
from mlflow_bundle.rest.session import Session
from tests.compare import differences, row_dump, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, import_
from tests.transfer.small import Small
from tests.world import T0
from tests.world_traces import start_trace

pytestmark = [pytest.mark.server, pytest.mark.slow]

NAMED = ("made", "read", "versioned", "traced", "in_deleted")
"""Deleted, and named by a run that made it, a run that read it, a version, a trace."""


def build_deleted(uri: str) -> Small:
    """Logged models of two experiments, the second deleted; one left, ``unnamed`` by anything."""
    build = Small(uri)
    build.experiment("one", "one")
    build.experiment("two", "two")
    runs = {"maker": "one", "reader": "one", "gone": "one", "in_two": "two"}
    for label, experiment in runs.items():
        build.run(label, experiment)
    for label, run in (
        ("made", "gone"),
        ("read", "maker"),
        ("versioned", "maker"),
        ("traced", None),
        ("in_deleted", "in_two"),
        ("left", "maker"),
        ("unnamed", "maker"),
    ):
        build.logged_model(
            label,
            runs[run] if run else "one",
            name="same name",
            source_run_id=build.runs[run] if run else None,
            params={"of": label},
            tags={"tag of": label},
            files={"model.pkl": label.encode()},
        )
    models = build.logged_models
    build.log_metrics(build.runs["gone"], {"loss": [(0.5, T0, 1)]}, model_id=models["made"])
    for run, label in (("gone", "made"), ("maker", "left"), ("in_two", "in_deleted")):
        outputs = [{"model_id": models[label], "step": 3}]
        build.call("runs/outputs", run_id=build.runs[run], models=outputs)
    inputs = [{"model_id": models["read"]}]
    build.call("runs/log-inputs", run_id=build.runs["reader"], models=inputs)
    build.model("m")
    for label in ("left", "versioned"):
        build.version("m", f"models:/{models[label]}", model_id=models[label])
    build.version("m", "s3://bucket/last")
    build.delete_version("m", 3)  # the last number: invisible, and free at the destination
    start_trace(build, "traced", "one", metadata={"mlflow.modelId": models["traced"]})
    build.call("runs/delete", run_id=build.runs["gone"])
    for label in (*NAMED, "unnamed"):
        build.call(f"logged-models/{models[label]}", method="DELETE")
    build.call("experiments/delete", experiment_id=build.experiments["two"])
    return build


def all_models(server: MlflowServer) -> list[tuple[str, str, str, str]]:
    """Origin, name, state and id of each logged model in the database."""
    query = (
        "SELECT coalesce(t.tag_value, m.model_id), m.name, m.lifecycle_stage, m.model_id"
        " FROM logged_models m LEFT JOIN logged_model_tags t"
        " ON t.model_id = m.model_id AND t.tag_key = 'mlflow_bundle.origin'"
    )
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as connection:
        return connection.execute(query).fetchall()


def models_in(server: MlflowServer) -> dict[str, tuple[str, str, str]]:
    """The same by origin, of which each has one."""
    rows = all_models(server)
    assert len({row[0] for row in rows}) == len(rows), "an origin has two models"
    return {origin: (name, stage, id) for origin, name, stage, id in rows}


Refusals = dict[str, int | None]
"""Patterns of requests (method, endpoint and body) to refuse once, with a status; None stands for a
server that is away."""


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """What the next import's requests come to."""
    patterns: Refusals = {}
    original = Session.request

    def request(self: Session, method: str, endpoint: str, **options: Any) -> Any:
        body = options.get("body") or b""
        for pattern, status in list(patterns.items()):
            if re.search(pattern, f"{method} {endpoint} {body.decode()}"):
                del patterns[pattern]
                raise SinkError(f"refused: {endpoint}", status=status)
        return original(self, method, endpoint, **options)

    monkeypatch.setattr(Session, "request", request)
    return patterns


def test_deleted_logged_models_travel_and_are_found_again(
    empty_server: LendServer, refused: Refusals, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = build_deleted(source.uri)
    ids, bundle = build.logged_models, tmp_path / "deleted.mlbundle"
    done = export(source, bundle)
    assert done.report["done"]["logged_model"] == len(NAMED) + 1
    assert done.report["lost"] == []
    there = snapshot(source.uri)

    # A version that could not be made keeps its logged model from being deleted,
    refused['model-versions/create .*"m/2/'] = 400
    # and the server goes away before all of the others are.
    refused[r"DELETE .*logged-models/m-\w+ $"] = None
    import_(server, bundle, expect=1)
    assert refused == {}
    stages = {label: models_in(server)[ids[label]][1] for label in NAMED}
    assert stages["versioned"] == "active"
    assert list(stages.values()).count("deleted") < len(NAMED) - 1

    done = import_(server, bundle)
    assert done.report["lost"] == done.report["conflicts"] == []
    everywhere = models_in(server)
    expected = {ids[label]: ("same name", "deleted") for label in NAMED}
    expected[ids["left"]] = ("same name", "active")
    assert {origin: row[:2] for origin, row in everywhere.items()} == expected
    assert differences(there, snapshot(server.uri)) == []
    arrived = Small(server.uri)
    for label in NAMED:
        id = everywhere[ids[label]][2]
        model = arrived.get(f"logged-models/{id}", allow_deleted="true")["model"]
        assert model["data"]["params"] == [{"key": "of", "value": label}]
        assert model["info"]["status"] == "LOGGED_MODEL_READY"
        root = model["info"]["artifact_uri"].partition(":/")[2]
        reply = requests.get(
            f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{root}/model.pkl", timeout=30
        )
        assert reply.content == label.encode()
    trace = arrived.send("GET", f"api/3.0/mlflow/traces/{build.traces['traced']}")["trace"]
    metadata = trace["trace_info"]["trace_metadata"]
    assert metadata["mlflow.modelId"] == everywhere[ids["traced"]][2]
    version = arrived.get("model-versions/get", name="m", version="2")["model_version"]
    assert version["source"] == f"models:/{everywhere[ids['versioned']][2]}"

    rows = row_dump(server.database)
    again = import_(server, bundle, "--verify")
    assert again.report["done"] == {}
    assert again.report["lost"] == again.report["conflicts"] == []
    assert row_dump(server.database) == rows
    assert command("diff", source.uri, server.uri, expect=None).exit_code == 0

    # At home they are found by their own ids; back there they change nothing either.
    back, rows = tmp_path / "back.mlbundle", row_dump(source.database)
    export(server, back)
    for path in (bundle, back):
        done = import_(source, path)
        assert done.report["done"] == {}
        assert done.report["lost"] == done.report["conflicts"] == []
        assert row_dump(source.database) == rows

    # A version comes too late for a logged model that an earlier import deleted.
    apart = ("--experiment-name-prefix", "apart/", "--rename-model", "m=apart")
    # (The trace stays where it is: a server has it once.)
    import_(server, bundle, *apart, name="import-experiments", expect=3)
    count = len(all_models(server))
    done = import_(server, bundle, *apart, expect=3)
    late = [loss for loss in done.report["lost"] if loss["kind"] == "model_version"]
    assert [loss["id"] for loss in late] == ["m/2"]
    assert "deleted at the destination" in late[0]["reason"]
    assert len(all_models(server)) == count
