"""Options of the export commands, and what is said when something is wrong."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_bundle.cli.progress import format_bytes
from tests.compare import row_dump
from tests.conftest import LendServer
from tests.servers import ADMIN, MlflowServer, basic_auth
from tests.transfer.commands import Done, command, export, finished, import_, process
from tests.transfer.small import LARGE_BYTES, Small

pytestmark = pytest.mark.server


def document(bundle: Path, path: str) -> dict[str, object]:
    answer: dict[str, object] = json.loads(command("show", bundle, path).stdout)
    return answer


def run_path(small: Small, label: str = "first", experiment: str = "one") -> str:
    return f"experiments/{small.experiments[experiment]}/{small.runs[label]}/run.json"


def one_clear_line(done: Done, *parts: str, code: int = 1) -> None:
    """Assert how a command that failed tells so."""
    assert done.exit_code == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr
    assert done.stdout == ""


# Options


def test_dry_run_tells_objects_and_bytes_and_writes_nothing(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    rows = row_dump(small_server.database)
    before = len(small_server.requests())
    done = export(small_server, tmp_path / "f.mlbundle", "--dry-run")
    assert done.report["dry_run"] is True
    assert done.report["planned"] == {
        "artifact": 7,
        "experiment": 4,
        "logged_model": 1,
        "model_version": 6,
        "prompt": 0,
        "registered_model": 4,
        "run": 5,
    }
    assert done.report["done"] == {}
    assert LARGE_BYTES < done.report["bytes"] < LARGE_BYTES + 2000
    assert list(tmp_path.iterdir()) == []
    assert row_dump(small_server.database) == rows
    downloads = [
        request
        for request in small_server.requests()[before:]
        if "mlflow-artifacts/artifacts/" in request or "get-history" in request
    ]
    assert downloads == []
    text = command(
        "export-all", "-o", tmp_path / "f", "--tracking-uri", small_server.uri, "--dry-run"
    ).stderr
    assert "dry run: nothing was changed" in text
    assert f"  {format_bytes(done.report['bytes'])} of artifacts" in text.splitlines()


def test_json_is_one_object_with_every_field_typed(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    done = export(small_server, tmp_path / "f.mlbundle")
    report = done.report
    types = {
        "command": str,
        "source": str,
        "destination": str,
        "dry_run": bool,
        "planned": dict,
        "done": dict,
        "present": dict,
        "adjusted": dict,
        "lost": list,
        "conflicts": list,
        "notes": list,
        "bytes": int,
        "requests": int,
        "duration_s": float,
        "stopped": bool,
        "exit_code": int,
    }
    assert {key: type(value) for key, value in report.items()} == types
    assert report["command"] == "export-all"
    assert report["source"] == small_server.uri
    assert report["destination"] == str(tmp_path / "f.mlbundle")
    assert report["exit_code"] == 0
    assert report["requests"] > 10
    assert done.stderr == ""


def test_export_source_tags(small_server: MlflowServer, small: Small, tmp_path: Path) -> None:
    bundle = tmp_path / "f.mlbundle"
    export(small_server, bundle, "--export-source-tags", "--experiments", "one", name="export")
    tags = document(bundle, run_path(small))["tags"]
    assert isinstance(tags, dict)
    assert tags["mlflow_export_import.metadata.tracking_uri"] == small_server.uri
    assert tags["mlflow_export_import.metadata.experiment_name"] == "one"
    assert tags["mlflow_export_import.run_info.run_id"] == small.runs["first"]
    assert tags["mlflow_export_import.run_info.user_id"] == "ana"
    assert tags["mlflow_export_import.mlflow.note.content"] == "first note"
    assert tags["colour"] == "red"


@pytest.mark.parametrize("words", [[], ["--export-source-tags", "False"]])
def test_source_tags_only_when_asked(
    small_server: MlflowServer, small: Small, tmp_path: Path, words: list[str]
) -> None:
    bundle = tmp_path / "f.mlbundle"
    export(small_server, bundle, *words, "--experiments", "one", name="export")
    tags = document(bundle, run_path(small))["tags"]
    assert isinstance(tags, dict)
    assert [key for key in tags if key.startswith("mlflow_export_import")] == []


@pytest.mark.parametrize("policy", ["reference", "skip"])
def test_artifacts_can_stay_behind(
    small_server: MlflowServer, small: Small, empty_server: LendServer, tmp_path: Path, policy: str
) -> None:
    bundle = tmp_path / "f.mlbundle"
    before = len(small_server.requests())
    done = export(small_server, bundle, "--artifacts", policy)
    assert done.report["done"].get("artifact", 0) == 0
    assert bundle.stat().st_size < 100_000
    relayed = [r for r in small_server.requests()[before:] if "mlflow-artifacts" in r]
    assert relayed == []
    mode = document(bundle, run_path(small))["artifacts"]
    assert isinstance(mode, dict)
    assert mode["mode"] == {"reference": "reference", "skip": "skipped"}[policy]
    server = empty_server()
    arrived = import_(server, bundle)
    assert arrived.report["adjusted"][f"run.artifacts ({mode['mode']})"] == 5
    assert list(server.artifact_directory.rglob("*.pkl")) == []
    assert import_(server, bundle).report["done"] == {}


@pytest.mark.parametrize(
    "words",
    [
        ["--jobs", "1"],
        ["--use-threads", "False"],
        ["--use-threads=false"],
        ["--use-threads"],
        ["--use-threads", "True", "--jobs", "3"],
        ["--level", "1"],
    ],
    ids=" ".join,
)
def test_the_same_bundle_whatever_the_threads(
    small_server: MlflowServer, small: Small, small_bundle: Path, tmp_path: Path, words: list[str]
) -> None:
    export(small_server, tmp_path / "f.mlbundle", *words)
    assert listing(tmp_path / "f.mlbundle") == listing(small_bundle)


def listing(bundle: Path) -> dict[str, int]:
    from mlflow_bundle.bundles.opening import open_tree

    tree = open_tree(str(bundle))
    try:
        return {
            member.path: member.size or 0
            for member in tree.iter_members("")
            if not member.path.endswith("json") or "/artifacts/" in member.path
        }
    finally:
        tree.close()


def test_the_report_is_for_people_without_json(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    words = ["export-all", "--tracking-uri", small_server.uri, "--quiet"]
    done = command(*words, "-o", tmp_path / "f.mlbundle")
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == f"export-all: {small_server.uri} -> {tmp_path / 'f.mlbundle'}"
    assert lines[-1].endswith("nothing lost")
    assert any(line.split() == ["runs", "5", "5", "0"] for line in lines)


def test_the_tracking_uri_of_mlflow_is_the_default(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    words = ["export-experiments", "--experiments", "one/two", "-o", tmp_path / "f.mlbundle"]
    done = finished(process(*words, env={"MLFLOW_TRACKING_URI": small_server.uri}))
    assert done.exit_code == 0, done.stderr
    assert f"{small_server.uri} ->" in done.stderr


# Bad input


def test_an_unreachable_server(tmp_path: Path) -> None:
    done = command(
        "export-all", "--tracking-uri", "http://127.0.0.1:9", "-o", tmp_path / "f", expect=None
    )
    one_clear_line(done, "cannot reach the MLflow server http://127.0.0.1:9", "refused")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_host(tmp_path: Path) -> None:
    done = command(
        "export-all", "--tracking-uri", "http://no.such.invalid", "-o", tmp_path / "f", expect=None
    )
    one_clear_line(done, "http://no.such.invalid")


@pytest.mark.parametrize("uri", ["oracle://host/x", "file:///tmp", "nonsense"])
def test_a_tracking_uri_that_is_no_server(tmp_path: Path, uri: str) -> None:
    done = command("export-all", "--tracking-uri", uri, "-o", tmp_path / "f", expect=None)
    one_clear_line(done, uri, "http://", code=2)


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[str]:
    """A web server that is no MLflow."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_is_no_mlflow(web_server: str, tmp_path: Path) -> None:
    done = command("export-all", "--tracking-uri", web_server, "-o", tmp_path / "f", expect=None)
    one_clear_line(done, web_server)
    assert list(tmp_path.iterdir()) == []


