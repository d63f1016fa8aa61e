"""What every writer of a database import shares: the database, and what every import has."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy import Connection, Table
from sqlalchemy.sql import ColumnElement

from mlflow_bundle import provenance
from mlflow_bundle.errors import SinkError
from mlflow_bundle.importing import Importing
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.remap import Placed
from mlflow_bundle.sql.artifacts import WORKSPACES, ArtifactStore
from mlflow_bundle.sql.batch import Batch, Owner, Row
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.rows import mysql_bytes, whole

_NAMESPACE = uuid.UUID("0d1a1f9e-6a57-4c0a-9a3a-8f2c3f1b7c55")
"""Of the ids that an import gives: the same again when it is repeated."""


@dataclass(slots=True, kw_only=True)
class Target(Importing):
    """One database that is written to."""

    database: Database
    batch: Batch
    store: ArtifactStore
    workspace: str
    include_secrets: bool = False
    server_writes_tags: bool = False
    empty: set[str] = field(default_factory=set)
    """Tables that held nothing when this import began."""
    claimed: dict[tuple[str, str], str] = field(default_factory=dict)
    """Names of this import by table and what the database makes of them."""

    @property
    def connection(self) -> Connection:
        """What is written through: in a transaction or not, as :attr:`batch` wants it."""
        return self.batch.connection

    # Looking

    def table(self, name: str) -> Table:
        """Return a table."""
        return self.database.tables[name]

    def rows(self, table: str, where: Mapping[str, Any], columns: Iterable[str]) -> Iterator[Row]:
        """Yield the rows that have these values, by column."""
        names = list(columns)
        for row in self.tuples(table, where, names):
            yield dict(zip(names, row, strict=True))

    def tuples(
        self,
        table: str,
        where: Mapping[str, Any],
        columns: Iterable[str],
        *,
        most: int | None = None,
    ) -> Sequence[Sequence[Any]]:
        """Return the rows that have these values, so many at most."""
        source = self.table(table)
        statement = sqlalchemy.select(*(_plain(source.c[name]) for name in columns)).limit(most)
        folds = self.database.dialect.folds_keys
        if any(
            isinstance(value, str) and not self.database.dialect.can_hold(source.c[name], value)
            for name, value in where.items()
        ):
            return []  # nor can it be compared
        for name, value in where.items():
            statement = statement.where(source.c[name] == value)
            if folds and isinstance(value, str):
                # The first finds it by its index, the second sees the case.
                statement = statement.where(mysql_bytes(source.c[name]) == mysql_bytes(value))
        with self.database.errors():
            return self.connection.execute(statement).all()

    def row(self, table: str, where: Mapping[str, Any], *columns: str) -> Row | None:
        """Return the row that has these values, or None."""
        return next(iter(list(self.rows(table, where, columns))), None)

    def row_before(self, table: str, where: Mapping[str, Any], *columns: str) -> Row | None:
        """Return the row that had these values before this import, or None.

        Costs nothing where the table was empty then.
        """
        return None if table in self.empty else self.row(table, where, *columns)

    def is_here(self, table: str, column: str, id: str) -> bool:
        """Whether there is a row of that id, or one waits to be written."""
        return self.batch.holds(table, id) or self.row(table, {column: id}, column) is not None

    # Places

    def claim(self, table: str, column: str, name: str) -> None:
        """Refuse a name that the database takes for another one of the workspace.

        Raises:
            SinkError: It does.
        """
        dialect = self.database.dialect
        if not dialect.folds_keys:
            return
        other = self.claimed.setdefault((table, dialect.fold(name)), name)
        source = self.table(table)
        if not dialect.can_hold(source.c[column], name):
            return  # refused when it is written
        if other != name and not dialect.is_one(self.connection, source.c[column], other, name):
            other = name
        statement = sqlalchemy.select(source.c[column]).where(
            source.c.workspace == self.workspace, source.c[column] == name
        )
        for found in self.connection.execute(statement).scalars():
            other = str(found)
        if other != name:
            raise SinkError(
                f"{name!r}: the database takes it for {other!r}",
                status=409,
                hint="--rename-experiment or --rename-model gives it another name",
            )

    def experiment(self, experiment_id: str, kind: str, id: str) -> Placed:
        """Return where the experiment is that an entity belongs to.

        Raises:
            SinkError: It could not be made.
        """
        place = self.remap.find("experiment", experiment_id)
        if place is None:
            raise SinkError(
                f"{kind} {id}: its experiment {experiment_id} could not be made", status=409
            )
        return place

    def free_id(
        self, table: str, column: str, id: str, *, within: str, prefix: str = "", short: bool = True
    ) -> str:
        """Return an id for what is to be made: its own, or where that is taken another one.

        Args:
            table: Where it will be.
            column: The table's id.
            id: At the source.
            within: What it will lie in: in each it gets another id.
            prefix: That MLflow's own ids of the kind begin with.
            short: Whether MLflow writes ids without hyphens.
        """
        if (
            not self.batch.fits(table, column, id)
            and self.row_before(table, {column: id}, column) is None
        ):
            return id
        return self.other_id(table, id, within=within, prefix=prefix, short=short)

    def other_id(
        self, table: str, id: str, *, within: str, prefix: str = "", short: bool = True
    ) -> str:
        """Return the id that replaces one that is taken; arguments as of :meth:`free_id`."""
        return prefix + self.made_id(table, within, id, short=short)

    def made_id(self, *parts: str, short: bool = True) -> str:
        """Return the id that this and every other import gives to what these parts tell."""
        made = uuid.uuid5(_NAMESPACE, "/".join(parts))
        return made.hex if short else str(made)

    def location(self, *parts: str) -> str:
        """Return a location below the root of the workspace's new experiments."""
        root = self.store.default_root
        if self.workspace != DEFAULT_WORKSPACE:
            own = self.row("workspaces", {"name": self.workspace}, "default_artifact_root")
            if own is not None and own["default_artifact_root"]:
                root = own["default_artifact_root"]
            else:
                root = append_to_uri_path(root, WORKSPACES, self.workspace)
        return str(append_to_uri_path(root, *parts))

    def lose(self, owner: Owner, field: str, reason: str) -> None:
        """List what the database cannot hold."""
        self.report.lose(owner.kind, owner.id, reason, field=field)

    def origins(self, id: str, tags: Mapping[str, str]) -> tuple[str, ...]:
        """Return the ids by which an entity may have come here before."""
        return tuple(dict.fromkeys((provenance.origin_of(id, dict(tags)), id)))


def _plain(column: sqlalchemy.Column[Any]) -> ColumnElement[Any]:
    """A column as it is written: JSON as the text it is, numbers as floats."""
    if isinstance(column.type, sqlalchemy.JSON):
        return sqlalchemy.cast(column, sqlalchemy.Text).label(column.name)
    if getattr(column.type, "asdecimal", False):
        return sqlalchemy.type_coerce(column, sqlalchemy.Float()).label(column.name)
    return whole(column, column)
