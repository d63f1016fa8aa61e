"""Reads a bundle from its first byte to its last without seeking: from a pipe or a download.

Group headers stand before their frames, so every frame is checked as it arrives. What only the end
can tell (that nothing is missing, that the directory agrees) is checked at the end: until the
iteration has ended without an exception the bundle is not known to be complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO
from uuid import UUID

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.content import (
    LoadFrame,
    VoidMemberError,
    iter_content,
    iter_spanning,
    open_frame,
)
from mlflow_bundle.archive.frames import (
    EOF_FRAME,
    NODE_TAG,
    PREAMBLE_BYTES,
    SIGNATURE_TAG,
    TRAILER_BYTES,
    Preamble,
    Trailer,
    is_cut_seek_table,
    parse_preamble,
    parse_seek_table,
    parse_trailer,
)
from mlflow_bundle.archive.header import (
    HEADER_START_BYTES,
    decode_header_frame,
    header_frame_length,
)
from mlflow_bundle.archive.index import (
    Entry,
    Group,
    Node,
    Root,
    decode_group,
    decode_node,
    decode_root,
    group_entry,
    node_entry,
)
from mlflow_bundle.archive.limits import DEFAULT_LIMITS, MIB, TAIL_BYTES, Limits
from mlflow_bundle.archive.member import Member
from mlflow_bundle.errors import (
    CorruptFrameError,
    LimitError,
    TruncatedError,
    UnsupportedVersionError,
)


class DirectoryFollower:
    """Compares nodes and root, as they come, with the groups that came before; in fixed memory.

    A running digest per level takes the place of a list of entries.
    """

    def __init__(self) -> None:
        self.members = 0
        self.groups = 0
        self._last: tuple[bytes, int] = (b"", -1)
        self._written = [hashlib.sha256()]
        self._counts = [0]
        self._stated = hashlib.sha256()
        self._stated_count = 0
        self._level = 1

    def add_group(self, entry: Entry, last_key: bytes) -> None:
        """Take a group; ``entry`` is what its parent must say of it."""
        if entry.order <= self._last:
            raise CorruptFrameError("group is out of order", offset=entry.offset)
        self._last = (last_key, entry.part)
        self.members += entry.members
        self.groups += 1
        self._add(0, entry)

    def add_node(self, node: Node, entry: Entry) -> None:
        """Take a node; ``entry`` is what its parent must say of it."""
        self._compare(node)
        if node.level == len(self._written):
            self._written.append(hashlib.sha256())
            self._counts.append(0)
        self._add(node.level, entry)

    def end(self, root: Root) -> None:
        self._compare(root)
        self._finish_level(root.preamble.offset)
        if root.level != len(self._written):
            raise CorruptFrameError("root has the wrong level", offset=root.preamble.offset)
        if (root.members, root.groups) != (self.members, self.groups):
            raise CorruptFrameError("root has wrong counts", offset=root.preamble.offset)

    def _compare(self, node: Node) -> None:
        at = node.preamble.offset
        if node.level == self._level + 1:
            self._finish_level(at)
            self._level += 1
            self._stated, self._stated_count = hashlib.sha256(), 0
        if node.level != self._level or node.level > len(self._written):
            raise CorruptFrameError("node of an unexpected level", offset=at)
        for entry in node.entries:
            self._stated.update(repr(tuple(entry)).encode())
        self._stated_count += len(node.entries)

    def _finish_level(self, at: int) -> None:
        below = self._level - 1
        if (
            self._stated_count != self._counts[below]
            or self._stated.digest() != self._written[below].digest()
        ):
            raise CorruptFrameError("directory differs from the groups", offset=at)

    def _add(self, level: int, entry: Entry) -> None:
        self._written[level].update(repr(tuple(entry)).encode())
        self._counts[level] += 1


class StreamReader:
    """Iterates over the members of a bundle in a stream that cannot seek.

    The iteration yields ``(member, pieces)``. The pieces are the content; those that the caller
    leaves are read and checked all the same when the iteration goes on. Two things differ from
    :class:`ArchiveReader`:

    - A member that spans groups (over 8 MiB) has an empty ``digest``, for it comes last. The last
      piece is yielded after it was compared. If the writer gave the member up, the pieces end
      with :class:`VoidMemberError`; the iteration can go on.
    - A hard link has no pieces. Its target came earlier; whether it did is not checked.

    Attributes:
        header: Content of ``.mlbundle/bundle.json``.
        members: Members so far; the final number after the iteration.
    """

    def __init__(self, stream: BinaryIO, *, limits: Limits = DEFAULT_LIMITS) -> None:
        """Read the first frame.

        Raises:
            NotABundleError: The stream is something else.
            FormatError: The first frame is damaged or asks for what this version cannot do.
        """
        self._stream = stream
        self._limits = limits
        self._offset = 0
        start = self._read_up_to(HEADER_START_BYTES)
        length = header_frame_length(start)
        self._header_frame = start + self._read(length - len(start))
        self.header, self._tar_length = decode_header_frame(self._header_frame, None)
        self._uuid: UUID | None = None
        self._directory = DirectoryFollower()
        self._sequence = 0

    @property
    def members(self) -> int:
        return self._directory.members

    def __iter__(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        while True:
            group = self._next_group()
            if group is None:
                break
            if group.span is None:
                load = self._frame_loader(group)
                for number in range(len(group.paths)):
                    pieces = iter_content(group, number, load)
                    yield group.member(number), pieces
                    _drain(pieces)
            else:
                pieces = iter_spanning(self._iter_parts(group))
                yield replace(group.member(0), digest=b""), pieces
                _drain(pieces)
        self._read_directory()

    def _iter_parts(self, group: Group) -> Iterator[tuple[Group, LoadFrame]]:
        """Yield ``group``, which begins a member that spans groups, and those that follow."""
        following: Group | None = group
        while following is not None:
            yield following, self._frame_loader(following)
            following = self._next_group()

    def _next_group(self) -> Group | None:
        """Read the next group header; None at the end of the groups."""
        at = self._offset
        start = self._read(8)
        if start == EOF_FRAME[:8]:
            if self._read(len(EOF_FRAME) - 8) != EOF_FRAME[8:]:
                raise CorruptFrameError("end of archive is malformed", offset=at)
            self._tar_length += len(tar.END_OF_ARCHIVE)
            self._sequence = 0
            return None
        page = self._read_page(start, at)
        group = decode_group(page, at=at, limits=self._limits)
        self._check_identity(group.preamble)
        if group.tar_offset != self._tar_length:
            raise CorruptFrameError("group has the wrong tar offset", offset=at)
        self._tar_length += group.tar_length
        self._directory.add_group(group_entry(group, page), group.keys[-1])
        limits = self._limits
        if limits.members is not None and self.members > limits.members:
            raise LimitError(f"bundle of over {limits.members} members", offset=at)
        if limits.tar_bytes is not None and self._tar_length > limits.tar_bytes:
            raise LimitError(f"bundle of over {limits.tar_bytes} bytes", offset=at)
        return group

    def _frame_loader(self, group: Group) -> LoadFrame:
        """Return a function from frame number to frame that reads on as the numbers grow."""
        following = 0
        content = b""

        def load(number: int) -> bytes:
            nonlocal following, content
            while following <= number:
                at = self._offset
                frame = self._read(group.lengths[following])
                content = open_frame(group, following, frame, at)
                following += 1
            return content

        return load

    def _check_identity(self, preamble: Preamble) -> None:
        if self._uuid is None:
            self._uuid = preamble.uuid
            decode_header_frame(self._header_frame, preamble.uuid)
        if preamble.uuid != self._uuid:
            raise CorruptFrameError("page of another bundle", offset=preamble.offset)
        if preamble.sequence != self._sequence:
            raise CorruptFrameError("page is out of sequence", offset=preamble.offset)
        self._sequence += 1

    def _read_directory(self) -> None:
        directory_offset = self._offset
        while True:
            at = self._offset
            start = self._read(12)
            page = self._read_page(start, at)
            if start[8:12] != NODE_TAG:
                break
            node = decode_node(page, at=at, limits=self._limits)
            self._check_identity(node.preamble)
            self._directory.add_node(node, node_entry(node, page))
        root = decode_root(page, at=at, limits=self._limits)
        self._check_identity(root.preamble)
        self._directory.end(root)
        header_digest = hashlib.sha256(self._header_frame).digest()
        if (root.header_length, root.header_digest) != (len(self._header_frame), header_digest):
            raise CorruptFrameError("root has another first frame", offset=at)
        if root.tar_bytes != self._tar_length:
            raise CorruptFrameError("root has another tar length", offset=at)
        self._read_trailer(root, page, directory_offset)

    def _read_trailer(self, root: Root, page: bytes, directory_offset: int) -> None:
        at = self._offset
        data = self._read(12)
        refuse_signature(data, at)
        trailer = parse_trailer(data + self._read(TRAILER_BYTES - 12), at=at, limits=self._limits)
        expected = Trailer(
            uuid=root.preamble.uuid,
            length=self._offset,
            root_offset=root.preamble.offset,
            root_length=len(page),
            directory_offset=directory_offset,
            directory_length=root.preamble.offset - directory_offset,
            root_digest=hashlib.sha256(page).digest(),
            members=self.members,
        )
        if trailer != expected:
            raise CorruptFrameError("trailer differs from the bundle", offset=at)
        at = self._offset
        rest = self._read_up_to(TAIL_BYTES)
        if rest:
            if is_cut_seek_table(rest):
                raise TruncatedError("the seek table is cut short", offset=self._offset)
            parse_seek_table(rest, at=at)

    def _read_page(self, start: bytes, at: int) -> bytes:
        start += self._read(PREAMBLE_BYTES - len(start))
        preamble = parse_preamble(start, at=at, limits=self._limits)
        return start + self._read(preamble.length - PREAMBLE_BYTES)

    def _read(self, length: int) -> bytes:
        data = self._read_up_to(length)
        if len(data) < length:
            raise TruncatedError("the bundle is incomplete", offset=self._offset)
        return data

    def _read_up_to(self, length: int) -> bytes:
        pieces = []
        missing = length
        while missing:
            piece = self._stream.read(min(missing, MIB))
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        self._offset += length - missing
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _drain(pieces: Iterator[memoryview]) -> None:
    with suppress(VoidMemberError):
        for _ in pieces:
            pass


def refuse_signature(start: bytes, at: int) -> None:
    """Refuse a bundle that has a signature where the trailer is expected."""
    if start[8:12] == SIGNATURE_TAG:
        raise UnsupportedVersionError(
            "the bundle is signed, and this version cannot check signatures", offset=at
        )
