"""Metric histories of many runs at once.

The bulk endpoint answers one key of up to 100 runs per request, about a hundred times cheaper for
short histories than one request per run and key, but it cuts silently at 25 000 rows: an answer of
that many rows is asked for again in halves, and a single run that long is read page by page. Points
are kept packed and go to disk past some size, so a batch of runs never needs more memory than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import NamedTuple

import msgspec

from mlflow_bundle.entities import MetricHistory, Number, decode_number
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.session import AJAX, API, Session
from mlflow_bundle.spooled_points import SpooledPoints

BULK_ROWS = 25_000
"""Where get-history-bulk cuts, over all runs of a request (mlflow/server/handlers.py)."""

PAGE_ROWS = 25_000
"""Rows asked for per page of get-history; always given, since servers 3.1-3.13 loop without it."""


class _Row(msgspec.Struct, frozen=True):
    run_id: str
    value: Number
    timestamp: int
    step: int = 0


class _BulkPage(msgspec.Struct, frozen=True):
    metrics: list[_Row] = []


class _Point(msgspec.Struct, frozen=True):
    value: Number
    timestamp: int
    step: int = 0


class _HistoryPage(msgspec.Struct, frozen=True):
    metrics: list[_Point] = []
    next_page_token: str | None = None


class HistoryRequest(NamedTuple):
    """One metric of one run that is wanted."""

    run_id: str
    key: str
    estimate: int
    """Points expected; only a hint for the first grouping."""


class HistoryBatch:
    """Histories of a batch of runs, being fetched by a pool.

    Args:
        session: The server.
        pool: Runs the requests.
        requests: What to fetch.
        bulk_runs: Runs per bulk request: 100, or 20 before MLflow 2.11; 0 without the endpoint.
    """

    def __init__(
        self,
        session: Session,
        pool: Executor,
        requests: Iterable[HistoryRequest],
        *,
        bulk_runs: int = 100,
    ) -> None:
        self._session = session
        self._bulk_runs = bulk_runs
        self._points = SpooledPoints()
        self._failed: dict[tuple[str, str], ServerError] = {}
        self._keys: dict[str, list[str]] = {}
        by_key: dict[str, list[HistoryRequest]] = {}
        for request in requests:
            by_key.setdefault(request.key, []).append(request)
            self._keys.setdefault(request.run_id, []).append(request.key)
        self._futures: list[Future[None]] = [
            pool.submit(self._fetch, key, group)
            for key, wanted in by_key.items()
            for group in self._groups(wanted)
        ]

    def _groups(self, wanted: list[HistoryRequest]) -> Iterator[list[str]]:
        """Split the runs of one key so that an answer is likely to be whole."""
        most = self._bulk_runs or 1
        group: list[str] = []
        rows = 0
        for request in wanted:
            if group and (len(group) == most or rows + request.estimate >= BULK_ROWS):
                yield group
                group, rows = [], 0
            group.append(request.run_id)
            rows += request.estimate
        if group:
            yield group

    def wait(self) -> None:
        """Wait until everything has come.

        Raises:
            ServerError: The server cannot be reached.
        """
        for future in self._futures:
            future.result()

    def histories(self, run_id: str) -> Iterator[MetricHistory]:
        """Yield the histories of one run, keys in the order of their escaped form."""
        return self._points.histories(run_id)

    def failures(self, run_id: str) -> list[tuple[str, str]]:
        """Return the keys of one run that the server did not give, with the reason."""
        failed = []
        given = set(self._points.keys(run_id))
        for key in self._keys.get(run_id, ()):
            if (run_id, key) in self._failed:
                failed.append((key, self._failed[run_id, key].message))
            elif key not in given:
                failed.append((key, "the server gives no points of it"))
        return failed

    def close(self) -> None:
        """Free the points."""
        self._points.close()

    def _fetch(self, key: str, run_ids: list[str]) -> None:
        if self._bulk_runs and len(run_ids) > 1:
            try:
                self._fetch_bulk(key, run_ids)
                return
            except ServerError as exc:
                if exc.status is None:
                    raise
        for run_id in run_ids:
            try:
                self._fetch_pages(key, run_id)
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._failed[run_id, key] = exc

    def _fetch_bulk(self, key: str, run_ids: list[str]) -> None:
        page: _BulkPage = self._session.get(
            f"{AJAX}metrics/get-history-bulk",
            params=[("run_id", run_id) for run_id in run_ids]
            + [("metric_key", key), ("max_results", str(BULK_ROWS))],
            type=_BulkPage,
            what=f"history of {key!r}",
        )
        if len(page.metrics) >= BULK_ROWS:
            half = len(run_ids) // 2
            self._fetch(key, run_ids[:half])
            self._fetch(key, run_ids[half:])
            return
        rows: dict[str, list[_Row]] = {}
        for row in page.metrics:
            rows.setdefault(row.run_id, []).append(row)
        for run_id, points in rows.items():
            self._keep(run_id, key, points)

    def _fetch_pages(self, key: str, run_id: str) -> None:
        pages = self._session.iter_pages(
            "GET",
            f"{API}metrics/get-history",
            {"run_id": run_id, "metric_key": key, "max_results": PAGE_ROWS},
            type=_HistoryPage,
            what=f"history of {key!r} of run {run_id}",
        )
        for page in pages:
            if page.metrics:
                self._keep(run_id, key, page.metrics)

    def _keep(self, run_id: str, key: str, points: list[_Row] | list[_Point]) -> None:
        self._points.add(
            run_id,
            key,
            (decode_number(point.value) for point in points),
            (point.timestamp for point in points),
            (point.step for point in points),
        )
