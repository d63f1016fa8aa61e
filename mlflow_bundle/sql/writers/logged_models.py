"""Writes logged models; their metrics once the runs are there through which they were logged."""

from __future__ import annotations

import json
import math
from typing import Any

from mlflow.entities import LoggedModelStatus
from mlflow.utils.uri import append_to_uri_path

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import (
    Entity,
    LoggedModel,
    LoggedModelMetric,
    Run,
    bounded,
    decode_number,
)
from mlflow_bundle.importing import NEW
from mlflow_bundle.later import Later
from mlflow_bundle.references import MODEL_VERSIONS_TAG
from mlflow_bundle.remap import Placed
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import FileWriter, Writer, known, now_ms, text
from mlflow_bundle.sql.writers.origins import OriginTags

_TABLE = "logged_models"
_COMPARED = ("name", "status", "lifecycle_stage", "model_type", "source_run_id", "status_message")
_METRIC_KEY = ("metric_name", "metric_timestamp_ms", "metric_step", "run_id")
_PENDING = LoggedModelStatus.PENDING.to_int()


class LoggedModelWriter(Writer):
    """Writes logged models."""

    kind = LoggedModel.kind

    def __init__(self, to: Target) -> None:
        super().__init__(to)
        self._origins = OriginTags(
            to,
            table=_TABLE,
            id="model_id",
            tags="logged_model_tags",
            within="experiment_id",
            key="tag_key",
            value="tag_value",
        )
        self._later = Later()
        """Metrics whose run is still to come, as rows."""

    def close(self) -> None:
        self._later.close()

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, LoggedModel)
        place = self._to.experiment(entity.experiment_id, self.kind, entity.id)
        id, root = self._find(entity, place)
        self._to.remap.place(
            self.kind, entity.id, id, source_root=entity.artifact_location, sink_root=root
        )

    def _find(self, model: LoggedModel, place: Placed) -> tuple[str, str]:
        here = self._to.row_before(
            _TABLE, {"model_id": model.id}, "experiment_id", "artifact_location"
        )
        if here is not None and str(here["experiment_id"]) == place.id:
            return model.id, here["artifact_location"]
        if place.id == NEW:
            return (model.id if here is None else NEW), ""
        if self._to.was_here(place.id):
            id = self._origins.find(int(place.id), self._to.origins(model.id, model.tags))
            if id is not None:
                found = self._to.row(_TABLE, {"model_id": id}, "artifact_location")
                return id, found["artifact_location"] if found else ""
        id = self._to.free_id(_TABLE, "model_id", model.id, within=place.id, prefix="m-")
        if self._to.options.artifacts == "reference":
            return id, model.artifact_location
        return id, str(append_to_uri_path(place.sink_root, "models", id, "artifacts"))

    def write(self, content: Content, *, dry: bool) -> None:
        model = content.entity
        assert isinstance(model, LoggedModel)
        placed = self._to.remap.find(self.kind, model.id)
        if placed is None:
            return
        here = self._to.row_before(_TABLE, {"model_id": placed.id}, *_COMPARED)
        if here is None and dry:
            return
        if here is not None and here["lifecycle_stage"] == "deleted" != model.lifecycle_stage:
            reason = "deleted at the destination"
            self._to.report.conflict(self.kind, model.id, "lifecycle_stage", reason)
            self._to.report.found(self.kind)
            return
        root = placed.sink_root
        if here is None and content.artifacts.mode == "reference" and model.artifact_location:
            root = model.artifact_location
            self._to.remap.place(self.kind, model.id, placed.id, source_root=root, sink_root=root)
        files = FileWriter(
            self._to, kind=self.kind, id=model.id, location=root, tree=content.artifacts
        )
        written = 0 if dry else files.write(fresh=here is None)
        with Merge(self._to, self.kind, model.id, fresh=here is None, dry=dry) as merge:
            merge.changed |= bool(written)
            self._write_rows(merge, model, placed.id, root, here)
            merge.count()

    def _write_rows(
        self, merge: Merge, model: LoggedModel, id: str, root: str, here: Row | None
    ) -> None:
        nulls = model.null_fields
        place = self._to.experiment(model.experiment_id, self.kind, model.id)
        experiment_id = int(place.id)
        created = now_ms() if model.creation_time is None else model.creation_time
        updated = model.last_updated_timestamp
        row: Row = {
            "model_id": id,
            "experiment_id": experiment_id,
            "name": model.name,
            "artifact_location": root,
            "creation_timestamp_ms": created,
            "last_updated_timestamp_ms": created if updated is None else updated,
            "status": _status(model.status),
            "lifecycle_stage": model.lifecycle_stage,
            "model_type": text(model.model_type, "model_type", nulls),
            "source_run_id": self._source_run(model),
            "status_message": text(model.status_message, "status_message", nulls, empty=None),
        }
        merge.own(
            _TABLE,
            row,
            here,
            key=("model_id",),
            compared=_COMPARED,
            news=() if here is None else _news(model, here),
            holds=id,
        )
        within = {"model_id": id, "experiment_id": experiment_id}
        tags = self._to.tags_of(self.kind, model.tags)
        if here is not None:
            tags.pop(provenance.ORIGIN, None)
        elif id != model.id:
            tags[provenance.ORIGIN] = provenance.origin_of(model.id, model.tags)
        merge.map(
            "logged_model_tags",
            within,
            tags,
            name="tags",
            key="tag_key",
            value="tag_value",
            joined=self._joined_versions(merge, within, tags),
        )
        merge.map(
            "logged_model_params",
            within,
            model.params,
            name="params",
            key="param_key",
            value="param_value",
        )
        self._write_metrics(merge, model, id, experiment_id)

    def _source_run(self, model: LoggedModel) -> str | None:
        if not model.source_run_id:
            return text("", "source_run_id", model.null_fields)
        run = self._to.remap.find(Run.kind, model.source_run_id)
        if run is None:
            self._to.report.adjust(self.kind, "source_run_id (points outside)")
            return model.source_run_id
        return run.id

    def _joined_versions(self, merge: Merge, within: Row, tags: dict[str, str]) -> dict[str, str]:
        """Take the tag of versions out of ``tags``; return it with those that are here too."""
        bundle = tags.pop(MODEL_VERSIONS_TAG, None)
        if bundle is None:
            return {}
        here = ""
        if not merge.fresh:
            found = merge.here_map("logged_model_tags", within, key="tag_key", value="tag_value")
            here = found.get(MODEL_VERSIONS_TAG, "")
        return {MODEL_VERSIONS_TAG: _join(here, bundle)}

    # Metrics

    def _write_metrics(self, merge: Merge, model: LoggedModel, id: str, experiment: int) -> None:
        rows: list[Row] = []
        waits: list[Row] = []
        for metric in model.metrics:
            run = self._to.remap.find(Run.kind, metric.run_id) if metric.run_id else None
            run_id = metric.run_id if run is None else run.id
            if run is None and (run_id is None or not self._to.is_here("runs", "run_uuid", run_id)):
                # A metric lives in a run: without that run there is no place for it.
                self._to.report.adjust(self.kind, "metrics (of a run outside)")
                continue
            row = _metric_row(metric, id, experiment, str(run_id), kept=id == model.id)
            if not math.isfinite(decode_number(metric.value)):
                field = "metrics (NaN or infinity, which the database cannot hold)"
                self._to.report.adjust(self.kind, field)
            is_here = self._to.is_here("runs", "run_uuid", str(run_id))
            (rows if is_here else waits).append(row)
        _merge_metrics(merge, id, rows)
        if waits and not merge.dry:
            merge.changed |= merge.fresh
            self._later.add((model.id, id, waits))

    def finish(self) -> None:
        for model_id, id, rows in self._later.read():
            ready = [row for row in rows if self._to.is_here("runs", "run_uuid", row["run_id"])]
            for _ in range(len(rows) - len(ready)):
                self._to.report.adjust(self.kind, "metrics (of a run outside)")
            with Merge(self._to, self.kind, model_id, fresh=False, dry=False) as merge:
                _merge_metrics(merge, id, ready)


