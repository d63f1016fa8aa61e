"""A real server on a database that was imported into answers as the source does, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.servers import MlflowServer, start_server
from tests.sql.imports import import_into, place

pytestmark = [pytest.mark.server, pytest.mark.slow]

Json = dict[str, Any]
V2, V3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"


@pytest.fixture(scope="module")
def served(full_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server on the imported full world."""
    target = place(tmp_path_factory.mktemp("served"))
    import_into(target, full_bundle, placeholder_secrets=True)
    with start_server(target.file.parent, workers=2) as server:
        yield server


def ask(server: MlflowServer, method: str, path: str, body: Json | None = None) -> Json:
    answer = requests.request(method, server.uri + path, json=body, timeout=60)
    assert answer.ok, answer.text
    found: Json = answer.json()
    return found


def experiment_ids(server: MlflowServer) -> list[str]:
    body = {"max_results": 1000, "view_type": "ALL"}
    found = ask(server, "POST", f"{V2}experiments/search", body)["experiments"]
    return sorted(experiment["experiment_id"] for experiment in found)


def in_all(server: MlflowServer, **more: Any) -> Json:
    return {"experiment_ids": experiment_ids(server), "max_results": 400, **more}


def locations(server: MlflowServer) -> Json:
    places = [
        {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": id}}
        for id in experiment_ids(server)
    ]
    return {"locations": places, "max_results": 400, "order_by": ["timestamp_ms ASC"]}


@pytest.mark.parametrize(
    "question",
    [
        lambda s: ask(
            s, "POST", f"{V2}experiments/search", {"max_results": 1000, "view_type": "ALL"}
        ),
        lambda s: ask(
            s,
            "POST",
            f"{V2}runs/search",
            in_all(s, run_view_type="ALL", order_by=["attributes.run_id ASC"]),
        ),
        lambda s: ask(s, "POST", f"{V2}logged-models/search", in_all(s)),
        lambda s: ask(s, "GET", f"{V2}registered-models/search?max_results=1000"),
        lambda s: ask(s, "GET", f"{V2}model-versions/search?max_results=1000"),
        lambda s: ask(s, "POST", f"{V3}datasets/search", {"max_results": 100}),
        lambda s: ask(s, "POST", f"{V3}issues/search", {"max_results": 100}),
        # Which servers before 3.18 do not restrict.
        lambda s: ask(
            s, "POST", f"{V3}issues/search", {"max_results": 100, "categories": ["LATENCY"]}
        ),
        lambda s: ask(s, "GET", f"{V3}mcp-servers"),
    ],
    ids=[
        "experiments",
        "runs",
        "logged models",
        "registered models",
        "model versions",
        "datasets",
        "issues",
        "issues of a category",
        "mcp servers",
    ],
)
def test_it_answers_as_the_source_does(
    full_server: MlflowServer, served: MlflowServer, question: Any
) -> None:
    expected, found = question(full_server), question(served)
    assert _ordered(found) == _ordered(expected)


def _ordered(value: Any) -> Any:
    """Lists without an order of their own, tags for one, in one order."""
    if isinstance(value, dict):
        return {
            key: _ordered(entry)
            for key, entry in value.items()
            # What REST had no word for when the bundle was made.
            if key not in ("last_updated_by", "digest")
        }
    if isinstance(value, list):
        return sorted((_ordered(entry) for entry in value), key=repr)
    return value


def traces(server: MlflowServer) -> dict[str, Json]:
    found = ask(server, "POST", f"{V3}traces/search", locations(server))["traces"]
    return {trace["trace_id"]: trace for trace in found}


def spans(server: MlflowServer, trace_id: str) -> Any:
    path = f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id={trace_id}"
    answer = requests.get(server.uri + path, timeout=60)
    return answer.json() if answer.ok else answer.status_code


def test_it_tells_the_same_of_traces(full_server: MlflowServer, served: MlflowServer) -> None:
    expected, found = traces(full_server), traces(served)
    assert len(found) > 10
    assert found.keys() == expected.keys()
    for id, trace in expected.items():
        if trace["tags"].get("mlflow.trace.spansLocation") == "ARCHIVE_REPO":
            # Over REST its spans came out of the archive.
            assert found[id]["tags"]["mlflow.trace.spansLocation"] == "TRACKING_STORE"
        else:
            assert _ordered(found[id]) == _ordered(trace)
            assert spans(served, id) == spans(full_server, id)


def test_new_objects_can_be_made(served: MlflowServer) -> None:
    highest = max(int(id) for id in experiment_ids(served))
    made = ask(served, "POST", f"{V2}experiments/create", {"name": "made afterwards"})
    assert int(made["experiment_id"]) > highest
    run = ask(served, "POST", f"{V2}runs/create", {"experiment_id": made["experiment_id"]})
    run_id = run["run"]["info"]["run_id"]
    metric = {"run_id": run_id, "key": "m", "value": 1.0, "timestamp": 1, "step": 1}
    ask(served, "POST", f"{V2}runs/log-metric", metric)
    version = {"name": "sklearn_iris", "source": "s3://bucket/afterwards"}
    numbers = [
        int(found["version"])
        for found in ask(served, "GET", f"{V2}model-versions/search?filter=name='sklearn_iris'")[
            "model_versions"
        ]
    ]
    made = ask(served, "POST", f"{V2}model-versions/create", version)
    assert int(made["model_version"]["version"]) > max(numbers)
