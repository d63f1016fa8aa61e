"""A server that goes away in the middle: the transfer waits, goes on, or can be gone on with."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.compare import Snapshot, differences, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command, finished, process
from tests.transfer.faults import DROPPED, Answer, faulty

pytestmark = [pytest.mark.server, pytest.mark.slow]

AWAY = {
    "drops": DROPPED,
    "503": Answer(503, "text/html", b"<html>no upstream</html>"),
}


class Outage:
    """Begins with request number ``after`` and lasts that long.

    Args:
        after: How many requests are answered before.
        lasts_s: Seconds.
        answer: What a client gets meanwhile.
    """

    def __init__(self, after: int, lasts_s: float, answer: Answer = DROPPED) -> None:
        self._left = after
        self._lasts_s = lasts_s
        self._answer = answer
        self._ends: float | None = None

    def __call__(self, method: str, path: str) -> Answer | None:
        self._left -= 1
        if self._left >= 0:
            return None
        if self._ends is None:
            self._ends = time.monotonic() + self._lasts_s
        return self._answer if time.monotonic() < self._ends else None

    @property
    def has_begun(self) -> bool:
        return self._ends is not None


@pytest.mark.parametrize("answer", AWAY.values(), ids=AWAY)
def test_an_export_and_an_import_wait_for_a_server_that_is_away(
    small_server: MlflowServer,
    small_snapshot: Snapshot,
    empty_server: LendServer,
    tmp_path: Path,
    answer: Answer,
) -> None:
    bundle = tmp_path / "a.mlbundle"
    destination = empty_server()
    for words, server, after in (
        (["export-all", "-o", bundle], small_server, 25),
        (["import-all", bundle], destination, 60),
    ):
        outage = Outage(after, 1.2, answer)
        with faulty(server.uri, instead=outage) as uri:
            done = command(*words, "--tracking-uri", uri)
        assert outage.has_begun
        assert done.stderr.count("is away (") == 1, done.stderr
        assert done.stderr.count("; going on") == 1
        assert "nothing lost" in done.stderr
    assert differences(small_snapshot, snapshot(destination.uri)) == []


def test_a_server_that_stays_away_fails_the_command_which_then_goes_on(
    small_server: MlflowServer,
    small_snapshot: Snapshot,
    empty_server: LendServer,
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "a.mlbundle"
    destination = empty_server()
    outages: list[Outage] = []

    def instead(method: str, path: str) -> Answer | None:
        return outages[-1](method, path)

    with (
        faulty(small_server.uri, instead=instead) as source,
        faulty(destination.uri, instead=instead) as sink,
    ):
        for words in (
            ["export-all", "-o", bundle, "--tracking-uri", source],
            ["import-all", bundle, "--tracking-uri", sink],
        ):
            outages.append(Outage(50, 60))
            # Of a process that is gone an import knows that it works no longer.
            failed = finished(process(*words, "--retry-for", "1s"))
            assert failed.exit_code == 1
            assert outages[-1].has_begun
            last = failed.stderr.strip().splitlines()[-2:]
            assert last[0].startswith("Error: cannot reach the MLflow server http://127.0.0.1:")
            assert " for 1 s: " in last[0]
            assert last[1].startswith("Hint: when it is back, give the same command again")
            assert failed.stdout == ""
            outages.append(Outage(10**6, 0))
            command(*words)
    assert differences(small_snapshot, snapshot(destination.uri)) == []


@pytest.mark.parametrize("name", ["export-all", "import-all"])
def test_ctrl_c_ends_the_waiting(
    small_server: MlflowServer,
    small_bundle: Path,
    empty_server: LendServer,
    tmp_path: Path,
    name: str,
) -> None:
    outage = Outage(50, 600)
    server = small_server if name == "export-all" else empty_server()
    words = ["-o", tmp_path / "x"] if name == "export-all" else [small_bundle]
    with faulty(server.uri, instead=outage) as uri:
        waiting = process(name, *words, "--tracking-uri", uri)
        deadline = time.monotonic() + 60
        while not outage.has_begun:
            assert waiting.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        began = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        done = finished(waiting)
    assert done.exit_code == 130, done.stderr
    assert time.monotonic() - began < 15
    assert "Traceback" not in done.stderr
