"""The database tells what the server tells, and more: every row of every table."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.engine import make_url

from mlflow_bundle.contracts import NoArtifacts
from mlflow_bundle.entities import Experiment, LoggedModel, RegisteredModel, Run
from mlflow_bundle.errors import SelectionError, SourceError
from mlflow_bundle.kinds.datasets import EvaluationDataset
from mlflow_bundle.kinds.gateway import GatewaySecret
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.kinds.webhooks import Webhook
from mlflow_bundle.report import Report
from mlflow_bundle.rest.source import RestSource
from mlflow_bundle.selection import (
    Selection,
    parse_experiments,
    parse_models,
)
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.source import SqlSource
from tests.installed import has
from tests.servers import MlflowServer
from tests.sql.clones import cloned
from tests.sql.told import Key, Told, differences, tell
from tests.table_rows import Database
from tests.tables import USER_TABLES
from tests.transfer.commands import command
from tests.world import World

Fields = dict[str, Any]


def sql_source(server: MlflowServer, **options: Any) -> SqlSource:
    return source_at(server, f"sqlite:///{server.database}", **options)


def source_at(server: MlflowServer, uri: str, **options: Any) -> SqlSource:
    """A database with the artifacts of a server."""
    store = ArtifactStore(artifacts_destination=str(server.artifact_directory), error=SourceError)
    return SqlSource(uri, open_tree=store.tree, **options)


@pytest.fixture(scope="module")
def over_rest(full_server: MlflowServer) -> dict[Key, Told]:
    source = RestSource(full_server.uri)
    told = tell(source)
    source.close()
    return told


@pytest.fixture(scope="module")
def over_sql(full_server: MlflowServer) -> dict[Key, Told]:
    before = hashlib.sha256(full_server.database.read_bytes()).digest()
    source = sql_source(full_server)
    told = tell(source)
    source.close()
    assert hashlib.sha256(full_server.database.read_bytes()).digest() == before
    return told


def same_json(a: Any, b: Any) -> bool:
    return isinstance(a, str) and isinstance(b, str) and json.loads(a) == json.loads(b)


def none_and_empty(a: Any, b: Any) -> bool:
    return a is None and b == ""


def deleted_hidden(a: list[Fields], b: list[Fields]) -> bool:
    return a == [item for item in b if item["status"] != "deleted"]


def files_of_deleted_hidden(a: Any, b: Any) -> bool:
    """Servers show no files of deleted versions: of the world's only skill with some, the fifth."""
    return a == [path for path in b if not path.startswith("5/")]


def not_asked(a: Any, b: Any) -> bool:
    return a is None


EXCEPTIONS: dict[str, Callable[[Any, Any], bool]] = {
    "logged_model.record.source_run_id": none_and_empty,
    "run.record.inputs.dataset_inputs[].dataset.schema": none_and_empty,
    "run.record.inputs.dataset_inputs[].dataset.profile": none_and_empty,
    # Servers encode these anew, and sort keys.
    "gateway_secret.record.auth_config": same_json,
    "trace.record.assessments[].value": same_json,
    "trace.record.assessments[].error": same_json,
    # Servers show no deleted versions.
    "mcp_server.items": deleted_hidden,
    "skill.items": deleted_hidden,
    "skill.files": files_of_deleted_hidden,
    # Servers are asked only for versions of versions.
    "registered_model.record.versions[].storage_location": not_asked,
}
"""Where the two differ, and how."""


def test_the_database_tells_what_the_server_tells(
    over_rest: dict[Key, Told], over_sql: dict[Key, Told]
) -> None:
    assert [key for key in over_sql if key in over_rest] == list(over_rest)
    left = []
    for key, told in over_rest.items():
        for path, a, b in differences(key[0], told.over_rest(), over_sql[key].over_rest()):
            excepted = EXCEPTIONS.get(path)
            if excepted is None or not excepted(a, b):
                left.append(f"{key} {path}: {a!r} != {b!r}"[:500])
    assert left == []


def test_the_database_tells_what_the_server_hides(
    over_rest: dict[Key, Told], over_sql: dict[Key, Told]
) -> None:
    hidden = [over_sql[key].entity for key in over_sql if key not in over_rest]
    deleted = {
        id
        for id, told in ((key[1], told) for key, told in over_sql.items())
        if isinstance(told.entity, Experiment) and told.entity.lifecycle_stage == "deleted"
    }
    assert Counter(entity.kind for entity in hidden) == {
        "scorer": 1,
        "label_schema": 1,
        "review_queue": 1,
        "webhook": 1,
    }
    for entity in hidden:
        if isinstance(entity, Webhook):
            assert entity.deleted_timestamp
        else:
            assert getattr(entity, "experiment_id", None) in deleted


