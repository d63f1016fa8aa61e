"""A command that is killed leaves nothing half-made, and the same command again completes it."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.compare import Snapshot, differences, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, finished, import_, process
from tests.transfer.kills import kill_exports, kill_imports, members_of
from tests.transfer.small import Small

ROUNDS = 20
"""Kills of each; `python -m benchmarks.kills` has as many as one likes."""

pytestmark = [pytest.mark.server, pytest.mark.slow]


def wait_for(
    server: MlflowServer, already: int, requests: int, started: subprocess.Popen[bytes]
) -> None:
    """Return when the server has answered that many more requests, or the process has ended."""
    deadline = time.monotonic() + 60
    while len(server.requests()) < already + requests and started.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exports_killed_at_any_moment_end_like_undisturbed_ones(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    seed = time.time_ns()
    print("seed", seed)
    kill_exports(small_server, tmp_path, rounds=ROUNDS, dice=random.Random(seed))


def test_imports_killed_at_any_moment_end_like_undisturbed_ones(
    small_server: MlflowServer, small_bundle: Path, empty_server: LendServer
) -> None:
    seed = time.time_ns()
    print("seed", seed)
    dice = random.Random(seed)
    kill_imports(small_server, small_bundle, empty_server(), rounds=ROUNDS, dice=dice)


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


@pytest.mark.parametrize("limit", [300_000, 1_500_000, 2_900_000])
def test_a_full_disk_leaves_an_export_that_goes_on_when_there_is_room(
    small_server: MlflowServer, small_bundle: Path, tmp_path: Path, limit: int
) -> None:
    output = tmp_path / "full.mlbundle"
    words = ["export-all", "-o", output, "--tracking-uri", small_server.uri, "--quiet"]
    # The kernel writes what there is room for, and refuses the rest, as on a full disk.
    full = finished(process(*words, preexec_fn=lambda: _allow_file_size(limit)))
    assert full.exit_code == 1
    assert full.stderr.splitlines() == [
        f"Error: {output}: file too large",
        "Hint: make room and give the same command again",
    ]
    assert not output.exists()
    assert output.with_name("full.mlbundle.partial").stat().st_size <= limit
    command(*words)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert members_of(output) == members_of(small_bundle)


def _allow_file_size(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
