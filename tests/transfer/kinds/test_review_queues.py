"""Review queues travel with users, questions and what was decided of each trace."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer, fast_session
from tests.transfer.commands import command, export, import_

pytestmark = pytest.mark.server

API = "api/3.0/mlflow"


def call(server: MlflowServer, path: str, method: str = "POST", **body: Any) -> Any:
    reply = fast_session().request(method, f"{server.uri}/{path}", json=body)
    assert reply.ok, reply.text
    return reply.json()


def experiment(server: MlflowServer, name: str) -> str:
    id: str = call(server, "api/2.0/mlflow/experiments/create", name=name)["experiment_id"]
    return id


def trace(server: MlflowServer, experiment_id: str, number: int) -> str:
    id = f"tr-{number:032x}"
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
    info = {
        "trace_id": id,
        "trace_location": location,
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
    }
    call(server, f"{API}/traces", trace={"trace_info": info})
    return id


def queues(server: MlflowServer, path: str = "create", **body: Any) -> Any:
    return call(server, f"{API}/review-queues/{path}", **body)


def decide(server: MlflowServer, queue_id: str, item_id: str, status: str, by: str) -> None:
    more = {"completed_by": by} if by else {}
    queues(server, "items/set-status", queue_id=queue_id, item_id=item_id, status=status, **more)


def contents(server: MlflowServer) -> dict[str, Any]:
    """Queues by name, as the database has them; schemas are named."""
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:

        def of(query: str, id: str) -> list[Any]:
            return database.execute(f"{query} WHERE queue_id = ? ORDER BY 1", (id,)).fetchall()

        return {
            name: {
                "type": type,
                "by": by,
                "users": of("SELECT user_id FROM review_queue_users", id),
                "schemas": of(
                    "SELECT name FROM review_queue_label_schemas NATURAL JOIN label_schemas", id
                ),
                "items": of(
                    "SELECT item_id, item_type, status, completed_by FROM review_queue_items", id
                ),
            }
            for id, name, type, by in database.execute(
                "SELECT queue_id, name, queue_type, created_by FROM review_queues"
            )
        }


def test_queues_arrive_once_with_decisions_and_a_missing_trace_is_lost_alone(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    first = experiment(source, "e")
    traces = [trace(source, first, number) for number in range(5)]
    schemas = [
        call(
            source,
            f"{API}/label-schemas/create",
            experiment_id=first,
            name=name,
            type="FEEDBACK",
            input={"text": {}},
        )["label_schema"]["schema_id"]
        for name in ("s", "t")
    ]
    custom = queues(
        source,
        experiment_id=first,
        name="Prüfung",
        queue_type="CUSTOM",
        users=["Ana", "bo"],
        schema_ids=schemas,
    )["review_queue"]["queue_id"]
    queues(source, "update", queue_id=custom, new_owner="Ana")
    queues(source, "items/add", queue_id=custom, item_type="TRACE", item_ids=traces)
    decide(source, custom, traces[0], "COMPLETE", "Ana")
    decide(source, custom, traces[1], "DECLINED", "bo")
    queues(source, experiment_id=first, name="empty", queue_type="CUSTOM")
    queues(source, experiment_id=first, name="lonely", queue_type="USER")
    queues(source, "get-or-create-user", experiment_id=first, user="bo")
    before = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle, expect=None)  # traces may not travel yet
    assert row_dump(source.database) == before
    command("verify", bundle)

    # The traces are there, but for one; ids of traces are kept.
    there = experiment(destination, "e")
    for number in range(4):
        trace(destination, there, number)
    users = tmp_path / "users.csv"
    users.write_text("Ana,anna@new\nsomebody,else\n")
    mapped = ("--user-map", users)
    done = import_(destination, bundle, *mapped, expect=None)
    if not ("trace" in done.report["done"] or done.losses == []):
        (loss,) = (loss for loss in done.report["lost"] if loss["kind"] == "review_queue")
        assert loss["field"] == f"items[{traces[4]}]"
        assert "do not exist in experiment" in loss["reason"]
        trace(destination, there, 4)
        again = import_(destination, bundle, *mapped)
        assert again.report["done"]["review_queue"] == 1
    expected = contents(source)
    queue = expected["Prüfung"]
    queue["by"] = "anna@new"
    queue["users"] = [("anna@new",), ("bo",)]
    queue["items"] = [
        tuple("anna@new" if value == "ana" else value for value in item) for item in queue["items"]
    ]
    assert contents(destination) == expected
    assert queue["items"][0][2:] == ("complete", "anna@new")
    assert expected["bo"]["by"] == "bo"
    assert expected["lonely"]["by"] is None
    rows = row_dump(destination.database)
    again = import_(destination, bundle, *mapped, "--on-conflict", "update")
    assert again.report["present"]["review_queue"] == 4
    assert row_dump(destination.database) == rows

    # A killed import leaves items pending: they are completed. Another decision is a conflict.
    id = next(row[0] for row in rows["review_queues"] if "Prüfung" in row)
    decide(destination, id, traces[0], "PENDING", "")
    decide(destination, id, traces[1], "COMPLETE", "cleo")
    queues(source, "update", queue_id=custom, update_users=True, users=["ana", "bo", "dora"])
    decide(source, custom, traces[2], "COMPLETE", "dora")
    newer = tmp_path / "newer.mlbundle"
    export(source, newer, expect=None)
    rows = row_dump(destination.database)
    dry = import_(destination, newer, *mapped, "--dry-run")
    assert row_dump(destination.database) == rows
    kept = import_(destination, newer, *mapped)
    field = f"items[{traces[1]}].status"
    assert kept.conflicts == dry.conflicts == [("review_queue", custom, field)]
    got = contents(destination)["Prüfung"]
    assert got["users"] == [("anna@new",), ("bo",), ("dora",)]
    assert [item[2:] for item in got["items"][:3]] == [
        ("complete", "anna@new"), ("complete", "cleo"), ("complete", "dora"),
    ]  # fmt: skip
    import_(destination, newer, *mapped, "--on-conflict", "update")
    assert contents(destination)["Prüfung"]["items"][1][2:] == ("declined", "bo")

    # What only the server has is no difference: another user of a queue.
    command("verify", newer, "--against", destination.uri, *mapped)
    users_here = ["anna@new", "bo", "dora", "eve"]
    queues(destination, "update", queue_id=id, update_users=True, users=users_here)
    command("verify", newer, "--against", destination.uri, *mapped)
