"""What MySQL takes for equal, cannot encode or shows in part: nothing of it is lost in silence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tests.installed import has
from tests.servers import prepare_directory
from tests.sql.databases import change, execute, is_reachable, new_database, rows
from tests.transfer.commands import Done, command

pytestmark = [pytest.mark.server, pytest.mark.slow]

GENERAL = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
LATIN = "CHARACTER SET latin1"


@pytest.fixture
def new_mysql(prerequisite: Callable[[object, str], None]) -> Iterator[Callable[[str], str]]:
    """Makes databases with options of ``CREATE DATABASE``; gives their URIs."""
    prerequisite(is_reachable("mysql"), "a mysql server")
    with contextlib.ExitStack() as made:
        yield lambda options: made.enter_context(new_database("mysql", options))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A new SQLite database of MLflow's."""
    database, _ = prepare_directory(tmp_path / "source")
    return database


def copy(source: str | Path, to: str, *options: str, expect: int = 0) -> Done:
    uri = f"sqlite:///{source}" if isinstance(source, Path) else source
    return command(
        *("copy", "--tracking-uri", uri, "--to", to, "--artifacts", "skip", "--json", *options),
        expect=expect,
    )


def run_with_dataset(uri: str, name: str) -> str:
    """Make a run of the default experiment that reads a dataset; return its id."""
    client = MlflowClient(uri)
    run_id: str = client.create_run("0").info.run_id
    data = MetaDataset(HTTPDatasetSource("http://x/y"), name=name, digest="d")
    tags = [InputTag("of", name)]
    client.log_inputs(run_id, [DatasetInput(data._to_mlflow_entity(), tags)])
    return run_id


def test_what_is_written_under_the_name_in_another_case_comes(
    source: Path, new_mysql: Callable[[str], str], tmp_path: Path
) -> None:
    uri, target = new_mysql(GENERAL), f"sqlite:///{tmp_path}/target.db"
    copy(source, uri)
    client = MlflowClient(uri)
    client.create_registered_model("Churn")
    client.create_model_version("Churn", "s3://x/1")
    client.create_model_version("churn", "s3://x/2")
    client.set_registered_model_tag("CHURN", "tag", "t")
    client.set_registered_model_alias("CHURN", "best", "2")
    client.set_model_version_tag("churn", "1", "of", "one")
    client.register_prompt("Prompt", "text")
    execute(uri, "UPDATE registered_model_tags SET name = 'PROMPT' WHERE name = 'Prompt'")
    copy(uri, target)
    assert rows(target, "SELECT name FROM registered_models ORDER BY name") == [
        ("Churn",),
        ("Prompt",),
    ]
    there = MlflowClient(target)
    model = there.get_registered_model("Churn")
    assert model.tags == {"tag": "t"}
    assert {alias: str(number) for alias, number in model.aliases.items()} == {"best": "2"}
    first, second = (there.get_model_version("Churn", number) for number in ("1", "2"))
    assert (first.source, first.tags) == ("s3://x/1", {"of": "one"})
    assert (second.source, second.tags) == ("s3://x/2", {})


