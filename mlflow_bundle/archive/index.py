"""The index: group headers are its leaves, nodes and the root stand above them (FORMAT.md 4.3-4.5).

A group header describes the members of the data frames that follow it, in columns. A node lists
groups or nodes with the digest of each, so that the digest of the root covers the whole bundle.
Decoding trusts nothing: what is returned has been checked for types, ranges, order, safe paths and
for tar records that fill the group's frames without a gap.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, NamedTuple
from uuid import UUID

import msgpack

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.frames import (
    FLAG_VOID,
    GROUP_TAG,
    NODE_TAG,
    ROOT_TAG,
    Preamble,
    compress_frame,
    encode_page,
    max_compressed,
    parse_page,
)
from mlflow_bundle.archive.limits import DEFAULT_LIMITS, FANOUT, Limits
from mlflow_bundle.archive.member import Member
from mlflow_bundle.archive.paths import is_header_place, order_key, validate_path
from mlflow_bundle.errors import CorruptFrameError, LimitError, UnsupportedVersionError

DIGEST_BYTES: Final = 32
DIGEST_NAME: Final = "sha256"
MAX_INT: Final = 2**63 - 1
MAX_VALUES: Final = 65_536
"""Values in the body of a page, itself and map keys included."""
MAX_DEPTH: Final = 16
"""Maps and arrays within each other in the body of a page, itself included."""
_BODY_LEVEL = 3

Body = dict[str, object]


# --- msgpack ---------------------------------------------------------------------------------


def encode_body(body: Body) -> bytes:
    packed: bytes = msgpack.packb(body, use_bin_type=True)
    return compress_frame(packed, _BODY_LEVEL)


def decode_body(packed: bytes, known: frozenset[str], *, at: int) -> Body:
    """Decode the msgpack map of a page.

    Unknown keys are passed over unless they begin with ``!``.

    Raises:
        CorruptFrameError: Not one map in canonical msgpack with text keys, each once.
        LimitError: It would take far more memory than its bytes.
        UnsupportedVersionError: An unknown critical key.
    """
    _check_shape(packed, at=at)
    try:
        body = msgpack.unpackb(packed, raw=False, strict_map_key=True, object_pairs_hook=_map)
        canonical = msgpack.packb(body, use_bin_type=True) == packed
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise CorruptFrameError(f"page body is malformed: {exc}", offset=at) from exc
    if not canonical or not isinstance(body, dict):
        raise CorruptFrameError("page body is not a canonical msgpack map", offset=at)
    for key in body:
        if key not in known and key.startswith("!"):
            raise UnsupportedVersionError(f"page has the unknown critical key {key!r}", offset=at)
    return body


def _scalar_lengths() -> bytes:
    """Return, per first byte, the bytes of a msgpack value whose length that byte tells."""
    lengths = bytearray(256)
    for first in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        lengths[first] = 1  # small integers, nil and booleans
    for length in range(32):
        lengths[0xA0 + length] = 1 + length  # short text
    for first, length in ((0xCC, 2), (0xCD, 3), (0xCE, 5), (0xCF, 9)):
        lengths[first] = lengths[first + 4] = length  # unsigned and signed integers
    lengths[0xCB] = 9  # floats, which have one form here
    return bytes(lengths)


_SCALAR_LENGTHS = _scalar_lengths()
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # octets and text: width of length
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # width, values per entry


def _check_shape(packed: bytes, *, at: int) -> None:
    """Count values and nesting before a decoder takes memory for them.

    Sixty-four mebibytes of empty maps would take gigabytes.

    Raises:
        CorruptFrameError: The bytes are cut short or hold an extension type.
        LimitError: There are more than the limits.
    """
    position, values, missing = 0, 1, 1
    outside: list[int] = []  # values missing in each container that is open
    try:
        while missing or outside:
            if not missing:
                missing = outside.pop()
                continue
            missing -= 1
            first = packed[position]
            length = _SCALAR_LENGTHS[first]
            if length:
                position += length
            elif first in _SIZED:
                start = position + 1
                position = start + _SIZED[first]
                position += int.from_bytes(packed[start:position], "big")
            else:
                if first < 0xA0:
                    count = (first & 0x0F) * (2 if first < 0x90 else 1)
                    position += 1
                else:
                    width, each = _CONTAINERS[first]
                    start = position + 1
                    position = start + width
                    count = int.from_bytes(packed[start:position], "big") * each
                values += count
                outside.append(missing)
                missing = count
                if values > MAX_VALUES or len(outside) > MAX_DEPTH:
                    raise LimitError("page body has too many values", offset=at)
    except (IndexError, KeyError) as exc:
        raise CorruptFrameError("page body is malformed", offset=at) from exc


def _map(pairs: Iterable[tuple[object, object]]) -> Body:
    result: Body = {}
    for key, value in pairs:
        if not isinstance(key, str) or key in result:
            raise ValueError("duplicate key or key that is no text")
        result[key] = value
    return result


class _Fields:
    """Typed access to a decoded body."""

    def __init__(self, body: Body, *, at: int) -> None:
        self._body = body
        self._at = at

    def error(self, message: str) -> CorruptFrameError:
        return CorruptFrameError(message, offset=self._at)

    def __contains__(self, key: str) -> bool:
        return key in self._body

    def integer(self, key: str) -> int:
        return self.checked_integer(self._body.get(key), key)

    def checked_integer(self, value: object, key: str) -> int:
        if type(value) is not int or not 0 <= value <= MAX_INT:
            raise self.error(f"page key {key!r} is not an unsigned integer")
        return value

    def binary(self, key: str, length: int | None = None) -> bytes:
        return self.checked_binary(self._body.get(key), key, length)

    def checked_binary(self, value: object, key: str, length: int | None = None) -> bytes:
        if not isinstance(value, bytes) or (length is not None and len(value) != length):
            raise self.error(f"page key {key!r} is not a byte string of the right length")
        return value

    def array(self, key: str, length: int | None = None) -> list[object]:
        value = self._body.get(key)
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise self.error(f"page key {key!r} is not an array of the right length")
        return value

    def column(self, key: str, code: str, count: int) -> tuple[int, ...]:
        width = struct.calcsize(f"<{code}")
        return struct.unpack(f"<{count}{code}", self.binary(key, count * width))


# --- group headers ---------------------------------------------------------------------------


class Span(NamedTuple):
    """The part of a large member that one group holds."""

    start: int
    length: int


@dataclass(slots=True, kw_only=True)
class Group:
    """A decoded group header.

    The columns are parallel, one value per member; the frame columns one per data frame.

    Attributes:
        preamble: Its first 64 bytes.
        paths: Increasing by key.
        types: ``tar.REGULAR`` or ``tar.HARD_LINK``.
        frames: The frame in this group in which the member's tar header begins.
        offsets: Where in that frame, decompressed, it begins.
        header_lengths: Bytes of the canonical tar header.
        links: Member number to target path.
        lengths: Compressed bytes per frame.
        frame_sizes: Decompressed bytes per frame.
        tar_offset: Offset of the group in the decompressed stream.
        span: The part of a member that spans groups, or None.
        digests: SHA-256 per member, of the part where there is a span.
        frame_digests: SHA-256 per compressed frame.
        whole_digest: SHA-256 of the whole spanning member; in its last group only.
    """

    preamble: Preamble
    paths: list[str]
    keys: list[bytes]
    types: bytes
    modes: tuple[int, ...]
    mtimes: list[int]
    sizes: tuple[int, ...]
    frames: tuple[int, ...]
    offsets: tuple[int, ...]
    header_lengths: list[int]
    links: dict[int, str]
    lengths: tuple[int, ...]
    frame_sizes: tuple[int, ...]
    tar_offset: int
    span: Span | None
    digests: list[bytes]
    frame_digests: list[bytes]
    whole_digest: bytes | None

    @property
    def void(self) -> bool:
        return bool(self.preamble.flags & FLAG_VOID)

    @property
    def last_part(self) -> bool:
        """Whether no later group continues the last member."""
        return self.span is None or self.whole_digest is not None

    @property
    def tar_length(self) -> int:
        return sum(self.frame_sizes)

    @property
    def data_offset(self) -> int:
        return self.preamble.offset + self.preamble.length

    @property
    def end(self) -> int:
        """Offset of the byte after the last data frame."""
        return self.data_offset + self.preamble.data_length

    @property
    def first_key(self) -> tuple[bytes, int]:
        return self.keys[0], self.span.start if self.span else 0

    @property
    def members(self) -> int:
        """Members that are complete with this group and present."""
        if self.span is None:
            return len(self.paths)
        return int(self.last_part and not self.void)

    def member(self, number: int) -> Member:
        """Return member ``number``. Of a spanning member, only the last part knows the digest."""
        digest = self.digests[number] if self.span is None else self.whole_digest or b""
        return Member(
            path=self.paths[number],
            size=self.sizes[number],
            mtime_ns=self.mtimes[number],
            mode=self.modes[number],
            digest=digest,
            link=self.links.get(number),
        )

    def header(self, number: int) -> bytes:
        """Return the canonical tar header of member ``number``."""
        return tar.render_header(
            self.paths[number],
            self.sizes[number],
            self.mtimes[number],
            self.modes[number],
            self.links.get(number),
        )

    def frame_offsets(self) -> list[int]:
        """Return the offset in the file of each data frame."""
        return list(accumulate(self.lengths[:-1], initial=self.data_offset))


_NUMBER_COLUMNS = frozenset(["mode", "mtime", "size", "frame", "off", "csize", "usize"])
_GROUP_KEYS = _NUMBER_COLUMNS | {"n", "path", "type", "tar", "link", "span", "digest"}


def encode_group_body(
    *,
    paths: Sequence[str],
    types: bytes,
    modes: Sequence[int],
    mtimes: Sequence[int],
    sizes: Sequence[int],
    frames: Sequence[int],
    offsets: Sequence[int],
    lengths: Sequence[int],
    frame_sizes: Sequence[int],
    tar_offset: int,
    links: dict[int, str],
    span: Span | None,
    whole_digest: bytes | None,
) -> bytes:
    """Return the compressed body of a group header (FORMAT.md 4.3)."""
    n, k = len(paths), len(lengths)
    deltas = [mtimes[0], *[after - before for before, after in pairwise(mtimes)]]
    body: Body = {
        "n": n,
        "path": "\x00".join(paths).encode(),
        "type": types,
        "mode": struct.pack(f"<{n}H", *modes),
        "mtime": struct.pack(f"<{n}q", *deltas),
        "size": struct.pack(f"<{n}Q", *sizes),
        "frame": struct.pack(f"<{n}I", *frames),
        "off": struct.pack(f"<{n}I", *offsets),
        "csize": struct.pack(f"<{k}I", *lengths),
        "usize": struct.pack(f"<{k}I", *frame_sizes),
        "tar": tar_offset,
        "link": [[number, target] for number, target in links.items()],
    }
    if span is not None:
        body["span"] = list(span)
    if whole_digest is not None:
        body["digest"] = whole_digest
    return encode_body(body)


def decode_group(page: bytes, *, at: int, limits: Limits) -> Group:
    """Decode and check the group header ``page`` that lies at offset ``at``.

    Raises:
        FormatError: It is damaged, hostile, beyond ``limits`` or of a later format.
    """
    preamble, packed, tail = parse_page(page, at=at, limits=limits)
    if preamble.tag != GROUP_TAG:
        raise CorruptFrameError("expected a group header", offset=at)
    body = _Fields(decode_body(packed, _GROUP_KEYS, at=at), at=at)
    n, k = body.integer("n"), preamble.frame_count
    if not n or not k:
        raise body.error("group without members or frames")
    if n > limits.page_entries:
        raise LimitError(f"group of {n} members", offset=at)
    if len(tail) != DIGEST_BYTES * (n + k):
        raise body.error("group has the wrong number of digests")
    digests = [tail[i : i + DIGEST_BYTES] for i in range(0, len(tail), DIGEST_BYTES)]
    try:
        paths = body.binary("path").decode().split("\x00")
    except UnicodeDecodeError as exc:
        raise body.error("member path is not UTF-8") from exc
    if len(paths) != n:
        raise body.error("group has the wrong number of paths")
    group = Group(
        preamble=preamble,
        paths=paths,
        keys=[order_key(path) for path in paths],
        types=body.binary("type", n),
        modes=body.column("mode", "H", n),
        mtimes=list(accumulate(body.column("mtime", "q", n))),
        sizes=body.column("size", "Q", n),
        frames=body.column("frame", "I", n),
        offsets=body.column("off", "I", n),
        header_lengths=[],
        links=_decode_links(body),
        lengths=body.column("csize", "I", k),
        frame_sizes=body.column("usize", "I", k),
        tar_offset=body.integer("tar"),
        span=_decode_span(body),
        digests=digests[:n],
        frame_digests=digests[n:],
        whole_digest=body.binary("digest", DIGEST_BYTES) if "digest" in body else None,
    )
    _check_frames(group, limits)
    _check_members(group, body, limits)
    _check_span(group, body)
    _check_records(group, body)
    return group


def _decode_links(body: _Fields) -> dict[int, str]:
    links: dict[int, str] = {}
    last = -1
    for item in body.array("link"):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], str):
            raise body.error("page key 'link' is malformed")
        number = body.checked_integer(item[0], "link")
        if number <= last:
            raise body.error("page key 'link' is not in order")
        links[number] = item[1]
        last = number
    return links


def _decode_span(body: _Fields) -> Span | None:
    if "span" not in body:
        return None
    start, length = body.array("span", 2)
    return Span(body.checked_integer(start, "span"), body.checked_integer(length, "span"))


def _check_frames(group: Group, limits: Limits) -> None:
    at = group.preamble.offset
    for length, size in zip(group.lengths, group.frame_sizes, strict=True):
        if size > limits.frame_bytes:
            raise LimitError(f"frame of {size} bytes", offset=at)
        if not size or not 9 <= length <= max_compressed(size):
            raise CorruptFrameError("frame length is impossible", offset=at)
    if sum(group.lengths) != group.preamble.data_length:
        raise CorruptFrameError("frame lengths do not add up", offset=at)


def _check_members(group: Group, body: _Fields, limits: Limits) -> None:
    linked = 0
    before = b""
    for number, (path, key, kind) in enumerate(
        zip(group.paths, group.keys, group.types, strict=True)
    ):
        validate_path(path)
        if key <= before or is_header_place(path):
            raise body.error(f"member is out of order or appears twice: {path!r}")
        before = key
        if kind == tar.HARD_LINK:
            linked += 1
            target = group.links.get(number)
            if target is None:
                raise body.error(f"hard link without a target: {path!r}")
            validate_path(target)
            if order_key(target) >= key:
                raise body.error(f"hard link whose target is not earlier: {path!r}")
        elif kind != tar.REGULAR:
            raise body.error(f"member of unknown type {kind:#x}: {path!r}")
    if linked != len(group.links):
        raise body.error("link for a member that is no hard link")
    if max(group.modes) > 0o777:
        raise body.error("mode beyond permission bits")
    if min(group.mtimes) < 0 or max(group.mtimes) > tar.MAX_MTIME_NS:
        raise body.error("modification time is out of range")
    if max(group.sizes) > MAX_INT:
        raise body.error("member size is out of range")
    if limits.path_bytes < DEFAULT_LIMITS.path_bytes:
        longest = max(len(path.encode()) for path in group.paths)
        if longest > limits.path_bytes:
            raise LimitError(f"member path of {longest} bytes", offset=group.preamble.offset)


def _check_span(group: Group, body: _Fields) -> None:
    span = group.span
    if span is None:
        if group.whole_digest is not None or group.void:
            raise body.error("group without a span has a whole digest or is void")
        return
    size = group.sizes[0]
    if (
        len(group.paths) != 1
        or group.links
        or not span.length
        or span.start + span.length > size
        or span.length == size
    ):
        raise body.error("span is malformed")
    last = span.start + span.length == size
    if last != (group.whole_digest is not None) or (group.void and not last):
        raise body.error("whole digest or void flag is not in the last part")


def _check_records(group: Group, body: _Fields) -> None:
    """Demand that the tar records fill the frames, each beginning where the one before ended."""
    header_lengths = group.header_lengths
    if group.span is not None:
        header = tar.header_length(group.paths[0], group.sizes[0], group.mtimes[0], None)
        header_lengths.append(header)
        length = group.span.length + (0 if group.span.start else header)
        if group.whole_digest is not None:
            length += -group.sizes[0] % tar.BLOCK
        if group.frames[0] or group.offsets[0] or length != group.tar_length:
            raise body.error("span does not fill its frames")
        if not group.span.start and group.frame_sizes[0] < header:
            raise body.error("tar header is divided between frames")
        return
    frame_sizes = group.frame_sizes
    links = group.links
    frame = offset = 0
    count = len(frame_sizes)
    single = len(group.paths) == 1
    for number, (path, size, mtime) in enumerate(
        zip(group.paths, group.sizes, group.mtimes, strict=True)
    ):
        if offset == frame_sizes[frame]:
            frame += 1
            offset = 0
        if frame == count or group.frames[number] != frame or group.offsets[number] != offset:
            raise body.error(f"tar record is not where it must be: {path!r}")
        link = links.get(number)
        header = tar.header_length(path, size, mtime, link)
        header_lengths.append(header)
        offset += header if link is not None else header + size + -size % 512
        if offset > frame_sizes[frame]:
            # Only a large member, alone in its group, goes on in the next frame.
            if not single or frame_sizes[0] < header:
                raise body.error(f"tar record is divided between frames: {path!r}")
            if offset != group.tar_length:
                raise body.error(f"member does not fill its frames: {path!r}")
            return
    if offset != frame_sizes[frame] or frame != count - 1:
        raise body.error("frames hold more than the members")


# --- nodes and the root ----------------------------------------------------------------------


class Entry(NamedTuple):
    """What a node says of one group, or of one node below it."""

    key: bytes
    part: int
    offset: int
    header_length: int
    data_length: int
    members: int
    digest: bytes

    @property
    def order(self) -> tuple[bytes, int]:
        return self.key, self.part


@dataclass(slots=True, kw_only=True)
class Node:
    """A decoded node or root.

    Attributes:
        level: 1 where the entries are groups, 2 where they are nodes of level 1, and so on.
        orders: ``(key, part)`` of each entry, for bisection.
    """

    preamble: Preamble
    level: int
    entries: list[Entry]
    orders: list[tuple[bytes, int]]

    def position(self, key: bytes, part: int = 0) -> int:
        """Return the last entry that begins at or before ``(key, part)``; -1 if none does."""
        return bisect_right(self.orders, (key, part)) - 1


@dataclass(slots=True, kw_only=True)
class Root(Node):
    """The decoded root.

    Attributes:
        members: Members of the bundle.
        groups: Groups of the bundle.
        tar_bytes: Length of the whole decompressed stream.
        header_length: Bytes of the first frame.
        header_digest: SHA-256 of the first frame.
        require: Capabilities a reader needs.
    """

    members: int
    groups: int
    tar_bytes: int
    header_length: int
    header_digest: bytes
    require: list[str] = field(default_factory=list)


_NODE_KEYS = frozenset(["level", "entries"])
_ROOT_KEYS = _NODE_KEYS | {"n", "groups", "tar", "hash", "header", "require"}


def decode_node(page: bytes, *, at: int, limits: Limits) -> Node:
    """Decode and check the node that lies at offset ``at``."""
    preamble, packed, tail = parse_page(page, at=at, limits=limits)
    body = _Fields(decode_body(packed, _NODE_KEYS, at=at), at=at)
    if preamble.tag != NODE_TAG or tail or preamble.frame_count or preamble.data_length:
        raise body.error("expected a node")
    level = _decode_level(body, limits.levels - 1)
    entries = _decode_entries(body, level, preamble, limits)
    if not entries:
        raise body.error("empty node")
    return Node(preamble=preamble, level=level, entries=entries, orders=[e.order for e in entries])


def decode_root(page: bytes, *, at: int, limits: Limits) -> Root:
    """Decode and check the root that lies at offset ``at``.

    Raises:
        UnsupportedVersionError: The bundle requires a capability; version 1 knows none.
        FormatError: As for any page.
    """
    preamble, packed, tail = parse_page(page, at=at, limits=limits)
    body = _Fields(decode_body(packed, _ROOT_KEYS, at=at), at=at)
    if preamble.tag != ROOT_TAG or tail or preamble.frame_count or preamble.data_length:
        raise body.error("expected the root")
    if body._body.get("hash") != DIGEST_NAME:
        raise UnsupportedVersionError(f"unknown digest {body._body.get('hash')!r}", offset=at)
    require = body.array("require")
    check_capabilities(require, at=at)
    level = _decode_level(body, limits.levels)
    entries = _decode_entries(body, level, preamble, limits)
    if not entries and level != 1:
        raise body.error("directory of many levels and no entries")
    header_length, header_digest = body.array("header", 2)
    root = Root(
        preamble=preamble,
        level=level,
        entries=entries,
        orders=[e.order for e in entries],
        members=body.integer("n"),
        groups=body.integer("groups"),
        tar_bytes=body.integer("tar"),
        header_length=body.checked_integer(header_length, "header"),
        header_digest=body.checked_binary(header_digest, "header", DIGEST_BYTES),
    )
    if root.members != sum(entry.members for entry in entries):
        raise body.error("member counts do not add up")
    if limits.members is not None and root.members > limits.members:
        raise LimitError(f"bundle of {root.members} members", offset=at)
    if limits.tar_bytes is not None and root.tar_bytes > limits.tar_bytes:
        raise LimitError(f"bundle of {root.tar_bytes} bytes", offset=at)
    return root


def check_capabilities(names: object, *, at: int | None = None) -> None:
    """Refuse a bundle that requires anything: version 1 defines no capability."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptFrameError("required capabilities are not an array of text", offset=at)
    if names:
        raise UnsupportedVersionError(
            f"the bundle requires {', '.join(map(repr, names))[:500]}",
            offset=at,
            hint="use a newer version of mlflow-bundle",
        )


