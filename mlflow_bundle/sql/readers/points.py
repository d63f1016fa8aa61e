"""Reads metric points: of most servers nearly all that there is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy import ColumnClause, Select, column, func, literal, select

from mlflow_bundle.sql.rows import Row, Rows, chunks

POINTS_PER_CHUNK = 50_000
"""Points of one metric of one run that are handed out at once, at most."""

_NAN = float("nan")
_POINT: tuple[ColumnClause[Any], ...] = tuple(
    column(name) for name in ("timestamp", "step", "value", "is_nan")
)
"""In the order by which servers sort a history. Without types: MySQL's would round to ten
decimals."""
_CODES = "qqd?"

AddPoints = Callable[[str, str, Sequence[float], Sequence[int], Sequence[int]], None]
"""Takes points of a run: its id, key, values, timestamps in ms, steps. Those of one metric come in
order, at most :data:`POINTS_PER_CHUNK` at a time."""


def read_points(rows: Rows, run_ids: Sequence[str], add: AddPoints) -> None:
    """Read every point of some runs.

    Args:
        rows: Of a state that has the table ``metrics``.
        run_ids: Of the runs.
        add: Takes them.
    """
    for some in chunks(run_ids):
        _read(rows, some, add)


def _read(rows: Rows, run_ids: Sequence[str], add: AddPoints) -> None:
    """Read histories in two passes: how long each is, and the bare points in the same order.

    Names, which every row repeats, would take as long as all the rest. Short histories are
    sorted here, as a server gives them: databases take much longer for it.
    """
    metrics = rows.table("metrics").c
    wanted = metrics.run_uuid.in_(run_ids)
    histories = (metrics.run_uuid, *rows.exact(metrics.key))
    lengths = (
        select(metrics.run_uuid, metrics.key, func.count())
        .where(wanted)
        .group_by(metrics.key, *histories)
        .order_by(*histories)
    )
    # By step too: SQLite has an index of that order.
    points = select(*_POINT).where(wanted).order_by(*histories, metrics.step)
    counted = list(chain.from_iterable(rows.stream(lengths)))
    found = _points(rows, points)
    long = []
    for run_id, key, length in counted:
        history = islice(found, length)
        if length > POINTS_PER_CHUNK:
            long.append((run_id, key))
            deque(history, maxlen=0)
        else:
            _add(add, run_id, key, sorted(history))
    # To its end: some drivers take no other question before.
    next(found, None)
    for run_id, key in long:
        _read_long(rows, run_id, key, add)


def _points(rows: Rows, statement: Select[Any]) -> Iterator[Row]:
    """Yield the rows of a statement that has the columns of a point."""
    metrics = rows.table("metrics").c
    if any(metrics[point.name].nullable for point in _POINT):
        return chain.from_iterable(rows.stream(statement))
    return rows.numbers(statement, _CODES)


def _read_long(rows: Rows, run_id: str, key: str, add: AddPoints) -> None:
    metrics = rows.table("metrics").c
    (exact_key, *_), (exact_value, *_) = map(rows.exact, (metrics.key, literal(key)))
    points = (
        select(*_POINT)
        .where(metrics.run_uuid == run_id, exact_key == exact_value)
        .order_by(metrics.timestamp, metrics.step, metrics.value)
    )
    for chunk in rows.stream(points, POINTS_PER_CHUNK):
        _add(add, run_id, key, chunk)


def _add(add: AddPoints, run_id: str, key: str, points: Iterable[Row]) -> None:
    timestamps, steps, values, is_nan = zip(*points, strict=True)
    if any(is_nan):
        values = tuple(_NAN if nan else value for value, nan in zip(values, is_nan, strict=True))
    add(run_id, key, values, timestamps, steps)
