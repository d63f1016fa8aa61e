"""Writes runs: ids are kept, and where one is taken elsewhere the origin tag tells which it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mlflow.utils.uri import append_to_uri_path
from msgspec import UNSET

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Entity, MetricHistory, Run, bounded
from mlflow_bundle.errors import SinkError
from mlflow_bundle.importing import NEW
from mlflow_bundle.remap import Placed
from mlflow_bundle.report import Report
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.points import Points
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import FileWriter, Writer, known, now_ms, null_names, text
from mlflow_bundle.sql.writers.inputs import InputRows
from mlflow_bundle.sql.writers.origins import OriginTags
from mlflow_bundle.users import USER_TAG

_TABLE = "runs"
_COMPARED = (
    "name",
    "source_type",
    "source_name",
    "entry_point_name",
    "user_id",
    "status",
    "start_time",
    "end_time",
    "deleted_time",
    "source_version",
    "lifecycle_stage",
)
_POINTS_AT_ONCE = 20_000
"""Points of a run that is here already that are looked for at once, about."""

Latest = tuple[int, int, float, bool]
"""Step, timestamp, value (0 for NaN), whether NaN: the greatest is the latest
(``_update_latest_metrics_if_necessary``, mlflow/store/tracking/sqlalchemy_store.py)."""


class RunWriter(Writer):
    """Writes runs."""

    kind = Run.kind

    def __init__(self, to: Target, inputs: InputRows) -> None:
        super().__init__(to)
        self._inputs = inputs
        self._origins = OriginTags(
            to, table=_TABLE, id="run_uuid", tags="tags", within="experiment_id"
        )

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, Run)
        place = self._to.experiment(entity.info.experiment_id, self.kind, entity.id)
        id, root = self._find(entity, place)
        self._to.remap.place(
            self.kind, entity.id, id, source_root=entity.info.artifact_uri, sink_root=root
        )

    def _find(self, run: Run, place: Placed) -> tuple[str, str]:
        """Return id and artifact root that the run has or will have here."""
        here = self._to.row_before(_TABLE, {"run_uuid": run.id}, "experiment_id", "artifact_uri")
        if here is not None and str(here["experiment_id"]) == place.id:
            return run.id, here["artifact_uri"] or ""
        if place.id == NEW:
            return (run.id if here is None else NEW), ""
        if self._to.was_here(place.id):
            id = self._origins.find(int(place.id), self._to.origins(run.id, run.tags))
            if id is not None:
                found = self._to.row(_TABLE, {"run_uuid": id}, "artifact_uri")
                return id, (found and found["artifact_uri"]) or ""
        id = self._to.free_id(_TABLE, "run_uuid", run.id, within=place.id)
        if self._to.options.artifacts == "reference":
            return id, run.info.artifact_uri
        return id, str(append_to_uri_path(place.sink_root, id, "artifacts"))

    def write(self, content: Content, *, dry: bool) -> None:
        run = content.entity
        assert isinstance(run, Run)
        placed = self._to.remap.find(self.kind, run.id)
        if placed is None:
            return
        here = self._to.row_before(_TABLE, {"run_uuid": placed.id}, *_COMPARED, "artifact_uri")
        if here is None and dry:
            return
        if here is not None and self._is_gone(run, here, dry=dry):
            return
        root = self._root(content, placed, here)
        files = FileWriter(
            self._to, kind=self.kind, id=run.id, location=root, tree=content.artifacts
        )
        written = 0 if dry else files.write(fresh=here is None)
        with Merge(self._to, self.kind, run.id, fresh=here is None, dry=dry) as merge:
            merge.changed |= bool(written)
            self._write_rows(merge, run, placed.id, root, here)
            if not dry:
                self._write_points(merge, content, placed.id)
            merge.count()

    def _is_gone(self, run: Run, here: Row, *, dry: bool) -> bool:
        """Whether the run was deleted here, and stays so."""
        if here["lifecycle_stage"] != "deleted":
            return False
        if run.info.lifecycle_stage != "deleted":
            reason = "deleted at the destination"
            self._to.report.conflict(self.kind, run.id, "lifecycle_stage", reason)
            self._to.report.found(self.kind)
            return True
        return False

    def _root(self, content: Content, placed: Placed, here: Row | None) -> str:
        """Where the run's files are, or will be."""
        run = content.entity
        assert isinstance(run, Run)
        if here is None and content.artifacts.mode == "reference" and run.info.artifact_uri:
            self._to.remap.place(
                self.kind,
                run.id,
                placed.id,
                source_root=run.info.artifact_uri,
                sink_root=run.info.artifact_uri,
            )
            return run.info.artifact_uri
        reason = self._to.batch.fits(_TABLE, "artifact_uri", placed.sink_root)
        if reason:
            raise SinkError(
                f"run {run.id}: its artifact location {placed.sink_root}: {reason}",
                status=400,
                hint="a shorter --default-artifact-root makes room",
            )
        return placed.sink_root

    def _write_rows(self, merge: Merge, run: Run, run_id: str, root: str, here: Row | None) -> None:
        info, nulls = run.info, run.info.null_fields
        place = self._to.experiment(info.experiment_id, self.kind, run.id)
        deleted_time = known(info.deleted_time)
        if info.deleted_time is UNSET and info.lifecycle_stage == "deleted":
            deleted_time = now_ms() if here is None or here["deleted_time"] is None else None
        row: Row = {
            "run_uuid": run_id,
            "name": info.run_name,
            # What MLflow writes of runs nowadays: the rest is in tags.
            "source_type": known(info.source_type, "UNKNOWN" if here is None else None),
            "source_name": known(info.source_name, "" if here is None else None),
            "entry_point_name": known(info.entry_point_name, "" if here is None else None),
            "user_id": text(self._user(run), "user_id", nulls),
            "status": info.status,
            "start_time": info.start_time,
            "end_time": info.end_time,
            "deleted_time": deleted_time,
            "source_version": known(info.source_version, "" if here is None else None),
            "lifecycle_stage": info.lifecycle_stage,
            "artifact_uri": root,
            "experiment_id": int(place.id),
        }
        merge.own(
            _TABLE,
            row,
            here,
            key=("run_uuid",),
            compared=_COMPARED,
            news=() if here is None else _news(info.end_time, info.lifecycle_stage, here),
            holds=run_id,
        )
        within = {"run_uuid": run_id}
        tags = self._tags(run, run_id)
        if here is not None:
            # Found by its own id or by this very tag: an origin is given once.
            tags.pop(provenance.ORIGIN, None)
        merge.map("tags", within, tags, name="tags", nulls=null_names(nulls))
        merge.map("params", within, run.params, name="params")
        self._inputs.write(merge, run, run_id, place.id)

    def _user(self, run: Run) -> str:
        options = self._to.options
        return options.user_of(run.info.user_id) if options.use_src_user_id else options.user

    def _tags(self, run: Run, run_id: str) -> dict[str, str]:
        tags = self._to.tags_of(self.kind, run.tags)
        if run_id != run.id:
            tags[provenance.ORIGIN] = provenance.origin_of(run.id, run.tags)
        if not self._to.options.use_src_user_id:
            tags[USER_TAG] = self._to.options.user
            tags[provenance.SOURCE_USER] = run.tags.get(USER_TAG, run.info.user_id)
            self._to.report.adjust(self.kind, "user_id (--use-src-user-id False)")
        return tags

    # Metrics

    def _write_points(self, merge: Merge, content: Content, run_id: str) -> None:
        run = content.entity
        latest: dict[str, Latest] = {}
        refused: set[str] = set()
        folded: dict[str, str] = {}
        points = waiting = 0
        perhaps: list[Points] = []
        for history in content.histories():
            key = history.key
            if key in refused or self._is_refused(run.id, key, folded):
                refused.add(key)
                continue
            some = _points(history, run_id, self._to.report)
            if merge.fresh:
                self._to.batch.insert_points(some)
                points += len(some)
            else:
                perhaps.append(some)
                waiting += len(some)
                if waiting > _POINTS_AT_ONCE:
                    points += self._to.batch.insert_missing(perhaps)
                    perhaps, waiting = [], 0
            top = _latest(some)
            latest[key] = max(latest.get(key, top), top)
        incomplete = self._incomplete(run_id, perhaps) if perhaps else []
        if incomplete:
            points += self._to.batch.insert_missing(incomplete)
        self._write_latest(merge, run_id, latest)
        if points:
            merge.changed = True
            self._to.report.did("metric_point", points)

    def _incomplete(self, run_id: str, points: list[Points]) -> list[Points]:
        """Return those histories of which points may be missing here.

        A look costs less than a transaction of its own, which inserting would need.
        """
        columns = ("key", "value", "timestamp", "step", "is_nan")
        most = _POINTS_AT_ONCE + 1
        rows = self._to.tuples("metrics", {"run_uuid": run_id}, columns, most=most)
        if len(rows) == most:
            return points
        here: dict[str, set[tuple[Any, ...]]] = {}
        for key, *point in rows:
            here.setdefault(key, set()).add(tuple(point))
        return [
            some
            for some in points
            if not here.get(some.key, set()).issuperset(
                zip(some.values, some.timestamps, some.steps, some.is_nan, strict=True)
            )
        ]

    def _is_refused(self, run_id: str, key: str, folded: dict[str, str]) -> bool:
        """Whether the database cannot hold a metric of that name."""
        reason = self._to.batch.fits("metrics", "key", key)
        dialect = self._to.database.dialect
        other = folded.setdefault(dialect.fold(key), key)
        if not reason and other != key:
            column = self._to.table("metrics").c.key
            if dialect.is_one(self._to.connection, column, other, key):
                reason = f"the database takes it for {other!r}"
        if reason:
            self._to.report.lose(self.kind, run_id, reason, field=f"metrics.{key}")
        return bool(reason)

    def _write_latest(self, merge: Merge, run_id: str, latest: dict[str, Latest]) -> None:
        here: dict[str, Latest] = {}
        if not merge.fresh:
            columns = ("key", "step", "timestamp", "value", "is_nan")
            for row in self._to.rows("latest_metrics", {"run_uuid": run_id}, columns):
                here[row["key"]] = (row["step"], row["timestamp"], row["value"], row["is_nan"])
        for key, (step, timestamp, value, is_nan) in latest.items():
            values: Row = {
                "value": value,
                "timestamp": timestamp,
                "step": step,
                "is_nan": is_nan,
            }
            where = {"key": key, "run_uuid": run_id}
            if key not in here:
                row = {**where, **values}
                merge.own(
                    "latest_metrics",
                    row,
                    None,
                    key=("key", "run_uuid"),
                    compared=(),
                    name=f"metrics.{key}",
                )
            elif latest[key][:3] > here[key][:3]:
                merge.replace("latest_metrics", where, values)


