"""Runs the commands of the package as a user does, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from mlflow_bundle.cli.main import bundle

Json = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> Json:
        """The object printed by ``--json``."""
        assert self.stdout, f"exit code {self.exit_code} without a report:\n{self.stderr[-2000:]}"
        answer: Json = json.loads(self.stdout)
        return answer

    @property
    def losses(self) -> list[tuple[str, str, str]]:
        """Kind, id and field of each loss, sorted."""
        return sorted((loss["kind"], loss["id"], loss["field"]) for loss in self.report["lost"])

    @property
    def conflicts(self) -> list[tuple[str, str, str]]:
        """Kind, id and field of each conflict, sorted."""
        return sorted((c["kind"], c["id"], c["field"]) for c in self.report["conflicts"])


def command(
    *words: str | Path, expect: int | None = 0, env: Mapping[str, str] | None = None
) -> Done:
    """Run ``mlflow-bundle`` in this process.

    Args:
        words: The command line.
        expect: Exit code it must end with; None for any.
        env: Environment variables for the time of the command.
    """
    runner = CliRunner()
    result = runner.invoke(bundle, [str(word) for word in words], env=dict(env or {}))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{words[0]} ended with a traceback") from result.exception
    done = Done(result.exit_code, result.stdout, result.stderr)
    assert expect is None or done.exit_code == expect, (
        f"{' '.join(map(str, words))}: exit code {done.exit_code}, expected {expect}\n"
        f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C after a while, if what is inside has not ended before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presses = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    presses.start()
    try:
        yield
    finally:
        presses.cancel()
        signal.signal(signal.SIGINT, before)


def export(
    server: Any, output: Path, *words: str, name: str = "export-all", expect: int | None = 0
) -> Done:
    """Export to a bundle file, with ``--json``."""
    return command(
        name, "--tracking-uri", server.uri, "-o", output, *words, "--json", "--quiet", expect=expect
    )


def import_(
    server: Any, bundle: Path, *words: str, name: str = "import-all", expect: int | None = 0
) -> Done:
    """Import a bundle file, with ``--json``."""
    return command(
        name, bundle, "--tracking-uri", server.uri, *words, "--json", "--quiet", expect=expect
    )


def process(*words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start ``mlflow-bundle`` as a process of its own; the caller waits for it."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    environment = {**os.environ, **options.pop("env", {})}
    # Whoever started the tests in the background has Ctrl-C ignored.
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow_bundle", *map(str, words)], env=environment, **options
    )


def finished(started: subprocess.Popen[bytes], timeout_s: float = 120) -> Done:
    """Wait for a process."""
    stdout, stderr = started.communicate(timeout=timeout_s)
    return Done(
        started.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
    )
