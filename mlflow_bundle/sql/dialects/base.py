"""What a database must be able to do for a transfer."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Column, Connection, Engine, Select, Table
from sqlalchemy.engine import URL

from mlflow_bundle.sql.points import POINT_COLUMNS, Points

LOCK_NAME = "mlflow-bundle import"
"""Name of the advisory lock that an import holds."""

CODEC = "mlflow_bundle.codec"
"""Of a column's ``info``: Python's name for its encoding, where that lacks characters."""


class Dialect(ABC):
    """One kind of database."""

    name: str
    begin = "BEGIN"
    """Opens a transaction that will write."""

    mark = "%s"
    """Stands for a value in a statement of the driver's own."""

    folds_keys = False
    """Whether keys are alike that differ in case only."""

    rolls_back_tables = False
    """Whether a transaction can change tables: only then :meth:`unindexed` does something."""

    @abstractmethod
    def engine(self, url: URL) -> Engine:
        """Return an engine whose connections are not shared and not kept."""

    @abstractmethod
    def snapshot(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Open a connection that sees one consistent state, and never keeps a writer waiting.

        One statement at a time may stream its rows (``yield_per``) over the connection; while it
        does, nothing else may be asked.
        """

    def share(self, connection: Connection) -> str | None:
        """Return what lets another process :meth:`join` a snapshot while it lasts.

        None where each connection sees a state of its own.

        Args:
            connection: Of a snapshot.
        """
        return None

    def join(self, engine: Engine, token: str) -> AbstractContextManager[Connection]:
        """Open a connection that sees the state of a snapshot that was shared."""
        raise NotImplementedError

    def settle(self, connection: Connection) -> None:
        """Free what a snapshot keeps for those who might join it; none may afterwards."""

    def numbers(
        self, connection: Connection, statement: Select[Any], codes: str
    ) -> Iterator[tuple[Any, ...]] | None:
        """Yield the rows of a statement whose values are numbers and never null.

        None where the database has no faster way than its driver's usual one.

        Args:
            connection: Of a snapshot, over which nothing else is asked meanwhile.
            statement: With the values that it needs.
            codes: Type of each column as `struct` names it: ``q``, ``d`` or ``?``.
        """
        return None

    @abstractmethod
    def lock(self, engine: Engine) -> AbstractContextManager[bool]:
        """Hold the lock of imports until the block ends; gives False when another one has it."""

    def prepare(self, connection: Connection, tables: Iterable[Table]) -> None:
        """Set up a connection that will write, and find out what tables can hold."""

    @abstractmethod
    def insert(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        pass_over: bool = False,
    ) -> int:
        """Insert many rows as fast as the driver can; return how many.

        Args:
            connection: In a transaction.
            table: Where to.
            columns: Names of the columns, in the order of each row's values.
            rows: Values as the driver takes them.
            pass_over: Whether rows are left out whose key is there already: else that is an error.
        """

    def insert_points(
        self,
        connection: Connection,
        table: Table,
        points: Sequence[Points],
        *,
        pass_over: bool = False,
    ) -> int:
        """Insert metric points as :meth:`insert` does rows; return how many.

        Args:
            connection: In a transaction.
            table: MLflow's ``metrics``.
            points: Of any runs and metrics.
            pass_over: Whether points are left out that are there already.
        """
        rows = [row for some in points for row in some.rows()]
        return self.insert(connection, table, POINT_COLUMNS, rows, pass_over=pass_over)

    def unindexed(self, connection: Connection, tables: Iterable[Table]) -> Callable[[], None]:
        """Drop the indexes and constraints of empty tables; return what makes them again.

        Many rows are inserted several times as fast without. Only in a transaction, which brings
        them back when it fails.

        Args:
            connection: In a transaction, which must not be committed before they are made again.
            tables: To which no other table refers.
        """
        return lambda: None

    def objection(self, column: Column[Any], value: str) -> str:
        """Return why a column cannot hold a text; empty when it can."""
        return ""

    def can_hold(self, column: Column[Any], value: str) -> bool:
        """Whether a column's encoding has all characters of a text: else none can be equal."""
        codec = column.info.get(CODEC)
        if codec is None or value.isascii():
            return True
        try:
            value.encode(codec)
        except UnicodeEncodeError:
            return False
        return True

    def blames_row(self, error: Exception) -> bool:
        """Whether a driver's error means a value, though its type does not say so."""
        return False

    def fold(self, key: str) -> str:
        """Return a text that is equal for keys that the database may take for one."""
        return key

    def is_one(self, connection: Connection, column: Column[Any], one: str, other: str) -> bool:
        """Whether a column takes two different keys, which :meth:`fold` makes equal, for one."""
        return False

    def set_sequences(self, connection: Connection, tables: Iterable[Table]) -> None:
        """Let generated keys go on behind the largest one: explicit ones do not move them."""


def with_driver(url: URL, name: str, drivers: Mapping[str, str]) -> URL:
    """Return a URL that names its driver: the first that is installed, where it names none.

    SQLAlchemy's own choice changes with its version, and knows one only.

    Args:
        url: As the user gave it.
        name: Of the dialect, as SQLAlchemy has it.
        drivers: Name of a driver to the module that it needs.
    """
    if "+" in url.drivername:
        return url
    for driver, module in drivers.items():
        if importlib.util.find_spec(module) is not None:
            return url.set(drivername=f"{name}+{driver}")
    return url.set(drivername=name)


def quoted(connection: Connection, name: str) -> str:
    """Return a name as it stands in a statement."""
    return str(connection.dialect.identifier_preparer.quote(name))


def insert_statement(
    connection: Connection, table: Table, columns: Sequence[str], *, mark: str, verb: str = "INSERT"
) -> str:
    """Return a statement that inserts one row, with ``mark`` for each value."""
    names = ", ".join(quoted(connection, name) for name in columns)
    marks = ", ".join([mark] * len(columns))
    return f"{verb} INTO {quoted(connection, table.name)} ({names}) VALUES ({marks})"


def update_statement(
    connection: Connection, table: Table, columns: Sequence[str], key: Sequence[str], mark: str
) -> str:
    """Return a statement that changes the row of a key, with ``mark`` for each value."""
    changes, conditions = (
        [f"{quoted(connection, name)} = {mark}" for name in names] for names in (columns, key)
    )
    return (
        f"UPDATE {quoted(connection, table.name)} SET {', '.join(changes)}"
        f" WHERE {' AND '.join(conditions)}"
    )


def too_long(column: Column[Any], value: str) -> str:
    """Return why a value is longer than a ``VARCHAR`` column; empty when it is not."""
    limit = getattr(column.type, "length", None)
    if limit is None or len(value) <= limit:
        return ""
    return f"{len(value)} characters; the destination keeps {limit}"