def _all(told: dict[Key, Told], kind: type[Any]) -> Iterator[Any]:
    return (one.entity for one in told.values() if isinstance(one.entity, kind))


def _count(values: Iterable[Any]) -> int:
    return sum(len(value or ()) for value in values)


def _rows(told: dict[Key, Told]) -> dict[str, int]:
    """How many rows of each table the records hold."""
    kinds = Counter(key[0] for key in told)
    items: Counter[str] = Counter()
    for key, one in told.items():
        items[key[0]] += len(one.items)
    experiments, runs = list(_all(told, Experiment)), list(_all(told, Run))
    models, traces = list(_all(told, LoggedModel)), list(_all(told, Trace))
    registry, datasets = list(_all(told, RegisteredModel)), list(_all(told, EvaluationDataset))
    versions = [v for m in registry for v in [*m.versions, *(m.deleted_versions or [])]]
    inputs = [entry for run in runs for entry in run.inputs.dataset_inputs]
    used = {entry.dataset.dataset_uuid for entry in inputs}
    promoted = ("mlflow.trace.session", "mlflow.trace.tokenUsage", "mlflow.trace.cost")

    def plain(kind: str, name: str) -> int:
        return _count(getattr(told[key].entity, name) for key in told if key[0] == kind)

    def tags_of_items(kind: str) -> int:
        of_kind = (one.items for key, one in told.items() if key[0] == kind)
        return _count(getattr(item, "tags") for items in of_kind for item in items)  # noqa: B009

    skills = {
        "skills": kinds["skill"],
        "skill_tags": plain("skill", "tags"),
        "skill_aliases": plain("skill", "aliases"),
        "skill_versions": items["skill"],
        "skill_version_tags": tags_of_items("skill"),
    }
    return {
        **(skills if has(3, 18) else {}),
        "experiments": len(experiments),
        "experiment_tags": _count(e.tags for e in experiments),
        "runs": len(runs),
        "tags": _count(run.tags for run in runs),
        "params": _count(run.params for run in runs),
        "metrics": sum(len(p) for one in told.values() for p in one.histories.values()),
        "datasets": len(used) + _count(e.datasets for e in experiments),
        "inputs": len(inputs)
        + _count(run.inputs.model_inputs for run in runs)
        + _count(run.outputs.model_outputs for run in runs),
        "input_tags": _count(entry.tags for entry in inputs),
        "logged_models": len(models),
        "logged_model_params": _count(model.params for model in models),
        "logged_model_tags": _count(model.tags for model in models),
        "logged_model_metrics": _count(model.metrics for model in models),
        "trace_info": len(traces),
        "trace_tags": sum(len(t.tags) - ("mlflow.traceName" in t.tags) for t in traces),
        "trace_request_metadata": sum(len(t.metadata.keys() - promoted) for t in traces),
        "spans": items["trace"],
        "assessments": _count(trace.assessments for trace in traces),
        "entity_associations": _count(entity.associations for entity in [*traces, *datasets]),
        "evaluation_datasets": len(datasets),
        "evaluation_dataset_records": items["dataset"],
        "evaluation_dataset_tags": _count(dataset.tags for dataset in datasets),
        "scorers": kinds["scorer"],
        "scorer_versions": items["scorer"],
        "online_scoring_configs": plain("scorer", "online_configs"),
        "issues": kinds["issue"],
        "label_schemas": kinds["label_schema"],
        "review_queues": kinds["review_queue"],
        "review_queue_users": plain("review_queue", "users"),
        "review_queue_items": items["review_queue"],
        "review_queue_label_schemas": plain("review_queue", "schema_ids"),
        "registered_models": len(registry),
        "registered_model_tags": _count(model.tags for model in registry),
        "registered_model_aliases": _count(model.aliases for model in registry),
        "model_versions": len(versions),
        "model_version_tags": _count(version.tags for version in versions),
        "webhooks": kinds["webhook"],
        "webhook_events": plain("webhook", "events"),
        "mcp_servers": kinds["mcp_server"],
        "mcp_server_tags": plain("mcp_server", "tags"),
        "mcp_server_aliases": plain("mcp_server", "aliases"),
        "mcp_access_endpoints": plain("mcp_server", "access_endpoints"),
        "mcp_server_versions": items["mcp_server"],
        "mcp_server_version_tags": tags_of_items("mcp_server"),
        "model_definitions": kinds["gateway_model_definition"],
        "endpoints": kinds["gateway_endpoint"],
        "endpoint_model_mappings": plain("gateway_endpoint", "model_mappings"),
        "endpoint_tags": plain("gateway_endpoint", "tags"),
        "endpoint_bindings": plain("gateway_endpoint", "bindings"),
        "guardrails": kinds["gateway_guardrail"],
        "guardrail_configs": plain("gateway_guardrail", "endpoints"),
        "budget_policies": kinds["gateway_budget"],
        "secrets": kinds["gateway_secret"],
    }


