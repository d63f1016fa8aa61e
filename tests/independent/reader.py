"""A second reader of bundles, written from spec/FORMAT.md alone; it imports nothing of ours.

Where it and the package disagree about a file, the text is wrong or says too little. It reads
plainly and keeps whole members in memory: it is a yardstick, not a tool. A refusal is a
:class:`Refused` with the name of the class that the text gives it.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import zstandard

ZSTD, SKIPPABLE, TABLE, TABLE_END = (
    bytes.fromhex(text) for text in ("28b52ffd", "5b2a4d18", "5e2a4d18", "b1ea928f")
)
EOF_FRAME = bytes.fromhex("28b52ffd60000303200000")
HEADER_PATH = ".mlbundle/bundle.json"
FILE, LINK, VOID = 0x30, 0x31, 0x0100
BIG_SIZE = 8_589_934_592
MAX_TIME = 8_589_934_591_999_999_999
TRUNCATED, CORRUPT, LIMIT = "TruncatedError", "CorruptFrameError", "LimitError"
UNSUPPORTED, FOREIGN, UNSAFE = "UnsupportedVersionError", "NotABundleError", "UnsafePathError"


class Refused(Exception):  # noqa: N818 - named after the text's word
    """What the text calls to refuse; ``kind`` is the class of 2.4."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind = kind


def refuse(why: str, kind: str = CORRUPT) -> NoReturn:
    raise Refused(kind, why)


def need(condition: object, why: str, kind: str = CORRUPT) -> None:
    if not condition:
        raise Refused(kind, why)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- 2.2, 4.4: zstd frames and msgpack --------------------------------------------------------


def unzstd(frame: bytes, size: int | None = None) -> bytes:
    """Decompress a data frame of ``size`` bytes, or the body of a page."""
    need(frame[:4] == ZSTD and len(frame) > 4, "no zstd frame")
    need(frame[4] & 0xE0, "frame states no size")
    try:
        stated = zstandard.get_frame_parameters(frame)
        need(size in (None, stated.content_size), "frame states another size")
        need(stated.content_size <= 1 << 26, "body", LIMIT)
        need(not stated.dict_id, "dictionary")
        need(stated.window_size <= 1 << 23, "window", LIMIT)
        data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        refuse(f"frame: {exc}")
    need(len(data) == stated.content_size, "frame is shorter than it states")
    return data


