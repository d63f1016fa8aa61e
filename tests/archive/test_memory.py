"""Memory stays bounded whatever the size of a member, in the writer and in the readers."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import io, os, resource, sys
from mlflow_bundle.archive import ArchiveReader, ArchiveWriter, StreamReader
from tests.archive.bundles import HEADER, MTIME_NS, UUID_1, noise

class Source(io.RawIOBase):
    def __init__(self, size, block):
        self.left, self.block = size, block
    def read(self, size=-1, /):
        assert 0 <= size <= len(self.block), size
        size = min(size, self.left)
        self.left -= size
        return self.block[:size]

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10

path, kind = sys.argv[1:]
size = 1 << 28
block = noise(1 << 20) if kind == "random" else bytes(1 << 20)
before = rss()
with open(path, "wb") as file, ArchiveWriter(
    file, bundle_uuid=UUID_1, header=HEADER, mtime_ns=MTIME_NS
) as writer:
    writer.add_stream("big", Source(size, block), size)
    writer.finish()
print("write", peak() - before)
with ArchiveReader.open(path) as reader:
    with reader.open_member("big") as stream:
        got = 0
        while piece := stream.read(1 << 20):
            got += len(piece)
    assert got == size
print("read", peak() - before)
with open(path, "rb") as file:
    for member, pieces in StreamReader(file):
        assert sum(map(len, pieces)) == size
print("stream", peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["zeros", "random"])
def test_a_member_of_256_mebibytes_takes_little_memory(kind: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "big"), kind],
        capture_output=True,
        text=True,
        cwd=os.getcwd(),
        check=True,
    )
    peaks = {name: int(mib) for name, mib in (line.split() for line in done.stdout.splitlines())}
    assert peaks["write"] < 120
    assert peaks["stream"] < 140


def test_the_window_of_contents_forgets() -> None:
    from mlflow_bundle.archive.dedup import ContentIds, ContentWindow
    from mlflow_bundle.archive.member import Member

    window = ContentWindow(size=8)
    for n in range(100):
        window.add(bytes([n]), str(n), n)
    assert [n for n in range(100) if window.find(bytes([n]))] == [92, 93, 94, 95, 96, 97, 98, 99]
    ids = ContentIds(size=3)
    member = Member(path="a", size=1, mtime_ns=0, mode=0o644, digest=b"")
    for n in range(10):
        ids.add(n, member)
    assert [n for n in range(10) if ids.find(n, 1)] == [7, 8, 9]
    assert ids.find(9, 2) is None


def test_the_double_refuses_what_the_writer_never_asks() -> None:
    from tests.archive.bundles import Pipe

    with pytest.raises(AssertionError, match="unbounded"):
        Pipe(b"abc").read()
    assert not isinstance(Pipe(), io.BufferedIOBase)