def _decode_level(body: _Fields, highest: int) -> int:
    level = body.integer("level")
    if not level:
        raise body.error("level 0")
    if level > highest:
        raise LimitError(f"directory page of level {level}", offset=body._at)
    return level


def _decode_entries(body: _Fields, level: int, preamble: Preamble, limits: Limits) -> list[Entry]:
    items = body.array("entries")
    if len(items) > limits.page_entries:
        raise LimitError(f"node of {len(items)} entries", offset=body._at)
    entries: list[Entry] = []
    before = (b"", -1)
    end = 0
    for item in items:
        if not isinstance(item, list) or len(item) != 7:
            raise body.error("directory entry is malformed")
        part, offset, header_length, data_length, members = (
            body.checked_integer(value, "entries") for value in item[1:6]
        )
        entry = Entry(
            key=body.checked_binary(item[0], "entries"),
            part=part,
            offset=offset,
            header_length=header_length,
            data_length=data_length,
            members=members,
            digest=body.checked_binary(item[6], "entries", DIGEST_BYTES),
        )
        if entry.order <= before:
            raise body.error("directory entries are out of order")
        if entry.header_length > limits.page_bytes:
            raise LimitError(f"page of {entry.header_length} bytes", offset=body._at)
        if entry.offset < end or (end and entry.offset != end):
            raise body.error("directory entries do not follow each other")
        if level > 1 and entry.data_length:
            raise body.error("directory entry of a node has data")
        before = entry.order
        end = entry.offset + entry.header_length + entry.data_length
        entries.append(entry)
    if end > preamble.offset:
        raise body.error("directory entry points behind its node")
    return entries


