"""A process beside an import that writes files of a bundle into directories of this machine.

Threads that write them would keep the one that makes rows waiting for the interpreter, and it them.

It opens the bundle; then it gets numbered lists of files, each a member and where it goes, and
answers, in any order, with the number and the size of each file that is there now. What it cannot
write it leaves to its owner, who finds out why. It ends with its owner, however that ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.artifacts import put_in_directory
from mlflow_bundle.contracts import HeldMember, OpenedArtifact, Sizes
from mlflow_bundle.errors import BundleError
from mlflow_bundle.side_process import LostProcessError, Questions, SideProcess

_FEW = 100
"""So many files are written before a process is worth its start."""


class FileProcess:
    """The process, as who gives it files sees it; it starts when there are many.

    One thread gives it files, all of one bundle.

    Args:
        threads: How many files it writes at once.
        few: How many files there are before it starts.
    """

    def __init__(self, threads: int, *, few: int = _FEW) -> None:
        self._threads = threads
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
        """Begin to write members to paths below a directory, one after the other.

        Returns:
            Their sizes to come; None where the caller has to write them.
        """
        self._left -= len(members)
        if self._left >= 0 or self._lost:
            return None
        names = [member.path for member in members]
        try:
            where = os.fsencode(directory), list(zip(names, map(os.fsencode, paths), strict=True))
        except UnicodeEncodeError:
            return None  # no name of a file: who writes it will be told
        future: Future[Sizes] = Future()
        try:
            process = self._started(members[0].descriptor)
            with self._lock:
                if self._lost or self._descriptor != members[0].descriptor:
                    return None
                number, self._next = self._next, self._next + 1
                self._pending[number] = len(members), future
            process.send((number, *where))
        except LostProcessError:
            if self._process is None:
                self._lost = True
                return None
            # Who takes its answers finds out too, and resolves what is pending.
        return future

    def _started(self, descriptor: int) -> SideProcess:
        if self._process is None:
            opening = descriptor, self._threads
            self._process = SideProcess(__name__, opening, descriptors=[descriptor])
            self._descriptor = descriptor
            self._answers = threading.Thread(
                target=self._take, args=(self._process,), name="mlflow-bundle-files", daemon=True
            )
            self._answers.start()
        return self._process

    def _take(self, process: SideProcess) -> None:
        """Take its answers, until it ends; then what it has not written is left to its owner."""
        try:
            process.wait_until_open()
            while True:
                number, sizes = process.receive()
                count, future = self._pending[number]
                if len(sizes) != count:
                    break
                with self._lock:
                    del self._pending[number]
                future.set_result(sizes)
        except (LostProcessError, TypeError, ValueError, KeyError):
            pass
        finally:
            process.end()  # two must not write the same file
            with self._lock:
                self._lost = True
                pending, self._pending = self._pending, {}
            for count, future in pending.values():
                future.set_result([None] * count)

    def close(self) -> None:
        """End it; what it has not written yet is not written."""
        if self._process is not None:
            self._process.end()
        if self._answers is not None:
            self._answers.join()
        if self._process is not None:
            self._process.close()


def serve() -> None:
    """Be the process."""
    questions = Questions()
    answered = threading.Lock()
    descriptor, threads = next(questions)
    reader = ArchiveReader(open(descriptor, "rb", buffering=0))  # noqa: SIM115 - ends with it

    def write(number: int, directory: bytes, files: Sequence[tuple[str, bytes]]) -> None:
        try:
            root = Path(os.fsdecode(directory))
            sizes = [_written(reader, member, root, os.fsdecode(path)) for member, path in files]
            with answered:
                questions.answer((number, sizes))
        except BaseException:
            os._exit(1)  # its owner does the work and finds out why

    pool = ThreadPoolExecutor(threads)
    questions.answer(True)
    for question in questions:
        pool.submit(write, *question)
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
