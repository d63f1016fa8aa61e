"""Takes a bundle apart into what `tests.vectors.forge` builds one from.

Group headers are stated as they are; what vouches for them (lengths, offsets, checksums, digests,
directory, trailer) is left to the builder, which makes it fit. A bundle that was mutated and built
again can so be taken apart again, with its mutations.
"""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise
from typing import Any

import msgpack
import zstandard

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.frames import GROUP_TAG, PREAMBLE_BYTES, Preamble, parse_preamble
from mlflow_bundle.archive.header import HEADER_START_BYTES, header_frame_length
from mlflow_bundle.archive.limits import DEFAULT_LIMITS, MIB
from mlflow_bundle.errors import FormatError
from tests.vectors.forge import UUID_1, Bundle, Group, Record

MAX_CONTENT_BYTES = MIB
NO_ANATOMY = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, struct.error),
)
"""What comes of bytes that have another structure than they say."""


class NoAnatomyError(ValueError):
    """The bytes have not enough of a bundle's structure."""


def take_apart(data: bytes) -> Bundle:
    """Return the parts of a bundle: its header's document and its groups up to the first bad one.

    Checksums and digests are not compared; nodes, root, trailer and seek table are not looked at.

    Raises:
        NoAnatomyError: The first frame or a group is not to be understood.
    """
    groups: list[Group] = []
    try:
        at = header_frame_length(data[:HEADER_START_BYTES])
        document = _document(data[:at])
        while data[at + 8 : at + 12] == GROUP_TAG:
            preamble = parse_preamble(data[at : at + PREAMBLE_BYTES], at=at, limits=DEFAULT_LIMITS)
            page = data[at : at + preamble.length]
            at += preamble.length
            groups.append(_group(preamble, page, data[at : at + preamble.data_length]))
            at += preamble.data_length
            # The builder's bundles have one uuid.
            document = document.replace(str(preamble.uuid).encode(), str(UUID_1).encode())
    except (*NO_ANATOMY, FormatError, zstandard.ZstdError) as exc:
        raise NoAnatomyError("not understood") from exc
    return Bundle(groups, document=document)


def _document(frame: bytes) -> bytes:
    content = decompressed(frame)
    _, size, _, _, _, start = tar.parse_header(content, 0)
    return content[start : start + size]


def decompressed(frame: bytes) -> bytes:
    """Decompress the first zstd frame of ``frame``, which is of at most a mebibyte.

    Raises:
        zstandard.ZstdError: It is no frame.
        ValueError: It states no size, or a larger one.
    """
    if not 0 <= zstandard.frame_content_size(frame) <= MAX_CONTENT_BYTES:
        raise ValueError("larger than a mebibyte")
    return zstandard.ZstdDecompressor().decompress(frame)


def _group(preamble: Preamble, page: bytes, data: bytes) -> Group:
    end = PREAMBLE_BYTES + preamble.body_length
    body: dict[str, Any] = msgpack.unpackb(
        decompressed(page[PREAMBLE_BYTES:end]), strict_map_key=True
    )
    n = body["n"]
    lengths = struct.unpack(f"<{preamble.frame_count}I", body["csize"])
    bounds = [*accumulate(lengths, initial=0)]
    frames = [data[a:b] for a, b in pairwise(bounds)]
    contents = [decompressed(frame) for frame in frames]
    digests = [page[at : at + 32] for at in range(end, len(page), 32)]
    links = dict(body["link"])
    paths = body["path"].decode().split("\x00")
    times = accumulate(struct.unpack(f"<{n}q", body["mtime"]))
    columns = zip(
        paths,
        struct.unpack(f"<{n}H", body["mode"]),
        times,
        struct.unpack(f"<{n}Q", body["size"]),
        struct.unpack(f"<{n}I", body["frame"]),
        struct.unpack(f"<{n}I", body["off"]),
        digests[:n],
        strict=True,
    )
    records: list[Record] = []
    starts = [*accumulate(map(len, contents), initial=0)]
    stream = b"".join(contents)
    for number, (path, mode, mtime_ns, size, frame, offset, digest) in enumerate(columns):
        link = links.get(number)
        at = starts[frame] + offset
        if "span" in body:
            start, length = body["span"]
            header = 0 if start else tar.header_length(path, size, mtime_ns, None)
            content = stream[header : header + length]
        else:
            at += tar.header_length(path, size, mtime_ns, link)
            content = stream[at : at + size]
        if link is not None:
            content = next((r.content for r in records if r.path == link), bytes(min(size, MIB)))
        kind = body["type"][number : number + 1]
        records.append(
            Record(
                path,
                content,
                link=link,
                mode=mode,
                mtime_ns=mtime_ns,
                kind=b"" if kind == (b"0" if link is None else b"1") else kind,
                digest=digest,
            )
        )
    return Group(
        records,
        body={key: value for key, value in body.items() if key != "tar"},
        frames=frames,
        contents=contents,
        frame_digests=digests[n:],
        preamble={"flags": preamble.flags} if preamble.flags else {},
    )
