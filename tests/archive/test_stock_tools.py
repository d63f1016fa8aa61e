"""A bundle is an ordinary .tar.zst to programs that know nothing of us."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.archive.bundles import MIB, SMALL, Members, bundle, noise, text

MEMBERS: Members = (
    SMALL
    | {f"many/{n:05}": text(1500, n) for n in range(1100)}
    | {"large/over-a-group": noise(9 * MIB + 5), "large/solid": text(5 * MIB)}
    | {"same/one": text(5000, 7), "same/two": text(5000, 7)}
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stock") / "server.mlbundle"
    path.write_bytes(bundle(MEMBERS))
    return path


def tree(directory: Path) -> Members:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.name != "bundle.json"
    }


EXTRACT = {
    "tar finds zstd by itself": ("tar", "tar -C {out} -xf {path}"),
    "tar --zstd": ("tar", "tar -C {out} --zstd -xf {path}"),
    "zstd into tar": ("zstd", "zstd -dc {path} | tar -C {out} -xf -"),
    "bsdtar": ("bsdtar", "bsdtar -C {out} -xf {path}"),
}


@pytest.mark.parametrize("way", EXTRACT)
def test_a_tool_extracts_every_member(
    way: str, path: Path, tmp_path: Path, prerequisite: Callable[[object, str], None]
) -> None:
    tool, command = EXTRACT[way]
    prerequisite(shutil.which(tool), tool)
    prerequisite(shutil.which("zstd"), "zstd")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.format(out=tmp_path, path=path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(tmp_path) == MEMBERS


def test_tar_lists_names_sizes_and_times(path: Path) -> None:
    listing = subprocess.run(
        ["tar", "--zstd", "--full-time", "--utc", "-tvf", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(listing) == len(MEMBERS) + 1
    assert listing[0].startswith("-rw-r--r-- 0/0")
    assert "2023-11-14 22:13:20 .mlbundle/bundle.json" in listing[0]
    assert any(line.startswith("hrw-r--r--") and "link to same/one" in line for line in listing)


def test_zstd_tests_the_stream(path: Path, prerequisite: Callable[[object, str], None]) -> None:
    prerequisite(shutil.which("zstd"), "zstd")
    subprocess.run(["zstd", "-q", "-t", "--no-progress", path], check=True)
    subprocess.run(["zstd", "-q", "-l", path], check=True, capture_output=True)


def test_python_reads_it_as_tar(path: Path) -> None:
    contents: Members = {}
    with (
        path.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream,
    ):
        data = stream.read()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            contents[entry.name] = file.read()
    contents.pop(".mlbundle/bundle.json")
    assert contents == MEMBERS
    assert data.endswith(bytes(1024))


def test_each_frame_has_its_entry_in_the_seek_table(path: Path) -> None:
    """What zstd's own seekable decoder does: sum the table up and decompress one frame."""
    data = path.read_bytes()
    count = int.from_bytes(data[-9:-5], "little")
    table = data[-9 - 8 * count : -9]
    entries = [
        (
            int.from_bytes(table[at : at + 4], "little"),
            int.from_bytes(table[at + 4 : at + 8], "little"),
        )
        for at in range(0, len(table), 8)
    ]
    assert sum(length for length, _ in entries) + 17 + 8 * count == len(data)
    at = 0
    for length, size in entries:
        frame = data[at : at + length]
        at += length
        if size == 0:
            assert frame[:4] == b"\x5b\x2a\x4d\x18"
            assert int.from_bytes(frame[4:8], "little") + 8 == length
        else:
            assert len(zstandard.ZstdDecompressor().decompress(frame)) == size
