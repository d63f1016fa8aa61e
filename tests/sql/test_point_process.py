"""Metric points may be read by another process, and nothing about a bundle tells."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mlflow_bundle import side_process
from mlflow_bundle.errors import SourceError
from mlflow_bundle.side_process import LostProcessError
from mlflow_bundle.spooled_points import SpooledPoints
from mlflow_bundle.sql import source as sql_source
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.point_process import PointProcess
from mlflow_bundle.sql.readers.points import POINTS_PER_CHUNK
from tests.servers import MlflowServer
from tests.sql.databases import is_reachable, new_database
from tests.sql.imports import Place, import_into
from tests.transfer.commands import command, interrupted_after
from tests.transfer.kills import members_of
from tests.world import World

Demand = Callable[[object, str], None]


@pytest.fixture(scope="module")
def database(
    full_server: MlflowServer, full_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The full world with a metric too long for a document, and one too long for one answer."""
    path = tmp_path_factory.mktemp("points") / "mlflow.db"
    shutil.copyfile(full_server.database, path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (run_id,) = connection.execute(
            "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active' ORDER BY run_uuid"
        ).fetchone()
        for key, length in (("test of/points", POINTS_PER_CHUNK + 7), ("test of points", 10_001)):
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)"
                " SELECT ?, i * 0.1, 1000 + i, i, i % 7 = 0, ? FROM n",
                (length - 1, key, run_id),
            )
            connection.execute(
                "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
                " VALUES (?, 1, 1000, ?, 0, ?)",
                (key, length - 1, run_id),
            )
        connection.commit()
    return path


@pytest.fixture(autouse=True)
def _even_for_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_source, "_ENTITIES_AT_ONCE", 3)
    monkeypatch.setattr(sql_source, "_ENTITIES_FIRST", (3,))


class _Counting(PointProcess):
    """Counts its answers."""

    answers = 0

    def read(self, run_ids: Sequence[str], points: SpooledPoints) -> None:
        super().read(run_ids, points)
        _Counting.answers += 1


class _Dying(PointProcess):
    """Is killed in the midst of its second answer."""

    answers = 0

    def read(self, run_ids: Sequence[str], points: SpooledPoints) -> None:
        _Dying.answers += 1
        if _Dying.answers == 2:
            points.add(run_ids[0], "half an answer", [1.0], [1], [1])
            self._process.kill()
        super().read(run_ids, points)


class _Stuck(PointProcess):
    """Answers nothing, as one whose database does not."""

    def read(self, run_ids: Sequence[str], points: SpooledPoints) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        super().read(run_ids, points)


class _Silent(PointProcess):
    """Never opens, as one for which a pool has no connection."""

    def __init__(self, database: Database, *, encoded: bool) -> None:
        super().__init__(database, encoded=encoded)
        os.kill(self._process.pid, signal.SIGSTOP)


class _Absent(PointProcess):
    """Cannot be started."""

    def __init__(self, database: Database, *, encoded: bool) -> None:
        raise LostProcessError


def _exported(uri: str, path: Path, artifacts: Path) -> dict[str, bytes]:
    command(
        *("export-all", "--tracking-uri", uri, "-o", path, "--quiet"),
        *("--artifacts-destination", artifacts),
        expect=None,
    )
    return members_of(path)


