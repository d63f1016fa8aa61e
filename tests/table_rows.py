"""The rows of a SQLite database, by table, with their primary keys."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cached_property
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Rows = list[Row]


class Database:
    """What a SQLite file holds, read once and table by table when first asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._rows: dict[str, Rows] = {}

    @cached_property
    def tables(self) -> dict[str, tuple[str, ...]]:
        """Table to the columns of its primary key, in its order."""
        with self._connect() as connection:
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            ).fetchall()
            return {name: self._primary_key(connection, name) for (name,) in names}

    @staticmethod
    def _primary_key(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
        columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
        return tuple(name for _, name, *_, place in sorted(columns, key=_place) if place)

    def rows(self, table: str) -> Rows:
        """All rows in the order they were inserted, as far as SQLite kept it."""
        if table not in self._rows:
            with self._connect() as connection:
                connection.row_factory = sqlite3.Row
                found = connection.execute(f'SELECT * FROM "{table}"').fetchall()
            self._rows[table] = [dict(row) for row in found]
        return self._rows[table]

    @cached_property
    def deleted_experiments(self) -> frozenset[int]:
        """Ids of experiments that are deleted."""
        return frozenset(
            row["experiment_id"]
            for row in self.rows("experiments")
            if row["lifecycle_stage"] == "deleted"
        )

    def _connect(self) -> contextlib.closing[sqlite3.Connection]:
        # Not immutable=1: a running server's last rows may be in its write-ahead log.
        return contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True))


def _place(column: tuple[Any, ...]) -> int:
    return int(column[5])
