from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_bundle.archive import (
    ArchiveReader,
    ArchiveWriter,
    FinishedBundleError,
    order_key,
    recover,
    scan_groups,
)
from mlflow_bundle.errors import (
    CorruptFrameError,
    FormatError,
    NotABundleError,
    TruncatedError,
)
from tests.archive.bundles import (
    HEADER,
    MIB,
    MTIME_NS,
    UUID_1,
    Members,
    bundle,
    flipped,
    noise,
    text,
)
from tests.vectors.forge import Bundle, Group, Record, part

VECTORS = Path(__file__).parents[1] / "vectors"


@functools.cache
def sample() -> tuple[Members, bytes]:
    members = {f"a/{n:05}": text(1200 + n % 300, n % 2000) for n in range(3000)}
    members |= {f"b/{n}": noise(9 * MIB + n, n) for n in range(2)}
    members |= {f"c/{n:05}": text(1200 + n % 300, n) for n in range(1500)}
    members["d"] = noise(5 * MIB, 9)
    return members, bundle(members)


def go_on(stream: io.BytesIO, members: Members) -> None:
    with ArchiveWriter.resume(stream) as writer:
        done = order_key(writer.last_path) if writer.last_path else b""
        for path, content in members.items():
            if order_key(path) > done:
                writer.add(path, content)
        writer.finish()


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_bundle_is_resumed_to_the_same_bytes(seed: int) -> None:
    members, data = sample()
    stream = io.BytesIO(data[: random.Random(seed).randrange(60_000, len(data) - 200)])
    go_on(stream, members)
    assert stream.getvalue() == data


def test_a_cut_at_and_around_every_group_is_resumed_to_the_same_bytes() -> None:
    members = {f"a/{n:05}": text(1200, n) for n in range(2100)} | {"b": noise(17 * MIB)}
    data = bundle(members)
    for entry in ArchiveReader(io.BytesIO(data))._root.entries[1:]:
        for shift in (-1, 0, 63, 64, entry.header_length):
            stream = io.BytesIO(data[: entry.offset + shift])
            go_on(stream, members)
            assert stream.getvalue() == data


def test_a_damaged_last_group_is_written_again() -> None:
    members, data = sample()
    cut = len(data) * 2 // 3
    stream = io.BytesIO(data[:cut])
    end = scan_groups(stream).end
    stream = io.BytesIO(flipped(data[:cut], end - 5))
    go_on(stream, members)
    assert stream.getvalue() == data


def test_zeros_after_a_power_loss_are_cut_off() -> None:
    members, data = sample()
    stream = io.BytesIO(data[:1_000_000] + bytes(2_000_000))
    go_on(stream, members)
    assert stream.getvalue() == data


def test_a_complete_bundle_is_not_resumed() -> None:
    with pytest.raises(FinishedBundleError, match="nothing to resume"):
        ArchiveWriter.resume(io.BytesIO(bundle({"a": b""})))


def test_what_has_no_first_frame_is_not_resumed() -> None:
    with pytest.raises(NotABundleError, match="not a bundle"):
        ArchiveWriter.resume(io.BytesIO(b""))
    with pytest.raises(FormatError):
        ArchiveWriter.resume(io.BytesIO(bundle({"a": b""})[:600]))


def test_without_a_group_the_header_must_name_the_bundle() -> None:
    named, nameless = io.BytesIO(), io.BytesIO()
    for out, header in ((named, HEADER), (nameless, b"{}")):
        with ArchiveWriter(out, bundle_uuid=UUID_1, header=header, mtime_ns=MTIME_NS):
            pass
    go_on(named, {"a": b"1"})
    assert named.getvalue() == bundle({"a": b"1"})
    nameless.write(b"rest")
    with pytest.raises(TruncatedError, match="no whole group"):
        ArchiveWriter.resume(nameless)
    assert nameless.getvalue().endswith(b"rest")


