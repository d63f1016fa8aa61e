"""Queries of one snapshot of a database, whatever its revision.

A table that the database lacks has no rows, and a column that it lacks is null. Values come as the
driver gives them; JSON comes as text.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import sqlalchemy
from sqlalchemy import Column, ColumnElement, Connection, CursorResult, Select, Table
from sqlalchemy.dialects.mysql import CHAR, DOUBLE, FLOAT
from sqlalchemy.types import BINARY, JSON, TypeDecorator

from mlflow_bundle.sql.database import Database, null

IDS_PER_QUERY = 500
"""Ids in one condition: databases limit the values of a statement."""

_ROWS_AT_ONCE = 5000

Row = tuple[Any, ...]
"""Values of some columns."""

Where = Mapping[str, Any]
"""Column to the value that it has, or to a list of values that it has one of."""


class Rows:
    """What one connection sees.

    Args:
        database: What tables it has.
        connection: Asked one question at a time, by one thread at a time.
        workspace: The only workspace whose rows are seen, in tables that tell it.
    """

    def __init__(self, database: Database, connection: Connection, workspace: str) -> None:
        self._database = database
        self._connection = connection
        self.workspace = workspace
        self._json_is_decoded = connection.dialect.name == "postgresql"

    def has(self, table: str, *columns: str) -> bool:
        """Whether there is a table, with all of these columns."""
        return self._database.has(table, *columns)

    def column(self, table: str, name: str) -> ColumnElement[Any]:
        """Return a column for conditions; one that the database lacks is null."""
        found = self._database.tables[table].c
        column: ColumnElement[Any] = found[name] if name in found else null(name)
        return column

    def select(
        self,
        table: str,
        columns: Sequence[str],
        *,
        where: Where | None = None,
        order: Sequence[str] = (),
        conditions: Sequence[ColumnElement[bool]] = (),
    ) -> list[Row]:
        """Return rows, each with the values of ``columns``."""
        return [
            row
            for batch in self.batches(
                table, columns, where=where, order=order, conditions=conditions
            )
            for row in batch
        ]

    def batches(
        self,
        table: str,
        columns: Sequence[str],
        *,
        where: Where | None = None,
        order: Sequence[str] = (),
        conditions: Sequence[ColumnElement[bool]] = (),
        size: int = _ROWS_AT_ONCE,
    ) -> Iterator[Sequence[Row]]:
        """Yield the same rows, at most ``size`` at a time: nothing else may be asked meanwhile."""
        found = self._database.tables.get(table)
        if found is None:
            return
        statement = sqlalchemy.select(*(self._value(found, name) for name in columns))
        statement = self._restricted(statement.select_from(found), found, where or {}, conditions)
        statement = statement.order_by(*(found.c[name] for name in order if name in found.c))
        yield from self.stream(statement, size)

    def table(self, name: str) -> Table:
        """Return a table that there is, for statements of one's own."""
        return self._database.tables[name]

    def exact(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return what orders a text so that equal ones, and only these, come together.

        MySQL's usual order does not tell upper from lower case. These are no more bytes than MySQL
        looks at when it sorts (``max_sort_length``: 1024).
        """
        if self._connection.dialect.name not in ("mysql", "mariadb"):
            return text
        return mysql_bytes(text)

    def stream(self, statement: Select[Any], size: int = _ROWS_AT_ONCE) -> Iterator[Sequence[Row]]:
        """Yield the rows of a statement, at most ``size`` at a time."""
        with self._database.errors():
            if self._connection.dialect.supports_server_side_cursors:
                result = self._connection.execute(statement, execution_options={"yield_per": size})
                with self._closing(result):
                    yield from cast(Iterator[Sequence[Row]], result.partitions())
                return
            # The driver's own rows: of metrics there are many millions. SQLAlchemy fetches none
            # of them by itself, as long as it is not asked for a size.
            with self._closing(self._connection.execute(statement)) as result:
                while rows := self._fetched(result.cursor, size):
                    yield rows

    @contextlib.contextmanager
    def _closing(self, result: CursorResult[Any]) -> Iterator[CursorResult[Any]]:
        """Close a result, unless an interruption has closed the connection before."""
        try:
            yield result
        finally:
            if not self._connection.closed:
                result.close()

    def numbers(self, statement: Select[Any], codes: str) -> Iterator[Row]:
        """Yield the rows of a statement on one table whose values are numbers and never null.

        Args:
            statement: With the values that it needs.
            codes: Type of each column as `struct` names it: ``q``, ``d`` or ``?``.
        """
        found = self._database.dialect.numbers(self._connection, statement, codes)
        if found is None:
            yield from itertools.chain.from_iterable(self.stream(statement))
            return
        with self._driver_errors():
            yield from found

    def _fetched(self, cursor: Any, size: int) -> list[Row]:
        with self._driver_errors():
            rows: list[Row] = cursor.fetchmany(size)
        return rows

    @contextlib.contextmanager
    def _driver_errors(self) -> Iterator[None]:
        """Turn what the driver itself raises into our own error."""
        driver: Any = self._connection.dialect.loaded_dbapi
        try:
            yield
        except driver.Error as exc:  # e.g. a text that is no UTF-8
            raise self._database.failure(exc) from exc

    def grouped(
        self,
        table: str,
        key: str,
        ids: Sequence[Any],
        columns: Sequence[str],
        *,
        where: Where | None = None,
        order: Sequence[str] = (),
    ) -> dict[Any, list[Row]]:
        """Return rows by the value of their column ``key``, which is one of ``ids``."""
        groups: dict[Any, list[Row]] = {}
        for some in chunks(ids):
            for row in self.select(
                table, (key, *columns), where={**(where or {}), key: some}, order=order
            ):
                groups.setdefault(row[0], []).append(row[1:])
        return groups

    def _value(self, table: Table, name: str) -> ColumnElement[Any]:
        if name not in table.c:
            absent: ColumnElement[Any] = null(name)
            return absent
        # Without its type, a value is not converted.
        column: ColumnElement[Any] = sqlalchemy.column(name)
        if self._json_is_decoded and isinstance(table.c[name].type, JSON):
            return sqlalchemy.cast(column, sqlalchemy.Text).label(name)
        return whole(column, table.c[name])

    def _restricted(
        self,
        statement: Select[Any],
        table: Table,
        where: Where,
        conditions: Sequence[ColumnElement[bool]],
    ) -> Select[Any]:
        if "workspace" in table.c:
            statement = statement.where(table.c.workspace == self.workspace)
        for name, value in where.items():
            column = table.c[name]
            several = isinstance(value, list | tuple)
            statement = statement.where(column.in_(value) if several else column == value)
        return statement.where(*conditions)


def mysql_bytes(text: Any) -> ColumnElement[Any]:
    """Return the bytes of a text: the same of a column of any encoding and of a text of ours."""
    return sqlalchemy.cast(sqlalchemy.cast(text, CHAR(charset="utf8mb4")), BINARY())


def is_single(column: Column[Any]) -> bool:
    """Whether a column keeps floats of 32 bits: MySQL's ``FLOAT``."""
    return type(column.type) is FLOAT


def single(value: float) -> bytes:
    """Return what such a column keeps of a number."""
    return struct.pack("f", value)


def whole(value: ColumnElement[Any], column: Column[Any]) -> ColumnElement[Any]:
    """Return a value of a column with all its digits: MySQL itself shows six of a ``FLOAT``."""
    if not is_single(column):
        return value
    exact = value + sqlalchemy.literal_column("0E0")
    return sqlalchemy.type_coerce(exact, _Shortest()).label(column.name)


class _Shortest(TypeDecorator[float]):
    """The shortest number that means the same float of 32 bits: 0.1, not 0.10000000149."""

    impl = DOUBLE
    cache_ok = True

    def process_result_value(self, value: float | None, dialect: Any) -> float | None:
        if value is None:
            return None
        numbers = (float(f"{value:.{digits}g}") for digits in range(6, 10))
        return next((number for number in numbers if single(number) == single(value)), value)


def chunks(ids: Sequence[Any], size: int = IDS_PER_QUERY) -> Iterator[Sequence[Any]]:
    """Yield ids in parts that fit one query."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
