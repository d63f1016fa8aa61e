from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.archive import ArchiveReader, ArchiveWriter, Limits, content
from mlflow_bundle.errors import CorruptFrameError, LimitError, NotABundleError, TruncatedError
from tests.archive.bundles import (
    HEADER,
    MIB,
    SMALL,
    UUID_1,
    bundle,
    flipped,
    large_members,
    noise,
    read_stream,
    text,
)
from tests.vectors.forge import Bundle, Group, Record, part


def reader_of(data: bytes, **limits: int) -> ArchiveReader:
    return ArchiveReader(io.BytesIO(data), limits=Limits(**limits))


def test_a_missing_member_is_none_and_reading_it_a_key_error() -> None:
    reader = reader_of(bundle(SMALL))
    for path in ("absent", "experiments", "experiments/1/ab/", "", "/", "\ud800", "zz/zz"):
        assert reader.find(path) is None
        with pytest.raises(KeyError):
            reader.read(path)


def test_a_member_of_another_bundle_is_a_key_error() -> None:
    other = reader_of(bundle({"a": b"other"})).find("a")
    assert other is not None
    with pytest.raises(KeyError):
        reader_of(bundle({"a": b"this"})).read(other)


def test_the_members_below_a_directory_and_the_file_itself() -> None:
    reader = reader_of(bundle(SMALL))

    def paths(prefix: str) -> list[str]:
        return [member.path for member in reader.iter_members(prefix)]

    assert paths("experiments/1/ab") == [
        "experiments/1/ab/artifacts/model/MLmodel",
        "experiments/1/ab/artifacts/model/copy",
        "experiments/1/ab/run.json",
    ]
    assert paths("experiments/1/ab/") == paths("experiments/1/ab")
    assert paths("experiments/1/a") == []
    assert paths("manifest.json") == ["manifest.json"]
    assert len(paths("experiments")) == 5


def test_a_directory_is_listed_without_what_lies_deeper() -> None:
    reader = reader_of(bundle(SMALL))
    assert list(reader.iter_directory()) == [
        ("experiments", True),
        ("models", True),
        ("manifest.json", False),
    ]
    assert list(reader.iter_directory("experiments/1")) == [
        ("ab", True),
        ("cd", True),
        ("manifest.json", False),
    ]
    assert list(reader.iter_directory("manifest.json")) == []
    assert list(reader.iter_directory("absent")) == []


class CountingFile(io.BytesIO):
    reads = 0
    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads += 1
        self.bytes_read += len(data)
        return data


MANY = {f"experiments/{n % 3}/{n:06}/run.json": b"%d" % n for n in range(60_000)} | {
    "manifest.json": b"{}"
}


@pytest.fixture(scope="module")
def many() -> bytes:
    return bundle(MANY)


def test_opening_is_one_read_and_the_first_member_two_more(many: bytes) -> None:
    stream = CountingFile(many)
    reader = ArchiveReader(stream)
    assert (stream.reads, reader.members) == (1, 60_001)
    assert reader.read("experiments/1/000004/run.json") == b"4"
    assert stream.reads == 3
    assert reader.header == HEADER
    assert stream.reads == 4


def test_a_listing_skips_what_lies_deeper(many: bytes) -> None:
    stream = CountingFile(many)
    reader = ArchiveReader(stream)
    assert list(reader.iter_directory("experiments")) == [("0", True), ("1", True), ("2", True)]
    assert stream.reads < 9
    assert len(list(reader.iter_directory("experiments/2"))) == 20_000


def test_a_prefix_reads_only_its_pages(many: bytes) -> None:
    stream = CountingFile(many)
    reader = ArchiveReader(stream)
    assert len(list(reader.iter_members("experiments/1/000004"))) == 1
    assert stream.reads <= 3


def test_a_directory_of_two_levels_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_bundle.archive.index.FANOUT", 4)
    monkeypatch.setattr("mlflow_bundle.archive.writer.GROUP_MEMBERS", 3)
    members = {f"d{n % 7}/{n:04}": b"%d" % n for n in range(300)}
    members["d3/big"] = noise(20 * MIB)
    data = bundle(members)
    reader = reader_of(data)
    assert reader._root.level == 4
    assert {member.path: reader.read(member) for member in reader.iter_members()} == members
    assert reader.verify().problems == []
    assert [name for name, _ in reader.iter_directory()] == [f"d{n}" for n in range(7)]
    assert len(list(reader.iter_directory("d3"))) == 44
    with pytest.raises(LimitError, match="level 4"):
        reader_of(data, levels=3)


