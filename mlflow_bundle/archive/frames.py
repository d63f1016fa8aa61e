"""Frames: zstd data frames, our skippable frames, the trailer and the seek table (FORMAT.md 4).

Everything here is a pure function of bytes. Three frames have exactly one rendering, so they need
no decompressor and look the same whatever library wrote them: the raw-block frame, the frame with
tar's end of archive, and the trailer.
"""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import zstandard

from mlflow_bundle.archive.limits import KIB, MIB, TAIL_BYTES, Limits
from mlflow_bundle.errors import (
    CorruptFrameError,
    LimitError,
    NotABundleError,
    TruncatedError,
    UnsupportedVersionError,
)

ZSTD_MAGIC: Final = 0xFD2FB528
SKIPPABLE_MAGIC: Final = 0x184D2A5B
SEEK_TABLE_MAGIC: Final = 0x184D2A5E
SEEKABLE_MAGIC: Final = 0x8F92EAB1
MAJOR: Final = 1
MINOR: Final = 0
FORMAT_NAME: Final = "mlbundle"
FORMAT_VERSION: Final = f"{MAJOR}.{MINOR}"

GROUP_TAG: Final = b"MLBG"
NODE_TAG: Final = b"MLBN"
ROOT_TAG: Final = b"MLBR"
SIGNATURE_TAG: Final = b"MLBS"
TRAILER_TAG: Final = b"MLBT"
TRAILER_END: Final = b"MLBUNDL1"

FLAG_VOID: Final = 0x0100
"""The member whose last part this is could not be read to its end: readers treat it as absent."""
CRITICAL_FLAGS: Final = 0xFF00

EOF_FRAME: Final = bytes.fromhex("28b52ffd 60 0003 032000 00")
"""1 024 zero bytes, tar's end of archive, as one RLE block."""
MAX_WINDOW_BYTES: Final = 8 * MIB

_INCOMPLETE = "the trailer is missing: the bundle is incomplete"
_RECOVER = "`mlflow bundle recover` saves what is whole"
_ZSTD_MAGIC_BYTES = struct.pack("<I", ZSTD_MAGIC)
_STATES_SIZE = 0xE0  # of the frame header descriptor: size flag, or single segment
_PREAMBLE = struct.Struct("<II4sBBH16sIIQQII")
PREAMBLE_BYTES: Final = 64
_TRAILER = struct.Struct("<II4sBBH16sQQQQQ32sQII8s")
TRAILER_BYTES: Final = 128
_SEEK_ENTRY = struct.Struct("<II")
_SEEK_FOOTER = struct.Struct("<IBI")
SEEK_TABLE_OVERHEAD: Final = 8 + 9
MAX_SEEK_ENTRIES: Final = (TAIL_BYTES - TRAILER_BYTES - SEEK_TABLE_OVERHEAD) // 8

_MAX_RAW_BLOCK = 128 * KIB
_PROBE_BYTES = 64 * KIB
_PROBE_FROM_BYTES = MIB
_PROBE_ALL_FROM_LEVEL = 7
_local = threading.local()


# --- zstd data frames ------------------------------------------------------------------------


def compress_frame(content: bytes, level: int) -> bytes:
    """Return ``content`` as one data frame, with raw blocks when compression would gain nothing.

    Safe to call from many threads: each has its own compressor. The result depends on the
    arguments and the library's version only.
    """
    if (len(content) >= _PROBE_FROM_BYTES or level >= _PROBE_ALL_FROM_LEVEL) and _incompressible(
        content
    ):
        return raw_frame(content)
    return _compressor(level).compress(content)


def _incompressible(content: bytes) -> bool:
    """Say whether the first and the middle 64 KiB of ``content`` both save less than 3 %."""
    if len(content) < 2 * _PROBE_BYTES:
        return False
    probe = _compressor(1)
    middle = len(content) // 2
    return all(
        len(probe.compress(content[start : start + _PROBE_BYTES])) > _PROBE_BYTES * 97 // 100
        for start in (0, middle)
    )


def _compressor(level: int) -> zstandard.ZstdCompressor:
    compressors: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("by_level", {})
    compressor = compressors.get(level)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(
            level=level, write_checksum=True, write_content_size=True, write_dict_id=False
        )
        compressors[level] = compressor
    return compressor


