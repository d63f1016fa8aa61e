"""SQLite: MLflow's default.

MLflow leaves the rollback journal on, in which a reader keeps every writer waiting. A snapshot is
therefore a private copy; the source's journal mode is never touched. What can be copied within two
seconds is copied as a file, for which writers wait. A larger one is copied by SQLite's own backup
in small steps with pauses, in which the server writes. Each write by another process makes the
backup start over, so that it would never end under a server that always writes: after some starts
the rest is copied in one step, for which writers wait (about two seconds for a gigabyte).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.engine import URL

from mlflow_bundle.sql.dialects.base import Dialect, insert_statement

_AT_ONCE_S = 2.0
"""How long writers wait for a copy of the whole file."""
_PROBE_BYTES = 32 * 1024 * 1024
"""After so many it is estimated how long the rest takes."""
_PRINT_HEAD = "import sys; print(open(sys.argv[1], 'rb').read(20)[18:].hex())"
_WRITE_AHEAD = "0202"
"""Versions of the format that who writes and who reads has to know: those with a log."""
_COPY_FILE = Path(__file__).with_name("copy_file.py")
_PAGES_PER_STEP = 2000
_PAUSE_S = 0.001
_STARTS = 4
"""How often a copy in small steps is begun before one in one step."""
_BUSY_TIMEOUT_S = 60.0
_CACHE_KIB = 32 * 1024


class Sqlite(Dialect):
    name = "sqlite"
    begin = "BEGIN IMMEDIATE"
    mark = "?"

    def engine(self, url: URL) -> Engine:
        return sqlalchemy.create_engine(
            url,
            poolclass=sqlalchemy.NullPool,
            connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False},
        )

    @contextlib.contextmanager
    def snapshot(self, engine: Engine) -> Iterator[Connection]:
        with tempfile.TemporaryDirectory(prefix="mlflow-bundle-") as directory:
            copy = Path(directory) / "snapshot.db"
            _copy(file_of(engine.url), copy)
            with self.join(engine, str(copy)) as connection:
                yield connection

    def share(self, connection: Connection) -> str | None:
        path = file_of(connection.engine.url)
        return str(path) if path.exists() else None

    @contextlib.contextmanager
    def join(self, engine: Engine, token: str) -> Iterator[Connection]:
        private = self.engine(URL.create("sqlite", database=token))
        with private.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")  # opens the file
            yield connection

    def settle(self, connection: Connection) -> None:
        # It stays readable, and goes away even with a killed process.
        file_of(connection.engine.url).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, engine: Engine) -> Iterator[bool]:
        import fcntl

        # Beside the database: SQLite's own locks would keep the server from writing.
        path = f"{file_of(engine.url)}.mlflow-bundle-lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                yield False
                return
            if _is_at(descriptor, path):
                break
            os.close(descriptor)  # who had it before has deleted it
        try:
            yield True
        finally:
            os.unlink(path)
            os.close(descriptor)

    def prepare(self, connection: Connection, tables: Iterable[Table]) -> None:
        connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def insert(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        pass_over: bool = False,
    ) -> int:
        statement = insert_statement(connection, table, columns, mark=self.mark)
        if pass_over:
            statement += " ON CONFLICT DO NOTHING"
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.executemany(statement, rows)
            return int(cursor.rowcount)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def file_of(url: URL) -> Path:
    """Return the file of a database: ``sqlite:///x.db``, ``sqlite:///file:x.db?uri=true``."""
    name = url.database or ""
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:").removeprefix("//").partition("?")[0])
    return Path(name)


class _StartedOverError(Exception):
    """A backup in small steps begins anew again and again."""


class _Starts:
    """Notices how often a backup started over: what remains grows then."""

    def __init__(self) -> None:
        self._remaining = 0
        self._count = 0

    def __call__(self, status: int, remaining: int, total: int) -> None:
        self._count += remaining > self._remaining
        self._remaining = remaining
        if self._count > _STARTS:
            raise _StartedOverError


