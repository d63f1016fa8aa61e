"""``copy``: servers and databases, in any pairing, straight from one into the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare import row_dump
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import Done, command
from tests.transfer.kinds.services import call

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.usefixtures("small")]


class Side:
    """A server, named by its own URI or by that of its database."""

    def __init__(self, server: MlflowServer, *, database: bool) -> None:
        self.server = server
        self.uri = f"sqlite:///{server.database}" if database else server.uri
        self.destination = server.artifact_directory if database else None

    def words(self, uri: str, destination: str) -> list[str | Path]:
        return [uri, self.uri, *([destination, self.destination] if self.destination else [])]


def copy(a: Side, b: Side, *words: str, expect: int = 0) -> Done:
    origin = a.words("--tracking-uri", "--artifacts-destination")
    target = b.words("--to", "--to-artifacts-destination")
    return command("copy", *origin, *target, *words, "--json", "--quiet", expect=expect)


@pytest.mark.parametrize("to_database", [False, True], ids=["to server", "to database"])
@pytest.mark.parametrize("of_database", [False, True], ids=["server", "database"])
def test_a_copy_holds_the_same_and_a_second_one_changes_nothing(
    small_server: MlflowServer, empty_server: LendServer, of_database: bool, to_database: bool
) -> None:
    before = row_dump(small_server.database)
    a = Side(small_server, database=of_database)
    b = Side(empty_server(), database=to_database)
    done = copy(a, b)
    assert done.report["lost"] == []
    assert done.report["done"]["run"] == done.report["planned"]["run"] > 0
    command("diff", small_server.uri, b.server.uri, "--quiet")  # exit 0: equal
    rows = row_dump(b.server.database)
    again = copy(a, b)
    assert again.report["done"] == {}
    assert row_dump(b.server.database) == rows
    assert row_dump(small_server.database) == before


def test_a_part_is_copied_under_other_names(
    small_server: MlflowServer, empty_server: LendServer
) -> None:
    a, b = Side(small_server, database=False), Side(empty_server(), database=True)
    done = copy(a, b, "--experiments", "one", "--rename-experiment", "one=eins")
    assert done.report["planned"]["experiment"] == 1
    names = {row[1] for row in row_dump(b.server.database)["experiments"]}
    assert names == {"Default", "eins"}
    copy(a, b, "--experiments", "one", "--rename-experiment", "two=zwei", expect=2)


def test_nothing_is_copied_onto_itself(small_server: MlflowServer) -> None:
    side = Side(small_server, database=False)
    done = copy(side, side, expect=2)
    assert "names what --tracking-uri names" in done.stderr


def test_a_dry_run_changes_nothing(small_server: MlflowServer, empty_server: LendServer) -> None:
    a, b = Side(small_server, database=True), Side(empty_server(), database=True)
    before = row_dump(b.server.database)
    done = copy(a, b, "--dry-run")
    assert done.report["planned"]["run"] > 0
    assert done.report["done"] == {}
    assert row_dump(b.server.database) == before


@pytest.mark.parametrize("from_database", [False, True], ids=["from server", "from database"])
@pytest.mark.parametrize("to_database", [False, True], ids=["to server", "to database"])
def test_a_conflict_below_an_entity_stops_a_copy_before_it_begins(
    empty_server: LendServer, from_database: bool, to_database: bool
) -> None:
    source, destination = empty_server(), empty_server()
    path, name = "3.0/mlflow/mcp-servers", "org.example/slug"
    for server, value in ((source, "a"), (destination, "b")):
        call(server, "POST", path, json={"name": name})
        described = {"server_json": {"name": name, "version": "1.0.0"}}
        call(server, "POST", f"{path}/{name}/versions", json=described)
        tag = {"key": "k", "value": value}
        call(server, "POST", f"{path}/{name}/versions/1.0.0/tags", json=tag)
    call(source, "POST", f"{path}/{name}/tags", json={"key": "new", "value": "1"})
    a, b = Side(source, database=from_database), Side(destination, database=to_database)
    field = "versions.1.0.0.tags.k" if to_database else "tags.k"
    id = name if to_database else f"{name}/1.0.0"
    assert copy(a, b, "--dry-run").conflicts == [("mcp_server", id, field)]
    origin = a.words("--tracking-uri", "--artifacts-destination")
    target = b.words("--to", "--to-artifacts-destination")
    refused = command("copy", *origin, *target, "--on-conflict", "fail", expect=1)
    assert "nothing was written" in refused.stderr
    assert call(destination, "GET", f"{path}/{name}")["tags"] == {}