def test_a_stream_gives_the_content_piece_by_piece() -> None:
    members = large_members()
    reader = reader_of(bundle(members))
    for path in ("sizes/unaligned", "sizes/4194304", "runs/0007/run.json"):
        with reader.open_member(path) as stream:
            pieces = []
            while piece := stream.read(1 << 18):
                pieces.append(piece)
        assert b"".join(pieces) == members[path]
        assert reader.open_member(path).read() == members[path]


def damaged_content(path: str, size: int) -> bytes:
    """Return a bundle whose member has raw frames, with one content byte changed at its end."""
    data = bundle({path: noise(size)})
    return flipped(data, data.index(noise(size)[-40:]))


@pytest.mark.parametrize("size", [5 * MIB, 9 * MIB, 20 * MIB])
def test_a_stream_of_damaged_content_raises_and_never_ends_well(size: int) -> None:
    reader = reader_of(damaged_content("a", size))
    stream = reader.open_member("a")
    got = []
    with pytest.raises(CorruptFrameError, match="frame digest is wrong"):
        got.extend(iter(lambda: stream.read(1 << 20), b""))
    assert sum(map(len, got)) < size
    with pytest.raises(CorruptFrameError, match="frame digest is wrong"):
        reader.read("a")
    assert [problem.offset is not None for problem in reader.verify().problems] == [True]


def test_more_than_the_limit_is_not_read() -> None:
    reader = reader_of(bundle({"a": noise(100_000)}))
    with pytest.raises(LimitError, match="100000 bytes, over 99999"):
        reader.read("a", limit_bytes=99_999)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"members": 6}, "7 members"),
        ({"tar_bytes": 1000}, "bytes"),
        ({"page_bytes": 100}, "root of"),
        ({"path_bytes": 20}, "path"),
    ],
)
def test_the_callers_limits_are_kept(limits: dict[str, int], message: str) -> None:
    with pytest.raises(LimitError, match=message):
        list(reader_of(bundle(SMALL), **limits).iter_members())


@pytest.mark.parametrize(
    "data", [b"", b"x", b"PK\x03\x04" * 100, b"\x28\xb5\x2f\xfd" + bytes(200), bytes(100_000)]
)
def test_another_file_is_no_bundle(data: bytes) -> None:
    with pytest.raises(NotABundleError, match="not a bundle"):
        reader_of(data)


def test_a_plain_tar_zst_is_no_bundle() -> None:
    import tarfile

    import zstandard

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with pytest.raises(NotABundleError, match="not a bundle"):
        reader_of(zstandard.compress(out.getvalue()))


def test_bytes_after_the_end_are_refused() -> None:
    data = bundle(SMALL)
    for tail in (b"\x00", b"x" * 1000, data):
        with pytest.raises((TruncatedError, CorruptFrameError)):
            reader_of(data + tail).verify()


def test_a_file_is_opened_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.mlbundle"
    path.write_bytes(bundle(SMALL))
    with ArchiveReader.open(path) as reader:
        assert reader.name == str(path)
        assert reader.read("manifest.json") == b"[]"
    assert reader._source.stream.closed
    path.write_bytes(b"no bundle")
    with pytest.raises(NotABundleError):
        ArchiveReader.open(path)


def test_a_wrong_seek_table_harms_no_reading_but_verify_tells() -> None:
    data = bundle(SMALL)
    at = data.rindex(b"\x5e\x2a\x4d\x18")
    reader = reader_of(flipped(data, at + 8))
    assert reader.read("manifest.json") == b"[]"
    assert [str(problem) for problem in reader.verify().problems] == [
        f"seek table differs from the frames (at byte {at})"
    ]


def test_without_a_seek_table_the_bundle_is_whole() -> None:
    data = bundle(SMALL)
    reader = reader_of(data[: data.rindex(b"\x5e\x2a\x4d\x18")])
    assert reader.verify().problems == []