def test_wrong_credentials(empty_server: LendServer, tmp_path: Path) -> None:
    server = empty_server(**basic_auth(tmp_path))
    words = ["export-all", "--tracking-uri", server.uri, "-o", tmp_path / "f.mlbundle"]
    one_clear_line(command(*words, expect=None), "401", "MLFLOW_TRACKING_USERNAME")
    wrong = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "wrong"}
    one_clear_line(command(*words, expect=None, env=wrong), "401")
    assert not (tmp_path / "f.mlbundle").exists()
    right = {"MLFLOW_TRACKING_USERNAME": ADMIN[0], "MLFLOW_TRACKING_PASSWORD": ADMIN[1]}
    command(*words, env=right)
    assert (tmp_path / "f.mlbundle").exists()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["export-models", "--models", "chrun"], "churn"),
        (["export-models", "--models", "sklearn_iri"], "sklearn_iris"),
        (["export-models", "--models", "churn/9"], "churn/1"),
        (["export-models", "--models", "churn@nobody"], "churn@champion"),
        (["export-experiments", "--experiments", "oen"], "one"),
        (["export-experiments", "--experiments", "99"], "no such experiment"),
        (["export", "--run-ids", "0" * 32], "no such run"),
        (["export"], "Nothing is selected"),
        (["export-experiments"], "--experiments"),
        (["export-experiments", "--experiments", ""], "holds no experiment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_exist_is_refused_with_the_nearest(
    small_server: MlflowServer, small: Small, tmp_path: Path, words: list[str], near: str
) -> None:
    done = command(*words, "--tracking-uri", small_server.uri, "-o", tmp_path / "f", expect=2)
    assert near in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["-o", "--output-dir"])