@pytest.mark.parametrize(
    "server",
    ["postgresql+psycopg2://root@127.0.0.1:5432/postgres", "mysql+pymysql://root@127.0.0.1/mysql"],
    ids=["postgresql", "mariadb"],
)
def test_another_kind_of_database_tells_the_same(
    full_server: MlflowServer,
    server: str,
    tmp_path: Path,
    prerequisite: Callable[[object, str], None],
) -> None:
    url = make_url(server)
    try:
        with closing(socket.create_connection((url.host, url.port or 3306), timeout=5)):
            reachable = True
    except OSError:
        reachable = False
    prerequisite(reachable, url.get_backend_name())
    copy = tmp_path / "copy.db"
    with cloned(full_server.database, copy, url, f"sqlsource_{os.getpid()}") as clone:
        told = []
        for uri in (f"sqlite:///{copy}", clone.render_as_string(hide_password=False)):
            with closing(source_at(full_server, uri)) as source:
                told.append(_in_order(tell(source)))
    assert list(told[0]) == list(told[1])
    left = [
        f"{key} {path}: {a!r} != {b!r}"[:500]
        for key in told[0]
        for path, a, b in differences(key[0], told[0][key], told[1][key])
    ]
    assert left == []


def _in_order(told: dict[Key, Told]) -> dict[Key, Fields]:
    """What was made in the same millisecond comes in any order."""
    plain = {}
    for key, one in told.items():
        record = msgspec.to_builtins(one.entity)
        for held in (record, record.get("inputs", {}), record.get("outputs", {})):
            for value in held.values():
                if isinstance(value, list):
                    value.sort(key=str)
        plain[key] = {
            "record": record,
            "items": msgspec.to_builtins(one.items),
            "histories": list(one.histories.items()),
            "files": one.files,
        }
    return plain


def test_every_row_of_every_table_is_told(
    full_server: MlflowServer, over_sql: dict[Key, Told]
) -> None:
    database = Database(full_server.database)
    told = _rows(over_sql)
    # Categories of issues have rows that follow from the issues.
    assert told.keys() == {*USER_TABLES, "secrets"} - {"workspaces", "issue_categories"}
    # What 3.17 keeps in columns it ignores in the tables of before.
    assert all(row["key"] != "mlflow.traceName" for row in database.rows("trace_tags"))
    there = {table: len(database.rows(table)) for table in told}
    # What 3.17 keeps in columns it ignores in the tables of before.
    assert all(row["key"] != "mlflow.traceName" for row in database.rows("trace_tags"))
    assert told == there


def test_secrets_come_only_when_asked_for(
    full_server: MlflowServer, over_sql: dict[Key, Told]
) -> None:
    rows = {row["secret_id"]: row for row in Database(full_server.database).rows("secrets")}
    source = sql_source(full_server, include_secrets=True)
    asked = tell(source)
    source.close()
    secrets = list(_all(asked, GatewaySecret))
    assert secrets
    for secret in secrets:
        assert secret.encrypted.masked_value == rows[secret.id]["masked_value"]
    webhooks = {w.id: w.encrypted_secret for w in _all(asked, Webhook)}
    assert any(webhooks.values())
    for one in (*_all(over_sql, GatewaySecret), *_all(over_sql, Webhook)):
        assert getattr(one, "encrypted", msgspec.UNSET) is msgspec.UNSET
        assert getattr(one, "encrypted_secret", msgspec.UNSET) is msgspec.UNSET


@pytest.mark.parametrize(
    "selection",
    [
        Selection(models=parse_models(["sklearn_iris"])),
        Selection(models=parse_models(["all"]), export_all_runs=True),
        Selection(experiments=parse_experiments(["all"]), since_ms=1_700_000_000_000),
        Selection(everything=True, until_ms=1_700_000_000_000),
        Selection(models=parse_models(["all"]), stages=("Production",)),
    ],
    ids=["model", "all-runs", "since", "until", "stages"],
)
def test_a_selection_names_the_same(full_server: MlflowServer, selection: Selection) -> None:
    planned = []
    for source in (RestSource(full_server.uri), sql_source(full_server)):
        report = Report("test")
        source.select(selection, report)
        planned.append(
            {
                (entity.kind, entity.id)
                for kind in ("experiment", "run", "logged_model", "registered_model", "trace")
                for entity in source.iter_entities(kind)
            }
        )
        source.close()
    assert planned[0]
    assert planned[0] == planned[1]


