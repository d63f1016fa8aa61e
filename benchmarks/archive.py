"""How fast bundles are written, opened, verified and scanned, and what the index costs.

``python benchmarks/archive.py [directory]`` writes a few gigabytes below the directory (a temporary
one by default), prints one line per measurement and removes what it wrote. Contents are synthetic
documents that compress about four times. Best of three, warm cache.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import UUID

import zstandard

from mlflow_bundle.archive import ArchiveReader, ArchiveWriter, StreamReader, recover, scan_groups

HEADER = b'{"format": "mlbundle"}'
ROUNDS = 3


def documents(size: int, count: int) -> list[bytes]:
    """Return ``count`` different documents of ``size`` bytes."""
    pick = random.Random(size)
    words = [pick.randbytes(6).hex() for _ in range(4000)]
    pool = []
    for _ in range(min(count, max(2, (64 << 20) // size))):
        text = ""
        while len(text) < size:
            text += f'"{pick.choice(words)}": {pick.random():.6f}, '
        pool.append(text.encode()[: size - 8])
    return [b"%08x" % n + pool[n % len(pool)] for n in range(count)]


def best(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def write(path: Path, members: Iterable[tuple[str, bytes]], jobs: int = 2) -> None:
    with (
        path.open("wb") as file,
        ArchiveWriter(
            file, bundle_uuid=UUID(int=1), header=HEADER, mtime_ns=10**18, jobs=jobs
        ) as writer,
    ):
        for name, content in members:
            writer.add(name, content)
        writer.finish()


def measure_writing(directory: Path) -> None:
    for label, size, count in (
        ("1 KB", 1024, 200_000),
        ("10 KB", 10_240, 40_000),
        ("100 KB", 102_400, 5_000),
        ("4 MB", 4 << 20, 100),
    ):
        contents = documents(size, count)
        names = [f"experiments/{n // 20_000:03}/{n:032x}/run.json" for n in range(count)]
        path = directory / f"write-{size}.mlbundle"
        for jobs in (1, 2):
            seconds = best(
                lambda p=path, c=contents, n=names, j=jobs: write(p, zip(n, c, strict=True), j)
            )  # type: ignore[misc]
            mb = size * count / seconds / 1e6
            rate = f"{count / seconds:9,.0f} members/s {mb:7.0f} MB/s"
            print(f"write {label:>6}, {jobs} job(s): {rate}")
        with ArchiveReader.open(path) as reader:
            headers = sum(entry.header_length for entry in reader._iter_entries(b""))
            seconds = best(lambda r=reader: r.verify())  # type: ignore[misc]
            tar = reader.tar_bytes
            megabytes = reader.size / 1e6
            print(f"  {megabytes:.0f} MB in the file, {headers / count:.1f} bytes of index each")
            rate = f"{tar / seconds / 1e6:.0f} MB/s of tar, {count / seconds:,.0f} members/s"
            print(f"  verify: {rate}")
            seconds = best(lambda r=reader: sum(1 for _ in r.iter_members()))  # type: ignore[misc]
            print(f"  list: {count / seconds:,.0f} members/s")

        def stream(path: Path = path) -> None:
            with path.open("rb") as file:
                for _ in StreamReader(file):
                    pass

        print(f"  stream: {tar / best(stream) / 1e6:.0f} MB/s of tar")


def measure_large(directory: Path) -> None:
    size = 1 << 30
    for label, block in (("random", random.Random(1).randbytes(1 << 20)), ("zero", bytes(1 << 20))):
        path = directory / f"large-{label}.mlbundle"

        def run(path: Path = path, block: bytes = block) -> None:
            with (
                path.open("wb") as file,
                ArchiveWriter(
                    file, bundle_uuid=UUID(int=1), header=HEADER, mtime_ns=10**18
                ) as writer,
            ):
                writer.add_stream("big", io.BufferedReader(Repeated(block, size)), size)  # type: ignore[arg-type]
                writer.finish()

        print(f"write 1 GiB of {label} bytes: {size / best(run, 2) / 1e6:.0f} MB/s")
        with ArchiveReader.open(path) as reader:

            def read(reader: ArchiveReader = reader) -> None:
                with reader.open_member("big") as stream:
                    while stream.read(1 << 20):
                        pass

            print(f"  read it: {size / best(read, 2) / 1e6:.0f} MB/s")


class Repeated(io.RawIOBase):
    def __init__(self, block: bytes, size: int) -> None:
        self._block, self._left = block, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._left, len(self._block))
        buffer[:count] = self._block[:count]
        self._left -= count
        return count


def measure_opening(directory: Path) -> None:
    for count in (100, 10_000, 1_000_000):
        path = directory / "open.mlbundle"
        write(
            path,
            ((f"experiments/{n // 50_000:03}/{n:032x}/run.json", b"%d" % n) for n in range(count)),
        )
        name = f"experiments/{count // 2 // 50_000:03}/{count // 2:032x}/run.json"

        def run(path: Path = path, name: str = name) -> None:
            with ArchiveReader.open(path) as reader:
                reader.read(name)

        print(f"open and read one of {count:9,} members: {best(run, 20) * 1000:.1f} ms")
    tracemalloc.start()
    run()
    print(f"  memory at its peak: {tracemalloc.get_traced_memory()[1] / 1e6:.1f} MB")
    tracemalloc.stop()
    with ArchiveReader.open(path) as reader:
        start = time.perf_counter()
        names = list(reader.iter_directory("experiments"))
        milliseconds = (time.perf_counter() - start) * 1000
        print(f"list {len(names)} directories over 1,000,000 members: {milliseconds:.1f} ms")


def measure_recovery(directory: Path) -> None:
    for label in ("write-102400", "large-random"):
        path = directory / f"{label}.mlbundle"
        with path.open("rb") as file:
            seconds = best(lambda f=file: scan_groups(f))  # type: ignore[misc]
        print(
            f"scan {label}: {path.stat().st_size / seconds / 1e9:.1f} GB/s, {seconds * 1000:.1f} ms"
        )
    path = directory / "write-102400.mlbundle"
    with path.open("rb") as file, (directory / "recovered").open("wb") as out:
        start = time.perf_counter()
        recover(file, out)
        print(
            f"recover 500 MB of documents: {0.512 / (time.perf_counter() - start) * 1000:.0f} MB/s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    directory = Path(tempfile.mkdtemp(dir=parser.parse_args().directory))
    print(
        f"Python {platform.python_version()}, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    try:
        measure_writing(directory)
        measure_large(directory)
        measure_opening(directory)
        measure_recovery(directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
