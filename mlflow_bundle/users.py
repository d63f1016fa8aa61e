"""Which fields of plain entities and their items hold an MLflow user, and who that is elsewhere.

One table for both sides of ``--user-map``: an import writes the records that :func:`map_users`
returns, and a comparison looks for them. Tags are mapped where tags are made
(`rest/destination.py`, `diff/expected.py`), as are the users of runs.

A user of the traced application (``mlflow.trace.user``) is data and no MLflow user.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from mlflow_bundle.kinds.auth import User
from mlflow_bundle.kinds.datasets import DatasetRecord
from mlflow_bundle.kinds.gateway import GatewayBudget
from mlflow_bundle.kinds.reviews import ReviewQueue, ReviewQueueItem
from mlflow_bundle.kinds.traces import Assessment, Span, Trace

RecordT = TypeVar("RecordT", bound=msgspec.Struct)

Users = Mapping[str, str]
"""The user elsewhere by the user here; who is not in it stays."""

USER_TAG = "mlflow.user"
"""The user who made an entity."""

USER_FIELDS = frozenset({"completed_by", "created_by", "last_updated_by", "users"})
"""Fields that hold a user, or a list of them, in whatever record they stand."""

_HUMAN = "HUMAN"


def map_users(record: RecordT, users: Users) -> RecordT:
    """Return a plain entity or an item of one with the users that it has elsewhere.

    Args:
        record: Any record, with those in it.
        users: Who is who; each name is looked up once.
    """
    if isinstance(record, Span):
        return record  # many, and no user in them
    changes: dict[str, Any] = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        mapped = _mapped(name, value, users)
        if mapped is not value:
            changes[name] = mapped
    special = _SPECIAL.get(type(record))
    if special is not None:
        changes |= special(record, users)
    return msgspec.structs.replace(record, **changes) if changes else record


def _mapped(name: str, value: Any, users: Users) -> Any:
    if name in USER_FIELDS:
        if isinstance(value, list):
            return [users.get(user, user) for user in value]
        return users.get(value, value) if value is not None else None
    if isinstance(value, msgspec.Struct):
        return map_users(value, users)
    if isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        return [map_users(entry, users) for entry in value]
    return value


# Fields that hold a user under a condition, or in a form of their own.


def _assessment(assessment: Assessment, users: Users) -> dict[str, Any]:
    source = assessment.source_id
    if assessment.source_type != _HUMAN or source is None:
        return {}
    return {"source_id": users.get(source, source)}


def _trace(trace: Trace, users: Users) -> dict[str, Any]:
    user = trace.metadata.get(USER_TAG)
    if user is None:
        return {}
    return {"metadata": trace.metadata | {USER_TAG: users.get(user, user)}}


def _dataset_record(record: DatasetRecord, users: Users) -> dict[str, Any]:
    """The tags of a record are JSON text, which stays as it is where nobody is mapped."""
    if not record.tags or not users:
        return {}
    try:
        tags = json.loads(record.tags)
    except ValueError:
        return {}
    user = tags.get(USER_TAG) if isinstance(tags, dict) else None
    if not isinstance(user, str) or users.get(user, user) == user:
        return {}
    return {"tags": json.dumps(tags | {USER_TAG: users[user]}, ensure_ascii=False)}


def _budget(budget: GatewayBudget, users: Users) -> dict[str, Any]:
    target = budget.target_value
    if target is None or budget.target_scope == "ENDPOINT":
        return {}
    return {"target_value": users.get(target, target)}


def _user(user: User, users: Users) -> dict[str, Any]:
    return {"username": users.get(user.username, user.username)}


def _queue(queue: ReviewQueue, users: Users) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "users": list(dict.fromkeys(_reviewer(user, users) for user in queue.users))
    }
    if queue.queue_type == "user":
        # It is called after its user, who owns it if anybody does.
        changes["name"] = _reviewer(queue.name, users)
        if queue.created_by is not None and queue.created_by.lower() == queue.name.lower():
            changes["created_by"] = changes["name"]
    return changes


def _queue_item(item: ReviewQueueItem, users: Users) -> dict[str, Any]:
    by = item.completed_by
    return {"completed_by": _reviewer(by, users)} if by is not None else {}


def _reviewer(name: str, users: Users) -> str:
    """Queues have users in lower case, so the case in a map does not count either."""
    mapped = users.get(name)
    if mapped is None:
        lower = {old.strip().lower(): new for old, new in users.items()}
        mapped = lower.get(name.strip().lower(), name)
    return mapped.strip().lower()


_SPECIAL: dict[type[msgspec.Struct], Callable[[Any, Users], dict[str, Any]]] = {
    Assessment: _assessment,
    DatasetRecord: _dataset_record,
    GatewayBudget: _budget,
    ReviewQueue: _queue,
    ReviewQueueItem: _queue_item,
    Trace: _trace,
    User: _user,
}
