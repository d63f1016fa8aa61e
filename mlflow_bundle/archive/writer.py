"""Writes a bundle: append-only, in the order of member keys, in bounded memory.

Members collect in frames and frames in groups. Frames are compressed by worker threads; groups are
written in order, each as a header that describes its frames followed by the frames. What a group
contains depends on the members only, so the number of workers never shows in the file.

The invariants:

- At most ``jobs + 1`` groups (8 MiB each) wait for their frames; then the caller waits.
- A group reaches the stream whole, or the stream raised.
- Nothing but :meth:`ArchiveWriter.finish` makes the file a bundle.

Not promised: that a hard link is found for every repeated content. Contents under 1 KiB, of 4 MiB
or more, and those that left the window are written again (FORMAT.md 7.3).
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, cast
from uuid import UUID

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.content import HashedBytes
from mlflow_bundle.archive.dedup import ContentIds, ContentWindow
from mlflow_bundle.archive.frames import (
    EOF_FRAME,
    FLAG_VOID,
    GROUP_TAG,
    MAX_SEEK_ENTRIES,
    Trailer,
    compress_frame,
    encode_page,
    encode_seek_table,
    encode_trailer,
)
from mlflow_bundle.archive.header import encode_header_frame
from mlflow_bundle.archive.index import (
    DirectoryBuilder,
    Entry,
    Group,
    Span,
    encode_group_body,
    group_entry,
)
from mlflow_bundle.archive.limits import (
    DEDUP_MIN_BYTES,
    GROUP_BYTES,
    GROUP_MEMBERS,
    LARGE_FRAME_BYTES,
    LARGE_MEMBER_BYTES,
    SOLID_FRAME_BYTES,
)
from mlflow_bundle.archive.member import Member
from mlflow_bundle.archive.output import Output
from mlflow_bundle.archive.paths import HEADER_PATH, is_header_place, order_key, validate_path
from mlflow_bundle.errors import BundleError

_READ_BYTES = 1 << 20
_sha256 = hashlib.sha256


class ShortReadError(BundleError):
    """The stream of a member gave fewer or more bytes than its stated size."""


class FinishedBundleError(BundleError):
    """A bundle was to be resumed that is complete already."""


class ArchiveWriter:
    """Writes members to a stream as a bundle.

    Members come in strictly increasing :func:`~mlflow_bundle.archive.order_key`. Directories are
    not members: they are implied by paths. A file and a directory must not have the same path;
    the writer cannot notice that in bounded memory, :meth:`ArchiveReader.verify` does.

    Not thread-safe: one thread adds members.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        bundle_uuid: UUID,
        header: bytes,
        mtime_ns: int,
        level: int = 3,
        jobs: int = 2,
    ) -> None:
        """Begin a bundle by writing its first frame.

        Args:
            stream: Written from its present position on, never sought in normal operation. The
                caller closes it.
            bundle_uuid: Identity of the bundle, in every page of it.
            header: Content of ``.mlbundle/bundle.json``: a JSON object of at most 1 MiB.
            mtime_ns: Of members that state none, and of the header.
            level: zstd level.
            jobs: Worker threads, at least 1. The bytes written do not depend on it.

        Raises:
            ValueError: ``header`` is no JSON object or too large.
        """
        self._begin(Output(stream), bundle_uuid, mtime_ns, level, jobs)
        frame = encode_header_frame(header, self._mtime_ns)
        self._set_header(frame, tar.padded(len(header)) + self._header_blocks(len(header)))
        self._out.write(frame)

    def _begin(
        self, output: Output, bundle_uuid: UUID, mtime_ns: int, level: int, jobs: int
    ) -> None:
        if jobs < 1:
            raise ValueError("jobs must be at least 1")
        self._out = output
        self._uuid = bundle_uuid
        self._mtime_ns = _clamped(mtime_ns)
        self._level = level
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="bundle-frames")
        self._window = ContentWindow()
        self._content_ids = ContentIds()
        self._directory = DirectoryBuilder()
        self._seek_entries: list[tuple[int, int]] = []
        self._pending: deque[_Group] = deque()
        self._sequence = 0
        self._members = 0
        self._tar_length = 0
        self._last_path: str | None = None
        self._last_key = b""
        self._group = _Group(0)
        self._broken = False
        self._finished = False

    def _header_blocks(self, size: int) -> int:
        return tar.header_length(HEADER_PATH, size, self._mtime_ns, None)

    def _set_header(self, frame: bytes, tar_length: int) -> None:
        self._header_length = len(frame)
        self._header_digest = hashlib.sha256(frame).digest()
        self._tar_length = tar_length
        self._group = _Group(tar_length)
        self._seek_entries.append((len(frame), tar_length))

    @classmethod
    def resume(cls, stream: BinaryIO, *, level: int = 3, jobs: int = 2) -> ArchiveWriter:
        """Continue an unfinished bundle after its last whole member (FORMAT.md 10.1).

        Given the members that follow, the result is byte for byte what one run would have
        written, as far as the libraries are the same.

        Args:
            stream: Opened ``r+b``; cut back to the last good group.
            level: zstd level.
            jobs: Worker threads.

        Raises:
            FinishedBundleError: The bundle is complete; there is nothing to resume.
            NotABundleError: The stream does not begin with a bundle's first frame.
            FormatError: The first frame is damaged or of a later format.
        """
        from mlflow_bundle.archive.recovery import scan_resumable  # it imports this module

        scan = scan_resumable(stream)
        bundle_uuid = scan.uuid  # may raise: before anything is cut
        stream.seek(scan.end)
        stream.truncate()
        writer = cls.__new__(cls)
        writer._begin(Output(stream, offset=scan.end), bundle_uuid, scan.mtime_ns, level, jobs)
        writer._set_header(scan.header_frame, scan.header_tar_bytes)
        for group, page in scan.iter_groups():
            writer._adopt(group, page)
        stream.seek(scan.end)  # reading the groups moved it
        return writer

    def _adopt(self, group: Group, page: bytes) -> None:
        """Take over a group that an earlier run has written."""
        entry = group_entry(group, page)
        self._directory.add(entry)
        self._sequence += 1
        self._members += entry.members
        self._tar_length += group.tar_length
        self._group = _Group(self._tar_length)
        self._last_path, self._last_key = group.paths[-1], group.keys[-1]
        self._add_seek_entry(len(page), 0)
        for length, size in zip(group.lengths, group.frame_sizes, strict=True):
            self._add_seek_entry(length, size)
        window = self._window
        for number, size in enumerate(group.sizes):
            if window.takes(size) and number not in group.links:
                window.add(group.digests[number], group.paths[number], group.mtimes[number])

    @property
    def uuid(self) -> UUID:
        return self._uuid

    @property
    def last_path(self) -> str | None:
        """Path of the last member added; None when there is none."""
        return self._last_path

    @property
    def members(self) -> int:
        """Members added, without the header."""
        return self._members

    @property
    def tar_bytes(self) -> int:
        """Bytes of the tar stream so far, without its end of archive."""
        return self._tar_length + self._group.tar_length

    @property
    def bytes_written(self) -> int:
        """Bytes given to the stream so far; up to ``jobs + 1`` groups wait in memory."""
        return self._out.offset

    def add(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> Member:
        """Add a member whose content is at hand.

        Content seen before, among the last million of small members, becomes a hard link and
        takes the modification time of its target.

        Raises:
            ValueError: ``path`` does not come after the one before: the caller's bug.
            UnsafePathError: ``path`` is not safe.
        """
        if len(data) >= LARGE_MEMBER_BYTES:
            return self.add_stream(path, io.BytesIO(data), len(data), mtime_ns=mtime_ns)
        return self._add_small(path, data, _sha256(data).digest(), mtime_ns)

    def _add_small(self, path: str, data: bytes, digest: bytes, mtime_ns: int | None) -> Member:
        size = len(data)
        key = self._checked_key(path)
        mtime = self._mtime_ns if mtime_ns is None else _clamped(mtime_ns)
        if size >= DEDUP_MIN_BYTES:
            earlier = self._window.find(digest)
            if earlier is not None:
                target, mtime = earlier
                return self._append_link(path, key, size, mtime, digest, target)
            self._window.add(digest, path, mtime)
        header = tar.render_header(path, size, mtime, tar.FILE_MODE, None)
        fill = tar.padding(size)
        length = len(header) + size + len(fill)
        group = self._room_for(length)
        group.append(path, tar.REGULAR, mtime, size, digest, length)
        group.pieces += (header, data, fill)
        self._accept(path, key)
        return Member(path=path, size=size, mtime_ns=mtime, mode=tar.FILE_MODE, digest=digest)

    def add_stream(
        self,
        path: str,
        stream: BinaryIO,
        size: int,
        *,
        mtime_ns: int | None = None,
        content_id: Hashable | None = None,
    ) -> Member:
        """Add a member of any size, reading ``stream`` in bounded pieces.

        When reading fails the member is taken back: a seekable output is truncated, on a pipe the
        member is filled with zeros and flagged void, and readers treat it as absent. The writer
        stays usable.

        Args:
            path: Member path.
            stream: Read to its end, which must come after ``size`` bytes. Not closed. The digest
                of :class:`~mlflow_bundle.archive.content.HashedBytes` is taken from it.
            size: Content bytes.
            mtime_ns: Modification time; the writer's when None.
            content_id: Where the content comes from. A second member of the same id and size is
                written as a hard link to the first without being read; equal ids meaning equal
                contents is the caller's word.

        Raises:
            ShortReadError: The stream has another size.
            ValueError: ``path`` does not come after the one before, or ``size`` is negative.
            UnsafePathError: ``path`` is not safe.
            Exception: Whatever ``stream`` raised.
        """
        if size < 0:
            raise ValueError("size is negative")
        key = self._checked_key(path)
        if content_id is not None:
            earlier = self._content_ids.find(content_id, size)
            if earlier is not None:
                return self.add_link(path, earlier)
        if size < LARGE_MEMBER_BYTES:
            known = stream.digest if isinstance(stream, HashedBytes) else None
            data = _read_exactly(stream, size, path)
            _expect_end(stream, size, path)
            member = self._add_small(path, data, known or _sha256(data).digest(), mtime_ns)
        else:
            mtime = self._mtime_ns if mtime_ns is None else _clamped(mtime_ns)
            member = self._add_large(path, key, stream, size, mtime)
        if content_id is not None:
            self._content_ids.add(content_id, member)
        return member

    def add_link(self, path: str, target: Member) -> Member:
        """Add a hard link to a member that this writer has added before, whatever its size.

        Raises:
            ValueError: ``path`` does not come after the one before.
            UnsafePathError: ``path`` is not safe.
        """
        key = self._checked_key(path)
        earlier = target.link or target.path
        return self._append_link(path, key, target.size, target.mtime_ns, target.digest, earlier)

    def finish(self) -> bytes:
        """Write the end of the tar, the directory and, last, the trailer.

        A real file is on its device when this returns. The bundle is complete then and not
        before.

        Returns:
            The SHA-256 of the root, which stands for the whole content.
        """
        self._check_usable()
        self._end_group()
        self._write_pending(0)
        self._write_frame(EOF_FRAME, len(tar.END_OF_ARCHIVE))
        directory_offset = self._out.offset
        nodes, root = self._directory.render(
            uuid=self._uuid,
            offset=directory_offset,
            tar_bytes=self._tar_length + len(tar.END_OF_ARCHIVE),
            header_length=self._header_length,
            header_digest=self._header_digest,
        )
        for node in nodes:
            self._write_frame(node, 0)
        root_offset = self._out.offset
        self._write_frame(root, 0)
        digest = hashlib.sha256(root).digest()
        self._out.sync()
        trailer = Trailer(
            uuid=self._uuid,
            length=self._out.offset + 128,
            root_offset=root_offset,
            root_length=len(root),
            directory_offset=directory_offset,
            directory_length=root_offset - directory_offset,
            root_digest=digest,
            members=self._directory.members,
        )
        self._write_frame(encode_trailer(trailer), 0)
        if len(self._seek_entries) <= MAX_SEEK_ENTRIES:
            self._out.write(encode_seek_table(self._seek_entries))
        self._out.sync()
        self._finished = True
        return digest

    def close(self) -> None:
        """Stop the worker threads. Without :meth:`finish` before it the file is no bundle."""
        self._broken = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- members in the group that is open ---------------------------------------------------

    def _checked_key(self, path: str) -> bytes:
        self._check_usable()
        validate_path(path)
        key = order_key(path)
        if key <= self._last_key or is_header_place(path):
            raise ValueError(f"member {path!r} must not come after {self._last_path!r}")
        return key

    def _check_usable(self) -> None:
        if self._broken or self._finished:
            raise ValueError("the writer is closed, finished or has failed")

    def _accept(self, path: str, key: bytes) -> None:
        self._last_path = path
        self._last_key = key
        self._members += 1

    def _append_link(
        self, path: str, key: bytes, size: int, mtime_ns: int, digest: bytes, target: str
    ) -> Member:
        header = tar.render_header(path, size, mtime_ns, tar.FILE_MODE, target)
        group = self._room_for(len(header))
        group.links[len(group.paths)] = target
        group.append(path, tar.HARD_LINK, mtime_ns, size, digest, len(header))
        group.pieces.append(header)
        self._accept(path, key)
        return Member(
            path=path,
            size=size,
            mtime_ns=mtime_ns,
            mode=tar.FILE_MODE,
            digest=digest,
            link=target,
        )

    def _room_for(self, length: int) -> _Group:
        """Return the open group, with an open frame that takes ``length`` more bytes."""
        group = self._group
        if len(group.paths) >= GROUP_MEMBERS or group.tar_length + length > GROUP_BYTES:
            self._end_group()
            group = self._group
        if group.frame_length + length > SOLID_FRAME_BYTES:
            self._end_frame(group)
        return group

    def _end_frame(self, group: _Group) -> None:
        if group.frame_length:
            content = b"".join(group.pieces)
            group.pieces = []
            group.frame_length = 0
            group.frame_sizes.append(len(content))
            group.compressed.append(self._pool.submit(_compress, content, self._level))

    def _end_group(self) -> None:
        """Hand the open group to the workers and open the next one."""
        group = self._group
        if group.paths:
            self._end_frame(group)
            self._enqueue(group)
            self._group = _Group(self._tar_length)

    def _enqueue(self, group: _Group) -> None:
        self._tar_length += group.tar_length
        self._pending.append(group)
        self._write_pending(self._jobs)

    # --- large members -----------------------------------------------------------------------

    def _add_large(
        self, path: str, key: bytes, stream: BinaryIO, size: int, mtime_ns: int
    ) -> Member:
        self._end_group()
        large = _LargeMember(path, size, mtime_ns, self._tar_length)
        try:
            while large.position < size:
                self._add_part(large, stream)
            _expect_end(stream, size, path)
        except BaseException as exc:
            self._take_back(large, key, fill=isinstance(exc, Exception))
            raise
        self._release(large)
        self._group = _Group(self._tar_length)
        self._accept(path, key)
        digest = large.digest.digest()
        return Member(path=path, size=size, mtime_ns=mtime_ns, mode=tar.FILE_MODE, digest=digest)

    def _add_part(self, large: _LargeMember, stream: BinaryIO) -> None:
        """Read the next group of a large member.

        The last one waits in ``large`` until the end of the stream has been seen, because it
        alone can be flagged void.
        """
        self._release(large)
        size, start = large.size, large.position
        end = min(start + GROUP_BYTES, size)
        group = _Group(self._tar_length)
        group.large = large
        group.append(large.path, tar.REGULAR, large.mtime_ns, size, b"", 0)
        digest = large.digest.copy()
        pieces: list[bytes] = []
        for first in range(start, end, LARGE_FRAME_BYTES):
            piece = _read_exactly(stream, min(LARGE_FRAME_BYTES, end - first), large.path)
            pieces.append(piece)
            digest.update(piece)
            content = piece
            if first == 0:
                content = large.header() + content
            if first + len(piece) == size:
                content += tar.padding(size)
            group.tar_length += len(content)
            group.frame_sizes.append(len(content))
            group.compressed.append(self._pool.submit(_compress, content, self._level))
        if (start, end) == (0, size):
            group.digests[0] = digest.digest()
        else:
            group.span = Span(start, end - start)
            group.part_digest = self._pool.submit(_digest, pieces)
            group.whole_digest = digest.digest() if end == size else None
        large.digest = digest
        large.position = end
        large.group = group

    def _release(self, large: _LargeMember) -> None:
        if large.group is not None:
            group, large.group = large.group, None
            self._enqueue(group)

    def _take_back(self, large: _LargeMember, key: bytes, *, fill: bool) -> None:
        """Undo a large member that could not be read to its end."""
        if self._broken:
            return
        if large.before is not None and not self._out.can_truncate:
            if not fill:  # interrupted: do not spend the time that filling may take
                self._broken = True
                return
            while large.position < large.size:
                self._add_part(large, _ZEROS)
            assert large.group is not None
            large.group.flags = FLAG_VOID
            self._release(large)
            self._last_path, self._last_key = large.path, key
        else:
            while self._pending and self._pending[-1].large is large:
                self._pending.pop()
            self._tar_length = large.tar_offset
            if large.before is not None:
                self._out.truncate(large.before.offset)
                self._sequence = large.before.sequence
                self._directory = large.before.directory
                del self._seek_entries[large.before.seek_entries :]
        self._group = _Group(self._tar_length)

    # --- output ------------------------------------------------------------------------------

    def _write_pending(self, allowed: int) -> None:
        while len(self._pending) > allowed:
            group = self._pending[0]
            if group.large is not None and group.large.before is None:
                group.large.before = _Before(
                    self._out.offset,
                    self._sequence,
                    self._directory.snapshot(),
                    len(self._seek_entries),
                )
            self._write_group(group)
            self._pending.popleft()

    def _write_group(self, group: _Group) -> None:
        results = [future.result() for future in group.compressed]
        if group.part_digest is not None:
            group.digests[0] = group.part_digest.result()
        lengths = [len(frame) for frame, _ in results]
        body = encode_group_body(
            paths=group.paths,
            types=bytes(group.types),
            modes=[tar.FILE_MODE] * len(group.paths),
            mtimes=group.mtimes,
            sizes=group.sizes,
            frames=group.frames,
            offsets=group.offsets,
            lengths=lengths,
            frame_sizes=group.frame_sizes,
            tar_offset=group.tar_offset,
            links=group.links,
            span=group.span,
            whole_digest=group.whole_digest,
        )
        offset = self._out.offset
        page = encode_page(
            GROUP_TAG,
            body,
            b"".join([*group.digests, *[digest for _, digest in results]]),
            uuid=self._uuid,
            sequence=self._sequence,
            offset=offset,
            flags=group.flags,
            frame_count=len(results),
            data_length=sum(lengths),
        )
        self._write_frame(page, 0)
        for (frame, _), size in zip(results, group.frame_sizes, strict=True):
            self._write_frame(frame, size)
        self._sequence += 1
        whole = group.span is None or (group.whole_digest is not None and not group.flags)
        self._directory.add(
            Entry(
                order_key(group.paths[0]),
                group.span.start if group.span else 0,
                offset,
                len(page),
                sum(lengths),
                len(group.paths) if whole else 0,
                hashlib.sha256(page).digest(),
            )
        )

    def _write_frame(self, frame: bytes, size: int) -> None:
        try:
            self._out.write(frame)
        except BaseException:
            self._broken = True
            raise
        self._add_seek_entry(len(frame), size)

    def _add_seek_entry(self, length: int, size: int) -> None:
        if len(self._seek_entries) <= MAX_SEEK_ENTRIES:  # one too many tells that it is too long
            self._seek_entries.append((length, size))


class _Group:
    """A group that is being filled or waits to be written: the columns of its header."""

    __slots__ = (
        "compressed",
        "digests",
        "flags",
        "frame_length",
        "frame_sizes",
        "frames",
        "large",
        "links",
        "mtimes",
        "offsets",
        "part_digest",
        "paths",
        "pieces",
        "sizes",
        "span",
        "tar_length",
        "tar_offset",
        "types",
        "whole_digest",
    )

    def __init__(self, tar_offset: int) -> None:
        self.tar_offset = tar_offset
        self.tar_length = 0
        self.paths: list[str] = []
        self.types = bytearray()
        self.mtimes: list[int] = []
        self.sizes: list[int] = []
        self.frames: list[int] = []
        self.offsets: list[int] = []
        self.digests: list[bytes] = []
        self.links: dict[int, str] = {}
        self.pieces: list[bytes] = []  # of the open frame
        self.frame_length = 0  # of the open frame
        self.frame_sizes: list[int] = []
        self.compressed: list[Future[tuple[bytes, bytes]]] = []
        self.flags = 0
        self.span: Span | None = None
        self.part_digest: Future[bytes] | None = None
        self.whole_digest: bytes | None = None
        self.large: _LargeMember | None = None

    def append(
        self, path: str, kind: int, mtime_ns: int, size: int, digest: bytes, length: int
    ) -> None:
        """Describe a member whose record of ``length`` tar bytes comes next."""
        self.paths.append(path)
        self.types.append(kind)
        self.mtimes.append(mtime_ns)
        self.sizes.append(size)
        self.digests.append(digest)
        self.frames.append(len(self.frame_sizes))
        self.offsets.append(self.frame_length)
        self.frame_length += length
        self.tar_length += length


@dataclass(slots=True)
class _Before:
    """Where the writer stood before the first group of a large member was written."""

    offset: int
    sequence: int
    directory: DirectoryBuilder
    seek_entries: int


class _LargeMember:
    """A member of 4 MiB or more while it is being read."""

    __slots__ = ("before", "digest", "group", "mtime_ns", "path", "position", "size", "tar_offset")

    def __init__(self, path: str, size: int, mtime_ns: int, tar_offset: int) -> None:
        self.path = path
        self.size = size
        self.mtime_ns = mtime_ns
        self.tar_offset = tar_offset
        self.position = 0  # content bytes in whole groups
        self.digest = hashlib.sha256()
        self.group: _Group | None = None  # the last whole one
        self.before: _Before | None = None

    def header(self) -> bytes:
        return tar.render_header(self.path, self.size, self.mtime_ns, tar.FILE_MODE, None)


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1, /) -> bytes:
        return bytes(size)


_ZEROS = cast(BinaryIO, _Zeros())


def _clamped(mtime_ns: int) -> int:
    """Return the nearest time that tar can hold; servers have been seen to give any."""
    return min(max(mtime_ns, 0), tar.MAX_MTIME_NS)


def _compress(content: bytes, level: int) -> tuple[bytes, bytes]:
    frame = compress_frame(content, level)
    return frame, hashlib.sha256(frame).digest()


def _digest(pieces: list[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _read_exactly(stream: BinaryIO, size: int, path: str) -> bytes:
    pieces = []
    missing = size
    while missing:
        piece = stream.read(min(missing, _READ_BYTES))
        if not piece:
            raise ShortReadError(f"{path}: its source ended {missing} bytes early")
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _expect_end(stream: BinaryIO, size: int, path: str) -> None:
    if stream.read(1):
        raise ShortReadError(f"{path}: its source has more than the stated {size} bytes")
