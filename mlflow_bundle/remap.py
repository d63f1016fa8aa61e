"""Source id -> sink id of everything that a transfer has placed, on disk past some size."""

from __future__ import annotations

import sqlite3
import threading
from typing import NamedTuple


class Placed(NamedTuple):
    """Where an entity of the source is in the sink."""

    id: str
    """The id in the sink."""
    source_root: str
    """Artifact URI at the source; empty for entities without one."""
    sink_root: str
    """Artifact URI in the sink; empty for entities without one."""


_RECENT = 16_384
"""What was placed or found last, kept in memory: a table on disk is slow to ask beside threads."""


class Remap:
    """A temporary table of :class:`Placed` by kind and source id. Safe from many threads."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._recent: dict[tuple[str, str], Placed | None] = {}
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE placed (kind TEXT NOT NULL, source_id TEXT NOT NULL, id TEXT NOT NULL,"
            " source_root TEXT NOT NULL, sink_root TEXT NOT NULL, PRIMARY KEY (kind, source_id))"
            " WITHOUT ROWID"
        )

    def place(
        self, kind: str, source_id: str, id: str, *, source_root: str = "", sink_root: str = ""
    ) -> None:
        """Record where an entity is now."""
        with self._lock:
            self._keep(kind, source_id, Placed(id, source_root, sink_root))
            self._database.execute(
                "INSERT OR REPLACE INTO placed VALUES (?,?,?,?,?)",
                (kind, source_id, id, source_root, sink_root),
            )

    def forget(self, kind: str, source_id: str) -> None:
        """Take back that an entity was placed."""
        with self._lock:
            self._keep(kind, source_id, None)
            self._database.execute(
                "DELETE FROM placed WHERE kind = ? AND source_id = ?", (kind, source_id)
            )

    def find(self, kind: str, source_id: str) -> Placed | None:
        """Return where an entity is, or None when it was not placed."""
        with self._lock:
            if (kind, source_id) not in self._recent:
                row = self._database.execute(
                    "SELECT id, source_root, sink_root FROM placed"
                    " WHERE kind = ? AND source_id = ?",
                    (kind, source_id),
                ).fetchone()
                self._keep(kind, source_id, None if row is None else Placed(*row))
            return self._recent[kind, source_id]

    def _keep(self, kind: str, source_id: str, placed: Placed | None) -> None:
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[kind, source_id] = placed

    def close(self) -> None:
        """Delete the table."""
        with self._lock:
            self._database.close()
