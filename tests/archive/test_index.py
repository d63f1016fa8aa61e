"""Pages whose checksums and digests are right and whose content is not: the hostile ones."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zstandard

from mlflow_bundle.archive import frames, index
from mlflow_bundle.archive.limits import DEFAULT_LIMITS
from mlflow_bundle.errors import (
    CorruptFrameError,
    FormatError,
    LimitError,
    UnsafePathError,
    UnsupportedVersionError,
)
from tests.archive.bundles import UUID_1

Body = dict[str, Any]


def group_body() -> Body:
    """Two files and a link, 100 and 0 content bytes, in one frame."""
    return {
        "n": 3,
        "path": b"a\x00b\x00c",
        "type": b"001",
        "mode": struct.pack("<3H", 0o644, 0o644, 0o644),
        "mtime": struct.pack("<3q", 5_000_000_000, 0, 0),
        "size": struct.pack("<3Q", 100, 0, 100),
        "frame": struct.pack("<3I", 0, 0, 0),
        "off": struct.pack("<3I", 0, 1024, 1536),
        "csize": struct.pack("<1I", 200),
        "usize": struct.pack("<1I", 2048),
        "tar": 1024,
        "link": [[2, "a"]],
    }


def span_body() -> Body:
    """The second and last part, 100 bytes, of a member of 8 MiB + 100 bytes."""
    return {
        "n": 1,
        "path": b"a",
        "type": b"0",
        "mode": struct.pack("<1H", 0o644),
        "mtime": struct.pack("<1q", 0),
        "size": struct.pack("<1Q", (8 << 20) + 100),
        "frame": struct.pack("<1I", 0),
        "off": struct.pack("<1I", 0),
        "csize": struct.pack("<1I", 150),
        "usize": struct.pack("<1I", 512),
        "tar": 1024,
        "link": [],
        "span": [8 << 20, 100],
        "digest": bytes(32),
    }


def group_page(body: object, *, digests: int | None = None, **preamble: int) -> bytes:
    packed = body if isinstance(body, bytes) else msgpack.packb(body)
    n = body.get("n", 1) if isinstance(body, dict) else 1
    frame_count = preamble.pop("frame_count", 1)
    data_length = preamble.pop("data_length", 200 if n == 3 else 150)
    count = n + frame_count if digests is None else digests
    return frames.encode_page(
        frames.GROUP_TAG,
        zstandard.compress(packed),
        bytes(32 * (count if isinstance(count, int) else 2)),
        uuid=UUID_1,
        sequence=0,
        offset=77,
        frame_count=frame_count,
        data_length=data_length,
        **preamble,
    )


def decode(page: bytes) -> index.Group:
    return index.decode_group(page, at=77, limits=DEFAULT_LIMITS)


def test_the_samples_are_good() -> None:
    group = decode(group_page(group_body()))
    assert [group.member(n).path for n in range(3)] == ["a", "b", "c"]
    assert group.member(2).link == "a"
    assert decode(group_page(span_body())).span == (8 << 20, 100)


U32 = 2**32 - 1
BAD_GROUPS: dict[str, tuple[Body, type[FormatError], str]] = {
    "no members": ({"n": 0, "path": b""}, CorruptFrameError, "without members"),
    "negative count": ({"n": -1}, CorruptFrameError, "unsigned integer"),
    "boolean count": ({"n": True}, CorruptFrameError, "unsigned integer"),
    "float count": ({"n": 3.0}, CorruptFrameError, "unsigned integer"),
    "paths are text": ({"path": "a\x00b\x00c"}, CorruptFrameError, "byte string"),
    "paths are not UTF-8": ({"path": b"a\x00b\x00\xff"}, CorruptFrameError, "UTF-8"),
    "a path is missing": ({"path": b"a\x00b"}, CorruptFrameError, "number of paths"),
    "a path is twice there": ({"path": b"a\x00b\x00b"}, CorruptFrameError, "out of order"),
    "paths are not in order": ({"path": b"b\x00a\x00c"}, CorruptFrameError, "out of order"),
    "a directory after files": ({"path": b"a\x00b\x00c/d"}, CorruptFrameError, "out of order"),
    "a path leads out": ({"path": b"../a\x00b\x00c"}, UnsafePathError, "dot"),
    "an absolute path": ({"path": b"/a\x00b\x00c"}, UnsafePathError, "absolute"),
    "an empty path": ({"path": b"\x00b\x00c"}, UnsafePathError, "empty"),
    "the header's path": (
        {"path": b".mlbundle/bundle.json\x00b\x00c"},
        CorruptFrameError,
        "appears twice",
    ),
    "a symbolic link": ({"type": b"002"}, CorruptFrameError, "unknown type 0x32"),
    "a device": ({"type": b"031"}, CorruptFrameError, "unknown type 0x33"),
    "a short column": ({"mode": bytes(5)}, CorruptFrameError, "right length"),
    "set-uid": ({"mode": struct.pack("<3H", 0o4755, 0, 0)}, CorruptFrameError, "permission"),
    "a time before 1970": (
        {"mtime": struct.pack("<3q", -1, 0, 0)},
        CorruptFrameError,
        "modification time",
    ),
    "a time beyond tar": (
        {"mtime": struct.pack("<3q", 2**63 - 1, 0, 0)},
        CorruptFrameError,
        "modification time",
    ),
    "times that add up too far": (
        {"mtime": struct.pack("<3q", *[2**62] * 3)},
        CorruptFrameError,
        "modification time",
    ),
    "a size beyond 63 bits": (
        {"size": struct.pack("<3Q", 2**63, 0, 100)},
        CorruptFrameError,
        "size is out of range",
    ),
    "a size that overruns": (
        {"size": struct.pack("<3Q", 600, 0, 100)},
        CorruptFrameError,
        "record",
    ),
    "a size that leaves a gap": (
        {"off": struct.pack("<3I", 0, 1024, 1024)},
        CorruptFrameError,
        "where it must be",
    ),
    "a frame out of range": (
        {"frame": struct.pack("<3I", 0, 0, 1)},
        CorruptFrameError,
        "where it must be",
    ),
    "a frame with more bytes": (
        {"usize": struct.pack("<1I", 2560)},
        CorruptFrameError,
        "more than the members",
    ),
    "an empty frame": ({"usize": struct.pack("<1I", 0)}, CorruptFrameError, "impossible"),
    "a frame over 8 MiB": (
        {"usize": struct.pack("<1I", (8 << 20) + 1)},
        LimitError,
        "frame of 8388609 bytes",
    ),
    "a compressed frame of no length": (
        {"csize": struct.pack("<1I", 0)},
        CorruptFrameError,
        "impossible",
    ),
    "a compressed frame too long": (
        {"csize": struct.pack("<1I", U32)},
        CorruptFrameError,
        "impossible",
    ),
    "frames that do not add up": (
        {"csize": struct.pack("<1I", 199)},
        CorruptFrameError,
        "add up",
    ),
    "a link without a target": ({"link": []}, CorruptFrameError, "without a target"),
    "a target for a file": (
        {"link": [[1, "a"], [2, "a"]]},
        CorruptFrameError,
        "no hard link",
    ),
    "a later target": ({"link": [[2, "d"]]}, CorruptFrameError, "not earlier"),
    "itself as target": ({"link": [[2, "c"]]}, CorruptFrameError, "not earlier"),
    "a target that leads out": ({"link": [[2, "../x"]]}, UnsafePathError, "dot"),
    "a target twice": ({"link": [[2, "a"], [2, "a"]]}, CorruptFrameError, "not in order"),
    "a malformed link": ({"link": [[2]]}, CorruptFrameError, "malformed"),
    "a link that is no array": ({"link": {}}, CorruptFrameError, "array"),
    "a tar offset of text": ({"tar": "1024"}, CorruptFrameError, "unsigned integer"),
    "a whole digest without a span": ({"digest": bytes(32)}, CorruptFrameError, "without a span"),
    "a span over three members": ({"span": [0, 1]}, CorruptFrameError, "span is malformed"),
    "an unknown critical key": ({"!gone": []}, UnsupportedVersionError, "'!gone'"),
}


@pytest.mark.parametrize("case", BAD_GROUPS)
def test_a_hostile_group_is_refused(case: str) -> None:
    changes, error, message = BAD_GROUPS[case]
    with pytest.raises(error, match=message):
        decode(group_page(group_body() | changes))


BAD_SPANS: dict[str, tuple[Body, str]] = {
    "not the rest": ({"span": [8 << 20, 99]}, "whole digest or void"),
    "beyond the end": ({"span": [8 << 20, 101]}, "malformed"),
    "empty": ({"span": [8 << 20, 0]}, "malformed"),
    "the whole member": ({"size": struct.pack("<1Q", 100), "span": [0, 100]}, "malformed"),
    "three numbers": ({"span": [0, 1, 2]}, "right length"),
    "not numbers": ({"span": ["0", "1"]}, "unsigned integer"),
    "last without digest": ({"digest": None}, "byte string"),
    "short digest": ({"digest": bytes(31)}, "right length"),
    "frames too large": ({"usize": struct.pack("<1I", 1024)}, "does not fill"),
    "a first part that is no header": (
        {"span": [0, 100], "size": struct.pack("<1Q", 8 << 20)},
        "whole digest or void",
    ),
}


@pytest.mark.parametrize("case", BAD_SPANS)
def test_a_hostile_span_is_refused(case: str) -> None:
    changes, message = BAD_SPANS[case]
    with pytest.raises(CorruptFrameError, match=message):
        decode(group_page(span_body() | changes))


def test_a_void_flag_needs_the_last_part_of_a_span() -> None:
    assert decode(group_page(span_body(), flags=frames.FLAG_VOID)).members == 0
    with pytest.raises(CorruptFrameError, match="void"):
        decode(group_page(group_body(), flags=frames.FLAG_VOID))


def test_every_key_is_needed_and_unknown_ones_are_passed_over() -> None:
    for key in group_body():
        body = group_body()
        del body[key]
        with pytest.raises(CorruptFrameError):
            decode(group_page(body, digests=4))
    decode(group_page(group_body() | {"later": {"x": [1, 2.5, None]}}))


def test_the_number_of_digests_must_be_right() -> None:
    for digests in (0, 3, 5):
        with pytest.raises(CorruptFrameError, match="number of digests"):
            decode(group_page(group_body(), digests=digests))


def test_more_members_than_the_limit_are_refused() -> None:
    body = group_body() | {"n": 4097}
    with pytest.raises(LimitError, match="4097 members"):
        decode(group_page(body, digests=4))


def mapping(*pairs: tuple[object, object]) -> bytes:
    packed: bytes = msgpack.Packer().pack_map_header(len(pairs))
    return packed + b"".join([msgpack.packb(key) + msgpack.packb(value) for key, value in pairs])


BAD_BODIES: dict[str, bytes] = {
    "cut in a container": b"\x81\xa1n\x92\x01",
    "cut in a length": b"\x81\xa1n\xdd\x00",
    "cut in octets": b"\x81\xa1n\xc4\x05abc",
    "a float of 32 bits": b"\x81\xa1n\xca\x3f\xc0\x00\x00",
    "an extension somewhere": b"\x81\xa1n\x91\xd4\x05x",
    "an unused first byte": b"\x81\xa1n\xc1",
    "empty": b"",
    "a number": b"\x01",
    "an array": b"\x90",
    "two objects": b"\x80\x80",
    "cut": b"\x81\xa1",
    "a key twice": mapping(("n", 1), ("n", 1)),
    "a number as key": mapping((1, 1)),
    "bytes as key": mapping((b"n", 1)),
    "a long integer": b"\x81\xa1n\xcd\x00\x01",
    "a long string header": b"\x81\xd9\x01n\x01",
    "text that is not UTF-8": b"\x81\xa1\xff\x01",
    "an extension": mapping(("n", msgpack.ExtType(5, b"x"))) + b"\x00",
    "a timestamp beyond reason": b"\x81\xa1n\xc7\x0c\xff" + b"\xff" * 12,
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_hostile_body_is_refused(case: str) -> None:
    with pytest.raises(CorruptFrameError, match="page body"):
        decode(group_page(BAD_BODIES[case]))


GREEDY_BODIES: dict[str, bytes] = {
    "deep nesting": b"\x81\xa1n" + b"\x91" * 16 + b"\x01",
    "very deep nesting": b"\x81" + b"\xa1n\x81" * 5000,
    "an array of four thousand million": b"\x81\xa1n\xdd\xff\xff\xff\xff",
    "a map of four thousand million": b"\x81\xa1n\xdf\xff\xff\xff\xff",
    "arrays without number": b"\x81\xa1n\xdd\x00\x01\x00\x00" + b"\x90" * 0x10000,
    "maps without number": b"\x81\xa1n\x92" + (b"\xdc\x80\x00" + b"\x80" * 0x8000) * 2,
}


@pytest.mark.parametrize("case", GREEDY_BODIES)
def test_a_body_that_would_take_much_memory_is_refused(case: str) -> None:
    with pytest.raises(LimitError, match="too many values"):
        decode(group_page(GREEDY_BODIES[case]))


def test_a_body_may_have_as_many_values_as_the_limits_say() -> None:
    later = [0] * (index.MAX_VALUES - len(group_body()) * 2 - 2 - 1 - 3)
    decode(group_page(group_body() | {"later": later}))
    with pytest.raises(LimitError, match="too many values"):
        decode(group_page(group_body() | {"later": [*later, 0]}))
    nested: object = 1
    for _ in range(index.MAX_DEPTH - 1):
        nested = [nested]
    decode(group_page(group_body() | {"later": nested}))


def test_a_hostile_body_takes_little_memory() -> None:
    body = b"\x81\xa1n\xdc\x10\x00" + (b"\xdc\x40\x00" + b"\x80" * 0x4000) * 0x1000
    tracemalloc.start()
    with pytest.raises(LimitError, match="too many values"):
        index.decode_body(body, frozenset(), at=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(body) > 60 << 20 > 1 << 20 > peak


def with_body_frame(frame: bytes) -> bytes:
    return frames.encode_page(
        frames.GROUP_TAG, frame, bytes(64), uuid=UUID_1, sequence=0, offset=77, frame_count=1
    )


def test_a_body_that_expands_too_far_is_refused_before_it_does() -> None:
    with pytest.raises(LimitError, match="page body of 67108865 bytes"):
        decode(with_body_frame(zstandard.compress(bytes((64 << 20) + 1))))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"\x80")
    with pytest.raises(CorruptFrameError, match="states no size"):
        decode(with_body_frame(unsized))
    with pytest.raises(CorruptFrameError, match="no zstd frame"):
        decode(with_body_frame(b""))


def entry(**changes: object) -> list[object]:
    fields = {
        "key": b"\x02a",
        "part": 0,
        "offset": 10,
        "header_length": 20,
        "data_length": 30,
        "members": 1,
        "digest": bytes(32),
    }
    return list((fields | changes).values())


def root_page(**changes: object) -> bytes:
    body = {
        "level": 1,
        "entries": [entry()],
        "n": 1,
        "groups": 1,
        "tar": 4096,
        "hash": "sha256",
        "header": [10, bytes(32)],
        "require": [],
        **changes,
    }
    return frames.encode_page(
        frames.ROOT_TAG,
        zstandard.compress(msgpack.packb(body)),
        uuid=UUID_1,
        sequence=0,
        offset=77,
    )


BAD_ROOTS: dict[str, tuple[Body, type[FormatError], str]] = {
    "level 0": ({"level": 0}, CorruptFrameError, "level 0"),
    "level 5": ({"level": 5}, LimitError, "level 5"),
    "level 2 without entries": ({"level": 2, "entries": [], "n": 0}, CorruptFrameError, "many"),
    "another digest": ({"hash": "blake3"}, UnsupportedVersionError, "blake3"),
    "a capability": ({"require": ["volumes"]}, UnsupportedVersionError, "requires 'volumes'"),
    "capabilities of numbers": ({"require": [1]}, CorruptFrameError, "array of text"),
    "wrong count": ({"n": 2}, CorruptFrameError, "do not add up"),
    "no header": ({"header": []}, CorruptFrameError, "right length"),
    "short header digest": ({"header": [10, b""]}, CorruptFrameError, "right length"),
    "entries of numbers": ({"entries": [1]}, CorruptFrameError, "malformed"),
    "a short entry": ({"entries": [entry()[:6]]}, CorruptFrameError, "malformed"),
    "a text as key": ({"entries": [entry(key="a")]}, CorruptFrameError, "byte string"),
    "a negative offset": ({"entries": [entry(offset=-1)]}, CorruptFrameError, "unsigned"),
    "an offset beyond 63 bits": ({"entries": [entry(offset=2**63)]}, CorruptFrameError, "unsigned"),
    "behind the root": ({"entries": [entry(data_length=999)]}, CorruptFrameError, "behind"),
    "a page over the limit": ({"entries": [entry(header_length=2**25)]}, LimitError, "page of"),
    "out of order": (
        {"entries": [entry(), entry(offset=60)], "n": 2},
        CorruptFrameError,
        "out of order",
    ),
    "a gap": (
        {"entries": [entry(), entry(offset=61, key=b"\x02b", data_length=0, header_length=1)]},
        CorruptFrameError,
        "do not follow",
    ),
    "nodes with data": ({"level": 2}, CorruptFrameError, "has data"),
}


@pytest.mark.parametrize("case", BAD_ROOTS)
def test_a_hostile_root_is_refused(case: str) -> None:
    changes, error, message = BAD_ROOTS[case]
    with pytest.raises(error, match=message):
        index.decode_root(root_page(**changes), at=77, limits=DEFAULT_LIMITS)


def test_the_sample_root_is_good() -> None:
    assert index.decode_root(root_page(), at=77, limits=DEFAULT_LIMITS).members == 1


@pytest.mark.parametrize("decoder", [index.decode_node, index.decode_root])
def test_one_kind_of_page_is_not_taken_for_another(decoder: Callable[..., object]) -> None:
    with pytest.raises(FormatError):
        decoder(group_page(group_body()), at=77, limits=DEFAULT_LIMITS)
    with pytest.raises(FormatError):
        decode(root_page())


def test_a_page_checksum_is_a_crc_32() -> None:
    page = group_page(group_body())
    assert page[60:64] == struct.pack("<I", zlib.crc32(page[8:60] + page[64:]))
