"""Reads a bundle at random: the trailer leads to the root, the root to a page, a page to a frame.

Opening costs one read of 64 KiB whatever the number of members; a lookup reads one page per level
that is not cached, a group header and a frame. Every page and frame is compared with the digest
that its parent holds before it is decompressed.

Not promised: that the whole bundle is sound. What was read is sound; :meth:`ArchiveReader.verify`
reads everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Generic, TypeVar, cast
from uuid import UUID

from mlflow_bundle.archive.content import (
    LoadFrame,
    frame_reader,
    iter_content,
    iter_spanning,
    missing_part,
    open_pieces,
    same_member,
)
from mlflow_bundle.archive.frames import (
    EOF_FRAME,
    TRAILER_BYTES,
    Trailer,
    find_trailer,
    parse_trailer,
)
from mlflow_bundle.archive.header import (
    HEADER_START_BYTES,
    MAX_HEADER_FRAME_BYTES,
    check_start,
    decode_header_frame,
)
from mlflow_bundle.archive.index import (
    MAX_INT,
    Entry,
    Group,
    Node,
    decode_group,
    decode_node,
    decode_root,
)
from mlflow_bundle.archive.limits import DEFAULT_LIMITS, MIB, TAIL_BYTES, Limits
from mlflow_bundle.archive.member import Member
from mlflow_bundle.archive.paths import directory_key, order_key
from mlflow_bundle.archive.source import ByteSource
from mlflow_bundle.archive.stream import refuse_signature
from mlflow_bundle.errors import (
    CorruptFrameError,
    FormatError,
    LimitError,
    TruncatedError,
)

_CACHED_PAGE_BYTES = 2 * MIB  # as they lie in the file; decoded they take about eight times that
_CACHED_FRAME_BYTES = 16 * MIB
_PATIENCE_S = 10.0
"""How long a thread waits for what another one is loading."""

_T = TypeVar("_T")
_Order = tuple[bytes, int]


@dataclass(kw_only=True)
class VerifyResult:
    """What :meth:`ArchiveReader.verify` found.

    Attributes:
        problems: Everything that is wrong, in file order; empty for a sound bundle.
        members: Members whose content was read and is right.
        bytes: Content bytes of these members, hard links not counted.
        groups: Groups that were read.
    """

    problems: list[FormatError] = field(default_factory=list)
    members: int = 0
    bytes: int = 0
    groups: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


class ArchiveReader:
    """Random access to a bundle in a seekable stream.

    All methods but :meth:`close` may be called from many threads at once.

    Attributes:
        name: For messages.
        limits: What the reader accepts.
    """

    def __init__(
        self, stream: BinaryIO, *, name: str = "", limits: Limits = DEFAULT_LIMITS
    ) -> None:
        """Open a bundle.

        Args:
            stream: Seekable; nobody else may move it. The caller closes it.
            name: File name or URI for messages.
            limits: What to accept.

        Raises:
            NotABundleError: The file is something else.
            TruncatedError: The trailer is missing.
            FormatError: The end of the bundle is damaged.
        """
        self.name = name
        self.limits = limits
        self._owned = False
        self._source = ByteSource(stream)
        self._pages: _Cache[Node | Group] = _Cache(_CACHED_PAGE_BYTES)
        self._frames: _Cache[bytes] = _Cache(_CACHED_FRAME_BYTES)
        self._header: bytes | None = None
        size = self._source.size
        tail_start = max(size - TAIL_BYTES, 0)
        tail = self._source.read_at(tail_start, size - tail_start)
        self._trailer = self._read_trailer(tail, tail_start)
        trailer = self._trailer
        at, length = trailer.root_offset, trailer.root_length
        if at >= tail_start:
            page = tail[at - tail_start : at - tail_start + length]
        else:
            page = self._source.read_at(at, length)
        if hashlib.sha256(page).digest() != trailer.root_digest:
            raise CorruptFrameError("root digest is wrong", offset=at)
        self._root = decode_root(page, at=at, limits=limits)
        root = self._root
        if root.preamble.uuid != trailer.uuid or root.members != trailer.members:
            raise CorruptFrameError("root and trailer contradict each other", offset=at)
        if at + length != trailer.length - TRAILER_BYTES:
            refuse_signature(self._source.read_at(at + length, 12), at + length)
            raise CorruptFrameError("trailer does not follow the root", offset=at + length)
        if root.header_length > MAX_HEADER_FRAME_BYTES:
            raise LimitError(f"first frame of {root.header_length} bytes", offset=0)
        self._groups_end = trailer.directory_offset - len(EOF_FRAME)
        if root.header_length > self._groups_end:
            raise CorruptFrameError("first frame leads outside the bundle", offset=at)
        if tail_start == 0:
            self._header = self._decode_header(tail[: root.header_length])

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS
    ) -> ArchiveReader:
        """Open a local file, which :meth:`close` closes.

        Raises:
            OSError: The file cannot be opened.
            FormatError: As the constructor.
        """
        stream = open(path, "rb")  # noqa: SIM115 - close() closes it
        try:
            reader = cls(stream, name=os.fspath(path), limits=limits)
        except BaseException:
            stream.close()
            raise
        reader._owned = True
        return reader

    def _read_trailer(self, tail: bytes, tail_start: int) -> Trailer:
        try:
            at = find_trailer(tail, self._source.size)
            start = at - tail_start
            return parse_trailer(tail[start : start + TRAILER_BYTES], at=at, limits=self.limits)
        except (TruncatedError, CorruptFrameError):
            self._demand_bundle_start()
            raise

    def _demand_bundle_start(self) -> None:
        """Tell a file that never was a bundle from one that lost its end."""
        check_start(self._source.read_at(0, min(self._source.size, HEADER_START_BYTES)))

    @property
    def header(self) -> bytes:
        """Content of ``.mlbundle/bundle.json``; read on first use.

        Raises:
            FormatError: It is damaged, or asks for what this version cannot do.
        """
        if self._header is None:
            self._header = self._decode_header(self._source.read_at(0, self._root.header_length))
        return self._header

    def _decode_header(self, frame: bytes) -> bytes:
        if hashlib.sha256(frame).digest() != self._root.header_digest:
            raise CorruptFrameError("first frame has the wrong digest", offset=0)
        return decode_header_frame(frame, self.uuid)[0]

    @property
    def uuid(self) -> UUID:
        return self._trailer.uuid

    @property
    def descriptor(self) -> int | None:
        """Of the open file, at no position in particular; None for another stream."""
        return self._source.descriptor

    @property
    def members(self) -> int:
        """Members of the bundle, without the header."""
        return self._trailer.members

    @property
    def tar_bytes(self) -> int:
        """Length of the decompressed tar stream."""
        return self._root.tar_bytes

    @property
    def size(self) -> int:
        """Length of the file."""
        return self._source.size

    @property
    def digest(self) -> bytes:
        """SHA-256 of the root, which stands for the whole content."""
        return self._trailer.root_digest

    def close(self) -> None:
        """Drop the caches and close the file if :meth:`open` opened it."""
        self._pages.clear()
        self._frames.clear()
        if self._owned:
            self._source.stream.close()

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- looking up --------------------------------------------------------------------------

    def find(self, path: str) -> Member | None:
        """Return the member at ``path``; None when there is none.

        Raises:
            FormatError: A page on the way is damaged.
        """
        found = self._locate(path)
        if found is None:
            return None
        group, number = found
        return self._member(group, number)

    def _locate(self, path: str) -> tuple[Group, int] | None:
        """Return the group in which the member begins and its number there."""
        try:
            key = order_key(path)
        except UnicodeEncodeError:
            return None
        entry = self._entry_at(key, 0)
        if entry is None:
            return None
        group = self._group(entry)
        number = bisect_left(group.keys, key)
        if number == len(group.keys) or group.keys[number] != key:
            return None
        return group, number

    def _member(self, group: Group, number: int) -> Member | None:
        """Return a member; None for a void one. The digest of a large one is in its last part."""
        if group.span is not None:
            if group.span.start:
                raise missing_part(group)
            entry = self._entry_at(group.keys[number], MAX_INT)
            last = self._group(entry) if entry is not None else group
            if not last.last_part or not same_member(group, last):
                raise missing_part(group)
            if last.void:
                return None
            return last.member(0)
        return group.member(number)

    def iter_members(self, prefix: str = "") -> Iterator[Member]:
        """Yield members in the order of their keys, reading only the pages needed.

        Args:
            prefix: Path of a directory, for all members below it, or of one member. Empty for
                all members.

        Raises:
            FormatError: A page is damaged.
        """
        below = directory_key(prefix.rstrip("/"))
        for group, start in self._iter_groups(below):
            for number in range(start, len(group.keys)):
                if not group.keys[number].startswith(below):
                    break
                member = self._member(group, number)
                if member is not None:
                    yield member
            else:
                continue
            break
        if prefix:
            member = self.find(prefix)
            if member is not None:
                yield member

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        """Yield ``(name, is_directory)`` of what lies directly in a directory, directories first.

        What lies deeper is skipped by bisection, not enumerated.
        """
        below = directory_key(path.rstrip("/"))
        seek = below
        while True:
            found = self._first_at(seek)
            if found is None:
                return
            group, number = found
            key = group.keys[number]
            if not key.startswith(below):
                return
            kind, rest = key[len(below)], key[len(below) + 1 :]
            if kind == 1:
                name = rest[: rest.index(b"\x00")]
                yield name.decode(), True
                seek = below + b"\x01" + name + b"\x01"
            else:
                if group.span is None or self._member(group, number) is not None:
                    yield rest.decode(), False
                seek = key + b"\x00"

    def _first_at(self, key: bytes) -> tuple[Group, int] | None:
        """Return the first member whose key is ``key`` or greater."""
        for group, number in self._iter_groups(key):
            if number < len(group.keys):
                return group, number
        return None

    def _iter_groups(self, key: bytes) -> Iterator[tuple[Group, int]]:
        """Yield groups from ``key`` on, each with the number of its first member at or after it.

        Groups that continue a large member are passed over without being read.
        """
        entries = self._iter_entries(key)
        entry = next(entries, None)
        while entry is not None:
            following = next(entries, None)
            if entry.part == 0:
                group = self._group(entry)
                if following is not None and (group.keys[-1], 0) >= following.order:
                    # What lies behind the next group's first key could not be found there.
                    raise CorruptFrameError("groups overlap", offset=entry.offset)
                yield group, bisect_left(group.keys, key)
            entry = following

    def _entry_at(self, key: bytes, part: int) -> Entry | None:
        """Return the last group that begins at or before ``(key, part)``."""
        node: Node = self._root
        bound = None
        while True:
            position = node.position(key, part)
            if position < 0:
                return None
            if node.level == 1:
                return node.entries[position]
            node, bound = self._child(node, position, bound)

    def _iter_entries(self, key: bytes) -> Iterator[Entry]:
        """Yield the entries of groups in order, from the one that may hold ``key`` on."""
        yield from self._iter_below(self._root, key, None)

    def _iter_below(self, node: Node, key: bytes, bound: _Order | None) -> Iterator[Entry]:
        first = max(node.position(key), 0)
        if node.level == 1:
            yield from node.entries[first:]
            return
        for position in range(first, len(node.entries)):
            child, behind = self._child(node, position, bound)
            yield from self._iter_below(child, key, behind)

    def _child(self, node: Node, position: int, bound: _Order | None) -> tuple[Node, _Order | None]:
        """Return the node of an entry, and what must not begin below it but behind it."""
        entry = node.entries[position]
        if position + 1 < len(node.orders):
            bound = node.orders[position + 1]
        child = self._node(entry, node)
        if bound is not None and child.orders[-1] >= bound:
            # What lies behind the bound could not be found here.
            raise CorruptFrameError("nodes overlap", offset=entry.offset)
        return child, bound

    # --- pages and frames --------------------------------------------------------------------

    def _read_page(self, entry: Entry, start: int, end: int) -> bytes:
        """Read the page of an entry, which must lie between ``start`` and ``end``."""
        if not start <= entry.offset <= end - entry.header_length - entry.data_length:
            raise CorruptFrameError("directory entry leads outside", offset=entry.offset)
        page = self._source.read_at(entry.offset, entry.header_length)
        if hashlib.sha256(page).digest() != entry.digest:
            raise CorruptFrameError("page digest is wrong", offset=entry.offset)
        return page

    def _node(self, entry: Entry, parent: Node) -> Node:
        def load() -> Node:
            trailer = self._trailer
            page = self._read_page(entry, trailer.directory_offset, trailer.root_offset)
            node = decode_node(page, at=entry.offset, limits=self.limits)
            if (
                node.preamble.uuid != self.uuid
                or node.level != parent.level - 1
                or node.orders[0] != entry.order
                or sum(child.members for child in node.entries) != entry.members
            ):
                raise CorruptFrameError("node contradicts its parent", offset=entry.offset)
            return node

        return cast(Node, self._pages.get(entry.offset, entry.header_length, load))

    def _group(self, entry: Entry) -> Group:
        def load() -> Group:
            page = self._read_page(entry, self._root.header_length, self._groups_end)
            group = decode_group(page, at=entry.offset, limits=self.limits)
            if (
                group.preamble.uuid != self.uuid
                or group.first_key != entry.order
                or group.preamble.data_length != entry.data_length
                or group.members != entry.members
            ):
                raise CorruptFrameError("group contradicts its parent", offset=entry.offset)
            return group

        return cast(Group, self._pages.get(entry.offset, entry.header_length, load))

    def _cached_frames(self, group: Group) -> LoadFrame:
        read = frame_reader(self._source, group)
        offsets = group.frame_offsets()

        def load(number: int) -> bytes:
            return self._frames.get(
                offsets[number], group.frame_sizes[number], lambda: read(number)
            )

        return load

    # --- contents ----------------------------------------------------------------------------

    def read(self, member: Member | str, *, limit_bytes: int = 64 * MIB) -> bytes:
        """Return the whole content of a member, verified.

        Args:
            member: A member or its path.
            limit_bytes: The most to return.

        Raises:
            KeyError: There is no such member.
            LimitError: It is larger than ``limit_bytes``.
            FormatError: It is damaged.
        """
        resolved = self._resolve(member)
        if resolved.size > limit_bytes:
            raise LimitError(
                f"member of {resolved.size} bytes, over {limit_bytes}", path=resolved.path
            )
        return b"".join(self._iter_pieces(resolved))

    def open_member(self, member: Member | str) -> BinaryIO:
        """Open a member for reading as a stream, frame by frame.

        Every byte belongs to a frame with a right digest. The last bytes are handed out after the
        digest of the whole content was compared: a read raises CorruptFrameError instead of
        returning them.

        Args:
            member: A member or its path.

        Raises:
            KeyError: There is no such member.
            FormatError: Its index entry is damaged.
        """
        resolved = self._resolve(member)
        return open_pieces(self._iter_pieces(resolved))

    def _resolve(self, member: Member | str) -> Member:
        """Return the regular file that has the content."""
        path = member if isinstance(member, str) else member.path
        found = self.find(path)
        if found is None:
            raise KeyError(path)
        if isinstance(member, Member) and found.digest != member.digest:
            raise KeyError(path)  # of another bundle
        return found if found.link is None else self._target(found)

    def _target(self, link: Member) -> Member:
        assert link.link is not None
        target = self.find(link.link)
        problem = ""
        if target is None:
            problem = "does not exist"
        elif target.link is not None:
            problem = "is a hard link itself"
        elif (target.size, target.digest) != (link.size, link.digest):
            problem = "has another content"
        elif (target.mtime_ns, target.mode) != (link.mtime_ns, link.mode):
            problem = "has another mode or modification time"
        if problem or target is None:
            raise CorruptFrameError(f"hard link target {link.link!r} {problem}", path=link.path)
        return target

    def _iter_pieces(self, member: Member) -> Iterator[memoryview]:
        """Yield the content of a regular member; the last piece after the whole was compared."""
        found = self._locate(member.path)
        if found is None:
            raise KeyError(member.path)
        group, number = found
        if group.span is None:
            yield from iter_content(group, number, self._cached_frames(group))
        else:
            yield from iter_spanning(self._iter_parts(group.keys[0]))

    def _iter_parts(self, key: bytes) -> Iterator[tuple[Group, LoadFrame]]:
        for entry in self._iter_entries(key):
            part = self._group(entry)
            yield part, frame_reader(self._source, part)

    # --- verification ------------------------------------------------------------------------

    def verify(self, *, on_member: Callable[[Member], None] | None = None) -> VerifyResult:
        """Read and check the whole bundle.

        Checked: every digest and checksum; that groups, nodes and root fill the file; that each
        frame, parsed as tar without the index, gives what the index says; hard link targets; that
        no file has the path of a directory; end of archive, counts and seek table.

        Args:
            on_member: Called for each good member, in order.

        Returns:
            All problems found. Problems are collected, not raised; damage in one group does not
            hide another.
        """
        from mlflow_bundle.archive.verify import Verification  # it imports this module

        return Verification(self, on_member).run()


class _Cache(Generic[_T]):
    """The values used last, up to a number of bytes.

    Values are loaded outside the lock; who wants one that another thread is loading waits for it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[int, tuple[_T, int]] = OrderedDict()
        self._bytes = 0
        self._loading: dict[int, Future[_T]] = {}

    def get(self, key: int, cost: int, load: Callable[[], _T]) -> _T:
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
                return found[0]
            loading = self._loading.get(key)
            if loading is None:
                loaded = self._loading[key] = Future()
        if loading is not None:
            # Who loads it may fail, or be interrupted.
            with contextlib.suppress(Exception):
                return loading.result(_PATIENCE_S)
            return load()
        try:
            value = load()
            with self._lock:
                self._values[key] = value, cost
                self._bytes += cost
                while self._bytes > self._limit and len(self._values) > 1:
                    self._bytes -= self._values.popitem(last=False)[1][1]
            loaded.set_result(value)
        except BaseException:
            loaded.set_exception(LookupError(key))
            raise
        finally:
            with self._lock:
                self._loading.pop(key, None)
        return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._bytes = 0
