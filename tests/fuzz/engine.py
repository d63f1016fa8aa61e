"""One run of atheris over one target, in a process of its own: libFuzzer ends the process.

``python -m tests.fuzz.engine TARGET CRASHERS [libFuzzer's arguments]``. An input at which a target
fails is kept in the directory CRASHERS, the first one for each place of failure, and the run goes
on; a hang or too much memory ends it, and libFuzzer keeps the input there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["mlflow_bundle"]):
    from tests.fuzz.targets import TARGETS
from tests.fuzz.mutations import mutate
from tests.fuzz.runs import keeping_crashers

LIMIT_BYTES = 65_536
TIMEOUT_S = 20
LIMIT_MEMORY_MB = 1024


def main(target: str, crashers: Path, arguments: list[str]) -> None:
    """Fuzz until libFuzzer's limits are reached; does not return."""

    def mutator(data: bytes, limit_bytes: int, seed: int) -> bytes:
        def change_bytes(octets: bytes) -> bytes:
            return bytes(atheris.Mutate(octets, len(octets) + 16))

        return mutate(data, limit_bytes, seed, change_bytes)

    atheris.Setup(
        [
            f"fuzz-{target}",
            f"-artifact_prefix={crashers}/{target}-",
            f"-max_len={LIMIT_BYTES}",
            "-len_control=0",
            f"-timeout={TIMEOUT_S}",
            f"-rss_limit_mb={LIMIT_MEMORY_MB}",
            *arguments,
        ],
        keeping_crashers(target, TARGETS[target], crashers),
        custom_mutator=mutator,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
