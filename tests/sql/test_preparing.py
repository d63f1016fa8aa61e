"""An empty database gets its tables at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine

from mlflow_bundle.auth.database import AuthDestination
from mlflow_bundle.errors import SinkError
from mlflow_bundle.sql import preparing
from mlflow_bundle.sql.preparing import writable
from tests.sql.conftest import Demand
from tests.sql.databases import is_reachable, new_database


def test_a_preparation_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "m.db").touch()
    (tmp_path / "m.db.mlflow-bundle-new").write_bytes(b"half")
    (tmp_path / "m.db.mlflow-bundle-new-journal").write_bytes(bytes(700))
    with writable(f"sqlite:///{tmp_path}/m.db", dry=False) as database:
        assert database.has("runs", "run_uuid")
    assert [path.name for path in tmp_path.iterdir()] == ["m.db"]


@pytest.mark.parametrize("name", ["feature%2Fnew", "100%", "a#b ünï"])
def test_a_database_is_made_whatever_directory_it_is_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / name
    here.mkdir()
    monkeypatch.chdir(here)
    with writable("sqlite:///m.db", dry=False) as database:
        assert database.has("runs", "run_uuid")
    assert [path.name for path in here.iterdir()] == ["m.db"]
    assert list(tmp_path.iterdir()) == [here]


def test_a_preparation_that_fails_leaves_the_empty_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Engine) -> None:
        assert str(engine.url) != f"sqlite:///{tmp_path}/m.db"
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "_migrate", fail)
    with (
        pytest.raises(KeyboardInterrupt),
        writable(f"sqlite:///{tmp_path}/m.db", dry=False),
    ):
        pass
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("m.db", 0)]


def test_a_killed_preparation_of_a_database_of_users_leaves_it_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/auth.db"

    def fail(engine: Engine) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlflow_bundle.auth.database._migrate", fail)
        destination = AuthDestination(uri)
        with pytest.raises(KeyboardInterrupt), destination.written():
            pass
        destination.close()
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("auth.db", 0)]
    with contextlib.closing(AuthDestination(uri)) as destination, destination.written():
        assert destination.database.has("users", "username")


def test_tables_that_an_interrupted_import_left_in_mysql_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, prerequisite: Demand
) -> None:
    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "ADD COLUMN workspace" in statement:
            raise KeyboardInterrupt

    def migrate(engine: Engine) -> None:
        sqlalchemy.event.listen(engine, "after_cursor_execute", fail)
        whole(engine)

    whole = preparing._migrate
    prerequisite(is_reachable("mysql"), "mysql")
    with new_database("mysql") as uri:
        monkeypatch.setattr(preparing, "_migrate", migrate)
        with pytest.raises(KeyboardInterrupt), writable(uri, dry=False):
            pass
        with pytest.raises(SinkError, match="older MLflow") as refused, writable(uri, dry=False):
            pass
        assert "drop the database and make an empty one" in (refused.value.hint or "")