def test_a_scan_tells_where_a_file_stops_being_whole() -> None:
    _members, data = sample()
    reader = ArchiveReader(io.BytesIO(data))
    entries = reader._root.entries
    scan = scan_groups(io.BytesIO(data))
    assert (scan.groups, scan.header, scan.uuid) == (len(entries), HEADER, UUID_1)
    assert scan.end == reader._trailer.directory_offset - 11
    assert scan.last_path == "d"
    last = entries[2]
    scan = scan_groups(io.BytesIO(data[: last.offset + 100]))
    assert (scan.groups, scan.end, scan.next_sequence) == (2, last.offset, 2)
    assert isinstance(scan.stopped_by, TruncatedError)
    scan = scan_groups(io.BytesIO(flipped(data, last.offset + 100)))
    assert (scan.groups, scan.end) == (2, last.offset)
    assert isinstance(scan.stopped_by, CorruptFrameError)


def test_an_unfinished_large_member_is_dropped() -> None:
    data = bundle({"a": b"1", "b": noise(30 * MIB)})
    entries = ArchiveReader(io.BytesIO(data))._root.entries
    assert len(entries) == 5
    scan = scan_groups(io.BytesIO(data[: entries[4].offset]))
    assert (scan.groups, scan.last_path) == (1, "a")


KILLED = """
import sys, uuid
from mlflow_bundle.archive import ArchiveWriter, order_key
from tests.archive.test_recovery import kill_members
from tests.archive.bundles import HEADER, MTIME_NS, UUID_1
path, resume = sys.argv[1], sys.argv[2] == "resume"
if resume:
    stream = open(path, "r+b")
    writer = ArchiveWriter.resume(stream)
else:
    stream = open(path, "wb", buffering=0)
    writer = ArchiveWriter(stream, bundle_uuid=UUID_1, header=HEADER, mtime_ns=MTIME_NS)
done = order_key(writer.last_path) if writer.last_path else b""
for name, content in kill_members():
    if order_key(name) > done:
        writer.add(name, content)
writer.finish()
writer.close()
"""


def kill_members() -> list[tuple[str, bytes]]:
    members = [(f"a/{n:05}", text(3000, n % 50) + b"%d" % n) for n in range(6000)]
    members += [(f"b/{n}", noise(9 * MIB, n)) for n in range(8)]
    return members


@pytest.mark.slow
def test_a_killed_writer_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    killed = 0
    for delay in (0.0, 0.15):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", KILLED, path, "new"], cwd=os.getcwd())
        while not path.exists() or path.stat().st_size < 300_000:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            ArchiveReader.open(path).close()
        except TruncatedError:
            killed += 1
            subprocess.run(
                [sys.executable, "-c", KILLED, path, "resume"], cwd=os.getcwd(), check=True
            )
        assert path.read_bytes() == bundle(dict(kill_members()))
    assert killed


def recovered(data: bytes, **options: bytes) -> tuple[Members, list[FormatError]]:
    out = io.BytesIO()
    result = recover(io.BytesIO(data), out, **options)  # type: ignore[arg-type]
    reader = ArchiveReader(out)
    assert reader.verify().problems == []
    assert reader.members == result.members
    return {member.path: reader.read(member) for member in reader.iter_members()}, result.problems


def test_a_sound_bundle_is_recovered_byte_for_byte() -> None:
    _, data = sample()
    out = io.BytesIO()
    result = recover(io.BytesIO(data), out)
    assert (out.getvalue(), result.problems, result.complete) == (data, [], True)


def test_a_cut_bundle_gives_up_only_what_is_cut() -> None:
    members, data = sample()
    entries = ArchiveReader(io.BytesIO(data))._root.entries
    contents, problems = recovered(data[: entries[3].offset])
    assert list(contents) == list(members)[: sum(entry.members for entry in entries[:3])]
    assert [type(problem) for problem in problems] == [TruncatedError]


def test_a_damaged_frame_costs_its_members_and_names_them() -> None:
    members, data = sample()
    entry = ArchiveReader(io.BytesIO(data))._root.entries[1]
    contents, problems = recovered(flipped(data, entry.offset + entry.header_length + 99))
    assert contents.items() <= members.items()
    lost = members.keys() - contents.keys()
    assert 0 < len(lost) < 700
    assert lost == {problem.path for problem in problems}


