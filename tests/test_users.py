"""Which fields hold users: none is forgotten, and each is mapped once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec
import pytest

from mlflow_bundle.kinds import KINDS
from mlflow_bundle.kinds.datasets import DatasetRecord
from mlflow_bundle.kinds.gateway import GatewayBudget
from mlflow_bundle.kinds.reviews import ReviewQueue, ReviewQueueItem
from mlflow_bundle.kinds.traces import Assessment, Trace
from mlflow_bundle.users import USER_FIELDS, map_users

USERS = {"ana": "Bo@new", "Bo@new": "never", "bo": "ana"}
"""A second look-up would give others."""

_LOOKS_LIKE_A_USER = re.compile(r"(^|_)(by|users?|owners?|authors?|reviewers?)(_id)?$")


def _records(record: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield record
    for hint in get_type_hints(record).values():
        for part in (hint, *getattr(hint, "__args__", ())):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from _records(part)


@pytest.mark.parametrize("name", KINDS)
def test_every_field_that_is_called_like_a_user_is_in_the_table(name: str) -> None:
    kind = KINDS[name]
    for top in filter(None, (kind.record, kind.item)):
        for record in _records(top):
            found = set(filter(_LOOKS_LIKE_A_USER.search, record.__struct_fields__))
            assert found <= USER_FIELDS, record


def _queue(**fields: Any) -> ReviewQueue:
    return ReviewQueue(queue_id="q", experiment_id="1", **fields)


def _budget(scope: str, target: str) -> GatewayBudget:
    return GatewayBudget(
        budget_policy_id="b",
        budget_unit="USD",
        budget_amount=1,
        duration_unit="DAYS",
        duration_value=1,
        target_scope=scope,
        target_value=target,
        budget_action="ALERT",
    )


def _assessment(source_type: str, source_id: str) -> Assessment:
    return Assessment(
        assessment_id="a", name="n", type="feedback", source_type=source_type, source_id=source_id
    )


def _trace(user: str, assessment: Assessment) -> Trace:
    metadata = {"mlflow.user": user, "mlflow.trace.user": "ana"}
    return Trace(
        trace_id="t", experiment_id="1", request_time=1, metadata=metadata, assessments=[assessment]
    )


def _record(**fields: Any) -> DatasetRecord:
    return DatasetRecord(dataset_record_id="r", inputs="{}", **fields)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            _queue(name="ana", created_by="ana", users=["ana", "bo"]),
            _queue(name="ana", created_by="Bo@new", users=["bo@new", "ana"]),
        ),
        (
            _queue(name="ana", created_by="ana", users=["ana"], queue_type="user"),
            _queue(name="bo@new", created_by="bo@new", users=["bo@new"], queue_type="user"),
        ),
        (
            ReviewQueueItem(item_id="t", completed_by="ana"),
            ReviewQueueItem(item_id="t", completed_by="bo@new"),
        ),
        (_budget("USER", "ana"), _budget("USER", "Bo@new")),
        (_budget("ENDPOINT", "ana"), _budget("ENDPOINT", "ana")),
        (_trace("ana", _assessment("HUMAN", "bo")), _trace("Bo@new", _assessment("HUMAN", "ana"))),
        (_trace("x", _assessment("CODE", "bo")), _trace("x", _assessment("CODE", "bo"))),
        (
            _record(tags='{"a":1,"mlflow.user":"ana"}', created_by="bo"),
            _record(tags='{"a": 1, "mlflow.user": "Bo@new"}', created_by="ana"),
        ),
        (_record(tags='{"mlflow.user":"x"}'), _record(tags='{"mlflow.user":"x"}')),
    ],
)
def test_users_are_mapped_where_they_stand(before: msgspec.Struct, after: msgspec.Struct) -> None:
    assert map_users(before, USERS) == after
