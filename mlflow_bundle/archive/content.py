"""The content of members out of the frames of their group, checked against the index.

Every reader gets its bytes here: the frame's digest is compared before it is decompressed, the tar
header with its canonical rendering, the padding with zeros, the content with its digest.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.frames import decompress_frame
from mlflow_bundle.archive.index import Group
from mlflow_bundle.archive.source import ByteSource
from mlflow_bundle.errors import CorruptFrameError, FormatError

_BUFFER_BYTES = 64 * 1024
"""Of a stream. A larger one, which each small member would get anew, costs more than it saves."""

LoadFrame = Callable[[int], bytes]
"""From the number of a frame in its group to its checked, decompressed bytes."""


class VoidMemberError(FormatError):
    """The member just read was given up by its writer: what was read of it must be thrown away.

    Only a reader that cannot look ahead finds out so late.
    """


class HashedBytes(io.BytesIO):
    """A whole content in memory, with the SHA-256 that whoever read it has taken."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.digest = hashlib.sha256(data).digest()


def open_frame(group: Group, number: int, frame: bytes, offset: int) -> bytes:
    """Decompress frame ``number`` of a group after comparing its digest.

    Args:
        group: The group.
        number: Which of its frames.
        frame: Its bytes.
        offset: Where it lies in the file, for messages.

    Raises:
        CorruptFrameError: The digest differs, or the frame is not what the index says.
    """
    if hashlib.sha256(frame).digest() != group.frame_digests[number]:
        raise CorruptFrameError("frame digest is wrong", offset=offset)
    return decompress_frame(frame, group.frame_sizes[number], offset=offset)


def frame_reader(source: ByteSource, group: Group) -> LoadFrame:
    """Return a function that reads the frames of ``group`` from a file."""
    offsets = group.frame_offsets()

    def load(number: int) -> bytes:
        frame = source.read_at(offsets[number], group.lengths[number])
        return open_frame(group, number, frame, offsets[number])

    return load


class LastFrame:
    """Keeps the frame loaded last, be it the content or what is wrong with it."""

    def __init__(self, load: LoadFrame) -> None:
        self._load = load
        self._number = -1
        self._content = b""
        self._problem: FormatError | None = None

    def __call__(self, number: int) -> bytes:
        if number != self._number:
            self._number, self._problem = number, None
            try:
                self._content = self._load(number)
            except FormatError as exc:
                self._problem = exc
        if self._problem is not None:
            raise self._problem
        return self._content


def iter_content(group: Group, number: int, load: LoadFrame) -> Iterator[memoryview]:
    """Yield the content bytes of member ``number`` that this group holds, frame by frame.

    The piece that ends the group's share is yielded only after its digest has been compared. The
    content of a hard link is empty here.

    Args:
        group: The group.
        number: Which of its members.
        load: Returns a frame of the group, decompressed.

    Raises:
        CorruptFrameError: Header, padding or digest is wrong.
    """
    path = group.paths[number]
    frame_number = group.frames[number]
    frame = load(frame_number)
    start = group.offsets[number]
    span = group.span
    if span is None or span.start == 0:
        header = group.header(number)
        if frame[start : start + len(header)] != header:
            raise CorruptFrameError("tar header differs from the index", path=path)
        start += len(header)
    if number in group.links:
        return
    size = span.length if span is not None else group.sizes[number]
    digest = hashlib.sha256()
    missing = size
    while True:
        piece = memoryview(frame)[start : start + missing]
        missing -= len(piece)
        digest.update(piece)
        if not missing:
            break
        yield piece
        frame_number += 1
        frame = load(frame_number)
        start = 0
    if digest.digest() != group.digests[number]:
        raise CorruptFrameError("content digest is wrong", path=path)
    if group.last_part:
        fill = tar.padding(group.sizes[number])
        start += len(piece)
        if frame[start : start + len(fill)] != fill:
            raise CorruptFrameError("tar padding is not zero", path=path)
    yield piece


def same_member(first: Group, other: Group) -> bool:
    """Say whether ``other`` holds a part of the spanning member that ``first`` begins."""
    return other.span is not None and (
        (first.paths, first.sizes, first.mtimes, first.modes)
        == (other.paths, other.sizes, other.mtimes, other.modes)
    )


def missing_part(group: Group) -> CorruptFrameError:
    return CorruptFrameError(
        "a part of the member is missing", path=group.paths[0], offset=group.preamble.offset
    )


def iter_spanning(parts: Iterator[tuple[Group, LoadFrame]]) -> Iterator[memoryview]:
    """Yield the content of a member that spans groups.

    The last piece is yielded only after the digest of the whole content has been compared.

    Args:
        parts: The groups that hold it and how to load their frames. No more are taken than
            needed, except one that turns out to be of another member.

    Raises:
        CorruptFrameError: A part is missing or damaged, or the whole digest is wrong.
        VoidMemberError: All parts are there, and the last says that the member is void.
    """
    first: Group | None = None
    digest = hashlib.sha256()
    position = 0
    for group, load in parts:
        first = first or group
        span = group.span
        if span is None or not same_member(first, group) or span.start != position:
            break
        held = memoryview(b"")
        for piece in iter_content(group, 0, load):
            if held:
                yield held
            digest.update(piece)
            held = piece
        position += span.length
        if not group.last_part:
            yield held
            continue
        if digest.digest() != group.whole_digest:
            raise CorruptFrameError("content digest is wrong", path=group.paths[0])
        if group.void:
            raise VoidMemberError("the member was given up by its writer", path=group.paths[0])
        yield held
        return
    assert first is not None
    raise missing_part(first)


def open_pieces(pieces: Iterator[memoryview]) -> BinaryIO:
    """Return the pieces as a stream for reading."""
    return cast(BinaryIO, io.BufferedReader(_PieceStream(pieces), _BUFFER_BYTES))


class _PieceStream(io.RawIOBase):
    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview | bytearray, /) -> int:  # type: ignore[override]
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = piece
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count
