"""Bundles of whole servers, made once; empty places to fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import MlflowServer
from tests.sql.databases import is_reachable, new_database
from tests.sql.imports import Place, made
from tests.transfer.commands import export
from tests.world import World

Demand = Callable[[object, str], None]


@pytest.fixture(scope="session")
def full_bundle(
    full_server: MlflowServer, full_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``export-all`` of the full world over REST; what lies in buckets is lost."""
    path = tmp_path_factory.mktemp("sql") / "full.mlbundle"
    export(full_server, path, expect=None)
    return path


@pytest.fixture(scope="session")
def genai_bundle(
    genai_server: MlflowServer, genai_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``export-all`` of the small world of MLflow 3's kinds over REST."""
    path = tmp_path_factory.mktemp("sql") / "genai.mlbundle"
    export(genai_server, path, expect=None)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Place:
    return made(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Place:
    return made(tmp_path / "target")


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def destination(
    request: pytest.FixtureRequest, tmp_path: Path, prerequisite: Demand
) -> Iterator[Place]:
    """A database of each kind, as MLflow makes it."""
    if request.param == "sqlite":
        yield made(tmp_path / "destination")
        return
    prerequisite(is_reachable(request.param), request.param)
    with new_database(request.param, empty=False) as uri:
        yield Place(uri, tmp_path / "files")
