"""What the plugin costs ``import mlflow``: the promise is less than 5 ms.

    python benchmarks/import_time.py [--repeat 15]

Needs the package installed. Prints the least time of several new processes for ``import mlflow``
with our entry point and with the same entry point hidden (turn about, so that a busy machine
slows both), and the hook module's own load, which is what the difference is made of. Ends with
code 1 when loading the hook takes 5 ms or more.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from importlib.metadata import entry_points, version

LIMIT_MS = 5.0

IMPORT = """
import importlib.metadata as metadata, time
real = metadata.entry_points
if {hide}:
    metadata.entry_points = lambda **k: [e for e in real(**k) if e.name != "mlbundle"]
else:
    metadata.entry_points = lambda **k: [e for e in real(**k)]
start = time.perf_counter()
import mlflow
print((time.perf_counter() - start) * 1000)
"""

HOOK = """
import importlib, importlib.metadata, time, warnings
start = time.perf_counter()
import mlflow_bundle.plugin.cli_hook
print((time.perf_counter() - start) * 1000)
"""


def measure(code: str) -> float:
    """Return the milliseconds that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    return float(done.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the plugin costs import mlflow.")
    parser.add_argument("--repeat", type=int, default=15, help="new processes per number")
    repeat = parser.parse_args().repeat
    if not any(e.name == "mlbundle" for e in entry_points(group="mlflow.artifact_repository")):
        parser.error("the package is not installed: no entry point mlbundle")
    measure(IMPORT.format(hide=True))  # fill the page cache and write bytecode
    measure(IMPORT.format(hide=False))
    times: dict[str, list[float]] = {"without": [], "with": [], "hook": []}
    for _ in range(repeat):
        times["without"].append(measure(IMPORT.format(hide=True)))
        times["with"].append(measure(IMPORT.format(hide=False)))
        times["hook"].append(measure(HOOK))
    least = {name: min(values) for name, values in times.items()}
    print(f"mlflow {version('mlflow')}, Python {platform.python_version()}, least of {repeat}")
    print(f"import mlflow, entry point hidden  {least['without']:9.2f} ms")
    print(f"import mlflow, entry point loaded  {least['with']:9.2f} ms")
    print(f"difference (noise included)        {least['with'] - least['without']:9.2f} ms")
    print(f"hook module's own load             {least['hook']:9.2f} ms  (limit {LIMIT_MS} ms)")
    return 0 if least["hook"] < LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
