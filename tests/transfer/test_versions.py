"""Versions keep their numbers, and their sources lead to the files that arrived."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compare import differences, row_dump, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer, tracking_uri
from tests.table_rows import Database
from tests.transfer.commands import command, export, import_
from tests.transfer.faults import Answer, faulty
from tests.transfer.small import Small
from tests.world import ml_model_file
from tests.world_traces import SpanSpec, log_spans, start_trace

pytestmark = [pytest.mark.server, pytest.mark.slow]


def numbers(server: MlflowServer, name: str) -> list[int]:
    versions = snapshot(server.uri).data["registered_models"][name]["versions"]
    return sorted(map(int, versions))


def tags_in(database: Database, table: str) -> list[tuple[str, str]]:
    """Keys and values of a table of tags."""
    return [
        (str(row.get("key", row.get("tag_key"))), str(row.get("value", row.get("tag_value"))))
        for row in database.rows(table)
    ]


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory, _pool) -> Path:  # type: ignore[no-untyped-def]
    """A bundle of one model with the versions 2, 3, 5 and 12, all of one run."""
    server = _pool.borrow({})
    build = Small(server.uri)
    build.experiment("gaps", "gaps")
    run = build.run("run", "gaps")
    build.put_files(build.artifact_uri(run), {"model/model.pkl": b"x"})
    build.model("gaps")
    for _ in range(12):
        build.version("gaps", f"runs:/{run}/model", run_id=run)
    for number in (1, 4, 6, 7, 8, 9, 10, 11):
        build.delete_version("gaps", number)
    build.alias("gaps", "newest", 12)
    path = tmp_path_factory.mktemp("gaps") / "gaps.mlbundle"
    export(server, path)
    _pool.give_back(server, {})
    return path


def test_gaps_are_kept_and_no_filler_stays(gaps: Path, empty_server: LendServer) -> None:
    server = empty_server()
    import_(server, gaps)
    assert numbers(server, "gaps") == [2, 3, 5, 12]
    found = snapshot(server.uri).data["registered_models"]["gaps"]
    assert found["aliases"] == {"newest": "12"}
    tags = {key for version in found["versions"].values() for key in version["tags"]}
    assert tags == {"mlflow_bundle.origin"}
    # The numbers of the gap are used up here as they are at the source.
    assert Small(server.uri).version("gaps", "s3://b/next") == 13


def test_every_filler_is_tagged_while_it_exists(
    gaps: Path, empty_server: LendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow_bundle.rest.registry_writer import RegistryWriter

    server = empty_server()
    seen: list[dict[str, str]] = []
    original = RegistryWriter._delete_version

    def watched(self: RegistryWriter, name: str, number: int) -> None:
        seen.append(snapshot(server.uri).data["registered_models"][name]["versions"][str(number)])
        original(self, name, number)

    monkeypatch.setattr(RegistryWriter, "_delete_version", watched)
    import_(server, gaps)
    assert len(seen) == 8
    assert all(filler["tags"] == {"mlflow_bundle.filler": "true"} for filler in seen)


def test_a_filler_of_an_import_that_was_killed_is_removed(
    gaps: Path, empty_server: LendServer
) -> None:
    server = empty_server()
    killed = Small(server.uri)
    killed.model("gaps")
    killed.version("gaps", "s3://mlflow-bundle/filler", tags={"mlflow_bundle.filler": "true"})
    import_(server, gaps)
    assert numbers(server, "gaps") == [2, 3, 5, 12]


def test_an_import_that_was_killed_behind_a_filler_goes_on_without_a_loss(
    gaps: Path, empty_server: LendServer
) -> None:
    server = empty_server()
    killed = Small(server.uri)
    killed.model("gaps")
    killed.version("gaps", "s3://mlflow-bundle/filler")
    killed.delete_version("gaps", 1)
    import_(server, gaps)
    found = snapshot(server.uri).data["registered_models"]["gaps"]["versions"]
    assert sorted(map(int, found)) == [2, 3, 5, 12]
    assert {key for version in found.values() for key in version["tags"]} == {
        "mlflow_bundle.origin"
    }
    assert import_(server, gaps).report["done"] == {}


@pytest.mark.parametrize(
    ("deleted", "lost", "left"), [((1,), (), (2, 3, 5, 12)), ((2, 3), (2, 3), (1, 5, 12))]
)
def test_a_version_that_an_import_was_killed_with_counts_only_under_its_own_number(
    deleted: tuple[int, ...],
    lost: tuple[int, ...],
    left: tuple[int, ...],
    gaps: Path,
    empty_server: LendServer,
) -> None:
    """Killed, or refused, before it knew which number it had got."""
    server = empty_server()
    there = Small(server.uri)
    there.model("gaps")
    for _ in range(max(deleted)):
        there.version("gaps", "s3://elsewhere/other")
    for number in deleted:
        there.delete_version("gaps", number)
    refused: list[str] = []

    def refuse_one(method: str, path: str) -> Answer | None:
        if refused or not path.endswith(("/model-versions/delete", "/model-versions/delete-tag")):
            return None
        refused.append(path)
        return Answer(403, "application/json", b"{}")

    with faulty(server.uri, instead=refuse_one) as uri:
        command("import-all", gaps, "--tracking-uri", uri, expect=3)
    done = import_(server, gaps, expect=None)
    assert done.losses == [("model_version", f"gaps/{number}", "") for number in lost]
    assert numbers(server, "gaps") == list(left)
    tags = snapshot(server.uri).data["registered_models"]["gaps"]["versions"]["5"]["tags"]
    assert list(tags) == ["mlflow_bundle.origin"]


def test_a_late_version_alone_is_refused_with_both_offers(
    gaps: Path, empty_server: LendServer
) -> None:
    server = empty_server()
    done = command("import", gaps, "--models", "gaps/5", "--tracking-uri", server.uri, expect=2)
    assert "gaps" in done.stderr
    assert "versions 2, 3" in done.stderr
    assert "--with-earlier-versions" in done.stderr
    assert "--renumber" in done.stderr
    found = snapshot(server.uri)
    assert found.data["registered_models"] == found.data["runs"] == {}
    assert [row["name"] for row in found.data["experiments"].values()] == ["Default"]


def test_a_first_version_alone_needs_no_offer(gaps: Path, empty_server: LendServer) -> None:
    server = empty_server()
    import_(server, gaps, "--models", "gaps/2", name="import")
    assert numbers(server, "gaps") == [2]
    import_(server, gaps, "--models", "gaps/3", name="import")
    assert numbers(server, "gaps") == [2, 3]
    import_(server, gaps)
    assert numbers(server, "gaps") == [2, 3, 5, 12]


def test_with_earlier_versions_keeps_the_number(gaps: Path, empty_server: LendServer) -> None:
    server = empty_server()
    import_(server, gaps, "--models", "gaps/5", "--with-earlier-versions", name="import")
    assert numbers(server, "gaps") == [2, 3, 5]


def test_renumber_gives_the_next_free_number_once(gaps: Path, empty_server: LendServer) -> None:
    server = empty_server()
    done = import_(server, gaps, "--models", "gaps@newest", "--renumber", name="import")
    assert done.report["adjusted"]["model_version.version (--renumber)"] == 1
    found = snapshot(server.uri).data["registered_models"]["gaps"]
    assert list(found["versions"]) == ["1"]
    assert found["versions"]["1"]["tags"]["mlflow_bundle.source_version"] == "12"
    assert found["aliases"] == {"newest": "1"}
    again = import_(server, gaps, "--models", "gaps@newest", "--renumber", name="import")
    assert again.report["done"] == {}
    assert again.report["present"]["model_version"] == 1


def test_what_names_a_renumbered_prompt_version_names_its_new_number(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = Small(source.uri)
    is_prompt = {"mlflow.prompt.is_prompt": "true"}
    linked = json.dumps([{"name": "p", "version": "3"}])
    build.experiment("e", "e")
    run = build.run("run", "e", tags={"mlflow.linkedPrompts": linked})
    model = build.logged_model("m", "e", name="m", source_run_id=run)
    tag = {"key": "mlflow.linkedPrompts", "value": linked}
    build.call(f"logged-models/{model}/tags", method="PATCH", tags=[tag])
    trace = start_trace(build, "t", "e", tags={"mlflow.linkedPrompts": linked})
    attributes = {"mlflow.linkedPrompts": linked}
    log_spans(build, trace, "e", [SpanSpec(name="s", attributes=attributes)])
    build.model("p", **is_prompt, _mlflow_experiment_ids=f",{build.experiments['e']},")
    for _ in range(3):
        text = {"mlflow.prompt.text": "t", "mlflow.prompt.associatedRunIds": run}
        build.version("p", "dummy-source", tags=is_prompt | text)
    build.delete_version("p", 1)
    link = {"name": "p", "version": "3"}
    build.call("traces/link-prompts", trace_id=trace, prompt_versions=[link])
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)

    options = ("--renumber", "--rename-model", "p=q")
    other = Small(server.uri)
    other.experiment("other", "other")
    done = import_(server, bundle, *options)
    assert done.report["done"]["prompt"] == 1
    assert done.report["done"]["prompt_version"] == 2
    assert done.report["adjusted"]["prompt_version.version (--renumber)"] == 2
    assert not [key for key in done.report["adjusted"] if "outside" in key]
    database = Database(server.database)
    found = [
        value
        for table in ("tags", "trace_tags", "logged_model_tags")
        for key, value in tags_in(database, table)
        if key == "mlflow.linkedPrompts"
    ]
    (span,) = database.rows("spans")
    found.append(json.loads(str(span["content"]))["attributes"]["mlflow.linkedPrompts"])
    assert [json.loads(text) for text in found] == [[{"name": "q", "version": "2"}]] * 4
    links = [row["destination_id"] for row in database.rows("entity_associations")]
    assert links == ["q/2"]
    (row,) = database.rows("runs")
    run_ids = ("mlflow.prompt.associatedRunIds", str(row["run_uuid"]))
    assert tags_in(database, "model_version_tags").count(run_ids) == 2
    experiment_ids = ("_mlflow_experiment_ids", f",{row['experiment_id']},")
    assert experiment_ids in tags_in(database, "registered_model_tags")
    command("diff", bundle, server.uri, *options[1:], "--experiments", "e", "--models", "p")
    before = row_dump(server.database)
    again = import_(server, bundle, *options)
    assert again.report["done"] == {}
    assert again.conflicts == []
    assert row_dump(server.database) == before


def test_a_number_of_another_version_is_a_conflict_in_the_plan_and_a_loss(
    gaps: Path, empty_server: LendServer
) -> None:
    server = empty_server()
    there = Small(server.uri)
    there.model("gaps")
    for _ in range(3):
        there.version("gaps", "s3://elsewhere/other")
    plan = import_(server, gaps, "--dry-run", expect=3)
    expected = [("model_version", f"gaps/{number}", "version") for number in (2, 3)]
    assert plan.conflicts == expected
    done = import_(server, gaps, expect=3)
    assert done.conflicts == expected
    assert done.losses == [("model_version", "gaps/2", ""), ("model_version", "gaps/3", "")]
    assert all("--renumber" in loss["reason"] for loss in done.report["lost"])
    assert numbers(server, "gaps") == [1, 2, 3, 5, 12]
    versions = snapshot(server.uri).data["registered_models"]["gaps"]["versions"]
    assert versions["2"]["source"] == "s3://elsewhere/other"


def test_a_number_used_by_a_deleted_version_is_a_loss(gaps: Path, empty_server: LendServer) -> None:
    server = empty_server()
    there = Small(server.uri)
    there.model("gaps")
    for number in (1, 2, 3):
        there.version("gaps", "s3://elsewhere/other")
        if number == 3:
            there.delete_version("gaps", number)
    for number in (1, 2):
        there.delete_version("gaps", number)
    done = import_(server, gaps, expect=3)
    assert done.losses == [("model_version", "gaps/2", ""), ("model_version", "gaps/3", "")]
    # None of the numbers that are still free is wasted by trying.
    assert numbers(server, "gaps") == [5, 12]


def with_a_run(server: MlflowServer) -> tuple[Small, str]:
    """A server in which a run has logged a model at ``m``."""
    build = Small(server.uri)
    build.experiment("e", "e")
    run = build.run("run", "e")
    build.put_files(build.artifact_uri(run), {"m/model.pkl": b"original"})
    return build, run


def test_copies_of_versions_follow_their_originals(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build, run = with_a_run(source)
    # The copies' names come first, last, and before their own original's.
    for name in ("a copy", "original", "z copy", "b copy of a copy"):
        build.model(name)
    build.version("original", f"runs:/{run}/m", run_id=run)
    build.version("a copy", "models:/original/1")
    build.version("z copy", "models:/original/1")
    build.version("b copy of a copy", "models:/z copy/1")
    is_prompt = {"mlflow.prompt.is_prompt": "true"}
    build.model("p", **is_prompt, _mlflow_experiment_ids=f",{build.experiments['e']},")
    text = {"mlflow.prompt.text": "Say {{it}}", "mlflow.prompt.associatedRunIds": run}
    build.version("p", "dummy-source", tags=is_prompt | text)
    build.alias("p", "production", 1)
    export(source, tmp_path / "f.mlbundle")
    words = ["--rename-model", "z copy=y copy", "--rename-model", "p=q"]
    import_(server, tmp_path / "f.mlbundle", *words)
    assert import_(server, tmp_path / "f.mlbundle", *words).report["done"] == {}
    everything = snapshot(server.uri)
    found = everything.data["registered_models"]
    (prompt,) = everything.data["prompts"].values()
    assert (prompt["name"], prompt["aliases"]) == ("q", {"production": "1"})
    assert found["a copy"]["versions"]["1"]["source"] == "models:/original/1"
    assert found["b copy of a copy"]["versions"]["1"]["source"] == "models:/y copy/1"
    (new_run,) = snapshot(server.uri).data["runs"].values()
    for name in ("a copy", "y copy", "b copy of a copy"):
        place = found[name]["versions"]["1"]["download_uri"]
        assert place == f"runs:/{new_run['run_id']}/m", name


def test_models_that_copy_versions_of_each_other_stay_copies(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build, run = with_a_run(source)
    for name in ("a", "b"):
        build.model(name)
    build.version("b", f"runs:/{run}/m", run_id=run)
    build.version("a", "models:/b/1")
    build.version("b", "models:/a/1")
    build.version("a", "models:/b/2")
    export(source, tmp_path / "f.mlbundle")
    import_(server, tmp_path / "f.mlbundle", "--verify")
    found = snapshot(server.uri).data["registered_models"]
    sources = {
        f"{name}/{number}": version["source"]
        for name, model in found.items()
        for number, version in model["versions"].items()
    }
    assert sources.pop("b/1").startswith("runs:/")
    assert sources == {"a/1": "models:/b/1", "b/2": "models:/a/1", "a/2": "models:/b/2"}


def test_a_copy_of_a_version_whose_name_is_anothers_now_keeps_its_files(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("e", "e")
    runs = [build.run(name, "e") for name in ("first", "another")]
    for run, content in zip(runs, (b"of the first", b"of another"), strict=True):
        build.put_files(build.artifact_uri(run), {"m/data": content})
    build.model("first")
    build.model("copy")
    build.version("first", f"runs:/{runs[0]}/m", run_id=runs[0])
    build.version("copy", "models:/first/1")
    build.call("registered-models/rename", name="first", new_name="renamed")
    build.model("first")
    build.version("first", f"runs:/{runs[1]}/m", run_id=runs[1])
    export(source, tmp_path / "f.mlbundle")
    assert import_(server, tmp_path / "f.mlbundle").losses == []
    for name, content in (("copy", b"of the first"), ("first", b"of another")):
        assert downloaded(server, name, "1", tmp_path) == {"data": content}
    command("verify", tmp_path / "f.mlbundle", "--against", server.uri)


def test_a_copy_without_its_original_brings_the_files(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build, run = with_a_run(source)
    build.model("original")
    build.model("copy")
    build.version("original", f"runs:/{run}/m", run_id=run)
    build.version("copy", "models:/original/1")
    export(source, tmp_path / "f.mlbundle", "--models", "copy", name="export-models")
    import_(server, tmp_path / "f.mlbundle")
    assert downloaded(server, "copy", "1", tmp_path) == {"model.pkl": b"original"}


def test_files_of_a_version_with_another_number_are_no_difference(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("e", "e")
    run, other = build.run("run", "e"), build.run("other", "e")
    build.put_files(build.artifact_uri(other), {"m/data": b"of the other"})
    build.model("m")
    for _ in range(2):
        build.version("m", f"{build.artifact_uri(other)}/m", run_id=other)
    build.delete_version("m", 1)
    with sqlite3.connect(source.database) as connection:
        connection.execute("UPDATE model_versions SET run_id = ?", (run,))
    connection.close()
    export(source, tmp_path / "f.mlbundle")
    import_(server, tmp_path / "f.mlbundle", "--renumber", "--verify")
    assert downloaded(server, "m", "1", tmp_path) == {"data": b"of the other"}


def tree_of_a_version_with_files(
    server: MlflowServer, directory: Path, has_run: bool, shown: str = "s3://bucket/m"
) -> Path:
    """Export a version whose files lie in a bucket, as it seems, together with its files."""
    build = Small(server.uri)
    build.experiment("e", "e")
    build.model("m")
    build.version("m", "s3://bucket/m", run_id=build.run("run", "e") if has_run else "")
    place = directory / "m"
    place.mkdir()
    (place / "data").write_bytes(b"weights")
    with contextlib.closing(sqlite3.connect(server.database, timeout=30)) as connection:
        columns = "source = :place, storage_location = :place"
        connection.execute(f"UPDATE model_versions SET {columns}", {"place": place.as_uri()})
        connection.commit()
    command(
        *("export-all", "--tracking-uri", f"sqlite:///{server.database}"),
        *("--artifacts-destination", server.artifact_directory),
        *("--output-dir", directory / "tree"),
    )
    (path,) = (directory / "tree").rglob("model.json")
    path.write_text(path.read_text().replace(place.as_uri(), shown))
    return directory / "tree"


@pytest.mark.parametrize("has_run", [False, True])
def test_files_of_a_version_may_come_later(
    has_run: bool, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    tree = tree_of_a_version_with_files(empty_server(), tmp_path, has_run)
    import_all = ("import-all", "--input-dir", tree, "--tracking-uri", server.uri)
    command(*import_all, "--artifacts", "skip")
    assert not any(path.name == "data" for path in server.artifact_directory.rglob("*"))

    def refuse(method: str, path: str) -> Answer | None:
        return Answer(403, "application/json", b"{}") if method == "PUT" else None

    with faulty(server.uri, instead=refuse) as uri:
        report = command(*import_all[:-1], uri, "--json", expect=3).report
    assert (report["done"], report["present"]["model_version"]) == ({}, 1)
    done = command(*import_all, "--json").report["done"]
    assert (done["artifact"], done["model_version"]) == (1, 1)
    assert downloaded(server, "m", "1", tmp_path) == {"data": b"weights"}
    assert command(*import_all, "--json").report["done"] == {}


def test_a_version_that_is_referenced_keeps_its_source(
    empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    tree = tree_of_a_version_with_files(empty_server(), tmp_path, has_run=False)
    words = ("--input-dir", tree, "--tracking-uri", server.uri, "--artifacts", "reference")
    command("import-all", *words)
    (version,) = snapshot(server.uri).data["registered_models"]["m"]["versions"].values()
    assert version["source"] == "s3://bucket/m"


def test_nothing_is_written_where_a_version_that_is_referenced_has_its_files(
    empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    place = "s3://bucket/model"  # named like that of a version in a run of its own
    tree = tree_of_a_version_with_files(empty_server(), tmp_path, has_run=True, shown=place)
    import_all = ("import-all", "--input-dir", tree, "--tracking-uri", server.uri)
    command(*import_all, "--artifacts", "reference")
    assert command(*import_all, "--json").report["done"] == {}


@pytest.mark.parametrize("place", ["/some/where", "mlflow-artifacts:/some/where"])
def test_a_reference_that_no_other_server_takes_gets_its_files_later(
    place: str, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    tree = tree_of_a_version_with_files(empty_server(), tmp_path, has_run=False, shown=place)
    import_all = ("import-all", "--input-dir", tree, "--tracking-uri", server.uri)
    command(*import_all, "--artifacts", "reference")
    command(*import_all)
    assert downloaded(server, "m", "1", tmp_path) == {"data": b"weights"}


def downloaded(server: MlflowServer, name: str, number: str, directory: Path) -> dict[str, bytes]:
    """What MLflow's own client downloads for a version."""
    import mlflow

    directory = directory / f"{name}-{number}"
    directory.mkdir()
    with tracking_uri(server.uri):
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{name}/{number}", dst_path=str(directory)
        )
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "registered_model_meta"
    }


