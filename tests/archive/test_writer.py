from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from mlflow_bundle.archive import (
    ArchiveReader,
    ArchiveWriter,
    ShortReadError,
    StreamReader,
    VoidMemberError,
)
from mlflow_bundle.errors import TruncatedError, UnsafePathError
from tests.archive.bundles import HEADER, MIB, MTIME_NS, UUID_1, Pipe, noise, text


def writer_to(out: object, **options: int) -> ArchiveWriter:
    return ArchiveWriter(
        out,  # type: ignore[arg-type]
        bundle_uuid=UUID_1,
        header=HEADER,
        mtime_ns=MTIME_NS,
        **options,
    )


def test_members_out_of_order_are_the_callers_bug() -> None:
    with writer_to(io.BytesIO()) as writer:
        writer.add("b/x", b"")
        for path in ("a/x", "b/x"):
            with pytest.raises(ValueError, match="must not come after"):
                writer.add(path, b"")
        writer.add("a", b"")  # files come after directories
        assert writer.last_path == "a"


def test_an_unsafe_path_is_refused() -> None:
    with writer_to(io.BytesIO()) as writer, pytest.raises(UnsafePathError, match="dot"):
        writer.add("../x", b"")


def test_the_header_member_cannot_be_written_again() -> None:
    with writer_to(io.BytesIO()) as writer:
        for path in (".mlbundle/bundle.json", ".mlbundle/bundle.json/x"):
            with pytest.raises(ValueError, match="must not come"):
                writer.add(path, b"")
        writer.add(".mlbundle/bundle.json5", b"")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b"\xff", "not JSON"),
        (b'{"a": NaN}', "no JSON number"),
        (b'{"a": %b}' % (b"[" * 64 + b"]" * 64), "more than 64 deep"),
        (b'{"a": %b}' % (b"[" * 99999), "not JSON"),
        (b"{" + b" " * (1 << 20) + b"}", "larger than"),
        (b'{"require": ["x"]}', "requires 'x'"),
        (b'{"prerequisites": [{}]}', "prerequisites"),
        (b'{"format": "zip"}', "format 'zip'"),
        (b'{"format_version": "2.0"}', "version '2.0'"),
    ],
)
def test_a_header_that_readers_would_refuse_is_refused(header: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchiveWriter(io.BytesIO(), bundle_uuid=UUID_1, header=header, mtime_ns=0)


def test_a_repeated_content_becomes_a_link_with_its_targets_time() -> None:
    out = io.BytesIO()
    with writer_to(out) as writer:
        first = writer.add("a", text(2000), mtime_ns=5 * 10**9)
        second = writer.add("b", text(2000), mtime_ns=7 * 10**9)
        third = writer.add("c", text(2000))
        writer.finish()
    assert first.link is None
    for link in (second, third):
        assert (link.link, link.mtime_ns, link.digest, link.size) == (
            "a",
            5 * 10**9,
            first.digest,
            2000,
        )
    reader = ArchiveReader(out)
    assert reader.find("c") == third
    assert reader.read("c") == text(2000)


@pytest.mark.parametrize("size", [0, 1, 1023])
def test_a_content_under_a_kibibyte_is_repeated(size: int) -> None:
    with writer_to(io.BytesIO()) as writer:
        writer.add("a", bytes(size))
        assert writer.add("b", bytes(size)).link is None


def test_an_equal_content_id_is_not_read_again() -> None:
    class Unreadable(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise AssertionError("read")

    out = io.BytesIO()
    with writer_to(out) as writer:
        for path, stream, size in (
            ("a", io.BytesIO(noise(9 * MIB)), 9 * MIB),
            ("b", Unreadable(), 9 * MIB),
        ):
            writer.add_stream(path, stream, size, content_id="s3://x")  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match="read"):
            writer.add_stream("c", Unreadable(), 1, content_id="s3://x")  # type: ignore[arg-type]
        writer.finish()
    reader = ArchiveReader(out)
    found = reader.find("b")
    assert found is not None
    assert found.link == "a"
    assert reader.read("b") == noise(9 * MIB)
    assert reader.verify().ok


def test_a_link_can_be_asked_for() -> None:
    out = io.BytesIO()
    with writer_to(out) as writer:
        target = writer.add("a", b"short")
        link = writer.add_link("b", target)
        writer.add_link("c", link)
        writer.finish()
    reader = ArchiveReader(out)
    assert [member.link for member in reader.iter_members()] == [None, "a", "a"]
    assert reader.verify().ok


def test_a_time_that_tar_cannot_hold_is_clamped() -> None:
    with writer_to(io.BytesIO()) as writer:
        assert writer.add("a", b"", mtime_ns=-1).mtime_ns == 0
        assert writer.add("b", b"", mtime_ns=2**80).mtime_ns == 8**11 * 10**9 - 1


def test_without_finish_the_file_is_no_bundle() -> None:
    out = io.BytesIO()
    writer = writer_to(out)
    writer.add("a", noise(9 * MIB))
    writer.__exit__(KeyError, KeyError(), None)
    with pytest.raises(TruncatedError, match="trailer is missing"):
        ArchiveReader(out)


def test_a_finished_or_closed_writer_takes_nothing() -> None:
    writer = writer_to(io.BytesIO())
    writer.finish()
    with pytest.raises(ValueError, match="finished"):
        writer.add("a", b"")
    writer.close()
    with pytest.raises(ValueError, match="finished"):
        writer.finish()


def test_the_digest_of_the_root_is_returned() -> None:
    out = io.BytesIO()
    with writer_to(out) as writer:
        writer.add("a", b"1")
        digest = writer.finish()
    assert ArchiveReader(out).digest == digest


def test_counters_follow_what_was_added() -> None:
    out = io.BytesIO()
    with writer_to(out) as writer:
        assert (writer.members, writer.tar_bytes) == (0, 1024)
        writer.add("a", b"1")
        assert (writer.members, writer.tar_bytes) == (1, 2048)
        writer.finish()
        assert writer.bytes_written == len(out.getvalue())
        assert ArchiveReader(out).tar_bytes == writer.tar_bytes + 1024


class Failing(io.RawIOBase):
    """Gives ``good`` bytes and then raises."""

    def __init__(self, good: int) -> None:
        self._left = good

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            raise ConnectionError("gone")
        size = min(size, self._left)
        self._left -= size
        return b"x" * size


FAULTS = {
    "small, ends early": (lambda: io.BytesIO(b"abc"), 4, ShortReadError, "1 bytes early"),
    "small, too long": (lambda: io.BytesIO(b"abc"), 2, ShortReadError, "more than the stated 2"),
    "small, raises": (lambda: Failing(10), 20, ConnectionError, "gone"),
    "one group, ends early": (lambda: io.BytesIO(noise(5 * MIB)), 6 * MIB, ShortReadError, "early"),
    "one group, too long": (lambda: io.BytesIO(noise(6 * MIB)), 5 * MIB, ShortReadError, "more"),
    "first group raises": (lambda: Failing(5 * MIB), 40 * MIB, ConnectionError, "gone"),
    "a late group raises": (lambda: Failing(33 * MIB), 40 * MIB, ConnectionError, "gone"),
    "a late group, ends early": (
        lambda: io.BytesIO(bytes(33 * MIB)),
        40 * MIB,
        ShortReadError,
        "early",
    ),
    "many groups, too long": (
        lambda: io.BytesIO(bytes(40 * MIB)),
        39 * MIB,
        ShortReadError,
        "more",
    ),
    "last piece is missing": (
        lambda: io.BytesIO(bytes(32 * MIB)),
        32 * MIB + 1,
        ShortReadError,
        "early",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("output", ["seekable", "file", "pipe"])
def test_a_member_that_cannot_be_read_is_taken_back(
    fault: str, output: str, tmp_path: Path
) -> None:
    source, size, error, message = FAULTS[fault]
    path = tmp_path / "out"
    out = {"seekable": io.BytesIO, "pipe": Pipe, "file": lambda: path.open("wb")}[output]()
    with writer_to(out) as writer:
        writer.add("a", b"before")
        writer.add("b", noise(4 * MIB))
        with pytest.raises(error, match=message):  # type: ignore[arg-type]
            writer.add_stream("c", source(), size)
        assert writer.members == 2
        writer.add("d", b"after")
        writer.add_stream("e", io.BytesIO(noise(9 * MIB, 1)), 9 * MIB)
        writer.finish()
    out.close() if output == "file" else None
    data = {
        "seekable": lambda: out.getvalue(),
        "pipe": lambda: b"".join(out.written),
        "file": path.read_bytes,
    }[output]()
    expected = {"a": b"before", "b": noise(4 * MIB), "d": b"after", "e": noise(9 * MIB, 1)}
    reader = ArchiveReader(io.BytesIO(data))
    assert reader.verify().problems == []
    assert {member.path: reader.read(member) for member in reader.iter_members()} == expected
    assert reader.members == 4
    assert reader.find("c") is None
    assert [name for name, _ in reader.iter_directory()] == list("abde")
    streamed = {}
    for member, pieces in StreamReader(Pipe(data)):
        try:
            streamed[member.path] = b"".join(pieces)
        except VoidMemberError:
            assert output == "pipe"
    assert streamed == expected


def test_a_member_taken_back_can_be_tried_again() -> None:
    out, straight = io.BytesIO(), io.BytesIO()
    with writer_to(out) as writer:
        writer.add("a", b"1")
        with pytest.raises(ConnectionError, match="gone"):
            writer.add_stream("b", Failing(33 * MIB), 40 * MIB)  # type: ignore[arg-type]
        writer.add_stream("b", io.BytesIO(noise(20 * MIB)), 20 * MIB)
        writer.finish()
    with writer_to(straight) as writer:
        writer.add("a", b"1")
        writer.add_stream("b", io.BytesIO(noise(20 * MIB)), 20 * MIB)
        writer.finish()
    assert out.getvalue() == straight.getvalue()


def test_an_interrupted_member_on_a_pipe_ends_the_writer() -> None:
    class Interrupted(Failing):
        def read(self, size: int = -1, /) -> bytes:
            if not self._left:
                raise KeyboardInterrupt
            return super().read(size)

    with writer_to(Pipe()) as writer:
        with pytest.raises(KeyboardInterrupt):
            writer.add_stream("b", Interrupted(33 * MIB), 50 << 30)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="has failed"):
            writer.finish()


def test_a_full_disk_reaches_the_caller_and_ends_the_writer() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            if self.tell() > MIB:
                raise OSError(28, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    with writer_to(Full()) as writer:
        paths = iter([f"{number:03}" for number in range(100)])
        with pytest.raises(OSError, match="No space left"):
            all(writer.add(path, noise(4 * MIB)) for path in paths)
        with pytest.raises(ValueError, match="has failed"):
            writer.finish()


def test_a_short_write_is_continued() -> None:
    class Short(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes, /) -> int:  # type: ignore[override]
            self.data += bytes(data[:1000])
            return len(data[:1000])

    out = Short()
    with writer_to(out) as writer:
        writer.add("a", noise(30_000))
        writer.finish()
    assert ArchiveReader(io.BytesIO(out.data)).read("a") == noise(30_000)


def test_writing_goes_on_where_the_stream_stands() -> None:
    out = io.BytesIO(b"prefix")
    out.seek(6)
    with writer_to(out) as writer:
        with pytest.raises(ConnectionError, match="gone"):
            writer.add_stream("b", Failing(33 * MIB), 40 * MIB)  # type: ignore[arg-type]
        writer.add("c", b"1")
        writer.finish()
    assert out.getvalue()[:6] == b"prefix"
    assert ArchiveReader(io.BytesIO(out.getvalue()[6:])).read("c") == b"1"


def test_members_match_their_digests() -> None:
    out = io.BytesIO()
    with writer_to(out) as writer:
        for path, size in (("a", 10), ("b", 5 * MIB), ("c", 9 * MIB)):
            member = writer.add_stream(path, io.BytesIO(noise(size)), size)
            assert member.digest == hashlib.sha256(noise(size)).digest()
            assert (member.path, member.size, member.mode) == (path, size, 0o644)
