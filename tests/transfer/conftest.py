"""Bundles that are made once and read by many tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.rest.session import Session
from tests.compare import Snapshot, row_dump, snapshot
from tests.servers import MlflowServer, launch_server
from tests.transfer.commands import Done, export
from tests.transfer.small import Small, build_small
from tests.world import World


@dataclass(frozen=True)
class Exported:
    """The world as a bundle, and what its export said and did."""

    path: Path
    done: Done
    requests: list[str]
    """As the server logged them."""
    sent: list[str]
    """Method, path, parameters and body of each request, as the client sent them."""
    rows_unchanged: bool


@pytest.fixture(scope="session")
def exported(
    source_server: MlflowServer, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """``export-all`` of the world; its losses are asserted by one test, not here."""
    path = tmp_path_factory.mktemp("world") / "world.mlbundle"
    rows = row_dump(source_server.database)
    before = len(source_server.requests())
    sent: list[str] = []
    original = Session.request

    def recorded(self: Session, method: str, endpoint: str, **options: Any) -> Any:
        body = options.get("body")
        parameters = json.dumps(options.get("params"), sort_keys=True)
        sent.append(f"{method} {endpoint} {parameters} {body.decode() if body else ''}")
        return original(self, method, endpoint, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "request", recorded)
        done = export(source_server, path, expect=None)
    requests = source_server.requests()[before:]
    unchanged = row_dump(source_server.database) == rows
    return Exported(path, done, requests, sent, unchanged)


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that holds `build_small`; for reading only."""
    server = launch_server(tmp_path_factory.mktemp("small"), workers=1)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def small(small_server: MlflowServer) -> Small:
    """Ids of what ``small_server`` holds."""
    return build_small(small_server.uri)


@pytest.fixture(scope="session")
def small_bundle(
    small_server: MlflowServer, small: Small, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``export-all`` of ``small_server``."""
    path = tmp_path_factory.mktemp("small_bundle") / "small.mlbundle"
    export(small_server, path)
    return path


@pytest.fixture(scope="session")
def small_snapshot(small_server: MlflowServer, small: Small) -> Snapshot:
    """All that ``small_server`` tells."""
    return snapshot(small_server.uri)


@pytest.fixture
def filled_small(
    empty_server: Callable[[], MlflowServer],
) -> Callable[[], tuple[MlflowServer, Small]]:
    """``filled_small()`` gives a server with `build_small` that may be written to."""

    def lend() -> tuple[MlflowServer, Small]:
        server = empty_server()
        return server, build_small(server.uri)

    return lend
