"""Rows on their way: what an interruption leaves."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.engine import make_url

from mlflow_bundle.errors import SinkError
from mlflow_bundle.sql.batch import Batch, Owner
from mlflow_bundle.sql.dialects.sqlite import Sqlite
from mlflow_bundle.sql.points import Points
from tests.transfer.commands import interrupted_after

RUN = Owner("run", "r")
POINTS = Points("k", "r", [0.5, 1.5], [1, 2], [1, 2], [False, False])


class _Slow(Sqlite):
    """A database that takes its time with points."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.begun = threading.Event()
        self.ended = False

    def insert_points(
        self,
        connection: Connection,
        table: Table,
        points: Sequence[Points],
        *,
        pass_over: bool = False,
    ) -> int:
        self.begun.set()
        time.sleep(1)
        if self.failure is not None:
            raise self.failure
        count = super().insert_points(connection, table, points, pass_over=pass_over)
        self.ended = True
        return count


class _Files:
    """Files of an entity, for which somebody loses patience."""

    def __len__(self) -> int:
        return 1

    def finish(self) -> int:
        raise KeyboardInterrupt


@pytest.fixture
def slow() -> _Slow:
    return _Slow()


@pytest.fixture
def connection(slow: _Slow, tmp_path: Path) -> Iterator[Connection]:
    engine = slow.engine(make_url(f"sqlite:///{tmp_path}/x.db"))
    with engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(
            "CREATE TABLE metrics (key TEXT, run_uuid TEXT, value FLOAT, timestamp BIGINT,"
            " step BIGINT, is_nan BOOLEAN)"
        )
        connection.exec_driver_sql("CREATE TABLE runs (run_uuid TEXT)")
        yield connection


@pytest.fixture
def batch(slow: _Slow, connection: Connection) -> Iterator[Batch]:
    metadata = MetaData()
    metadata.reflect(connection)

    def lose(owner: Owner, field: str, reason: str) -> None:
        raise AssertionError(f"{owner} {field} {reason}")

    def uncount(kind: str, count: int) -> None:
        raise AssertionError(f"{kind} {count}")

    def failed(exc: Exception) -> SinkError:
        return SinkError(str(exc))

    batch = Batch(
        connection, slow, metadata.tables.values(), lose=lose, uncount=uncount, failed=failed
    )
    with contextlib.closing(batch):
        yield batch


def _count(connection: Connection, table: str) -> Any:
    return connection.scalar(sqlalchemy.text(f"SELECT count(*) FROM {table}"))


def _add_run(batch: Batch) -> None:
    batch.start(RUN)
    batch.insert(RUN, "runs", {"run_uuid": "r"})
    batch.insert_points(POINTS)
    batch.end()


def test_the_connection_is_not_free_while_points_are_sent(
    batch: Batch, slow: _Slow, connection: Connection
) -> None:
    batch.hold()
    _add_run(batch)
    batch._flush()
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.2):
        _ = batch.connection
    assert not slow.ended
    batch.give_up()
    assert slow.ended
    batch.release()
    batch.commit()
    assert _count(connection, "metrics") == 2
    assert _count(connection, "runs") == 1


def test_points_are_sent_while_others_come(batch: Batch, slow: _Slow) -> None:
    batch.hold()
    _add_run(batch)
    batch._flush()
    assert slow.begun.wait(30)
    assert not slow.ended  # and nobody waits
    batch.commit()
    assert slow.ended


def test_a_failure_of_points_is_told_once(batch: Batch, slow: _Slow) -> None:
    slow.failure = sqlite3.OperationalError("disk I/O error")
    batch.hold()
    _add_run(batch)
    batch._flush()
    with pytest.raises(SinkError, match="disk I/O error"):
        _ = batch.connection
    _ = batch.connection


def test_no_row_is_written_without_the_files_that_somebody_did_not_wait_for(
    batch: Batch, connection: Connection
) -> None:
    batch.follow(_Files())  # type: ignore[arg-type]
    _add_run(batch)
    with pytest.raises(KeyboardInterrupt):
        batch.commit()
    batch.give_up()
    assert _count(connection, "runs") == 0
    assert _count(connection, "metrics") == 0


def test_no_half_of_what_an_interruption_met_is_written(
    batch: Batch, slow: _Slow, connection: Connection
) -> None:
    _add_run(batch)
    slow.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        batch.commit()
    slow.failure = None
    batch.give_up()
    assert _count(connection, "runs") == 0
    assert _count(connection, "metrics") == 0
    _add_run(batch)
    batch.commit()
    assert _count(connection, "runs") == 1
    assert _count(connection, "metrics") == 2
