"""Make the SQLite file and the artifacts of a populated MLflow server, within seconds.

Over REST a server takes in some 6 000 metric rows a second, so a benchmark's source is written
straight into its database; what is written is what the server itself would have written (ids,
locations, ``latest_metrics``). Ids come from a seeded generator: the same options make the same
server.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.servers import prepare_directory

T0 = 1_700_000_000_000
"""2023-11-14T22:13:20Z, in ms."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to make; the defaults are the server of the promised times."""

    runs: int = 500
    keys: int = 20
    """Metrics of each run."""
    steps: int = 50
    """Points of each metric."""
    params: int = 20
    tags: int = 10
    experiments: int = 5
    artifacts_per_run: int = 6
    artifact_mb: float = 115
    """All files of all runs together."""
    models: int = 10
    versions: int = 30
    """Of all registered models together."""
    logged_models: int = 30
    traces: int = 0
    spans: int = 5
    """Of each trace."""
    large_artifact_gb: float = 0
    """One more file, incompressible, in the first run."""

    @property
    def metric_rows(self) -> int:
        return self.runs * self.keys * self.steps

    @property
    def files(self) -> int:
        return self.runs * self.artifacts_per_run


def make_server(directory: Path | str, scale: Scale | None = None, *, seed: int = 0) -> Scale:
    """Fill ``directory`` for `tests.servers.start_server`; it must not hold a server yet."""
    scale = scale or Scale()
    database, artifacts = prepare_directory(directory)
    dice = random.Random(seed)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        _Filler(connection, artifacts, scale, dice).fill()
        connection.commit()
    return scale