def raw_frame(content: bytes) -> bytes:
    """Return the one frame that stores ``content`` in raw blocks of 128 KiB, single segment.

    It has no content checksum: the library offers no XXH64, and every frame has a SHA-256.
    """
    size = len(content)
    if size < 256:
        header = b"\x20" + struct.pack("<B", size)
    elif size < 65_536 + 256:
        header = b"\x60" + struct.pack("<H", size - 256)
    else:
        header = b"\xa0" + struct.pack("<I", size)
    pieces = [_ZSTD_MAGIC_BYTES, header]
    for start in range(0, max(size, 1), _MAX_RAW_BLOCK):
        block = content[start : start + _MAX_RAW_BLOCK]
        last = start + _MAX_RAW_BLOCK >= size
        pieces.append((len(block) << 3 | last).to_bytes(3, "little"))
        pieces.append(block)
    return b"".join(pieces)


RAW_HEADER_BYTES: Final = 9
"""Enough of a raw frame to tell its length."""


def raw_frame_length(start: bytes) -> tuple[int, int]:
    """Return the content size and the length of the raw frame that begins with ``start``.

    Raises:
        NotABundleError: These are not the first bytes of a raw frame.
    """
    if len(start) < RAW_HEADER_BYTES or start[:4] != _ZSTD_MAGIC_BYTES:
        raise NotABundleError("not a bundle: the first frame is not a zstd data frame", offset=0)
    if start[4] == 0x60:
        size, header = int.from_bytes(start[5:7], "little") + 256, 7
    elif start[4] == 0xA0:
        size, header = int.from_bytes(start[5:9], "little"), 9
    else:
        raise NotABundleError("not a bundle: the first frame has no raw blocks", offset=0)
    return size, header + size + 3 * -(-size // _MAX_RAW_BLOCK)


def parse_raw_frame(frame: bytes) -> bytes:
    """Return the content of a raw frame; refuse any but the one rendering of it."""
    size, length = raw_frame_length(frame[:RAW_HEADER_BYTES])
    at = length - size - 3 * -(-size // _MAX_RAW_BLOCK)
    pieces = []
    while at < len(frame):
        pieces.append(frame[at + 3 : at + 3 + _MAX_RAW_BLOCK])
        at += 3 + _MAX_RAW_BLOCK
    content = b"".join(pieces)
    if len(content) != size or raw_frame(content) != frame:
        raise CorruptFrameError("the first frame is not a canonical raw frame", offset=0)
    return content


def max_compressed(size: int) -> int:
    """Return more than any frame of ``size`` content bytes can need."""
    return size + size // 256 + 128


def decompress_frame(frame: bytes, size: int, *, offset: int | None = None) -> bytes:
    """Decompress a frame that must hold exactly ``size`` bytes.

    The caller has compared the digest of ``frame`` and has checked ``size`` against its limits.

    Raises:
        CorruptFrameError: It is not one such frame, or it needs a dictionary.
        LimitError: It needs a window over 8 MiB.
    """
    if frame[:4] != _ZSTD_MAGIC_BYTES:
        raise CorruptFrameError("expected a zstd data frame", offset=offset)
    try:
        parameters = zstandard.get_frame_parameters(frame)
        # max_output_size would be ignored by the library, so look before decompressing.
        if parameters.content_size != size:
            raise CorruptFrameError(
                f"frame states {parameters.content_size} bytes, the index {size}", offset=offset
            )
        if parameters.dict_id:
            raise CorruptFrameError("frame needs a dictionary", offset=offset)
        if parameters.window_size > MAX_WINDOW_BYTES:
            raise LimitError("frame needs a window over 8 MiB", offset=offset)
        content = _decompressor().decompress(frame, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError, MemoryError) as exc:
        raise CorruptFrameError(f"frame does not decompress: {exc}", offset=offset) from exc
    if len(content) != size:
        raise CorruptFrameError("frame is shorter than it states", offset=offset)
    return content


def _decompressor() -> zstandard.ZstdDecompressor:
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        _local.decompressor = decompressor
    return decompressor


# --- pages: group headers, nodes and the root ------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """The first 64 bytes of a group header, node or root (FORMAT.md 4.2).

    Attributes:
        payload_length: Bytes after the first eight.
        tag: ``MLBG``, ``MLBN`` or ``MLBR``.
        minor: Minor version of the writer; readers do not act on it.
        flags: High byte critical, low byte ignorable.
        uuid: Of the bundle.
        sequence: Groups count from 0; nodes and the root count together from 0.
        frame_count: Data frames that follow a group header, else 0.
        offset: Where this page begins, from the start of the bundle.
        data_length: Bytes of the data frames that follow a group header, else 0.
        body_length: Bytes of the compressed body; digests fill the rest of the payload.
        checksum: CRC-32 of the bytes 8 to 59 and of all that follow byte 63.
    """

    payload_length: int
    tag: bytes
    minor: int
    flags: int
    uuid: UUID
    sequence: int
    frame_count: int
    offset: int
    data_length: int
    body_length: int
    checksum: int

    @property
    def length(self) -> int:
        """Bytes of the whole page."""
        return self.payload_length + 8


def encode_page(
    tag: bytes,
    body: bytes,
    digests: bytes = b"",
    *,
    uuid: UUID,
    sequence: int,
    offset: int,
    flags: int = 0,
    frame_count: int = 0,
    data_length: int = 0,
) -> bytes:
    """Return a page: preamble, compressed body, digests."""
    fields = (
        SKIPPABLE_MAGIC,
        PREAMBLE_BYTES - 8 + len(body) + len(digests),
        tag,
        MAJOR,
        MINOR,
        flags,
        uuid.bytes,
        sequence,
        frame_count,
        offset,
        data_length,
        len(body),
    )
    checksum = zlib.crc32(_PREAMBLE.pack(*fields, 0)[8:60])
    checksum = zlib.crc32(digests, zlib.crc32(body, checksum))
    return _PREAMBLE.pack(*fields, checksum) + body + digests


def parse_preamble(data: bytes, *, at: int, limits: Limits) -> Preamble:
    """Parse the first 64 bytes of the page that lies at offset ``at`` of the bundle.

    Only what tells how many bytes to read is checked; :func:`check_page` checks the rest.

    Raises:
        TruncatedError: There are fewer than 64 bytes.
        CorruptFrameError: This is no page of ours, or it has been moved.
        UnsupportedVersionError: It belongs to a later format.
        LimitError: It is larger than ``limits`` allow.
    """
    if len(data) < PREAMBLE_BYTES:
        raise TruncatedError("a page is cut short", offset=at)
    (
        magic,
        payload,
        tag,
        major,
        minor,
        flags,
        uuid,
        sequence,
        frame_count,
        offset,
        data_length,
        body_length,
        checksum,
    ) = _PREAMBLE.unpack_from(data)
    if magic != SKIPPABLE_MAGIC or tag not in (GROUP_TAG, NODE_TAG, ROOT_TAG):
        raise CorruptFrameError("expected a group header, a node or the root", offset=at)
    if major != MAJOR:
        raise UnsupportedVersionError(f"format version {major} is not supported", offset=at)
    if offset != at:
        raise CorruptFrameError(f"page says that it lies at byte {offset}", offset=at)
    if payload + 8 > limits.page_bytes:
        raise LimitError(f"page of {payload + 8} bytes", offset=at)
    if payload < PREAMBLE_BYTES - 8:
        raise CorruptFrameError("page is shorter than its preamble", offset=at)
    return Preamble(
        payload_length=payload,
        tag=tag,
        minor=minor,
        flags=flags,
        uuid=UUID(bytes=uuid),
        sequence=sequence,
        frame_count=frame_count,
        offset=offset,
        data_length=data_length,
        body_length=body_length,
        checksum=checksum,
    )


def check_page(page: bytes, *, at: int, limits: Limits) -> Preamble:
    """Check a whole page as far as that goes without decompressing its body.

    The checksum comes before all that it covers, so that damage is not taken for a later format.

    Raises:
        CorruptFrameError: Its length or checksum is wrong.
        UnsupportedVersionError: It has an unknown critical flag.
        FormatError: As :func:`parse_preamble`.
    """
    if len(page) < PREAMBLE_BYTES:
        raise CorruptFrameError("page is shorter than its preamble", offset=at)
    preamble = parse_preamble(page, at=at, limits=limits)
    if preamble.length != len(page):
        raise CorruptFrameError("page has another length than it states", offset=at)
    view = memoryview(page)
    if zlib.crc32(view[PREAMBLE_BYTES:], zlib.crc32(view[8:60])) != preamble.checksum:
        raise CorruptFrameError("page checksum is wrong", offset=at)
    known = FLAG_VOID if preamble.tag == GROUP_TAG else 0
    if preamble.flags & CRITICAL_FLAGS & ~known:
        raise UnsupportedVersionError(f"unknown critical flag {preamble.flags:#06x}", offset=at)
    if PREAMBLE_BYTES + preamble.body_length > len(page):
        raise CorruptFrameError("page is shorter than its body", offset=at)
    if preamble.frame_count > limits.page_entries:
        raise LimitError(f"group of {preamble.frame_count} frames", offset=at)
    return preamble


def parse_page(page: bytes, *, at: int, limits: Limits) -> tuple[Preamble, bytes, bytes]:
    """Return the preamble, the body (decompressed) and the digests of a whole page.

    Raises:
        FormatError: As :func:`check_page`, and CorruptFrameError when the body does not
            decompress.
    """
    preamble = check_page(page, at=at, limits=limits)
    end = PREAMBLE_BYTES + preamble.body_length
    frame = page[PREAMBLE_BYTES:end]
    try:
        size = zstandard.get_frame_parameters(frame).content_size
    except (zstandard.ZstdError, ValueError) as exc:
        raise CorruptFrameError(f"page body is no zstd frame: {exc}", offset=at) from exc
    if not frame[4] & _STATES_SIZE:
        raise CorruptFrameError("page body states no size", offset=at)
    if size > limits.body_bytes:
        raise LimitError(f"page body of {size} bytes", offset=at)
    return preamble, decompress_frame(frame, size, offset=at), page[end:]


# --- trailer and seek table ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """The commit point: a file without it is no bundle (FORMAT.md 4.6).

    Attributes:
        uuid: Of the bundle.
        length: Bytes from the start of the bundle to the end of the trailer.
        root_offset: Where the root begins.
        root_length: Bytes of the root.
        directory_offset: Where the first node begins, or the root when there is none.
        directory_length: Bytes of all nodes.
        root_digest: SHA-256 of the root.
        members: Members of the bundle.
    """

    uuid: UUID
    length: int
    root_offset: int
    root_length: int
    directory_offset: int
    directory_length: int
    root_digest: bytes
    members: int


def encode_trailer(trailer: Trailer) -> bytes:
    fields = (
        SKIPPABLE_MAGIC,
        TRAILER_BYTES - 8,
        TRAILER_TAG,
        MAJOR,
        MINOR,
        0,
        trailer.uuid.bytes,
        trailer.length,
        trailer.root_offset,
        trailer.root_length,
        trailer.directory_offset,
        trailer.directory_length,
        trailer.root_digest,
        trailer.members,
    )
    checksum = zlib.crc32(_TRAILER.pack(*fields, 0, 0, TRAILER_END)[8:112])
    return _TRAILER.pack(*fields, checksum, 0, TRAILER_END)


def parse_trailer(data: bytes, *, at: int, limits: Limits) -> Trailer:
    """Parse the 128 bytes at offset ``at`` of the bundle.

    Raises:
        TruncatedError: These are not 128 bytes that begin and end like a trailer.
        UnsupportedVersionError: The bundle has a later format.
        CorruptFrameError: The trailer contradicts itself.
        LimitError: The bundle has more members than ``limits`` allow.
    """
    if len(data) != TRAILER_BYTES or data[8:12] != TRAILER_TAG or data[120:] != TRAILER_END:
        raise TruncatedError(_INCOMPLETE, offset=at, hint=_RECOVER)
    (
        magic,
        payload,
        _,
        major,
        _,
        flags,
        uuid,
        length,
        root_offset,
        root_length,
        directory_offset,
        directory_length,
        root_digest,
        members,
        checksum,
        zero,
        _,
    ) = _TRAILER.unpack(data)
    if major != MAJOR:
        raise UnsupportedVersionError(f"format version {major} is not supported", offset=at)
    if magic != SKIPPABLE_MAGIC or payload != TRAILER_BYTES - 8 or zero:
        raise CorruptFrameError("trailer is malformed", offset=at)
    if zlib.crc32(data[8:112]) != checksum:
        raise CorruptFrameError("trailer checksum is wrong", offset=at)
    if flags & CRITICAL_FLAGS:
        raise UnsupportedVersionError(f"unknown critical flag {flags:#06x}", offset=at)
    if length != at + TRAILER_BYTES:
        raise CorruptFrameError(f"trailer belongs at the end of {length} bytes", offset=at)
    if directory_offset + directory_length != root_offset or root_offset + root_length > at:
        raise CorruptFrameError("trailer points outside the bundle", offset=at)
    if root_length > limits.page_bytes:
        raise LimitError(f"root of {root_length} bytes", offset=at)
    if limits.members is not None and members > limits.members:
        raise LimitError(f"bundle of {members} members", offset=at)
    return Trailer(
        uuid=UUID(bytes=uuid),
        length=length,
        root_offset=root_offset,
        root_length=root_length,
        directory_offset=directory_offset,
        directory_length=directory_length,
        root_digest=root_digest,
        members=members,
    )


def encode_seek_table(entries: list[tuple[int, int]]) -> bytes:
    """Return the table of (length, size) of all frames, in zstd's seekable format 0.1.0."""
    payload = b"".join([_SEEK_ENTRY.pack(length, size) for length, size in entries])
    payload += _SEEK_FOOTER.pack(len(entries), 0, SEEKABLE_MAGIC)
    return struct.pack("<II", SEEK_TABLE_MAGIC, len(payload)) + payload


def parse_seek_table(table: bytes, *, at: int) -> list[tuple[int, int]]:
    """Return the (length, size) pairs of a seek table.

    Raises:
        CorruptFrameError: It is not a whole table without checksums.
    """
    magic, payload = _SEEK_ENTRY.unpack(table[:8]) if len(table) >= 8 else (0, 0)
    if magic != SEEK_TABLE_MAGIC or payload + 8 != len(table) or len(table) < SEEK_TABLE_OVERHEAD:
        raise CorruptFrameError("expected a seek table", offset=at)
    count, descriptor, end = _SEEK_FOOTER.unpack(table[-9:])
    if end != SEEKABLE_MAGIC or descriptor or len(table) != SEEK_TABLE_OVERHEAD + 8 * count:
        raise CorruptFrameError("seek table is malformed", offset=at)
    if count > MAX_SEEK_ENTRIES:
        raise CorruptFrameError("seek table is longer than a bundle's", offset=at)
    return list(_SEEK_ENTRY.iter_unpack(table[8:-9]))


def is_cut_seek_table(table: bytes) -> bool:
    """Say whether these bytes are the beginning of a seek table and not the whole of it."""
    if len(table) < 8:
        return struct.pack("<I", SEEK_TABLE_MAGIC).startswith(table[:4])
    magic, payload = _SEEK_ENTRY.unpack(table[:8])
    longest = SEEK_TABLE_OVERHEAD + 8 * MAX_SEEK_ENTRIES
    return bool(magic == SEEK_TABLE_MAGIC and len(table) < payload + 8 <= longest)


def find_trailer(tail: bytes, size: int) -> int:
    """Return the offset of the trailer in a file of ``size`` bytes that ends with ``tail``.

    Raises:
        FormatError: The file does not end like a bundle.
    """
    end = size
    if tail[-4:] == struct.pack("<I", SEEKABLE_MAGIC) and len(tail) >= SEEK_TABLE_OVERHEAD:
        count = _SEEK_FOOTER.unpack(tail[-9:])[0]
        length = SEEK_TABLE_OVERHEAD + 8 * count
        if count > MAX_SEEK_ENTRIES or length > len(tail):
            raise CorruptFrameError("seek table is longer than a bundle's", offset=size - 9)
        parse_seek_table(tail[len(tail) - length :], at=size - length)
        end -= length
    if end < TRAILER_BYTES:
        raise TruncatedError(_INCOMPLETE, offset=0, hint=_RECOVER)
    return end - TRAILER_BYTES
