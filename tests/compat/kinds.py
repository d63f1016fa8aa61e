"""What older servers hold besides runs and the registry, and how any server tells its traces."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from tests.compat.contents import Contents
from tests.servers import MlflowServer
from tests.transfer.small import Small
from tests.world import T0, Json
from tests.world_genai import datasets, foundations
from tests.world_scorers import scorers
from tests.world_traces import posted, traces

SERVER_OWN = {"mlflow.artifactLocation", "mlflow.trace.infoFinalized"}
"""Tags and metadata that each server gives its traces itself."""


def by_its_client(server: MlflowServer, python: Path, contents: Contents) -> None:
    """Let the client of an old version make traces, as applications of that time did."""
    build = Small(server.uri)
    experiments = [build.experiment(label, label) for label in ("traces", "more traces")]
    build.experiments["traces"] = experiments[0]
    run = build.run("traced", "traces")
    program = Path(__file__).with_name("client_traces.py")
    done = subprocess.run(
        [python, program, server.uri, *experiments, run],
        cwd=server.directory,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    contents.traces.update(json.loads(done.stdout.splitlines()[-1]))
    contents.runs["traced"] = run


def by_rest(server: MlflowServer, contents: Contents) -> None:
    """Make what MLflow 3.10 has: traces of every kind, assessments, datasets and scorers."""
    build = Small(server.uri)
    foundations(build)
    traces(build)
    values = {"float": 0.75, "text": "ünï 😀", "list": ["a", 1.5, None], "false": False}
    for i, (label, value) in enumerate(values.items()):
        _assess(build, "rich", f"feedback/{label}", T0 + i, feedback={"value": value})
        text = {"serialization_format": "JSON_FORMAT", "value": json.dumps(value)}
        expectation = {"serialized_value": text} if isinstance(value, list) else {"value": value}
        _assess(build, "legacy", f"expectation/{label}", T0 + i, expectation=expectation)
    error = {"error_code": "RATE_LIMIT", "error_message": "ünï", "stack_trace": "Traceback\n"}
    failed = {"feedback": {"error": error}, "source": ("CODE", "scorer.py")}
    _assess(build, "in_artifacts", "failed", T0, **failed)
    first = _assess(build, "turn_0", "quality", T0, feedback={"value": "no"}, rationale="weil")
    _assess(build, "turn_0", "quality", T0 + 1, feedback={"value": "yes"}, overrides=first)
    scorers(build)
    datasets(build)
    contents.traces.update(build.traces)
    contents.runs.update(build.runs)


def _assess(build: Small, label: str, name: str, created_ms: int, **fields: object) -> str:
    trace_id = build.traces[label]
    assessment = posted(trace_id, created_ms, name=name, **fields)  # type: ignore[arg-type]
    build.call(f"traces/{trace_id}/assessments", api="3.0", assessment=assessment)
    return str(assessment["assessment_id"])


def read_traces(server: MlflowServer, version: tuple[int, ...]) -> dict[str, Json]:
    """Return every trace by its id, in one form whatever the server's API; spans as it has them."""
    if version < (2, 14):
        return {}
    build = Small(server.uri)
    found = build.get("experiments/search", max_results="1000", view_type="ALL")["experiments"]
    names = {row["experiment_id"]: row["name"] for row in found}
    if version >= (3, 2):
        places = [
            {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": id}}
            for id in names
        ]
        rows = build.call("traces/search", api="3.0", locations=places, max_results=500)
        traces = {row["trace_id"]: _of_v3(row, names) for row in rows.get("traces", ())}
    else:
        rows = build.send(
            "GET",
            "api/2.0/mlflow/traces",
            params={"experiment_ids": list(names), "max_results": 500},
        )
        traces = {row["request_id"]: _of_v2(row, names) for row in rows.get("traces", ())}
    for id, trace in traces.items():
        trace["spans"] = _spans(build, id)
    return traces


def _of_v3(row: Json, names: dict[str, str]) -> Json:
    return {
        "experiment": names[row["trace_location"]["mlflow_experiment"]["experiment_id"]],
        "time": row["request_time"].replace(".000Z", "Z"),
        # A server before MLflow 3.2 does not tell none from zero.
        "duration": float(row.get("execution_duration", "0s")[:-1]),
        "state": row["state"],
        "client_request_id": row.get("client_request_id"),
        "previews": [row.get("request_preview"), row.get("response_preview")],
        "tags": _without(row.get("tags", {})),
        "metadata": _without(row.get("trace_metadata", {})),
        "assessments": sorted(row.get("assessments", ()), key=lambda a: a["assessment_id"]),
    }


def _of_v2(row: Json, names: dict[str, str]) -> Json:
    seconds, ms = divmod(int(row["timestamp_ms"]), 1000)
    return _of_v3(
        {
            "trace_location": {"mlflow_experiment": {"experiment_id": row["experiment_id"]}},
            "request_time": f"{_iso(seconds)}{ms:03}Z",
            "execution_duration": f"{int(row.get('execution_time_ms', 0)) / 1000}s",
            "state": row["status"].replace("TRACE_STATUS_", "STATE_"),
            "tags": {pair["key"]: pair.get("value", "") for pair in row.get("tags", ())},
            "trace_metadata": {
                pair["key"]: pair.get("value", "") for pair in row.get("request_metadata", ())
            },
        },
        names,
    )


def _iso(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S.}"


def _without(values: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if key not in SERVER_OWN}


def _spans(build: Small, trace_id: str) -> Json | None:
    path = f"{build.uri}/ajax-api/2.0/mlflow/get-trace-artifact"
    answer = build._session.get(path, params={"request_id": trace_id})
    if not answer.ok:
        return None
    data: Json = json.loads(answer.content)
    return data