def _news(end_time: int | None, stage: str, here: Row) -> tuple[str, ...]:
    """Columns whose change is an addition: the end of a run that was running, a deletion."""
    ended = ("status", "end_time") if here["end_time"] is None and end_time is not None else ()
    deleted = stage == "deleted" and here["lifecycle_stage"] != "deleted"
    return (*ended, *(("lifecycle_stage", "deleted_time") if deleted else ()))


def _points(history: MetricHistory, run_id: str, report: Report) -> Points:
    """Return a history as a database holds it."""
    values: Sequence[float] = history.values
    is_nan = [False] * len(values)
    if not all(map(math.isfinite, values)):
        is_nan = [math.isnan(value) for value in values]
        infinite = sum(map(math.isinf, values))
        if infinite:
            reason = "metrics (infinity, which the database cannot hold)"
            report.adjust(Run.kind, reason, infinite)
        values = [_stored(value) for value in values]
    return Points(history.key, run_id, values, history.timestamps, history.steps, is_nan)


def _stored(value: float) -> float:
    return 0.0 if math.isnan(value) else bounded(value)


def _latest(points: Points) -> Latest:
    """Return the latest of some points."""
    last = max(points.steps)
    if points.steps.count(last) == 1:
        position = points.steps.index(last)
    else:
        values, timestamps = points.values, points.timestamps
        every = [at for at, step in enumerate(points.steps) if step == last]
        position = max(every, key=lambda at: (timestamps[at], values[at]))
    return (
        last,
        points.timestamps[position],
        points.values[position],
        points.is_nan[position],
    )
