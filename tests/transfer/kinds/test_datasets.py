"""Evaluation datasets travel with records and links, and what is there is never written again."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer, fast_session
from tests.transfer.commands import command, export, finished, import_, process
from tests.transfer.faults import DROPPED, Answer, faulty

pytestmark = pytest.mark.server

Rows = list[dict[str, Any]]

MADE = {"dataset_id", "dataset_record_id", "created_time", "last_update_time", "digest"}
"""Columns that the server sets."""


def call(server: MlflowServer, path: str, method: str = "POST", **body: Any) -> Any:
    reply = fast_session().request(method, f"{server.uri}/api/{path}", json=body)
    assert reply.ok, reply.text
    return reply.json()


def add(server: MlflowServer, dataset_id: str, *records: dict[str, Any]) -> None:
    call(server, f"3.0/mlflow/datasets/{dataset_id}/records", records=json.dumps(records))


def create(server: MlflowServer, name: str, *experiments: str, **tags: str) -> str:
    answer = call(
        server,
        "3.0/mlflow/datasets/create",
        name=name,
        experiment_ids=experiments,
        tags=json.dumps(tags),
    )
    dataset_id: str = answer["dataset"]["dataset_id"]
    return dataset_id


def contents(server: MlflowServer) -> dict[str, Any]:
    """Every dataset by name and its tag ``n``, as the database has it, ids of experiments named."""
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row

        def rows(query: str, *values: str) -> Rows:
            return [
                {key: row[key] for key in row.keys() if key not in MADE}  # noqa: SIM118 - sqlite3.Row
                for row in database.execute(query, values)
            ]

        found = {}
        for (id,) in database.execute("SELECT dataset_id FROM evaluation_datasets"):
            tags = dict(
                database.execute(
                    "SELECT key, value FROM evaluation_dataset_tags WHERE dataset_id = ?", (id,)
                ).fetchall()
            )
            tags.pop("mlflow_bundle.origin", None)
            (dataset,) = rows("SELECT * FROM evaluation_datasets WHERE dataset_id = ?", id)
            found[f"{dataset['name']} {tags.get('n', '')}"] = {
                "dataset": dataset,
                "tags": tags,
                "records": rows(
                    "SELECT * FROM evaluation_dataset_records WHERE dataset_id = ?"
                    " ORDER BY input_hash",
                    id,
                ),
                "experiments": sorted(
                    row["name"]
                    for row in rows(
                        "SELECT e.name FROM entity_associations a JOIN experiments e"
                        " ON a.destination_id = CAST(e.experiment_id AS TEXT) WHERE a.source_id = ?"
                        " AND a.source_type = 'evaluation_dataset'",
                        id,
                    )
                ),
            }
        return found


RECORDS: Rows = [
    {
        "inputs": {"b": 1, "a": [None, 0.5, "ünï"], "nan": float("nan")},
        "outputs": {"answer": "vier"},
        "expectations": {"e": 1, "null": None},
        "tags": {"t": "ü"},
        "source": {"source_type": "TRACE", "source_data": {"trace_id": "tr-1", "s": 1}},
    },
    {"inputs": {"case": "nothing"}},
    {"inputs": {"case": "null"}, "outputs": None, "expectations": None, "tags": None},
    {"inputs": {"case": "empty"}, "outputs": {}, "expectations": {}, "tags": {}},
    {"inputs": {"case": "false"}, "outputs": False},
    {
        "inputs": {"case": "human"},
        "outputs": "text",
        "source": {"source_type": "HUMAN", "source_data": {}},
    },
]


def fill(server: MlflowServer) -> tuple[str, str, dict[str, str]]:
    """Two experiments and some datasets; returns the experiments and the datasets."""
    first, second = (
        call(server, "2.0/mlflow/experiments/create", name=name)["experiment_id"]
        for name in ("e", "f")
    )
    rich = create(server, "rich", first, second, **{"mlflow.user": "ana", "ü/ b": "", "n": "0"})
    add(server, rich, *RECORDS)
    for user in ("bo", "cleo"):  # made by one, changed by another
        changed = {"inputs": {"case": "two users"}, "tags": {"mlflow.user": user}}
        add(server, rich, changed, {"inputs": {"case": user}})
    add(server, rich, {"inputs": {"case": "bo"}, "tags": {"mlflow.user": "late"}})
    twins = {f"twin {n}": create(server, "twin", n=str(n)) for n in range(2)}
    add(server, twins["twin 1"], *({"inputs": {"i": i}} for i in range(1003)))
    return first, second, {"rich": rich, "other": create(server, "other", second), **twins}


def test_datasets_arrive_once_and_newer_records_are_added(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    first, _, datasets = fill(source)
    # What mlflow.genai.evaluate logs of the dataset it used.
    run = call(source, "2.0/mlflow/runs/create", experiment_id=first)["run"]["info"]["run_id"]
    evaluated = {
        "name": "rich",
        "digest": "1",
        "source_type": "mlflow_evaluation_dataset",
        "source": json.dumps({"dataset_id": datasets["rich"]}),
    }
    call(source, "2.0/mlflow/runs/log-inputs", run_id=run, datasets=[{"dataset": evaluated}])
    before = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    assert export(source, bundle).report["planned"]["dataset"] == 4
    assert row_dump(source.database) == before
    command("verify", bundle)

    # Ids of experiments are not the source's.
    call(destination, "2.0/mlflow/experiments/create", name="here before")
    done = import_(destination, bundle)
    assert done.report["done"]["dataset"] == 4
    expected, got = contents(source), contents(destination)
    for field in ("schema", "last_updated_by"):  # follow from the order of the records
        differ = sum(
            expected[name]["dataset"].pop(field) != got[name]["dataset"].pop(field)
            for name in expected
        )
        assert done.report["adjusted"].get(f"dataset.{field}", 0) == differ
    assert got == expected
    assert done.report["adjusted"]["dataset.records.dataset_record_id"] == 1003 + 9
    with sqlite3.connect(f"file:{destination.database}?mode=ro", uri=True) as database:
        (source_text,) = database.execute("SELECT dataset_source FROM datasets").fetchone()
        (here,) = database.execute(
            "SELECT dataset_id FROM evaluation_datasets WHERE name = 'rich'"
        ).fetchone()
    assert json.loads(source_text) == {"dataset_id": here}

    rows = row_dump(destination.database)
    assert import_(destination, bundle, "--on-conflict", "update").report["present"]["dataset"] == 4
    assert row_dump(destination.database) == rows

    # Newer: a record, an expectation, a tag and a link are added; an output is a conflict.
    add(
        source,
        datasets["rich"],
        {"inputs": {"case": "new"}},
        {"inputs": {"case": "false"}, "outputs": True},
        {"inputs": {"case": "empty"}, "expectations": {"later": 1}},
    )
    call(
        source, f"3.0/mlflow/datasets/{datasets['rich']}/tags", "PATCH", tags=json.dumps({"l": "1"})
    )
    call(
        source, f"3.0/mlflow/datasets/{datasets['twin 0']}/add-experiments", experiment_ids=[first]
    )
    newer = tmp_path / "newer.mlbundle"
    export(source, newer)
    dry = import_(destination, newer, "--dry-run")
    assert row_dump(destination.database) == rows
    kept = import_(destination, newer)
    assert dry.conflicts == kept.conflicts
    ((kind, id, field),) = kept.conflicts
    assert (kind, id, field.rpartition(".")[2]) == ("dataset", datasets["rich"], "outputs")
    assert kept.report["done"]["dataset"] == 2
    import_(destination, newer, "--on-conflict", "update")
    expected, got = contents(source), contents(destination)
    for part in ("records", "tags", "experiments"):
        assert {k: v[part] for k, v in got.items()} == {k: v[part] for k, v in expected.items()}
    # Home again: nothing is made twice there.
    home = tmp_path / "home.mlbundle"
    export(destination, home)
    rows = row_dump(source.database)
    assert import_(source, home).report["present"]["dataset"] == 4
    assert row_dump(source.database)["evaluation_datasets"] == rows["evaluation_datasets"]


def test_some_experiments_take_their_datasets_and_links_outside_are_left(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    first, second, _ = fill(source)
    bundle = tmp_path / "b.mlbundle"
    done = export(source, bundle, "--experiments", first, name="export-experiments")
    assert done.report["planned"]["dataset"] == 1
    call(destination, "2.0/mlflow/experiments/create", name="has the other's number")
    users = tmp_path / "users.txt"
    users.write_text("ana,anna@new\n")
    done = import_(destination, bundle, "--user-map", users, "--tag", "by=us", "--tag", "n=9")
    assert done.report["adjusted"]["dataset.experiment_ids (points outside)"] == 1
    (rich,) = contents(destination).values()
    assert rich["experiments"] == ["e"]
    assert rich["tags"] == {"mlflow.user": "anna@new", "ü/ b": "", "n": "9", "by": "us"}
    assert rich["dataset"]["created_by"] == "anna@new"

    # The other link is completed once its experiment comes.
    whole = tmp_path / "whole.mlbundle"
    export(source, whole)
    import_(destination, whole, "--user-map", users, "--tag", "by=us", "--tag", "n=9")
    assert contents(destination)["rich 9"]["experiments"] == ["e", "f"]
    assert second != first


def test_a_killed_import_is_completed_and_a_refused_record_is_lost_alone(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    fill(source)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    posts = 0

    def fault(method: str, path: str, answer: Answer) -> Answer:
        nonlocal posts
        if method == "POST" and path.endswith("/records"):
            posts += 1
        return DROPPED if posts >= 2 else answer

    with faulty(destination.uri, fault) as uri:
        words = ["import-all", bundle, "--tracking-uri", uri, "--jobs", "1", "--retry-for", "0"]
        assert finished(process(*words)).exit_code == 1
    assert posts == 2
    done = import_(destination, bundle)
    assert not done.conflicts
    for part in ("records", "tags", "experiments"):
        expected = {k: v[part] for k, v in contents(source).items()}
        assert {k: v[part] for k, v in contents(destination).items()} == expected

    tree = tmp_path / "tree"
    command("extract", bundle, "-o", tree)
    shutil.rmtree(tree / "experiments" / "0", ignore_errors=True)
    for document in tree.glob("datasets/*/dataset.json"):
        text = json.loads(document.read_text())
        if text["entity"]["name"] == "rich":
            text["items"][2]["source"] = '{"source_type": "ALIEN"}'
            text["items"][3]["inputs"] = "{"
            document.write_text(json.dumps(text))
    third = empty_server()
    lost = import_(third, tree, expect=3)
    assert [field for _, _, field in lost.losses] == ["records[2]", "records[3]"]
    assert "ALIEN" in lost.report["lost"][1]["reason"] + lost.report["lost"][0]["reason"]
    assert (
        len(contents(third)["rich 0"]["records"]) == len(contents(source)["rich 0"]["records"]) - 2
    )
