"""Lets MLflow itself fill a file store with everything that one can hold."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import (
    AssessmentSource,
    DatasetInput,
    Expectation,
    Feedback,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
)

from tests.servers import tracking_uri
from tests.world import wait_for_prompt_links

INF, NAN = float("inf"), float("nan")


def fill(root: Path) -> None:
    """Make a file store in ``root``, which must not exist."""
    with pytest.MonkeyPatch.context() as patched, tracking_uri(root.as_uri()):
        patched.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        _fill(MlflowClient(), root)


def _fill(client: MlflowClient, root: Path) -> None:
    one = client.create_experiment("one", tags={"team": "blue", "a/b": "slash"})
    gone = client.create_experiment("gone")
    kept = client.create_run(one, run_name="kept", tags={"mlflow.user": "ana"})
    run_id = kept.info.run_id
    client.log_param(run_id, "rate", "0.1")
    client.log_param(run_id, "deep/er", "two\nlines\r\n")
    client.set_tag(run_id, "empty", "")
    for step, value in enumerate((0.5, float("nan"), 0.25, 1e300)):
        client.log_metric(run_id, "loss/train", value, timestamp=1000 + step, step=step - 1)
    client.log_text(run_id, "hello", "dir/hello.txt")
    data = MetaDataset(HTTPDatasetSource("https://example.org/x.csv"), name="data", digest="d1")
    client.log_inputs(
        run_id,
        [DatasetInput(data._to_mlflow_entity(), [InputTag("mlflow.data.context", "train")])],
    )
    model = client.create_logged_model(
        one, name="m", source_run_id=run_id, params={"p": "1"}, tags={"t": "2"}, model_type="agent"
    )
    for name in ("MLmodel", "weights.bin"):
        file = root.parent / name
        file.write_text(f"model_id: {model.model_id}\n")
        client.log_model_artifact(model.model_id, str(file))
        file.unlink()
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 3)])
    other = client.create_run(one)
    client.log_inputs(other.info.run_id, models=[LoggedModelInput(model.model_id)])
    client.log_batch(
        other.info.run_id,
        metrics=[
            Metric("acc", 0.9, 5, 1, model_id=model.model_id),
            Metric("of", 1.5, 7, 3, model_id=model.model_id, dataset_name="d", dataset_digest="1"),
        ],
    )
    client.set_terminated(other.info.run_id, "FAILED", end_time=7)
    deleted = client.create_run(one)
    client.delete_run(deleted.info.run_id)
    lost = client.create_logged_model(one, name="lost")
    client.delete_logged_model(lost.model_id)
    odd = client.create_experiment("odd")
    of_odd = client.create_run(odd)
    nowhere = client.create_logged_model(odd, name="odd")
    # What MLflow's databases cannot hold.
    points = [Metric("m", value, 1, step) for step, value in enumerate((INF, -INF, -0.0))]
    client.log_batch(of_odd.info.run_id, [*points, Metric("n", NAN, 1, 1, nowhere.model_id)])
    in_gone = client.create_run(gone)
    client.log_text(in_gone.info.run_id, "bye", "bye.txt")
    client.delete_experiment(gone)

    client.create_registered_model("iris", tags={"k": "v"}, description="flowers")
    client.create_model_version("iris", f"{kept.info.artifact_uri}/dir", run_id=run_id)
    client.create_model_version("iris", f"models:/{model.model_id}", tags={"w": "x"})
    client.create_model_version("iris", f"{kept.info.artifact_uri}/dir", run_id=run_id)
    client.delete_model_version("iris", "3")
    client.set_registered_model_alias("iris", "champion", "2")
    client.transition_model_version_stage("iris", "1", "Production")
    client.register_prompt("greeting", "Hello {{name}}", tags={"lang": "en"})
    wait_for_prompt_links()

    span = client.start_trace("answer", inputs={"q": 1}, experiment_id=one, tags={"y": "z"})
    client.end_trace(span.trace_id, outputs={"a": 2})
    mlflow.flush_trace_async_logging()
    human = AssessmentSource(source_type="HUMAN", source_id="ana")
    for assessment in (
        Feedback(name="good", value=True, source=human, rationale="because", metadata={"m": "1"}),
        Feedback(name="parts", value={"a": [1, None]}, source=human),
        Expectation(name="wanted", value=["x"], source=human),
    ):
        mlflow.log_assessment(trace_id=span.trace_id, assessment=assessment)
