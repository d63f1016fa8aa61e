"""Builds bundles from stated parts, right or wrong, without our writer.

Everything that is not stated is computed so that checksums and digests fit: a flaw stands alone,
and a reader must find that one.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgpack
import zstandard

from mlflow_bundle.archive import order_key, tar

UUID_1 = UUID("11111111-2222-4333-8444-555555555555")
MTIME_NS = 1_700_000_000 * 10**9
EOF_FRAME = bytes.fromhex("28b52ffd60000303200000")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)


def raw(content: bytes, descriptor: bytes = b"\x60") -> bytes:
    """One raw block; content of 256 to 65 791 bytes.

    ``descriptor`` is that of the frame header, with what stands between it and the size.
    """
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    return b"\x28\xb5\x2f\xfd" + descriptor + struct.pack("<H", len(content) - 256) + block


WIDE_WINDOW = b"\x40\x70"
"""Descriptor of a frame that needs a window of 16 MiB, whatever its size."""
DICTIONARY = b"\x61\x01"
"""Descriptor of a frame that needs the dictionary 1."""


@dataclass
class Record:
    """One member. ``header`` and ``padding`` are the canonical ones unless stated."""

    path: str
    content: bytes = b""
    link: str | None = None
    mode: int = 0o644
    mtime_ns: int = MTIME_NS
    kind: bytes = b""
    header: bytes | None = None
    padding: bytes | None = None
    digest: bytes | None = None

    def tar(self) -> bytes:
        size = len(self.content)
        header = tar.render_header(self.path, size, self.mtime_ns, self.mode, self.link)
        header = header if self.header is None else self.header
        if self.link is not None:
            return header
        padding = tar.padding(size) if self.padding is None else self.padding
        return header + self.content + padding


@dataclass
class Group:
    """A group header with its frames. ``body`` changes keys; a None drops one."""

    records: list[Record]
    body: dict[str, Any] = field(default_factory=dict)
    frames: list[bytes] | None = None
    contents: list[bytes] | None = None
    frame_digests: list[bytes] | None = None
    preamble: dict[str, Any] = field(default_factory=dict)
    packed: Callable[[dict[str, Any]], bytes] = msgpack.packb
    compress: Callable[[bytes], bytes] = zstd
    entry: dict[int, Any] = field(default_factory=dict)
    patch: Callable[[bytes], bytes] = bytes
    gap: bytes = b""


def part(record: Record, start: int, length: int, *, void: bool = False) -> Group:
    """Return the group with one part of a member that spans groups."""
    whole, size = record.tar(), len(record.content)
    header = len(whole) - size - len(tar.padding(size))
    first = 0 if start == 0 else header + start
    last = start + length == size
    content = whole[first:] if last else whole[first : header + start + length]
    piece = record.content[start : start + length]
    body: dict[str, Any] = {"span": [start, length]}
    if last:
        body["digest"] = sha256(record.content)
    return Group(
        [Record(record.path, record.content, mtime_ns=record.mtime_ns, digest=sha256(piece))],
        body=body,
        contents=[content],
        preamble={"flags": 0x0100} if void else {},
    )


@dataclass
class Bundle:
    """A whole bundle; what is not stated is right."""

    groups: list[Group]
    document: bytes = b'{"format": "mlbundle", "format_version": "1.0"}'
    header: bytes | None = None
    eof: bytes = EOF_FRAME
    fanout: int = 512
    root: dict[str, Any] = field(default_factory=dict)
    root_preamble: dict[str, Any] = field(default_factory=dict)
    node_preamble: dict[str, Any] = field(default_factory=dict)
    trailer: dict[str, Any] = field(default_factory=dict)
    before_trailer: bytes = b""
    seek_table: Callable[[list[tuple[int, int]]], list[tuple[int, int]]] | None = list

    def build(self) -> bytes:
        out = bytearray()
        seek: list[tuple[int, int]] = []

        def emit(frame: bytes, size: int) -> int:
            out.extend(frame)
            seek.append((len(frame), size))
            return len(out) - len(frame)

        record = Record(".mlbundle/bundle.json", self.document).tar()
        header = raw(record) if self.header is None else self.header
        tar_length = int.from_bytes(header[5:7], "little") + 256
        emit(header, tar_length)
        entries: list[list[Any]] = []
        members = 0
        for sequence, group in enumerate(self.groups):
            page, frames, contents, count = self._group(group, sequence, len(out), tar_length)
            offset = emit(page, 0)
            for frame, content in zip(frames, contents, strict=True):
                emit(frame, len(content))
            tar_length += sum(map(len, contents))
            length = sum(map(len, frames))
            key = order_key(group.records[0].path)
            start = group.body.get("span", [0])[0]
            entry = [key, start, offset, len(page), length, count, sha256(page)]
            for position, value in group.entry.items():
                entry[position] = value
            entries.append(entry)
            members += count
            out.extend(group.gap)
        emit(self.eof, 1024)
        directory = len(out)
        level, sequence = 1, 0
        while len(entries) > self.fanout:
            above = []
            for first in range(0, len(entries), self.fanout):
                chunk = entries[first : first + self.fanout]
                page = self._page(
                    b"MLBN",
                    msgpack.packb({"level": level, "entries": chunk}),
                    sequence,
                    len(out),
                    **self.node_preamble,
                )
                sequence += 1
                offset = emit(page, 0)
                count = sum(entry[5] for entry in chunk)
                above.append([*chunk[0][:2], offset, len(page), 0, count, sha256(page)])
            entries = above
            level += 1
        body = {
            "level": level,
            "entries": entries,
            "n": members,
            "groups": len(self.groups),
            "tar": tar_length + 1024,
            "hash": "sha256",
            "header": [len(header), sha256(header)],
            "require": [],
            **self.root,
        }
        root = self._page(b"MLBR", msgpack.packb(body), sequence, len(out), **self.root_preamble)
        root_offset = emit(root, 0)
        out.extend(self.before_trailer)
        trailer = {
            "major": 1,
            "length": len(out) + 128,
            "root_offset": root_offset,
            "root_length": len(root),
            "directory_offset": directory,
            "directory_length": root_offset - directory,
            "root_digest": sha256(root),
            "members": body["n"],
            **self.trailer,
        }
        start = struct.pack(
            "<II4sBBH16sQQQQQ32sQ",
            0x184D2A5B,
            120,
            b"MLBT",
            trailer["major"],
            0,
            0,
            UUID_1.bytes,
            *list(trailer.values())[1:],
        )
        emit(start + struct.pack("<II", zlib.crc32(start[8:]), 0) + b"MLBUNDL1", 0)
        if self.seek_table is not None:
            table = b"".join([struct.pack("<II", *pair) for pair in self.seek_table(seek)])
            table += struct.pack("<IBI", len(seek), 0, 0x8F92EAB1)
            out += struct.pack("<II", 0x184D2A5E, len(table)) + table
        return bytes(out)

    def _group(
        self, group: Group, sequence: int, offset: int, tar_offset: int
    ) -> tuple[bytes, list[bytes], list[bytes], int]:
        records = group.records
        contents = group.contents or [b"".join([record.tar() for record in records])]
        frames = group.frames or [zstd(content) for content in contents]
        n, k = len(records), len(frames)
        times = [record.mtime_ns for record in records]
        starts = [0]
        for record in records:
            starts.append(starts[-1] + len(record.tar()))
        links = [[i, record.link] for i, record in enumerate(records) if record.link is not None]
        body: dict[str, Any] = {
            "n": n,
            "path": "\x00".join([record.path for record in records]).encode(),
            "type": b"".join([r.kind or (b"1" if r.link is not None else b"0") for r in records]),
            "mode": struct.pack(f"<{n}H", *[record.mode for record in records]),
            "mtime": struct.pack(f"<{n}q", times[0], *[b - a for a, b in pairwise(times)]),
            "size": struct.pack(f"<{n}Q", *[len(record.content) for record in records]),
            "frame": bytes(4 * n),
            "off": struct.pack(f"<{n}I", *starts[:-1]),
            "csize": struct.pack(f"<{k}I", *map(len, frames)),
            "usize": struct.pack(f"<{k}I", *map(len, contents)),
            "tar": tar_offset,
            "link": links,
            **group.body,
        }
        body = {key: value for key, value in body.items() if value is not None}
        digests = [record.digest or sha256(record.content) for record in records]
        digests += group.frame_digests or [sha256(frame) for frame in frames]
        page = self._page(
            b"MLBG",
            group.packed(body),
            sequence,
            offset,
            digests=b"".join(digests),
            compress=group.compress,
            **{"frame_count": k, "data_length": sum(map(len, frames)), **group.preamble},
        )
        spans = "span" in body
        count = n if not spans else int("digest" in body and not group.preamble.get("flags"))
        return group.patch(page), frames, contents, count

    def _page(
        self,
        tag: bytes,
        packed: bytes,
        number: int,
        at: int,
        *,
        digests: bytes = b"",
        compress: Callable[[bytes], bytes] = zstd,
        major: int = 1,
        flags: int = 0,
        uuid: UUID = UUID_1,
        **changes: Any,
    ) -> bytes:
        body = compress(packed)
        start = struct.pack(
            "<II4sBBH16sIIQQI",
            0x184D2A5B,
            56 + len(body) + len(digests),
            tag,
            major,
            0,
            flags,
            uuid.bytes,
            changes.get("sequence", number),
            changes.get("frame_count", 0),
            changes.get("offset", at),
            changes.get("data_length", 0),
            len(body),
        )
        checksum = zlib.crc32(start[8:] + body + digests)
        return start + struct.pack("<I", checksum) + body + digests