class Msgpack:
    """Decodes one canonical value and refuses every other form of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._values = 1

    def decode(self) -> dict[str, Any]:
        value = self._value(0)
        need(self._at == len(self._data) and isinstance(value, dict), "body is not one map")
        assert isinstance(value, dict)
        return value

    def _take(self, length: int) -> bytes:
        taken = self._data[self._at : self._at + length]
        need(len(taken) == length, "body is cut")
        self._at += length
        return taken

    def _number(self, width: int, least: int) -> int:
        number = int.from_bytes(self._take(width), "big")
        need(number >= least, "number in a long form")
        return number

    def _value(self, depth: int) -> Any:
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0xA0 or first >= 0xDC:
            return self._container(first, depth + 1)
        if first < 0xC0:
            return self._text(first & 31)
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in (0xC4, 0xC5, 0xC6):
            return self._take(self._number(1 << first - 0xC4, (0, 256, 65536)[first - 0xC4]))
        if first == 0xCB:
            return struct.unpack(">d", self._take(8))[0]
        if 0xCC <= first <= 0xCF:
            return self._number(1 << first - 0xCC, (128, 256, 65536, 1 << 32)[first - 0xCC])
        if 0xD0 <= first <= 0xD3:
            number = int.from_bytes(self._take(1 << first - 0xD0), "big", signed=True)
            need(number < (-32, -128, -32768, -(1 << 31))[first - 0xD0], "number in a long form")
            return number
        if first in (0xD9, 0xDA, 0xDB):
            return self._text(self._number(1 << first - 0xD9, (32, 256, 65536)[first - 0xD9]))
        refuse(f"msgpack type {first:#x}")

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as exc:
            refuse(f"text: {exc}")

    def _container(self, first: int, depth: int) -> Any:
        is_map = first < 0x90 or first >= 0xDE
        if first < 0xA0:
            count = first & 15
        else:
            wide = first & 1
            count = int.from_bytes(self._take(4 if wide else 2), "big")
        self._values += count * (2 if is_map else 1)
        need(self._values <= 65536 and depth <= 16, "values or nesting of a body", LIMIT)
        need(first < 0xA0 or count >= (65536 if wide else 16), "length in a long form")
        if not is_map:
            return [self._value(depth) for _ in range(count)]
        result = {}
        for _ in range(count):
            key = self._value(depth)
            need(type(key) is str and key not in result, "map key")
            result[key] = self._value(depth)
        return result


# --- 6: paths ---------------------------------------------------------------------------------

FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:<>"|?*]')
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\Z")


def is_device(component: str) -> bool:
    return bool(DEVICE.match(component.partition(".")[0].rstrip(" ").lower()))


def check_path(path: str) -> None:
    components = path.split("/")
    safe = (
        path
        and len(path.encode()) <= 4096
        and not FORBIDDEN.search(path)
        and unicodedata.is_normalized("NFC", path)
        and all(
            component
            and len(component.encode()) <= 255
            and (
                component[0] != "." or (number == 0 < len(components) - 1 and component[1:] == DOT)
            )
            and component[-1] not in ". "
            and not is_device(component)
            for number, component in enumerate(components)
        )
    )
    need(safe, f"{path[:80]!r}", UNSAFE)


DOT = "mlbundle"


def key_of(path: str) -> bytes:
    *directories, last = path.encode().split(b"/")
    return b"".join([b"\1" + name + b"\0" for name in directories]) + b"\2" + last


def _percent(text: str) -> str:
    return "".join([f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass")])


def _hashed(beginning: str, name: str) -> str:
    cut = beginning.partition("%~")[0].encode()[:166].decode("utf-8", "ignore")
    digest = sha256(name.encode("utf-8", "surrogatepass")).hex()[:32]
    return re.sub(r"%[0-9A-F]?\Z", "", cut) + "%~" + digest


def escape(name: str, reserved: tuple[str, ...] = ()) -> str:
    """Escape one component (6.3)."""
    result = re.sub(
        r'[%/\x00-\x1f\x7f\\:<>"|?*\ud800-\udfff]', lambda match: _percent(match[0]), name
    )
    if result and (result[0] == "." or is_device(result) or result in reserved):
        result = _percent(result[0]) + result[1:]
    if result and result[-1] in ". ":
        result = result[:-1] + _percent(result[-1])
    if not unicodedata.is_normalized("NFC", result):
        result = "".join([char if char.isascii() else _percent(char) for char in result])
    return result if result and len(result.encode()) <= 200 else _hashed(result, name)


def escape_path(path: str) -> str:
    components = [escape(component) for component in path.split("/")]
    result = "/".join(components)
    return result if len(result.encode()) <= 3584 else _hashed(components[0], path)


# --- 5: the canonical tar rendering, and tar read without knowing it --------------------------


def _ustar(name: bytes, mode: int, size: int, seconds: int, flag: bytes, link: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"%07o\0" % mode + b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size if size < BIG_SIZE else b"\x80" + size.to_bytes(11, "big")
    block[136:157] = b"%011o\0" % seconds + b" " * 8 + flag
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    block[329:345] = b"0000000\0" * 2
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _fits(path: str) -> bool:
    return path.isascii() and len(path) <= 100


def _short(path: str) -> bytes:
    raw = path.encode()
    return raw if _fits(path) else raw[:100].decode("utf-8", "ignore").rstrip("/").encode()


def tar_header(path: str, mode: int, mtime: int, size: int, target: str | None) -> bytes:
    seconds, fraction = divmod(mtime, 10**9)
    size = size if target is None else 0
    records = [("path", path)] if not _fits(path) else []
    if target is not None and not _fits(target):
        records.append(("linkpath", target))
    if size >= BIG_SIZE:
        records.append(("size", str(size)))
    if fraction:
        records.append(("mtime", f"{seconds}.{fraction:09d}".rstrip("0")))
    pax = b""
    for word, value in records:
        rest = f" {word}={value}\n".encode()
        length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
        pax += str(length).encode() + rest
    flag = b"0" if target is None else b"1"
    main = _ustar(_short(path), mode, size, seconds, flag, _short(target or ""))
    if not pax:
        return main
    first = _ustar(b"././@PaxHeader", 0o644, len(pax), 0, b"x", b"")
    return first + pax + bytes(-len(pax) % 512) + main


def parse_tar(data: bytes) -> tuple[str, int, int, int, str | None, int]:
    """Return path, mode, mtime, size, target and the length of the header."""

    def block(at: int) -> bytes:
        found = data[at : at + 512]
        need(len(found) == 512, "tar header is cut")
        total = sum(found) - sum(found[148:156]) + 256
        need(found[148:156] == b"%06o\0 " % total, "tar checksum")
        return found

    def octal(field: bytes) -> int:
        need(re.fullmatch(rb"[0-7]+\0", field), "tar number")
        return int(field[:-1], 8)

    try:
        pax: dict[str, str] = {}
        head, at = block(0), 0
        if head[156:157] == b"x":
            length = octal(head[124:136])
            raw, at = data[512 : 512 + length], 512 + length + -length % 512
            while raw:
                match = re.match(rb"([1-9][0-9]{0,7}) ([a-z]+)=", raw)
                need(match and int(match[1]) <= len(raw), "pax record")
                assert match
                end = int(match[1])
                need(raw[end - 1 : end] == b"\n", "pax record")
                pax[match[2].decode()] = raw[match.end() : end - 1].decode()
                raw = raw[end:]
            head = block(at)
        need(head[156] in (FILE, LINK), "tar type")
        size = octal(head[124:136]) if head[124] < 0x80 else int.from_bytes(head[125:136], "big")
        need(pax.get("size", str(size)) == str(size), "two tar sizes")
        mtime = octal(head[136:148]) * 10**9
        if "mtime" in pax:
            seconds, _, fraction = pax["mtime"].partition(".")
            mtime = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        path = pax.get("path", head[:100].rstrip(b"\0").decode())
        target = pax.get("linkpath", head[157:257].rstrip(b"\0").decode())
    except ValueError as exc:
        refuse(f"tar header: {exc}")
    link = target if head[156] == LINK else None
    return path, octal(head[100:108]), mtime, size, link, at + 512


# --- 4.1: header frame ------------------------------------------------------------------------


def check_start(start: bytes) -> None:
    """Refuse what does not begin like a bundle; ``start`` is 34 bytes or all there are."""
    names = (HEADER_PATH.encode() + b"\0", b"././@PaxHeader\0")
    similar = start[:5] in (ZSTD + b"\x60", ZSTD + b"\xa0")
    need(similar and start[12 if start[4] & 0x80 else 10 :].startswith(names), "start", FOREIGN)


def raw_frame(content: bytes) -> bytes:
    size = len(content)
    out = [ZSTD, b"\x60" + struct.pack("<H", size - 256)]
    if size > 65791:
        out[1] = b"\xa0" + struct.pack("<I", size)
    for at in range(0, size, 131072):
        block = content[at : at + 131072]
        out += [(len(block) << 3 | (at + len(block) == size)).to_bytes(3, "little"), block]
    return b"".join(out)


def read_header_frame(read: Callable[[int], bytes], start: bytes) -> tuple[bytes, int, bytes]:
    """Return the frame, its decompressed size and the content of bundle.json."""
    check_start(start)
    wide = start[4] == 0xA0
    size = int.from_bytes(start[5:9], "little") if wide else start[5] + 256 * start[6] + 256
    need(size <= 1_050_112, "header frame", LIMIT)
    at = 9 if wide else 7
    frame = start + read(at + size + 3 * -(-size // 131072) - len(start))
    content = b"".join([frame[n + 3 : n + 131075] for n in range(at, len(frame), 131075)])
    need(len(content) >= 256 and raw_frame(content) == frame, "header frame is not canonical")
    path, mode, mtime, length, target, header = parse_tar(content)
    need(length <= 1 << 20, HEADER_PATH, LIMIT)
    document = content[header : header + length]
    need((path, mode, target) == (HEADER_PATH, 0o644, None), "first member")
    record = tar_header(path, mode, mtime, length, None) + document + bytes(-length % 512)
    need(content == record, "first member's rendering")
    return frame, size, document


def check_document(raw: bytes, uuid: bytes | None) -> None:
    """Check what 4.1 says of bundle.json."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise ValueError("a key twice")
        return result

    def constant(token: str) -> NoReturn:
        raise ValueError(token)

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0

    try:
        found = json.loads(
            raw.decode(), object_pairs_hook=pairs, parse_constant=constant, parse_int=float
        )
        need(isinstance(found, dict) and depth(found) <= 64, "bundle.json")
    except (ValueError, RecursionError) as exc:
        refuse(f"bundle.json: {exc}")
    need(found.get("format", "mlbundle") == "mlbundle", "format", FOREIGN)
    version = found.get("format_version", "1.0")
    need(isinstance(version, str) and version.split(".")[0] == "1", "version", UNSUPPORTED)
    required = found.get("require", [])
    need(isinstance(required, list), "require")
    need(all(isinstance(name, str) for name in required), "require")
    need(not required, f"requires {required}", UNSUPPORTED)
    need(found.get("prerequisites", []) == [], "prerequisites", UNSUPPORTED)
    if uuid is not None and found.get("uuid") is not None:
        text = uuid.hex()
        dashed = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        need(found["uuid"] == dashed, "uuid of bundle.json")


