"""Servers of older MLflow versions, and a bundle of the newest one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from tests.compare import Snapshot, snapshot
from tests.compat.contents import Contents, Version, fill, parsed
from tests.compat.environments import VERSIONS, EnvironmentNotMadeError, environment
from tests.compat.kinds import by_its_client, by_rest, read_traces
from tests.conftest import copy_server
from tests.servers import MlflowServer, launch_server
from tests.transfer.commands import Done, export
from tests.world import Json, World


@dataclass(frozen=True)
class Old:
    """A server of an older MLflow; each test empties it first (`MlflowServer.reset`)."""

    version: Version
    server: MlflowServer
    python: Path

    def fill(self) -> Contents:
        """Fill it with all kinds of things that its version knows."""
        contents = fill(self.server, ".".join(map(str, self.version)))
        if self.has(3, 2):
            by_rest(self.server, contents)
        elif self.has(2, 14):
            by_its_client(self.server, self.python, contents)
        return contents

    def has(self, *version: int) -> bool:
        """Whether it has what came with MLflow ``version``."""
        return self.version >= version

    def snapshot(self) -> Snapshot:
        """All that it tells."""
        return snapshot(self.server.uri, artifacts=self.server.artifact_directory)


@dataclass(frozen=True)
class Newest:
    """The bundle of a server of the installed MLflow."""

    path: Path
    done: Done
    contents: Contents
    world: World
    snapshot: Snapshot
    traces: dict[str, Json]


@pytest.fixture(scope="module", params=VERSIONS)
def old(
    request: pytest.FixtureRequest,
    prerequisite: Callable[[object, str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Old]:
    version: str = request.param
    try:
        python = environment(version)
    except EnvironmentNotMadeError as exc:
        prerequisite(False, f"an environment with MLflow {exc}")
    server = launch_server(tmp_path_factory.mktemp("old"), python=str(python))
    yield Old(parsed(version), server, python)
    server.stop()


@pytest.fixture(scope="session")
def newest(
    _built_genai_world: tuple[Path, World], tmp_path_factory: pytest.TempPathFactory
) -> Newest:
    directory = tmp_path_factory.mktemp("newest")
    copy_server(_built_genai_world[0], directory / "server")
    server = launch_server(directory / "server")
    try:
        contents = fill(server, mlflow.__version__, long_history=False)
        path = directory / "newest.mlbundle"
        done = export(server, path)
        taken = snapshot(server.uri, artifacts=server.artifact_directory)
        traces = read_traces(server, parsed(mlflow.__version__))
    finally:
        server.stop()
    return Newest(path, done, contents, _built_genai_world[1], taken, traces)
