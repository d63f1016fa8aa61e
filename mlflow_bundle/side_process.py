"""A process beside this one that does part of its work: it has an interpreter of its own.

Nothing depends on one: where it does not start, or ends early, its owner does the work itself.

Both ends speak msgpack over pipes. First comes what the process has to open, answered by ``True``;
what follows is between owner and process.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any, BinaryIO

import msgpack

_PROGRAM = (
    # Nothing is imported from where the user happens to be.
    "import sys; sys.path[:] = filter(None, sys.path); from {module} import serve; serve()"
)
_OPENING_S = 60.0
_GRACE_S = 5.0
_READ_BYTES = 1 << 20
_ANSWER_BYTES = 1 << 18
"""What is written at once of answers that may wait."""
_PIPE_BYTES = 1 << 20
"""What a pipe holds, where the system allows it: the fewer times one end wakes up the other."""


class LostProcessError(Exception):
    """The process has ended, or has never begun."""


class SideProcess:
    """The process, as its owner sees it.

    Args:
        module: Its function ``serve`` is what the process does.
        opening: What it has to open.
        descriptors: Open files that it gets.

    Raises:
        LostProcessError: There can be none.
    """

    def __init__(self, module: str, opening: Any, *, descriptors: Sequence[int] = ()) -> None:
        if not sys.executable:
            raise LostProcessError
        try:
            # A session of its own: Ctrl-C is for its owner, which ends it.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(module=module)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
                pass_fds=tuple(descriptors),
            )
        except OSError as exc:
            raise LostProcessError from exc
        assert self._process.stdout is not None
        _enlarge(self._process.stdout)
        self._answers = _unpacker(self._process.stdout)
        try:
            self.send(opening)
        except LostProcessError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_open(self) -> None:
        """Wait for the first answer.

        Raises:
            LostProcessError: It did not come, or was another one.
        """
        # A database without a free connection would keep it waiting.
        late = threading.Timer(_OPENING_S, self.kill)
        late.daemon = True
        late.start()
        try:
            if self.receive() is not True:  # others may have written to its output
                raise LostProcessError
        finally:
            late.cancel()

    def send(self, message: Any) -> None:
        """Send something.

        Raises:
            LostProcessError: It has ended.
        """
        stream = self._process.stdin
        assert stream is not None
        data = memoryview(msgpack.packb(message))
        try:
            while data:
                data = data[stream.write(data) :]
        except (OSError, ValueError) as exc:
            raise LostProcessError from exc

    def receive(self) -> Any:
        """Wait for an answer.

        Raises:
            LostProcessError: It has ended.
        """
        try:
            return self._answers.unpack()
        except (msgpack.UnpackException, ValueError, OSError) as exc:
            raise LostProcessError from exc

    def has_answered(self) -> bool:
        """Whether an answer waits that nothing was received of yet."""
        poll = select.poll()
        assert self._process.stdout is not None
        poll.register(self._process.stdout, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()

    def end(self) -> None:
        """End it at once and wait for that; answers that have come can still be received."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it end, and free what it took."""
        with contextlib.suppress(OSError):
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                stream.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Questions:
    """What the process gets and what it answers, inside of it."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "wb", buffering=_ANSWER_BYTES)
        os.dup2(2, 1)  # what anybody prints goes nowhere
        stdin: BinaryIO = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115
        self._questions = _unpacker(stdin)

    def __iter__(self) -> Questions:
        return self

    def __next__(self) -> Any:
        return next(self._questions)

    def answer(self, message: Any, *, flush: bool = True) -> None:
        """Answer something, at once or with what follows."""
        self._stream.write(msgpack.packb(message))
        if flush:
            self._stream.flush()


def _enlarge(pipe: IO[bytes]) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):  # only Linux has it
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _unpacker(stream: Any) -> Any:
    # No limit: both ends are this program.
    return msgpack.Unpacker(stream, read_size=_READ_BYTES, max_buffer_size=0)
