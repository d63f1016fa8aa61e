"""Reads the files of a file store into tables.

What cannot be read is a loss of what it belongs to, and stops nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Assessment, LoggedModelStatus, RunStatus, SourceType, TraceInfo
from mlflow.exceptions import MlflowException

from mlflow_bundle.entities import Experiment, LoggedModel, RegisteredModel, Run
from mlflow_bundle.filestore.files import (
    META,
    MODELS,
    TRASH,
    Point,
    directories,
    experiment_directories,
    files_below,
    read_meta,
    read_points,
    read_text,
)
from mlflow_bundle.filestore.tables import Tables
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.report import Loss

_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError),
    *(sqlite3.Error, MlflowException),
)
"""What comes of a file that cannot be opened, or holds something else than MLflow wrote."""

_TRACE_INFO = "trace_info.yaml"
_NOT_RUNS = frozenset({"tags", "datasets", "traces", MODELS, TRASH})
_POINTS_AT_ONCE = 10_000


class Filling:
    """One pass over a file store.

    Args:
        root: Its directory.
        tables: Get what it holds.
    """

    def __init__(self, root: Path, tables: Tables) -> None:
        self._root = root
        self._tables = tables
        self.losses: list[Loss] = []
        self.repeated_points = 0
        """Points that were logged twice."""

    def run(self) -> None:
        """Read everything."""
        for directory in experiment_directories(self._root):
            with self._losing(Experiment.kind, directory.name, directory / META):
                self._experiment(directory)
        for directory in (*directories(self._root), *directories(self._root / TRASH)):
            if (directory / META).is_file() and not directory.name.isdecimal():
                reason = f"{directory.relative_to(self._root)}: its id is no number"
                self.losses.append(Loss(kind=Experiment.kind, id=directory.name, reason=reason))
        for directory in directories(self._root / MODELS):
            with self._losing(RegisteredModel.kind, directory.name, directory / META):
                self._registered_model(directory)

    @contextlib.contextmanager
    def _losing(
        self, kind: str, id: str, path: Path, *, field: str = "", parent: str = ""
    ) -> Iterator[None]:
        """Make a loss of what cannot be read."""
        try:
            yield
        except _UNREADABLE as exc:
            reason = f"{path.relative_to(self._root)}: {_reason(exc)}"
            self.losses.append(Loss(kind=kind, id=id, field=field, parent=parent, reason=reason))

    def _texts(
        self, directory: Path, table: str, kind: str, id: str, parent: str = "", **key: Any
    ) -> dict[str, str]:
        """Read values in files that their keys name into a table, and return them."""
        found: dict[str, str] = {}
        name, value = {
            "logged_model_tags": ("tag_key", "tag_value"),
            "logged_model_params": ("param_key", "param_value"),
        }.get(table, ("key", "value"))
        for text, path in files_below(directory):
            field = f"{directory.name}.{text}"
            with self._losing(kind, id, path, field=field, parent=parent):
                found[text] = read_text(path)
                self._tables.add(table, **key, **{name: text, value: found[text]})
        return found

    # Experiments and runs

    def _experiment(self, directory: Path) -> None:
        meta = read_meta(directory)
        id = directory.name
        self._tables.add(
            "experiments",
            experiment_id=int(id),
            name=str(meta["name"]),
            artifact_location=meta.get("artifact_location"),
            # Where it is decides, whatever it says of itself.
            lifecycle_stage="deleted" if directory.parent.name == TRASH else "active",
            creation_time=meta.get("creation_time"),
            last_update_time=meta.get("last_update_time"),
        )
        self._texts(
            directory / "tags", "experiment_tags", Experiment.kind, id, experiment_id=int(id)
        )
        datasets = self._datasets(directory)
        for run in directories(directory):
            if run.name not in _NOT_RUNS and (run / META).is_file():
                with self._losing(Run.kind, run.name, run / META, parent=id):
                    self._run(run, id, datasets)
        for model in directories(directory / MODELS):
            with self._losing(LoggedModel.kind, model.name, model / META, parent=id):
                self._logged_model(model, id)
        for trace in directories(directory / "traces"):
            if (trace / _TRACE_INFO).is_file():  # else there are only files of one
                with self._losing(Trace.kind, trace.name, trace / _TRACE_INFO, parent=id):
                    self._trace(trace, id)

    def _datasets(self, experiment: Path) -> set[str]:
        """Read the datasets of an experiment; return the names of their directories."""
        found: set[str] = set()
        for directory in directories(experiment / "datasets"):
            field = f"datasets.{directory.name}"
            with self._losing(Experiment.kind, experiment.name, directory / META, field=field):
                meta = read_meta(directory)
                self._tables.add(
                    "datasets",
                    dataset_uuid=_made_id(experiment.name, directory.name),
                    experiment_id=int(experiment.name),
                    name=meta["name"],
                    digest=meta["digest"],
                    dataset_source_type=meta.get("source_type"),
                    dataset_source=meta.get("source"),
                    dataset_schema=meta.get("schema"),
                    dataset_profile=meta.get("profile"),
                )
                found.add(directory.name)
        return found

    def _run(self, directory: Path, experiment_id: str, datasets: set[str]) -> None:
        meta = read_meta(directory)
        id = directory.name  # MLflow refuses another one inside
        status, source = meta.get("status", "RUNNING"), meta.get("source_type")
        added = self._tables.add(
            "runs",
            run_uuid=id,
            experiment_id=int(experiment_id),
            name=meta.get("run_name") or meta.get("name") or None,
            user_id=meta.get("user_id"),
            status=RunStatus.to_string(status) if isinstance(status, int) else status,
            start_time=meta.get("start_time"),
            end_time=meta.get("end_time"),
            deleted_time=meta.get("deleted_time"),
            lifecycle_stage=meta.get("lifecycle_stage", "active"),
            artifact_uri=meta.get("artifact_uri"),
            source_type=SourceType.to_string(source) if isinstance(source, int) else source,
            source_name=meta.get("source_name"),
            source_version=meta.get("source_version"),
            entry_point_name=meta.get("entry_point_name"),
        )
        if not added:
            raise ValueError(f"another run has the id {id}")
        self._texts(directory / "tags", "tags", Run.kind, id, experiment_id, run_uuid=id)
        self._texts(directory / "params", "params", Run.kind, id, experiment_id, run_uuid=id)
        for key, path in files_below(directory / "metrics"):
            field = f"metrics.{key}"
            with self._losing(Run.kind, id, path, field=field, parent=experiment_id):
                self._points(id, key, path)
        for link in directories(directory / "inputs"):
            with self._losing(Run.kind, id, link / META, field="inputs", parent=experiment_id):
                self._input(link, id, experiment_id, datasets)
        for link in directories(directory / "outputs"):
            with self._losing(Run.kind, id, link / META, field="outputs", parent=experiment_id):
                self._output(link, id)

    def _points(self, run_id: str, key: str, path: Path) -> None:
        rows: list[tuple[Any, ...]] = []
        try:
            for point in read_points(path):
                is_nan = math.isnan(point.value)
                value = 0.0 if is_nan else point.value
                rows.append((run_id, key, point.timestamp, point.step, value, is_nan))
                if len(rows) == 1:
                    self._tables.add("latest_metrics", run_uuid=run_id, key=key)
                if len(rows) == _POINTS_AT_ONCE:
                    self._add_points(rows)
        finally:
            # A history ends where its file is damaged: what is before is kept.
            self._add_points(rows)

    def _add_points(self, rows: list[tuple[Any, ...]]) -> None:
        columns = ("run_uuid", "key", "timestamp", "step", "value", "is_nan")
        self.repeated_points += len(rows) - self._tables.add_all("metrics", columns, rows)
        rows.clear()

    def _input(self, link: Path, run_id: str, experiment_id: str, datasets: set[str]) -> None:
        meta = read_meta(link)
        source_id = str(meta["source_id"])
        uuid = _made_id(run_id, "inputs", link.name)
        if meta["source_type"] == "MODEL":
            edge = ("RUN_INPUT", run_id, "MODEL_INPUT", source_id)
        elif source_id in datasets:
            edge = ("DATASET", _made_id(experiment_id, source_id), "RUN", run_id)
        else:
            raise ValueError(f"there is no dataset {source_id}")
        self._link(uuid, edge, 0)
        for name, value in (meta.get("tags") or {}).items():
            self._tables.add("input_tags", input_uuid=uuid, name=name, value=str(value))

    def _output(self, link: Path, run_id: str) -> None:
        meta = read_meta(link)
        edge = ("RUN_OUTPUT", run_id, "MODEL_OUTPUT", str(meta.get("destination_id", link.name)))
        self._link(_made_id(run_id, "outputs", link.name), edge, meta.get("step", 0))

    def _link(self, uuid: str, edge: tuple[str, str, str, str], step: int) -> None:
        columns = (
            *("input_uuid", "source_type", "source_id"),
            *("destination_type", "destination_id", "step"),
        )
        self._tables.add_all("inputs", columns, [(uuid, *edge, step)])

    # Logged models

    def _logged_model(self, directory: Path, experiment_id: str) -> None:
        meta = read_meta(directory)
        id, kind = directory.name, LoggedModel.kind
        status = meta.get("status", "UNSPECIFIED")
        added = self._tables.add(
            "logged_models",
            model_id=id,
            experiment_id=int(experiment_id),
            name=meta.get("name"),
            artifact_location=meta["artifact_location"],
            creation_timestamp_ms=meta.get("creation_timestamp"),
            last_updated_timestamp_ms=meta.get("last_updated_timestamp"),
            status=status if isinstance(status, int) else LoggedModelStatus(status).to_int(),
            lifecycle_stage=meta.get("lifecycle_stage", "active"),
            model_type=meta.get("model_type"),
            source_run_id=meta.get("source_run_id"),
            status_message=meta.get("status_message"),
        )
        if not added:
            raise ValueError(f"another logged model has the id {id}")
        for name in ("tags", "params"):
            table = f"logged_model_{name}"
            self._texts(directory / name, table, kind, id, experiment_id, model_id=id)
        for key, path in files_below(directory / "metrics"):
            field = f"metrics.{key}"
            with self._losing(kind, id, path, field=field, parent=experiment_id):
                self._model_points(id, key, path)

    def _model_points(self, model_id: str, key: str, path: Path) -> None:
        """Read the values of a metric: MLflow's databases have one per time, step and run."""
        seen: dict[tuple[int, int, str], Point] = {}
        for point in read_points(path):
            run_id, *words = point.more
            if seen.setdefault((point.timestamp, point.step, run_id), point) is not point:
                continue
            self._tables.add(
                "logged_model_metrics",
                model_id=model_id,
                metric_name=key,
                metric_timestamp_ms=point.timestamp,
                metric_step=point.step,
                run_id=run_id,
                metric_value=point.value,
                dataset_name=" ".join(words[:-1]) if words else None,
                dataset_digest=words[-1] if words else None,
            )
        others = {
            str(point)
            for point in read_points(path)
            if str(seen[point.timestamp, point.step, point.more[0]]) != str(point)
        }
        if others:
            raise ValueError(f"{len(others)} values at times and steps that have another one")

    # Traces

    def _trace(self, directory: Path, experiment_id: str) -> None:
        info = TraceInfo.from_dict(read_meta(directory, _TRACE_INFO))
        id, kind = directory.name, Trace.kind
        added = self._tables.add(
            "trace_info",
            request_id=id,
            experiment_id=int(experiment_id),
            timestamp_ms=info.request_time,
            execution_time_ms=info.execution_duration,
            status=str(info.state.value),
            client_request_id=info.client_request_id,
            request_preview=info.request_preview,
            response_preview=info.response_preview,
        )
        if not added:
            raise ValueError(f"another trace has the id {id}")
        for name, table in (("tags", "trace_tags"), ("request_metadata", "trace_request_metadata")):
            self._texts(directory / name, table, kind, id, experiment_id, request_id=id)
        for name, path in files_below(directory / "assessments"):
            field = f"assessments.{name.removesuffix('.yaml')}"
            with self._losing(kind, id, path, field=field, parent=experiment_id):
                self._assessment(path, id)

    def _assessment(self, path: Path, trace_id: str) -> None:
        read = Assessment.from_dictionary(read_meta(path.parent, path.name))
        error = None
        if read.feedback is not None:
            type, value = "feedback", read.feedback.value
            error = read.feedback.error and json.dumps(read.feedback.error.to_dictionary())
        elif read.expectation is not None:
            type, value = "expectation", read.expectation.value
        else:
            type, value = "issue", read.issue.to_dictionary()
        self._tables.add(
            "assessments",
            assessment_id=read.assessment_id or path.stem,
            trace_id=trace_id,
            name=read.name,
            assessment_type=type,
            value=json.dumps(value),
            error=error,
            created_timestamp=read.create_time_ms,
            last_updated_timestamp=read.last_update_time_ms,
            source_type=read.source.source_type,
            source_id=read.source.source_id,
            run_id=read.run_id,
            span_id=read.span_id,
            rationale=read.rationale,
            overrides=read.overrides,
            valid=read.valid is not False,
            assessment_metadata=json.dumps(read.metadata) if read.metadata else None,
        )

    # Registered models

    def _registered_model(self, directory: Path) -> None:
        meta = read_meta(directory)
        name, kind = str(meta.get("name", directory.name)), RegisteredModel.kind
        self._tables.add(
            "registered_models",
            name=name,
            creation_time=meta.get("creation_timestamp"),
            last_updated_time=meta.get("last_updated_timestamp"),
            description=meta.get("description"),
        )
        self._texts(directory / "tags", "registered_model_tags", kind, name, name=name)
        for alias, path in files_below(directory / "aliases"):
            with self._losing(kind, name, path, field=f"aliases.{alias}"):
                version = int(read_text(path))
                self._tables.add(
                    "registered_model_aliases", name=name, alias=alias, version=version
                )
        for version_directory in directories(directory):
            if version_directory.name.startswith("version-"):
                number = version_directory.name.removeprefix("version-")
                id = f"{name}/{number}"
                with self._losing("model_version", id, version_directory / META):
                    self._version(version_directory, name)

    def _version(self, directory: Path, name: str) -> None:
        meta = read_meta(directory)
        version = int(meta["version"])
        self._tables.add(
            "model_versions",
            name=name,
            version=version,
            creation_time=meta.get("creation_timestamp"),
            last_updated_time=meta.get("last_updated_timestamp"),
            description=meta.get("description"),
            user_id=meta.get("user_id"),
            current_stage=meta.get("current_stage") or "None",
            source=meta.get("source"),
            storage_location=meta.get("storage_location"),
            run_id=meta.get("run_id"),
            run_link=meta.get("run_link"),
            status=meta.get("status", "READY"),
            status_message=meta.get("status_message"),
        )
        self._texts(
            directory / "tags",
            "model_version_tags",
            "model_version",
            f"{name}/{version}",
            name=name,
            version=version,
        )


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    if isinstance(exc, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(exc, KeyError):
        return f"{exc} is missing"
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


def _made_id(*parts: str) -> str:
    """Return an id for what has none of its own beyond where it lies: always the same one."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]
