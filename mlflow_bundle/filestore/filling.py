"""Reads the files of a file store into tables.

What cannot be read is a loss of what it belongs to, and stops nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Assessment, LoggedModelStatus, RunStatus, SourceType, TraceInfo
from mlflow.entities.model_registry.model_version_stages import ALL_STAGES, STAGE_DELETED_INTERNAL
from mlflow.entities.model_registry.model_version_status import ModelVersionStatus
from mlflow.exceptions import MlflowException

from mlflow_bundle.entities import Experiment, LoggedModel, RegisteredModel, Run
from mlflow_bundle.filestore.files import (
    ARTIFACTS,
    META,
    MODELS,
    TRACE_INFO,
    TRASH,
    Point,
    directories,
    experiment_directories,
    files_below,
    holds_any,
    is_experiment_id,
    read_meta,
    read_points,
    read_text,
)
from mlflow_bundle.filestore.meta import integer, shown
from mlflow_bundle.filestore.tables import Tables
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.report import Loss

_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError),
    *(sqlite3.Error, MlflowException),
)
"""What comes of a file that cannot be opened, or holds something else than MLflow wrote."""

_NOT_RUNS = frozenset({"tags", "datasets", "traces", MODELS, TRASH})
_OF_RUNS = frozenset({META, "tags", "params", "metrics", "inputs", "outputs"})
_OF_TRACES = frozenset({TRACE_INFO, "tags", "request_metadata", "assessments"})
"""What a directory of one has beside files that were logged; some have only those."""

_LIFECYCLE = ("active", "deleted")
_RUN_STATUSES = {number: RunStatus.to_string(number) for number in RunStatus.all_status()}
_SOURCE_TYPES = SourceType.SOURCETYPE_TO_STRING
_MODEL_STATUSES = {status.to_int(): status.value for status in LoggedModelStatus}
_VERSION_STATUSES = [ModelVersionStatus.to_string(n) for n in ModelVersionStatus.all_status()]
_VERSION_STAGES = (*ALL_STAGES, STAGE_DELETED_INTERNAL)
_VERSION = re.compile("[1-9][0-9]{0,8}")

_POINTS_AT_ONCE = 10_000
_REASON_LENGTH = 300


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
            if (directory / META).is_file() and not is_experiment_id(directory.name):
                self._lose(Experiment.kind, directory.name, directory, "its id is no number")
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
            self._lose(kind, id, path, _reason(exc), field=field, parent=parent)

    def _lose(
        self, kind: str, id: str, path: Path, reason: str, *, field: str = "", parent: str = ""
    ) -> None:
        reason = _utf8(f"{path.relative_to(self._root)}: {reason}")
        loss = Loss(kind=kind, id=_utf8(id), field=_utf8(field), parent=parent, reason=reason)
        self.losses.append(loss)

    def _texts(
        self, directory: Path, table: str, kind: str, id: str, parent: str = "", **key: Any
    ) -> None:
        """Read values in files that their keys name into a table."""
        name, value = {
            "logged_model_tags": ("tag_key", "tag_value"),
            "logged_model_params": ("param_key", "param_value"),
        }.get(table, ("key", "value"))
        for text, path in self._files_below(directory, kind, id, parent):
            field = f"{directory.name}.{text}"
            with self._losing(kind, id, path, field=field, parent=parent):
                self._tables.add(table, **key, **{name: text, value: read_text(path)})

    def _files_below(
        self, directory: Path, kind: str, id: str, parent: str
    ) -> Iterator[tuple[str, Path]]:
        with self._losing(kind, id, directory, field=directory.name, parent=parent):
            yield from files_below(directory)

    # Experiments and runs

    def _experiment(self, directory: Path) -> None:
        meta = read_meta(directory)
        id = directory.name
        if str(int(id)) != id:
            raise ValueError("its id begins with 0")
        self._tables.add(
            "experiments",
            experiment_id=integer("id", int(id)),
            name=meta.name(),
            artifact_location=meta.text("artifact_location"),
            # Where it is decides, whatever it says of itself.
            lifecycle_stage="deleted" if directory.parent.name == TRASH else "active",
            creation_time=meta.number("creation_time"),
            last_update_time=meta.number("last_update_time"),
        )
        self._texts(
            directory / "tags", "experiment_tags", Experiment.kind, id, experiment_id=int(id)
        )
        datasets = self._datasets(directory)
        for run in directories(directory):
            if run.name not in _NOT_RUNS:
                with self._losing(Run.kind, run.name, run / META, parent=id):
                    if holds_any(run, _OF_RUNS):
                        self._run(run, id, datasets)
        for model in directories(directory / MODELS):
            with self._losing(LoggedModel.kind, model.name, model / META, parent=id):
                self._logged_model(model, id)
        for trace in directories(directory / "traces"):
            with self._losing(Trace.kind, trace.name, trace / TRACE_INFO, parent=id):
                if holds_any(trace, _OF_TRACES):
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
                    name=meta.name(),
                    digest=meta.text("digest", required=True),
                    dataset_source_type=meta.text("source_type", required=True),
                    dataset_source=meta.text("source", required=True),
                    dataset_schema=meta.text("schema"),
                    dataset_profile=meta.text("profile"),
                )
                found.add(directory.name)
        return found

    def _run(self, directory: Path, experiment_id: str, datasets: set[str]) -> None:
        meta = read_meta(directory)
        id = directory.name  # MLflow refuses another one inside
        meta.require("experiment_id", "end_time")
        self._tables.add(
            "runs",
            run_uuid=id,
            experiment_id=int(experiment_id),
            name=meta.text("run_name") or meta.text("name") or None,
            user_id=meta.text("user_id", required=True),
            status=meta.one_of(
                "status", _RUN_STATUSES.values(), default="RUNNING", numbers=_RUN_STATUSES
            ),
            start_time=meta.number("start_time", required=True),
            end_time=meta.number("end_time"),
            deleted_time=meta.number("deleted_time"),
            lifecycle_stage=meta.one_of("lifecycle_stage", _LIFECYCLE, default="active"),
            # The first MLflow had the files where they still are by default, and did not say so.
            artifact_uri=meta.text("artifact_uri") or (directory / ARTIFACTS).as_uri(),
            source_type=meta.one_of("source_type", _SOURCE_TYPES.values(), numbers=_SOURCE_TYPES),
            source_name=meta.text("source_name"),
            source_version=meta.text("source_version"),
            entry_point_name=meta.text("entry_point_name"),
        )
        self._texts(directory / "tags", "tags", Run.kind, id, experiment_id, run_uuid=id)
        self._texts(directory / "params", "params", Run.kind, id, experiment_id, run_uuid=id)
        for key, path in self._files_below(directory / "metrics", Run.kind, id, experiment_id):
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
                if len(rows) == 1:  # of each part of it
                    self._tables.add_all("latest_metrics", ("run_uuid", "key"), [(run_id, key)])
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
        source_id = meta.name("source_id")
        uuid = _made_id(run_id, "inputs", link.name)
        tags = meta.mapping("tags")
        meta.require("source_type", "destination_type", "destination_id")
        if meta.one_of("source_type", ("DATASET", "MODEL"), default="DATASET") == "MODEL":
            edge = ("RUN_INPUT", run_id, "MODEL_INPUT", source_id)
        elif source_id in datasets:
            edge = ("DATASET", _made_id(experiment_id, source_id), "RUN", run_id)
        else:
            raise ValueError(f"there is no dataset {source_id}")
        self._link(uuid, edge, 0)
        for name, value in tags.items():
            self._tables.add("input_tags", input_uuid=uuid, name=name, value=str(value))

    def _output(self, link: Path, run_id: str) -> None:
        meta = read_meta(link)
        meta.require("destination_type", "tags")
        edge = ("RUN_OUTPUT", run_id, "MODEL_OUTPUT", meta.name("destination_id"))
        step = meta.number("step", required=True)
        self._link(_made_id(run_id, "outputs", link.name), edge, step)

    def _link(self, uuid: str, edge: tuple[str, str, str, str], step: int | None) -> None:
        columns = (
            *("input_uuid", "source_type", "source_id"),
            *("destination_type", "destination_id", "step"),
        )
        self._tables.add_all("inputs", columns, [(uuid, *edge, step)])

    # Logged models

    def _logged_model(self, directory: Path, experiment_id: str) -> None:
        meta = read_meta(directory)
        id, kind = directory.name, LoggedModel.kind
        meta.require("experiment_id", "model_id", "status")
        status = meta.one_of(
            "status", _MODEL_STATUSES.values(), default="READY", numbers=_MODEL_STATUSES
        )
        self._tables.add(
            "logged_models",
            model_id=id,
            experiment_id=int(experiment_id),
            name=meta.name(),
            artifact_location=meta.name("artifact_location"),
            creation_timestamp_ms=meta.number("creation_timestamp", required=True),
            last_updated_timestamp_ms=meta.number("last_updated_timestamp", required=True),
            status=LoggedModelStatus(status).to_int(),
            lifecycle_stage=meta.one_of("lifecycle_stage", _LIFECYCLE, default="active"),
            model_type=meta.text("model_type"),
            source_run_id=meta.text("source_run_id"),
            status_message=meta.text("status_message"),
        )
        for name in ("tags", "params"):
            table = f"logged_model_{name}"
            self._texts(directory / name, table, kind, id, experiment_id, model_id=id)
        for key, path in self._files_below(directory / "metrics", kind, id, experiment_id):
            field = f"metrics.{key}"
            with self._losing(kind, id, path, field=field, parent=experiment_id):
                self._model_points(id, key, path)

    def _model_points(self, model_id: str, key: str, path: Path) -> None:
        """Read the values of a metric: MLflow's databases have one per time, step and run."""
        seen: dict[tuple[int, int, str], Point] = {}
        for point in read_points(path, of_model=True):
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
            for point in read_points(path, of_model=True)
            if str(seen[point.timestamp, point.step, point.more[0]]) != str(point)
        }
        if others:
            raise ValueError(f"{len(others)} values at times and steps that have another one")

    # Traces

    def _trace(self, directory: Path, experiment_id: str) -> None:
        meta = read_meta(directory, TRACE_INFO)
        time, took = "timestamp_ms", "execution_time_ms"
        if "request_id" not in meta.fields:  # which it had before MLflow 3
            meta.require("trace_id", "trace_location", "request_time", "state")
            time, took = "request_time", "execution_duration_ms"
        info = TraceInfo.from_dict(meta.fields)
        id, kind, duration = directory.name, Trace.kind, info.execution_duration
        self._tables.add(
            "trace_info",
            request_id=id,
            experiment_id=int(experiment_id),
            timestamp_ms=integer(time, info.request_time),
            execution_time_ms=None if duration is None else integer(took, duration),
            status=str(info.state.value),
            client_request_id=meta.text("client_request_id"),
            request_preview=meta.text("request_preview"),
            response_preview=meta.text("response_preview"),
        )
        for name, table in (("tags", "trace_tags"), ("request_metadata", "trace_request_metadata")):
            self._texts(directory / name, table, kind, id, experiment_id, request_id=id)
        for name, path in self._files_below(directory / "assessments", kind, id, experiment_id):
            field = f"assessments.{name.removesuffix('.yaml')}"
            with self._losing(kind, id, path, field=field, parent=experiment_id):
                self._assessment(path, id)

    def _assessment(self, path: Path, trace_id: str) -> None:
        meta = read_meta(path.parent, path.name)
        read = Assessment.from_dictionary(meta.fields)
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
            assessment_id=meta.text("assessment_id") or path.stem,
            trace_id=trace_id,
            name=meta.text("assessment_name", required=True),
            assessment_type=type,
            value=json.dumps(value),
            error=error,
            created_timestamp=read.create_time_ms,
            last_updated_timestamp=read.last_update_time_ms,
            source_type=read.source.source_type,
            source_id=read.source.source_id,
            run_id=read.run_id,
            span_id=meta.text("span_id"),
            rationale=meta.text("rationale"),
            overrides=meta.text("overrides"),
            valid=read.valid is not False,
            assessment_metadata=json.dumps(read.metadata) if read.metadata else None,
        )

    # Registered models

    def _registered_model(self, directory: Path) -> None:
        meta = read_meta(directory)
        name, kind = meta.name(), RegisteredModel.kind
        self._tables.add(
            "registered_models",
            name=name,
            creation_time=meta.number("creation_timestamp"),
            last_updated_time=meta.number("last_updated_timestamp"),
            description=meta.text("description"),
        )
        self._texts(directory / "tags", "registered_model_tags", kind, name, name=name)
        versions: set[int] = set()
        for version_directory in directories(directory):
            if version_directory.name.startswith("version-"):
                number = version_directory.name.removeprefix("version-")
                id = f"{name}/{number}"
                with self._losing("model_version", id, version_directory / META):
                    versions.add(self._version(version_directory, name))
        for alias, path in self._files_below(directory / "aliases", kind, name, ""):
            with self._losing(kind, name, path, field=f"aliases.{alias}"):
                version = _version_number(read_text(path).strip())
                if version not in versions:
                    raise ValueError(f"there is no version {version}")
                self._tables.add(
                    "registered_model_aliases", name=name, alias=alias, version=version
                )

    def _version(self, directory: Path, name: str) -> int:
        meta = read_meta(directory)
        version = _version_number(str(meta.fields["version"]))
        meta.require("name")
        self._tables.add(
            "model_versions",
            name=name,
            version=version,
            creation_time=meta.number("creation_timestamp", required=True),
            last_updated_time=meta.number("last_updated_timestamp"),
            description=meta.text("description"),
            user_id=meta.text("user_id"),
            current_stage=meta.one_of("current_stage", _VERSION_STAGES) or "None",
            source=meta.text("source"),
            storage_location=meta.text("storage_location"),
            run_id=meta.text("run_id"),
            run_link=meta.text("run_link"),
            status=meta.one_of("status", _VERSION_STATUSES, default="READY"),
            status_message=meta.text("status_message"),
        )
        self._texts(
            directory / "tags",
            "model_version_tags",
            "model_version",
            f"{name}/{version}",
            name=name,
            version=version,
        )
        return version


def _version_number(text: str) -> int:
    if not _VERSION.fullmatch(text):
        raise ValueError(f"version: expected a number from 1 on, got {shown(text)}")
    return int(text)


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    if isinstance(exc, UnicodeError):
        return "not UTF-8"
    if isinstance(exc, KeyError):
        return f"{exc} is missing"
    lines = str(exc).strip().splitlines()
    if isinstance(exc, (TypeError, AttributeError, sqlite3.Error)) or not lines:
        return "not what MLflow writes there"  # their texts are about code
    return lines[0] if len(lines[0]) <= _REASON_LENGTH else f"{lines[0][:_REASON_LENGTH]}..."


def _utf8(text: str) -> str:
    """Return a text, which may be a file's name, with escapes where it is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _made_id(*parts: str) -> str:
    """Return an id for what has none of its own beyond where it lies: always the same one."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]
