"""Traces made as an application makes them: by the MLflow client of the interpreter that runs this.

A program of its own, for older interpreters: it imports nothing of ours. Prints label to trace id.

``python client_traces.py TRACKING_URI EXPERIMENT_ID OTHER_EXPERIMENT_ID RUN_ID``
"""

import contextlib
import json
import os
import sys

os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow
from mlflow import MlflowClient
from mlflow.entities import SpanEvent

TOKENS = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
START_NS = 1_700_000_000_123_456_789


def main(uri: str, experiment_id: str, other_id: str, run_id: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=experiment_id)
    client = MlflowClient()
    made = {"nested": nested(client, experiment_id), "failed": decorated(client, ok=False)}
    with mlflow.start_run(run_id=run_id):
        made["of run"] = decorated(client, ok=True)
    root = client.start_trace("elsewhere", experiment_id=other_id)
    client.end_trace(trace_id(root))
    made["elsewhere"] = trace_id(root)
    # Clients until 3.1 tell the server at the start; the spans follow at the end, here never.
    started = client.start_trace("in progress", inputs="ü", experiment_id=other_id)
    made["in progress"] = trace_id(started)
    print(json.dumps(made))


def trace_id(span) -> str:
    return getattr(span, "trace_id", None) or span.request_id


def nested(client: MlflowClient, experiment_id: str) -> str:
    root = client.start_trace(
        "Wurzel „ünï“ 😀",
        span_type="AGENT",
        inputs={"question": "Wie viel ist 2+2? 😀", "n": 3, "x": 0.5},
        attributes={"int": 2**53 + 1, "long": "v" * 5000, "ü/b c.d": [1, None, {"a": "ü"}]},
        tags={"ünï tag": "Wert 😀", "empty": "", "long": "t" * 250},
        experiment_id=experiment_id,
        start_time_ns=START_NS,
    )
    id = root.request_id
    child = client.start_span(
        "llm", id, root.span_id, span_type="CHAT_MODEL", start_time_ns=START_NS + 1
    )
    child.add_event(SpanEvent("ünï", START_NS + 2, {"k": "v 😀", "n": 1}))
    client.end_span(
        id,
        child.span_id,
        outputs=["vier", 4, None],
        attributes={"mlflow.chat.tokenUsage": TOKENS},
        end_time_ns=START_NS + 2_000_000,
    )
    client.end_trace(id, outputs={"answer": "vier"}, end_time_ns=START_NS + 77_000_000)
    client.set_trace_tag(id, "set later", "ja")
    return id


def decorated(client: MlflowClient, *, ok: bool) -> str:
    @mlflow.trace(name="predict", attributes={"a": "b"})
    def predict(question: str) -> str:
        if not ok:
            raise ValueError("Zeitüberschreitung")
        return question.upper()

    with contextlib.suppress(ValueError):
        predict("ünï")
    if hasattr(mlflow, "get_last_active_trace_id"):
        return mlflow.get_last_active_trace_id()
    return mlflow.get_last_active_trace().info.request_id


if __name__ == "__main__":
    main(*sys.argv[1:])
