"""Options of the import commands, and what is said when something is wrong."""

from __future__ import annotations

import getpass
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.test_export import one_clear_line
from tests.compare import Snapshot, differences, row_dump, snapshot
from tests.conftest import LendServer
from tests.transfer.commands import command, import_
from tests.transfer.small import LARGE_BYTES, Small

pytestmark = pytest.mark.server


def test_dry_run_tells_the_plan_and_changes_nothing(
    small_bundle: Path, empty_server: LendServer
) -> None:
    server = empty_server()
    rows = row_dump(server.database)
    done = import_(server, small_bundle, "--dry-run")
    assert done.report["planned"] == {
        "artifact": 7,
        "experiment": 4,
        "logged_model": 1,
        "model_version": 6,
        "prompt": 0,
        "registered_model": 4,
        "run": 5,
    }
    assert LARGE_BYTES < done.report["bytes"] < LARGE_BYTES + 2000
    assert done.report["done"] == {}
    assert row_dump(server.database) == rows
    assert [path for path in server.artifact_directory.rglob("*") if path.is_file()] == []
    assert "artifact" not in done.report["present"]

    import_(server, small_bundle)
    again = import_(server, small_bundle, "--dry-run")
    assert again.report["present"] == +Counter(again.report["planned"])
    assert again.report["bytes"] == 0


def test_strict_counts_adjustments_as_losses(small_bundle: Path, empty_server: LendServer) -> None:
    server = empty_server()
    words = ["--experiments", "one", "--strict"]
    done = import_(server, small_bundle, *words, name="import", expect=3)
    assert done.report["exit_code"] == 3
    assert done.report["lost"] == []
    assert done.report["adjusted"]["run.run_id"] == 3
    # The second time everything is there: nothing is left to adjust.
    assert import_(server, small_bundle, *words, name="import").report["adjusted"] == {}


def test_use_src_user_id_false_gives_the_importing_user(
    small_bundle: Path, small: Small, empty_server: LendServer
) -> None:
    server = empty_server()
    import_(
        server, small_bundle, "--use-src-user-id", "False", "--experiments", "one", name="import"
    )
    for run in snapshot(server.uri).data["runs"].values():
        assert run["user_id"] == run["tags"]["mlflow.user"] == getpass.getuser()
        assert run["tags"]["mlflow_bundle.source_user"] == "ana"


@pytest.mark.parametrize("words", [[], ["--use-src-user-id"], ["--use-src-user-id", "True"]])
def test_runs_keep_their_user_by_default(
    small_bundle: Path, empty_server: LendServer, words: list[str]
) -> None:
    server = empty_server()
    import_(server, small_bundle, *words, "--experiments", "one", name="import")
    assert {run["user_id"] for run in snapshot(server.uri).data["runs"].values()} == {"ana"}


@pytest.mark.parametrize("policy", ["reference", "skip"])
def test_artifacts_can_be_left_in_the_bundle(
    small_bundle: Path, empty_server: LendServer, policy: str
) -> None:
    server = empty_server()
    done = import_(server, small_bundle, "--artifacts", policy)
    assert "artifact" not in done.report["done"]
    assert done.report["adjusted"][f"run.artifacts (--artifacts {policy})"] == 5
    assert list(server.artifact_directory.rglob("*.pkl")) == []
    # Nothing is lost for good: the same command without the option brings them.
    later = import_(server, small_bundle)
    assert later.report["done"]["artifact"] == 7


@pytest.mark.parametrize(
    "words",
    [["--jobs", "1"], ["--use-threads", "False"], ["--use-threads"], ["--verbose"], ["--quiet"]],
    ids=" ".join,
)
def test_the_same_result_whatever_the_threads(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer, words: list[str]
) -> None:
    server = empty_server()
    command("import-all", *words, small_bundle, "--tracking-uri", server.uri)
    assert differences(small_snapshot, snapshot(server.uri)) == []


def test_verbose_names_each_adjustment(small_bundle: Path, empty_server: LendServer) -> None:
    server = empty_server()
    words = ["import-all", small_bundle, "--tracking-uri", server.uri, "--verbose"]
    assert "  run.run_id: 5" in command(*words).stderr.splitlines()


def test_rename_experiment(small_bundle: Path, empty_server: LendServer) -> None:
    server = empty_server()
    words = ["--rename-experiment", "one=uno", "--experiment-name-prefix", "x/"]
    done = import_(server, small_bundle, *words)
    assert done.report["adjusted"]["experiment.name (as asked)"] == 4
    names = {row["name"] for row in snapshot(server.uri).data["experiments"].values()}
    assert names == {"Default", "x/Default", "x/uno", "x/one/two", "x/a,b*c@d"}
    assert import_(server, small_bundle, *words).report["done"] == {}


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["--models", "chrun"], "churn"),
        (["--models", "churn/7"], "churn/1"),
        (["--models", "churn@nobody"], "churn@champion"),
        (["--experiments", "oen"], "one"),
        (["--run-ids", "0" * 32], "no such run"),
        ([], "Nothing is selected"),
        (["--models", "churn", "--renumber", "--with-earlier-versions"], "not both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_bundle_does_not_hold_is_refused_with_the_nearest(
    small_bundle: Path, empty_server: LendServer, words: list[str], near: str
) -> None:
    server = empty_server()
    rows = row_dump(server.database)
    done = command("import", small_bundle, "--tracking-uri", server.uri, *words, expect=2)
    assert near in done.stderr
    assert "Traceback" not in done.stderr
    assert row_dump(server.database) == rows


def test_an_unreachable_server(small_bundle: Path) -> None:
    done = command("import-all", small_bundle, "--tracking-uri", "http://127.0.0.1:9", expect=None)
    one_clear_line(done, "cannot reach the MLflow server http://127.0.0.1:9", "refused")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no bundle", b"text\n" * 10_000])
def test_a_file_that_is_no_bundle(empty_server: LendServer, tmp_path: Path, content: bytes) -> None:
    server = empty_server()
    path = tmp_path / "f.mlbundle"
    path.write_bytes(content)
    done = command("import-all", path, "--tracking-uri", server.uri, expect=None)
    one_clear_line(done, str(path), code=4)


def test_a_bundle_that_does_not_exist(empty_server: LendServer, tmp_path: Path) -> None:
    server = empty_server()
    done = command("import-all", tmp_path / "f", "--tracking-uri", server.uri, expect=None)
    one_clear_line(done, f"no such file: {tmp_path / 'f'}")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_cut_bundle(
    small_bundle: Path, empty_server: LendServer, tmp_path: Path, part: float
) -> None:
    server = empty_server()
    rows = row_dump(server.database)
    data = small_bundle.read_bytes()
    path = tmp_path / "cut.mlbundle"
    path.write_bytes(data[: int(len(data) * part)])
    done = command("import-all", path, "--tracking-uri", server.uri, expect=None)
    one_clear_line(done, str(path), code=4)
    assert row_dump(server.database) == rows


def test_a_damaged_bundle_is_refused_without_a_traceback(
    small_bundle: Path, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    data = bytearray(small_bundle.read_bytes())
    middle = len(data) // 2  # inside the large artifact
    data[middle : middle + 100] = bytes(100)
    path = tmp_path / "damaged.mlbundle"
    path.write_bytes(data)
    done = command("import-all", path, "--tracking-uri", server.uri, expect=None)
    one_clear_line(done, code=4)
    # What was written before says that it is not complete, and a sound bundle completes it.
    import_(server, small_bundle)
    states = [
        run["tags"].get("mlflow_bundle.state") for run in snapshot(server.uri).data["runs"].values()
    ]
    assert states == [None] * 5
