"""Versions of models between databases: what they are made of, and what was deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.sql.databases import change, execute, rows
from tests.sql.imports import Place, exported, imported
from tests.transfer.commands import command

VERSIONS = "SELECT name, version, source, storage_location FROM model_versions ORDER BY 1, 2"
STAGES = "SELECT version, current_stage FROM model_versions ORDER BY version"


def files(directory: Path, content: str = "weights") -> str:
    directory.mkdir(parents=True)
    directory.joinpath("data").write_text(content)
    return str(directory)


@pytest.fixture
def client(source: Place) -> MlflowClient:
    return MlflowClient(source.uri)


def test_copies_of_versions_follow_the_files_of_their_first(
    source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    first = files(tmp_path / "first")
    for name in ("z@1", "copy", "again"):
        client.create_registered_model(name)
    client.create_model_version("z@1", first)
    client.create_model_version("copy", "models:/z@1/1")
    client.create_model_version("again", "models:/copy/1")
    assert {row[3] for row in rows(source.uri, VERSIONS)} == {first}
    exported(source, tmp_path / "f")
    for _ in range(2):
        assert imported(target, tmp_path / "f")["conflicts"] == []
        there = {name: (made_of, place) for name, _, made_of, place in rows(target.uri, VERSIONS)}
        place = there["z@1"][1]
        assert place != first
        assert there == {
            "z@1": (place, place),
            "copy": ("models:/z@1/1", place),
            "again": ("models:/copy/1", place),
        }
    # What an import of before left behind is put right.
    change(target.file, "UPDATE model_versions SET storage_location = ? WHERE name = 'copy'", first)
    imported(target, tmp_path / "f")
    assert {row[3] for row in rows(target.uri, VERSIONS)} == {place}


def test_a_copy_keeps_its_files_when_another_model_took_the_name_of_its_first(
    source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    for name in ("first", "copy"):
        client.create_registered_model(name)
    client.create_model_version("first", files(tmp_path / "files", "of the first"))
    client.create_model_version("copy", "models:/first/1")
    client.rename_registered_model("first", "renamed")
    client.create_registered_model("first")
    client.create_model_version("first", files(tmp_path / "others", "of another"))
    exported(source, tmp_path / "f")
    for _ in range(2):
        assert imported(target, tmp_path / "f")["conflicts"] == []
        places = {name: str(place) for name, _, _, place in rows(target.uri, VERSIONS)}
        below = {name: place.removeprefix("mlflow-artifacts:/") for name, place in places.items()}
        told = {name: (target.artifacts / at / "data").read_text() for name, at in below.items()}
        assert told == {
            "copy": "of the first",
            "renamed": "of the first",
            "first": "of another",
        }


def test_a_copy_whose_first_stays_where_it_is_stays_too(
    source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    for name in ("first", "copy"):
        client.create_registered_model(name)
    client.create_model_version("first", files(tmp_path / "first"))
    client.create_model_version("copy", "models:/first/1")
    exported(source, tmp_path / "f")
    imported(target, tmp_path / "f", "--artifacts", "reference")
    assert rows(target.uri, VERSIONS) == rows(source.uri, VERSIONS)


@pytest.mark.parametrize("first", ["reference", "skip"])
def test_a_version_follows_its_files_when_they_come_later(
    first: str, source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    for name in ("a copy", "m", "of a run"):
        client.create_registered_model(name)
    client.create_model_version("m", files(tmp_path / "own"))
    client.create_model_version("a copy", "models:/m/1")
    run = client.create_run("0").info.run_id
    client.create_model_version("of a run", files(tmp_path / "run"), run_id=run)
    exported(source, tmp_path / "f")
    imported(target, tmp_path / "f", "--artifacts", first)
    # As long as they find their files where they were, they stay as they are.
    assert imported(target, tmp_path / "f")["done"] == {}
    for place in ("own", "run"):
        shutil.rmtree(tmp_path / place)
    report = imported(target, tmp_path / "f")
    assert (report["conflicts"], report["lost"]) == ([], [])
    assert report["done"] == {"artifact": 2, "model_version": 2}
    for name, _, made_of, place in rows(target.uri, VERSIONS):
        assert name == "a copy" or made_of == place
        below = str(place).removeprefix("mlflow-artifacts:/").replace("%20", " ")
        assert target.artifacts.joinpath(below, "data").read_text() == "weights"
    assert imported(target, tmp_path / "f")["done"] == {}


def test_models_of_one_name_in_two_workspaces_keep_their_files_apart(
    source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("m")
    client.create_model_version("m", files(tmp_path / "default", "default"))
    execute(source.uri, "INSERT INTO workspaces (name) VALUES ('team')")
    for table in ("registered_models", "model_versions"):
        columns = [name for _, name, *_ in rows(source.uri, f"PRAGMA table_info({table})")]
        others = ", ".join(column for column in columns if column != "workspace")
        execute(
            source.uri,
            f"INSERT INTO {table} (workspace, {others}) SELECT 'team', {others} FROM {table}",
        )
    where = "WHERE workspace = 'team'"
    team = files(tmp_path / "team", "team")
    statement = f"UPDATE model_versions SET source = ?, storage_location = ? {where}"
    change(source.file, statement, team, team)
    exported(source, tmp_path / "f")
    report = imported(target, tmp_path / "f")
    assert (report["conflicts"], report["lost"]) == ([], [])
    places = rows(target.uri, "SELECT workspace, storage_location FROM model_versions")
    assert len(places) == 2
    for workspace, place in places:
        below = str(place).removeprefix("mlflow-artifacts:/")
        assert target.artifacts.joinpath(below, "data").read_text() == workspace


@pytest.mark.parametrize("policy", ["skip", "update"])
def test_a_version_deleted_at_the_source_is_a_conflict(
    policy: str, source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("m")
    for _ in range(2):
        client.create_model_version("m", "s3://elsewhere/m")
    client.set_registered_model_alias("m", "best", 2)
    options = ("--artifacts", "reference")
    exported(source, tmp_path / "f", *options)
    imported(target, tmp_path / "f", *options)
    client.delete_model_version("m", "2")
    exported(source, tmp_path / "f", *options)
    options += ("--on-conflict", policy)
    planned = imported(target, tmp_path / "f", *options, "--dry-run")
    report = imported(target, tmp_path / "f", *options)
    conflicts = [(each["kind"], each["field"]) for each in report["conflicts"]]
    assert conflicts == [("model_version", "current_stage")]
    assert planned["conflicts"] == report["conflicts"]
    aliases = rows(target.uri, "SELECT alias FROM registered_model_aliases")
    if policy == "skip":
        assert rows(target.uri, STAGES) == [(1, "None"), (2, "None")]
        assert aliases == [("best",)]
    else:
        assert rows(target.uri, STAGES) == rows(source.uri, STAGES)
        assert aliases == []
        assert imported(target, tmp_path / "f", *options)["conflicts"] == []


def test_a_tag_that_only_looks_like_a_prompts_makes_none(
    source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("m", tags={"tag": "True"})
    change(source.file, "UPDATE registered_model_tags SET key = 'mlflow.prompt.is_prompt'")
    exported(source, tmp_path / "f")
    for _ in range(2):
        assert imported(target, tmp_path / "f")["lost"] == []


def test_a_version_that_comes_home_gets_no_tags(
    source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    there = MlflowClient(target.uri)
    for each in (client, there):
        each.create_registered_model("m")
        each.create_model_version("m", "s3://elsewhere/m")
    change(target.file, "UPDATE model_versions SET creation_time = creation_time + 1")
    options = ("--artifacts", "reference", "--renumber")
    exported(source, tmp_path / "f", *options[:2])
    imported(target, tmp_path / "f", *options)
    exported(target, tmp_path / "back", *options[:2])
    report = imported(source, tmp_path / "back", *options)
    assert report["done"]["model_version"] == 1  # the other's
    tags = "SELECT version, key FROM model_version_tags WHERE version = 1"
    assert rows(source.uri, tags) == []


@pytest.mark.parametrize("name", ["m", "m, n", "long" * 30])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_of_a_version_that_were_copied_into_its_run_are_no_difference(
    name: str, scheme: str, source: Place, target: Place, client: MlflowClient, tmp_path: Path
) -> None:
    run = client.create_run("0")
    client.create_registered_model(name)
    client.create_model_version(name, files(tmp_path / "own"), run_id=run.info.run_id)
    exported(source, tmp_path / "f")
    options = ("--default-artifact-root", f"{scheme}{target.artifacts}", "--verify")
    imported(target, tmp_path / "f", *options)
    MlflowClient(target.uri).rename_registered_model(name, "renamed")
    renamed = ("--rename-model", f"{name}=renamed", "--artifacts-destination", target.artifacts)
    command("verify", tmp_path / "f", "--against", target.uri, *renamed)
