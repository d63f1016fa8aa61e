"""The full check of a bundle: every byte is read once and everything stated twice is compared.

The walk follows the directory, not the file, so that damage in one group does not hide the next.
That the groups, the end of archive, the nodes, the root and the trailer follow each other without a
gap shows that there is no byte which the walk did not see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.content import (
    LastFrame,
    frame_reader,
    iter_content,
    missing_part,
    same_member,
)
from mlflow_bundle.archive.frames import (
    EOF_FRAME,
    MAX_SEEK_ENTRIES,
    TRAILER_BYTES,
    parse_seek_table,
)
from mlflow_bundle.archive.header import decode_header_frame
from mlflow_bundle.archive.index import Entry, Group, Node
from mlflow_bundle.archive.member import Member
from mlflow_bundle.archive.paths import directory_key
from mlflow_bundle.archive.reader import ArchiveReader, VerifyResult
from mlflow_bundle.errors import CorruptFrameError, FormatError


@dataclass(slots=True)
class _Spanning:
    """A member that goes on in the next group."""

    first: Group
    position: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    sound: bool = True


class Verification:
    """One run of :meth:`ArchiveReader.verify`."""

    def __init__(
        self, reader: ArchiveReader, on_member: Callable[[Member], None] | None = None
    ) -> None:
        self._reader = reader
        self._on_member = on_member
        self._result = VerifyResult()
        self._end = 0
        self._tar_length = 0
        self._members = 0
        self._nodes: list[tuple[int, Entry, int]] = []  # level, entry, sequence or -1
        self._seek_entries: list[tuple[int, int]] = []
        self._spanning: _Spanning | None = None
        self._last_key = b""
        self._last_order = (b"", -1)  # of the groups
        self._parent: str | None = None
        self._parent_is_flat = True

    def run(self) -> VerifyResult:
        self._check_header()
        for entry in self._iter_entries(self._reader._root):
            self._check_group(entry)
        if self._spanning is not None:
            self._report(missing_part(self._spanning.first))
        self._check_end()
        return self._result

    def _report(self, problem: FormatError) -> None:
        self._result.problems.append(problem)

    def _check_header(self) -> None:
        reader = self._reader
        length = reader._root.header_length
        try:
            _ = reader.header
            frame = reader._source.read_at(0, length)
            self._tar_length = decode_header_frame(frame, reader.uuid)[1]
        except FormatError as exc:
            self._report(exc)
        self._end = length
        self._add_frame(length, self._tar_length)

    def _iter_entries(self, node: Node) -> Iterator[Entry]:
        if node.level == 1:
            yield from node.entries
            return
        for number, entry in enumerate(node.entries):
            sequence = -1
            try:
                child = self._reader._node(entry, node)
                sequence = child.preamble.sequence
                if number + 1 < len(node.entries):
                    following = node.entries[number + 1].order
                    if child.orders[-1] >= following:
                        raise CorruptFrameError("nodes overlap", offset=entry.offset)
            except FormatError as exc:
                self._report(exc)
            else:
                yield from self._iter_entries(child)
            self._nodes.append((node.level - 1, entry, sequence))

    # --- groups ------------------------------------------------------------------------------

    def _check_group(self, entry: Entry) -> None:
        result = self._result
        if entry.offset != self._end:
            self._report(
                CorruptFrameError("group does not follow the one before", offset=entry.offset)
            )
        self._end = entry.offset + entry.header_length + entry.data_length
        try:
            group = self._reader._group(entry)
        except FormatError as exc:
            self._report(exc)
            self._tar_length = -1
            return
        if group.preamble.sequence != result.groups and not result.problems:
            self._report(CorruptFrameError("group is out of sequence", offset=entry.offset))
        if self._tar_length not in (group.tar_offset, -1):
            self._report(CorruptFrameError("group has the wrong tar offset", offset=entry.offset))
        if group.first_key <= self._last_order:
            self._report(CorruptFrameError("groups overlap", offset=entry.offset))
        self._last_order = (group.keys[-1], group.first_key[1])
        self._tar_length = group.tar_offset + group.tar_length
        result.groups += 1
        self._members += group.members
        self._add_frame(entry.header_length, 0)
        for length, size in zip(group.lengths, group.frame_sizes, strict=True):
            self._add_frame(length, size)
        frames = LastFrame(frame_reader(self._reader._source, group))
        if group.span is None:
            if self._spanning is not None:
                self._report(missing_part(self._spanning.first))
                self._spanning = None
            self._check_members(group, frames)
        else:
            self._check_part(group, frames)

    def _check_members(self, group: Group, frames: LastFrame) -> None:
        for number in range(len(group.paths)):
            member = group.member(number)
            try:
                self._check_tar_header(group, number, frames)
                for _ in iter_content(group, number, frames):
                    pass
                self._check_names(member, group.keys[number])
            except FormatError as exc:
                if not self._result.problems or self._result.problems[-1] is not exc:
                    self._report(exc)
            else:
                self._accept(member)

    def _check_part(self, group: Group, frames: LastFrame) -> None:
        assert group.span is not None
        if group.span.start == 0:
            if self._spanning is not None:
                self._report(missing_part(self._spanning.first))
            self._spanning = _Spanning(group)
        spanning = self._spanning
        if (
            spanning is None
            or not same_member(spanning.first, group)
            or spanning.position != group.span.start
        ):
            self._report(missing_part(group))
            self._spanning = None
            return
        try:
            if group.span.start == 0:
                self._check_tar_header(group, 0, frames)
            for piece in iter_content(group, 0, frames):
                spanning.digest.update(piece)
        except FormatError as exc:
            self._report(exc)
            spanning.sound = False
        spanning.position += group.span.length
        if group.last_part:
            self._spanning = None
            if spanning.sound:
                self._check_whole(group, spanning)

    def _check_whole(self, group: Group, spanning: _Spanning) -> None:
        member = group.member(0)
        try:
            if spanning.digest.digest() != group.whole_digest:
                raise CorruptFrameError("content digest is wrong", path=member.path)
            self._check_names(member, group.keys[0])
        except FormatError as exc:
            self._report(exc)
        else:
            if not group.void:
                self._accept(member)

    def _check_tar_header(self, group: Group, number: int, frames: LastFrame) -> None:
        """Parse the header without the index; where it begins was proved by decoding."""
        frame = frames(group.frames[number])
        path, size, mtime_ns, mode, link, length = tar.parse_header(frame, group.offsets[number])
        expected = (
            group.paths[number],
            0 if number in group.links else group.sizes[number],
            group.mtimes[number],
            group.modes[number],
            group.links.get(number),
            group.header_lengths[number],
        )
        if (path, size, mtime_ns, mode, link, length) != expected:
            raise CorruptFrameError("tar header differs from the index", path=expected[0])

    def _check_names(self, member: Member, key: bytes) -> None:
        before, self._last_key = self._last_key, key
        parent = member.path.rpartition("/")[0]
        if parent != self._parent:
            # Whatever lies deeper stands right before the first file of a directory.
            self._parent = parent
            self._parent_is_flat = not before.startswith(directory_key(parent) + b"\x01")
        if not self._parent_is_flat and self._is_directory(member.path):
            raise CorruptFrameError("is both a file and a directory", path=member.path)
        if member.link is not None:
            self._reader._target(member)

    def _is_directory(self, path: str) -> bool:
        below = directory_key(path)
        try:
            found = self._reader._first_at(below)
        except FormatError:  # of another group: reported there
            return False
        return found is not None and found[0].keys[found[1]].startswith(below)

    def _accept(self, member: Member) -> None:
        self._result.members += 1
        if member.link is None:
            self._result.bytes += member.size
        if self._on_member is not None:
            self._on_member(member)

    # --- what follows the groups -------------------------------------------------------------

    def _check_end(self) -> None:
        reader = self._reader
        root, trailer = reader._root, reader._trailer
        try:
            if self._end + len(EOF_FRAME) != trailer.directory_offset:
                raise CorruptFrameError("the groups do not end at the directory", offset=self._end)
            if reader._source.read_at(self._end, len(EOF_FRAME)) != EOF_FRAME:
                raise CorruptFrameError("end of archive is malformed", offset=self._end)
        except FormatError as exc:
            self._report(exc)
        self._add_frame(len(EOF_FRAME), len(tar.END_OF_ARCHIVE))
        end = trailer.directory_offset
        nodes = sorted(self._nodes, key=lambda node: node[0])  # in order within each level
        for number, (_, entry, sequence) in enumerate(nodes):
            if entry.offset != end or sequence not in (number, -1):
                self._report(CorruptFrameError("nodes do not follow each other", offset=end))
                break
            end += entry.header_length
            self._add_frame(entry.header_length, 0)
        else:
            if end != trailer.root_offset or root.preamble.sequence != len(nodes):
                self._report(CorruptFrameError("nodes do not end at the root", offset=end))
        self._add_frame(trailer.root_length, 0)
        self._add_frame(TRAILER_BYTES, 0)
        if self._result.problems:
            return  # the counts cannot be right
        if root.groups != self._result.groups or root.members != self._members:
            self._report(CorruptFrameError("root has wrong counts", offset=trailer.root_offset))
        if root.tar_bytes != self._tar_length + len(tar.END_OF_ARCHIVE):
            self._report(
                CorruptFrameError("root has another tar length", offset=trailer.root_offset)
            )
        self._check_seek_table(trailer.length)

    def _check_seek_table(self, at: int) -> None:
        reader = self._reader
        if at == reader.size:
            return
        table = reader._source.read_at(at, reader.size - at)
        try:
            if parse_seek_table(table, at=at) != self._seek_entries:
                raise CorruptFrameError("seek table differs from the frames", offset=at)
        except FormatError as exc:
            self._report(exc)

    def _add_frame(self, length: int, size: int) -> None:
        if len(self._seek_entries) <= MAX_SEEK_ENTRIES:
            self._seek_entries.append((length, size))
