"""Fixtures over real MLflow servers.

``source_server`` is filled once per session and never written to; ``empty_server()`` and
``filled_server()`` lend servers that a test may write to. Lent servers go back into a pool and
are emptied when lent again, so that a test pays for a start only when it needs more servers at
once than any test before it.

A test that needs something this machine may lack says so through ``prerequisite``: it skips the
test, but fails it where the environment variable ``CI`` is set, so that nothing is skipped there
unnoticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.servers import WEBHOOK_KEY, MlflowServer, launch_server

if TYPE_CHECKING:
    from tests.compare import Snapshot
    from tests.world import World

# Before MLflow is imported anywhere (not by this module: codecs need none). Telemetry is decided
# at import, and no server of the person who runs the tests may be reached by accident.
for _name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW"))]:
    del os.environ[_name]
os.environ |= {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # discard: nothing listens there
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": WEBHOOK_KEY,
}


def _client_state() -> dict[str, object]:
    """Where MLflow's own client in this process goes."""
    tracking = sys.modules.get("mlflow.tracking._tracking_service.utils")
    registry = sys.modules.get("mlflow.tracking._model_registry.utils")
    return {
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI"),
        "MLFLOW_REGISTRY_URI": os.environ.get("MLFLOW_REGISTRY_URI"),
        "tracking_uri": getattr(tracking, "_tracking_uri", None),
        "registry_uri": getattr(registry, "_registry_uri", None),
    }


@pytest.fixture(autouse=True)
def _client_is_left_as_it_was() -> Iterator[None]:
    """Fail the test that leaves MLflow's client elsewhere, not one that comes after it."""
    before = _client_state()
    yield
    assert _client_state() == before


class LendServer(Protocol):
    """Calling it gives a server for the rest of the test; keywords as of ``start_server``."""

    def __call__(self, **options: object) -> MlflowServer: ...


class _Pool:
    """Default servers to lend; those with options of their own are not shared."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._idle: list[MlflowServer] = []

    def _start(self, options: dict[str, object]) -> MlflowServer:
        self._count += 1
        return launch_server(self._directory / str(self._count), **options)  # type: ignore[arg-type]

    def borrow(self, options: dict[str, object]) -> MlflowServer:
        if options:
            return self._start(options)
        while self._idle:
            server = self._idle.pop()
            if server.process.poll() is None:
                server.reset()
                return server
        return self._start({})

    def give_back(self, server: MlflowServer, options: dict[str, object]) -> None:
        if options:
            server.stop()
            shutil.rmtree(server.directory, ignore_errors=True)
        elif server.process.poll() is None:
            self._idle.append(server)

    def close(self) -> None:
        for server in self._idle:
            server.stop()


@pytest.fixture(scope="session")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Pool]:
    pool = _Pool(tmp_path_factory.mktemp("servers"))
    yield pool
    pool.close()


@pytest.fixture
def empty_server(_pool: _Pool) -> Iterator[LendServer]:
    """``empty_server()`` gives a new empty server each time it is called."""
    lent: list[tuple[MlflowServer, dict[str, object]]] = []

    def lend(**options: object) -> MlflowServer:
        server = _pool.borrow(options)
        lent.append((server, options))
        return server

    yield lend
    for server, options in lent:
        _pool.give_back(server, options)


@contextlib.contextmanager
def shared_directory(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Hold a directory that all workers of pytest-xdist share; who comes first makes it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared / name


def _once(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    build: Callable[[MlflowServer], World],
    start: Path | None = None,
) -> tuple[Path, World]:
    """A world's database and artifacts in a directory, built once also under pytest-xdist."""
    with shared_directory(tmp_path_factory, name) as directory:
        record = directory.with_suffix(".pickle")
        if not record.exists():
            if start is not None:
                copy_server(start, directory)
            server = launch_server(directory)
            try:
                world = build(server)
            finally:
                server.stop()
            record.write_bytes(pickle.dumps(world))
    return directory, pickle.loads(record.read_bytes())


