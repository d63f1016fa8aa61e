"""What is written is read again, by the seekable reader and by the streaming one."""

from __future__ import annotations

import functools
import hashlib
import io

import pytest

from mlflow_bundle.archive import ArchiveReader, StreamReader, order_key
from tests.archive.bundles import (
    HEADER,
    MIB,
    MTIME_NS,
    READERS,
    SMALL,
    UUID_1,
    Members,
    Pipe,
    bundle,
    large_members,
    noise,
    read_stream,
    text,
)

CASES = {
    "no members": dict,
    "one empty member": lambda: {"a": b""},
    "small": lambda: SMALL,
    "one block exactly": lambda: {"a": text(512), "b": text(513)},
    "a full group": lambda: {f"d/{n:05}": b"%d" % n for n in range(1024)},
    "one more than a group": lambda: {f"d/{n:05}": b"%d" % n for n in range(1025)},
    "a frame that is just full": lambda: {
        "a": noise(256 * 1024 - 512),
        "b": noise(256 * 1024 - 512, 1),
    },
    "large and small in turn": lambda: {
        f"{n}/{name}": content
        for n in range(3)
        for name, content in (("big", noise(4 * MIB, n)), ("small", b"%d" % n))
    },
    "large": large_members,
}


@functools.cache
def case(name: str) -> tuple[Members, bytes]:
    members = CASES[name]()
    return members, bundle(members)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", CASES)
def test_members_come_back_in_order(name: str, reader: str) -> None:
    members, data = case(name)
    contents = READERS[reader](data)
    assert list(contents) == sorted(members, key=order_key)
    assert contents == members


def test_the_stream_may_come_one_byte_at_a_time() -> None:
    members, data = case("small")
    assert read_stream(data, piece_bytes=1) == members


@pytest.mark.parametrize("name", CASES)
def test_the_number_of_workers_does_not_show(name: str) -> None:
    members, data = case(name)
    assert bundle(members, jobs=1) == data
    assert bundle(members, jobs=3) == data


@pytest.mark.parametrize("name", CASES)
def test_verify_finds_nothing_wrong_and_counts(name: str) -> None:
    members, data = case(name)
    seen = []
    result = ArchiveReader(io.BytesIO(data)).verify(on_member=seen.append)
    assert result.problems == []
    assert result.members == len(members) == len(seen)
    assert result.bytes == sum(member.size for member in seen if member.link is None)


@pytest.mark.parametrize("name", CASES)
def test_both_readers_describe_members_alike(name: str) -> None:
    members, data = case(name)
    found = {member.path: member for member in ArchiveReader(io.BytesIO(data)).iter_members()}
    for member, _ in StreamReader(io.BytesIO(data)):
        twin = found[member.path]
        assert twin.digest == hashlib.sha256(members[member.path]).digest()
        assert (twin.size, twin.mtime_ns, twin.mode, twin.link) == (
            len(members[member.path]),
            MTIME_NS,
            0o644,
            member.link,
        )
        assert member.digest in (twin.digest, b"")


def test_what_the_bundle_says_of_itself() -> None:
    members, data = case("small")
    reader = ArchiveReader(io.BytesIO(data))
    assert (reader.header, reader.uuid, reader.members) == (HEADER, UUID_1, len(members))
    assert reader.size == len(data)
    stream = StreamReader(Pipe(data))
    assert stream.header == HEADER
    for _ in stream:
        pass
    assert stream.members == len(members)


def test_a_bundle_begins_with_what_file_can_recognise() -> None:
    data = bundle({})
    assert data[:4].hex() == "28b52ffd"
    assert data[10:31] == b".mlbundle/bundle.json"


def test_a_large_header_is_carried() -> None:
    from mlflow_bundle.archive import ArchiveWriter

    header = b'{"note": "%s"}' % (b"x" * 300_000)
    out = io.BytesIO()
    with ArchiveWriter(out, bundle_uuid=UUID_1, header=header, mtime_ns=MTIME_NS) as writer:
        writer.add("a", b"1")
        writer.finish()
    assert ArchiveReader(io.BytesIO(out.getvalue())).header == header
    assert StreamReader(Pipe(out.getvalue())).header == header
    assert ArchiveReader(io.BytesIO(out.getvalue())).verify().ok
