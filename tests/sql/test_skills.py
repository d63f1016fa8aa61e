"""Skills in databases: rows, and files where the server of the database looks for them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.contracts import Content
from mlflow_bundle.kinds.datasets import EvaluationDataset
from mlflow_bundle.kinds.skills import Skill
from tests.bundles.memory import write_bundle
from tests.compare import row_dump
from tests.installed import has
from tests.servers import MlflowServer
from tests.sql.databases import change, execute, read_back, rows
from tests.sql.imports import Place, exported, imported
from tests.tables import compare_databases
from tests.transfer.commands import command, export, import_
from tests.transfer.kinds.services import CANARY, call, skills_of
from tests.world import _Build
from tests.world_services import NOWHERE, skills, upload_skill_version

has_skills = pytest.mark.skipif(not has(3, 18), reason="MLflow has skills since 3.18")

TABLES = ("skills", "skill_tags", "skill_aliases", "skill_versions", "skill_version_tags")


def store_of(place: Place) -> Any:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(place.uri, "mlflow-artifacts:/")


def uploaded(place: Place, name: str, content: bytes, *, below: str = "", **fields: Any) -> str:
    """Make a version as the server does when files are uploaded; returns where they lie."""
    where = f"skills/{name}/{uuid.uuid4().hex}"
    file = place.artifacts / below / where / "docs" / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    store_of(place).create_skill_version(
        name, source_type="mlflow", source=f"mlflow-artifacts:/{where}", **fields
    )
    return where


def held(place: Place, directory: Path) -> dict[str, list[Any]]:
    """The rows of all these tables as SQLite would hold them, whatever their order."""
    uri = place.uri
    if not uri.startswith("sqlite"):
        uri = f"sqlite:///{read_back(uri, directory / f'{uuid.uuid4().hex}.db')}"
    return {table: sorted(rows(uri, f"SELECT * FROM {table}"), key=repr) for table in TABLES}


@has_skills
def test_skills_come_into_each_database(source: Place, destination: Place, tmp_path: Path) -> None:
    store = store_of(source)
    store.create_skill("s", description="of  s\n ünï", icons=[{"src": "https://8.8.8.8/ü"}])
    where = uploaded(source, "s", b"first", digest="ab" * 32)
    gone = uploaded(source, "s", b"second", status="draft")
    store.delete_skill_version("s", 2)
    store.create_skill_version("s", source_type="git", source=NOWHERE, ref="main", subpath="a/b")
    store.set_skill_tag("s", "t", "ünï 😀")
    store.set_skill_version_tag("s", 3, "t", "")
    store.set_skill_alias("s", "best", 1)
    store.create_skill("s", organization="org.ex")
    store.create_skill_version("s", organization="org.ex", source_type="oci", source="127.0.0.1/a")
    store.create_skill("without", description="")
    bundle = tmp_path / "b.mlbundle"
    exported(source, bundle)
    imported(destination, bundle)
    assert held(destination, tmp_path) == held(source, tmp_path)
    for place, content in ((where, b"first"), (gone, b"second")):
        assert (destination.artifacts / place / "docs" / "SKILL.md").read_bytes() == content
    again = imported(destination, bundle)
    assert again["present"]["skill"] == 3
    assert "skill" not in again["done"]
    command(
        "diff", bundle, destination.uri, "--b-artifacts-destination", destination.artifacts,
        "--strict",
    )  # fmt: skip

    # A file that is missing comes again; what was changed is a conflict, or follows.
    (destination.artifacts / where / "docs" / "SKILL.md").unlink()
    execute(
        destination.uri,
        "UPDATE skills SET description = 'theirs', search_text = 's theirs'"
        " WHERE name = 's' AND organization = ''",
    )
    execute(destination.uri, "UPDATE skill_versions SET status = 'deprecated' WHERE version = 3")
    report = imported(destination, bundle)
    assert (destination.artifacts / where / "docs" / "SKILL.md").read_bytes() == b"first"
    fields = sorted((c["id"], c["field"]) for c in report["conflicts"])
    assert fields == [("s", "description"), ("s", "versions.3.status")]
    imported(destination, bundle, "--on-conflict", "update")
    assert held(destination, tmp_path) == held(source, tmp_path)


@has_skills
def test_files_lie_in_the_workspace_of_their_skill(
    source: Place, target: Place, tmp_path: Path
) -> None:
    store_of(source).create_skill("s")
    change(source.file, "INSERT INTO workspaces (name) VALUES ('team')")
    where = uploaded(source, "s", b"of team", below="workspaces/team")
    for table in ("skills", "skill_versions"):
        change(source.file, f"UPDATE {table} SET workspace = 'team'")
    bundle = tmp_path / "b.mlbundle"
    exported(source, bundle)
    imported(target, bundle)
    assert held(target, tmp_path) == held(source, tmp_path)
    file = target.artifacts / "workspaces" / "team" / where / "docs" / "SKILL.md"
    assert file.read_bytes() == b"of team"
    imported(target, bundle, "--workspace", "team", "--workspace-map", "team=default")
    assert (target.artifacts / where / "docs" / "SKILL.md").read_bytes() == b"of team"
    assert rows(target.uri, "SELECT workspace FROM skills ORDER BY 1") == [("default",), ("team",)]


@has_skills
def test_a_database_without_a_proxy_says_what_is_missing(
    source: Place, target: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(source).create_skill("s")
    where = uploaded(source, "s", b"1")
    bundle = tmp_path / "b.mlbundle"
    exported(source, bundle)
    monkeypatch.chdir(tmp_path)
    direct = ("--tracking-uri", target.uri, "--default-artifact-root", tmp_path / "direct")
    done = command("import-all", bundle, *direct, "--json", "--quiet", expect=3)
    assert done.losses == [("skill", "s/1", "artifacts")]
    assert "--artifacts-destination" in done.report["lost"][0]["reason"]
    imported(target, bundle)
    assert (target.artifacts / where / "docs" / "SKILL.md").read_bytes() == b"1"

    # At the source, files that are not there are told of, and only these are lost.
    (source.artifacts / where / "docs" / "SKILL.md").unlink()
    uploaded(source, "s", b"2")
    lost = exported(source, tmp_path / "c.mlbundle", expect=3)["lost"]
    assert [(loss["kind"], loss["id"], loss["field"]) for loss in lost] == [
        ("skill", "s/1", "artifacts")
    ]


@has_skills
def test_a_masked_source_is_told_of(source: Place, target: Place, tmp_path: Path) -> None:
    store = store_of(source)
    store.create_skill_version("s", source_type="zip", source=f"https://u:{CANARY}@127.0.0.1/z")
    bundle = tmp_path / "b.mlbundle"
    exported(source, bundle)
    report = imported(target, bundle)
    assert rows(target.uri, "SELECT source FROM skill_versions") == [("https://***@127.0.0.1/z",)]
    assert [note for note in report["notes"] if "'s', version 1" in note]
    assert imported(source, bundle)["conflicts"] == []
    assert CANARY in rows(source.uri, "SELECT source FROM skill_versions")[0][0]


@has_skills
@pytest.mark.server
@pytest.mark.slow
def test_a_server_shows_what_came_from_another_database(
    empty_server: Callable[[], MlflowServer], target: Place, tmp_path: Path
) -> None:
    """REST to database to REST: files and numbers arrive, and a new version gets the next one."""
    source, last = empty_server(), empty_server()
    skills(_Build(source.uri))
    export(source, tmp_path / "a.mlbundle")
    imported(target, tmp_path / "a.mlbundle")
    command("diff", source.uri, target.uri, "--b-artifacts-destination", target.artifacts)
    exported(target, tmp_path / "b.mlbundle")
    import_(last, tmp_path / "b.mlbundle")
    assert skills_of(last) == skills_of(source)
    direct = Place(f"sqlite:///{last.database}", last.artifact_directory)
    exported(direct, tmp_path / "c.mlbundle")  # with the deleted versions
    server = empty_server()
    rows_before = row_dump(server.database)
    assert rows_before["skills"] == []
    import_(server, tmp_path / "c.mlbundle")
    command("diff", tmp_path / "c.mlbundle", server.uri)
    compared = compare_databases(source.database, server.database, tables=TABLES)
    assert compared.differences == []
    upload_skill_version(_Build(server.uri), "forecast", {"SKILL.md": b"7"})
    versions = call(server, "GET", "3.0/mlflow/skills/forecast/versions")["skill_versions"]
    assert [version["version"] for version in versions] == [1, 2, 3, 4, 6, 7]


def test_an_older_database_loses_skills_alone(target: Place, tmp_path: Path) -> None:
    """A database of before MLflow 3.18 has no place for them."""
    skill, dataset = Skill(name="s"), EvaluationDataset(dataset_id="d-1", name="d")
    bundle = write_bundle(tmp_path / "b.mlbundle", [Content(entity=skill), Content(entity=dataset)])
    for table in reversed(TABLES):
        execute(target.uri, f"DROP TABLE IF EXISTS {table}")
    for options in (("--dry-run",), ()):
        report = imported(target, bundle, *options, expect=3)
        assert [(loss["kind"], loss["id"]) for loss in report["lost"]] == [("skill", "s")]
        assert "MLflow 3.18" in report["lost"][0]["reason"]
    assert report["done"]["dataset"] == 1
