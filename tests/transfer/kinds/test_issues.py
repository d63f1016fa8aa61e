"""Issues travel: found again by name, description and source run, never made twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.rest.readers.issues import iter_issues
from mlflow_bundle.rest.session import Session
from tests.compare import row_dump
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
