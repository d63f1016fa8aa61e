"""What a source tells of everything, as plain data that can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mlflow_bundle.contracts import ArtifactTree, Source
from mlflow_bundle.entities import Entity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.layout import parent_of
from mlflow_bundle.report import Report
from mlflow_bundle.rest.database_only import without_database_fields
from mlflow_bundle.selection import Selection

Key = tuple[str, str, str]
"""Kind, id, experiment."""


@dataclass
class Told:
    """One entity with its content."""

    entity: Entity
    items: list[msgspec.Struct]
    histories: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """Points with their values as text: NaN is NaN then."""
    files: list[str] | None = None
    """Paths, or None where the store cannot be read."""
    version_files: dict[int, list[str] | None] = field(default_factory=dict)

    def over_rest(self) -> dict[str, Any]:
        """All of it without what only a database tells."""
        return {
            "record": msgspec.to_builtins(without_database_fields(self.entity)),
            "items": self._items(),
            "histories": list(self.histories.items()),
            "files": self.files,
            "version_files": self.version_files,
        }

    def _items(self) -> list[Any]:
        items = [msgspec.to_builtins(without_database_fields(item)) for item in self.items]
        # Spans that begin at one moment have no order of their own.
        return sorted(items, key=repr) if isinstance(self.entity, Trace) else items


def tell(
    source: Source, selection: Selection | None = None, report: Report | None = None
) -> dict[Key, Told]:
    """Return everything that a source hands out, in its order."""
    source.select(selection or Selection.all(), report or Report("test"))
    told: dict[Key, Told] = {}
    for content in source.iter_contents(files="list"):
        entity = content.entity
        one = Told(
            entity,
            list(content.items()),
            files=_paths(content.artifacts),
            version_files={n: _paths(tree) for n, tree in content.version_artifacts.items()},
        )
        for chunk in content.histories():
            one.histories.setdefault(chunk.key, []).extend(
                zip(map(repr, chunk.values), chunk.timestamps, chunk.steps, strict=True)
            )
        told[entity.kind, entity.id, parent_of(entity)] = one
    return told


def differences(path: str, a: Any, b: Any) -> Iterable[tuple[str, Any, Any]]:
    """Yield path and both values of whatever differs; lists of unlike length as a whole."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from differences(f"{path}.{key}", a.get(key), b.get(key))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for one, other in zip(a, b, strict=True):
            yield from differences(f"{path}[]", one, other)
    elif a != b or type(a) is not type(b):
        yield path, a, b


def _paths(tree: ArtifactTree) -> list[str] | None:
    try:
        return [file.path for file in tree.files()]
    except ServerError:
        return None
