"""Records without what only MLflow's database tells: no request can set it.

Comparing with what a server says needs records that say no more than a server does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Entity, Run, database_fields
from mlflow_bundle.kinds import is_hidden
from mlflow_bundle.report import Report

RecordT = TypeVar("RecordT", bound=msgspec.Struct)

_MISSED = frozenset(
    {
        "datasets",
        "deleted_time",
        "deleted_versions",
        "encrypted",
        "encrypted_secret",
        "entry_point_name",
        "source_name",
        "source_version",
    }
)
"""Fields whose values somebody may miss; the others tell how MLflow keeps its rows."""


def as_over_rest(content: Content) -> Content:
    """Return an entity and its items as a server would tell them."""
    return replace(
        content,
        entity=without_database_fields(content.entity),
        items=lambda: (
            without_database_fields(item) for item in content.items() if not is_hidden(item)
        ),
    )


def without_database_fields(record: RecordT) -> RecordT:
    """Return a record, with those in it, without what only a database tells."""
    changes: dict[str, Any] = {
        name: UNSET for name in database_fields(type(record)) if getattr(record, name) is not UNSET
    }
    for name in record.__struct_fields__:
        if name in changes:
            continue
        value = getattr(record, name)
        if isinstance(value, msgspec.Struct):
            told: Any = without_database_fields(value)
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            told = [without_database_fields(entry) for entry in value]
        else:
            continue
        if told != value:
            changes[name] = told
    return msgspec.structs.replace(record, **changes) if changes else record


def adjust_database_fields(entity: Entity, report: Report) -> None:
    """Count what only a database could take."""
    record = entity.info if isinstance(entity, Run) else entity
    for name in _MISSED & database_fields(type(record)):
        if getattr(record, name):
            report.adjust(entity.kind, name)
