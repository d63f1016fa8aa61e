"""Export a server over REST and import it into an empty one; print seconds and requests.

    python -m benchmarks.rest [--runs 500 …] [--large-artifact-gb 5] [--only floor]

Everything runs on this machine: a source server made by `benchmarks.server`, an empty destination
and the command itself share its cores. Measured are

- the floor: the source's metric rows sent to an empty server by 8 threads with nothing but
  ``runs/log-batch``, 1 000 rows each. No import over REST can be faster than its server;
- ``export-all`` and ``import-all``: seconds, requests answered by the server (its access log),
  and peak resident memory of the command.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import Scale, add_scale_options, make_server, scale_from
from tests.servers import MlflowServer, fast_session, mlflow_version, start_server

T0 = 1_700_000_000_000


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table."""

    what: str
    seconds: float
    requests: int
    peak_mb: float | None = None
    note: str = ""


def measure_floor(directory: Path, scale: Scale, *, threads: int, workers: int) -> Measured:
    """Send as many metric rows as the source has to an empty server, and nothing else."""
    dice = random.Random(0)
    with start_server(directory, workers=workers) as server:
        session = fast_session(threads)
        base = f"{server.uri}/api/2.0/mlflow"

        def post(path: str, body: Any) -> dict[str, dict[str, dict[str, str]]]:
            reply = session.post(f"{base}/{path}", json=body)
            reply.raise_for_status()
            answer: dict[str, dict[str, dict[str, str]]] = reply.json()
            return answer

        runs = [
            post("runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
            for _ in range(scale.runs)
        ]
        rows = [
            {"key": f"metric_{k}", "value": dice.gauss(0, 1), "timestamp": T0 + s * 1000, "step": s}
            for k in range(scale.keys)
            for s in range(scale.steps)
        ]
        batches = [
            {"run_id": run_id, "metrics": rows[start : start + 1000]}
            for run_id in runs
            for start in range(0, len(rows), 1000)
        ]
        before = len(server.requests())
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda body: post("runs/log-batch", body), batches))
        seconds = time.perf_counter() - start
        count = len(server.requests()) - before
    rate = scale.metric_rows / seconds
    return Measured(what="floor: log-batch", seconds=seconds, requests=count,
                    note=f"{rate:,.0f} rows/s")  # fmt: skip


def measure_command(
    what: str, arguments: list[str], server: MlflowServer, environment: dict[str, str]
) -> Measured:
    """Run ``mlflow-bundle``; fail when it fails."""
    before = len(server.requests())
    command = [sys.executable, "-m", "mlflow_bundle", *arguments, "--tracking-uri", server.uri]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return Measured(
        what=what,
        seconds=seconds,
        requests=len(server.requests()) - before,
        peak_mb=usage.ru_maxrss * unit / 1e6,
    )


def machine() -> str:
    """Processor, cores, versions and date: numbers mean nothing without them."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{model}, {cores} cores, {platform.system()}, Python {platform.python_version()},"
        f" MLflow {mlflow_version()}, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}"
    )


def print_table(scale: Scale, rows: list[Measured], bundle_bytes: int | None) -> None:
    print(
        f"\n{scale.runs} runs x {scale.keys} metrics x {scale.steps} steps"
        f" = {scale.metric_rows:,} points; {scale.files} files, {scale.artifact_mb:g} MB;"
        f" {scale.models} models, {scale.versions} versions"
        + (f"; one file of {scale.large_artifact_gb:g} GB" if scale.large_artifact_gb else "")
    )
    print(machine())
    floor = next((row.seconds for row in rows if row.what.startswith("floor")), None)
    print(f"\n{'':22}{'seconds':>9}{'requests':>10}{'peak MB':>9}{'/ floor':>9}  ")
    for row in rows:
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        ratio = "" if floor is None else f"{row.seconds / floor:.2f}"
        print(f"{row.what:22}{row.seconds:>9.1f}{row.requests:>10}{peak:>9}{ratio:>9}  {row.note}")
    if bundle_bytes is not None:
        print(f"bundle: {bundle_bytes / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_scale_options(parser)
    parser.add_argument("--only", choices=("floor", "transfer"), help="measure a part")
    parser.add_argument("--workers", type=int, default=4, help="of each server (MLflow's own: 4)")
    parser.add_argument("--threads", type=int, default=8, help="of the floor's client")
    parser.add_argument("--directory", type=Path, help="work here and leave everything there")
    options = parser.parse_args()
    scale = scale_from(options)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="mlflow-bundle-benchmark-"))
    rows: list[Measured] = []
    bundle_bytes = None
    try:
        if options.only != "transfer":
            floor = directory / "floor"
            shutil.rmtree(floor, ignore_errors=True)
            rows.append(
                measure_floor(floor, scale, threads=options.threads, workers=options.workers)
            )
        if options.only != "floor":
            transfer, bundle_bytes = measure_transfer(directory, scale, options.workers)
            rows += transfer
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    print_table(scale, rows, bundle_bytes)


def measure_transfer(directory: Path, scale: Scale, workers: int) -> tuple[list[Measured], int]:
    """Export a made server and import it into an empty one; also the size of the bundle."""
    bundle = directory / "server.mlbundle"
    bundle.unlink(missing_ok=True)
    for name in ("source", "destination"):
        shutil.rmtree(directory / name, ignore_errors=True)
    start = time.perf_counter()
    make_server(directory / "source", scale)
    print(f"made the source in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with start_server(directory / "source", workers=workers) as source:
        exported = measure_command(
            "export-all", ["export-all", "-o", str(bundle)], source, environment
        )
    with start_server(directory / "destination", workers=workers) as destination:
        imported = measure_command(
            "import-all", ["import-all", str(bundle)], destination, environment
        )
    return [exported, imported], bundle.stat().st_size


if __name__ == "__main__":
    main()
