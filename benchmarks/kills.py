"""Kill exports and imports at random moments; what they end with must be as if undisturbed.

    python -m benchmarks.kills [--rounds 100] [--seed N]

A failure names the seed, with which the same moments are drawn again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.servers import start_server
from tests.transfer.kills import kill_exports, kill_imports, run
from tests.transfer.small import build_small


def main() -> None:
    """Run as said above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="kills of each (default: 100)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name, start_server(Path(name) / "source") as source:
        build_small(source.uri)
        began = time.monotonic()
        exports = Path(name) / "exports"
        exports.mkdir()
        dice = random.Random(options.seed)
        series = kill_exports(source, exports, rounds=options.rounds, dice=dice)
        print(f"export: {_told(options.rounds, series, began)}", flush=True)
        bundle = Path(name) / "whole.mlbundle"
        run(["export-all", "-o", str(bundle), "--tracking-uri", source.uri, "--quiet"])
        with start_server(Path(name) / "destination") as destination:
            began = time.monotonic()
            series = kill_imports(source, bundle, destination, rounds=options.rounds, dice=dice)
            print(f"import: {_told(options.rounds, series, began)}", flush=True)


def _told(kills: int, series: int, began: float) -> str:
    seconds = time.monotonic() - began
    return f"{kills} kills, {series} times completed and found equal, {seconds:.0f} s"


if __name__ == "__main__":
    main()
