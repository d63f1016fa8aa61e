from __future__ import annotations

import io
import tarfile

import pytest

from mlflow_bundle.archive import tar
from mlflow_bundle.errors import CorruptFrameError

SECOND = 1_000_000_000
CASES = {
    "plain": ("a/b.txt", 7, 5 * SECOND, 0o644, None),
    "name of 100 bytes": ("x" * 100, 7, 5 * SECOND, 0o644, None),
    "name of 101 bytes": ("d/" + "x" * 99, 7, 5 * SECOND, 0o644, None),
    "name cut behind a slash": ("x" * 99 + "/yy", 7, 5 * SECOND, 0o644, None),
    "name cut inside a character": ("x" * 99 + "\u00e9", 7, 5 * SECOND, 0o644, None),
    "name beyond ASCII": ("caf\u00e9", 7, 5 * SECOND, 0o644, None),
    "fraction of a second": ("a", 7, 1_700_000_000_123_456_789, 0o644, None),
    "milliseconds": ("a", 7, 1_700_000_000_120_000_000, 0o600, None),
    "largest octal size": ("a", tar.MAX_OCTAL_SIZE, 0, 0o644, None),
    "8 GiB": ("a", tar.MAX_OCTAL_SIZE + 1, 0, 0o644, None),
    "9 EiB less one": ("a", 2**63 - 1, 0, 0o644, None),
    "last mtime": ("a", 1, tar.MAX_MTIME_NS, 0o644, None),
    "link": ("b", 7, 5 * SECOND, 0o644, "a"),
    "link to a long name": ("b", 7, 5 * SECOND, 0o644, "a/" + "x" * 120),
    "link to a large member": ("b", 9 << 30, 5 * SECOND, 0o644, "a"),
    "record whose length gains a digit": ("x" * 101 + "y" * 889, 7, 0, 0o644, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_standard_library_reads_what_we_render(case: str) -> None:
    path, size, mtime_ns, mode, link = CASES[case]
    blocks = tar.render_header(path, size, mtime_ns, mode, link)
    assert len(blocks) == tar.header_length(path, size, mtime_ns, link)
    with tarfile.open(fileobj=io.BytesIO(blocks + bytes(1024)), mode="r:") as archive:
        entry = archive.next()
    assert entry is not None
    assert entry.name == path
    assert entry.mode == mode
    assert entry.mtime == pytest.approx(mtime_ns / SECOND)
    assert entry.linkname == (link or "")
    assert entry.islnk() == (link is not None)
    assert entry.size == (0 if link else size)
    assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")


@pytest.mark.parametrize("case", CASES)
def test_the_second_parser_agrees(case: str) -> None:
    path, size, mtime_ns, mode, link = CASES[case]
    blocks = tar.render_header(path, size, mtime_ns, mode, link)
    assert tar.parse_header(b"\xff" * 512 + blocks, 512) == (
        path,
        0 if link else size,
        mtime_ns,
        mode,
        link,
        len(blocks),
    )


def test_a_plain_header_equals_the_standard_librarys() -> None:
    info = tarfile.TarInfo("a/b.txt")
    info.size, info.mtime, info.mode = 7, 5, 0o644
    expected = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    expected[329:345] = b"0000000\x000000000\x00"  # device numbers: we write zeros in octal
    expected[148:156] = b"        "
    expected[148:156] = b"%06o\x00 " % sum(expected)
    assert tar.render_header("a/b.txt", 7, 5 * SECOND, 0o644, None) == bytes(expected)


def test_a_size_from_8_gib_on_stands_in_base_256_and_in_pax() -> None:
    blocks = tar.render_header("a", 8 << 30, 0, 0o644, None)
    assert blocks[512:].startswith(b"19 size=8589934592\n")
    assert blocks[1024 + 124 : 1024 + 136] == b"\x80" + (8 << 30).to_bytes(11, "big")


def test_mtime_fraction_has_no_trailing_zeros() -> None:
    blocks = tar.render_header("a", 0, 1_700_000_000_120_000_000, 0o644, None)
    assert blocks[512:].startswith(b"23 mtime=1700000000.12\n")


@pytest.mark.parametrize("flaw", [0, 124, 150, 156, 257, 300, 400])
def test_the_second_parser_refuses_a_changed_header(flaw: int) -> None:
    blocks = bytearray(tar.render_header("a", 7, 0, 0o644, None))
    blocks[flaw] ^= 0x40
    with pytest.raises(CorruptFrameError, match="malformed tar header"):
        tar.parse_header(bytes(blocks), 0)


@pytest.mark.parametrize(
    "records",
    [
        b"99 path=a\n",
        b"10 path=ab\n",
        b"9 path=a\n9 path=b\n",
        b"11 uname=ab\n",
        b"11 path=a\x00b\n",
        b"path=a\n",
        b"0 path=a\n",
        b"10 size=8\n",
    ],
)
def test_the_second_parser_refuses_odd_pax_records(records: bytes) -> None:
    first = tar._ustar(b"pax", 0o644, len(records), 0, b"x", b"")
    second = tar._ustar(b"a", 0o644, 7, 0, b"0", b"")
    with pytest.raises(CorruptFrameError, match="malformed tar header"):
        tar.parse_header(first + records + tar.padding(len(records)) + second, 0)
