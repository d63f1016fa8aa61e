"""Kills commands at random moments, again and again, and completes them by the same command.

The commands run in processes of their own, forked from one that has imported everything, because a
start takes longer than a small transfer. What they end with is compared with what an undisturbed
command makes: a bundle member by member, a destination row by row.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec

from mlflow_bundle.bundles.opening import open_tree
from tests.forking import FORKS
from tests.servers import MlflowServer
from tests.tables import compare_databases

_TIMEOUT_S = 300


def _main(words: list[str], output: str) -> None:
    from mlflow_bundle.cli.main import bundle

    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    bundle.main(words)


@contextlib.contextmanager
def _started(words: list[str]) -> Iterator[BaseProcess]:
    """Start a command; if it has ended by itself afterwards, it must have ended well."""
    with tempfile.NamedTemporaryFile() as output:
        process = FORKS.Process(target=_main, args=(words, output.name), daemon=True)
        process.start()
        yield process
        if process.exitcode != -signal.SIGKILL:
            text = Path(output.name).read_text(errors="replace")
            assert process.exitcode == 0, f"{words}: exit code {process.exitcode}\n{text[-4000:]}"


def run(words: list[str]) -> float:
    """Run a command undisturbed and return its seconds."""
    began = time.monotonic()
    with _started(words) as process:
        process.join(_TIMEOUT_S)
    return time.monotonic() - began


def kill_again_and_again(
    words: list[str],
    *,
    rounds: int,
    dice: random.Random,
    begin: Callable[[], None],
    check: Callable[[], None],
    is_complete: Callable[[], bool] = lambda: False,
) -> int:
    """Kill a command so many times; whenever it completes, check what it made and begin anew.

    Args:
        words: The command line.
        rounds: How many kills.
        dice: Chooses the moments.
        begin: Called before the first attempt of each series.
        check: Called when a series has completed.
        is_complete: Whether a killed command had done its work, and cannot be run again.

    Returns:
        How many series there were.
    """
    begin()
    lasts_s = run(words)
    check()
    kills = series = 0
    while kills < rounds:
        begin()
        series += 1
        for _ in range(dice.randint(1, 8)):
            with _started(words) as process:
                process.join(dice.uniform(0, lasts_s))
                is_done = process.exitcode is not None
                process.kill()
                process.join()
            kills += not is_done
            is_done = is_done or is_complete()
            if is_done or kills == rounds:
                break
        if not is_done:
            run(words)
        check()
    return series


def kill_exports(server: MlflowServer, directory: Path, *, rounds: int, dice: random.Random) -> int:
    """Kill ``export-all`` of a server; see :func:`kill_again_and_again`."""
    path = directory / "killed.mlbundle"
    words = ["export-all", "-o", str(path), "--tracking-uri", server.uri, "--quiet"]
    undisturbed: list[dict[str, bytes]] = []

    def check() -> None:
        found = members_of(path)
        undisturbed[:] = undisturbed or [found]
        assert found.keys() == undisturbed[0].keys()
        for member, content in found.items():
            assert content == undisturbed[0][member], member
        assert [left.name for left in directory.iterdir()] == [path.name]

    return kill_again_and_again(
        words,
        rounds=rounds,
        dice=dice,
        begin=lambda: path.unlink(missing_ok=True),
        check=check,
        is_complete=path.exists,
    )


def members_of(path: Path) -> dict[str, bytes]:
    """Contents of a bundle by path, without what tells exports apart: uuid and time."""
    tree = open_tree(str(path))
    try:
        header = msgspec.json.decode(tree.header)
        created = header["created"]
        as_text = created.replace("T", " ").rstrip("Z")
        found = {"": tree.header} | {
            member.path: tree.read(member.path, limit_bytes=2**30) for member in tree.iter_members()
        }
    finally:
        tree.close()
    for name, content in found.items():
        for mark in (header["uuid"], created, as_text, f'"as_of":{header["as_of"]}'):
            content = content.replace(mark.encode(), b"<of this export>")
        found[name] = content
    return found


def kill_imports(
    source: MlflowServer,
    bundle: Path,
    destination: MlflowServer,
    *,
    rounds: int,
    dice: random.Random,
) -> int:
    """Kill ``import-all`` of what ``source`` holds; see :func:`kill_again_and_again`."""

    def check() -> None:
        assert compare_databases(source.database, destination.database).differences == []

    return kill_again_and_again(
        ["import-all", str(bundle), "--tracking-uri", destination.uri, "--quiet"],
        rounds=rounds,
        dice=dice,
        begin=destination.reset,
        check=check,
    )
