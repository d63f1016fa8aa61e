"""``--user-map``, ``--tag`` and renames: what arrives under other names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare import row_dump, snapshot
from tests.conftest import LendServer
from tests.transfer.commands import command, import_
from tests.transfer.small import Small

pytestmark = pytest.mark.server


def test_users_are_mapped_and_everything_is_tagged_once(
    small_bundle: Path, small: Small, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    (tmp_path / "users.csv").write_text("ana,ana@there\nnobody,somebody\n")
    words = ["--user-map", str(tmp_path / "users.csv"), "--tag", "site=berlin", "--tag", "team=x"]
    done = import_(server, small_bundle, *words)
    assert done.report["adjusted"]["run.user_id (as asked)"] == 4
    found = snapshot(server.uri).data
    assert {run["user_id"] for run in found["runs"].values()} == {"ana@there", "bo"}
    models = found["registered_models"].values()
    tagged = [
        *found["experiments"].values(),
        *found["runs"].values(),
        *found["logged_models"].values(),
        *models,
        *(version for model in models for version in model["versions"].values()),
    ]
    assert len(tagged) == 4 + 5 + 1 + 4 + 6
    # The option takes the place of what the bundle says: experiment one is of team a, churn of b.
    assert {(thing["tags"]["site"], thing["tags"]["team"]) for thing in tagged} == {("berlin", "x")}

    rows = row_dump(server.database)
    again = import_(server, small_bundle, *words)
    assert (again.report["done"], again.report["conflicts"]) == ({}, [])
    assert row_dump(server.database) == rows

    # What is there is compared with what is asked for, as with any value of the bundle.
    other = import_(server, small_bundle, *words[:-1], "team=y")
    assert {field for _, _, field in other.conflicts} == {"tags.team"}
    assert len(other.conflicts) == len(tagged)
    import_(server, small_bundle, *words[:-1], "team=y", "--on-conflict", "update")
    experiments = snapshot(server.uri).data["experiments"].values()
    assert {experiment["tags"]["team"] for experiment in experiments} == {"y"}


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--user-map", "none.csv"], "No such file"),
        (["--tag", "mlflow_bundle.state=x"], "reserved"),
        (["--user-map", "users.csv", "--use-src-user-id", "False"], "not both"),
    ],
)
def test_mappings_that_cannot_be_are_refused_before_anything_is_written(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("users.csv").write_text("ana,bo\n")
    refused = command(
        "import-all", small_bundle, "--tracking-uri", "http://127.0.0.1:9", *words, expect=2
    )
    assert fault in refused.stderr
