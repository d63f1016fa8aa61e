"""The members of a bundle that has no directory yet: what an interrupted writer has written.

Group headers are the index (FORMAT.md 10.1); their members are kept in a temporary table on disk,
so that memory stays bounded whatever was written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mlflow_bundle.archive.content import (
    LastFrame,
    LoadFrame,
    frame_reader,
    iter_content,
    iter_spanning,
)
from mlflow_bundle.archive.index import Group
from mlflow_bundle.archive.paths import directory_key, order_key
from mlflow_bundle.archive.recovery import scan_groups
from mlflow_bundle.archive.source import ByteSource
from mlflow_bundle.errors import LimitError

_PAGE = 500
_AFTER_CHILDREN = b"\x03"
"""Behind the key of a directory: greater than the key of whatever lies in it."""


class WrittenMember(NamedTuple):
    """One member of an unfinished bundle."""

    path: str
    size: int


class WrittenMembers:
    """Finds and reads the whole members of an unfinished bundle; used by one thread.

    Args:
        stream: The file, which may grow meanwhile; read by nobody else, closed with this.

    Raises:
        FormatError: As :func:`scan_groups`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._source = ByteSource(stream)
        self._scan = scan = scan_groups(stream)
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE members (key BLOB PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL,"
            " grp INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        for group_number, (group, _) in enumerate(scan.iter_groups()):
            if group.void:
                continue
            self._database.executemany(
                "INSERT OR IGNORE INTO members VALUES (?,?,?,?,?)",
                (
                    (key, path, size, group_number, number)
                    for number, (key, path, size) in enumerate(
                        zip(group.keys, group.paths, group.sizes, strict=True)
                    )
                ),
            )
        self._database.execute("COMMIT")
        last = self._database.execute("SELECT key FROM members ORDER BY key DESC LIMIT 1")
        row = last.fetchone()
        self._last_key: bytes = row[0] if row else b""

    def find(self, path: str) -> WrittenMember | None:
        """Return the member at ``path``, or None."""
        row = self._database.execute(
            "SELECT path, size FROM members WHERE key = ?", (order_key(path),)
        ).fetchone()
        return None if row is None else WrittenMember(*row)

    def reaches(self, path: str) -> bool:
        """Whether the writer has passed the place of ``path``: nothing can be added there."""
        return order_key(path) <= self._last_key

    def iter_members(self) -> Iterator[WrittenMember]:
        """Yield every member in path order."""
        return self.iter_below("")

    def iter_below(self, directory: str) -> Iterator[WrittenMember]:
        """Yield each member below a directory in path order."""
        after = directory_key(directory)
        end = after + _AFTER_CHILDREN
        while True:
            rows = self._database.execute(
                "SELECT key, path, size FROM members WHERE key > ? AND key < ? ORDER BY key"
                f" LIMIT {_PAGE}",
                (after, end),
            ).fetchall()
            if not rows:
                return
            for _, path, size in rows:
                yield WrittenMember(path, size)
            after = rows[-1][0]

    def read(self, path: str, *, limit_bytes: int) -> bytes:
        """Return the content of a small member, verified.

        Raises:
            KeyError: There is none at ``path``.
            LimitError: It is larger than ``limit_bytes``.
            FormatError: It is damaged.
        """
        while True:
            row = self._database.execute(
                "SELECT size, grp, number FROM members WHERE key = ?", (order_key(path),)
            ).fetchone()
            if row is None:
                raise KeyError(path)
            size, group_number, number = row
            if size > limit_bytes:
                raise LimitError(f"larger than {limit_bytes} bytes", path=path)
            group, _ = self._scan.read_group(group_number)
            link = group.links.get(number)
            if link is None:
                break
            path = link
        if group.span is not None:
            return b"".join(bytes(piece) for piece in self._iter_spanning(group_number))
        load = LastFrame(frame_reader(self._source, group))
        return b"".join(bytes(piece) for piece in iter_content(group, number, load))

    def _iter_spanning(self, first: int) -> Iterator[memoryview]:
        def iter_parts() -> Iterator[tuple[Group, LoadFrame]]:
            for number in range(first, self._scan.groups):
                group, _ = self._scan.read_group(number)
                yield group, frame_reader(self._source, group)

        yield from iter_spanning(iter_parts())

    def close(self) -> None:
        """Delete the table and close the file."""
        self._database.close()
        self._stream.close()
