"""Processes that begin where MLflow is imported already, which takes seconds.

They are forked from one process of their own, to which they owe nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "mlflow_bundle.bundles.resume",
        "mlflow_bundle.cli.export",
        "mlflow_bundle.cli.import_",
        "mlflow_bundle.rest.sink",
        "mlflow_bundle.rest.source",
        "uvicorn",  # MLflow's server looks whether it is there
        "mlflow.cli",
        "mlflow.server.fastapi_app",
    ]
)


def can_fork() -> bool:
    """Whether there can be such processes: each imports this one's main module."""
    return getattr(sys.modules["__main__"], "__file__", None) != "<stdin>"


class ForkedServer:
    """A running ``mlflow server``, in a session of its own.

    It runs the command to where that would start ``python -m uvicorn``, and goes on as that.
    What tests set in its environment is read later than the imports.

    Args:
        words: The command line from ``server`` on: of one worker, under uvicorn.
        directory: Where it runs.
        log: Gets what it prints.
        environment: All of it.
    """

    def __init__(
        self, words: Sequence[str], directory: Path, log: Path, environment: Mapping[str, str]
    ) -> None:
        log.touch()
        arguments = (list(words), str(directory), str(log), dict(environment))
        self._process: BaseProcess = FORKS.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        return self._process.exitcode


def _serve(words: list[str], directory: str, log: str, environment: dict[str, str]) -> None:
    threading.Thread(target=_end_with_its_owner, daemon=True).start()
    os.setsid()
    os.chdir(directory)
    output = os.open(log, os.O_WRONLY | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    import mlflow.cli
    import mlflow.server

    mlflow.server._exec_cmd = _become_uvicorn  # type: ignore[attr-defined]
    sys.argv = ["mlflow", *words]
    mlflow.cli.cli(words)


def _end_with_its_owner() -> None:
    """End when who started this has: tests that are killed stop no server."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)


def _become_uvicorn(command: list[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
    """Do what the command would, which is ``python -m uvicorn ...``."""
    import uvicorn

    assert command[1:3] == ["-m", "uvicorn"], command
    os.environ.update(extra_env)
    sys.argv = command[2:]
    uvicorn.main(command[3:])
    raise SystemExit(0)
