"""The one tar rendering of a member (FORMAT.md 5).

The header bytes of a member are a pure function of its index entry. Readers compare them byte for
byte and never take a name, a type or a size from the tar stream, so the index and a stock tar
program cannot be made to see different files.

Only regular files and hard links exist; parent directories are implied. A pax header precedes the
ustar header when, and only when, ustar cannot hold a value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from mlflow_bundle.errors import CorruptFrameError

BLOCK: Final = 512
REGULAR: Final = 0x30
HARD_LINK: Final = 0x31
FILE_MODE: Final = 0o644
MAX_OCTAL_SIZE: Final = 8**11 - 1
"""The largest size that eleven octal digits hold: 8 GiB less one byte."""
MAX_MTIME_NS: Final = 8**11 * 10**9 - 1
"""The last instant whose seconds eleven octal digits hold, in the year 2242."""
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)
PAX_NAME: Final = b"././@PaxHeader"

_NAME_BYTES: Final = 100
_OWNER = b"0000000\x000000000\x00"
_TAIL = b"ustar\x0000" + bytes(64) + _OWNER + bytes(167)
_SPACES = 8 * 0x20
_FIXED_SUM = sum(_TAIL) + _SPACES
_NO_TARGET = bytes(_NAME_BYTES)
_ZEROS = [bytes(n) for n in range(BLOCK)]


def padding(size: int) -> bytes:
    """Return the zeros that fill ``size`` bytes up to a whole block."""
    return _ZEROS[-size % BLOCK]


def padded(size: int) -> int:
    return size + -size % BLOCK


def needs_pax(path: str, size: int, mtime_ns: int, link: str | None) -> bool:
    """Say whether a pax header precedes the ustar header of this member."""
    return (
        len(path) > _NAME_BYTES
        or not path.isascii()
        or bool(mtime_ns % 1_000_000_000)
        or (size > MAX_OCTAL_SIZE if link is None else len(link) > 100 or not link.isascii())
    )


def header_length(path: str, size: int, mtime_ns: int, link: str | None) -> int:
    """Return ``len(render_header(...))`` without rendering in the usual case."""
    if not needs_pax(path, size, mtime_ns, link):
        return BLOCK
    return 2 * BLOCK + padded(len(_pax_records(path, size, mtime_ns, link)))


def render_header(path: str, size: int, mtime_ns: int, mode: int, link: str | None) -> bytes:
    """Return the canonical header blocks of a member.

    Args:
        path: Member path.
        size: Size in the index; the tar size of a hard link is always 0.
        mtime_ns: 0 to :data:`MAX_MTIME_NS`.
        mode: 0 to 0o777.
        link: Target path of a hard link, else None.
    """
    name = path.encode()
    target = b"" if link is None else link.encode()
    if not needs_pax(path, size, mtime_ns, link):
        kind = b"0" if link is None else b"1"
        return _ustar(name, mode, size if link is None else 0, mtime_ns, kind, target)
    records = _pax_records(path, size, mtime_ns, link)
    return b"".join(
        (
            _ustar(PAX_NAME, FILE_MODE, len(records), 0, b"x", b""),
            records,
            padding(len(records)),
            _ustar(
                _short_name(name),
                mode,
                size if link is None else 0,
                mtime_ns,
                b"0" if link is None else b"1",
                _short_name(target),
            ),
        )
    )


def _ustar(name: bytes, mode: int, size: int, mtime_ns: int, kind: bytes, target: bytes) -> bytes:
    if size <= MAX_OCTAL_SIZE:
        size_field = b"%011o\x00" % size
    else:
        size_field = b"\x80" + size.to_bytes(11, "big")
    middle, middle_sum = _mode_and_owner(mode)
    mtime_field, mtime_sum = _mtime_field(mtime_ns // 1_000_000_000)
    checksum = _FIXED_SUM + sum(name) + middle_sum + sum(size_field) + mtime_sum + kind[0]
    linkname = _NO_TARGET
    if target:
        linkname = target.ljust(_NAME_BYTES, b"\x00")
        checksum += sum(target)
    return b"%b%b%b%b%06o\x00 %b%b%b" % (
        name.ljust(_NAME_BYTES, b"\x00"),
        middle,
        size_field,
        mtime_field,
        checksum,
        kind,
        linkname,
        _TAIL,
    )


@lru_cache(maxsize=64)
def _mode_and_owner(mode: int) -> tuple[bytes, int]:
    field = b"%07o\x00" % mode + _OWNER
    return field, sum(field)


@lru_cache(maxsize=1024)
def _mtime_field(seconds: int) -> tuple[bytes, int]:
    field = b"%011o\x00" % seconds
    return field, sum(field)


def _short_name(name: bytes) -> bytes:
    """Return what the ustar field shows of a name that stands in the pax header."""
    return name[:_NAME_BYTES].decode("utf-8", "ignore").encode().rstrip(b"/")


def _pax_records(path: str, size: int, mtime_ns: int, link: str | None) -> bytes:
    records = []
    if len(path) > _NAME_BYTES or not path.isascii():
        records.append(_pax_record(b"path", path.encode()))
    if link is not None and (len(link) > _NAME_BYTES or not link.isascii()):
        records.append(_pax_record(b"linkpath", link.encode()))
    if link is None and size > MAX_OCTAL_SIZE:
        records.append(_pax_record(b"size", b"%d" % size))
    seconds, fraction = divmod(mtime_ns, 1_000_000_000)
    if fraction:
        # As a string: a float cannot hold nanoseconds since the epoch.
        records.append(_pax_record(b"mtime", (b"%d.%09d" % (seconds, fraction)).rstrip(b"0")))
    return b"".join(records)


def _pax_record(keyword: bytes, value: bytes) -> bytes:
    """``length SP keyword = value LF``, where length counts itself."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def parse_header(data: bytes, offset: int) -> tuple[str, int, int, int, str | None, int]:
    """Parse the header blocks at ``offset`` without knowing what they should be.

    The second opinion of ``verify``: it reads as a tar program does, knows nothing of the
    rendering above, and refuses whatever lies outside the canonical subset.

    Returns:
        path, tar size, mtime in ns, mode, link target or None, length of the header blocks.

    Raises:
        CorruptFrameError: The blocks are no header of the canonical subset.
    """
    try:
        return _parse_header(data, offset)
    except (ValueError, IndexError) as exc:
        raise CorruptFrameError(f"malformed tar header: {exc}") from exc


