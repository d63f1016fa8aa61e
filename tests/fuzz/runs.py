"""Starts the engine in a process of its own; what is kept, and where."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
"""The seeds, made by `seeds`."""
CRASHERS = HERE / "crashers"
"""Inputs at which a target once failed, ``<target>-<digest>``."""
VECTORS = HERE.parent / "vectors"
TARGETS = ("reader", "recovery", "documents")


def fuzz(
    target: str, work: Path, crashers: Path, *limits: str, log: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the engine over one target.

    Args:
        target: Its name.
        work: Gets the inputs that cover something new; those that are there are used.
        crashers: Gets the inputs at which the target fails.
        limits: Arguments of libFuzzer that end the run.
        log: Where standard error goes, as `subprocess` has it.
    """
    for directory in (work, crashers):
        directory.mkdir(parents=True, exist_ok=True)
    for vector in VECTORS.glob("*.mlbundle"):
        (work / vector.stem).write_bytes(vector.read_bytes())
    engine = [sys.executable, "-m", "tests.fuzz.engine", target, str(crashers), *limits]
    # A shell between: what the engine counts as its memory begins with that of who starts it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *engine, str(work), str(CORPUS)]
    return subprocess.run(command, stderr=log, text=True, check=False, cwd=HERE.parents[1])


def keeping_crashers(
    name: str, target: Callable[[bytes], None], crashers: Path
) -> Callable[[bytes], None]:
    """Return a function that runs ``target`` and keeps an input at which it fails.

    Of inputs that fail at the same line with the same class of exception only the first is kept.

    Args:
        name: The target's name, with which the file's begins.
        target: Raises where the product is wrong.
        crashers: Directory of the files.
    """
    known: set[tuple[object, ...]] = set()

    def run(data: bytes) -> None:
        try:
            target(data)
        except Exception as exc:
            frame = traceback.extract_tb(exc.__traceback__)[-1]
            place = (type(exc), frame.filename, frame.lineno)
            if place in known:
                return
            known.add(place)
            path = crashers / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            print(f"crasher {path}", file=sys.stderr)
            traceback.print_exc()

    return run
