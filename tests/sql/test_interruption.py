"""An import that is killed leaves whole entities only, and a repetition completes it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.compare import row_dump
from tests.sql.imports import Place, import_into, place
from tests.table_exemptions import Exemption
from tests.tables import changed_rows, compare_databases

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROUNDS = int(os.environ.get("MLFLOW_BUNDLE_KILLS", "20"))
NOT_REPEATED = (
    Exemption("runs", "deleted_time", "the time of the import: REST does not tell it"),
    Exemption("experiments", "creation_time", "of the experiment that a server looks for"),
    Exemption("experiments", "last_update_time", "of the experiment that a server looks for"),
)
OF_A_RUN = ("params", "tags", "metrics", "latest_metrics")


def killed_after(target: Place, bundle: Path, delay_s: float) -> bool:
    """Import in a process of its own and kill that; whether it was still at work."""
    pid = os.fork()
    if pid == 0:
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        try:
            import_into(target, bundle, placeholder_secrets=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def rows_by_run(file: Path) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for (run_id,) in connection.execute("SELECT run_uuid FROM runs"):
            counts[run_id] = Counter()
        for table in OF_A_RUN:
            for (run_id,) in connection.execute(f"SELECT run_uuid FROM {table}"):
                counts[run_id][table] += 1
    return counts


def test_after_a_kill_at_any_moment_a_repetition_completes_the_import(
    genai_bundle: Path, full_bundle: Path, tmp_path: Path
) -> None:
    bundle = full_bundle
    whole = place(tmp_path / "whole")
    import_into(whole, genai_bundle, placeholder_secrets=True)
    start = whole.file.read_bytes()
    began = time.monotonic()
    import_into(whole, bundle, placeholder_secrets=True)
    duration_s = time.monotonic() - began
    expected = rows_by_run(whole.file)
    chance = random.Random(4)
    kills = 0
    for number in range(ROUNDS):
        target = place(tmp_path / str(number))
        target.file.write_bytes(start)
        kills += killed_after(target, bundle, chance.uniform(0, duration_s))
        for run_id, counts in rows_by_run(target.file).items():
            assert counts == expected[run_id], f"half of run {run_id}"
        import_into(target, bundle, placeholder_secrets=True)
        comparison = compare_databases(whole.file, target.file, exempt=NOT_REPEATED)
        assert comparison.differences == []
        before = row_dump(target.file)
        import_into(target, bundle, placeholder_secrets=True)
        assert list(changed_rows(before, target.file)) == []
    print(f"{kills} of {ROUNDS} were killed at work")
    assert kills >= ROUNDS // 2
