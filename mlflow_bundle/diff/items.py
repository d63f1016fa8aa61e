"""The many things of a plain entity, e.g. spans and assessments, as fields with names for ids."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from mlflow_bundle.credentials import mask_record
from mlflow_bundle.diff.expected import Expected
from mlflow_bundle.diff.names import Held, Names
from mlflow_bundle.diff.values import ROWS_ONLY, canonical, is_empty, text_of
from mlflow_bundle.entities import database_fields
from mlflow_bundle.kinds.auth import Permission
from mlflow_bundle.kinds.traces import Assessment, PromptVersionRef, Span
from mlflow_bundle.references import rewrite_assessment, rewrite_permission, rewrite_values
from mlflow_bundle.report import Report
from mlflow_bundle.spans import comparable

_KEYS = ("span_id", "assessment_id", "item_id", "version", "alias", "name", "key", "inputs")
"""Fields that tell the items of a plain entity apart; the first that an item has is its key."""


def fields_of(item: msgspec.Struct, names: Names, expected: Expected) -> dict[str, Any]:
    """Return the fields of an item that say something, canonical.

    Args:
        item: With its users at the second side (`Expected.record`).
        names: Names for ids of its side.
        expected: What its side's contents are to look like.
    """
    item = mask_record(item, _unheard)  # as a bundle holds it
    fields = msgspec.to_builtins(item)
    for name in database_fields(type(item)) | ROWS_ONLY:
        fields.pop(name, None)
    if isinstance(item, Assessment):
        fields |= _assessment(item, names)
    elif isinstance(item, PromptVersionRef):
        version = names.find("prompt_version", f"{item.name}/{item.version}")
        fields["name"] = names.name("prompt", item.name) if version is None else version.id
        fields["version"] = item.version if version is None else ""
    elif isinstance(item, Permission):
        fields = _permission(item, names)
    elif isinstance(item, Span):
        fields = _span(item, names)
    elif isinstance(fields.get("tags"), dict):
        fields["tags"] = expected.tags(fields["tags"])
    told: dict[str, Any] = canonical(fields, names.name)
    return {name: value for name, value in told.items() if not is_empty(value)}


def key_of(fields: dict[str, Any]) -> str | None:
    """Return what tells an item apart from others of its entity, if it has a field for that."""
    for name in _KEYS:
        if name in fields:
            value = fields[name]
            return value if isinstance(value, str) else text_of(value)
    return None


def _assessment(item: Assessment, names: Names) -> dict[str, Any]:
    rewritten = rewrite_assessment(item, names, Report())
    return {name: getattr(rewritten, name) for name in ("name", "source_id", "metadata")}


def _permission(item: Permission, names: Names) -> dict[str, Any]:
    """What is permitted of what; nothing where that is not there, as no import brings it."""
    told = rewrite_permission(item, Held(names))
    if told is None:
        return {}
    name = f"{told.resource_type} {told.resource_pattern}"
    return {"name": name, "permission": told.permission}


def _span(item: Span, names: Names) -> dict[str, Any]:
    """The span itself, which the server keeps as JSON text."""
    try:
        span = json.loads(item.content)
    except ValueError:
        return {"content": item.content}
    if not isinstance(span, dict):
        return {"content": item.content}
    attributes = span.get("attributes")
    if isinstance(attributes, dict):
        texts = {key: value for key, value in attributes.items() if isinstance(value, str)}
        span["attributes"] = attributes | rewrite_values(
            "span", "attributes", texts, names, Report()
        )
    return comparable(span)


def _unheard(field_name: str) -> None:
    """Masked fields are not counted here."""