# --- 4.2 to 4.6: pages and trailer ------------------------------------------------------------


@dataclass
class Page:
    """A page whose body is decoded."""

    tag: bytes
    flags: int
    uuid: bytes
    sequence: int
    frames: int
    offset: int
    data_length: int
    body: dict[str, Any]
    digests: bytes
    length: int
    digest: bytes

    def get(self, key: str, kind: type) -> Any:
        return typed(self.body.get(key), kind, key)

    def column(self, key: str, code: str, count: int) -> tuple[int, ...]:
        raw = self.get(key, bytes)
        need(len(raw) == count * struct.calcsize("<" + code), f"length of column {key}")
        return struct.unpack(f"<{count}{code}", raw)


def typed(value: Any, kind: type, key: str) -> Any:
    need(type(value) is kind, f"type of {key}")
    need(not isinstance(value, int) or 0 <= value < 1 << 63, f"range of {key}")
    return value


def check_preamble(start: bytes, offset: int) -> int:
    """Check what is checked before the rest is read; return the length of the page."""
    need(start[:4] == SKIPPABLE and start[8:12] in (b"MLBG", b"MLBN", b"MLBR"), "no page")
    need(start[12] == 1, "major version", UNSUPPORTED)
    need(int.from_bytes(start[40:48], "little") == offset, "page at another offset")
    length = int.from_bytes(start[4:8], "little") + 8
    need(length <= 1 << 24, "page", LIMIT)
    need(length >= 64, "short page")
    return length