def _differing(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return sorted(path for path in {*a, *b} if a.get(path) != b.get(path))


@pytest.fixture
def without(
    database: Path, full_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """What is exported without another process."""
    with monkeypatch.context() as patched:
        patched.setattr(sql_source, "PointProcess", _Absent)
        uri = f"sqlite:///{database}"
        return _exported(uri, tmp_path / "without", full_server.artifact_directory)


@pytest.mark.parametrize("kind", [_Counting, _Dying])
def test_a_bundle_is_the_same(
    kind: type[_Counting] | type[_Dying],
    database: Path,
    full_server: MlflowServer,
    without: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sql_source, "PointProcess", kind)
    kind.answers = 0
    found = _exported(f"sqlite:///{database}", tmp_path / "f", full_server.artifact_directory)
    assert kind.answers >= 2
    assert _differing(found, without) == []
    assert any(b'"NaN"' in content for content in found.values())
    assert sum("/metrics/test of" in path for path in found) == 3


def test_one_that_never_opens_is_not_waited_for(
    database: Path,
    full_server: MlflowServer,
    without: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sql_source, "PointProcess", _Silent)
    monkeypatch.setattr(side_process, "_OPENING_S", 0.5)
    found = _exported(f"sqlite:///{database}", tmp_path / "f", full_server.artifact_directory)
    assert _differing(found, without) == []


def test_ctrl_c_does_not_wait_for_it(
    database: Path, full_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_source, "PointProcess", _Stuck)
    began = time.monotonic()
    with interrupted_after(3):
        command(
            *("export-all", "--tracking-uri", f"sqlite:///{database}", "-o", tmp_path / "f"),
            *("--artifacts-destination", full_server.artifact_directory),
            expect=130,
        )
    assert time.monotonic() - began < 60
    assert not (tmp_path / "f").exists()


@pytest.fixture
def on_postgresql(
    database: Path, tmp_path: Path, prerequisite: Demand, full_server: MlflowServer
) -> Iterator[Place]:
    prerequisite(is_reachable("postgresql"), "PostgreSQL")
    bundle = tmp_path / "source.mlbundle"
    _exported(f"sqlite:///{database}", bundle, full_server.artifact_directory)
    with new_database("postgresql") as uri:
        place = Place(uri, tmp_path / "postgresql")
        import_into(place, bundle)
        yield place


def test_it_sees_the_state_of_its_owner_on_postgresql(
    on_postgresql: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = on_postgresql
    monkeypatch.setattr(sql_source, "PointProcess", _Absent)
    without = _exported(place.uri, tmp_path / "without", place.artifacts)
    _Counting.answers = 0
    monkeypatch.setattr(sql_source, "PointProcess", _Counting)
    found = _exported(place.uri, tmp_path / "f", place.artifacts)
    assert _Counting.answers > 3
    assert _differing(found, without) == []


def test_points_that_come_later_are_not_seen(on_postgresql: Place) -> None:
    import sqlalchemy

    database = Database(on_postgresql.uri, error=SourceError)
    with contextlib.closing(database):
        assert database.share() is not None
        process = PointProcess(database, encoded=False)
        with contextlib.closing(process):
            engine = sqlalchemy.create_engine(on_postgresql.uri, poolclass=sqlalchemy.NullPool)
            with engine.begin() as connection:
                run_id = connection.scalar(sqlalchemy.text("SELECT min(run_uuid) FROM metrics"))
                assert isinstance(run_id, str)
                before = connection.scalar(
                    sqlalchemy.text("SELECT count(*) FROM metrics WHERE run_uuid = :id"),
                    {"id": run_id},
                )
                connection.execute(
                    sqlalchemy.text(
                        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)"
                        " VALUES ('late', 1, 1, 1, false, :id)"
                    ),
                    {"id": run_id},
                )
            points = SpooledPoints()
            process.read([run_id], points)
    histories = list(points.histories(run_id))
    assert sum(len(history.values) for history in histories) == before
    assert all(history.key != "late" for history in histories)


def test_the_copy_of_a_database_has_no_name_while_it_is_read(
    database: Path, tmp_path: Path
) -> None:
    opened = Database(f"sqlite:///{database}", error=SourceError)
    with contextlib.closing(opened):
        token = opened.share()
        assert token is not None
        process = PointProcess(opened, encoded=True)
        with contextlib.closing(process):
            points = SpooledPoints()
            process.read(["no such run"], points)
            assert not Path(token).exists()
            assert opened.share() is None
            assert points.keys("no such run") == []
