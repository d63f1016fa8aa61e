"""Reads metric points: of most servers nearly all that there is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, starmap
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnClause, column, func, literal, or_, select

from mlflow_bundle.errors import SourceError
from mlflow_bundle.sql.rows import Row, Rows, chunks

POINTS_PER_CHUNK = 50_000
"""Points of one metric of one run that are handed out at once, at most."""

_POINTS_PER_QUERY = 500_000
"""Points that are asked for at once: some databases give them only when all have come."""

_NAN = float("nan")
_POINT: tuple[ColumnClause[Any], ...] = tuple(
    column(name) for name in ("timestamp", "step", "value", "is_nan")
)
"""In the order by which servers sort a history. Without types: MySQL's would round to ten
decimals."""
_CODES = "qqd?"
_NUMBERS = ("timestamp", "step", "value")

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

    Names, which every row repeats, would take as long as all the rest.
    """
    metrics = rows.table("metrics").c
    _require_whole(rows, run_ids)
    histories = (metrics.run_uuid, rows.exact(metrics.key))
    lengths = (
        select(metrics.run_uuid, metrics.key, func.count())
        .where(metrics.run_uuid.in_(run_ids))
        .group_by(metrics.key, *histories)
        .order_by(*histories)
    )
    counted = list(chain.from_iterable(rows.stream(lengths)))
    for some in _together(starmap(_Counted, counted)):
        _read_some(rows, some, add)
        for history in some:
            if history.length > POINTS_PER_CHUNK:
                _read_long(rows, history, add)


def _require_whole(rows: Rows, run_ids: Sequence[str]) -> None:
    """Refuse points that lack something, which somebody must have allowed: MLflow's tables do not.

    Raises:
        SourceError: There is one.
    """
    metrics = rows.table("metrics").c
    missing = [metrics[name] for name in _NUMBERS if metrics[name].nullable]
    if not missing:
        return
    statement = select(metrics.run_uuid, metrics.key).where(
        metrics.run_uuid.in_(run_ids), or_(*(each.is_(None) for each in missing))
    )
    for run_id, key in chain.from_iterable(rows.stream(statement.limit(1))):
        raise SourceError(
            f"metric {key!r} of run {run_id} has a point without a value, timestamp or step",
            hint="complete the point or delete it, in the table metrics",
        )


class _Counted(NamedTuple):
    """A history, before its points are read."""

    run_id: str
    key: str
    length: int


def _together(counted: Iterable[_Counted]) -> Iterator[list[_Counted]]:
    """Yield the histories of some runs at a time, in order."""
    some: list[_Counted] = []
    total = 0
    for _, of_a_run in groupby(counted, key=attrgetter("run_id")):
        more = list(of_a_run)
        if some and total + _total(more) > _POINTS_PER_QUERY:
            yield some
            some, total = [], 0
        some += more
        total += _total(more)
    if some:
        yield some


def _total(histories: Iterable[_Counted]) -> int:
    return sum(history.length for history in histories)


def _read_some(rows: Rows, histories: Sequence[_Counted], add: AddPoints) -> None:
    """Read all histories of some runs, but hand out short ones only.

    They are sorted here, as a server gives them: databases take much longer for it.
    """
    metrics = rows.table("metrics").c
    run_ids = list(dict.fromkeys(history.run_id for history in histories))
    statement = (
        select(*_POINT)
        .where(metrics.run_uuid.in_(run_ids))
        # By step too: SQLite has an index of that order.
        .order_by(metrics.run_uuid, rows.exact(metrics.key), metrics.step)
    )
    is_plain = not any(metrics[point.name].nullable for point in _POINT)
    if is_plain and _total(histories) <= _POINTS_PER_QUERY:
        points = rows.numbers(statement, _CODES)
    else:
        points = chain.from_iterable(rows.stream(statement))
    for history in histories:
        if history.length > POINTS_PER_CHUNK:
            deque(islice(points, history.length), maxlen=0)
        else:
            _add(add, history, sorted(islice(points, history.length)), history.length)
    _require_end(points)


def _read_long(rows: Rows, history: _Counted, add: AddPoints) -> None:
    metrics = rows.table("metrics").c
    exact_key, exact_value = map(rows.exact, (metrics.key, literal(history.key)))
    statement = (
        select(*_POINT)
        .where(metrics.run_uuid == history.run_id, exact_key == exact_value)
        .order_by(metrics.timestamp, metrics.step, metrics.value)
    )
    points = chain.from_iterable(rows.stream(statement, POINTS_PER_CHUNK))
    for start in range(0, history.length, POINTS_PER_CHUNK):
        length = min(POINTS_PER_CHUNK, history.length - start)
        _add(add, history, list(islice(points, length)), length)
    _require_end(points)


def _require_end(points: Iterator[Row]) -> None:
    """Read to the end, before which some drivers take no other question."""
    if next(points, None) is not None:
        raise _contradiction("more points than it counts")


def _add(add: AddPoints, history: _Counted, points: Sequence[Row], length: int) -> None:
    run_id, key, _ = history
    if len(points) != length:
        what = f"{len(points)} points of metric {key!r} of run {run_id}, and counts {length}"
        raise _contradiction(what)
    timestamps, steps, values, is_nan = zip(*points, strict=True)
    if any(is_nan):
        values = tuple(_NAN if nan else value for value, nan in zip(values, is_nan, strict=True))
    add(run_id, key, values, timestamps, steps)


def _contradiction(what: str) -> SourceError:
    return SourceError(f"the database contradicts itself within one state: it gives {what}")
