"""Bundles of whole servers, made once; empty places to fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import shared_directory
from tests.sql.databases import is_reachable, new_database
from tests.sql.imports import Place, made
from tests.transfer.commands import export

Demand = Callable[[object, str], None]


@pytest.fixture(scope="session")
def full_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``export-all`` of the full world over REST; what lies in buckets is lost."""
    return _bundle_of("full_server", request, tmp_path_factory)


@pytest.fixture(scope="session")
def genai_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``export-all`` of the small world of MLflow 3's kinds over REST."""
    return _bundle_of("genai_server", request, tmp_path_factory)


def _bundle_of(
    server: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory
) -> Path:
    """The bundle of a server, which only the worker starts that comes first."""
    with shared_directory(factory, f"bundle-of-{server}") as directory:
        path = directory / "all.mlbundle"
        if not path.exists():
            directory.mkdir(exist_ok=True)
            export(request.getfixturevalue(server), path, expect=None)
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