def parse_page(raw: bytes, offset: int) -> Page:
    need(len(raw) >= 64, "short page")
    need(check_preamble(raw, offset) == len(raw), "length of a page")
    need(zlib.crc32(raw[8:60] + raw[64:]) == int.from_bytes(raw[60:64], "little"), "checksum")
    tag, flags, uuid, sequence, frames, _, data_length, body_length = struct.unpack(
        "<4s2xH16sIIQQI", raw[8:60]
    )
    known = VOID if tag == b"MLBG" else 0
    need(not flags & 0xFF00 & ~known, f"flags {flags:#x}", UNSUPPORTED)
    end = 64 + body_length
    need(end <= len(raw), "body length")
    need(frames <= 4096, "frames of a group", LIMIT)
    body = Msgpack(unzstd(raw[64:end])).decode()
    for key in body:
        need(not key.startswith("!"), f"critical key {key}", UNSUPPORTED)
    need(tag == b"MLBG" or (frames, data_length, end) == (0, 0, len(raw)), "preamble")
    return Page(
        tag,
        flags,
        uuid,
        sequence,
        frames,
        offset,
        data_length,
        body,
        raw[end:],
        len(raw),
        sha256(raw),
    )


@dataclass
class Member:
    path: str
    key: bytes
    mode: int
    mtime: int
    size: int
    frame: int
    offset: int
    target: str | None
    digest: bytes
    """Of the content, or of the part that the group holds."""

    @property
    def header(self) -> bytes:
        return tar_header(self.path, self.mode, self.mtime, self.size, self.target)

    @property
    def identity(self) -> tuple[object, ...]:
        return self.path, self.size, self.mtime, self.mode


Entry = tuple[bytes, int, int, int, int, int, bytes]


@dataclass
class Group:
    page: Page
    members: list[Member]
    csize: tuple[int, ...]
    usize: tuple[int, ...]
    tar: int
    span: tuple[int, int] | None
    whole: bytes | None
    """Digest of the whole member, in its last part."""
    frame_digests: list[bytes]

    @property
    def start(self) -> int:
        return self.span[0] if self.span else 0

    @property
    def last(self) -> bool:
        return self.span is None or self.whole is not None

    @property
    def void(self) -> bool:
        return bool(self.page.flags & VOID)

    def entry(self) -> Entry:
        """What the directory must say of this group."""
        page = self.page
        count = len(self.members) if self.span is None else int(self.last and not self.void)
        first = self.members[0].key
        return first, self.start, page.offset, page.length, page.data_length, count, page.digest

    def record(self, member: Member) -> tuple[bytes, int, int]:
        """Return the tar header and the lengths of content and padding that lie here."""
        header = b"" if self.start else member.header
        if member.target is not None:
            return header, 0, 0
        size = self.span[1] if self.span else member.size
        return header, size, -member.size % 512 if self.last else 0

    def content(self, member: Member, frame: Callable[[int], bytes], *, full: bool) -> bytes:
        """Return the content that lies here, checked."""
        header, size, fill = self.record(member)
        total = len(header) + size + fill
        if len(self.members) > 1:
            record = frame(member.frame)[member.offset : member.offset + total]
        else:
            record = b"".join([frame(number) for number in range(len(self.usize))])
            need(fill < self.usize[-1] or not fill, "padding in a frame of its own")
        need(len(record) == total and record.startswith(header), f"tar header of {member.path}")
        if full and header:
            stated = 0 if member.target is not None else member.size
            parsed = (member.path, member.mode, member.mtime, stated, member.target, len(header))
            need(parse_tar(record) == parsed, f"tar header of {member.path}, parsed")
        content = record[len(header) : len(header) + size]
        need(member.target is not None or sha256(content) == member.digest, "content digest")
        need(not any(record[len(header) + size :]), f"padding of {member.path}")
        return content


