"""A process beside an import that writes files of a bundle into directories of this machine.

Threads that write them would keep the one that makes rows waiting for the interpreter, and it them.

It opens the bundle; then it gets numbered lists of files, each a member and where it goes, and
answers, in any order, with the number and the size of each file that is there now. What it cannot
write it leaves to its owner, who finds out why. It ends with its owner, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.artifacts import put_in_directory
from mlflow_bundle.contracts import HeldMember, OpenedArtifact
from mlflow_bundle.errors import BundleError
from mlflow_bundle.side_process import LostProcessError, Questions, SideProcess

_FEW = 100
"""So many files are written before a process is worth its start."""
_THREADS = 2

Sizes = Sequence[int | None]
"""Of each file in bytes; None for one that was not written."""


class FileProcess:
    """The process, as who gives it files sees it; it starts when there are many.

    Args:
        few: How many files there are before it starts.
    """

    def __init__(self, *, few: int = _FEW) -> None:
        self._left = few
        self._lock = threading.Lock()
        self._process: SideProcess | None = None
        self._descriptor = -1
        self._answers: threading.Thread | None = None
        self._pending: dict[int, tuple[int, Future[Sizes]]] = {}
        self._next = 0
        self._lost = False

    def write(
        self, members: Sequence[HeldMember], directory: Path, paths: Sequence[str]
    ) -> Future[Sizes] | None:
        """Begin to write members of one bundle to paths below a directory.

        Returns:
            Their sizes to come; None where the caller has to write them.
        """
        self._left -= len(members)
        if self._left >= 0 or self._lost:
            return None
        try:
            process = self._started(members[0].descriptor)
            if process is None or self._descriptor != members[0].descriptor:
                return None
            future: Future[Sizes] = Future()
            with self._lock:
                if self._lost:
                    return None
                number, self._next = self._next, self._next + 1
                self._pending[number] = len(members), future
            names = [member.path for member in members]
            process.send((number, os.fsencode(directory), list(zip(names, paths, strict=True))))
        except LostProcessError:
            self._lose()
            return None
        return future

    def _started(self, descriptor: int) -> SideProcess | None:
        if self._process is None:
            self._process = SideProcess(__name__, descriptor, descriptors=[descriptor])
            self._descriptor = descriptor
            self._answers = threading.Thread(
                target=self._take, args=(self._process,), name="mlflow-bundle-files", daemon=True
            )
            self._answers.start()
        return self._process

    def _take(self, process: SideProcess) -> None:
        """Take its answers, until it ends."""
        try:
            process.wait_until_open()
            while True:
                number, sizes = process.receive()
                with self._lock:
                    count, future = self._pending.pop(number)
                if len(sizes) != count:
                    future.set_result([None] * count)
                    return
                future.set_result(sizes)
        except (LostProcessError, TypeError, ValueError, KeyError):
            pass
        finally:
            self._lose()

    def _lose(self) -> None:
        """Leave to the owner whatever the process has not written."""
        with self._lock:
            self._lost = True
            pending, self._pending = self._pending, {}
        for count, future in pending.values():
            future.set_result([None] * count)

    def close(self) -> None:
        """End it; what it has not written yet is not written."""
        if self._process is not None:
            self._process.kill()
            self._process.close()
        if self._answers is not None:
            self._answers.join()


def serve() -> None:
    """Be the process."""
    questions = Questions()
    answered = threading.Lock()
    descriptor = next(questions)
    reader = ArchiveReader(open(descriptor, "rb", buffering=0))  # noqa: SIM115 - ends with it

    def write(number: int, directory: Path, files: Sequence[tuple[str, str]]) -> None:
        sizes = [_written(reader, member, directory, path) for member, path in files]
        with answered, contextlib.suppress(BrokenPipeError):
            questions.answer((number, sizes))

    pool = ThreadPoolExecutor(_THREADS)
    questions.answer(True)
    for number, directory, files in questions:
        pool.submit(write, number, Path(os.fsdecode(directory)), files)
    os._exit(0)  # its owner is gone, or wants no more


def _written(reader: ArchiveReader, member: str, directory: Path, path: str) -> int | None:
    try:
        found = reader.find(member)
        if found is None:
            return None
        with reader.open_member(found) as stream:
            put_in_directory(directory, path, OpenedArtifact(stream, found.size))
    except (BundleError, OSError, ValueError):
        return None
    return found.size