def _copy(source: Path, target: Path) -> None:
    uri = f"{source.resolve().as_uri()}?mode=ro"
    if _copy_at_rest(source, target):
        return
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as there:
            # A write-ahead log lets writers go on while one reads.
            (mode,) = there.execute("PRAGMA journal_mode").fetchone()
            in_steps = mode != "wal"
            if in_steps and _copy_at_once(there, source, target):
                return
            with contextlib.closing(sqlite3.connect(target)) as here:
                # The copy is thrown away when this process ends, however it ends.
                here.execute("PRAGMA journal_mode = OFF")
                here.execute("PRAGMA synchronous = OFF")
                if in_steps:
                    with contextlib.suppress(_StartedOverError):
                        there.backup(
                            here, pages=_PAGES_PER_STEP, sleep=_PAUSE_S, progress=_Starts()
                        )
                        return
                there.backup(here)
    except sqlite3.Error as exc:
        if "disk is full" in str(exc):  # not the source's: that is only read
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.parent)) from exc
        if "readonly" in str(exc):
            exc = sqlite3.OperationalError(
                "its write-ahead log can be read only where files may be made beside it: "
                "copy both, or let a server, or any program that may write it, open it"
                if _beside(source, "-wal").exists()
                else "a write to it was interrupted, and reading alone cannot undo that: "
                "a server, or any program that may write it, does so when it opens it"
            )
        raise sqlalchemy.exc.OperationalError("backup", None, exc) from exc


def _copy_at_rest(source: Path, target: Path) -> bool:
    """Copy a database with a write-ahead log, as migrations of file stores leave it, if it is shut.

    To read it in the usual way SQLite makes two files beside it, which stay when one may only read,
    and reads nothing where it may make none.

    Returns:
        Whether it is copied; if not, there is no ``target``.
    """
    before = _state_at_rest(source)
    if before is None or not _has_write_ahead_log(source):
        return False
    uri = f"{source.resolve().as_uri()}?mode=ro&immutable=1"
    with (
        contextlib.suppress(sqlite3.Error),  # the usual way tells what is wrong
        contextlib.closing(sqlite3.connect(uri, uri=True)) as there,
        contextlib.closing(sqlite3.connect(target)) as here,
    ):
        here.execute("PRAGMA journal_mode = OFF")
        here.execute("PRAGMA synchronous = OFF")
        there.backup(here)
        if _state_at_rest(source) == before:
            return True
    target.unlink(missing_ok=True)
    return False


def _state_at_rest(source: Path) -> tuple[int, int, int] | None:
    """What changes with every write, of a file that nobody has open with a log; else None."""
    if any(_beside(source, end).exists() for end in ("-wal", "-journal")):
        return None
    found = source.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _beside(source: Path, end: str) -> Path:
    """The file that SQLite keeps beside a database, whatever links lead to it."""
    return Path(f"{source.resolve()}{end}")


def _has_write_ahead_log(source: Path) -> bool:
    """Whether the file's head says so; read by another process, as in `_copy_at_once`."""
    if not sys.executable:
        return False
    words = [sys.executable, "-I", "-S", "-c", _PRINT_HEAD, str(source.resolve())]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
        )
    except OSError:  # no process
        return False
    return done.stdout.strip() == _WRITE_AHEAD


def _copy_at_once(there: sqlite3.Connection, source: Path, target: Path) -> bool:
    """Copy a file in rollback-journal mode as it stands, unless that takes long.

    A third of the time that the backup takes, which looks up every page. Another process does it:
    one that closes a file loses all the locks that it has there, those of others' connections too.

    Returns:
        Whether it is copied; if not, there is no ``target``.
    """
    if not sys.executable:
        return False
    there.execute("BEGIN")
    there.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from now on nobody writes
    words = (source.resolve(), target, _AT_ONCE_S, _PROBE_BYTES)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", _COPY_FILE, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        is_copied = done.returncode == 0
    except OSError:  # no process
        is_copied = False
    finally:
        there.rollback()
    if not is_copied:
        target.unlink(missing_ok=True)
    return is_copied
