"""Threads that decode to one type at the same time, and for the first time."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
import msgspec
from mlflow_bundle.decoding import prepared

sys.setswitchinterval(1e-6)
for round in range(150):
    inner = msgspec.defstruct("Inner", [(f"f{n}", list[int] | None, None) for n in range(20)])
    outer = msgspec.defstruct("Outer", [(f"g{n}", inner | None, None) for n in range(20)])
    gate = threading.Barrier(6)

    def decode():
        gate.wait()
        msgspec.json.decode(b'{"g3": {"f7": [1]}}', type=prepared(outer))

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_begin_with_one_type_together() -> None:
    # In a process of its own: without `prepared` the interpreter crashes.
    assert subprocess.run([sys.executable, "-c", SCRIPT]).returncode == 0
