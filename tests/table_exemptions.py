"""What is not compared between a source's database and a destination's, and why: one list.

Fields and rows named here are those that MLflow's REST API can neither set nor show (3.17.2). A
database that was filled by other means is compared with fewer of them: each carries its reason, by
which a caller can leave it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.table_rows import Database, Row

MADE = "the server sets it when the object is made"
CHANGED = "the server sets it when the object is changed"
PLACE = "follows from the server and its ids; files are compared elsewhere"
NO_ENDPOINT = "no endpoint sets it"
ARCHIVED = "an archived trace arrives unarchived: no endpoint archives"
DELETED_VERSION = "a deleted version: nothing is shown of it, only its number is taken"


@dataclass(frozen=True)
class Exemption:
    """A field that is not compared, or only by what ``same`` makes of it."""

    table: str
    column: str
    reason: str
    key: str | None = None
    """In tables of tags: only the value of this key."""
    when: Callable[[Row], bool] | None = None
    """Only in rows of the source for which this holds."""
    same: Callable[[Any], Any] | None = None
    """Applied to both values, which are then compared."""

    def covers(self, table: str, column: str, row: Row) -> bool:
        return (
            self.table == table
            and self.column == column
            and (self.key is None or row.get("key", row.get("tag_key")) == self.key)
            and (self.when is None or self.when(row))
        )

    def covers_values(self, left: Any, right: Any) -> bool:
        """Whether a covered field may hold ``left`` in one database and ``right`` in the other."""
        return self.same is None or self.same(left) == self.same(right)


@dataclass(frozen=True)
class RowExemption:
    """Rows that one database may have alone."""

    table: str
    where: str
    """``first`` (the source), ``second``, ``either``; ``all``: even where both have it, no field
    is compared."""
    reason: str
    applies: Callable[[Row, Database], bool]


def _json(value: Any) -> Any:
    """Whatever the order of keys; 1 and 1.0 stay different."""
    return json.dumps(json.loads(value), sort_keys=True) if isinstance(value, str) else value


def _json_set(value: Any) -> Any:
    """A JSON list whose order means nothing."""
    if not isinstance(value, str):
        return value
    return sorted(json.dumps(item, sort_keys=True) for item in json.loads(value))


def _number_set(value: Any) -> Any:
    """``,1,2,``: a set of experiment ids."""
    return {part for part in value.split(",") if part} if isinstance(value, str) else value


def _none_if_empty(value: Any) -> Any:
    return value or None


def _is_deleted_version(row: Row) -> bool:
    return bool(row["current_stage"] == "Deleted_Internal")


def _times(table: str, made: str, changed: str | None = None) -> tuple[Exemption, ...]:
    exemptions = (Exemption(table, made, MADE),)
    return exemptions if changed is None else (*exemptions, Exemption(table, changed, CHANGED))


def _is_uploaded(row: Row) -> bool:
    """Whether the files of a skill's version lie in MLflow's artifact store."""
    return bool(row["source_type"] == "mlflow")


EXEMPT: tuple[Exemption, ...] = (
    *_times("experiments", "creation_time", "last_update_time"),
    Exemption("experiments", "artifact_location", PLACE),
    Exemption("runs", "artifact_uri", PLACE),
    Exemption("runs", "deleted_time", "the time of the deletion here"),
    *_times("logged_models", "creation_timestamp_ms", "last_updated_timestamp_ms"),
    Exemption("logged_models", "artifact_location", PLACE),
    Exemption("logged_models", "status_message", NO_ENDPOINT),
    Exemption(
        "logged_model_tags",
        "tag_value",
        "a set, written by the server",
        key="mlflow.modelVersions",
        same=_json_set,
    ),
    *(
        Exemption("datasets", column, "REST tells no empty text from none", same=_none_if_empty)
        for column in ("dataset_schema", "dataset_profile")
    ),
    # traces
    Exemption("trace_info", "db_payload_generation", "operational: counts writes of spans"),
    Exemption("trace_tags", "value", PLACE, key="mlflow.artifactLocation"),
    Exemption(
        "trace_tags",
        "value",
        ARCHIVED,
        key="mlflow.trace.spansLocation",
        when=lambda row: row["value"] == "ARCHIVE_REPO",
    ),
    Exemption("spans", "content", ARCHIVED, when=lambda row: row["content"] == ""),
    Exemption(
        "spans",
        "type",
        "derived: spans of other OpenTelemetry conventions arrive with the type they were given",
        when=lambda row: row["type"] == "UNKNOWN",
    ),
    Exemption("assessments", "value", "the order of keys means nothing", same=_json),
    Exemption("assessments", "assessment_metadata", "the order of keys means nothing", same=_json),
    *_times("entity_associations", "created_time"),
    Exemption("entity_associations", "association_id", MADE),
    # what is made with traces
    *_times("evaluation_datasets", "created_time", "last_update_time"),
    Exemption("evaluation_datasets", "digest", "of the name and the time of the last change"),
    Exemption("evaluation_datasets", "last_updated_by", NO_ENDPOINT),
    Exemption("evaluation_datasets", "schema", "the order of keys means nothing", same=_json),
    *_times("evaluation_dataset_records", "created_time", "last_update_time"),
    *_times("scorer_versions", "creation_time"),
    *_times("issues", "created_timestamp", "last_updated_timestamp"),
    Exemption("issues", "metadata", "the order of keys means nothing", same=_json),
    *_times("label_schemas", "created_time", "last_update_time"),
    Exemption("label_schemas", "created_by", NO_ENDPOINT),
    *_times("review_queues", "creation_time_ms", "last_update_time_ms"),
    Exemption("review_queues", "created_by", NO_ENDPOINT),
    *_times("review_queue_items", "creation_time_ms", "last_update_time_ms"),
    Exemption("review_queue_items", "completed_time_ms", CHANGED),
    # registry, webhooks
    *_times("registered_models", "creation_time", "last_updated_time"),
    Exemption(
        "registered_model_tags",
        "value",
        "a set of experiments",
        key="_mlflow_experiment_ids",
        same=_number_set,
    ),
    *_times("model_versions", "creation_time", "last_updated_time"),
    Exemption("model_versions", "user_id", MADE),
    Exemption("model_versions", "status_message", NO_ENDPOINT),
    *_times("webhooks", "creation_timestamp", "last_updated_timestamp"),
    Exemption("webhooks", "secret", "secret: to be set again"),
    *(
        exemption
        for table in (
            "mcp_servers",
            "mcp_server_versions",
            "mcp_access_endpoints",
            "skills",
            "skill_versions",
        )
        for exemption in (
            *_times(table, "created_at", "last_updated_at"),
            Exemption(table, "created_by", MADE),
            Exemption(table, "last_updated_by", CHANGED),
        )
    ),
    Exemption(
        "mcp_server_versions",
        "tools",
        "REST tells no empty list from none",
        same=lambda value: None if value in ("[]", "null") else value,
    ),
    Exemption(
        "skills",
        "icons",
        "REST tells no null from JSON's",
        same=lambda value: None if value == "null" else value,
    ),
    Exemption("skill_versions", "source", PLACE, when=_is_uploaded),
    # gateway
    *(
        exemption
        for table in (
            "model_definitions",
            "endpoints",
            "endpoint_bindings",
            "guardrails",
            "budget_policies",
        )
        for exemption in (
            *_times(table, "created_at", "last_updated_at"),
            Exemption(table, "last_updated_by", CHANGED),
        )
    ),
    *_times("endpoint_model_mappings", "created_at"),
    *_times("guardrail_configs", "created_at"),
)
"""Fields."""


def _of_deleted_experiment(row: Row, database: Database) -> bool:
    return row["experiment_id"] in database.deleted_experiments


def _below_deleted(table: str, id: str) -> Callable[[Row, Database], bool]:
    """Whether the row of ``table`` that the row belongs to is of a deleted experiment."""

    def applies(row: Row, database: Database) -> bool:
        return any(
            owner[id] == row[id] and owner["experiment_id"] in database.deleted_experiments
            for owner in database.rows(table)
        )

    return applies


def _of_deleted_version(row: Row, database: Database) -> bool:
    return any(
        _is_deleted_version(version)
        and all(version[column] == row[column] for column in ("workspace", "name", "version"))
        for version in database.rows("model_versions")
    )


def _deleted_webhook(row: Row, database: Database) -> bool:
    return any(
        webhook["webhook_id"] == row["webhook_id"] and webhook["deleted_timestamp"] is not None
        for webhook in database.rows("webhooks")
    )


def _not_a_number(row: Row, database: Database) -> bool:
    """Whether a logged model's metric stands for a NaN: it is stored as 0."""
    return row["metric_value"] == 0 and any(
        metric["is_nan"]
        and metric["run_uuid"] == row["run_id"]
        and metric["key"] == row["metric_name"]
        and metric["timestamp"] == row["metric_timestamp_ms"]
        and metric["step"] == row["metric_step"]
        for metric in database.rows("metrics")
    )