def test_names_that_the_collation_tells_apart_all_come(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    client = MlflowClient(f"sqlite:///{source}")
    names = ["a", "A", "ä"]
    run_id = client.create_run("0").info.run_id
    for name in names:
        client.create_experiment(name)
        client.create_registered_model(name)
        client.log_metric(run_id, name, 1)
    uri = new_mysql("CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    for _ in range(2):
        copy(source, uri)
    assert sorted(rows(uri, "SELECT name FROM registered_models")) == sorted((n,) for n in names)
    assert rows(uri, "SELECT count(*) FROM experiments") == [(4,)]
    assert rows(uri, "SELECT count(*) FROM metrics") == [(3,)]
    uri = new_mysql(GENERAL)
    lost = copy(source, uri, expect=3).losses
    assert sorted({kind for kind, _, _ in lost}) == ["experiment", "registered_model", "run"]
    assert len(lost) == 6


def test_a_float_has_all_of_its_digits(
    source: Path, new_mysql: Callable[[str], str], tmp_path: Path
) -> None:
    uri, target = new_mysql(GENERAL), f"sqlite:///{tmp_path}/target.db"
    for id, amount in (("a", 1234567), ("b", 0.1), ("c", 1234.5678)):
        change(
            source,
            "INSERT INTO budget_policies (budget_policy_id, budget_unit, budget_amount,"
            " duration_unit, duration_value, target_scope, budget_action, created_at,"
            " last_updated_at, workspace)"
            " VALUES (?, 'USD', ?, 'MONTHS', 1, 'GLOBAL', 'ALERT', 1, 1, 'default')",
            *(id, amount),
        )
    for _ in range(2):
        report = copy(source, uri).report
        assert report["conflicts"] == []
    assert report["present"]["gateway_budget"] == 3
    copy(uri, target)
    amounts = [amount for (amount,) in rows(target, "SELECT budget_amount FROM budget_policies")]
    assert sorted(amounts) == [0.1, pytest.approx(1234.5678, rel=2**-23), 1234567]


def test_a_dataset_that_is_taken_for_another_one_is_lost_by_name(
    source: Path, new_mysql: Callable[[str], str], tmp_path: Path
) -> None:
    uri = new_mysql(GENERAL)
    other, _ = prepare_directory(tmp_path / "other")
    run_with_dataset(f"sqlite:///{source}", "Train")
    run_id = run_with_dataset(f"sqlite:///{other}", "train")
    copy(source, uri)
    for _ in range(2):
        assert copy(other, uri, expect=3).losses == [
            ("run", run_id, "datasets.train"),
            ("run", run_id, "inputs.train"),
        ]
    assert rows(uri, "SELECT name FROM datasets") == [("Train",)]
    assert rows(uri, "SELECT count(*) FROM inputs") == [(1,)]
    assert rows(uri, "SELECT value FROM input_tags") == [("Train",)]


@pytest.mark.parametrize("mode", ["", "STRICT_TRANS_TABLES"])
def test_what_the_encoding_lacks_is_lost_and_nothing_is_changed(
    source: Path, new_mysql: Callable[[str], str], mode: str
) -> None:
    client = MlflowClient(f"sqlite:///{source}")
    for name in ("日本", "é"):
        client.create_experiment(name)
    client.create_registered_model("é")
    run_id = run_with_dataset(f"sqlite:///{source}", "日本")
    for key in ("日", "é"):
        client.set_tag(run_id, key, key)
        client.log_metric(run_id, key, 1)
    uri = f"{new_mysql(LATIN)}?init_command=SET+sql_mode%3D'{mode}'"
    if has(3, 18):  # whose own migrations make no tables in such a database
        assert "COLLATION 'utf8mb4_bin' is not valid" in copy(source, uri, expect=1).stderr
        return
    for _ in range(2):
        lost = [(kind, field) for kind, _, field in copy(source, uri, expect=3).losses]
        assert lost == [
            ("experiment", ""),
            ("run", "datasets.日本"),
            ("run", "inputs.日本"),
            ("run", "inputs.日本.of"),
            ("run", "metrics.日"),
            ("run", "tags.日"),
        ]
    assert rows(uri, "SELECT name FROM experiments") == [("Default",), ("é",)]
    assert rows(uri, "SELECT name FROM registered_models") == [("é",)]
    assert rows(uri, "SELECT value FROM tags WHERE `key` NOT LIKE 'mlflow.%%'") == [("é",)]
    assert rows(uri, "SELECT `key` FROM metrics") == [("é",)]
    assert rows(uri, "SELECT count(*) FROM inputs") == [(0,)]


def test_what_the_server_refuses_of_one_record_takes_no_other_with_it(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    uri = new_mysql(GENERAL)
    copy(source, uri)
    ((packet,),) = rows(uri, "SELECT @@max_allowed_packet")
    store = SqlAlchemyStore(f"sqlite:///{source}", "unused")
    dataset = store.create_dataset("evals", experiment_ids=["0"])
    values: list[object] = [float("nan"), "x" * int(packet), 1.0]
    records = [{"inputs": {"value": value}} for value in values]
    store.upsert_dataset_records(dataset.dataset_id, records)
    for _ in range(2):
        lost = copy(source, uri, expect=3).report["lost"]
        assert len(lost) == 2
        assert {loss["id"] for loss in lost} == {dataset.dataset_id}
        assert any("max_allowed_packet" in loss["reason"] for loss in lost)
    records_there = rows(uri, "SELECT inputs FROM evaluation_dataset_records")
    assert records_there == [('{"value": 1.0}',)]


def test_a_record_that_is_changed_to_what_the_server_refuses_stays(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    uri = new_mysql(GENERAL)
    store = SqlAlchemyStore(f"sqlite:///{source}", "unused")
    dataset = store.create_dataset("evals", experiment_ids=["0"])
    record = {"inputs": {"q": 1}, "expectations": {"a": 1}}
    store.upsert_dataset_records(dataset.dataset_id, [record])
    copy(source, uri)
    change(source, "UPDATE evaluation_dataset_records SET expectations = ?", '{"a": NaN}')
    assert len(copy(source, uri, "--on-conflict", "update", expect=3).losses) == 1
    assert rows(uri, "SELECT expectations FROM evaluation_dataset_records") == [('{"a": 1}',)]


def test_a_lock_that_is_waited_for_in_vain_leaves_no_half_of_a_run(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    client = MlflowClient(f"sqlite:///{source}")
    client.log_param(client.create_run("0").info.run_id, "p", "v")
    uri = new_mysql(GENERAL)
    copy(source, uri)
    client.log_param(client.create_run("0").info.run_id, "p", "v")
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM params FOR UPDATE").all()
        hasty = f"{uri}?init_command=SET+innodb_lock_wait_timeout%3D1"
        assert "Lock wait timeout" in copy(source, hasty, expect=1).stderr
    assert rows(uri, "SELECT count(*) FROM runs") == [(1,)]
    copy(source, uri)
    assert rows(uri, "SELECT count(*) FROM runs") == [(2,)]
    assert rows(uri, "SELECT count(*) FROM params") == [(2,)]


def test_the_first_loss_takes_nothing_with_it_that_is_counted(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    client = MlflowClient(f"sqlite:///{source}")
    run_id = client.create_run("0").info.run_id
    for key in ("p", "P"):
        client.log_param(run_id, key, "v")
    uri = new_mysql(GENERAL)
    done = copy(source, uri, "--fail-fast", expect=1)
    assert [(kind, id) for kind, id, _ in done.losses] == [("run", run_id)]
    assert done.report["done"]["run"] == 1
    assert rows(uri, "SELECT count(*) FROM runs") == [(1,)]
    assert rows(uri, "SELECT count(*) FROM params") == [(1,)]


def test_a_server_that_soon_ends_idle_sessions_lets_ours_be(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    MlflowClient(f"sqlite:///{source}").create_experiment("e")
    uri = new_mysql(GENERAL)
    # While tables are made and rows are written, who holds the lock of imports is idle.
    copy(source, f"{uri}?init_command=SET+wait_timeout%3D1")
    assert rows(uri, "SELECT name FROM experiments WHERE experiment_id = 1") == [("e",)]


def test_the_encoding_that_a_uri_names_takes_no_characters(
    source: Path, new_mysql: Callable[[str], str], tmp_path: Path
) -> None:
    client = MlflowClient(f"sqlite:///{source}")
    run_id = client.create_run("0").info.run_id
    client.set_tag(run_id, "note", "日本 😀")
    client.create_experiment("😀")
    uri, target = new_mysql(GENERAL), f"sqlite:///{tmp_path}/target.db"
    copy(source, f"{uri}?charset=utf8")
    copy(f"{uri}?charset=latin1", target)
    assert rows(target, "SELECT value FROM tags WHERE key = 'note'") == [("日本 😀",)]
    assert rows(target, "SELECT name FROM experiments WHERE experiment_id = 1") == [("😀",)]


def test_versions_of_an_mcp_server_that_differ_in_case_come_where_mysql_tells_them_apart(
    source: Path, new_mysql: Callable[[str], str]
) -> None:
    """As it does since MLflow 3.18; before, nothing of the second may hang on the first."""
    change(
        source,
        "INSERT INTO mcp_servers (workspace, name, created_at, last_updated_at)"
        " VALUES ('default', 'io.x/y', 1, 1)",
    )
    for order, version in enumerate(("1.0.0-rc", "1.0.0-RC")):
        change(
            source,
            "INSERT INTO mcp_server_versions (workspace, name, version, version_major,"
            " version_minor, version_patch, version_prerelease_sort_key, server_json, status,"
            " created_at, last_updated_at)"
            " VALUES ('default', 'io.x/y', ?, 1, 0, 0, ?, '{}', 'active', ?, 1)",
            *(version, version, order),
        )
        change(
            source,
            "INSERT INTO mcp_server_version_tags VALUES ('default', 'io.x/y', ?, ?, 'v')",
            *(version, f"of {version}"),
        )
        change(
            source,
            "INSERT INTO mcp_server_aliases VALUES ('default', 'io.x/y', ?, ?)",
            *(f"alias {order}", version),
        )
        change(
            source,
            "INSERT INTO mcp_access_endpoints (id, workspace, server_name, server_version, url,"
            " transport_type, created_at, last_updated_at)"
            " VALUES (?, 'default', 'io.x/y', ?, 'https://x/', 'streamable-http', 1, 1)",
            *(f"{order}" * 36, version),
        )
    uri = new_mysql("")
    tells = has(3, 18)
    report = copy(source, uri, expect=0 if tells else 3).report
    kept = ["1.0.0-RC", "1.0.0-rc"] if tells else ["1.0.0-rc"]
    lost = sorted(loss["field"] for loss in report["lost"])
    assert lost == (
        []
        if tells
        else [
            "access_endpoints.https://x/",
            "aliases.alias 1",
            "versions.1.0.0-RC",
        ]
    )
    for table, column in (
        ("mcp_server_versions", "version"),
        ("mcp_server_version_tags", "version"),
        ("mcp_server_aliases", "version"),
        ("mcp_access_endpoints", "server_version"),
    ):
        assert sorted(v for (v,) in rows(uri, f"SELECT {column} FROM {table}")) == kept, table
    again = copy(source, uri, expect=0 if tells else 3).report
    assert (again["done"], again["conflicts"]) == ({}, [])
    assert sorted(loss["field"] for loss in again["lost"]) == lost