def _parse_header(data: bytes, offset: int) -> tuple[str, int, int, int, str | None, int]:
    start = offset
    pax: dict[bytes, bytes] = {}
    block = _checked_block(data, offset)
    if block[156] == 0x78:
        length = _octal(block[124:136])
        pax = _parse_pax(data[offset + BLOCK : offset + BLOCK + length])
        offset += BLOCK + padded(length)
        block = _checked_block(data, offset)
    kind = block[156]
    if kind not in (REGULAR, HARD_LINK):
        raise ValueError(f"type {kind:#x}")
    if block[265:329] != _ZEROS[64] or block[345:512] != _ZEROS[167]:
        raise ValueError("owner names or prefix")
    size = int.from_bytes(block[125:136], "big") if block[124] == 0x80 else _octal(block[124:136])
    if b"size" in pax and int(pax[b"size"]) != size:
        raise ValueError("two sizes")
    path = pax.get(b"path", block[:100].rstrip(b"\x00")).decode()
    target = pax.get(b"linkpath", block[157:257].rstrip(b"\x00")).decode()
    mtime_ns = _octal(block[136:148]) * 1_000_000_000
    if b"mtime" in pax:
        seconds, _, digits = pax[b"mtime"].partition(b".")
        mtime_ns = int(seconds) * 1_000_000_000 + int(digits.ljust(9, b"0"))
    link = target if kind == HARD_LINK else None
    return path, size, mtime_ns, _octal(block[100:108]), link, offset + BLOCK - start


def _checked_block(data: bytes, offset: int) -> bytes:
    block = bytes(data[offset : offset + BLOCK])
    if len(block) != BLOCK:
        raise ValueError("cut short")
    if block[257:265] != b"ustar\x0000":
        raise ValueError("no ustar magic")
    if _octal(block[148:154]) != sum(block) - sum(block[148:156]) + _SPACES:
        raise ValueError("checksum")
    return block


def _octal(field: bytes) -> int:
    digits = field.rstrip(b"\x00")
    if not digits.isdigit():
        raise ValueError("octal field")
    return int(digits, 8)


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit():
            raise ValueError("pax record")
        length = int(digits)
        keyword, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or data[length - 1 : length] != b"\n" or keyword in records:
            raise ValueError("pax record")
        if keyword not in (b"path", b"linkpath", b"size", b"mtime") or b"\x00" in value:
            raise ValueError("pax keyword")
        records[keyword] = value
        data = data[length:]
    return records
