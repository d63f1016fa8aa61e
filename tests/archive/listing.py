"""The annotated listing of a small bundle in FORMAT.md, and back to bytes.

``python -m tests.archive.listing`` writes it into the document.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from mlflow_bundle.archive import ArchiveReader, ArchiveWriter

FORMAT_MD = Path(__file__).parents[2] / "spec" / "FORMAT.md"
BEGIN, END = "<!-- example:begin -->\n", "<!-- example:end -->"
EXAMPLE_UUID = UUID(bytes=bytes(range(16)))
EXAMPLE_MTIME_NS = 1_700_000_000 * 10**9

USTAR = [
    (100, "name"),
    (24, "mode, uid, gid"),
    (12, "size"),
    (12, "mtime"),
    (8, "chksum"),
    (1, "typeflag"),
    (100, "linkname"),
    (8, "magic, version"),
    (64, "uname, gname"),
    (16, "devmajor, devminor"),
    (167, "prefix, rest"),
]
PREAMBLE = [
    (4, "magic"),
    (4, "payload length"),
    (4, "tag"),
    (4, "major, minor, flags"),
    (16, "uuid"),
    (4, "sequence"),
    (4, "frame count"),
    (8, "offset"),
    (8, "data length"),
    (4, "body length"),
    (4, "checksum"),
]
TRAILER = [
    *PREAMBLE[:5],
    (8, "length"),
    (8, "root offset"),
    (8, "root length"),
    (8, "directory offset"),
    (8, "directory length"),
    (32, "root digest"),
    (8, "members"),
    (4, "checksum"),
    (4, "zero"),
    (8, "end"),
]


def example() -> bytes:
    out = io.BytesIO()
    with ArchiveWriter(
        out, bundle_uuid=EXAMPLE_UUID, header=b"{}", mtime_ns=EXAMPLE_MTIME_NS
    ) as writer:
        writer.add("a", b"1\n")
        writer.finish()
    return out.getvalue()


def fields(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the length and the name of each field of the example, headings with length 0."""
    reader = ArchiveReader(io.BytesIO(data))
    group = reader._group(reader._root.entries[0])
    root = reader._root.preamble
    yield 0, "header-frame"
    yield from [(4, "magic"), (1, "descriptor"), (2, "content size - 256"), (3, "block header")]
    yield from USTAR
    yield from [(2, "content"), (510, "padding")]
    yield 0, "group-header"
    yield from PREAMBLE
    yield group.preamble.body_length, "body"
    yield from [(32, "digest of the content"), (32, "digest of the frame")]
    yield 0, "data-frame"
    yield group.lengths[0], "tar header, content, padding"
    yield 0, "eof-frame"
    yield 11, "1024 zeros"
    yield 0, "root"
    yield from PREAMBLE
    yield root.body_length, "body"
    yield 0, "trailer"
    yield from TRAILER
    yield 0, "seek-table"
    yield from [(4, "magic"), (4, "payload length")]
    names = ["header-frame", "group-header", "data-frame", "eof-frame", "root", "trailer"]
    yield from [(8, f"length and size: {name}") for name in names]
    yield from [(4, "number of frames"), (1, "descriptor"), (4, "magic")]


def render(data: bytes) -> str:
    lines = []
    at = 0
    for length, name in fields(data):
        if not length:
            lines.append(f"; {name}")
        piece = data[at : at + length]
        for start in range(0, length, 16):
            rest = piece[start:]
            zeros = len(rest) - len(rest.lstrip(b"\x00"))
            if start == 0 and zeros == len(piece) and zeros > 16:
                lines.append(f"{at:06x}  {f'00*{zeros}':<47}  {name}")
                break
            if rest.count(0) == len(rest) and len(rest) > 16:
                lines.append(f"{at + start:06x}  00*{len(rest)}")
                break
            row = rest[:16].hex(" ")
            lines.append(f"{at + start:06x}  {row:<47}  {name if not start else ''}".rstrip())
        at += length
    assert at == len(data)
    return "```\n" + "\n".join(lines) + "\n```\n"


def parse(listing: str) -> bytes:
    data = bytearray()
    for line in listing.splitlines():
        if re.match(r"[0-9a-f]{6}  ", line):
            assert int(line[:6], 16) == len(data)
            octets = line[8:55].strip()  # the name follows in column 57
            zeros = octets.partition("00*")[2]
            data += bytes(int(zeros)) if zeros else bytes.fromhex(octets)
    return bytes(data)


def in_document() -> str:
    return FORMAT_MD.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    before, _, rest = FORMAT_MD.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    FORMAT_MD.write_text(before + BEGIN + render(example()) + END + after, "utf-8")
