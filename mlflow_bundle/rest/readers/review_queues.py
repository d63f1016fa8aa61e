"""Reads review queues with users, schemas and items (MLflow >= 3.14)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from mlflow_bundle.entities import Experiment, PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.reviews import REVIEW_QUEUE, ReviewQueue, ReviewQueueItem
from mlflow_bundle.rest.readers.base import Chosen, Fetched, Reader, Reading
from mlflow_bundle.rest.readers.items import FetchedItems
from mlflow_bundle.rest.records import to_int
from mlflow_bundle.rest.session import API_3, Session

QUEUES = f"{API_3}review-queues"

_PER_PAGE = 1000


class RestQueue(msgspec.Struct, frozen=True):
    """``review-queues/list``: one queue."""

    queue_id: str
    experiment_id: str
    name: str = ""
    queue_type: str = "CUSTOM"
    created_by: str | None = None
    creation_time_ms: int | str | None = None
    last_update_time_ms: int | str | None = None
    users: list[str] = []
    schema_ids: list[str] = []

    def record(self) -> ReviewQueue:
        """The record, with the words of MLflow's table."""
        return ReviewQueue(
            queue_id=self.queue_id,
            experiment_id=self.experiment_id,
            name=self.name,
            queue_type=self.queue_type.lower(),
            created_by=self.created_by,
            creation_time_ms=to_int(self.creation_time_ms),
            last_update_time_ms=to_int(self.last_update_time_ms),
            users=self.users,
            schema_ids=self.schema_ids,
        )


class _RestQueues(msgspec.Struct, frozen=True):
    review_queues: list[RestQueue] = []
    next_page_token: str | None = None


class RestQueueAnswer(msgspec.Struct, frozen=True):
    """``review-queues/create``, ``get-by-name``."""

    review_queue: RestQueue


class _RestItem(msgspec.Struct, frozen=True):
    item_id: str
    item_type: str = "TRACE"
    status: str = "PENDING"
    completed_by: str | None = None
    completed_time_ms: int | str | None = None
    creation_time_ms: int | str | None = None
    last_update_time_ms: int | str | None = None

    def record(self) -> ReviewQueueItem:
        return ReviewQueueItem(
            item_id=self.item_id,
            item_type=self.item_type.lower(),
            status=self.status.lower(),
            completed_by=self.completed_by,
            completed_time_ms=to_int(self.completed_time_ms),
            creation_time_ms=to_int(self.creation_time_ms),
            last_update_time_ms=to_int(self.last_update_time_ms),
        )


class _RestItems(msgspec.Struct, frozen=True):
    items: list[_RestItem] = []
    next_page_token: str | None = None


class ReviewQueueReader(Reader):
    """Reads review queues; the server shows none of deleted experiments."""

    kind = REVIEW_QUEUE
    first = (3, 14)
    batch_size = 16

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        for queues in self._from.pool.map(self._list, self._visible(chosen)):
            yield from queues

    def _list(self, experiment: Experiment) -> list[ReviewQueue]:
        try:
            return listed_queues(self._from, experiment.experiment_id)
        except ServerError as exc:
            self._lose_all(exc, experiment.experiment_id)
            return []

    def start(self, entities: list[PlainEntity]) -> Fetched:
        openers: dict[str, Callable[[], Iterator[msgspec.Struct]]] = {
            entity.id: partial(iter_items, self._from.session, entity.id) for entity in entities
        }
        return FetchedItems(self._from.pool, openers, type=ReviewQueueItem, field="items")


def listed_queues(reading: Reading, experiment_id: str) -> list[ReviewQueue]:
    """Return the queues of an experiment, listed once for all readers.

    Raises:
        ServerError: The server refused.
    """
    if experiment_id not in reading.queues:
        reading.queues[experiment_id] = list_queues(reading.session, experiment_id)
    return reading.queues[experiment_id]


def list_queues(session: Session, experiment_id: str) -> list[ReviewQueue]:
    """Return the queues of an experiment.

    Raises:
        ServerError: The server refused.
    """
    pages = session.iter_pages(
        "GET",
        f"{QUEUES}/list",
        {"experiment_id": experiment_id, "max_results": _PER_PAGE},
        type=_RestQueues,
        what=f"review queues of experiment {experiment_id}",
    )
    return [queue.record() for page in pages for queue in page.review_queues]


def iter_items(session: Session, queue_id: str) -> Iterator[ReviewQueueItem]:
    """Yield the items of a queue.

    Raises:
        ServerError: The server refused.
    """
    for page in session.iter_pages(
        "GET",
        f"{QUEUES}/items/list",
        {"queue_id": queue_id, "max_results": _PER_PAGE},
        type=_RestItems,
        what=f"items of review queue {queue_id}",
    ):
        for item in page.items:
            yield item.record()
