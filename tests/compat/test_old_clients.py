"""The package itself where an older MLflow is installed, against a server of the newest."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlflow_bundle
from tests.compat.environments import EnvironmentNotMadeError, environment
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command, import_
from tests.transfer.small import build_small

pytestmark = [pytest.mark.server, pytest.mark.slow]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", params=["3.0.1", "3.10.1"])
def run(request: pytest.FixtureRequest, prerequisite: Callable[[object, str], None]) -> Run:
    """Runs a command where that MLflow is installed."""
    try:
        python = environment(request.param)
    except EnvironmentNotMadeError as exc:
        prerequisite(False, f"an environment with MLflow {exc}")
    home = Path(mlflow_bundle.__file__).parent.parent

    def words(*words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [python, "-W", "ignore", "-m", "mlflow_bundle", *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(home)},
        )
        assert done.returncode == expect, done.stderr[-3000:]
        return done

    return words


def test_servers_and_databases_are_exported_and_imported_over_rest(
    run: Run, empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build_small(source.uri)
    served, read = tmp_path / "served.mlbundle", tmp_path / "read.mlbundle"
    run("export-all", "-o", served, "--tracking-uri", source.uri)
    run("export-all", "-o", read, *_database(source))
    run("verify", served)
    run("diff", served, source.uri)
    run("import-all", read, "--tracking-uri", destination.uri)
    command("diff", served, destination.uri)
    assert import_(destination, served).report["done"] == {}


def test_a_database_is_not_written(run: Run, empty_server: LendServer, tmp_path: Path) -> None:
    source = empty_server()
    bundle = tmp_path / "b.mlbundle"
    run("export-all", "-o", bundle, "--tracking-uri", source.uri)
    for options in (("--dry-run",), ()):
        done = run(
            *("import-all", bundle, "--tracking-uri", f"sqlite:///{tmp_path}/new.db"),
            *("--artifacts-destination", tmp_path, *options),
            expect=2,
        )
        assert "databases are written with MLflow 3.17 or newer, and 3." in done.stderr
        assert "pip install" in done.stderr
    assert not (tmp_path / "new.db").exists()


def _database(server: MlflowServer) -> tuple[Any, ...]:
    return (
        *("--tracking-uri", f"sqlite:///{server.database}"),
        *("--artifacts-destination", server.artifact_directory),
    )
