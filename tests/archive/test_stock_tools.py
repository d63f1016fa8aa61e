"""A bundle is an ordinary .tar.zst to programs that know nothing of us."""

from __future__ import annotations

import importlib
import importlib.util
import io
import itertools
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from mlflow_bundle.archive import ArchiveReader
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


FEATURES: dict[str, Members] = {
    "links": {"same/one": text(5000, 7), "same/three": text(5000, 7), "same/two": text(5000, 7)},
    "empty files": {"none/a": b"", "none/b": b""},
    "long names": {f"long/{'x' * 120}/{'y' * 200}/z": text(700), f"long/{'n' * 255}": b"n"},
    "names beyond ASCII": {"caf\u00e9/\u96ea/\U0001f600": text(900)},
    "many frames": {f"many/{n:05}": text(25_000, n) for n in range(60)},
    "members over groups": {"over/noise": noise(8 * MIB + 5), "over/text": text(5 * MIB)},
}
"""What a bundle may hold, as far as a program that reads tar meets it."""

BUNDLES: list[tuple[str, Members]] = [
    (
        " and ".join(chosen),
        {k: v for name in chosen for k, v in FEATURES[name].items()},
    )
    for number in range(len(FEATURES) + 1)
    for chosen in itertools.combinations(FEATURES, number)
]
"""One for each combination of features."""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path, Members]]:
    """Names, bundles and contents; ours agrees about each."""
    directory = tmp_path_factory.mktemp("matrix")
    made = []
    for number, (name, members) in enumerate(BUNDLES):
        path = directory / f"{number}.mlbundle"
        path.write_bytes(bundle(members, level=1))
        with path.open("rb") as stream:
            reader = ArchiveReader(stream)
            assert reader.verify().problems == []
            assert {m: reader.read(m, limit_bytes=16 * MIB) for m in members} == members
        made.append((name, path, members))
    return made


EXTRACT = {
    "tar finds zstd by itself": ("tar", "tar -C {out} -xf {path}"),
    "tar --zstd": ("tar", "tar -C {out} --zstd -xf {path}"),
    "zstd into tar": ("zstd", "zstd -dc {path} | tar -C {out} -xf -"),
    "bsdtar": ("bsdtar", "bsdtar -C {out} -xf {path}"),
    "busybox": ("busybox", "zstd -dc {path} | busybox tar -C {out} -xf -"),
    "7zz": ("7zz", "zstd -dc {path} | 7zz x -bd -bso0 -y -ttar -si -o{out}"),
}


@pytest.mark.parametrize("way", EXTRACT)
def test_a_tool_extracts_every_member_of_every_combination(
    way: str,
    matrix: list[tuple[str, Path, Members]],
    tmp_path: Path,
    prerequisite: Callable[[object, str], None],
) -> None:
    tool, command = EXTRACT[way]
    prerequisite(shutil.which(tool), tool)
    prerequisite(shutil.which("zstd"), "zstd")
    for name, path, members in matrix:
        out = tmp_path / path.stem
        out.mkdir()
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.format(out=out, path=path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        assert tree(out) == members, name
        shutil.rmtree(out)


def test_the_seekable_reader_of_pyzstd_reads_anywhere(
    matrix: list[tuple[str, Path, Members]], prerequisite: Callable[[object, str], None]
) -> None:
    prerequisite(importlib.util.find_spec("pyzstd"), "pyzstd")
    pyzstd = importlib.import_module("pyzstd")
    for name, path, _ in matrix:
        with path.open("rb") as raw:
            whole = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
        with pyzstd.SeekableZstdFile(path) as stream:
            for start in range(0, len(whole), max(len(whole) // 5, 1)):
                stream.seek(start)
                assert stream.read(1000) == whole[start : start + 1000], name
            assert stream.seek(0, io.SEEK_END) == len(whole), name


def test_ratarmount_reads_each_member(
    matrix: list[tuple[str, Path, Members]], prerequisite: Callable[[object, str], None]
) -> None:
    prerequisite(importlib.util.find_spec("ratarmountcore"), "ratarmountcore")
    prerequisite(importlib.util.find_spec("indexed_zstd"), "indexed_zstd")
    factory = importlib.import_module("ratarmountcore.mountsource.factory")
    for name, path, members in matrix:
        with factory.open_mount_source(str(path), writeIndex=False) as source:
            for member, content in members.items():
                info = source.lookup(f"/{member}")
                if info.linkname:  # which its mount, not its library, follows
                    info = source.lookup(f"/{info.linkname}")
                with source.open(info) as stream:
                    assert stream.read() == content, (name, member)


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
