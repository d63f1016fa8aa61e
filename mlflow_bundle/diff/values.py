"""Values as text that can be compared: canonical, short, the same on both sides."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mlflow_bundle.entities import database_fields, encode_number

_SHOWN = 60
_LONGEST = 200
"""Characters of a value that are kept as they are; a longer one is told by its digest."""

REFERENCES: dict[str, str] = {
    "action_endpoint_id": "gateway_endpoint",
    "dataset_id": "dataset",
    "endpoint_id": "gateway_endpoint",
    "experiment_id": "experiment",
    "issue_id": "issue",
    "model_definition_id": "gateway_model_definition",
    "model_id": "logged_model",
    "run_id": "run",
    "schema_id": "label_schema",
    "secret_id": "gateway_secret",
    "source_run_id": "run",
    "target_value": "gateway_endpoint",
}
"""Fields of plain entities, wherever they stand, that hold the id of another entity."""

ROWS_ONLY = frozenset(
    {"associations", "dataset_uuid", "input_uuid", "null_fields", "password_hash"}
)
"""Fields that tell how rows are kept in MLflow's database, and nothing of what they say; hashes of
passwords, which differ for one password, and which no report may show."""

Name = Callable[[str, str], str]
"""Returns the name for a kind and an id."""


def text_of(value: Any) -> str:
    """Return ``value`` as canonical JSON text, shortened when long (then with its digest)."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(", ", ": "))
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{text[:_SHOWN]}… ({len(text)} characters, sha256 {digest})"


def told(record: msgspec.Struct) -> Iterator[tuple[str, Any, bool]]:
    """Yield name and value of each field, and whether only a database tells it.

    One that only a database tells is no difference where the other side does not tell it.
    """
    only_database = database_fields(type(record))
    for name, value in msgspec.structs.asdict(record).items():
        if name not in ROWS_ONLY and value is not msgspec.UNSET:
            yield name, value, name in only_database


def is_empty(value: Any) -> bool:
    """Whether a field says nothing: servers do not tell an empty text from none."""
    return value is None or value == "" or value == [] or value == {}


def canonical(value: Any, name: Name) -> Any:
    """Return a value of a plain entity with ids replaced by names and JSON texts taken apart.

    Servers give JSON texts back with other spaces and another order of keys.
    """
    if isinstance(value, dict):
        return {str(key): _field(str(key), entry, name) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(entry, name) for entry in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return encode_number(value)
        return int(value) if value.is_integer() else value  # servers make floats of integers
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return {"json": canonical(json.loads(value), name)}
        except ValueError:
            return value
    return value


def _field(key: str, value: Any, name: Name) -> Any:
    for plural, singular in ((False, key), (True, key.removesuffix("s"))):
        kind = REFERENCES.get(singular)
        if kind is None:
            continue
        if plural and isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return sorted(name(kind, entry) for entry in value)
        if not plural and isinstance(value, str):
            return name(kind, value)
    return canonical(value, name)
