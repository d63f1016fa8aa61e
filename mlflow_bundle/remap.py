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
_AT_ONCE = 256
"""What is read with one that is asked for: ids come in order."""


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

    def find(self, kind: str, source_id: str) -> Placed | None:
        """Return where an entity is, or None when it was not placed."""
        with self._lock:
            if (kind, source_id) not in self._recent:
                rows = self._database.execute(
                    "SELECT source_id, id, source_root, sink_root FROM placed"
                    " WHERE kind = ? AND source_id >= ? ORDER BY source_id LIMIT ?",
                    (kind, source_id, _AT_ONCE),
                ).fetchall()
                for other, *row in rows[::-1]:
                    self._keep(kind, other, Placed(*row))
                if not rows or rows[0][0] != source_id:
                    self._keep(kind, source_id, None)
            return self._recent[kind, source_id]

    def _keep(self, kind: str, source_id: str, placed: Placed | None) -> None:
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[kind, source_id] = placed

    def close(self) -> None:
        """Delete the table."""
        with self._lock:
            self._database.close()
