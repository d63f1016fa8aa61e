"""Records on their way from one side to the other: in memory up to a size, on disk past it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import msgspec

from mlflow_bundle.decoding import prepared

StructT = TypeVar("StructT", bound=msgspec.Struct)

_MEMORY_BYTES = 1024 * 1024
_LENGTH_BYTES = 8


@contextmanager
def temporary_file_named() -> Iterator[None]:
    """Let errors of a temporary file, which has no name, tell where it lies."""
    try:
        yield
    except OSError as exc:
        if exc.filename is None:
            exc.filename = tempfile.gettempdir()
        raise


class Spooled(Generic[StructT]):
    """A list of records that is written once, then read, by one thread at a time.

    Args:
        type: Type of the records.
    """

    def __init__(self, type: type[StructT]) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 - closed by close()
        self._decoder = msgspec.msgpack.Decoder(prepared(type))

    def add(self, record: StructT) -> None:
        """Append one record."""
        data = msgspec.msgpack.encode(record)
        with temporary_file_named():
            self._file.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
            self._file.write(data)

    def __iter__(self) -> Iterator[StructT]:
        self._file.seek(0)
        while length := self._file.read(_LENGTH_BYTES):
            yield self._decoder.decode(self._file.read(int.from_bytes(length, "little")))

    def close(self) -> None:
        """Forget everything."""
        self._file.close()
