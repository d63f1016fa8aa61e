"""A process beside an export that reads metric points of the same state of a database.

Points are most of what a server holds, and a thread that reads them would keep the one that writes
waiting for the interpreter: a process has an interpreter of its own. It can see the same state
where the database lets two connections share one (`Dialect.share`). Nothing depends on it: where it
does not start, or ends early, its owner reads the points itself.

Both ends speak msgpack over pipes. First comes what the process has to open, answered by ``True``;
then, again and again, a list of run ids, answered by the points of these runs and by ``None``
behind the last. Points are a list of run id, key and either values, timestamps and steps as bytes,
or their number and their JSON: a history that is short enough for the document of its run can come
as it stands there, which is no small part of the work.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Sequence
from typing import IO, Any

import msgpack

from mlflow_bundle.bundles.documents import encode_history
from mlflow_bundle.bundles.parts import INLINE_POINTS_PER_KEY
from mlflow_bundle.entities import EncodedHistory
from mlflow_bundle.errors import SourceError
from mlflow_bundle.spooled_points import SpooledPoints
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.readers.points import read_points
from mlflow_bundle.sql.rows import Rows

_PROGRAM = (
    # Nothing is imported from where the user happens to be.
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from mlflow_bundle.sql.point_process import serve; serve()"
)
_TYPES = ("d", "q", "q")
"""Of values, timestamps and steps, as `array` names them."""

_OPENING_S = 60.0
_GRACE_S = 5.0
_READ_BYTES = 1 << 20


class LostProcessError(Exception):
    """The process has ended, or has never begun."""


class PointProcess:
    """The process, as who asks it sees it. Safe from many threads.

    Args:
        database: Whose :attr:`~Database.state` it shares.
        encoded: Whether short histories come encoded.

    Raises:
        LostProcessError: There can be none.
    """

    def __init__(self, database: Database, *, encoded: bool) -> None:
        with database.reading:
            token = database.share()
        if token is None or not sys.executable:
            raise LostProcessError
        self._lock = threading.Lock()
        self._answered = False
        self._database = database
        try:
            # A session of its own: Ctrl-C is for its owner, which ends it.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as exc:
            raise LostProcessError from exc
        self._answers = _unpacker(self._process.stdout)
        try:
            self._send({"uri": database.uri, "token": token, "encoded": encoded})
        except LostProcessError:
            self.close()
            raise

    def read(self, run_ids: Sequence[str], points: SpooledPoints) -> None:
        """Read every point of some runs, as :func:`read_points` does.

        Raises:
            LostProcessError: It has ended; some points may have been added.
        """
        with self._lock:
            self._wait_until_open()
            self._send(list(run_ids))
            while (found := self._receive()) is not None:
                try:
                    run_id, key, *content = found
                    columns = list(map(array, _TYPES, content)) if len(content) == 3 else None
                except (TypeError, ValueError) as exc:
                    raise LostProcessError from exc
                if columns is None:
                    points.add_encoded(run_id, EncodedHistory(key, *content))
                else:
                    points.add(run_id, key, *columns)

    def _wait_until_open(self) -> None:
        if not self._answered:
            # A database without a free connection would keep it waiting.
            late = threading.Timer(_OPENING_S, self._process.kill)
            late.daemon = True
            late.start()
            try:
                if self._receive() is not True:  # others may have written to its output
                    raise LostProcessError
            finally:
                late.cancel()
            self._answered = True
            self._database.settle()

    def _send(self, message: Any) -> None:
        stream = self._process.stdin
        assert stream is not None
        data = memoryview(msgpack.packb(message))
        try:
            while data:
                data = data[stream.write(data) :]
        except OSError as exc:
            raise LostProcessError from exc

    def _receive(self) -> Any:
        try:
            return self._answers.unpack()
        except (msgpack.UnpackException, ValueError, OSError) as exc:
            raise LostProcessError from exc

    def kill(self) -> None:
        """End it at once, whatever it does; who reads loses it."""
        self._process.kill()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                stream.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """Be the process: answer on standard output what is asked on standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints goes nowhere
    questions = _unpacker(open(sys.stdin.fileno(), "rb", buffering=0, closefd=False))  # noqa: SIM115
    opening = next(questions)
    database = Database(
        opening["uri"], error=SourceError, token=opening["token"], only=("metrics",)
    )

    most = INLINE_POINTS_PER_KEY if opening["encoded"] else 0
    last: tuple[str, str] | None = None

    def add(
        run_id: str,
        key: str,
        values: Sequence[float],
        timestamps: Sequence[int],
        steps: Sequence[int],
    ) -> None:
        nonlocal last
        content: tuple[Any, ...]
        # What is long comes in several pieces, the last of which may be short.
        if len(values) <= most and (run_id, key) != last:
            history = encode_history(key, values, timestamps, steps)
            content = (history.length, history.points)
        else:
            columns = map(array, _TYPES, (values, timestamps, steps))
            content = tuple(column.tobytes() for column in columns)
        last = (run_id, key)
        answers.write(msgpack.packb((run_id, key, *content)))

    with contextlib.closing(database), contextlib.suppress(BrokenPipeError):
        rows = Rows(database, database.state, "")
        _answer(answers, True)
        for run_ids in questions:
            read_points(rows, run_ids, add)
            _answer(answers, None)


def _answer(stream: IO[bytes], message: Any) -> None:
    stream.write(msgpack.packb(message))
    stream.flush()


def _unpacker(stream: Any) -> Any:
    # No limit: both ends are this program.
    return msgpack.Unpacker(stream, read_size=_READ_BYTES, max_buffer_size=0)
