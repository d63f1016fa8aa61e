"""The private database that a file store is read into: the tables that it has something for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_TABLES = {
    "experiments": (
        "experiment_id INTEGER PRIMARY KEY, name TEXT UNIQUE, artifact_location TEXT, "
        "lifecycle_stage TEXT, creation_time BIGINT, last_update_time BIGINT"
    ),
    "experiment_tags": (
        "experiment_id BIGINT, key TEXT, value TEXT, PRIMARY KEY (experiment_id, key)"
    ),
    "runs": (
        "run_uuid TEXT PRIMARY KEY, experiment_id BIGINT, name TEXT, user_id TEXT, status TEXT, "
        "start_time BIGINT, end_time BIGINT, deleted_time BIGINT, lifecycle_stage TEXT, "
        "artifact_uri TEXT, source_type TEXT, source_name TEXT, source_version TEXT, "
        "entry_point_name TEXT"
    ),
    "tags": "run_uuid TEXT, key TEXT, value TEXT, PRIMARY KEY (run_uuid, key)",
    "params": "run_uuid TEXT, key TEXT, value TEXT, PRIMARY KEY (run_uuid, key)",
    # MLflow's own key of a point: a line that is there twice is one. Without a type for values, as
    # SQLite would make 0 of -0 in one for numbers.
    "metrics": (
        "run_uuid TEXT, key TEXT, timestamp BIGINT, step BIGINT, value, is_nan BOOLEAN, "
        "PRIMARY KEY (run_uuid, key, timestamp, step, value, is_nan)"
    ),
    "latest_metrics": "run_uuid TEXT, key TEXT, PRIMARY KEY (run_uuid, key)",
    "datasets": (
        "dataset_uuid TEXT PRIMARY KEY, experiment_id BIGINT, name TEXT, digest TEXT, "
        "dataset_source_type TEXT, dataset_source TEXT, dataset_schema TEXT, dataset_profile TEXT"
    ),
    "inputs": (
        "input_uuid TEXT PRIMARY KEY, source_type TEXT, source_id TEXT, destination_type TEXT, "
        "destination_id TEXT, step BIGINT"
    ),
    "input_tags": "input_uuid TEXT, name TEXT, value TEXT, PRIMARY KEY (input_uuid, name)",
    "logged_models": (
        "model_id TEXT PRIMARY KEY, experiment_id BIGINT, name TEXT, artifact_location TEXT, "
        "creation_timestamp_ms BIGINT, last_updated_timestamp_ms BIGINT, status INTEGER, "
        "lifecycle_stage TEXT, model_type TEXT, source_run_id TEXT, status_message TEXT"
    ),
    "logged_model_tags": (
        "model_id TEXT, tag_key TEXT, tag_value TEXT, PRIMARY KEY (model_id, tag_key)"
    ),
    "logged_model_params": (
        "model_id TEXT, param_key TEXT, param_value TEXT, PRIMARY KEY (model_id, param_key)"
    ),
    "logged_model_metrics": (
        "model_id TEXT, metric_name TEXT, metric_timestamp_ms BIGINT, metric_step BIGINT, "
        "run_id TEXT, metric_value, dataset_name TEXT, dataset_digest TEXT, "
        "PRIMARY KEY (model_id, metric_name, metric_timestamp_ms, metric_step, run_id)"
    ),
    "trace_info": (
        "request_id TEXT PRIMARY KEY, experiment_id BIGINT, timestamp_ms BIGINT, "
        "execution_time_ms BIGINT, status TEXT, client_request_id TEXT, request_preview TEXT, "
        "response_preview TEXT"
    ),
    "trace_tags": "request_id TEXT, key TEXT, value TEXT, PRIMARY KEY (request_id, key)",
    "trace_request_metadata": (
        "request_id TEXT, key TEXT, value TEXT, PRIMARY KEY (request_id, key)"
    ),
    "assessments": (
        "assessment_id TEXT PRIMARY KEY, trace_id TEXT, name TEXT, assessment_type TEXT, "
        "value TEXT, error TEXT, created_timestamp BIGINT, last_updated_timestamp BIGINT, "
        "source_type TEXT, source_id TEXT, run_id TEXT, span_id TEXT, rationale TEXT, "
        "overrides TEXT, valid BOOLEAN, assessment_metadata TEXT"
    ),
    "registered_models": (
        "name TEXT PRIMARY KEY, creation_time BIGINT, last_updated_time BIGINT, description TEXT"
    ),
    "registered_model_tags": "name TEXT, key TEXT, value TEXT, PRIMARY KEY (name, key)",
    "registered_model_aliases": (
        "name TEXT, alias TEXT, version INTEGER, PRIMARY KEY (name, alias)"
    ),
    "model_versions": (
        "name TEXT, version INTEGER, creation_time BIGINT, last_updated_time BIGINT, "
        "description TEXT, user_id TEXT, current_stage TEXT, source TEXT, storage_location TEXT, "
        "run_id TEXT, run_link TEXT, status TEXT, status_message TEXT, PRIMARY KEY (name, version)"
    ),
    "model_version_tags": (
        "name TEXT, version INTEGER, key TEXT, value TEXT, PRIMARY KEY (name, version, key)"
    ),
}
"""Columns by table. They are MLflow's, but for those that a file store says nothing of; traces have
the columns of an older MLflow, which kept name, session and tokens where a file store has them."""

_INDEXES = (
    "runs (experiment_id)",
    "logged_models (experiment_id)",
    "trace_info (experiment_id)",
    "inputs (destination_id)",
    "inputs (source_id)",
    "assessments (trace_id)",
)


class Tables:
    """Writes the rows.

    Args:
        file: Made here.
    """

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("BEGIN")
        for name, columns in _TABLES.items():
            rowid = "" if name == "experiments" else " WITHOUT ROWID"
            self._connection.execute(f"CREATE TABLE {name} ({columns}){rowid}")

    def add(self, table: str, **values: Any) -> None:
        """Add a row.

        Raises:
            ValueError: There is one with its key.
        """
        if not self.add_all(table, tuple(values), [tuple(values.values())]):
            raise ValueError("another one with its id, name or version was read before it")

    def add_all(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Add rows but for those whose key is there; return how many were added."""
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        return self._connection.executemany(statement, rows).rowcount

    def close(self) -> None:
        """Write all of it."""
        try:
            for number, index in enumerate(_INDEXES):
                self._connection.execute(f"CREATE INDEX index_{number} ON {index}")
            self._connection.execute("COMMIT")
        finally:
            self._connection.close()
