"""Builds bundles for the tests of the archive layer, in memory and the same each time."""

from __future__ import annotations

import functools
import io
import random
from typing import BinaryIO
from uuid import UUID

from mlflow_bundle.archive import ArchiveReader, ArchiveWriter, StreamReader, order_key
from mlflow_bundle.errors import CorruptFrameError

UUID_1 = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")
HEADER = b'{"format": "mlbundle", "format_version": "1.0", "uuid": "%s"}\n' % str(UUID_1).encode()
SECOND = 1_000_000_000
MTIME_NS = 1_700_000_000 * SECOND
MIB = 1 << 20

Members = dict[str, bytes]


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def text(size: int, seed: int = 0) -> bytes:
    """Return bytes that compress like a document."""
    line = b"%d " % seed + _line(seed % 64)
    return (line * (size // len(line) + 1))[:size]


@functools.cache
def _line(seed: int) -> bytes:
    words = [noise(6, seed + n).hex() for n in range(50)]
    pick = random.Random(seed)
    return b"".join(b'"%s": %d, ' % (pick.choice(words).encode(), n) for n in range(400))


def write(stream: BinaryIO, members: Members, *, jobs: int = 2, level: int = 3) -> bytes:
    """Write ``members`` in the order of their keys and finish; return the root's digest."""
    with ArchiveWriter(
        stream, bundle_uuid=UUID_1, header=HEADER, mtime_ns=MTIME_NS, jobs=jobs, level=level
    ) as writer:
        for path in sorted(members, key=order_key):
            writer.add(path, members[path])
        return writer.finish()


def bundle(members: Members, *, jobs: int = 2, level: int = 3) -> bytes:
    out = io.BytesIO()
    write(out, members, jobs=jobs, level=level)
    return out.getvalue()


SMALL: Members = {
    "experiments/1/ab/artifacts/model/MLmodel": text(900),
    "experiments/1/ab/artifacts/model/copy": text(3000),
    "experiments/1/ab/run.json": b'{"run_id": "ab"}',
    "experiments/1/cd/copy": text(3000),
    "experiments/1/manifest.json": b"",
    "models/caf\u00e9/" + "x" * 120 + "/model.json": b"{}",
    "manifest.json": b"[]",
}
"""A bundle of three kilobytes: a hard link, an empty file, a pax path."""


def large_members() -> Members:
    """Members around every boundary of frames and groups."""
    members = {f"runs/{n:04}/run.json": text(1000 + n, n) for n in range(1500)}
    for size in (512 * 1024 - 512, 512 * 1024 - 511, 512 * 1024, 4 * MIB - 1, 4 * MIB):
        members[f"sizes/{size}"] = text(size)
    members["sizes/noise"] = noise(4 * MIB + 1)
    members["sizes/over-a-group"] = noise(8 * MIB, 1) + text(MIB + 77)
    members["sizes/a-group"] = text(8 * MIB)
    members["sizes/unaligned"] = noise(9 * MIB + 3, 2)
    return members


def read_seekable(data: bytes) -> Members:
    reader = ArchiveReader(io.BytesIO(data))
    return {member.path: reader.read(member) for member in reader.iter_members()}


def read_stream(data: bytes, *, piece_bytes: int = 1 << 16) -> Members:
    """Read with the stream reader, through a stream that gives few bytes at a time."""
    contents: Members = {}
    for member, pieces in StreamReader(Pipe(data, piece_bytes)):
        content = b"".join(pieces)
        if member.link is not None:
            if member.link not in contents:  # which the stream reader leaves to who needs it
                raise CorruptFrameError("its target did not come before", path=member.path)
            content = contents[member.link]
        contents[member.path] = content
    return contents


READERS = {"seekable": read_seekable, "stream": read_stream}


class Pipe(io.RawIOBase):
    """A stream that cannot seek, gives short reads and refuses unbounded ones."""

    def __init__(self, data: bytes = b"", piece_bytes: int = 1 << 16) -> None:
        self._data = io.BytesIO(data)
        self._piece_bytes = piece_bytes
        self.written: list[bytes] = []

    def read(self, size: int = -1, /) -> bytes:
        if size < 0 or size > 8 * MIB:
            raise AssertionError(f"unbounded read({size})")
        return self._data.read(min(size, self._piece_bytes))

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self.written.append(bytes(data))
        return len(data)

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


def flipped(data: bytes, offset: int, mask: int = 1) -> bytes:
    return data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]
