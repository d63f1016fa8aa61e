"""What writes one kind of entity into a database."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, Content
from mlflow_bundle.credentials import mask_json, mask_uri
from mlflow_bundle.entities import Entity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.tree_writer import TreeWriter

Nulls = Sequence[str] | UnsetType
"""``null_fields`` of a record."""


class Writer(ABC):
    """Writes the entities of one kind.

    An import calls :meth:`reserve` for each entity before any is written, :meth:`write` for each,
    and :meth:`finish` when everything was written. Every step is harmless when it is repeated after
    a crash.

    Args:
        to: The database.
    """

    kind: ClassVar[str]

    def __init__(self, to: Target) -> None:
        self._to = to

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        """Find out which id the entity has or will have here, and record it in ``Target.remap``.

        Args:
            entity: The bundle's, without its content.
            dry: Whether nothing may be written.

        Raises:
            SinkError: It cannot be here.
        """

    @abstractmethod
    def write(self, content: Content, *, dry: bool) -> None:
        """Write what the database lacks of the entity, and count it as done or as found.

        Args:
            content: The entity, users mapped.
            dry: Whether what is there is only counted, and conflicts reported.

        Raises:
            SinkError: It cannot be written: it is a loss.
        """

    def finish(self) -> None:
        """Write what had to wait for other entities; called once."""

    def close(self) -> None:
        """Free what is held."""


class FileWriter:
    """The files of one entity: found out first, written before its rows are.

    Args:
        to: The database.
        kind: Kind of the entity.
        id: Its id in the bundle.
        location: Where they go.
        tree: The bundle's.
        below: Directory below the location.
    """

    def __init__(
        self,
        to: Target,
        *,
        kind: str,
        id: str,
        location: str,
        tree: ArtifactTree,
        below: str = "",
    ) -> None:
        self._to = to
        self._tree = tree
        self._files: list[ArtifactFile] = []
        self.has_some = False
        """Whether files belong to the entity and go there."""
        copies = to.options.artifacts == "copy"
        try:
            if copies and tree.mode == "included":
                self.has_some = bool(tree.files())
                if not self.has_some:
                    return
            place = to.store.place(location) if copies else _NoPlace()
            self._writer = TreeWriter(to, place, kind=kind, source_id=id, below=below)
            # A killed import may have left files of an entity that is not here.
            self._files = self._writer.missing(tree, fresh=False, filling=False)
        except ServerError as exc:
            if exc.status is None:
                raise
            # What belongs to the files is worth having without them.
            to.report.lose(kind, id, exc.message, field="artifacts")
            self.has_some = False

    def write(self, *, fresh: bool) -> int:
        """Write those that are missing; return how many.

        Of a new entity they need only be there before its rows are (`Batch`), as far as the tree
        allows: 0 is returned while they are on their way.
        """
        if not self._files:
            return 0
        if not (fresh and self._tree.random_access):
            return self._writer.write(self._tree, self._files)
        self._to.batch.follow(self._writer.start(self._tree, self._files))
        return 0


class _NoPlace:
    """Where nothing is written."""

    directory = None

    def existing(self) -> list[ArtifactFile]:
        return []

    def upload(self, path: str, open_content: Any) -> int:
        raise NotImplementedError(path)


def text(value: str, name: str, nulls: Nulls, *, empty: str | None = "") -> str | None:
    """Return a text as it stands in the table, where an empty one may be null.

    Args:
        value: In the record.
        name: Of the field.
        nulls: What the record says; over REST nothing.
        empty: What MLflow writes where nothing was given.
    """
    if value:
        return value
    if nulls is UNSET:
        return empty
    return None if name in null_names(nulls) else value


def json_text(value: str | None, name: str, nulls: Nulls) -> str | None:
    """Return a JSON text as it stands in the table, where nothing is ``null`` or no text at all.

    Args:
        value: In the record.
        name: Of the field.
        nulls: What the record says; over REST nothing.
    """
    if value is not None:
        return value
    return None if name in null_names(nulls) else "null"


def spaced(value: str | None) -> str | None:
    """Return a JSON text as MLflow's columns of JSON hold it."""
    return None if value is None else json.dumps(json.loads(value))


def made(record: Any) -> Row:
    """Return the columns that tell who made a row of MLflow's younger registries, and when."""
    return {
        "created_by": record.created_by,
        "last_updated_by": record.last_updated_by,
        "created_at": record.creation_timestamp or 0,
        "last_updated_at": record.last_updated_timestamp or 0,
    }


def own_masked(
    merge: Merge,
    table: str,
    row: Row,
    here: Row | None,
    *,
    key: Collection[str],
    compared: Iterable[str],
    json_columns: Collection[str] = (),
    uri_columns: Collection[str] = (),
    name: str = "",
) -> Collection[str]:
    """Write a row as :meth:`Merge.own`; what is here is compared without its credentials.

    Args:
        merge: The entity.
        table: Where to.
        row: All its values, masked as a bundle has them.
        here: The row that is here.
        key: Columns that it is found by.
        compared: Columns that may be changed.
        json_columns: Those that hold JSON texts; the text ``null`` says nothing.
        uri_columns: Those that hold URIs.
        name: How reports name it.
    """
    if here is not None:
        row, here = dict(row), dict(here)
        for column in json_columns:
            if row[column] == "null":
                row[column] = None
            value = here[column]
            here[column] = None if value in (None, "null") else mask_json(value)
        for column in uri_columns:
            here[column] = here[column] and mask_uri(here[column])
    return merge.own(table, row, here, key=key, compared=compared, name=name)


def null_names(nulls: Nulls) -> Collection[str]:
    """Return the names in ``null_fields``."""
    return () if isinstance(nulls, UnsetType) else nulls


def known(value: Any, default: Any = None) -> Any:
    """Return a value that only a database tells, or what MLflow writes itself."""
    return default if value is UNSET else value


def now_ms() -> int:
    """Milliseconds since the epoch: for what a source does not tell and a table must have."""
    return int(time.time() * 1000)
