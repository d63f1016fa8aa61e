"""What is particular to reading without seeking."""

from __future__ import annotations

import pytest

from mlflow_bundle.archive import Limits, StreamReader
from mlflow_bundle.errors import CorruptFrameError, LimitError, NotABundleError
from tests.archive.bundles import MIB, SMALL, Pipe, bundle, flipped, large_members, noise


def test_contents_that_the_caller_leaves_are_checked_all_the_same() -> None:
    data = bundle({"a": noise(9 * MIB), "b": noise(5 * MIB, 1)})
    assert [member.path for member, _ in StreamReader(Pipe(data))] == ["a", "b"]
    bad = flipped(data, data.index(noise(9 * MIB)[-40:]))
    with pytest.raises(CorruptFrameError, match="frame digest"):
        [member.path for member, _ in StreamReader(Pipe(bad))]


def test_a_member_may_be_left_half_read() -> None:
    members = large_members()
    for member, pieces in StreamReader(Pipe(bundle(members))):
        assert members[member.path].startswith(bytes(next(pieces, b"")))


def test_the_digest_of_a_spanning_member_is_not_known_at_its_start() -> None:
    (member, _), *_ = list(StreamReader(Pipe(bundle({"a": noise(9 * MIB)}))))
    assert (member.size, member.digest) == (9 * MIB, b"")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(members=6), "members"),
        (Limits(tar_bytes=2000), "bytes"),
        (Limits(page_bytes=99), "page"),
    ],
)
def test_the_callers_limits_are_kept(limits: Limits, message: str) -> None:
    with pytest.raises(LimitError, match=message):
        list(StreamReader(Pipe(bundle(SMALL)), limits=limits))


def test_another_stream_is_no_bundle() -> None:
    for data in (b"", b"PK\x03\x04" * 9, b"\x28\xb5\x2f\xfd\x24\x00" + bytes(99)):
        with pytest.raises(NotABundleError, match="not a bundle"):
            StreamReader(Pipe(data))


def test_bytes_after_the_end_are_refused() -> None:
    data = bundle(SMALL)
    for tail in (b"\x00", data):
        with pytest.raises(CorruptFrameError, match="seek table"):
            list(StreamReader(Pipe(data + tail)))


def test_a_directory_of_many_levels_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_bundle.archive.index.FANOUT", 4)
    monkeypatch.setattr("mlflow_bundle.archive.writer.GROUP_MEMBERS", 3)
    for count in (0, 3, 12, 13, 48, 49, 150, 192):
        data = bundle({f"{n:04}": b"%d" % n for n in range(count)})
        assert len(list(StreamReader(Pipe(data)))) == count