def test_an_output_that_exists_is_refused_and_kept(
    small_server: MlflowServer, small: Small, tmp_path: Path, option: str
) -> None:
    output = tmp_path / "there"
    if option == "-o":
        output.write_bytes(b"precious")
    else:
        output.mkdir()
        (output / "file").write_bytes(b"precious")
    words = ["export-all", "--tracking-uri", small_server.uri, option, output]
    done = command(*words, expect=None)
    one_clear_line(done, str(output), "--force")
    kept = output if option == "-o" else output / "file"
    assert kept.read_bytes() == b"precious"


def test_a_link_to_nothing_is_an_output_that_exists(tmp_path: Path) -> None:
    output = tmp_path / "link"
    output.symlink_to(tmp_path / "elsewhere" / "f.mlbundle")
    words = ["export-all", "--tracking-uri", "http://127.0.0.1:9", "-o", output]
    one_clear_line(command(*words, expect=1), f"{output} exists already", "--force")


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    output = tmp_path / "pipe"
    os.mkfifo(output)
    words = ["export-all", "--tracking-uri", "http://127.0.0.1:9", "-o", output, "--force"]
    one_clear_line(command(*words, expect=1), f"{output} is a device or a pipe", "-o -")
    assert output.is_fifo()


def test_force_replaces_an_output_only_when_complete(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    output = tmp_path / "f.mlbundle"
    output.write_bytes(b"precious")
    command("export-all", "--tracking-uri", "http://127.0.0.1:9", "-o", output, "--force", expect=1)
    assert output.read_bytes() == b"precious"
    command("export-all", "--tracking-uri", small_server.uri, "-o", output, "--force")
    command("verify", output)


def test_an_output_in_a_directory_that_is_missing(
    small_server: MlflowServer, tmp_path: Path
) -> None:
    output = tmp_path / "missing" / "f.mlbundle"
    words = ["export-all", "--tracking-uri", small_server.uri, "-o", output]
    one_clear_line(command(*words, expect=None), str(tmp_path / "missing"))


def test_a_directory_that_may_not_be_written(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    if os.geteuid() == 0:
        output = Path("/proc/f.mlbundle")
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        output = tmp_path / "closed" / "f.mlbundle"
    words = ["export-all", "--tracking-uri", small_server.uri, "-o", output]
    one_clear_line(command(*words, expect=None), str(output.parent))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("option", ["-o", "--output-dir"])
def test_a_full_disk(
    small_server: MlflowServer, small: Small, small_disk: Path, option: str
) -> None:
    output = small_disk / "f.mlbundle"
    words = ["export-all", "--tracking-uri", small_server.uri, option, output]
    done = command(*words, expect=None)
    one_clear_line(done, "no space left on device")
    assert not output.exists()


def test_an_output_stream_that_is_full(small_server: MlflowServer, small: Small) -> None:
    with open("/dev/full", "wb") as full:
        started = process("export-all", "--tracking-uri", small_server.uri, "-o", "-", stdout=full)
        _, told = started.communicate(timeout=60)
    assert started.returncode == 1
    assert b"Traceback" not in told
    assert b"no space left on device" in told.lower()
