"""Writes label schemas and review queues: each has a name that is unique in its experiment."""

from __future__ import annotations

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Entity
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.reviews import LabelSchema, ReviewQueue, ReviewQueueItem
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.writers.base import Writer

_SCHEMAS, _QUEUES = "label_schemas", "review_queues"
_SCHEMA_COMPARED = (
    "name",
    "type",
    "instruction",
    "enable_comment",
    "input_type",
    "input_config",
    "is_default",
)
_QUEUE_COMPARED = ("name", "queue_type")
_ITEM_COMPARED = ("item_type", "status", "completed_by", "completed_time_ms")
_PENDING = "pending"


class LabelSchemaWriter(Writer):
    """Writes label schemas. Queues name them, so they are placed first."""

    kind = LabelSchema.kind

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, LabelSchema)
        place = self._to.experiment(entity.experiment_id, self.kind, entity.id)
        if place.id == NEW:
            return
        where = {"experiment_id": int(place.id), "name": entity.name}
        here = self._to.row(_SCHEMAS, where, "schema_id")
        id = here["schema_id"] if here is not None else None
        self._to.remap.place(
            self.kind,
            entity.id,
            id or self._to.free_id(_SCHEMAS, "schema_id", entity.id, within=place.id, prefix="ls-"),
        )

    def write(self, content: Content, *, dry: bool) -> None:
        schema = content.entity
        assert isinstance(schema, LabelSchema)
        placed = self._to.remap.find(self.kind, schema.id)
        if placed is None:
            return
        place = self._to.experiment(schema.experiment_id, self.kind, schema.id)
        here = self._to.row(_SCHEMAS, {"schema_id": placed.id}, *_SCHEMA_COMPARED)
        if here is None and dry:
            return
        with Merge(self._to, self.kind, schema.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                "schema_id": placed.id,
                "experiment_id": int(place.id),
                "name": schema.name,
                "type": schema.type,
                "instruction": schema.instruction,
                "enable_comment": schema.enable_comment,
                "input_type": schema.input_type,
                "input_config": schema.input_config,
                "created_by": schema.created_by,
                "created_time": schema.created_time or 0,
                "last_update_time": schema.last_update_time or 0,
                "is_default": schema.is_default,
            }
            merge.own(_SCHEMAS, row, here, key=("schema_id",), compared=_SCHEMA_COMPARED)
            merge.count()


class ReviewQueueWriter(Writer):
    """Writes review queues with their users, questions and items."""

    kind = ReviewQueue.kind

    def write(self, content: Content, *, dry: bool) -> None:
        queue = content.entity
        assert isinstance(queue, ReviewQueue)
        place = self._to.experiment(queue.experiment_id, self.kind, queue.id)
        if place.id == NEW:
            return
        # As MLflow folds it (``SqlReviewQueue``, mlflow/store/tracking/dbmodels/models.py).
        name_key = queue.name.lower()
        where = {"experiment_id": int(place.id), "name_key": name_key}
        here = self._to.row(_QUEUES, where, "queue_id", *_QUEUE_COMPARED)
        if here is None and dry:
            return
        if here is None:
            id = self._to.free_id(_QUEUES, "queue_id", queue.id, within=place.id, prefix="rq-")
        else:
            id = str(here["queue_id"])
        with Merge(self._to, self.kind, queue.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                "queue_id": id,
                "experiment_id": int(place.id),
                "name": queue.name,
                "name_key": name_key,
                "queue_type": queue.queue_type,
                "created_by": queue.created_by,
                "creation_time_ms": queue.creation_time_ms or 0,
                "last_update_time_ms": queue.last_update_time_ms or 0,
            }
            merge.own(_QUEUES, row, here, key=("queue_id",), compared=_QUEUE_COMPARED)
            self._write_below(merge, content, id)
            merge.count()

    def _write_below(self, merge: Merge, content: Content, id: str) -> None:
        queue = content.entity
        assert isinstance(queue, ReviewQueue)
        within = {"queue_id": id}
        users: list[Row] = [{**within, "user_id": user} for user in queue.users]
        merge.rows("review_queue_users", within, users, key=("user_id",), name="users")
        schemas: list[Row] = []
        for schema_id in queue.schema_ids:
            placed = self._to.remap.find(LabelSchema.kind, schema_id)
            if placed is None:
                self._to.report.adjust(self.kind, "schema_ids (points outside)")
            there = schema_id if placed is None else placed.id
            schemas.append({**within, "schema_id": there})
        merge.rows(
            "review_queue_label_schemas", within, schemas, key=("schema_id",), name="schema_ids"
        )
        here: dict[str, Row] = {}
        if not merge.fresh:
            rows = self._to.rows("review_queue_items", within, ("item_id", *_ITEM_COMPARED))
            here = {row["item_id"]: row for row in rows}
        for item in content.items():
            assert isinstance(item, ReviewQueueItem)
            found = here.get(item.item_id)
            answered = found is not None and found["status"] == _PENDING != item.status
            merge.own(
                "review_queue_items",
                _item_row(item, id),
                found,
                key=("queue_id", "item_id"),
                compared=_ITEM_COMPARED,
                news=_ITEM_COMPARED if answered else (),
                name=f"items.{item.item_id}",
            )


def _item_row(item: ReviewQueueItem, queue_id: str) -> Row:
    return {
        "queue_id": queue_id,
        "item_type": item.item_type,
        "item_id": item.item_id,
        "status": item.status,
        "completed_by": item.completed_by,
        "completed_time_ms": item.completed_time_ms,
        "creation_time_ms": item.creation_time_ms or 0,
        "last_update_time_ms": item.last_update_time_ms or 0,
    }
