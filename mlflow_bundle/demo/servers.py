"""Local ``mlflow server`` processes for the demo, started side by side and stopped by their ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_bundle.errors import BundleError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0
_LOG_LINES_SHOWN = 15

_SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else it starts workers of its own
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A server of ours: SQLite and artifacts in one directory, reachable from this machine only.

    Attributes:
        uri: Tracking URI.
        directory: Holds ``mlflow.db``, ``artifacts/`` and ``server.log``.
        process: Leads a process group of its own.
    """

    uri: str
    directory: Path
    process: subprocess.Popen[bytes]


@contextmanager
def local_servers(directories: Sequence[Path]) -> Iterator[list[LocalServer]]:
    """Run one server for each directory until the block ends, whatever ends it.

    The block begins when the processes run; :func:`wait_until_ready` says when they answer.
    """
    with ExitStack() as stack:
        servers = []
        for directory in directories:
            server = _launch(directory)
            stack.callback(_stop, server)
            servers.append(server)
        yield servers
        for server in servers:  # both at once; _stop then waits for each
            _signal(server, signal.SIGTERM)


def wait_until_ready(server: LocalServer, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return when ``server`` answers.

    Raises:
        BundleError: It ended or did not answer in time; the message has the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{server.uri}/health", timeout=2):
            return
        time.sleep(0.05)
    log = (server.directory / "server.log").read_text(errors="replace").splitlines()
    raise BundleError(
        f"the local MLflow server did not answer at {server.uri}; its log ends: "
        + " | ".join(log[-_LOG_LINES_SHOWN:]),
        hint="--keep DIR keeps its files",
    )


def without_mlflow_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without what would send the demo to another server than its own."""
    kept = {k: v for k, v in environment.items() if not k.startswith(("MLFLOW_", "_MLFLOW"))}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _launch(directory: Path) -> LocalServer:
    (directory / "artifacts").mkdir(parents=True)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=without_mlflow_settings(os.environ) | _SERVER_ENVIRONMENT,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop the server
        )
    return LocalServer(uri=f"http://127.0.0.1:{port}", directory=directory, process=process)


def _stop(server: LocalServer) -> None:
    """Stop the process group that ``server`` leads; a second Ctrl-C only makes it faster."""
    try:
        _signal(server, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _lives(server) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        if _lives(server):
            _signal(server, signal.SIGKILL)
            server.process.wait()


def _signal(server: LocalServer, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, only zombies left
        os.killpg(server.process.pid, number)


def _lives(server: LocalServer) -> bool:
    server.process.poll()
    try:
        os.killpg(server.process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
