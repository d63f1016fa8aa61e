"""The output of a writer: append-only bytes with an offset, and what a real file adds to that."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO

from mlflow_bundle.archive.limits import SYNC_BYTES


class Output:
    """Counts, writes in full, and fsyncs a real file every 256 MiB.

    Args:
        stream: Written from its present position. A pipe will do.
        offset: How many bytes of the bundle stand before that position.
    """

    def __init__(self, stream: BinaryIO, *, offset: int = 0) -> None:
        self._stream = stream
        self._file = _regular_file(stream)
        self._synced = offset
        self.offset = offset
        self._base: int | None = None
        if _is_seekable(stream):
            self._base = stream.tell() - offset

    def write(self, data: bytes) -> None:
        written = self._stream.write(data)
        if written is not None and written != len(data):
            self._write_rest(memoryview(data)[written:])
        self.offset += len(data)
        if self._file is not None and self.offset - self._synced >= SYNC_BYTES:
            self.sync()

    def _write_rest(self, view: memoryview) -> None:
        """Finish a short write, which an unbuffered file may make."""
        while view:
            written = self._stream.write(view)
            view = view[len(view) if written is None else written :]

    def sync(self) -> None:
        """Flush; a real file also to its device."""
        self._stream.flush()
        if self._file is not None:
            os.fsync(self._file)
        self._synced = self.offset

    @property
    def can_truncate(self) -> bool:
        return self._base is not None

    def truncate(self, offset: int) -> None:
        """Take back everything from ``offset`` of the bundle on."""
        assert self._base is not None
        self._stream.flush()
        self._stream.seek(self._base + offset)
        self._stream.truncate()
        self.offset = offset
        self._synced = min(self._synced, offset)


def _is_seekable(stream: BinaryIO) -> bool:
    seekable = getattr(stream, "seekable", None)
    return bool(seekable is not None and seekable() and hasattr(stream, "truncate"))


def _regular_file(stream: BinaryIO) -> int | None:
    try:
        descriptor = stream.fileno()
    except (AttributeError, io.UnsupportedOperation, ValueError):
        return None
    return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
