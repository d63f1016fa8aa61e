"""Skills travel with versions, tags, aliases and the files that were uploaded for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from tests.compare import row_dump
from tests.installed import has
from tests.servers import MlflowServer
from tests.sql.databases import change
from tests.table_rows import Database
from tests.transfer.commands import command, export, import_
from tests.transfer.faults import DROPPED, Answer, faulty
from tests.transfer.kinds.services import CANARY, assert_no_canary, call, skills_of
from tests.world import _Build
from tests.world_services import (
    NOWHERE,
    make_skill,
    make_skill_version,
    skills,
    upload_skill_version,
)

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not has(3, 18), reason="MLflow has skills since 3.18"),
]

PATH = "3.0/mlflow/skills"
GIT = {"source_type": "git", "source": f"{NOWHERE}/skills.git"}


def numbers(server: MlflowServer) -> dict[int, str]:
    """Status of each version of the only skill, by number, deleted ones too."""
    rows = Database(server.database).rows("skill_versions")
    return {row["version"]: row["status"] for row in rows}


def test_skills_arrive_once_with_all_that_lies_below_them(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    skills(_Build(source.uri))
    rows = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    assert row_dump(source.database) == rows
    assert exported.report["done"]["skill"] == 3
    listed = command("list", bundle, "skills/forecast").stdout
    assert "artifacts/1/SKILL.md" in listed

    import_(destination, bundle)
    assert skills_of(destination) == skills_of(source)
    command("diff", bundle, destination.uri)
    rows = row_dump(destination.database)
    again = import_(destination, bundle)
    assert again.report["present"]["skill"] == 3
    assert row_dump(destination.database) == rows

    # A newer bundle: what is new comes, what was changed is a conflict until it is asked for.
    build = _Build(source.uri)
    upload_skill_version(build, "forecast", {"SKILL.md": b"newer"})
    call(source, "POST", f"{PATH}/forecast/aliases", json={"alias": "next", "version": 7})
    call(source, "POST", f"{PATH}/forecast/versions/1/tags", json={"key": "new", "value": "1"})
    newer = tmp_path / "newer.mlbundle"
    export(source, newer)
    assert import_(destination, newer).conflicts == []
    assert skills_of(destination) == skills_of(source)

    icons = [{"src": f"{NOWHERE}/other.png"}]
    call(source, "PATCH", f"{PATH}/forecast", json={"description": "changed", "icons": icons})
    for number, status in ((7, "deprecated"), (3, "active"), (3, "deprecated")):
        call(source, "PATCH", f"{PATH}/forecast/versions/{number}", json={"status": status})
    call(source, "POST", f"{PATH}/forecast/aliases", json={"alias": "next", "version": 1})
    changed = tmp_path / "changed.mlbundle"
    export(source, changed)
    kept = import_(destination, changed)
    fields = [field for _, _, field in kept.conflicts]
    assert fields == ["aliases.next", "description", "icons", "status", "status"]
    import_(destination, changed, "--on-conflict", "update")
    assert skills_of(destination) == skills_of(source)
    command("verify", changed)


def test_versions_keep_their_numbers(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = _Build(source.uri)
    make_skill(build, "s")
    for _ in range(4):
        make_skill_version(build, "s", **GIT)
    for number in (1, 3):
        for status in ("draft", "deleted"):
            call(source, "PATCH", f"{PATH}/s/versions/{number}", json={"status": status})
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    # What a killed import left behind goes away.
    there = _Build(destination.uri)
    make_skill(there, "s")
    filler = {"source": "https://mlflow-bundle.invalid/filler.git", "status": "draft"}
    make_skill_version(there, "s", source_type="git", **filler)
    import_(destination, bundle)
    assert numbers(destination) == numbers(source)
    assert numbers(source) == {1: "deleted", 2: "active", 3: "deleted", 4: "active"}


def test_a_number_that_a_deleted_version_has_is_a_loss(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    for server in (source, destination):
        build = _Build(server.uri)
        make_skill(build, "s")
        for _ in range(2):
            make_skill_version(build, "s", **GIT)
    for status in ("draft", "deleted"):
        call(destination, "PATCH", f"{PATH}/s/versions/2", json={"status": status})
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    for _ in range(2):
        done = import_(destination, bundle, expect=3)
        assert done.losses == [("skill", "s", "versions[2]")]
        assert "deleted" in done.report["lost"][0]["reason"]
    live = [n for n, status in numbers(destination).items() if status != "deleted"]
    assert live == [1]


def test_uploaded_versions_do_not_come_without_their_files(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = _Build(source.uri)
    make_skill(build, "s")
    upload_skill_version(build, "s", {"SKILL.md": b"1"})
    make_skill_version(build, "s", **GIT)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    done = import_(destination, bundle, "--artifacts", "skip", expect=3)
    assert done.losses == [("skill", "s", "versions[1]")]
    assert numbers(destination) == {1: "deleted", 2: "active"}

    # Files that are gone at the source are told of there.
    (version, _) = call(source, "GET", f"{PATH}/s/versions")["skill_versions"]
    where = version["source"].removeprefix("mlflow-artifacts:/")
    (source.artifact_directory / where / "SKILL.md").unlink()
    done = export(source, tmp_path / "gone.mlbundle", expect=3)
    assert done.losses == [("skill", "s/1", "artifacts")]


def with_gap(source: MlflowServer, bundle: Path) -> None:
    """Export a skill of which the second version is deleted, and the third deprecated."""
    build = _Build(source.uri)
    make_skill(build, "s")
    upload_skill_version(build, "s", {"SKILL.md": b"1"})
    make_skill_version(build, "s", **GIT, status="draft")
    call(source, "DELETE", f"{PATH}/s/versions/2")
    make_skill_version(build, "s", **GIT)
    call(source, "PATCH", f"{PATH}/s/versions/3", json={"status": "deprecated"})
    upload_skill_version(build, "s", {"SKILL.md": b"4"})
    call(source, "POST", f"{PATH}/s/aliases", json={"alias": "best", "version": 4})
    export(source, bundle)


def is_new_version(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/versions")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("is_lost", [False, True], ids=["refused", "answer lost"])
def test_a_version_is_made_again_when_the_server_failed(
    empty_server: Callable[[], MlflowServer], tmp_path: Path, number: int, is_lost: bool
) -> None:
    source, destination = empty_server(), empty_server()
    with_gap(source, tmp_path / "b.mlbundle")
    seen: list[str] = []

    def instead(method: str, path: str) -> Answer | None:
        if is_new_version(method, path):
            seen.append(path)
            if len(seen) == number + 1 and not is_lost:
                return Answer(500, "text/html", b"oops")
        return None

    def fault(method: str, path: str, true: Answer) -> Answer:
        return DROPPED if is_new_version(method, path) and len(seen) == number + 1 else true

    with faulty(destination.uri, fault, instead=instead) as uri:
        import_(SimpleNamespace(uri=uri), tmp_path / "b.mlbundle")
    assert skills_of(destination) == skills_of(source)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_versions_wait_for_one_that_may_come_with_the_next_import(
    empty_server: Callable[[], MlflowServer], tmp_path: Path, number: int
) -> None:
    """A proxy's limit, for example: whoever runs it can lift it."""
    source, destination = empty_server(), empty_server()
    with_gap(source, tmp_path / "b.mlbundle")
    seen: list[str] = []

    def instead(method: str, path: str) -> Answer | None:
        if is_new_version(method, path):
            seen.append(path)
            if len(seen) == number + 1:
                return Answer(413, "text/html", b"too large")
        return None

    with faulty(destination.uri, instead=instead) as uri:
        done = import_(SimpleNamespace(uri=uri), tmp_path / "b.mlbundle", expect=3)
    waits_for = 1 if number == 0 else 3
    assert ("skill", "s", f"versions[{waits_for}]") in done.losses
    (last,) = (loss for loss in done.report["lost"] if loss["field"] == "versions[4]")
    assert f"waits for version {waits_for}" in last["reason"]
    import_(destination, tmp_path / "b.mlbundle")
    assert skills_of(destination) == skills_of(source)


