"""Fuzzes for as long as one likes: ``python -m tests.fuzz reader --seconds 3600``.

``all`` divides the time among the targets. New crashers go to ``tests/fuzz/crashers``, where
``pytest tests/fuzz`` replays them; the exit code is 1 if there are any. What covers something new
is kept from run to run in the user's cache directory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.runs import CRASHERS, TARGETS, fuzz

CACHE = Path.home() / ".cache" / "mlflow-bundle" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz with atheris.")
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=600, help="how long, all targets together")
    parser.add_argument("--work", type=Path, default=CACHE, help="where new inputs are kept")
    options = parser.parse_args()
    targets = TARGETS if options.target == "all" else [options.target]
    seconds = max(options.seconds // len(targets), 1)
    before = set(CRASHERS.iterdir())
    ended = [
        fuzz(target, options.work / target, CRASHERS, f"-max_total_time={seconds}").returncode
        for target in targets
    ]
    new = sorted(path.name for path in set(CRASHERS.iterdir()) - before)
    print(f"{len(new)} new crashers", *new, sep="\n  ")
    return int(bool(new) or any(ended))


if __name__ == "__main__":
    sys.exit(main())
