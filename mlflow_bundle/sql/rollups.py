"""Tells a server which of its daily sums of traces have to be made again.

Only servers with ``MLFLOW_SQL_TRACE_ROLLUPS_ENABLED`` have such sums; what is enqueued is what
``enqueue_rollup_rebuild_partitions`` of MLflow would enqueue
(mlflow/store/tracking/utils/sql_trace_rollups.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from mlflow.store.tracking.utils import sql_trace_rollups as rollups
from sqlalchemy.orm import Session

from mlflow_bundle.sql.database import Database

_DAY_MS = 86_400_000


class RollupQueue:
    """Collects days of experiments in which traces were written."""

    def __init__(self) -> None:
        self._enabled = rollups.rollups_enabled()
        self._days: set[tuple[rollups.RollupFamily, int, int]] = set()

    def add(self, experiment_id: int, time_ms: int, span_times_ms: Iterable[int]) -> None:
        """Note a trace that was written.

        Args:
            experiment_id: Where it lies.
            time_ms: When it began.
            span_times_ms: When its spans began.
        """
        if not self._enabled:
            return
        family = rollups.RollupFamily
        for name in (family.TRACE_METRIC, family.ASSESSMENT):
            self._days.add((name, experiment_id, time_ms // _DAY_MS))
        for span_time_ms in span_times_ms:
            self._days.add((family.SPAN_COST, experiment_id, span_time_ms // _DAY_MS))

    def enqueue(self, database: Database) -> None:
        """Write the queue."""
        if not self._days:
            return
        with database.errors(), Session(database.engine) as session, session.begin():
            rollups.enqueue_rollup_rebuild_partitions(
                session,
                [
                    (family, id, [day * _DAY_MS])
                    for family, id, day in sorted(
                        self._days, key=lambda entry: (entry[1], entry[2], entry[0].value)
                    )
                ],
            )
        self._days.clear()