def group_entry(group: Group, page: bytes) -> Entry:
    """Return what the directory must say of a group."""
    key, part = group.first_key
    return Entry(
        key,
        part,
        group.preamble.offset,
        len(page),
        group.preamble.data_length,
        group.members,
        hashlib.sha256(page).digest(),
    )


def node_entry(node: Node, page: bytes) -> Entry:
    """Return what its parent must say of a node."""
    key, part = node.orders[0]
    members = sum(entry.members for entry in node.entries)
    return Entry(
        key, part, node.preamble.offset, len(page), 0, members, hashlib.sha256(page).digest()
    )


class DirectoryBuilder:
    """Collects one entry per group and renders the nodes and the root.

    Complete nodes are kept compressed: about 50 bytes per group.
    """

    def __init__(self) -> None:
        self.members = 0
        self.groups = 0
        self._entries: list[Entry] = []
        self._full: list[tuple[Entry, int, bytes]] = []  # first entry, members, body

    def add(self, entry: Entry) -> None:
        if len(self._entries) == FANOUT:
            self._pack()
        self._entries.append(entry)
        self.members += entry.members
        self.groups += 1

    def snapshot(self) -> DirectoryBuilder:
        """Return a copy that later additions to this one do not change."""
        copy = DirectoryBuilder()
        copy.members, copy.groups = self.members, self.groups
        copy._entries, copy._full = self._entries[:], self._full[:]
        return copy

    def _pack(self) -> None:
        first = self._entries[0]
        body = encode_body({"level": 1, "entries": [list(entry) for entry in self._entries]})
        self._full.append((first, sum(entry.members for entry in self._entries), body))
        self._entries = []

    def render(
        self,
        *,
        uuid: UUID,
        offset: int,
        tar_bytes: int,
        header_length: int,
        header_digest: bytes,
    ) -> tuple[list[bytes], bytes]:
        """Return the nodes and the root as they follow each other from ``offset`` on."""
        pages: list[bytes] = []

        def place(tag: bytes, body: bytes) -> Entry:
            nonlocal offset
            page = encode_page(tag, body, uuid=uuid, sequence=len(pages), offset=offset)
            pages.append(page)
            entry = Entry(b"", 0, offset, len(page), 0, 0, hashlib.sha256(page).digest())
            offset += len(page)
            return entry

        level = 1
        if self._full:
            self._pack()
            placed = []
            for first, members, body in self._full:
                placed.append(
                    place(NODE_TAG, body)._replace(key=first.key, part=first.part, members=members)
                )
            self._entries = placed
            level = 2
        while len(self._entries) > FANOUT:
            entries, self._entries = self._entries, []
            for start in range(0, len(entries), FANOUT):
                chunk = entries[start : start + FANOUT]
                body = encode_body({"level": level, "entries": [list(entry) for entry in chunk]})
                self._entries.append(
                    place(NODE_TAG, body)._replace(
                        key=chunk[0].key, part=chunk[0].part, members=sum(e.members for e in chunk)
                    )
                )
            level += 1
        body = encode_body(
            {
                "level": level,
                "entries": [list(entry) for entry in self._entries],
                "n": self.members,
                "groups": self.groups,
                "tar": tar_bytes,
                "hash": DIGEST_NAME,
                "header": [header_length, header_digest],
                "require": [],
            }
        )
        place(ROOT_TAG, body)
        return pages[:-1], pages[-1]
