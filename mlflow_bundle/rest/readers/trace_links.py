"""What traces are linked to: kept by the server beside them, and asked for from the other end."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from itertools import chain, islice

from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.traces import SOURCE_RUN
from mlflow_bundle.rest.readers.base import Reading
from mlflow_bundle.rest.readers.trace_search import EXPERIMENTS_PER_SEARCH, TraceSearch

_SEARCHES_AT_ONCE = 1000
"""What waits in memory; there is one for each run."""


class TraceLinks:
    """Links from traces to runs and prompt versions, on disk past some size.

    No listing of traces tells them: a search for the traces of one run, or of one prompt version,
    does.
    """

    def __init__(self, reading: Reading) -> None:
        self._from = reading
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE link (trace TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,"
            " PRIMARY KEY (trace, kind, id)) WITHOUT ROWID"
        )

    def read(
        self, experiment_ids: list[str], run_ids: Iterable[str], prompts: Iterable[str]
    ) -> None:
        """Ask for the traces of each run and prompt version.

        Args:
            experiment_ids: Experiments that hold traces.
            run_ids: Runs.
            prompts: Prompt versions, as ``name/number``.
        """
        runs = (("run", id, f"attribute.run_id = '{id}'") for id in run_ids)
        versions = (
            ("prompt", name, f'prompt = "{name}"')
            for name in prompts
            if '"' not in name and "'" not in name
        )
        groups = [
            experiment_ids[start : start + EXPERIMENTS_PER_SEARCH]
            for start in range(0, len(experiment_ids), EXPERIMENTS_PER_SEARCH)
        ]
        jobs = ((group, *question) for question in chain(runs, versions) for group in groups)
        while some := list(islice(jobs, _SEARCHES_AT_ONCE)):
            list(self._from.pool.map(lambda job: self._search(*job), some))

    def _search(self, experiment_ids: list[str], kind: str, id: str, condition: str) -> None:
        search = TraceSearch(
            self._from.session,
            what=f"traces of {kind} {id}",
            condition=condition,
            # The listing of all traces has lost it.
            unreadable=lambda *_: None,
        )
        try:
            for page in search.pages(experiment_ids):
                self._add(
                    (trace.trace_id, kind, id)
                    for trace in page
                    # Such a search also gives the traces whose metadata names the run.
                    if kind != "run" or trace.trace_metadata.get(SOURCE_RUN) != id
                )
        except ServerError as exc:
            if exc.status is None:
                raise
            self._from.lose("trace", "all", exc.message, field=f"links to {kind} {id}")

    def _add(self, rows: Iterable[tuple[str, str, str]]) -> None:
        found = list(rows)
        with self._lock:
            self._database.executemany("INSERT OR IGNORE INTO link VALUES (?,?,?)", found)

    def of(self, trace_id: str, kind: str) -> list[str]:
        """Return the ids that a trace is linked to, sorted."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id FROM link WHERE trace = ? AND kind = ? ORDER BY id", (trace_id, kind)
            ).fetchall()
        return [id for (id,) in rows]