def decode_group(page: Page) -> Group:
    need(page.tag == b"MLBG", "no group header")
    n, k = page.get("n", int), page.frames
    need(n and k, "empty group")
    need(n <= 4096, "members of a group", LIMIT)
    need(len(page.digests) == 32 * (n + k), "digests of a group")
    digests = [page.digests[at : at + 32] for at in range(0, 32 * (n + k), 32)]
    try:
        paths = page.get("path", bytes).decode().split("\0")
    except UnicodeDecodeError as exc:
        refuse(f"path: {exc}")
    need(len(paths) == n, "column path")
    csize, usize = page.column("csize", "I", k), page.column("usize", "I", k)
    need(max(usize) <= 1 << 23, "size of a frame", LIMIT)
    for length, size in zip(csize, usize, strict=True):
        need(size and 9 <= length <= size + size // 256 + 128, "length of a frame")
    need(sum(csize) == page.data_length, "data length")
    targets: dict[int, str] = {}
    before = -1
    for item in page.get("link", list):
        need(type(item) is list and len(item) == 2 and type(item[1]) is str, "link")
        need(before < typed(item[0], int, "link"), "link's number")
        before = item[0]
        targets[before] = item[1]
    group = Group(page, [], csize, usize, page.get("tar", int), None, None, digests[n:])
    _add_members(group, paths, targets, digests)
    _check_span(group)
    _check_records(group)
    return group


def _add_members(
    group: Group, paths: list[str], targets: dict[int, str], digests: list[bytes]
) -> None:
    page, n = group.page, len(paths)
    types, modes = page.column("type", "B", n), page.column("mode", "H", n)
    deltas, sizes = page.column("mtime", "q", n), page.column("size", "Q", n)
    frames, offsets = page.column("frame", "I", n), page.column("off", "I", n)
    mtime, before = 0, b""
    for number, path in enumerate(paths):
        check_path(path)
        key = key_of(path)
        need(key > before, "paths are not in order")
        need(not f"{path}/".startswith(f"{HEADER_PATH}/"), "header in an index")
        before = key
        need(types[number] in (FILE, LINK), "type")
        target = targets.get(number)
        need((target is None) == (types[number] == FILE), "link without target or the reverse")
        if target is not None:
            check_path(target)
            need(key_of(target) < key, "link to a later member")
        mtime += deltas[number]
        need(0 <= mtime <= MAX_TIME and modes[number] <= 0o777 and sizes[number] < 1 << 63, "range")
        group.members.append(
            Member(
                path,
                key,
                modes[number],
                mtime,
                sizes[number],
                frames[number],
                offsets[number],
                target,
                digests[number],
            )
        )
    need(not targets or max(targets) < n, "target without a link")


def _check_span(group: Group) -> None:
    page, member = group.page, group.members[0]
    if "span" in page.body:
        span = page.get("span", list)
        need(len(span) == 2, "span")
        start, length = typed(span[0], int, "span"), typed(span[1], int, "span")
        need(len(group.members) == 1 and member.target is None, "span")
        need(0 < length < member.size and start + length <= member.size, "span")
        group.span = start, length
        if start + length == member.size:
            group.whole = page.get("digest", bytes)
            need(len(group.whole or b"") == 32, "digest")
    need(("digest" in page.body) == (group.whole is not None), "digest not in the last part")
    need(not group.void or group.whole is not None, "void not in the last part")


def _check_records(group: Group) -> None:
    frame = offset = 0
    for member in group.members:
        need(frame < len(group.usize), "more members than frames hold")
        need((member.frame, member.offset) == (frame, offset), "gap or overlap of tar records")
        header, size, fill = group.record(member)
        offset += len(header) + size + fill
        if len(group.members) == 1:
            need(offset == sum(group.usize) and group.usize[0] >= len(header), "record and frames")
            return
        need(offset <= group.usize[frame], "tar record is divided")
        if offset == group.usize[frame]:
            frame, offset = frame + 1, 0
    need((frame, offset) == (len(group.usize), 0), "frames hold more than members")


def decode_entries(page: Page) -> tuple[int, list[Entry]]:
    level, raw = page.get("level", int), page.get("entries", list)
    need(level, "level 0")
    need(level <= (4 if page.tag == b"MLBR" else 3), "levels", LIMIT)
    need(len(raw) <= 4096, "entries", LIMIT)
    need(raw or (page.tag == b"MLBR" and level == 1), "no entries")
    entries: list[Entry] = []
    end = 0
    for item in raw:
        need(type(item) is list and len(item) == 7, "entry")
        kinds = (bytes, int, int, int, int, int, bytes)
        entry: Any = tuple(typed(v, kind, "entry") for v, kind in zip(item, kinds, strict=True))
        need(len(entry[6]) == 32 and (level == 1 or not entry[4]), "entry")
        need(not entries or (entries[-1][:2] < entry[:2] and end == entry[2]), "order of entries")
        need(entry[3] <= 1 << 24, "page", LIMIT)
        end = sum(entry[2:5])
        entries.append(entry)
    need(end <= page.offset, "entry behind its node")
    return level, entries


def node_entry(page: Page, entries: list[Entry]) -> Entry:
    members = sum([entry[5] for entry in entries])
    return (*entries[0][:2], page.offset, page.length, 0, members, page.digest)


@dataclass
class Root:
    page: Page
    level: int
    entries: list[Entry]
    members: int
    groups: int
    tar: int
    header: tuple[int, bytes]


def decode_root(page: Page) -> Root:
    need(page.tag == b"MLBR", "no root")
    need(page.body.get("hash") == "sha256", "hash", UNSUPPORTED)
    required = page.get("require", list)
    need(all(type(name) is str for name in required), "require")
    need(not required, f"requires {required}", UNSUPPORTED)
    level, entries = decode_entries(page)
    header = page.get("header", list)
    need(len(header) == 2, "header")
    pair = typed(header[0], int, "header"), typed(header[1], bytes, "header")
    need(len(pair[1]) == 32, "header")
    n, groups, tar = (page.get(key, int) for key in ("n", "groups", "tar"))
    need(n == sum([entry[5] for entry in entries]), "members of the root")
    return Root(page, level, entries, n, groups, tar, pair)


@dataclass
class Trailer:
    uuid: bytes
    length: int
    root: int
    root_length: int
    directory: int
    directory_length: int
    digest: bytes
    members: int


def parse_trailer(raw: bytes, end: int) -> Trailer:
    """Parse the trailer that ends at ``end``."""
    found = len(raw) == 128 and raw[8:12] == b"MLBT" and raw[120:] == b"MLBUNDL1"
    need(found, "no trailer", TRUNCATED)
    need(raw[12] == 1, "major version", UNSUPPORTED)
    need(raw[:8] == SKIPPABLE + b"\x78\0\0\0" and raw[116:120] == bytes(4), "trailer")
    need(zlib.crc32(raw[8:112]) == int.from_bytes(raw[112:116], "little"), "checksum")
    need(raw[15] == 0, "critical flags", UNSUPPORTED)
    trailer = Trailer(*struct.unpack("<16s5Q32sQ", raw[16:112]))
    need(trailer.length == end, "length of the trailer")
    need(trailer.directory + trailer.directory_length == trailer.root, "directory")
    need(trailer.root + trailer.root_length <= end - 128, "root leads outside")
    need(trailer.root_length <= 1 << 24, "root", LIMIT)
    return trailer


def check_table(table: bytes) -> list[tuple[int, int]]:
    """Check the form of a seek table and return its entries."""
    count = int.from_bytes(table[-9:-5], "little")
    need(len(table) >= 17 and count <= 8173 and len(table) == 17 + 8 * count, "seek table")
    need(table[:8] == TABLE + struct.pack("<I", 8 * count + 9), "seek table")
    need(table[-5:] == b"\0" + TABLE_END, "seek table")
    return list(struct.iter_unpack("<II", table[8:-9]))


# --- 8.3, 8.4: streaming and the full check ---------------------------------------------------


class Stream:
    """Reads a bundle from its first byte to its last.

    Args:
        stream: Need not seek.
        full: Whether to check what needs memory for every member (8.4).
    """

    def __init__(self, stream: BinaryIO, *, full: bool = False) -> None:
        self._stream = stream
        self._full = full
        self._at = 0
        self._uuid: bytes | None = None
        self._document = b""
        self._frames: list[tuple[int, int]] = []
        self._known: dict[str, tuple[object, ...]] = {}
        self._directories = {".mlbundle"}

    def _some(self, length: int) -> bytes:
        pieces = []
        while length and (piece := self._stream.read(length)):
            pieces.append(piece)
            length -= len(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def _read(self, length: int) -> bytes:
        data = self._some(length)
        need(len(data) == length, "the stream ends early", TRUNCATED)
        return data

    def _page(self, start: bytes) -> Page:
        offset = self._at - len(start)
        start += self._read(64 - len(start))
        page = parse_page(start + self._read(check_preamble(start, offset) - 64), offset)
        self._frames.append((page.length, 0))
        return page

    def _identify(self, page: Page, sequence: int) -> None:
        if self._uuid is None:
            self._uuid = page.uuid
            check_document(self._document, page.uuid)
        need((page.uuid, page.sequence) == (self._uuid, sequence), "uuid or sequence of a page")

    def __iter__(self) -> Iterator[tuple[Member, bytes | None]]:
        """Yield members with their content; None for one that turned out void."""
        frame, tar, self._document = read_header_frame(self._read, self._some(34))
        check_document(self._document, None)
        self._frames.append((len(frame), tar))
        entries: list[Entry] = []
        last = b"", -1
        while (start := self._read(8)) != EOF_FRAME[:8]:
            group = decode_group(self._page(start))
            self._identify(group.page, len(entries))
            need(group.tar == tar, "tar offset of a group")
            entry = group.entry()
            need(entry[:2] > last, "order of groups")
            last = group.members[-1].key, entry[1]
            tar += sum(group.usize)
            entries.append(entry)
            yield from self._members(group)
        need(self._read(3) == EOF_FRAME[8:], "end of archive")
        need(self._parts is None, "a part is missing")
        self._frames.append((11, 1024))
        self._directory(entries, tar + 1024, (len(frame), sha256(frame)))

    _parts: tuple[Member, list[bytes], int] | None = None

    def _members(self, group: Group) -> Iterator[tuple[Member, bytes | None]]:
        number, data = -1, b""

        def frame(wanted: int) -> bytes:
            nonlocal number, data
            while number < wanted:
                number += 1
                raw = self._read(group.csize[number])
                need(sha256(raw) == group.frame_digests[number], "digest of a frame")
                data = unzstd(raw, group.usize[number])
                self._frames.append((len(raw), len(data)))
            return data

        first = group.members[0]
        if self._parts is None:
            need(group.start == 0, "a part is missing")
            if group.span:
                self._parts = first, [], 0
        if self._parts is not None:
            begun, pieces, position = self._parts
            need(group.span and group.start == position, "a part is missing")
            need(begun.identity == first.identity, "a part of another member")
            pieces.append(group.content(first, frame, full=self._full))
            self._parts = begun, pieces, position + len(pieces[-1])
            if group.last:
                self._parts = None
                content = b"".join(pieces)
                need(sha256(content) == group.whole, "content digest")
                first.digest = group.whole or b""
                self._check_place(first, void=group.void)
                yield first, None if group.void else content
            return
        for member in group.members:
            content = group.content(member, frame, full=self._full)
            self._check_place(member)
            yield member, content

    def _check_place(self, member: Member, *, void: bool = False) -> None:
        if not self._full:
            return
        pieces = member.path.split("/")
        self._directories.update(["/".join(pieces[:n]) for n in range(1, len(pieces))])
        need(member.path not in self._directories, "both a file and a directory")
        alike = (member.size, member.digest, member.mode, member.mtime)
        if member.target is not None:
            need(self._known.get(member.target) == alike, "target of a link")
        elif not void:
            self._known[member.path] = alike

    def _directory(self, below: list[Entry], tar: int, header: tuple[int, bytes]) -> None:
        """Compare nodes, root, trailer and seek table with what was read."""
        directory, groups, members = self._at, len(below), sum([entry[5] for entry in below])
        above: list[Entry] = []
        level = 1
        sequence = 0
        while True:
            page = self._page(self._read(12))
            if page.tag == b"MLBR":
                break
            need(page.tag == b"MLBN", "no node")
            stated, entries = decode_entries(page)
            self._identify(page, sequence)
            if stated == level + 1 and not below:
                below, above, level = above, [], stated
            need(stated == level and below[: len(entries)] == entries, "node differs")
            del below[: len(entries)]
            above.append(node_entry(page, entries))
            sequence += 1
        root = decode_root(page)
        self._identify(page, sequence)
        if root.level == level + 1 and not below:
            below, above, level = above, [], root.level
        need((root.level, root.entries, above) == (level, below, []), "root differs")
        found = members, groups, tar, header
        need((root.members, root.groups, root.tar, root.header) == found, "root's numbers")
        start = self._read(12)
        need(start[8:12] != b"MLBS", "signature", UNSUPPORTED)
        trailer = parse_trailer(start + self._read(116), self._at)
        need(
            trailer
            == Trailer(
                page.uuid,
                self._at,
                page.offset,
                page.length,
                directory,
                page.offset - directory,
                page.digest,
                members,
            ),
            "trailer differs",
        )
        self._frames.append((128, 0))
        self._table()

    def _table(self) -> None:
        table = self._some(65536)
        if not table:
            return
        stated = int.from_bytes(table[4:8], "little") + 8
        cut = len(table) < 8 or len(table) < stated <= 17 + 8 * 8173
        need(not (cut and TABLE.startswith(table[:4])), "seek table is cut", TRUNCATED)
        entries = check_table(table)
        need(not self._full or entries == self._frames, "seek table differs")


# --- 8.1, 8.2: random access ------------------------------------------------------------------


class Bundle:
    """Random access to a bundle in a seekable stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._groups: dict[int, Group] = {}
        size = stream.seek(0, 2)
        try:
            self.trailer = self._find_trailer(size)
        except Refused as exc:
            if exc.kind in (TRUNCATED, CORRUPT):
                check_start(self._at(0, min(34, size)))
            raise
        trailer = self.trailer
        raw = self._at(trailer.root, trailer.root_length)
        need(sha256(raw) == trailer.digest, "digest of the root")
        self.root = root = decode_root(parse_page(raw, trailer.root))
        need((root.page.uuid, root.members) == (trailer.uuid, trailer.members), "root and trailer")
        if trailer.root + len(raw) != trailer.length - 128:
            tag = self._at(trailer.root + len(raw), 12)[8:]
            refuse("between root and trailer", UNSUPPORTED if tag == b"MLBS" else CORRUPT)
        length, digest = root.header
        need(length <= 1_050_148, "header frame", LIMIT)
        need(length <= trailer.directory - 11, "header frame leads outside")
        frame = self._at(0, length)
        need(sha256(frame) == digest, "digest of the header frame")
        again, _, self.document = read_header_frame(
            lambda count: frame[34 : 34 + count], frame[:34]
        )
        need(again == frame, "header frame")
        check_document(self.document, trailer.uuid)

    def _at(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(length)
        need(len(data) == length, "beyond the end", TRUNCATED)
        return data

    def _find_trailer(self, size: int) -> Trailer:
        tail = self._at(max(size - 65536, 0), min(size, 65536))
        end = len(tail)
        if tail.endswith(TABLE_END) and end >= 17:
            length = 17 + 8 * int.from_bytes(tail[-9:-5], "little")
            need(length <= end, "seek table")
            check_table(tail[end - length :])
            end -= length
        return parse_trailer(tail[max(end - 128, 0) : end], size - len(tail) + end)

    def _page(self, entry: Entry, start: int, end: int) -> Page:
        need(start <= entry[2] and sum(entry[2:5]) <= end, "entry leads outside")
        raw = self._at(entry[2], entry[3])
        need(sha256(raw) == entry[6], "digest of a page")
        page = parse_page(raw, entry[2])
        need(page.uuid == self.trailer.uuid, "page of another bundle")
        return page

    def _node(self, entry: Entry, level: int) -> list[Entry]:
        page = self._page(entry, self.trailer.directory, self.trailer.root)
        need(page.tag == b"MLBN", "no node")
        found, entries = decode_entries(page)
        need((found, node_entry(page, entries)) == (level, entry), "node and its entry")
        return entries

    def _group(self, entry: Entry) -> Group:
        group = self._groups.get(entry[2])
        if group is None:
            page = self._page(entry, self.root.header[0], self.trailer.directory - 11)
            group = self._groups[entry[2]] = decode_group(page)
        need(group.entry() == entry, "group and its entry")
        return group

    def _find(self, key: bytes, start: int) -> Group | None:
        entries = self.root.entries
        for level in range(self.root.level, 0, -1):
            number = bisect.bisect_right([entry[:2] for entry in entries], (key, start)) - 1
            if number < 0:
                return None
            if level == 1:
                return self._group(entries[number])
            entries = self._node(entries[number], level - 1)
        return None

    def _end(self, group: Group) -> Group:
        """Return the last part of the member that ``group`` begins."""
        need(group.start == 0, "a part is missing")
        last = self._find(group.members[0].key, (1 << 63) - 1)
        assert last
        need(last.span and last.last, "a part is missing")
        need(last.members[0].identity == group.members[0].identity, "a part is missing")
        return last

    def _lookup(self, path: str) -> tuple[Group, Member, bytes]:
        """Return the group where a member begins, the member and the digest of the whole."""
        key = key_of(path)
        group = self._find(key, 0)
        for member in group.members if group else []:
            if group and member.key == key:
                if group.span is None:
                    return group, member, member.digest
                last = self._end(group)
                if not last.void:
                    return group, member, last.whole or b""
        raise KeyError(path)

    def _parts(self, group: Group, member: Member) -> Iterator[Group]:
        yield group
        while not group.last:
            following = group.start + (group.span or (0, 0))[1]
            found = self._find(member.key, following)
            assert found
            need(found.span and found.start == following, "a part is missing")
            need(found.members[0].identity == member.identity, "a part of another member")
            group = found
            yield group

    def read(self, path: str) -> bytes:
        """Return the content of a member; KeyError when it is absent or void."""
        group, member, digest = self._lookup(path)
        if member.target is not None:
            link = member
            try:
                group, member, whole = self._lookup(member.target)
            except KeyError:
                refuse("target of a link is missing")
            alike = (member.target, member.size, whole, member.mode, member.mtime)
            need(alike == (None, link.size, digest, link.mode, link.mtime), "target of a link")
        content = b"".join([self._content(part, member) for part in self._parts(group, member)])
        need(sha256(content) == digest, "content digest")
        return content

    def _content(self, group: Group, member: Member) -> bytes:
        def frame(number: int) -> bytes:
            before = sum(group.csize[:number])
            offset = group.page.offset + group.page.length + before
            raw = self._at(offset, group.csize[number])
            need(sha256(raw) == group.frame_digests[number], "digest of a frame")
            return unzstd(raw, group.usize[number])

        held = group.members[0] if group.span else member
        return group.content(held, frame, full=False)

    def paths(self) -> Iterator[str]:
        """Yield the paths of all members in order."""
        yield from self._walk(self.root.entries, self.root.level, None)

    def _walk(
        self, entries: list[Entry], level: int, bound: tuple[bytes, int] | None
    ) -> Iterator[str]:
        """Yield the paths below some entries, all of which lie before ``bound``."""
        for entry, following in zip(entries, [*entries, None][1:], strict=True):
            behind = bound if following is None else following[:2]
            if level > 1:
                below = self._node(entry, level - 1)
                need(behind is None or below[-1][:2] < behind, "nodes overlap")
                yield from self._walk(below, level - 1, behind)
            elif entry[1] == 0:  # further parts are found from the first
                group = self._group(entry)
                last = (group.members[-1].key, 0)
                need(behind is None or last < behind, "groups overlap")
                if group.span is None or not self._end(group).void:
                    yield from [member.path for member in group.members]

    def check(self) -> int:
        """Do the full check; return the number of members."""
        for path in self.paths():
            self.read(path)
        self._stream.seek(0)
        stream = Stream(self._stream, full=True)
        found = [member.path for member, content in stream if content is not None]
        need(found == list(self.paths()), "the directory names other members")
        return len(found)