def test_a_damaged_header_costs_its_group() -> None:
    members, data = sample()
    entries = ArchiveReader(io.BytesIO(data))._root.entries
    for flaw in (0, 8, 30, 80):
        contents, problems = recovered(flipped(data, entries[1].offset + flaw))
        assert contents.items() <= members.items()
        assert len(members) - len(contents) >= 1024
        assert problems[0].offset == entries[1].offset


def test_a_damaged_part_costs_the_large_member_alone() -> None:
    members, data = sample()
    entries = [
        e for e in ArchiveReader(io.BytesIO(data))._root.entries if e.key == order_key("b/1")
    ]
    for entry in entries:
        contents, problems = recovered(flipped(data, entry.offset + entry.header_length + 99))
        assert members.keys() - contents.keys() == {"b/1"}
        assert [problem.path for problem in problems] == ["b/1"]


def test_a_damaged_first_frame_needs_a_header_from_the_caller() -> None:
    data = flipped(bundle({"a": b"1", "b": text(2000)}), 700)
    with pytest.raises(FormatError):
        recover(io.BytesIO(data), io.BytesIO())
    contents, problems = recovered(data, header=HEADER)
    assert contents == {"a": b"1", "b": text(2000)}
    assert problems


def test_a_first_frame_of_another_bundle_needs_a_header_from_the_caller() -> None:
    data = (VECTORS / "header-of-another-bundle.mlbundle").read_bytes()
    with pytest.raises(CorruptFrameError, match="belongs to the bundle"):
        recover(io.BytesIO(data), io.BytesIO())
    out = io.BytesIO()
    result = recover(io.BytesIO(data), out, header=b"{}")
    assert "belongs to the bundle" in str(result.problems[0])
    assert result.members == 4
    assert ArchiveReader(out).verify().problems == []


def test_a_file_with_the_path_of_a_directory_is_lost() -> None:
    paths = ["a/b/c", "a/b", "a/e", "d/b", "a", "b", "e"]
    records = [Record(path, path.encode()) for path in paths]
    forged = [Group(records[:3]), Group(records[3:])]
    out = io.BytesIO()
    result = recover(io.BytesIO(Bundle(forged).build()), out)
    assert [str(p) for p in result.problems] == [
        f"{path}: is both a file and a directory" for path in ("a/b", "a")
    ]
    saved = ArchiveReader(out)
    assert [member.path for member in saved.iter_members()] == ["a/b/c", "a/e", "d/b", "b", "e"]
    assert saved.verify().problems == []


def test_groups_that_overlap_are_passed_over() -> None:
    forged = [Group([Record("a"), Record("b", b"1")]), Group([Record("b", b"2")])]
    out = io.BytesIO()
    result = recover(io.BytesIO(Bundle(forged).build()), out)
    assert "group is out of order" in str(result.problems[0])
    saved = ArchiveReader(out)
    assert saved.read("b") == b"1"
    assert saved.verify().problems == []


def test_a_part_behind_its_member_is_passed_over() -> None:
    long = Record("b", b"1234")
    for before in ([Group([Record("a"), long])], [part(long, 0, 2), part(long, 2, 2)]):
        out = io.BytesIO()
        result = recover(io.BytesIO(Bundle([*before, part(long, 3, 1)]).build()), out)
        assert "b: a part of the member is missing" in str(result.problems[0])
        saved = ArchiveReader(out)
        assert saved.read("b") == b"1234"
        assert saved.verify().problems == []


def test_random_damage_never_ends_in_another_exception() -> None:
    members, data = sample()
    pick = random.Random(1)
    for _ in range(4):
        bad = data
        for _ in range(3):
            bad = flipped(bad, pick.randrange(len(bad)), 1 << pick.randrange(8))
        contents, _ = recovered(bad, header=HEADER)
        assert contents.items() <= members.items()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["body-missing-key", "path-parent", "part-missing-middle"])
def test_a_group_that_is_whole_and_makes_no_sense_is_passed_over(name: str) -> None:
    data = (VECTORS / f"{name}.mlbundle").read_bytes()
    with contextlib.suppress(FormatError):
        assert recover(io.BytesIO(data), io.BytesIO(), header=HEADER).problems
