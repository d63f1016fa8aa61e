"""What reads one kind of entity from a database."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.entities import Association, Entity
from mlflow_bundle.report import Loss
from mlflow_bundle.selection import Selection
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.rows import IDS_PER_QUERY, Row, Rows, chunks

StructT = TypeVar("StructT", bound=msgspec.Struct)

Ids = Iterator[tuple[str, str]]
"""Id of an entity, and of the experiment it lies in or ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a selection means for one kind.

    Attributes:
        experiment_ids: Experiments that travel with everything in them.
        whole_server: Whether what lies in no experiment travels too.
        selection: What was asked for.
    """

    experiment_ids: Sequence[int]
    whole_server: bool
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What every reader of an export shares.

    Attributes:
        rows: The database.
        lose: ``Report.lose`` of the report of this export.
        tree: Opens the artifacts at a location, as the user's ``--artifacts`` asks for.
        open_tree: Opens them whatever the user asked for; the trees are not listed yet.
        include_secrets: Whether secrets travel, encrypted as they are.
    """

    rows: Rows
    lose: Callable[..., Loss]
    tree: Callable[[str], ArtifactTree]
    open_tree: Callable[[str], ArtifactTree]
    include_secrets: bool = False


Items = Callable[[str, str], Iterable[msgspec.Struct]]
"""Returns the items of an entity: its id, and that of its experiment or ""."""


class Reader(ABC):
    """Reads the entities of one kind.

    Args:
        reading: The database and the report.
    """

    kind: str

    def __init__(self, reading: Reading) -> None:
        self._from = reading
        self._rows = reading.rows

    @abstractmethod
    def select(self, chosen: Chosen) -> Ids:
        """Yield the entities that travel."""

    @abstractmethod
    def read(self, wanted: Sequence[Selected]) -> Iterator[Entity]:
        """Yield some entities without their items, in any order; those that are gone are not."""

    def read_items(self, wanted: Sequence[Selected]) -> Items | None:
        """Read the items of some entities; None where a kind has none."""
        return None

    def tree(self, entity: Any) -> ArtifactTree | None:
        """Return the artifacts of an entity, of a kind that has some."""
        return None

    def _in_experiments(
        self,
        table: str,
        id_column: str,
        chosen: Chosen,
        conditions: Sequence[ColumnElement[bool]] = (),
    ) -> Ids:
        """Yield the ids of a table's rows in the chosen experiments."""
        for some in chunks(chosen.experiment_ids):
            for batch in self._rows.batches(
                table,
                (id_column, "experiment_id"),
                where={"experiment_id": some},
                conditions=conditions,
            ):
                for id, experiment_id in batch:
                    yield id, str(experiment_id)

    def _all(self, table: str, id_column: str) -> Ids:
        for batch in self._rows.batches(table, (id_column,)):
            for (id,) in batch:
                yield id, ""

    def _records(
        self, table: str, id_column: str, wanted: Sequence[Selected], columns: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Yield rows by their ids, as column to value."""
        ids = ids_of(wanted)
        for some in chunks(ids):
            for row in self._rows.select(table, columns, where={id_column: some}):
                yield dict(zip(columns, row, strict=True))

    def _tags(
        self,
        table: str,
        id_column: str,
        ids: Sequence[Any],
        *,
        key: str = "key",
        value: str = "value",
    ) -> dict[Any, list[Row]]:
        return self._rows.grouped(table, id_column, ids, (key, value))

    def _decoded(self, id: str, field: str, text: str | None, type: type = object) -> Any:
        """Return what a column of JSON holds; None where that is nothing.

        What somebody wrote into it that is no JSON, or no ``type``, is a loss.
        """
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            self._from.lose(
                self.kind, id, f"the database's JSON cannot be read: {exc}", field=field
            )
            return None
        if value is not None and not isinstance(value, type):
            reason = f"the database's JSON is no {type.__name__}, but {_short(text)}"
            self._from.lose(self.kind, id, reason, field=field)
            return None
        return value

    def _associations(self, source_type: str, ids: Sequence[str]) -> dict[str, list[Association]]:
        """Return the links from entities by id, sorted by where they lead."""
        columns = ("association_id", "destination_type", "destination_id", "created_time")
        found = self._rows.grouped(
            "entity_associations", "source_id", ids, columns, where={"source_type": source_type}
        )
        return {
            id: sorted(
                (Association(**dict(zip(columns, row, strict=True))) for row in rows),
                key=lambda link: (link.destination_type, link.destination_id),
            )
            for id, rows in found.items()
        }


class Nulls:
    """Collects which texts of a record are null in the database: the record has them empty."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._has_empty = False

    def text(self, name: str, value: str | None) -> str:
        """Return a value, or the empty text for null."""
        if value is None:
            self._names.append(name)
            return ""
        self._has_empty |= value == ""
        return value

    def tags(self, name: str, pairs: Iterable[Row]) -> dict[str, str]:
        """Return keys and values, sorted by key."""
        return {key: self.text(f"{name}.{key}", value) for key, value in sorted(pairs)}

    @property
    def names(self) -> list[str] | UnsetType:
        """What is null; unset where no text is empty, which could be taken for one."""
        return self._names if self._names or self._has_empty else UNSET

    def add(self, name: str) -> None:
        """Note a field that is null and that the record has empty."""
        self._names.append(name)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


MADE = ("created_by", "last_updated_by", "created_at", "last_updated_at")
"""Columns of who made a row of MLflow's younger registries, and when."""


def made(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that tell what :data:`MADE` holds."""
    return {
        "created_by": row["created_by"],
        "last_updated_by": row["last_updated_by"],
        "creation_timestamp": row["created_at"],
        "last_updated_timestamp": row["last_updated_at"],
    }


def ids_of(wanted: Sequence[Selected]) -> list[str]:
    """Return the ids of entities."""
    return [row.id for row in wanted]


def number(value: Any) -> int | None:
    """Return an integer that a driver may give as another type of number."""
    return None if value is None else int(value)


__all__ = [
    "IDS_PER_QUERY",
    "MADE",
    "Chosen",
    "Ids",
    "Items",
    "Nulls",
    "Reader",
    "Reading",
    "chunks",
    "ids_of",
    "made",
    "number",
]
