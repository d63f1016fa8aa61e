"""An empty database gets its tables at once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mlflow_bundle.auth.database import AuthDestination
from mlflow_bundle.sql import preparing
from mlflow_bundle.sql.preparing import writable


def test_a_preparation_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "m.db").touch()
    (tmp_path / "m.db.mlflow-bundle-new").write_bytes(b"half")
    (tmp_path / "m.db.mlflow-bundle-new-journal").write_bytes(bytes(700))
    with writable(f"sqlite:///{tmp_path}/m.db", dry=False) as database:
        assert database.has("runs", "run_uuid")
    assert [path.name for path in tmp_path.iterdir()] == ["m.db"]


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
