"""Rows and files that MLflow does not make: what can be had travels, the rest is a listed loss."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.server import Scale, make_server
from tests.transfer.commands import Done, command

Change = Callable[[sqlite3.Connection, Path], None]

FIRST_RUN = "SELECT run_uuid FROM runs ORDER BY run_uuid LIMIT 1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small server's database and artifacts, for the test to spoil."""
    make_server(tmp_path / "server", Scale(runs=6, steps=2, artifact_mb=0.1, traces=4))
    return tmp_path / "server"


def spoil(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / "mlflow.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def first_run_files(directory: Path) -> Path:
    with closing(sqlite3.connect(directory / "mlflow.db")) as connection:
        run, experiment = connection.execute(
            f"SELECT run_uuid, experiment_id FROM runs WHERE run_uuid = ({FIRST_RUN})"
        ).fetchone()
    return directory / "artifacts" / str(experiment) / run / "artifacts"


def export(directory: Path, *words: str | Path, expect: int) -> Done:
    return command(
        *("export-all", "-o", directory / "x.mlbundle", "--force", "--quiet", "--json"),
        *("--tracking-uri", f"sqlite:///{directory}/mlflow.db"),
        *("--artifacts-destination", directory / "artifacts", *words),
        expect=expect,
    )


def test_files_that_are_none_are_lost_alone(directory: Path) -> None:
    files = first_run_files(directory)
    os.mkfifo(files / "pipe")
    (files / "loop").symlink_to("loop")
    (files / "gone").symlink_to("nothing")
    whole = export(directory, "--artifacts", "skip", expect=0).report["planned"]
    done = export(directory, expect=3).report
    assert {loss["id"].rpartition("/")[2] for loss in done["lost"]} == {"pipe", "loop", "gone"}
    assert {loss["kind"] for loss in done["lost"]} == {"artifact"}
    assert done["planned"] == whole
    assert done["done"]["artifact"] > 36


def test_a_trace_does_not_say_which_local_files_are_packed(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    where = (
        "key = 'mlflow.artifactLocation' AND request_id = (SELECT min(request_id) FROM trace_tags)"
    )
    for place in (tmp_path / "private", f"file://{tmp_path}/private"):
        spoil(directory, f"UPDATE trace_tags SET value = '{place}' WHERE {where}")
        (loss,) = export(directory, expect=3).report["lost"]
        assert (loss["kind"], loss["field"]) == ("trace", "artifacts")
        assert "outside the artifacts of its experiment" in loss["reason"]


def test_rows_without_an_experiment_are_lost(directory: Path) -> None:
    spoil(directory, f"UPDATE runs SET experiment_id = 999 WHERE run_uuid = ({FIRST_RUN})")
    lost = export(directory, expect=3).report["lost"]
    assert ("run", "1 rows of runs name an experiment that is gone") in {
        (loss["kind"], loss["reason"]) for loss in lost
    }


def test_a_run_larger_than_a_document_is_lost_and_the_bundle_is_sound(directory: Path) -> None:
    spoil(
        directory,
        f"INSERT INTO params SELECT 'huge', printf('%.*c', 40000000, 'x'), run_uuid FROM runs "
        f"WHERE run_uuid = ({FIRST_RUN})",
    )
    lost = export(directory, expect=3).report["lost"]
    assert [loss["kind"] for loss in lost if not loss["field"]] == ["run"]
    command("verify", directory / "x.mlbundle", "--quiet")
    target = f"sqlite:///{directory}/new.db"
    words = ("--tracking-uri", target, "--artifacts-destination", directory / "new", "--quiet")
    command("import-all", directory / "x.mlbundle", *words)


def test_a_text_that_is_no_utf_8_is_told_in_one_line(directory: Path) -> None:
    spoil(
        directory,
        f"INSERT INTO params SELECT 'bad', CAST(x'ff41' AS TEXT), run_uuid FROM runs "
        f"WHERE run_uuid = ({FIRST_RUN})",
    )
    done = export(directory, expect=1)
    assert "Could not decode to UTF-8 column 'value'" in done.stderr


def test_nothing_is_made_where_the_place_of_artifacts_is_not_known(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(directory, expect=0)
    target = tmp_path / "new.db"
    words = ("--tracking-uri", f"sqlite:///{target}", "--quiet")
    done = command("import-all", directory / "x.mlbundle", *words, expect=2)
    assert "--artifacts-destination" in done.stderr
    assert not target.exists()


def test_a_database_of_something_else_is_left_alone(directory: Path, tmp_path: Path) -> None:
    export(directory, expect=0)
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE hello (a INTEGER)")
    before = (tmp_path / "other.db").read_bytes()
    words = ("--tracking-uri", f"sqlite:///{tmp_path}/other.db", "--quiet")
    more = ("--artifacts-destination", tmp_path / "files")
    done = command("import-all", directory / "x.mlbundle", *words, *more, expect=1)
    assert "holds tables that are not MLflow's" in done.stderr
    assert (tmp_path / "other.db").read_bytes() == before


@pytest.mark.parametrize(
    "uri",
    ["postgresql://me@127.0.0.1:port/mlflow", "sqlite://", "sqlite:///:memory:", "mysql"],
)
def test_a_uri_of_no_lasting_database_is_refused_and_nothing_is_made(
    uri: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(directory, expect=0)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    words = ("--tracking-uri", uri, "--artifacts-destination", "files", "--quiet")
    imported = command("import-all", directory / "x.mlbundle", *words, expect=2)
    exported = command("export-all", "-o", "x.mlbundle", *words, expect=2)
    for done in (imported, exported):
        assert f"'{uri}' is no database that can be used" in done.stderr
        assert "Traceback" not in done.stderr
    assert list(here.iterdir()) == []


def test_a_file_that_is_named_as_sqlite_names_it_is_made_there(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(directory, expect=0)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    words = ("--tracking-uri", "sqlite:///file:new.db?uri=true", "--quiet")
    command(
        "import-all", directory / "x.mlbundle", *words, "--artifacts-destination", here / "files"
    )
    assert {path.name for path in here.iterdir()} == {"new.db", "files"}