def test_sources_of_every_scheme_lead_to_the_new_files(
    small: Small, small_bundle: Path, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    import_(server, small_bundle)
    found = snapshot(server.uri)
    new_run = {run["tags"]["mlflow_bundle.origin"]: run for run in found.data["runs"].values()}[
        small.runs["first"]
    ]
    (tree,) = found.data["logged_models"].values()
    versions = found.data["registered_models"]["churn"]["versions"]
    assert versions["1"]["source"] == f"runs:/{new_run['run_id']}/model"
    assert versions["2"]["source"] == f"models:/{tree['model_id']}"
    assert versions["3"]["source"] == f"{new_run['artifact_uri']}/model"
    old_style = {
        "MLmodel": ml_model_file(new_run["run_id"], None, "model", "0" * 32),
        "model.pkl": b"pickle",
    }
    assert downloaded(server, "churn", "1", tmp_path) == old_style
    assert downloaded(server, "churn", "3", tmp_path) == old_style
    assert downloaded(server, "churn", "2", tmp_path) == {
        "MLmodel": ml_model_file(tree["source_run_id"], tree["model_id"], tree["artifact_uri"]),
        "model.pkl": b"tree",
    }


@pytest.mark.parametrize("is_first_there", [True, False])
def test_files_of_a_run_that_is_gone_find_a_place(
    is_first_there: bool, empty_server: LendServer, tmp_path: Path
) -> None:
    """The version's run was deleted for good; its files are still where they were."""
    source, server = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("e", "e")
    run = build.run("run", "e")
    place = f"{build.artifact_uri(run)}/m"
    build.put_files(place, {"model.pkl": b"elsewhere", "a/b": b"c"})
    build.model("outside")
    build.version("outside", place, run_id=run)
    build.model("a copy")
    build.version("a copy", "models:/outside/1")
    if not is_first_there:
        Small(server.uri).call("experiments/delete", experiment_id="0")
    forget_run(source, run)
    export(source, tmp_path / "f.mlbundle")
    import_(server, tmp_path / "f.mlbundle", "--models", "all", name="import")
    for name in ("outside", "a copy"):
        assert downloaded(server, name, "1", tmp_path) == {"model.pkl": b"elsewhere", "a/b": b"c"}
    again = import_(server, tmp_path / "f.mlbundle", "--models", "all", name="import")
    assert again.report["done"] == {}


def test_the_run_for_files_that_an_interrupted_import_left_is_completed(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("e", "e")
    run = build.run("run", "e")
    place = f"{build.artifact_uri(run)}/m"
    build.put_files(place, {"model.pkl": b"elsewhere"})
    build.model("outside")
    build.version("outside", place, run_id=run)
    forget_run(source, run)
    export(source, tmp_path / "f.mlbundle")

    def refuse(method: str, path: str) -> Answer | None:
        return Answer(403, "application/json", b"{}") if path.endswith("/runs/update") else None

    with faulty(server.uri, instead=refuse) as uri:
        words = ["import-all", tmp_path / "f.mlbundle", "--tracking-uri", uri, "--json"]
        assert command(*words, expect=3).losses == [("model_version", "outside/1", "")]
    import_(server, tmp_path / "f.mlbundle")
    (holder,) = snapshot(server.uri).data["runs"].values()
    assert holder["status"] == "FINISHED"
    assert holder["end_time"] == holder["start_time"]


def forget_run(server: MlflowServer, run_id: str) -> None:
    """Delete a run for good, and leave its files."""
    with sqlite3.connect(server.database) as connection:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))
    connection.close()


def test_a_model_renamed_keeps_its_versions(
    small_bundle: Path,
    small_snapshot,
    empty_server: Callable[[], MlflowServer],  # type: ignore[no-untyped-def]
) -> None:
    server = empty_server()
    import_(server, small_bundle, "--rename-model", "churn=abandoned")
    found = snapshot(server.uri)
    names = set(small_snapshot.data["registered_models"])
    assert found.data["registered_models"].keys() == names - {"churn"} | {"abandoned"}
    renamed = found.data["registered_models"].pop("abandoned")
    found.data["registered_models"]["churn"] = {**renamed, "name": "churn"}
    lines = differences(small_snapshot, found)
    assert [line for line in lines if "mlflow.modelVersions" not in line] == []
