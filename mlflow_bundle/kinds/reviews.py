"""Label schemas and review queues: what people are asked about traces (MLflow >= 3.14)."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mlflow_bundle.entities import Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind


class LabelSchema(PlainEntity, frozen=True, kw_only=True):
    """One question of an experiment; names are unique within it."""

    kind: ClassVar[str] = "label_schema"

    schema_id: str
    experiment_id: str
    name: str
    type: str = "feedback"
    instruction: str | None = None
    enable_comment: bool = False
    input_type: str
    input_config: str = "{}"
    """JSON text of an object: what the input type asks for."""
    created_by: str | None = None
    created_time: Int64 | None = None
    last_update_time: Int64 | None = None
    is_default: bool = False
    """Whether it is the question that MLflow makes by itself when the questions are listed."""

    @property
    def id(self) -> str:
        return self.schema_id


class ReviewQueue(PlainEntity, frozen=True, kw_only=True):
    """One queue without its items; names are unique within an experiment, whatever their case."""

    kind: ClassVar[str] = "review_queue"

    queue_id: str
    experiment_id: str
    name: str
    queue_type: str = "custom"
    created_by: str | None = None
    creation_time_ms: Int64 | None = None
    last_update_time_ms: Int64 | None = None
    users: list[str] = []
    schema_ids: list[str] = []

    @property
    def id(self) -> str:
        return self.queue_id


class ReviewQueueItem(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be reviewed: a trace of the same experiment."""

    item_id: str
    item_type: str = "trace"
    status: str = "pending"
    completed_by: str | None = None
    completed_time_ms: Int64 | None = None
    creation_time_ms: Int64 | None = None
    last_update_time_ms: Int64 | None = None


LABEL_SCHEMA = Kind(
    record=LabelSchema,
    directory="label_schemas",
    document="label_schema.json",
    scope="experiment",
)

REVIEW_QUEUE = Kind(
    record=ReviewQueue,
    directory="review_queues",
    document="review_queue.json",
    scope="experiment",
    item=ReviewQueueItem,
)
