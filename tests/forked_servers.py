"""Starts ``mlflow server`` without its import of MLflow, which takes seconds, twice.

One process imports MLflow and uvicorn, and is forked for each server: the fork runs the command
``mlflow server`` to where that would start ``python -m uvicorn``, and does what uvicorn does there
itself. Whatever a server reads from its environment it reads later than these imports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


class ForkedProcess:
    """A process that another one has forked, as far as `subprocess.Popen` would tell of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while it runs; how it ended is not known."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 1
        return None


def fork_server(
    words: Sequence[str], directory: Path, log: Path, environment: Mapping[str, str]
) -> ForkedProcess:
    """Run ``mlflow`` with these words, in a session of its own.

    Args:
        words: From ``server`` on; of one worker, under uvicorn.
        directory: Where it runs.
        log: Gets what it prints.
        environment: All of it.
    """
    process = _forking(os.getpid())
    assert process.stdin is not None
    assert process.stdout is not None
    question = [list(words), str(directory), str(log), dict(environment)]
    process.stdin.write(json.dumps(question).encode() + b"\n")
    process.stdin.flush()
    return ForkedProcess(int(process.stdout.readline()))


@lru_cache
def _forking(owner: int) -> subprocess.Popen[bytes]:
    """The process that is forked; it ends with who started it."""
    names = [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW"))]
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.forked_servers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the tests, which stop their servers
    )


def main() -> None:
    """Fork for each line of standard input; print the id of each process."""
    # Before MLflow: it looks whether it is imported by a server.
    import uvicorn  # noqa: F401, I001

    import mlflow.cli
    import mlflow.server.fastapi_app  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become_server(*json.loads(line))
        print(pid, file=answers, flush=True)


def _become_server(
    words: list[str], directory: str, log: str, environment: dict[str, str]
) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(directory)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, output), (2, output)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(environment)

        import mlflow.cli
        import mlflow.server

        mlflow.server._exec_cmd = _run_uvicorn  # type: ignore[attr-defined]
        sys.argv = ["mlflow", *words]
        mlflow.cli.cli(words, standalone_mode=True)
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_uvicorn(command: list[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
    """Do what the command would, which is ``python -m uvicorn ...``."""
    import uvicorn

    assert command[1:3] == ["-m", "uvicorn"], command
    os.environ.update(extra_env)
    sys.argv = command[2:]
    uvicorn.main.main(command[3:], prog_name="uvicorn")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
