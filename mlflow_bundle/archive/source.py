"""Bytes of a file by offset, from many threads at once."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import BinaryIO

from mlflow_bundle.errors import TruncatedError


class ByteSource:
    """Positional reads from a seekable stream.

    A plain local file is read with ``pread``; anything else (memory, an object store) under a
    lock, one seek and one read each.

    Attributes:
        stream: The stream.
        descriptor: Of a plain local file, else None.
        size: In bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        raw = stream.raw if isinstance(stream, io.BufferedReader) else stream
        self.descriptor = (
            raw.fileno() if isinstance(raw, io.FileIO) and hasattr(os, "pread") else None
        )
        with self._lock:
            self.size = stream.seek(0, os.SEEK_END)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises:
            TruncatedError: The file does not have them.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedError(f"{length} bytes are missing", offset=offset)
        if self.descriptor is not None:
            descriptor = self.descriptor
            return _in_full(
                offset, length, lambda at: os.pread(descriptor, length - at, offset + at)
            )
        with self._lock:
            self.stream.seek(offset)
            return _in_full(offset, length, lambda at: self.stream.read(length - at))


def _in_full(offset: int, length: int, read: Callable[[int], bytes]) -> bytes:
    """Return ``length`` bytes of what may give fewer at once.

    Args:
        offset: Where they are, for messages.
        length: How many.
        read: Returns some more, given how many there are.
    """
    pieces = []
    done = 0
    while done < length:
        piece = read(done)
        if not piece:
            raise TruncatedError(f"{length - done} bytes are missing", offset=offset)
        pieces.append(piece)
        done += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
