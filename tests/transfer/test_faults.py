"""A server that answers wrongly now and then: nothing is lost silently, nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare import differences, snapshot
from tests.conftest import LendServer
from tests.transfer.commands import command
from tests.transfer.faults import Answer, Fault, faulty
from tests.transfer.small import build_small

pytestmark = [pytest.mark.server, pytest.mark.slow]


def once(method: str, ending: str, bent: Answer) -> Fault:
    """A fault that bends the first answer to a request of that method and path ending."""
    left = [1]

    def fault(asked: str, path: str, true: Answer) -> Answer:
        if left[0] and asked == method and path.partition("?")[0].endswith(ending):
            left[0] -= 1
            return bent
        return true

    return fault


def test_a_login_page_instead_of_an_artifact_is_a_loss(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source = empty_server()
    build_small(source.uri)

    def login(method: str, path: str, true: Answer) -> Answer:
        if method == "GET" and path.endswith("/MLmodel"):
            return Answer(200, "text/html", b"<html>please log in</html>")
        return true

    with faulty(source.uri, login) as uri:
        done = command(
            "export-all", "-o", tmp_path / "a.mlbundle", "--tracking-uri", uri, "--json", expect=3
        )
    lost = [loss for loss in done.report["lost"] if loss["kind"] == "artifact"]
    assert lost
    assert all("listing says" in loss["reason"] for loss in lost)


@pytest.mark.parametrize(
    ("ending", "bent"),
    [
        ("/runs/create", Answer(504, "text/html", b"late")),
        ("/logged-models", Answer(504, "text/html", b"late")),
        ("/model-versions/create", Answer(504, "text/html", b"late")),
        ("/model-versions/create", Answer(500, "application/json", b'{"error_code":"X"}')),
        ("/experiments/create", Answer(503, "application/json", b"{}")),
    ],
)
def test_an_answer_that_got_lost_makes_nothing_twice(
    ending: str, bent: Answer, empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build_small(source.uri)
    file = tmp_path / "a.mlbundle"
    command("export-all", "-o", file, "--tracking-uri", source.uri)
    with faulty(destination.uri, once("POST", ending, bent)) as uri:
        command("import-all", file, "--tracking-uri", uri, expect=None)
    command("import-all", file, "--tracking-uri", destination.uri)
    assert differences(snapshot(source.uri), snapshot(destination.uri)) == []
