"""A snapshot is one state of the database, whoever writes to it meanwhile."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from mlflow_bundle.errors import SourceError
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.dialects import sqlite
from mlflow_bundle.sql.dialects.sqlite import file_of
from mlflow_bundle.sql.rows import Rows

_WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
longest = count = 0
while True:
    began = time.monotonic()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE a SET n = n + 1")
    connection.execute("UPDATE b SET n = n + 1")
    connection.execute("COMMIT")
    longest = max(longest, time.monotonic() - began)
    count += 1
    print(count, longest, flush=True)
"""


def _make(path: Path, *, megabytes: int = 0, mode: str = "delete") -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        for table in ("a", "b"):
            connection.execute(f"CREATE TABLE {table} (n INTEGER)")
            connection.execute(f"INSERT INTO {table} VALUES (0)")
        connection.execute("CREATE TABLE filler (data BLOB)")
        connection.executemany(
            "INSERT INTO filler VALUES (zeroblob(?))", [(1024 * 1024,)] * megabytes
        )
        connection.commit()


@contextlib.contextmanager
def _hammering(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that always changes both tables in one transaction."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def _numbers(uri: str) -> tuple[int, int]:
    database = Database(uri, error=SourceError)
    with contextlib.closing(database):
        connection = database.state
        a = connection.scalar(sqlalchemy.text("SELECT n FROM a"))
        time.sleep(0.05)  # in which the writer goes on
        b = connection.scalar(sqlalchemy.text("SELECT n FROM b"))
    assert isinstance(a, int)
    assert isinstance(b, int)
    return a, b


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "in-steps"])
@pytest.mark.parametrize("mode", ["delete", "persist", "wal"])
def test_a_copy_under_a_server_that_always_writes_ends_and_is_one_state(
    tmp_path: Path, mode: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(sqlite, "_PROBE_BYTES", 0)
        monkeypatch.setattr(sqlite, "_AT_ONCE_S", 0.0)
    path = tmp_path / "mlflow.db"
    _make(path, megabytes=64, mode=mode)
    with _hammering(path) as writer:
        for _ in range(3):
            a, b = _numbers(f"sqlite:///{path}")
            assert a == b
            assert a > 0
        assert writer.poll() is None, "the writer was refused"


def test_a_copy_that_takes_long_is_made_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "mlflow.db", tmp_path / "copy.db"
    _make(path, megabytes=2)
    monkeypatch.setattr(sqlite, "_PROBE_BYTES", 1024 * 1024)
    for limit_s, expected in ((0.0, False), (60.0, True)):
        monkeypatch.setattr(sqlite, "_AT_ONCE_S", limit_s)
        with (
            contextlib.closing(sqlite3.connect(path, timeout=0)) as there,
            contextlib.closing(sqlite3.connect(path, timeout=0)) as writer,
        ):
            assert sqlite._copy_at_once(there, path, copy) is expected
            assert copy.exists() is expected
            writer.execute("UPDATE a SET n = n + 1")  # nothing is locked any more
            writer.rollback()
    assert copy.read_bytes() == path.read_bytes()


def test_locks_of_this_process_on_the_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    _make(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as ours:
        ours.execute("BEGIN IMMEDIATE")
        assert _numbers(f"sqlite:///{path}") == (0, 0)
        program = (
            "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute(sys.argv[2])"
        )
        words = [sys.executable, "-c", program, str(path), "UPDATE a SET n = 1"]
        other = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
        assert "database is locked" in other.stderr
        ours.execute("ROLLBACK")


def test_the_file_and_its_journal_mode_stay(tmp_path: Path) -> None:
    for mode in ("delete", "wal"):
        path = tmp_path / f"{mode}.db"
        _make(path, mode=mode)
        before = path.read_bytes()
        assert _numbers(f"sqlite:///{path}") == (0, 0)
        assert path.read_bytes() == before
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)


def test_nothing_is_made_beside_a_database_with_a_log_that_nobody_has_open(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    _make(path, mode="wal")
    assert _numbers(f"sqlite:///{path}") == (0, 0)
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_a_write_to_a_database_with_a_log_while_it_is_copied_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    _make(path, mode="wal")

    def write(source: Path) -> bool:
        with contextlib.closing(sqlite3.connect(source)) as server:
            server.execute("UPDATE a SET n = 7")
            server.commit()
        return True

    monkeypatch.setattr(sqlite, "_has_write_ahead_log", write)
    assert not sqlite._copy_at_rest(path, tmp_path / "copy.db")
    assert _numbers(f"sqlite:///{path}") == (7, 0)


def test_what_is_only_in_the_write_ahead_log_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    _make(path, mode="wal")
    with contextlib.closing(sqlite3.connect(path)) as server:
        server.execute("UPDATE a SET n = 7")
        server.execute("UPDATE b SET n = 7")
        server.commit()
        before = path.read_bytes()
        assert _numbers(f"sqlite:///{path}") == (7, 7)
        assert path.read_bytes() == before


def test_a_path_may_be_relative_and_a_file_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make(tmp_path / "my flow.db")
    monkeypatch.chdir(tmp_path)
    for uri in (
        "sqlite:///my flow.db",
        "sqlite:///./my flow.db?timeout=5",
        f"sqlite:///{tmp_path}/my flow.db",
        f"sqlite:///file:{tmp_path}/my%20flow.db?mode=ro&uri=true",
    ):
        assert file_of(make_url(uri)).resolve() == tmp_path / "my flow.db"
        assert _numbers(uri) == (0, 0)


def test_a_write_that_was_interrupted_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    _make(path, megabytes=1)
    program = (
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('UPDATE a SET n = 7')\n"
        "connection.execute('UPDATE filler SET data = zeroblob(500000)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert path.with_name("mlflow.db-journal").stat().st_size > 0
    with pytest.raises(SourceError, match="a write to it was interrupted"):
        _numbers(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as server:
        server.execute("SELECT * FROM a").fetchall()
    assert _numbers(f"sqlite:///{path}") == (0, 0)


def test_what_a_thread_asks_is_answered_before_the_connection_is_closed(tmp_path: Path) -> None:
    _make(tmp_path / "x.db")
    database = Database(f"sqlite:///{tmp_path}/x.db", error=SourceError)
    state, asks = database.state, threading.Event()

    def ask() -> int:
        with database.reading:
            asks.set()
            numbers = (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000)"
            )
            return int(state.exec_driver_sql(f"{numbers} SELECT count(*) FROM n").scalar_one())

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        asks.wait()
        database.close()
        assert answer.result() == 1_000_000


def test_rows_that_nobody_reads_to_the_end_are_let_go_quietly_behind_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _make(tmp_path / "x.db", megabytes=3)
    database = Database(f"sqlite:///{tmp_path}/x.db", error=SourceError)
    rows = Rows(database, database.state, "default").stream(
        sqlalchemy.select(database.tables["filler"]), size=1
    )
    next(rows)
    database.close()
    del rows
    assert caplog.text == ""
