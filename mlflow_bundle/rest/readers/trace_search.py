"""Searches traces so that one that the server cannot answer spoils no other.

A server that fails at one trace of a page answers nothing of it. The page is then asked for in
parts, down to the single trace. That takes page tokens of our own: those of MLflow's server are
offsets (mlflow/utils/search_utils.py, ``create_page_token``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from http import HTTPStatus

from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.session import API_3, Session
from mlflow_bundle.rest.trace_records import RestTrace, RestTraces

EXPERIMENTS_PER_SEARCH = 100
_TRACES_PER_PAGE = 500
"""The most that a server allows (mlflow/server/handlers.py, ``_search_traces_v3``)."""
_PAST_THE_END = 2**40

Unreadable = Callable[[str, int, ServerError], None]
"""Told of the experiment, the number of the trace in order of time, and the reason."""


class TraceSearch:
    """One search in experiments, at most `EXPERIMENTS_PER_SEARCH` of them.

    Args:
        session: The server.
        what: What is asked for, for errors.
        condition: The filter; empty for all.
        unreadable: Told of each trace that the server cannot answer.
    """

    def __init__(
        self, session: Session, *, what: str, condition: str = "", unreadable: Unreadable
    ) -> None:
        self._session = session
        self._what = what
        # Tokens are offsets: what is added meanwhile comes last.
        self._query: dict[str, object] = {"order_by": ["timestamp_ms ASC"]}
        if condition:
            self._query["filter"] = condition
        self._unreadable = unreadable

    def pages(self, experiment_ids: list[str]) -> Iterator[list[RestTrace]]:
        """Yield the traces, page by page; after a failure some come a second time.

        Raises:
            ServerError: The server refuses the search, or fails whatever it is asked.
        """
        query = {**self._in(experiment_ids), "max_results": _TRACES_PER_PAGE}
        try:
            for page in self._session.iter_pages(
                "POST", f"{API_3}traces/search", query, type=RestTraces, what=self._what
            ):
                yield page.traces
            return
        except ServerError as exc:
            if not _has_failed(exc):
                raise
        if len(experiment_ids) > 1:
            for experiment_id in experiment_ids:
                yield from self.pages([experiment_id])
        else:
            yield from self._in_parts(experiment_ids[0])

    def _in_parts(self, experiment_id: str) -> Iterator[list[RestTrace]]:
        place, size = 0, _TRACES_PER_PAGE
        while True:
            try:
                traces = self._page(experiment_id, place, size)
            except ServerError as exc:
                if not _has_failed(exc):
                    raise
                if size > 1:
                    size //= 2
                    continue
                # A server that fails here too has no trouble with this trace.
                self._page(experiment_id, _PAST_THE_END, 1)
                self._unreadable(experiment_id, place + 1, exc)
                place += 1
                continue
            yield traces
            if len(traces) < size:
                return
            place += size
            size = min(2 * size, _TRACES_PER_PAGE)

    def _page(self, experiment_id: str, place: int, size: int) -> list[RestTrace]:
        query = {**self._in([experiment_id]), "max_results": size}
        if place:
            query["page_token"] = base64.b64encode(json.dumps({"offset": place}).encode()).decode()
        page: RestTraces = self._session.post(
            f"{API_3}traces/search",
            query,
            type=RestTraces,
            what=self._what,
            # A part that fails is asked for in smaller ones, the last of them with patience.
            once=size > 1,
        )
        return page.traces

    def _in(self, experiment_ids: list[str]) -> dict[str, object]:
        locations = [
            {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": id}}
            for id in experiment_ids
        ]
        return {**self._query, "locations": locations}


def _has_failed(error: ServerError) -> bool:
    return error.status is not None and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