class _Filler:
    def __init__(
        self, connection: sqlite3.Connection, artifacts: Path, scale: Scale, dice: random.Random
    ) -> None:
        self._connection = connection
        self._artifacts = artifacts
        self._scale = scale
        self._dice = dice
        self._runs: list[tuple[str, int]] = []
        self._models: list[tuple[str, int, str]] = []

    def fill(self) -> None:
        self._experiments()
        self._runs = [
            (f"{self._dice.getrandbits(128):032x}", 1 + i % self._scale.experiments)
            for i in range(self._scale.runs)
        ]
        self._run_rows()
        self._metric_rows()
        self._logged_models()
        self._registered_models()
        self._traces()
        self._files()

    def _insert(self, table: str, columns: str, rows: Iterator[tuple[object, ...]]) -> None:
        marks = ", ".join("?" * len(columns.split(",")))
        self._connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)

    def _experiments(self) -> None:
        ids = range(1, self._scale.experiments + 1)
        self._insert(
            "experiments",
            "experiment_id, name, artifact_location, lifecycle_stage,"
            " creation_time, last_update_time",
            ((i, f"experiment {i}", f"mlflow-artifacts:/{i}", "active", T0, T0) for i in ids),
        )
        self._insert(
            "experiment_tags",
            "key, value, experiment_id",
            (("mlflow.note.content", f"Experiment {i}", i) for i in ids),
        )

    def _run_rows(self) -> None:
        hour = 3_600_000
        self._insert(
            "runs",
            "run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
            " start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id",
            (
                (run_id, f"run-{i}", "UNKNOWN", "", "", "ana", "FINISHED", T0 + i, T0 + i + hour,
                 "", "active", f"mlflow-artifacts:/{experiment}/{run_id}/artifacts", experiment)
                for i, (run_id, experiment) in enumerate(self._runs)
            ),
        )  # fmt: skip
        self._insert(
            "params",
            "key, value, run_uuid",
            (
                (f"param_{k}", str(i * k), run_id)
                for i, (run_id, _) in enumerate(self._runs)
                for k in range(self._scale.params)
            ),
        )
        self._insert(
            "tags",
            "key, value, run_uuid",
            (
                (f"tag_{k}" if k else "mlflow.runName", f"value {k}" if k else f"run-{i}", run_id)
                for i, (run_id, _) in enumerate(self._runs)
                for k in range(self._scale.tags + 1)
            ),
        )

    def _metric_rows(self) -> None:
        steps = self._scale.steps

        def points() -> Iterator[tuple[object, ...]]:
            gauss = self._dice.gauss
            for run_id, _ in self._runs:
                for k in range(self._scale.keys):
                    for step in range(steps):
                        yield f"metric_{k}", gauss(0, 1), T0 + step * 1000, run_id, step, 0

        self._insert("metrics", "key, value, timestamp, run_uuid, step, is_nan", points())
        # Steps and timestamps grow together: the newest point is the one of the last step.
        self._connection.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics WHERE step = ?",
            (steps - 1,),
        )

    def _logged_models(self) -> None:
        for i in range(self._scale.logged_models):
            run_id, experiment = self._runs[i % len(self._runs)]
            model_id = f"m-{self._dice.getrandbits(128):032x}"
            self._models.append((model_id, experiment, run_id))
            place = self._artifacts / str(experiment) / "models" / model_id / "artifacts"
            place.mkdir(parents=True)
            uri = f"mlflow-artifacts:/{experiment}/models/{model_id}/artifacts"
            model_file = (
                f"artifact_path: {uri}\nflavors:\n  python_function:\n"
                f"    loader_module: mlflow.sklearn\n    model_path: model.pkl\n"
                f"mlflow_version: 3.17.2\nmodel_id: {model_id}\nmodel_uuid: {model_id}\n"
                f"run_id: {run_id}\n"
            )
            (place / "MLmodel").write_text(model_file)
            (place / "model.pkl").write_bytes(self._dice.randbytes(10_000))
        ready = 2  # LoggedModelStatus.READY
        self._insert(
            "logged_models",
            "model_id, experiment_id, name, artifact_location, creation_timestamp_ms,"
            " last_updated_timestamp_ms, status, lifecycle_stage, model_type, source_run_id",
            (
                (model_id, experiment, f"model_{i}",
                 f"mlflow-artifacts:/{experiment}/models/{model_id}/artifacts",
                 T0, T0, ready, "active", "sklearn", run_id)
                for i, (model_id, experiment, run_id) in enumerate(self._models)
            ),
        )  # fmt: skip
        self._insert(
            "logged_model_params",
            "model_id, experiment_id, param_key, param_value",
            ((m, e, f"param_{k}", str(k)) for m, e, _ in self._models for k in range(5)),
        )
        self._insert(
            "inputs",
            "input_uuid, source_type, source_id, destination_type, destination_id, step",
            (
                (f"{i:032x}", "RUN_OUTPUT", run_id, "MODEL_OUTPUT", model_id, 0)
                for i, (model_id, _, run_id) in enumerate(self._models)
            ),
        )

    def _registered_models(self) -> None:
        names = [f"registered_{i}" for i in range(self._scale.models)]
        self._insert(
            "registered_models",
            "name, creation_time, last_updated_time, description",
            ((name, T0, T0, f"Model {name}") for name in names),
        )

        def versions() -> Iterator[tuple[object, ...]]:
            for i in range(self._scale.versions if names else 0):
                run_id, experiment = self._runs[i % len(self._runs)]
                source = f"mlflow-artifacts:/{experiment}/{run_id}/artifacts/model"
                stored = source
                if i < len(self._models) and i % 3:
                    model_id, experiment, run_id = self._models[i]
                    source = f"models:/{model_id}"
                    stored = f"mlflow-artifacts:/{experiment}/models/{model_id}/artifacts"
                yield (
                    names[i % len(names)], 1 + i // len(names), T0, T0, f"version {i}", "None",
                    source, run_id, "READY", "", stored,
                )  # fmt: skip

        self._insert(
            "model_versions",
            "name, version, creation_time, last_updated_time, description, current_stage,"
            " source, run_id, status, run_link, storage_location",
            versions(),
        )
        by_model: dict[str, list[dict[str, object]]] = {}
        rows = self._connection.execute("SELECT name, version, source FROM model_versions")
        for name, version, source in rows:
            if source.startswith("models:/"):
                model_id = source.removeprefix("models:/")
                by_model.setdefault(model_id, []).append({"name": name, "version": version})
        experiments = {model_id: experiment for model_id, experiment, _ in self._models}
        self._insert(
            "logged_model_tags",
            "model_id, experiment_id, tag_key, tag_value",
            (
                (model_id, experiments[model_id], "mlflow.modelVersions", json.dumps(versions))
                for model_id, versions in by_model.items()
            ),
        )
        self._insert(
            "registered_model_aliases",
            "name, alias, version",
            ((n, "champion", 1) for n in names[: self._scale.versions]),
        )

    def _traces(self) -> None:
        """Traces of an application that asks a model: each with its spans in the database."""
        traces = [
            (f"tr-{self._dice.getrandbits(128):032x}", 1 + i % self._scale.experiments, T0 + i)
            for i in range(self._scale.traces)
        ]
        self._insert(
            "trace_info",
            "request_id, experiment_id, timestamp_ms, execution_time_ms, status,"
            " request_preview, response_preview, trace_name, db_payload_generation",
            (
                (id, e, at, 10, "OK", f'{{"question": "{at}"}}', f'"answer {at}"', "predict", 0)
                for id, e, at in traces
            ),
        )
        tags = {"mlflow.trace.spansLocation": "TRACKING_STORE", "mlflow.artifactLocation": ""}
        self._insert(
            "trace_tags",
            "key, value, request_id",
            (
                (key, value or f"mlflow-artifacts:/{e}/traces/{id}/artifacts", id)
                for id, e, _ in traces
                for key, value in tags.items()
            ),
        )
        self._insert(
            "trace_request_metadata",
            "key, value, request_id",
            (("mlflow.trace_schema.version", "3", id) for id, _, _ in traces),
        )
        self._insert(
            "spans",
            "trace_id, experiment_id, span_id, parent_span_id, name, type, status,"
            " start_time_unix_nano, end_time_unix_nano, content",
            (row for id, e, at in traces for row in self._spans(id, e, at * 1_000_000)),
        )

    def _spans(self, trace_id: str, experiment: int, start_ns: int) -> Iterator[tuple[object, ...]]:
        root: str | None = None
        for number in range(self._scale.spans):
            span_id = f"{self._dice.getrandbits(64):016x}"
            start, end = start_ns + number * 1_000_000, start_ns + 10_000_000
            content = {
                "trace_id": base64.b64encode(bytes.fromhex(trace_id[3:])).decode(),
                "span_id": base64.b64encode(bytes.fromhex(span_id)).decode(),
                "parent_span_id": root and base64.b64encode(bytes.fromhex(root)).decode(),
                "name": f"step_{number}",
                "start_time_unix_nano": start,
                "end_time_unix_nano": end,
                "events": [],
                "status": {"code": "STATUS_CODE_OK", "message": ""},
                "attributes": {
                    "mlflow.traceRequestId": json.dumps(trace_id),
                    "mlflow.experimentId": json.dumps(str(experiment)),
                    "mlflow.spanType": '"LLM"',
                    "mlflow.spanInputs": json.dumps({"question": f"of {span_id}"}),
                    "mlflow.spanOutputs": json.dumps({"answer": "Lorem ipsum dolor sit. " * 20}),
                },
            }
            yield (
                trace_id, experiment, span_id, root, f"step_{number}", "LLM", "OK",
                start, end, json.dumps(content),
            )  # fmt: skip
            root = root or span_id

    def _files(self) -> None:
        """Half of the bytes are noise, half repeat; every run has a model directory."""
        count = self._scale.files
        size = int(self._scale.artifact_mb * 1e6 / count) if count else 0
        for i, (run_id, experiment) in enumerate(self._runs):
            place = self._artifacts / str(experiment) / run_id / "artifacts"
            for k in range(self._scale.artifacts_per_run):
                path = place / (f"model/part_{k}.bin" if k % 2 else f"plots/plot {k}.json")
                path.parent.mkdir(parents=True, exist_ok=True)
                number = i * self._scale.artifacts_per_run + k
                if k % 2:
                    path.write_bytes(self._dice.randbytes(size))
                else:
                    line = b'{"run": "%s", "file": %d}\n' % (run_id.encode(), number)
                    path.write_bytes((line * (size // len(line) + 1))[:size])
        if self._scale.large_artifact_gb and self._runs:
            run_id, experiment = self._runs[0]
            place = self._artifacts / str(experiment) / run_id / "artifacts"
            place.mkdir(parents=True, exist_ok=True)
            left = int(self._scale.large_artifact_gb * 1e9)
            with (place / "large.bin").open("wb") as stream:
                while left > 0:
                    left -= stream.write(self._dice.randbytes(min(left, 1 << 24)))


def add_scale_options(parser: argparse.ArgumentParser, defaults: Scale = Scale()) -> None:
    """An option for each field of `Scale`."""
    for name, value in asdict(defaults).items():
        kind = float if name in ("artifact_mb", "large_artifact_gb") else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)


def scale_from(options: argparse.Namespace) -> Scale:
    return Scale(**{name: getattr(options, name) for name in asdict(Scale())})