def _status(name: str) -> int:
    try:
        return int(LoggedModelStatus(name).to_int())
    except ValueError:
        return int(LoggedModelStatus.UNSPECIFIED.to_int())


def _news(model: LoggedModel, here: Row) -> tuple[str, ...]:
    ended = ("status", "status_message") if here["status"] == _PENDING else ()
    deleted = model.lifecycle_stage == "deleted" != here["lifecycle_stage"]
    return (*ended, *(("lifecycle_stage",) if deleted else ()))


def _merge_metrics(merge: Merge, model_id: str, rows: list[Row]) -> None:
    merge.rows(
        "logged_model_metrics",
        {"model_id": model_id},
        rows,
        key=_METRIC_KEY,
        name="metrics",
        compared=("metric_value",),
    )


def _metric_row(
    metric: LoggedModelMetric, model_id: str, experiment_id: int, run_id: str, *, kept: bool
) -> Row:
    value = decode_number(metric.value)
    value = 0.0 if math.isnan(value) else bounded(value)
    return {
        "model_id": model_id,
        "metric_name": metric.key,
        "metric_timestamp_ms": metric.timestamp,
        "metric_step": metric.step,
        "metric_value": value,
        "experiment_id": experiment_id,
        "run_id": run_id,
        "dataset_uuid": known(metric.dataset_uuid) if kept else None,
        "dataset_name": metric.dataset_name,
        "dataset_digest": metric.dataset_digest,
    }


def _join(here: str, bundle: str) -> str:
    """Return the versions of both texts, those ``here`` first."""
    try:
        mine, other = json.loads(here or "[]"), json.loads(bundle)
    except ValueError:
        return bundle
    if not (isinstance(mine, list) and isinstance(other, list)):
        return bundle
    new = [entry for entry in other if entry not in mine]
    if not here:
        return bundle
    joined: list[Any] = [*mine, *new]
    return json.dumps(joined) if new else here
