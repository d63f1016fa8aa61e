"""Reads review queues with users, schemas and items (MLflow >= 3.14)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow_bundle.kinds.reviews import REVIEW_QUEUE, ReviewQueue, ReviewQueueItem
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Items, Reader, ids_of

_COLUMNS = (
    "queue_id",
    "experiment_id",
    "name",
    "queue_type",
    "created_by",
    "creation_time_ms",
    "last_update_time_ms",
)


class ReviewQueueReader(Reader):
    """Reads review queues."""

    kind = REVIEW_QUEUE.name

    def select(self, chosen: Chosen) -> Ids:
        return self._in_experiments("review_queues", "queue_id", chosen)

    def read(self, wanted: Sequence[Selected]) -> Iterator[ReviewQueue]:
        ids = ids_of(wanted)
        users = self._rows.grouped("review_queue_users", "queue_id", ids, ("user_id",))
        schemas = self._rows.grouped("review_queue_label_schemas", "queue_id", ids, ("schema_id",))
        for row in self._records("review_queues", "queue_id", wanted, _COLUMNS):
            row["experiment_id"] = str(row["experiment_id"])
            yield ReviewQueue(
                **row,
                users=sorted(user for (user,) in users.get(row["queue_id"], ())),
                schema_ids=sorted(schema for (schema,) in schemas.get(row["queue_id"], ())),
            )

    def read_items(self, wanted: Sequence[Selected]) -> Items:
        names = ReviewQueueItem.__struct_fields__
        found = self._rows.grouped("review_queue_items", "queue_id", ids_of(wanted), names)

        def items(id: str, parent: str) -> list[ReviewQueueItem]:
            made = [
                ReviewQueueItem(**dict(zip(names, row, strict=True))) for row in found.get(id, ())
            ]
            # As servers list them.
            return sorted(made, key=lambda item: (-(item.creation_time_ms or 0), item.item_id))

        return items
