"""The world fills every table, and the comparison of databases is able to fail, in each."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compare import row_dump
from tests.installed import has
from tests.servers import MlflowServer
from tests.table_exemptions import EXEMPT, NOT_CARRIED
from tests.table_ids import NATURAL, REGISTRY_NAMES
from tests.table_rows import Database, Row
from tests.tables import (
    OTHER_TABLES,
    USER_TABLES,
    changed_rows,
    compare_databases,
    empty_tables,
)
from tests.world import World

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_every_table_is_known(full_server: MlflowServer) -> None:
    tables = {*Database(full_server.database).tables} - {"sqlite_sequence"}
    assert tables == {*USER_TABLES, *OTHER_TABLES}


def test_world_fills_every_table(full_server: MlflowServer, full_world: World) -> None:
    """Every table over REST; what of their contents is not, `tests.world_genai` tells."""
    assert empty_tables(full_server.database) == []
    filled = Database(full_server.database)
    counts = {table: len(filled.rows(table)) for table in USER_TABLES}
    print(f"{sum(counts.values())} rows in {len(counts)} tables")
    associations = {
        (row["source_type"], row["destination_type"]) for row in filled.rows("entity_associations")
    }
    assert associations == {
        ("trace", "run"),
        ("trace", "prompt_version"),
        ("evaluation_dataset", "experiment"),
    }
    assert {row["assessment_type"] for row in filled.rows("assessments")} == {
        "feedback", "expectation", "issue",
    }  # fmt: skip
    assert {row["valid"] for row in filled.rows("assessments")} == {0, 1}
    tags = filled.rows("trace_tags")
    assert {tag["value"] for tag in tags if tag["key"] == "mlflow.trace.spansLocation"} == {
        "TRACKING_STORE",
        "ARCHIVE_REPO",
        # Which servers take from nobody since 3.18.
        *(() if has(3, 18) else ("ARTIFACT_REPO",)),
    }
    assert {row["input_type"] for row in filled.rows("label_schemas")} == {
        "pass_fail", "categorical", "numeric", "text",
    }  # fmt: skip
    assert {row["status"] for row in filled.rows("review_queue_items")} == {
        "pending", "complete", "declined",
    }  # fmt: skip
    assert {row["queue_type"] for row in filled.rows("review_queues")} == {"custom", "user"}
    assert {row["status"] for row in filled.rows("issues")} == {"pending", "resolved", "rejected"}
    assert {row["status"] for row in filled.rows("mcp_server_versions")} == {
        "draft", "active", "deprecated", "deleted",
    }  # fmt: skip


def test_database_equals_its_copy(full_server: MlflowServer, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copyfile(full_server.database, copy)
    compared = compare_databases(full_server.database, copy)
    print(compared)
    assert compared.differences == []
    assert set(USER_TABLES) <= compared.rows.keys()
    assert compared.passed_over == {}
    assert list(changed_rows(row_dump(full_server.database), copy)) == []


@pytest.fixture(scope="module")
def reduced(full_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full world without its masses, which make up most of it: quick to compare often."""
    path = tmp_path_factory.mktemp("tables") / "reduced.db"
    shutil.copyfile(full_server.database, path)
    with _written(path) as connection:
        connection.execute("DELETE FROM metrics WHERE step NOT BETWEEN 0 AND 9")
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            connection.execute(
                f"DELETE FROM {table} WHERE run_uuid IN (SELECT run_uuid FROM runs JOIN experiments"
                " USING (experiment_id) WHERE experiments.name = 'many runs')"
            )
        connection.execute(
            "DELETE FROM evaluation_dataset_records WHERE dataset_id ="
            " (SELECT dataset_id FROM evaluation_datasets WHERE name = 'many records')"
        )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
    return path


