"""Issues travel: found again by name, description and source run, never made twice."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.rest.readers.issues import iter_issues
from mlflow_bundle.rest.session import Session
from tests.compare import row_dump
from tests.installed import has
from tests.servers import MlflowServer, fast_session
from tests.transfer.commands import command, export, import_
from tests.transfer.faults import Answer, faulty

pytestmark = pytest.mark.server


def post(server: MlflowServer, path: str, **body: Any) -> Any:
    reply = fast_session().post(f"{server.uri}/api/{path}", json=body)
    assert reply.ok, reply.text
    return reply.json()


def issues_of(server: MlflowServer, name: str) -> list[dict[str, Any]]:
    answer = fast_session().get(
        f"{server.uri}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name}
    )
    experiment_id = answer.json()["experiment"]["experiment_id"]
    session = Session(server.uri, error=RuntimeError)  # type: ignore[arg-type]
    return [
        {
            "name": issue.name,
            "description": issue.description,
            "status": issue.status,
            "severity": issue.severity,
            "root_causes": issue.root_causes,
            "categories": issue.categories,
            "created_by": issue.created_by,
            "has_run": issue.source_run_id is not None,
        }
        for issue in sorted(iter_issues(session, experiment_id), key=lambda i: (i.name, i.status))
    ]


def test_issues_arrive_once_and_an_update_is_a_conflict(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    experiment = post(source, "2.0/mlflow/experiments/create", name="e")["experiment_id"]
    run = post(source, "2.0/mlflow/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    common = {"experiment_id": experiment, "description": "ünï\nline"}
    first = post(
        source,
        "3.0/mlflow/issues",
        **common,
        name="slow",
        status="pending",
        severity="high",
        root_causes=["a", "ü"],
        categories=["latency"],
        source_run_id=run,
        created_by="ana",
    )["issue"]
    for status in ("resolved", "pending"):  # twins, but for what may change
        post(source, "3.0/mlflow/issues", **common, name="twin", status=status)
    before = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    assert row_dump(source.database) == before

    import_(destination, bundle)
    assert issues_of(destination, "e") == issues_of(source, "e")
    rows = row_dump(destination.database)
    again = import_(destination, bundle)
    assert again.report["present"]["issue"] == 3
    assert row_dump(destination.database) == rows

    fast_session().patch(
        f"{source.uri}/api/3.0/mlflow/issues/{first['issue_id']}",
        json={"issue_id": first["issue_id"], "status": "resolved"},
    )
    newer = tmp_path / "newer.mlbundle"
    export(source, newer)
    kept = import_(destination, newer)
    assert [c[0] for c in kept.conflicts] == ["issue"]
    assert row_dump(destination.database) == rows
    import_(destination, newer, "--on-conflict", "update")
    assert issues_of(destination, "e") == issues_of(source, "e")
    command("verify", newer)


def test_an_issue_that_came_without_its_run_is_found_again_when_the_run_comes(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    experiment = post(source, "2.0/mlflow/experiments/create", name="e")["experiment_id"]
    run = post(source, "2.0/mlflow/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    body = {"experiment_id": experiment, "name": "slow", "description": "d", "status": "pending"}
    post(source, "3.0/mlflow/issues", **body, source_run_id=run)
    bundle, tree = tmp_path / "b.mlbundle", tmp_path / "tree"
    export(source, bundle)
    command("extract", bundle, "-o", tree)
    (document,) = tree.rglob("issue.json")
    document.write_text(document.read_text().replace(run, "f" * 32))
    without = import_(destination, tree)
    assert without.report["adjusted"]["issue.source_run_id (points outside)"] == 1
    assert [issue["has_run"] for issue in issues_of(destination, "e")] == [False]

    done = import_(destination, bundle)
    assert done.report["present"]["issue"] == 1
    assert done.conflicts == []
    assert done.report["adjusted"]["issue.source_run_id (came later than the issue)"] == 1
    assert len(issues_of(destination, "e")) == 1


def test_an_issue_whose_run_could_not_be_made_waits_for_it(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    experiment = post(source, "2.0/mlflow/experiments/create", name="e")["experiment_id"]
    run = post(source, "2.0/mlflow/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    body = {"experiment_id": experiment, "name": "slow", "description": "d", "status": "pending"}
    issue = post(source, "3.0/mlflow/issues", **body, source_run_id=run)["issue"]["issue_id"]
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)

    def refuse(method: str, path: str) -> Answer | None:
        return Answer(500, "text/html", b"oops") if path.endswith("/runs/create") else None

    with faulty(destination.uri, instead=refuse) as uri:
        words = ("import-all", bundle, "--json", "--tracking-uri")
        losses = command(*words, uri, expect=3).losses
    assert losses == [("issue", issue, ""), ("run", run, "")]
    assert import_(destination, bundle).report["done"] == {"issue": 1, "run": 1}
    assert [issue["has_run"] for issue in issues_of(destination, "e")] == [True]


def rows(server: MlflowServer, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(server.database)) as connection:
        return connection.execute(statement).fetchall()


def edited(bundle: Path, tree: Path, **fields: Any) -> Path:
    """The bundle of one issue as a directory, its document changed."""
    command("extract", bundle, "-o", tree)
    (document,) = tree.rglob("issue.json")
    content = json.loads(document.read_text())
    content["entity"] |= fields
    document.write_text(json.dumps(content))
    return tree


ODD = {
    "last_seen_timestamp": 1_700_000_000_000,
    "last_updated_by": "bo",
    "metadata": {"ünï": "a\nb", "empty": ""},
}
"""What came with MLflow 3.18."""
NEWER_ROWS = "SELECT last_seen_timestamp, last_updated_by, metadata, created_by FROM issues"


def test_what_came_with_3_18_arrives_under_its_id_or_is_lost(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    experiment = post(source, "2.0/mlflow/experiments/create", name="e")["experiment_id"]
    body = {"experiment_id": experiment, "name": "slow", "description": "d", "status": "pending"}
    id = post(source, "3.0/mlflow/issues", **body, created_by="ana")["issue"]["issue_id"]
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    categories = ["", "x" * 251, "Latency"]
    tree = edited(bundle, tmp_path / "tree", categories=categories, **ODD)
    if not has(3, 18):
        later = {"last_seen_timestamp": 2**62}
        done = import_(destination, edited(bundle, tmp_path / "l", **(ODD | later)), expect=3)
        assert done.losses == [("issue", id, name) for name in sorted(ODD)]
        assert done.report["adjusted"]["issue.issue_id"] == 1
        again = import_(destination, tree, expect=3)
        assert (again.report["done"], len(again.losses)) == ({}, 2)
        return
    done = import_(destination, tree, expect=3)
    # Older servers take any category.
    assert done.losses == [("issue", id, "categories")]
    assert "issue.issue_id" not in done.report["adjusted"]
    assert rows(destination, "SELECT issue_id FROM issues") == [(id,)]
    ((seen, by, metadata, made_by),) = rows(destination, NEWER_ROWS)
    assert (seen, by, made_by) == (ODD["last_seen_timestamp"], "bo", "ana")
    assert json.loads(metadata) == ODD["metadata"]
    assert rows(destination, "SELECT category FROM issue_categories") == [("Latency",)]
    before = row_dump(destination.database)
    assert import_(destination, tree, expect=3).report["done"] == {}
    assert row_dump(destination.database) == before

    second = tmp_path / "second.mlbundle"
    export(destination, second)
    server = empty_server()
    import_(server, second, "--verify")
    assert sorted(rows(server, NEWER_ROWS))[0][:2] == (seen, by)

    changes = {
        "name": "slower",
        "last_seen_timestamp": 2**62,
        "metadata": {"new": "1", "empty": "no more"},
        "categories": ["cost"],
    }
    newer = edited(second, tmp_path / "newer", **changes)
    kept = import_(server, newer)
    fields = [field for _, _, field in kept.conflicts]
    assert sorted(fields) == ["categories", "metadata.empty", "name"]
    ((seen, by, metadata, _),) = rows(server, NEWER_ROWS)
    assert (seen, by) == (2**62, "bo")
    assert json.loads(metadata) == {**ODD["metadata"], "new": "1"}
    import_(server, newer, "--on-conflict", "update")
    assert json.loads(rows(server, NEWER_ROWS)[0][2]) == {**ODD["metadata"], **changes["metadata"]}
    assert rows(server, "SELECT category FROM issue_categories") == [("cost",)]
    assert rows(server, "SELECT name FROM issues") == [("slower",)]


def test_an_id_that_is_taken_elsewhere_is_replaced(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    experiment = post(source, "2.0/mlflow/experiments/create", name="e")["experiment_id"]
    body = {"experiment_id": experiment, "name": "slow", "description": "d", "status": "pending"}
    post(source, "3.0/mlflow/issues", **body)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    import_(destination, bundle)
    copied = import_(destination, bundle, "--experiment-name-prefix", "copy/")
    assert copied.report["done"]["issue"] == 1
    assert copied.report["adjusted"]["issue.issue_id"] == 1
    assert len(rows(destination, "SELECT DISTINCT experiment_id, issue_id FROM issues")) == 2
    before = row_dump(destination.database)
    import_(destination, bundle, "--experiment-name-prefix", "copy/")
    assert row_dump(destination.database) == before


def test_a_run_of_another_experiment_is_named_where_the_server_takes_it(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    experiment, other = (
        post(source, "2.0/mlflow/experiments/create", name=name)["experiment_id"]
        for name in ("e", "other")
    )
    run = post(source, "2.0/mlflow/runs/create", experiment_id=other)["run"]["info"]["run_id"]
    body = {"experiment_id": experiment, "name": "slow", "description": "d", "status": "pending"}
    id = post(source, "3.0/mlflow/issues", **body)["issue"]["issue_id"]
    with contextlib.closing(sqlite3.connect(source.database)) as connection:
        connection.execute("UPDATE issues SET source_run_id = ?", (run,))
        connection.commit()
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    done = import_(destination, bundle, expect=3 if has(3, 18) else 0)
    assert done.losses == ([("issue", id, "source_run_id")] if has(3, 18) else [])
    assert [issue["has_run"] for issue in issues_of(destination, "e")] == [not has(3, 18)]
    before = row_dump(destination.database)
    assert import_(destination, bundle).report["done"] == {}
    assert row_dump(destination.database) == before