def _hidden_model(row: Row, database: Database) -> bool:
    """Whether a logged model is deleted and no run, model version or trace names it."""
    shown = {edge["destination_id"] for edge in database.rows("inputs")}
    shown |= {v["source"].removeprefix("models:/") for v in database.rows("model_versions")}
    shown |= {
        entry["value"]
        for entry in database.rows("trace_request_metadata")
        if entry["key"] == "mlflow.modelId"
    }
    return any(
        model["model_id"] == row["model_id"]
        and model["lifecycle_stage"] == "deleted"
        and model["model_id"] not in shown
        for model in database.rows("logged_models")
    )


def _names_its_run(row: Row, database: Database) -> bool:
    """Whether a trace is linked to the run that its metadata names as its source."""
    return any(
        metadata["request_id"] == row["source_id"]
        and metadata["key"] == "mlflow.sourceRun"
        and metadata["value"] == row["destination_id"]
        for metadata in database.rows("trace_request_metadata")
    )


_OF_DELETED = "MLflow does not list it in a deleted experiment"

NOT_CARRIED: tuple[RowExemption, ...] = (
    *(
        RowExemption(table, "first", _OF_DELETED, _of_deleted_experiment)
        for table in ("scorers", "label_schemas", "review_queues", "online_scoring_configs")
    ),
    *(
        RowExemption(table, "first", _OF_DELETED, _below_deleted(owner, id))
        for table, owner, id in (
            ("scorer_versions", "scorers", "scorer_id"),
            ("review_queue_users", "review_queues", "queue_id"),
            ("review_queue_items", "review_queues", "queue_id"),
            ("review_queue_label_schemas", "review_queues", "queue_id"),
        )
    ),
    RowExemption(
        "label_schemas",
        "either",
        "the default schema is made when schemas are first listed",
        lambda row, _: bool(row["is_default"]),
    ),
    *(
        RowExemption(table, "first", "a deleted logged model that nothing names", _hidden_model)
        for table in (
            "logged_models",
            "logged_model_params",
            "logged_model_tags",
            "logged_model_metrics",
        )
    ),
    RowExemption(
        "logged_model_metrics",
        "first",
        "a logged model's NaN is stored as 0: writing that 0 would add a false point to the run",
        _not_a_number,
    ),
    RowExemption(
        "model_versions",
        "all",
        DELETED_VERSION,
        lambda row, _: _is_deleted_version(row),
    ),
    RowExemption("model_version_tags", "all", DELETED_VERSION, _of_deleted_version),
    RowExemption(
        "trace_tags",
        "first",
        ARCHIVED,
        lambda row, _: row["key"] == "mlflow.trace.archiveLocation",
    ),
    RowExemption(
        "trace_request_metadata",
        "second",
        "MLflow adds it to every posted trace",
        lambda row, _: row["key"] == "mlflow.trace.infoFinalized",
    ),
    RowExemption(
        "mcp_server_versions",
        "first",
        "a deleted version: no endpoint shows it",
        lambda row, _: bool(row["status"] == "deleted"),
    ),
    RowExemption(
        "skill_versions",
        "all",
        DELETED_VERSION,
        lambda row, _: bool(row["status"] == "deleted"),
    ),
    RowExemption(
        "entity_associations",
        "first",
        "a link to the run that the trace names as its source: searches give both for one",
        _names_its_run,
    ),
    *(
        RowExemption(table, "first", "a deleted webhook: no endpoint shows it", _deleted_webhook)
        for table in ("webhooks", "webhook_events")
    ),
)
"""Rows."""