def test_verify_goes_on_after_damage() -> None:
    members = {f"d/{n:05}": text(1500, n) for n in range(3000)}
    data = bundle(members)
    reader = reader_of(data)
    groups = [entry.offset for entry in reader._root.entries]
    bad = flipped(flipped(data, groups[0] + 70), groups[2] - 100)
    result = reader_of(bad).verify()
    assert [type(problem) for problem in result.problems] == [CorruptFrameError] * 2
    assert 800 < result.members < 2000


def test_verify_finds_a_file_that_is_also_a_directory() -> None:
    out = io.BytesIO()
    with ArchiveWriter(out, bundle_uuid=UUID_1, header=HEADER, mtime_ns=0) as writer:
        writer.add("a/b", b"1")
        writer.add("a", b"2")
        writer.finish()
    problems = ArchiveReader(out).verify().problems
    assert [str(problem) for problem in problems] == ["a: is both a file and a directory"]


OVERLAPPING = {
    "a member comes between those of a group": [["a", "c"], ["b"]],
    "a path in two groups": [["a", "b"], ["b", "c"]],
    "nodes": [["a"], ["d"], ["b"], ["c"]],
}


@pytest.mark.parametrize("paths", OVERLAPPING.values(), ids=OVERLAPPING)
def test_groups_that_overlap_are_refused_by_all_readers(paths: list[list[str]]) -> None:
    forged = [Group([Record(path, path.encode()) for path in group]) for group in paths]
    data = Bundle(forged, fanout=2).build()
    reader = reader_of(data)
    with pytest.raises(CorruptFrameError, match="overlap"):
        list(reader.iter_members())
    assert "overlap" in str(reader.verify().problems[0])
    with pytest.raises(CorruptFrameError, match="out of order"):
        read_stream(data)


def test_a_path_that_a_group_and_a_part_share_is_refused_by_all_readers() -> None:
    long = Record("b", b"1234")
    data = Bundle([Group([Record("a"), long]), part(long, 0, 2), part(long, 2, 2)]).build()
    reader = reader_of(data)
    with pytest.raises(CorruptFrameError, match="groups overlap"):
        list(reader.iter_members())
    assert "groups overlap" in str(reader.verify().problems[0])
    with pytest.raises(CorruptFrameError, match="out of order"):
        read_stream(data)


def test_nodes_of_three_levels_that_overlap_are_refused() -> None:
    forged = [Group([Record(path, path.encode())]) for path in "acegbdfh"]
    reader = reader_of(Bundle(forged, fanout=2).build())
    with pytest.raises(CorruptFrameError, match="nodes overlap"):
        list(reader.iter_members())
    assert "overlap" in str(reader.verify().problems[0])


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    members = large_members()
    path = tmp_path / "a.mlbundle"
    path.write_bytes(bundle(members))
    names = [*list(members)[::50], "sizes/unaligned", "sizes/a-group"]
    failures: list[str] = []
    for reader in (ArchiveReader.open(path), reader_of(path.read_bytes())):

        def read(first: int, reader: ArchiveReader = reader) -> None:
            for name in names[first:] + names[:first]:
                if reader.read(name) != members[name]:
                    failures.append(name)
            if len(list(reader.iter_members("runs"))) != 1500:
                failures.append("runs")

        threads = [threading.Thread(target=read, args=(first * 4,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        reader.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_frame_that_many_threads_want_is_loaded_once(
    damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(bundle({str(number): text(2000, number) for number in range(8)}))
    loads = 0
    all_ask = threading.Barrier(8)
    load = content.open_frame

    def slow(*arguments: Any) -> bytes:
        nonlocal loads
        loads += 1
        time.sleep(0.3)  # in which the others ask for it
        if damaged:
            raise CorruptFrameError("frame digest is wrong", offset=0)
        return load(*arguments)

    monkeypatch.setattr(content, "open_frame", slow)

    def read(number: int) -> bytes | None:
        all_ask.wait(30)
        try:
            return reader.read(str(number))
        except CorruptFrameError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))
    assert loads == (8 if damaged else 1)
    assert found == [None if damaged else text(2000, number) for number in range(8)]
