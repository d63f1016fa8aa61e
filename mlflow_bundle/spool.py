"""What a source selected, sorted by path on disk: memory stays bounded whatever is selected.

Servers list in an order of their own and ids are not always hex; a bundle needs path order. Every
source therefore puts what it selected here first, and reads it back in order.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_PAGE = 500


class Selected(NamedTuple):
    """One selected entity."""

    key: bytes
    """``order_key`` of its document's path."""
    kind: str
    id: str
    parent: str
    """Id of the experiment it lies in; empty for others."""
    body: bytes
    """Whatever the source needs to hand the entity out; may be empty."""


class Spool:
    """A temporary table of :class:`Selected`, sorted by key. Safe from many threads."""

    def __init__(self) -> None:
        # An empty name is a private database that SQLite keeps in memory until it grows.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE selected (key BLOB PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL,"
            " parent TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID"
        )
        self._database.execute("CREATE INDEX selected_id ON selected (kind, id)")

    def add(self, rows: Iterable[Selected]) -> None:
        """Add entities, all or none; one that is there already is replaced."""
        with self._lock:
            self._database.execute("BEGIN")
            try:
                self._database.executemany(
                    "INSERT OR REPLACE INTO selected VALUES (?,?,?,?,?)", rows
                )
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def find(self, kind: str, id: str) -> Selected | None:
        """Return one entity by kind and id, or None."""
        with self._lock:
            row = self._database.execute(
                "SELECT key, kind, id, parent, body FROM selected WHERE kind = ? AND id = ?",
                (kind, id),
            ).fetchone()
        return None if row is None else Selected(*row)

    def contains(self, key: bytes) -> bool:
        """Whether there is an entity with this key."""
        with self._lock:
            row = self._database.execute("SELECT 1 FROM selected WHERE key = ?", (key,)).fetchone()
        return row is not None

    def count(self, kind: str) -> int:
        """Return how many entities of ``kind`` there are."""
        with self._lock:
            row = self._database.execute(
                "SELECT count(*) FROM selected WHERE kind = ?", (kind,)
            ).fetchone()
        return int(row[0])

    def iterate(self, kind: str | None = None) -> Iterator[Selected]:
        """Yield entities in path order; rows may be added behind the current one meanwhile."""
        after = b""
        condition = "" if kind is None else " AND kind = :kind"
        query = (
            "SELECT key, kind, id, parent, body FROM selected WHERE key > :after"
            f"{condition} ORDER BY key LIMIT {_PAGE}"
        )
        while True:
            with self._lock:
                rows = self._database.execute(query, {"after": after, "kind": kind}).fetchall()
            if not rows:
                return
            for row in rows:
                yield Selected(*row)
            after = rows[-1][0]

    def close(self) -> None:
        """Delete the table."""
        with self._lock:
            self._database.close()
