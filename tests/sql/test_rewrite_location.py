"""Locations of files that moved by themselves: in a database they can be told."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, TraceInfo, TraceLocation, TraceState
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_bundle.locations import Locations
from tests.transfer.commands import command

OLD, NEW = "s3://old/mlflow", "gs://new/moved"
DATA = f"{OLD}/data.csv"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose locations are in two buckets with names that begin alike."""
    directory = tmp_path_factory.mktemp("rewrite")
    uri = f"sqlite:///{directory}/mlflow.db"
    store = SqlAlchemyStore(uri, str(directory / "mlartifacts"))
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_experiment("neighbour", artifact_location=f"{OLD}-2/1")
    experiment_id = client.create_experiment("moved", artifact_location=f"{OLD}/1")
    run = client.create_run(experiment_id)
    source = MetaDataset(HTTPDatasetSource(DATA), name="data")
    client.log_inputs(run.info.run_id, [DatasetInput(source._to_mlflow_entity())])
    model = client.create_logged_model(experiment_id, source_run_id=run.info.run_id)
    client.create_registered_model("model")
    client.create_model_version("model", f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    client.create_model_version("model", f"{OLD}/elsewhere")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", uri)  # the registry asks for the logged model there
        client.create_model_version("model", f"models:/{model.model_id}")
    trace = TraceInfo(
        trace_id="tr-1",
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=1,
        state=TraceState.OK,
        execution_duration=1,
    )
    store.start_trace(trace)
    return directory / "mlflow.db"


def texts(file: Path) -> Iterator[tuple[str, str]]:
    """Yield table and column, and value, of every text that names a bucket."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        for (table,) in connection.execute(tables).fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for column, value in dict(row).items():
                    if isinstance(value, str) and "://" in value:
                        yield f"{table}.{column}", value


def copied(database: Path, directory: Path, *words: str) -> tuple[Path, dict[str, Any]]:
    to = directory / "to.db"
    done = command(
        *("copy", "--tracking-uri", f"sqlite:///{database}", "--to", f"sqlite:///{to}"),
        *("--artifacts", "reference", "--json", *words),
    )
    return to, done.report


def test_every_location_follows(database: Path, tmp_path: Path) -> None:
    to, report = copied(database, tmp_path, "--rewrite-location", f"{OLD}={NEW}")
    assert sorted(texts(to)) == sorted(
        (where, text if DATA in text else text.replace(f"{OLD}/", f"{NEW}/"))
        for where, text in texts(database)
        if "Default" not in text
    )
    kinds = {where for where, text in texts(to) if text.startswith(NEW)}
    assert kinds == {
        "experiments.artifact_location",
        "runs.artifact_uri",
        "logged_models.artifact_location",
        "model_versions.source",
        "model_versions.storage_location",
        "trace_tags.value",
    }
    assert report["notes"] == []
    assert report["adjusted"]["run.artifacts (reference)"] == 1


def test_locations_are_kept_without_it(database: Path, tmp_path: Path) -> None:
    to, _ = copied(database, tmp_path)
    assert sorted(texts(to)) == sorted(texts(database))


def test_a_second_copy_changes_nothing(database: Path, tmp_path: Path) -> None:
    words = ("--rewrite-location", f"{OLD}={NEW}")
    copied(database, tmp_path, *words)
    _, report = copied(database, tmp_path, *words)
    assert report["done"] == {}
    assert report["conflicts"] == []


def test_a_bundle_of_references_is_told_too(database: Path, tmp_path: Path) -> None:
    bundle, to = tmp_path / "x.mlbundle", tmp_path / "to.db"
    command(
        *("export-all", "-o", bundle, "--tracking-uri", f"sqlite:///{database}"),
        *("--artifacts", "reference"),
    )
    command(
        *("import-all", bundle, "--tracking-uri", f"sqlite:///{to}", "--artifacts", "reference"),
        *("--rewrite-location", f"{OLD}={NEW}", "--verify"),
    )
    assert {text for where, text in texts(to) if text.startswith(OLD + "/")} == set()


def test_an_old_root_that_nothing_begins_with_is_told(database: Path, tmp_path: Path) -> None:
    _, report = copied(database, tmp_path, "--rewrite-location", "s3://odl=gs://new")
    assert report["notes"] == ["--rewrite-location: no location begins with s3://odl"]


def test_skipped_files_are_listed(database: Path, tmp_path: Path) -> None:
    done = command(
        *("copy", "--tracking-uri", f"sqlite:///{database}", "--to", f"sqlite:///{tmp_path}/to.db"),
        *("--artifacts", "skip", "--json"),
    )
    adjusted = {k: n for k, n in done.report["adjusted"].items() if ".artifacts" in k}
    assert adjusted == {
        "run.artifacts (skipped)": 1,
        "logged_model.artifacts (skipped)": 1,
        "trace.artifacts (skipped)": 1,
    }


def test_it_is_refused_where_it_says_nothing(database: Path, tmp_path: Path) -> None:
    to = f"sqlite:///{tmp_path}/to.db"
    words = ("copy", "--tracking-uri", f"sqlite:///{database}", "--rewrite-location", "a=b")
    done = command(*words, "--to", to, expect=2)
    assert "--rewrite-location needs --artifacts reference" in done.stderr
    done = command(*(*words, "--to", "http://localhost:1", "--artifacts", "reference"), expect=2)
    assert "--rewrite-location is for a database" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "location", "expected"),
    [
        ("s3://a", "gs://b/c", "s3://a/x", "gs://b/c/x"),
        ("s3://a/", "gs://b/", "s3://a/x", "gs://b/x"),
        ("s3://a", "gs://b", "s3://a", "gs://b"),
        ("s3://a", "gs://b", "s3://ab/x", "s3://ab/x"),
        ("mlflow-artifacts:/", "s3://a", "mlflow-artifacts:/1/x", "s3://a/1/x"),
        ("/srv/mlruns", "mlflow-artifacts:/", "/srv/mlruns/1/x", "mlflow-artifacts:/1/x"),
        ("s3://a", "gs://b", "", ""),
    ],
)
def test_whole_components_count(old: str, new: str, location: str, expected: str) -> None:
    assert Locations({old: new}).of(location) == expected


def test_the_longest_old_root_counts() -> None:
    locations = Locations({"s3://a": "gs://all", "s3://a/1": "gs://one"})
    assert locations.of("s3://a/1/x") == "gs://one/x"
    assert locations.of("s3://a/2/x") == "gs://all/2/x"