def copy_server(source: Path, directory: Path) -> None:
    """Copy what a stopped server holds to the directory of one to come."""
    directory.mkdir(exist_ok=True)
    shutil.copyfile(source / "mlflow.db", directory / "mlflow.db")
    shutil.copytree(source / "artifacts", directory / "artifacts")


@pytest.fixture(scope="session")
def _built_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    from tests.world import build_world

    return _once(tmp_path_factory, "world", lambda server: build_world(server.uri))


@pytest.fixture(scope="session")
def _built_full_world(
    _built_world: tuple[Path, World], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, World]:
    from tests.world_genai import extend_world

    directory, world = _built_world

    def build(server: MlflowServer) -> World:
        return extend_world(world.at(server.uri), database=server.database)

    return _once(tmp_path_factory, "full-world", build, start=directory)


@pytest.fixture(scope="session")
def _built_genai_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    from tests.world_genai import build_genai_world

    def build(server: MlflowServer) -> World:
        return build_genai_world(server.uri, database=server.database)

    return _once(tmp_path_factory, "genai-world", build)


def _served(built: Path, directory: Path) -> Iterator[MlflowServer]:
    """A server on a copy of one that was built."""
    copy_server(built, directory)
    server = launch_server(directory)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def source_server(
    _built_world: tuple[Path, World], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A server that holds the world. For reading only: every test of the session shares it."""
    yield from _served(_built_world[0], tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def world(_built_world: tuple[Path, World], source_server: MlflowServer) -> World:
    """What ``source_server`` holds, by name."""
    return _built_world[1].at(source_server.uri)


@pytest.fixture(scope="session")
def genai_server(
    _built_genai_world: tuple[Path, World], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A server that holds the small world of MLflow 3's kinds. For reading only."""
    yield from _served(_built_genai_world[0], tmp_path_factory.mktemp("genai-source"))


@pytest.fixture(scope="session")
def genai_world(_built_genai_world: tuple[Path, World], genai_server: MlflowServer) -> World:
    """What ``genai_server`` holds, by name."""
    return _built_genai_world[1].at(genai_server.uri)


@pytest.fixture(scope="session")
def full_server(
    _built_full_world: tuple[Path, World], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A server that holds everything: ``source_server``'s and ``genai_server``'s. Read only."""
    yield from _served(_built_full_world[0], tmp_path_factory.mktemp("full-source"))


@pytest.fixture(scope="session")
def full_world(_built_full_world: tuple[Path, World], full_server: MlflowServer) -> World:
    """What ``full_server`` holds, by name."""
    return _built_full_world[1].at(full_server.uri)


@pytest.fixture(scope="session")
def source_snapshot(source_server: MlflowServer) -> Snapshot:
    """All that ``source_server`` tells; not to be changed."""
    from tests.compare import snapshot

    return snapshot(source_server.uri)


@pytest.fixture
def filled_server(
    empty_server: LendServer, _built_world: tuple[Path, World]
) -> Callable[[], MlflowServer]:
    """``filled_server()`` gives a server that holds the world and may be written to."""

    def lend() -> MlflowServer:
        server = empty_server()
        directory = _built_world[0]
        server.reset(directory / "mlflow.db", directory / "artifacts")
        return server

    return lend


@pytest.fixture
def filled_genai_server(
    empty_server: LendServer, _built_genai_world: tuple[Path, World]
) -> Callable[[], MlflowServer]:
    """``filled_genai_server()`` gives a copy of ``genai_server`` that may be written to."""

    def lend() -> MlflowServer:
        server = empty_server()
        directory = _built_genai_world[0]
        server.reset(directory / "mlflow.db", directory / "artifacts")
        return server

    return lend


@pytest.fixture(scope="session")
def prerequisite() -> Callable[[object, str], None]:
    """``prerequisite(shutil.which("bsdtar"), "bsdtar")``: skip without it, under CI fail."""

    def demand(present: object, name: str) -> None:
        if present:
            return
        if os.environ.get("CI"):
            pytest.fail(f"missing prerequisite: {name}")
        pytest.skip(f"missing prerequisite: {name}")

    return demand


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: one that ends last keeps the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: most tests wait for servers."""
    return (os.cpu_count() or 1) + 1