@pytest.mark.slow
@pytest.mark.parametrize("is_lost", [False, True], ids=["before", "behind"])
def test_an_import_that_ended_at_any_request_is_completed_by_the_next(
    empty_server: Callable[[], MlflowServer], tmp_path: Path, is_lost: bool
) -> None:
    source, destination = empty_server(), empty_server()
    with_gap(source, tmp_path / "b.mlbundle")
    seen: list[str] = []
    count = 0

    def instead(method: str, path: str) -> Answer | None:
        if len(seen) > count:
            return DROPPED
        if method != "GET" and PATH in path:
            seen.append(path)
        return DROPPED if len(seen) > count and not is_lost else None

    def fault(method: str, path: str, true: Answer) -> Answer:
        return DROPPED if len(seen) > count else true

    for count in range(100):
        destination.reset()
        seen.clear()
        with faulty(destination.uri, fault, instead=instead) as uri:
            command(
                "import-all", tmp_path / "b.mlbundle", "--tracking-uri", uri,
                "--retry-for", "0", "--steal",
                env={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, expect=None,
            )  # fmt: skip
        done = import_(destination, tmp_path / "b.mlbundle", "--steal")
        assert done.conflicts == []
        assert skills_of(destination) == skills_of(source)
        assert numbers(destination) == {1: "active", 2: "deleted", 3: "deprecated", 4: "active"}
        if len(seen) <= count:
            break
    assert count > 8


def test_a_version_under_a_wrong_number_is_taken_away_by_the_next_import(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    for server in (source, destination):
        make_skill(_Build(server.uri), "s")
        for _ in range(2):
            make_skill_version(_Build(server.uri), "s", **GIT)
    for status in ("draft", "deleted"):
        call(destination, "PATCH", f"{PATH}/s/versions/2", json={"status": status})
    export(source, tmp_path / "b.mlbundle")
    is_down = False

    def instead(method: str, path: str) -> Answer | None:
        return DROPPED if is_down else None

    def fault(method: str, path: str, true: Answer) -> Answer:
        nonlocal is_down
        is_down = is_down or is_new_version(method, path)
        return DROPPED if is_down else true

    with faulty(destination.uri, fault, instead=instead) as uri:
        words = ("--tracking-uri", uri, "--retry-for", "0")
        command("import-all", tmp_path / "b.mlbundle", *words, expect=1)
    assert numbers(destination)[3] == "draft"
    done = import_(destination, tmp_path / "b.mlbundle", "--steal", expect=3)
    assert done.losses == [("skill", "s", "versions[2]")]
    assert numbers(destination)[3] == "deleted"
    assert skills_of(destination)[0]["tags"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("below", ["artifacts?", "SKILL.md"], ids=["listing", "file"])
@pytest.mark.parametrize("id", ["s", "@org/s"])
def test_files_that_an_export_could_not_get_are_lost_alone_and_fetched_later(
    empty_server: Callable[[], MlflowServer], tmp_path: Path, below: str, id: str
) -> None:
    source, destination = empty_server(), empty_server()
    for other in ("s", "@org/s"):
        make_skill(_Build(source.uri), other)
        for text in (b"1", b"2"):
            upload_skill_version(_Build(source.uri), other, {"SKILL.md": text, "docs/a b.md": text})
    first = call(source, "GET", f"{PATH}/{id}/versions/1")["source"].rpartition("/")[2]

    def instead(method: str, path: str) -> Answer | None:
        is_meant = is_refused and first in path and below in path
        return Answer(403, "text/html", b"no") if is_meant else None

    is_refused = True
    bundle, whole = tmp_path / "b.mlbundle", tmp_path / "whole.mlbundle"
    lost = ("skill", f"{id}/1", "artifacts")
    if below == "SKILL.md":
        lost = ("artifact", f"{id}/1/SKILL.md", "")
    with faulty(source.uri, instead=instead) as uri:
        server = SimpleNamespace(uri=uri)
        assert export(server, bundle, expect=3).losses == [lost]
        listed = command("list", bundle, f"skills/{quote(id, safe='@')}").stdout
        assert "artifacts/2/SKILL.md" in listed
        again = export(server, tmp_path / "again.mlbundle", "--complete", bundle, expect=3)
        assert again.losses == [lost]
        is_refused = False
        export(server, whole, "--complete", bundle)
    import_(destination, whole)
    assert skills_of(destination) == skills_of(source)


def test_no_credential_of_a_source_enters_a_bundle(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = _Build(source.uri)
    make_skill(build, "s")
    # MLflow refuses such sources by itself; whoever writes to its database does not.
    make_skill_version(build, "s", **GIT)
    token = f"https://u:ghp_{CANARY}0123@127.0.0.1:9/s.git"
    change(source.database, "UPDATE skill_versions SET source = ?", token)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    assert "skill.items.source (credentials masked)" in exported.report["adjusted"]
    imported = import_(destination, bundle, expect=3)
    assert_no_canary(bundle, exported, imported)
    assert imported.losses == [("skill", "s", "versions[1]")]
    assert "must not contain credentials" in imported.report["lost"][0]["reason"]
    assert import_(source, bundle).conflicts == []


def test_skills_and_versions_come_at_once_though_the_answer_got_lost(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    skills(_Build(source.uri))
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    lost: list[str] = []

    def lose_answers(method: str, path: str, true: Answer) -> Answer:
        endings = ("/skills", "/versions", "/versions/4", "/versions/5")
        if method != "GET" and path.endswith(endings) and true.status == 200:
            lost.append(path)
            return DROPPED if len(lost) % 2 else true
        return true

    with faulty(destination.uri, lose_answers) as uri:
        command("import-all", bundle, "--tracking-uri", uri)
    assert len(lost) > 6
    assert skills_of(destination) == skills_of(source)
