"""Writes review queues: their names tell which is which; items wait until the traces are there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow_bundle.contracts import Content
from mlflow_bundle.errors import ServerError, UnsupportedEntityError
from mlflow_bundle.kinds.reviews import LabelSchema, ReviewQueue, ReviewQueueItem
from mlflow_bundle.rest.destination import Destination, chunked
from mlflow_bundle.rest.halves import send_in_halves
from mlflow_bundle.rest.readers.review_queues import QUEUES, RestQueueAnswer, iter_items
from mlflow_bundle.rest.writers.base import Writer
from mlflow_bundle.spooled import Spooled

_KIND = ReviewQueue.kind
_UNSETTABLE = ("queue_id", "creation_time_ms", "last_update_time_ms")
_ITEMS_PER_CALL = 100
_PENDING = "pending"


@dataclass(slots=True)
class _Waiting:
    """A queue whose items are still to be written."""

    queue: ReviewQueue
    id: str
    was_here: bool
    changed: bool
    items: Spooled[ReviewQueueItem]


class ReviewQueueWriter(Writer):
    """Writes review queues. The last of all: every trace is there when :meth:`finish` is called."""

    kind = _KIND
    hides_in_deleted = True

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()

    def examine(self, content: Content) -> None:
        queue = content.entity
        assert isinstance(queue, ReviewQueue)
        here = self._find(queue, self._experiment(queue).id)
        if here is None:
            return
        self._to.report.found(_KIND)
        self._changes(queue, here)
        found = {item.item_id: item for item in iter_items(self._to.session, here.queue_id)}
        for item in content.items():
            assert isinstance(item, ReviewQueueItem)
            if item.item_id in found:
                list(self._steps(queue, item, found[item.item_id]))

    def put(self, content: Content) -> None:
        queue = content.entity
        assert isinstance(queue, ReviewQueue)
        if not self._to.since(3, 14):
            raise UnsupportedEntityError(
                f"review queue {queue.name!r}: the server has none (they came with MLflow 3.14)",
                status=404,
            )
        experiment_id = self._experiment(queue).id
        here = self._find(queue, experiment_id)
        if here is None:
            id, changed = self._create(queue, experiment_id), True
        else:
            id = here.queue_id
            changes = self._changes(queue, here)
            changed = bool(changes) and self._update(queue, id, changes)
        items = Spooled(ReviewQueueItem)
        for item in content.items():
            assert isinstance(item, ReviewQueueItem)
            items.add(item)
        with self._lock:
            self._waiting.append(_Waiting(queue, id, here is not None, changed, items))

    def _find(self, queue: ReviewQueue, experiment_id: str) -> ReviewQueue | None:
        if not self._to.was_here(experiment_id):
            return None
        try:
            answer: RestQueueAnswer = self._to.session.get(
                f"{QUEUES}/get-by-name",
                params={"experiment_id": experiment_id, "name": queue.name},
                type=RestQueueAnswer,
                what=f"review queue {queue.name!r}",
            )
        except ServerError as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return answer.review_queue.record()

    def _create(self, queue: ReviewQueue, experiment_id: str) -> str:
        owner = queue.created_by
        name = queue.name
        if queue.queue_type == "user" and owner is not None and owner.lower() == name.lower():
            # The one way in which the server takes the user for the owner.
            answer = self._post("get-or-create-user", experiment_id=experiment_id, user=name)
        else:
            answer = self._post(
                "create",
                experiment_id=experiment_id,
                name=name,
                queue_type=queue.queue_type.upper(),
                users=queue.users,
                schema_ids=self._schemas(queue, count=True),
            )
        here = answer.review_queue
        for field in _UNSETTABLE:
            self._to.report.adjust(_KIND, field)
        if here.created_by != owner:
            if queue.queue_type == "custom" and owner is not None:
                self._update(queue, here.queue_id, {"new_owner": owner})
            else:
                self._to.report.adjust(_KIND, "created_by")
        return here.queue_id

    def _post(self, endpoint: str, **body: Any) -> RestQueueAnswer:
        answer: RestQueueAnswer = self._to.session.post(
            f"{QUEUES}/{endpoint}",
            body,
            type=RestQueueAnswer,
            what=f"review queue {body.get('name', body.get('user'))!r}",
            once=True,
        )
        return answer

    def _update(self, queue: ReviewQueue, id: str, changes: dict[str, Any]) -> bool:
        """Change a queue; what the server refuses is lost. Return whether it was done."""
        try:
            self._to.session.post(
                f"{QUEUES}/update",
                {"queue_id": id, **changes},
                what=f"review queue {queue.name!r}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            field = ", ".join(key for key in changes if not key.startswith("update_"))
            self._lose(queue, field, exc.message)
            return False
        return True

    def _changes(self, queue: ReviewQueue, here: ReviewQueue) -> dict[str, Any]:
        """What is to be changed of a queue that is there, as the server takes it."""
        changes: dict[str, Any] = {}
        if queue.queue_type != here.queue_type:
            if self._differs(queue, "queue_type", here.queue_type, queue.queue_type):
                self._lose(queue, "queue_type", "the server never changes it")
            return changes
        if queue.queue_type == "user":
            # Everything follows from its user.
            return changes
        users = here.users + [user for user in queue.users if user not in here.users]
        if users != here.users:
            changes |= {"update_users": True, "users": users}
        schemas = self._schemas(queue)
        if missing := [id for id in schemas if id not in here.schema_ids]:
            changes |= {"update_schema_ids": True, "schema_ids": here.schema_ids + missing}
        if queue.name != here.name and self._differs(queue, "name", here.name, queue.name):
            changes["name"] = queue.name
        owner = queue.created_by
        if owner and (
            here.created_by is None
            or (
                owner != here.created_by
                and self._differs(queue, "created_by", here.created_by, owner)
            )
        ):
            changes["new_owner"] = owner
        return changes

    def _differs(self, queue: ReviewQueue, field: str, here: object, bundle: object) -> bool:
        return self._to.differs(_KIND, queue.id, field, here=here, bundle=bundle)

    def _schemas(self, queue: ReviewQueue, *, count: bool = False) -> list[str]:
        """Return the schemas here; the server refuses ids of others."""
        schemas = []
        for id in queue.schema_ids:
            placed = self._to.remap.find(LabelSchema.kind, id)
            if placed is not None:
                schemas.append(placed.id)
            elif not count:
                continue
            elif (LabelSchema.kind, id) in self._to.failed:
                self._lose(queue, f"schema_ids[{id}]", "the label schema could not be made")
            else:
                self._to.report.adjust(_KIND, "schema_ids (points outside)")
        return schemas

    # Items

    def finish(self) -> None:
        for waiting in self._waiting:
            waiting.changed |= self._write_items(waiting)
            if waiting.changed:
                self._to.report.did(_KIND)
            else:
                self._to.report.found(_KIND)

    def _write_items(self, waiting: _Waiting) -> bool:
        queue, changed = waiting.queue, False
        found: dict[str, ReviewQueueItem] = {}
        if waiting.was_here:
            found = {item.item_id: item for item in iter_items(self._to.session, waiting.id)}
        for items in chunked(waiting.items, _ITEMS_PER_CALL):
            new = [item for item in items if item.item_id not in found]
            refused = {item.item_id for item in self._add(waiting, new)}
            made = len(new) - len(refused)
            if made:
                self._to.report.adjust(_KIND, "items.creation_time_ms", made)
                self._to.report.adjust(_KIND, "items.last_update_time_ms", made)
            changed |= bool(made)
            for item in items:
                if item.item_id in refused:
                    continue
                here = found.get(item.item_id, ReviewQueueItem(item_id=item.item_id))
                for step in self._steps(queue, item, here):
                    changed |= self._set_status(waiting, item, step)
        return changed

    def _add(self, waiting: _Waiting, items: list[ReviewQueueItem]) -> list[ReviewQueueItem]:
        """Add items; return those that the server refused, which are lost."""

        def send(item_type: str, part: list[ReviewQueueItem]) -> None:
            self._to.session.post(
                f"{QUEUES}/items/add",
                {
                    "queue_id": waiting.id,
                    "item_type": item_type.upper(),
                    "item_ids": [item.item_id for item in part],
                },
                what=f"items of review queue {waiting.queue.name!r}",
            )

        refused = []
        for item_type in dict.fromkeys(item.item_type for item in items):
            alike = [item for item in items if item.item_type == item_type]
            for item, exc in send_in_halves(alike, partial(send, item_type)):
                self._lose(waiting.queue, f"items[{item.item_id}]", exc.message)
                refused.append(item)
        return refused

    def _steps(
        self, queue: ReviewQueue, item: ReviewQueueItem, here: ReviewQueueItem
    ) -> Iterator[dict[str, Any]]:
        """Yield the changes of status that an item needs; the server takes only real ones."""
        if item.status == _PENDING:
            return
        by = item.completed_by or ""
        if here.status == item.status and here.completed_by == by:
            return
        # Pending is no answer yet: a killed import leaves it too.
        if here.status != _PENDING:
            ours, theirs = (item.status, by), (here.status, here.completed_by)
            if not self._differs(queue, f"items[{item.item_id}].status", theirs, ours):
                return
            if here.status == item.status:
                yield {"status": _PENDING.upper()}
        yield {"status": item.status.upper(), "completed_by": by}

    def _set_status(self, waiting: _Waiting, item: ReviewQueueItem, step: dict[str, Any]) -> bool:
        try:
            self._to.session.post(
                f"{QUEUES}/items/set-status",
                {"queue_id": waiting.id, "item_id": item.item_id, **step},
                what=f"item {item.item_id} of review queue {waiting.queue.name!r}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            self._lose(waiting.queue, f"items[{item.item_id}].status", exc.message)
            return False
        if "completed_by" in step:
            self._to.report.adjust(_KIND, "items.completed_time_ms")
        return True

    def _lose(self, queue: ReviewQueue, field: str, reason: str) -> None:
        self._to.report.lose(_KIND, queue.id, reason, field=field, parent=queue.experiment_id)

    def close(self) -> None:
        for waiting in self._waiting:
            waiting.items.close()