@contextlib.contextmanager
def _written(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA ignore_check_constraints=ON")
        yield connection
        connection.commit()


@pytest.fixture
def changed(reduced: Path, tmp_path: Path) -> Path:
    path = tmp_path / "changed.db"
    shutil.copyfile(reduced, path)
    return path


def _carried(database: Database, table: str) -> Row:
    """A row that must arrive, and whose every field but the exempted ones must be equal."""
    return next(
        row
        for row in database.rows(table)
        if not any(
            exemption.table == table and exemption.applies(row, database)
            for exemption in NOT_CARRIED
        )
    )


def _compared_columns(database: Database, table: str, row: Row) -> list[str]:
    """Columns of no key and no natural name that no exemption covers."""
    given = {column for kind in NATURAL if kind.table == table for column in kind.columns}
    return [
        column
        for column in row
        if column not in database.tables[table]
        and column not in given
        and column != "duration_ns"  # computed by SQLite
        and not any(exemption.covers(table, column, row) for exemption in EXEMPT)
    ]


def _other(value: Any) -> Any:
    return value + 1 if isinstance(value, int | float) else f"{value or ''}x"


def _where(row: Row, columns: tuple[str, ...]) -> tuple[str, list[Any]]:
    condition = " AND ".join(f'"{column}" IS ?' for column in columns)
    return condition, [row[column] for column in columns]


def test_a_changed_value_is_found_in_every_table(reduced: Path, changed: Path) -> None:
    source = Database(reduced)
    with _written(changed) as connection:
        for table in USER_TABLES:
            _change_value(connection, source, table)
    lines = Counter(_table(line) for line in compare_databases(source, changed).differences)
    assert lines.keys() == {*USER_TABLES}
    # Where a key had to be changed, for want of another column: a row less and a row more.
    plain = {t for t in USER_TABLES if _compared_columns(source, t, _carried(source, t))}
    assert {table for table in plain if lines[table] != 1} == set()
    assert len(plain) > 40
    assert max(lines.values()) == 2


def test_a_row_more_and_a_row_less_are_found_in_every_table(reduced: Path, changed: Path) -> None:
    source = Database(reduced)
    with _written(changed) as connection:
        for table in USER_TABLES:
            _add_row(connection, source, table)
    for pair, where in (((reduced, changed), "second"), ((changed, reduced), "first")):
        lines = compare_databases(*pair).differences
        assert all(line.endswith(f": only in the {where}") for line in lines)
        assert Counter(map(_table, lines)) == Counter(USER_TABLES)
    assert compare_databases(reduced, changed, may_have_more=True).differences == []
    assert compare_databases(changed, reduced, may_lack=True).differences == []


def _table(line: str) -> str:
    return line.partition("[")[0]


def _change_value(connection: sqlite3.Connection, source: Database, table: str) -> None:
    row, key = _carried(source, table), source.tables[table]
    natural = [column for kind in NATURAL if kind.table == table for column in kind.columns]
    columns = _compared_columns(source, table, row) or natural or [*key]
    condition, values = _where(row, key)
    connection.execute(
        f'UPDATE "{table}" SET "{columns[-1]}" = ? WHERE {condition}',
        [_other(row[columns[-1]]), *values],
    )


def _add_row(connection: sqlite3.Connection, source: Database, table: str) -> None:
    row = dict(_carried(source, table))
    row.pop("duration_ns", None)
    unique = {*source.tables[table]}
    for _, index, is_unique, *_ in connection.execute(f'PRAGMA index_list("{table}")').fetchall():
        if is_unique:
            unique |= {name for *_, name in connection.execute(f'PRAGMA index_info("{index}")')}
    for column in unique:
        row[column] = 10**6 if isinstance(row[column], int | float) else f"{row[column]}x"
    _insert(connection, table, row)


def _moved(path: Path, source: Database) -> dict[str, str]:
    """Give every run, model and experiment another id, everywhere; return the runs' new ids."""
    shift = 100
    ids = {row["run_uuid"]: uuid.uuid4().hex for row in source.rows("runs")}
    models = {row["model_id"]: f"m-{uuid.uuid4().hex}" for row in source.rows("logged_models")}
    issues = {row["issue_id"]: f"iss-{uuid.uuid4().hex}" for row in source.rows("issues")}
    datasets = {
        row["dataset_id"]: f"d-{uuid.uuid4().hex}" for row in source.rows("evaluation_datasets")
    }
    scorers = {row["scorer_id"]: str(uuid.uuid4()) for row in source.rows("scorers")}
    everything = ids | models | issues | datasets | scorers
    pattern = re.compile("|".join(map(re.escape, everything)))
    root = re.compile(r"mlflow-artifacts:/(\d+)")
    span = re.compile(r'(mlflow\.experimentId": "\\")(\d+)')

    def text(value: str) -> str:
        value = pattern.sub(lambda match: everything[match[0]], value)
        value = root.sub(lambda match: f"mlflow-artifacts:/{int(match[1]) + shift}", value)
        return span.sub(lambda match: f"{match[1]}{int(match[2]) + shift}", value)

    with _written(path) as connection:
        for table in USER_TABLES:
            rows = source.rows(table)
            connection.execute(f'DELETE FROM "{table}"')
            for row in rows:
                row = {column: row[column] for column in row if column != "duration_ns"}
                for column, value in row.items():
                    if column == "experiment_id" and value is not None:
                        row[column] = value + shift
                    elif isinstance(value, str):
                        row[column] = text(value)
                if row.get("destination_type") == "experiment":
                    row["destination_id"] = str(int(row["destination_id"]) + shift)
                if row.get("key") == "_mlflow_experiment_ids":
                    row["value"] = re.sub(
                        r"\d+", lambda match: str(int(match[0]) + shift), row["value"]
                    )
                _insert(connection, table, row)
        for old, new in ids.items():
            tag = {"key": "mlflow_bundle.origin", "value": old, "run_uuid": new}
            _insert(connection, "tags", tag)
        for row in source.rows("logged_models"):
            tag = {
                "model_id": models[row["model_id"]],
                "experiment_id": row["experiment_id"] + shift,
                "tag_key": "mlflow_bundle.origin",
                "tag_value": row["model_id"],
            }
            _insert(connection, "logged_model_tags", tag)
    return ids


def _insert(connection: sqlite3.Connection, table: str, row: Row) -> None:
    names = ", ".join(f'"{column}"' for column in row)
    marks = ", ".join("?" for _ in row)
    connection.execute(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', [*row.values()])


def test_new_ids_are_followed_and_old_ones_found(
    reduced: Path, changed: Path, full_world: World
) -> None:
    source = Database(reduced)
    runs = _moved(changed, source)
    compared = compare_databases(source, changed, tables=USER_TABLES)
    print(compared)
    assert compared.differences == []
    assert {*USER_TABLES} == compared.rows.keys()

    root, trace = full_world.runs["root"], full_world.traces["rich"]
    with _written(changed) as connection:
        for statement in (
            f"UPDATE tags SET value = '{root}' WHERE key = 'mlflow.parentRunId'"
            f" AND run_uuid = '{runs[full_world.runs['child']]}'",
            f"UPDATE trace_info SET request_preview = 'see {root}' WHERE request_id = '{trace}'",
            f"UPDATE model_versions SET status_message = '{root}' WHERE name = 'doubler'",
            "UPDATE spans SET content ="
            ' replace(content, \'experimentId": "\\"1\', \'experimentId": "\\"\')'
            f" WHERE trace_id = '{trace}'",
        ):
            assert connection.execute(statement).rowcount > 0
    found = compare_databases(source, changed, tables=USER_TABLES).differences
    for start in ("tags[mlflow.parentRunId, ", "trace_info[", "model_versions[", "spans["):
        assert any(line.startswith(start) for line in found), start
    left = {line.partition("[")[0] for line in found if f"still holds {root}" in line}
    assert left == {"tags", "trace_info", "model_versions"}
    kinds = {line.partition("[")[0] for line in found}
    assert kinds == {"tags", "trace_info", "model_versions", "spans"}


def test_renames_are_followed_when_told(reduced: Path, changed: Path) -> None:
    with _written(changed) as connection:
        connection.execute("UPDATE experiments SET name = 'team/' || name")
        for table in REGISTRY_NAMES:
            connection.execute(f"UPDATE {table} SET name = 'new' WHERE name = 'genai-prompt'")
        connection.execute(
            "UPDATE trace_tags SET value = replace(value, 'genai-prompt', 'new')"
            " WHERE key = 'mlflow.linkedPrompts'"
        )
        connection.execute(
            "UPDATE entity_associations SET"
            " destination_id = replace(destination_id, 'genai-prompt', 'new')"
        )
    found = {_table(line) for line in compare_databases(reduced, changed).differences}
    assert {"experiments", "model_versions", "trace_tags", "entity_associations"} <= found
    compared = compare_databases(
        reduced,
        changed,
        experiment_name=lambda name: f"team/{name}",
        model_name=lambda name: "new" if name == "genai-prompt" else name,
    )
    assert compared.differences == []
