"""Export from and import into databases, beside the raw dump and restore of the same data.

The raw tools copy everything or nothing: ``sqlite3 .dump`` or ``pg_dump -Fc``, and ``tar`` with
``zstd -T2 -3`` for the artifacts. Both ways run one after the other on the same server.

PostgreSQL is measured where ``--postgresql URI`` names a server on which databases may be made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rest import machine
from benchmarks.server import Scale, add_scale_options, make_server, scale_from
from tests.servers import prepare_directory

SCALE = Scale(runs=2000, steps=100, artifact_mb=1000, traces=10_000)
"""The server of the promised ratios."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table."""

    what: str
    seconds: float
    peak_mb: float


def measure(what: str, *commands: str | list[str], environment: dict[str, str]) -> Measured:
    """Run commands one after the other; a text runs in a shell. Fail when one fails.

    The disk has written before what earlier commands left it to write.
    """
    os.sync()
    seconds, peak_mb = 0.0, 0.0
    for command in commands:
        words = command
        if isinstance(command, str):
            words = ["bash", "-c", f"set -o pipefail; {command}"]
        start = time.perf_counter()
        process = subprocess.Popen(words, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds += time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{command}: exit code {process.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
        peak_mb = max(peak_mb, usage.ru_maxrss * unit / 1e6)
    return Measured(what=what, seconds=seconds, peak_mb=peak_mb)


def bundle_command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "mlflow_bundle", *map(str, words), "--quiet"]


@contextmanager
def emptied(*paths: Path) -> Iterator[None]:
    """Remove what earlier measurements left there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    yield


def measure_sqlite(directory: Path, environment: dict[str, str]) -> list[Measured]:
    """Export and import SQLite both ways; the source stays in ``directory``."""
    source, raw, ours = (directory / name for name in ("source", "raw", "ours"))
    bundle = directory / "sqlite.mlbundle"
    dump, files = directory / "dump.sql.zst", directory / "artifacts.tar.zst"
    rows = []
    with emptied(raw, ours, bundle, dump, files):
        rows.append(
            measure(
                "sqlite: raw dump",
                f"sqlite3 {source / 'mlflow.db'} .dump | zstd -q -T2 -o {dump}",
                f"tar -C {source} -I 'zstd -T2 -3' -cf {files} artifacts",
                environment=environment,
            )
        )
        rows.append(
            measure(
                "sqlite: export-all",
                bundle_command(
                    *("export-all", "-o", bundle),
                    *("--tracking-uri", f"sqlite:///{source / 'mlflow.db'}"),
                    *("--artifacts-destination", source / "artifacts"),
                ),
                environment=environment,
            )
        )
        raw.mkdir()
        rows.append(
            measure(
                "sqlite: raw restore",
                f"zstd -q -dc {dump} | sqlite3 {raw / 'mlflow.db'}",
                f"tar -C {raw} -I zstd -xf {files}",
                environment=environment,
            )
        )
        database, artifacts = prepare_directory(ours)
        rows.append(
            measure(
                "sqlite: import-all",
                bundle_command(
                    *("import-all", bundle, "--tracking-uri", f"sqlite:///{database}"),
                    *("--artifacts-destination", artifacts),
                ),
                environment=environment,
            )
        )
    return rows


def measure_postgresql(directory: Path, uri: str, environment: dict[str, str]) -> list[Measured]:
    """The same on PostgreSQL; what is imported from SQLite's bundle is the source."""
    bundle = directory / "sqlite.mlbundle"
    again, dump = directory / "postgresql.mlbundle", directory / "dump.pg"
    files = directory / "artifacts-pg.tar.zst"
    artifacts, raw, ours = (directory / f"pg-{name}" for name in ("artifacts", "raw", "ours"))
    names = {name: f"mlflow_bundle_benchmark_{name}" for name in ("source", "raw", "ours")}
    server = uri.rpartition("/")[0]
    rows = []

    def imported(what: str, file: Path, database: str, root: Path) -> Measured:
        return measure(
            what,
            bundle_command(
                *("import-all", file, "--tracking-uri", f"{server}/{database}"),
                *("--artifacts-destination", root),
            ),
            environment=environment,
        )

    def psql(statement: str) -> None:
        subprocess.run(["psql", "-q", uri, "-c", statement], check=True)

    for name in names.values():
        psql(f"DROP DATABASE IF EXISTS {name}")
        psql(f"CREATE DATABASE {name}")
    try:
        with emptied(artifacts, raw, ours, again, dump, files):
            for path in (artifacts, raw, ours):
                path.mkdir()
            imported("source", bundle, names["source"], artifacts)
            source = f"{server}/{names['source']}"
            subprocess.run(["psql", "-q", source, "-c", "ANALYZE"], check=True)
            rows.append(
                measure(
                    "postgresql: raw dump",
                    f"pg_dump -Fc -f {dump} {source}",
                    f"tar -C {artifacts} -I 'zstd -T2 -3' -cf {files} .",
                    environment=environment,
                )
            )
            rows.append(
                measure(
                    "postgresql: export-all",
                    bundle_command(
                        *("export-all", "-o", again),
                        *("--tracking-uri", source, "--artifacts-destination", artifacts),
                    ),
                    environment=environment,
                )
            )
            rows.append(
                measure(
                    "postgresql: raw restore",
                    f"pg_restore -d {server}/{names['raw']} {dump}",
                    f"tar -C {raw} -I zstd -xf {files}",
                    environment=environment,
                )
            )
            rows.append(imported("postgresql: import-all", again, names["ours"], ours))
    finally:
        for name in names.values():
            psql(f"DROP DATABASE IF EXISTS {name}")
    return rows


def print_table(scale: Scale, rows: list[Measured]) -> None:
    print(
        f"\n{scale.runs} runs x {scale.keys} metrics x {scale.steps} steps"
        f" = {scale.metric_rows:,} points; {scale.files} files, {scale.artifact_mb:g} MB;"
        f" {scale.traces} traces x {scale.spans} spans"
    )
    print(machine())
    print(f"\n{'':26}{'seconds':>9}{'peak MB':>9}{'/ raw':>8}")
    for raw, ours in zip(rows[::2], rows[1::2], strict=True):
        for row in (raw, ours):
            ratio = "" if row is raw else f"{row.seconds / raw.seconds:.2f}"
            print(f"{row.what:26}{row.seconds:>9.1f}{row.peak_mb:>9.0f}{ratio:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_scale_options(parser, SCALE)
    parser.add_argument("--postgresql", metavar="URI", help="measure this server too")
    parser.add_argument("--directory", type=Path, help="work here and leave everything there")
    options = parser.parse_args()
    scale = scale_from(options)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="mlflow-bundle-benchmark-"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        if not (directory / "source").exists():
            start = time.perf_counter()
            make_server(directory / "source", scale)
            print(f"made the source in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        rows = measure_sqlite(directory, environment)
        if options.postgresql:
            rows += measure_postgresql(directory, options.postgresql, environment)
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    print_table(scale, rows)


if __name__ == "__main__":
    main()