def test_a_run_that_does_not_exist_is_refused(full_server: MlflowServer) -> None:
    source = sql_source(full_server)
    with pytest.raises(SelectionError, match="no such run"):
        source.select(Selection(run_ids=("0" * 32,)), Report("test"))
    source.close()


def test_a_file_that_is_no_database_of_mlflows_is_refused(tmp_path: Any) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(SourceError, match="holds nothing of MLflow's"):
        SqlSource(f"sqlite:///{tmp_path / 'empty.db'}", open_tree=lambda location: NoArtifacts())


@pytest.mark.parametrize(
    ("revision", "is_lost"),
    [("ffffffffffff", True), ("1a0cddfcaa16", False), ("181f10493468", False), (None, False)],
    ids=["of-the-future", "of-a-version", "between-two-versions", "installed"],
)
def test_a_schema_that_is_not_known_is_a_loss(
    full_server: MlflowServer, tmp_path: Path, revision: str | None, is_lost: bool
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(full_server.database, path)
    with closing(sqlite3.connect(path)) as connection:
        if revision is not None:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            connection.commit()
    source = SqlSource(f"sqlite:///{path}", open_tree=lambda location: NoArtifacts())
    report = Report("test")
    with closing(source):
        source.select(Selection.all(), report)
    losses = [loss.reason for loss in report.losses if loss.kind == "database"]
    assert len(losses) == is_lost
    assert all("(revision ffffffffffff) is newer" in reason for reason in losses)


def test_runs_keep_what_only_a_database_knows(
    full_server: MlflowServer, over_sql: dict[Key, Told], full_world: World
) -> None:
    rows = {row["run_uuid"]: row for row in Database(full_server.database).rows("runs")}
    names = ("deleted_time", "source_type", "source_name", "source_version", "entry_point_name")
    deleted = 0
    for run in _all(over_sql, Run):
        assert [getattr(run.info, name) for name in names] == [rows[run.id][n] for n in names]
        deleted += run.info.lifecycle_stage == "deleted"
    assert deleted


def test_what_is_no_json_is_a_loss_and_takes_nothing_else_with_it(
    full_server: MlflowServer, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(full_server.database, path)
    broken = {
        ("issues", "root_causes"): ("by hand", "issue", "root_causes"),
        ("assessments", "assessment_metadata"): ("[1]", "trace", "assessments.{name}.metadata"),
        ("evaluation_dataset_records", "expectations"): (
            *("{", "dataset"),
            "records.{dataset_record_id}.expectations",
        ),
        ("mcp_servers", "icons"): ("", "mcp_server", "icons"),
        ("mcp_server_versions", "tools"): ("tools", "mcp_server", "tools"),
    }
    expected = []
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for (table, column), (text, kind, field) in broken.items():
            row = dict(connection.execute(f"SELECT rowid AS place, * FROM {table}").fetchone())
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (text, row["place"])
            )
            expected.append((kind, field.format(**row)))
        connection.commit()
    words = ("--tracking-uri", f"sqlite:///{path}", "-o", tmp_path / "f", "--artifacts", "skip")
    done = command("export-all", *words, "--json", expect=3)
    lost = [one for one in json.loads(done.stdout)["lost"] if "JSON" in one["reason"]]
    assert sorted((one["kind"], one["field"]) for one in lost) == sorted(expected)


def test_a_point_without_a_value_is_named(full_server: MlflowServer, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(full_server.database, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'value FLOAT NOT NULL', 'value FLOAT')"
            " WHERE name = 'metrics'"
        )
        connection.commit()
    with closing(sqlite3.connect(path)) as connection:
        (run_id, key) = connection.execute("SELECT run_uuid, key FROM metrics").fetchone()
        connection.execute(
            "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " VALUES (?, NULL, 1, 1, 0, ?)",
            (key, run_id),
        )
        connection.commit()
    words = ("--tracking-uri", f"sqlite:///{path}", "-o", tmp_path / "f")
    done = command("export-all", *words, "--artifacts", "skip", expect=1)
    assert f"metric {key!r} of run {run_id} has a point without a value" in done.stderr
    assert not (tmp_path / "f").exists()
