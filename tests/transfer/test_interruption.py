"""A command that is killed leaves nothing half-made, and the same command again completes it."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.compare import Snapshot, differences, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import export, finished, import_, process

pytestmark = [pytest.mark.server, pytest.mark.slow]


def wait_for(
    server: MlflowServer, already: int, requests: int, started: subprocess.Popen[bytes]
) -> None:
    """Return when the server has answered that many more requests, or the process has ended."""
    deadline = time.monotonic() + 60
    while len(server.requests()) < already + requests and started.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_import_killed_again_and_again_ends_like_an_undisturbed_one(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer
) -> None:
    server = empty_server()
    dice = random.Random(time.time_ns())
    moments = sorted(dice.sample(range(5, 90), 4))
    for moment in moments:
        already = len(server.requests())
        killed = process("import-all", small_bundle, "--tracking-uri", server.uri)
        wait_for(server, already, moment, killed)
        killed.send_signal(signal.SIGKILL)
        assert finished(killed).exit_code in (-signal.SIGKILL, 0)
    done = import_(server, small_bundle)
    assert done.report["lost"] == done.report["conflicts"] == [], moments
    assert differences(small_snapshot, snapshot(server.uri)) == [], moments
    again = import_(server, small_bundle)
    assert again.report["done"] == {}, moments


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_export_interrupted_leaves_nothing_under_the_final_name(
    small_server: MlflowServer,
    small_bundle: Path,
    small_snapshot: Snapshot,
    empty_server: LendServer,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    output = tmp_path / "killed.mlbundle"
    words = ["export-all", "-o", output, "--tracking-uri", small_server.uri, "--jobs", "1"]
    for moment in (3, 20, 40):
        already = len(small_server.requests())
        killed = process(*words)
        wait_for(small_server, already, moment, killed)
        killed.send_signal(number)
        done = finished(killed)
        assert done.exit_code == (130 if number == signal.SIGINT else -number), done.stderr
        assert not output.exists()
        assert "Traceback" not in done.stderr
    export(small_server, output)
    assert [path.name for path in tmp_path.iterdir()] == ["killed.mlbundle"]
    server = empty_server()
    import_(server, output)
    assert differences(small_snapshot, snapshot(server.uri)) == []
