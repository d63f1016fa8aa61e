"""Fills a server with a little of everything, through MLflow's own client and without any
machine-learning library: the model files are written by hand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)

T0_MS = 1_700_000_000_000
"""2023-11-14T22:13:20Z: no time of the demo's contents is the time of their import."""

MODEL = "sklearn_iris"

_MINUTE_MS = 60_000
_STEPS = 60
_SEED = 20231114


def fill(client: MlflowClient, scratch: Path) -> None:
    """Create the demo's contents.

    Args:
        client: Of an empty server.
        scratch: Empty directory for files on their way to the server.
    """
    chance = random.Random(_SEED)
    models = _iris(client, scratch, chance)
    _register_iris(client, models)
    _churn(client, scratch)
    client.register_prompt(
        "summarize", "Summarize in one sentence: {{text}}", commit_message="First draft"
    )
    client.register_prompt(
        "summarize", "Summarize in {{count}} words: {{text}}", commit_message="Say how long"
    )


def _iris(client: MlflowClient, scratch: Path, chance: random.Random) -> list[tuple[str, str]]:
    """Make a search of four nested runs; return (run_id, model_id) of each."""
    experiment_id = client.create_experiment("iris", tags={"team": "botany", "stage": "paper"})
    parent = _start_run(client, experiment_id, "grid search", "ada", 0)
    client.log_param(parent, "grid", "max_depth: 2, 3, 5, 8")
    dataset = DatasetInput(
        Dataset(
            name="iris",
            digest="5c4b1a9e",
            source_type="local",
            source='{"uri": "iris.csv"}',
            schema='{"columns": 4}',
            profile='{"num_rows": 150}',
        ),
        tags=[InputTag("mlflow.data.context", "training")],
    )
    made = []
    for index, depth in enumerate((2, 3, 5, 8), start=1):
        run_id = _start_run(
            client,
            experiment_id,
            f"depth {depth}",
            "grace",
            index,
            {"mlflow.parentRunId": parent, "note": "naïve ünïcode ✓"},
        )
        client.log_batch(
            run_id,
            metrics=_history(index, chance),
            params=[Param("max_depth", str(depth)), Param("criterion", "gini")],
            tags=[RunTag("dataset", "iris v2")],
        )
        client.log_inputs(run_id, datasets=[dataset])
        model_id = _log_model(client, scratch, experiment_id, run_id, depth, chance)
        files = scratch / run_id
        _write(files / "confusion.csv", f"setosa,{40 + index},0,0\n".encode())
        _write(files / "plots" / "tree.bin", chance.randbytes(20_000))
        _write(files / "plots" / "empty.txt", b"")
        client.log_artifacts(run_id, str(files))
        _end_run(client, run_id, "FINISHED", index)
        made.append((run_id, model_id))
    _end_run(client, parent, "FINISHED", 6)
    failed = _start_run(client, experiment_id, "diverged", "grace", 7)
    client.log_metric(failed, "loss", math.inf, timestamp=T0_MS, step=-1)
    _end_run(client, failed, "FAILED", 8)
    client.delete_run(failed)
    return made


def _history(index: int, chance: random.Random) -> list[Metric]:
    """A loss that falls, with one NaN, two points of one step, and an accuracy."""
    points = [
        Metric("loss", math.exp(-step / 20) + chance.random() / 50, T0_MS + step * 1000, step)
        for step in range(_STEPS)
    ]
    points.append(Metric("loss", math.nan, T0_MS + _STEPS * 1000, _STEPS))
    points.append(Metric("loss", 0.05, T0_MS + _STEPS * 1000, _STEPS))
    points.append(Metric("accuracy", 0.9 + index / 100, T0_MS + _STEPS * 1000, 0))
    return points


def _log_model(
    client: MlflowClient,
    scratch: Path,
    experiment_id: str,
    run_id: str,
    depth: int,
    chance: random.Random,
) -> str:
    model = client.create_logged_model(
        experiment_id,
        name="model",
        source_run_id=run_id,
        tags={"kind": "tree"},
        params={"max_depth": str(depth)},
        model_type="classifier",
    )
    _write_model(scratch / model.model_id, chance, run_id=run_id, model_id=model.model_id)
    client.log_model_artifacts(model.model_id, str(scratch / model.model_id))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.log_metric(
        run_id, "test accuracy", 0.95, timestamp=T0_MS, step=0, model_id=model.model_id
    )
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def _write_model(directory: Path, chance: random.Random, **ids: str) -> None:
    lines = [f"{key}: {value}\n" for key, value in ids.items()]
    flavor = "flavors:\n  python_function:\n    loader_module: demo\n    data: model.bin\n"
    _write(directory / "MLmodel", ("artifact_path: model\n" + "".join(lines) + flavor).encode())
    _write(directory / "model.bin", chance.randbytes(100_000))
    _write(directory / "requirements.txt", b"scikit-learn==1.7.0\n")


def _register_iris(client: MlflowClient, models: list[tuple[str, str]]) -> None:
    client.create_registered_model(MODEL, tags={"task": "classification"}, description="Iris trees")
    for number, (run_id, model_id) in enumerate(models, start=1):
        client.create_model_version(
            MODEL,
            f"models:/{model_id}",
            run_id,
            tags={"reviewed": "yes" if number == 3 else "no"},
            description=f"Tree {number}",
            await_creation_for=None,
            model_id=model_id,
        )
    client.delete_model_version(MODEL, "2")  # the numbers have a gap from now on
    client.set_registered_model_alias(MODEL, "champion", "3")
    client.set_registered_model_alias(MODEL, "challenger", "4")


def _churn(client: MlflowClient, scratch: Path) -> None:
    """A model as older clients log it: files of the run, no logged model."""
    experiment_id = client.create_experiment("churn")
    run_id = _start_run(client, experiment_id, "baseline", "linus", 0)
    files = scratch / "churn"
    _write_model(files / "model", random.Random(1), run_id=run_id)
    client.log_artifacts(run_id, str(files))
    _end_run(client, run_id, "KILLED", 3)
    client.create_registered_model("churn")
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    client.create_model_version("churn", source, run_id, await_creation_for=None)


def _start_run(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    user: str,
    minute: int,
    tags: Mapping[str, Any] | None = None,
) -> str:
    run = client.create_run(
        experiment_id,
        start_time=T0_MS + minute * _MINUTE_MS,
        tags={"mlflow.user": user, **(tags or {})},
        run_name=name,
    )
    return str(run.info.run_id)


def _end_run(client: MlflowClient, run_id: str, status: str, minute: int) -> None:
    client.set_terminated(run_id, status, T0_MS + minute * _MINUTE_MS + 30_500)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
