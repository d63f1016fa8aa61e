"""The demo is the README's promise: it runs here as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_bundle.cli.main import bundle
from mlflow_bundle.demo.comparison import differences, read_server
from mlflow_bundle.demo.contents import MODEL, fill
from tests.conftest import LendServer

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where a demo started with `_demo` puts its files."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


def _demo(temporary: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow_bundle", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A background job of a shell ignores Ctrl-C, and so does what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "TMPDIR": str(temporary), "MLFLOW_TRACKING_TOKEN": "not for the demo"},
    )


def test_the_demo_passes_and_leaves_nothing_behind(temporary: Path) -> None:
    demo = _demo(temporary)
    shown, _ = demo.communicate(timeout=500)
    assert demo.returncode == 0, shown
    assert re.search(r"^Passed in \d+ s: the two servers hold the same\.$", shown, re.M), shown
    commands = [line[2:].partition(" #")[0].rstrip() for line in re.findall(r"^\$ .*", shown, re.M)]
    assert [line for line in commands if line.startswith("mlflow")] == [
        "mlflow bundle export-all -o demo.mlbundle",
        "mlflow bundle list demo.mlbundle",
        f"mlflow bundle import demo.mlbundle --models {MODEL}",
        "mlflow bundle import-all demo.mlbundle",
        "mlflow bundle import-all demo.mlbundle",
    ]
    assert "differ" not in shown
    assert "\x1b" not in shown
    assert list(temporary.iterdir()) == []
    assert not any(map(_answers, _ports(shown)))


def test_keep_refuses_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    done = CliRunner().invoke(bundle, ["demo", "--keep", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not empty" in done.output


def test_an_interrupted_demo_stops_its_servers(temporary: Path) -> None:
    _interrupt(_demo(temporary), signal.SIGINT)
    assert list(temporary.iterdir()) == []


def test_a_terminated_demo_stops_its_servers_and_keeps_what_was_to_be_kept(
    temporary: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "new" / "kept"
    _interrupt(_demo(temporary, "--keep", str(kept)), signal.SIGTERM)
    assert list(temporary.iterdir()) == []
    assert (kept / "source" / "mlflow.db").is_file()
    assert (kept / "destination" / "artifacts").is_dir()


def _interrupt(demo: subprocess.Popen[str], number: signal.Signals) -> None:
    lines = _lines_until(demo, r"The source holds")
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    assert "Stopped: interrupted" in rest
    assert "Traceback" not in rest
    ports = _ports("".join(lines))
    assert len(ports) == 2
    assert not any(map(_answers, ports))


def test_the_comparison_sees_each_kind_of_difference(
    empty_server: LendServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = empty_server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    scratch = (tmp_path / str(number) for number in range(9))
    fill(client, next(scratch))
    before = read_server(client, next(scratch))
    assert differences(before, read_server(client, next(scratch))) == []

    run = client.search_runs([client.get_experiment_by_name("churn").experiment_id])[0]
    client.log_metric(run.info.run_id, "loss", 1.0, timestamp=1, step=1)
    client.log_text(run.info.run_id, "changed", "model/requirements.txt")
    client.set_tag(run.info.run_id, "new", "tag")
    client.set_registered_model_alias(MODEL, "champion", "4")
    client.update_model_version(MODEL, "1", description="another")
    client.delete_model_version("churn", "1")
    found = differences(before, read_server(client, next(scratch)))
    kinds = {line.partition(":")[0] for line in found}
    assert kinds == {"aliases", "artifact files", "metric points", "model versions", "tags"}


def _lines_until(demo: subprocess.Popen[str], pattern: str) -> list[str]:
    assert demo.stdout is not None
    lines = []
    for line in _read(demo):
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError("".join(lines))


def _read(demo: subprocess.Popen[str]) -> Iterator[str]:
    assert demo.stdout is not None
    yield from iter(demo.stdout.readline, "")


def _ports(shown: str) -> list[int]:
    return [
        int(port)
        for port in re.findall(r"^  (?:source|destination) +http://127\.0\.0\.1:(\d+)", shown, re.M)
    ]


def _answers(port: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return False
        time.sleep(0.1)
    return True
