"""Rows on their way into a database: whole entities, many to a transaction.

Rows wait in memory, by table, until there are enough of them; then they are inserted, parents
before children, and after some seconds committed: each commit waits for the disk, and while a
transaction is open, SQLite lets no server write. It ends between two entities, so that after a
crash each of them is there as a whole or not at all. Files of entities are there before their rows
are: whatever is on its way is waited for. One that is larger than what waits in memory
has a transaction of its own.

Points, of which there are most, are sent while the next entities are made into rows, where one
transaction takes in everything (:meth:`Batch.hold`).

A row that the database refuses is a loss and takes no other one with it, but those that cannot be
without it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy import Connection, Table

from mlflow_bundle.errors import BundleError, ServerError, SinkError
from mlflow_bundle.report import LossError
from mlflow_bundle.sql.dialects.base import Dialect, update_statement
from mlflow_bundle.sql.points import POINT_COLUMNS, POINT_TABLE, Points
from mlflow_bundle.sql.rows import chunks
from mlflow_bundle.tree_writer import Uploads

Row = dict[str, Any]
"""Values by column, as the driver takes them."""

_ROWS = 20_000
_BYTES = 8 * 1024 * 1024
"""What waits in memory at most, beside the entity that is being added."""

_FILES = 500
"""Files that are on their way at once, about."""

_TRANSACTION_S = 3.0
"""How long a transaction of several entities stays open, about."""

_PASS_OVER = frozenset({POINT_TABLE, "datasets", "entity_associations"})
"""Tables of which several entities may bring the same row, or one brings it twice."""

POINT_KIND = "metric_point"
"""What a report calls points."""

_EDGES = ("inputs", "input_tags")
"""Written the last: what they name has no foreign key that would put it before them."""

_VALUE_COLUMNS = frozenset({"param_value", "tag_value", "value"})
"""What a row of a name and a value is about."""


class Owner(NamedTuple):
    """The entity that a row belongs to, as reports name it."""

    kind: str
    id: str


@dataclass(slots=True)
class _Group:
    """Rows of one table with the same columns."""

    table: Table
    columns: tuple[str, ...]
    checked: list[tuple[int, sqlalchemy.Column[Any]]]
    """Columns whose texts may not fit, with their positions."""
    rows: list[Sequence[Any]] = field(default_factory=list)
    owners: list[tuple[Owner, str]] = field(default_factory=list)
    """Of each row: whose it is, and how reports name it."""


class _Update(NamedTuple):
    table: Table
    key: Row
    values: Row
    owner: Owner


class _Taken(NamedTuple):
    """What an entity consists of so far."""

    rows: dict[tuple[str, tuple[str, ...]], tuple[list[Sequence[Any]], list[tuple[Owner, str]]]]
    """Rows and their owners by group."""
    points: list[tuple[Points, Owner]]
    updates: list[_Update]


class Batch:
    """Collects and writes rows.

    Args:
        connection: In autocommit mode: the transactions are this class's own.
        dialect: Of the database.
        tables: Parents before children.
        lose: Lists what cannot be written: owner, field, reason.
        uncount: Told of what was counted and is not written after all: kind, how many.
        failed: Makes the error for a database that fails as a whole.
    """

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        tables: Iterable[Table],
        *,
        lose: Callable[[Owner, str, str], None],
        uncount: Callable[[str, int], None],
        failed: Callable[[Exception], ServerError],
    ) -> None:
        self._connection = connection
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="mlflow-bundle-points")
        self._sent: tuple[Future[int], list[tuple[Points, Owner]]] | None = None
        """Points on their way."""
        self._dialect = dialect
        by_name = {table.name: table for table in tables}
        edges = {name: by_name.pop(name) for name in _EDGES if name in by_name}
        self._tables = by_name | edges
        self._lose = lose
        self._uncount = uncount
        self._error = failed
        driver: Any = connection.dialect.loaded_dbapi
        # What a row is to blame for; Python's own for values that no driver can send.
        self._refusals = (
            driver.IntegrityError,
            driver.DataError,
            OverflowError,
            UnicodeEncodeError,
        )
        self._failures: type[Exception] = driver.Error
        self._groups: dict[tuple[str, tuple[str, ...]], _Group] = {}
        self._updates: list[_Update] = []
        self._owner: Owner | None = None
        self._marks: dict[tuple[str, tuple[str, ...]], int] = {}
        self._points: list[tuple[Points, Owner]] = []
        self._points_mark = 0
        self._updates_mark = 0
        self._rows = self._bytes = 0
        self._open = False
        """Whether a transaction is open."""
        self._opened_at = 0.0
        self._held = False
        """Whether it stays open."""
        self._spilled = False
        """Whether the entity that was begun has rows in it."""
        self._torn = False
        """Whether entities are in it of which only a part is written."""
        self._stop: LossError | None = None
        """What ends the import when the entities are whole that are being written."""
        self._waiting: set[tuple[str, Any]] = set()
        self._waiting_mark: list[tuple[str, Any]] = []
        self._failed: set[Owner] = set()
        """Entities whose own row was refused: nothing of them is written."""
        self._never: set[str] = set()
        """Ids of datasets that the database refused or took for others, and of edges from these."""
        self._uploads: list[Uploads] = []
        """Files of entities whose rows wait."""
        self.undone = 0
        """How many entities were forgotten."""
        self.checks = dialect.name != "sqlite"

    @property
    def connection(self) -> Connection:
        """The connection, when nothing is on its way through it."""
        self._take_sent()
        return self._connection

    def close(self) -> None:
        """Wait for what is on its way."""
        self._sender.shutdown()

    # Entities

    def start(self, owner: Owner) -> None:
        """Begin an entity; what is added until :meth:`end` is its own."""
        self._owner = owner
        self._marks = {key: len(group.rows) for key, group in self._groups.items()}
        self._points_mark = len(self._points)
        self._updates_mark = len(self._updates)
        self._waiting_mark = []

    def end(self) -> None:
        """End an entity: it may be committed now."""
        if self._spilled:
            self.settle()  # while it can be undone
        self._owner = None
        if self._spilled:
            self.commit()
        elif self._rows >= _ROWS or self._bytes >= _BYTES:
            self._flush()
            if not self._held and time.monotonic() - self._opened_at > _TRANSACTION_S:
                self.commit()

    def undo(self) -> None:
        """Forget the entity that was begun."""
        self.undone += 1
        if self._spilled:
            self._roll_back()
        else:
            self._take_current()
            self._waiting.difference_update(self._waiting_mark)
        self._owner = None

    def give_up(self) -> None:
        """Commit the entities that are whole, and forget the one that was begun."""
        if self._owner is not None:
            self.undo()
        if self._torn:
            self._roll_back()
        self.commit()

    def hold(self) -> None:
        """Open one transaction for all that follows, until :meth:`release`."""
        self._begin()
        self._held = True

    def release(self) -> None:
        """End what :meth:`hold` began; the next :meth:`commit` is one again."""
        self._flush()
        self._held = False

    def commit(self) -> None:
        """Write what waits and commit it."""
        if self._held:
            self._flush()
            self._take_sent()
            self._spilled = False
        else:
            self._flush()
            if self._open:
                self.connection.exec_driver_sql("COMMIT")
            self._open = self._spilled = False

    def follow(self, uploads: Uploads) -> None:
        """Let the rows of the entity that comes next wait for its files.

        Raises:
            BundleError: Files of an earlier one cannot come.
        """
        if sum(map(len, self._uploads)) > _FILES:
            self.settle()
        self._uploads.append(uploads)

    def settle(self) -> None:
        """Wait for the files of the entities whose rows wait.

        Raises:
            BundleError: Some cannot come; the rows are forgotten.
        """
        uploads, self._uploads = self._uploads, []
        failure: BundleError | None = None
        try:
            for some in uploads:
                try:
                    some.finish()
                except BundleError as exc:
                    failure = failure or exc
            if failure is not None:
                raise failure
        except BaseException:  # an interruption too: no row without its files
            self._clear()
            raise

    # Rows

    def insert(
        self, owner: Owner, table: str, row: Row, *, name: str = "", key: Any = None
    ) -> bool:
        """Add one row of the entity that was begun.

        Args:
            owner: That entity, or one that is written with it.
            table: Where to.
            row: Every column that is not to have the database's default.
            name: How reports name the row; empty for the owner's own, without which it is none.
            key: Value by which :meth:`holds` finds the row until it is written.

        Returns:
            Whether it fits.

        Raises:
            SinkError: The own row of the entity that was begun does not fit.
        """
        if owner in self._failed:
            return False
        group = self._group(table, tuple(row))
        values: Sequence[Any] = tuple(row.values())
        if group.checked:
            fitting = self._fitting(group, values, owner, name)
            if fitting is None:
                if table == "datasets":
                    self._never.add(row["dataset_uuid"])
                return False
            values = fitting
        group.rows.append(values)
        group.owners.append((owner, name))
        self._rows += 1
        self._bytes += sum([len(value) for value in values if isinstance(value, str)])
        if key is not None:
            self._waiting.add((table, key))
            self._waiting_mark.append((table, key))
        if self._rows >= 2 * _ROWS or self._bytes >= 2 * _BYTES:
            self._spill()
        return True

    def insert_points(self, points: Points) -> None:
        """Add points whose texts are known to fit."""
        assert self._owner is not None
        self._points.append((points, self._owner))
        self._rows += len(points)
        if self._rows >= 2 * _ROWS:
            self._spill()

    def insert_missing(self, points: Sequence[Points]) -> int:
        """Insert those points, whose texts are known to fit, that are not there yet.

        They are written at once, in the transaction of the entity.

        Returns:
            How many were missing.
        """
        self._spill()
        return self._attempt(partial(self._insert_points, points, pass_over=True))

    def execute(self, statement: sqlalchemy.Executable) -> None:
        """Run a statement at once, in the transaction of the entity that was begun."""
        self._spill()
        self.connection.execute(statement)

    def update(self, owner: Owner, table: str, key: Row, values: Row, *, name: str = "") -> bool:
        """Change the row of that key, when what was added before is written.

        Returns:
            Whether any of the values fits.
        """
        target = self._tables[table]
        fitting: Row = {}
        for column, value in values.items():
            reason = self._objection(target, column, value)
            if reason:
                self._lose(owner, _field(name, column), reason)
            else:
                fitting[column] = value
        if fitting:
            self._updates.append(_Update(target, key, fitting, owner))
        return bool(fitting)

    def holds(self, table: str, key: Any) -> bool:
        """Whether a row waits that was added with that key."""
        return (table, key) in self._waiting

    def fits(self, table: str, column: str, value: str) -> str:
        """Return why a column cannot hold a text; empty when it can."""
        return self._objection(self._tables[table], column, value)

    def _objection(self, table: Table, column: str, value: Any) -> str:
        if not self.checks or not isinstance(value, str):
            return ""
        return self._dialect.objection(table.c[column], value)

    def _group(self, table: str, columns: tuple[str, ...]) -> _Group:
        group = self._groups.get((table, columns))
        if group is None:
            target = self._tables[table]
            checked = [
                (position, target.c[column])
                for position, column in enumerate(columns)
                if self.checks and isinstance(target.c[column].type, sqlalchemy.String)
            ]
            group = self._groups[table, columns] = _Group(target, columns, checked)
        return group

    def _fitting(
        self, group: _Group, values: Sequence[Any], owner: Owner, name: str
    ) -> Sequence[Any] | None:
        """Return a row without the texts that do not fit; None where it cannot be without them."""
        fitting: list[Any] | None = None
        for position, column in group.checked:
            value = values[position]
            if not isinstance(value, str):
                continue
            reason = self._dialect.objection(column, value)
            if not reason:
                continue
            if column.primary_key or not column.nullable:
                if not name:
                    raise SinkError(f"{owner.kind} {owner.id}: {column.name}: {reason}", status=400)
                self._lose(owner, name, f"{column.name}: {reason}")
                return None
            self._lose(owner, _field(name, str(column.name)), reason)
            fitting = fitting or list(values)
            fitting[position] = None
        return fitting or values

    # Writing

    def _spill(self) -> None:
        """Write what waits without a commit: the entity that was begun goes on."""
        if not self._spilled:
            current = self._take_current()
            self.commit()
            self._restore(current)
            self._spilled = True
            if self._held:
                self.connection.exec_driver_sql("SAVEPOINT mlflow_bundle_entity")
        self._begin()
        self._flush()

    def _take_current(self) -> _Taken:
        """Take the entity that was begun out of what waits."""
        taken = {}
        for key, group in self._groups.items():
            mark = self._marks.get(key, 0)
            taken[key] = (group.rows[mark:], group.owners[mark:])
            self._rows -= len(group.rows) - mark
            del group.rows[mark:]
            del group.owners[mark:]
        points = self._points[self._points_mark :]
        del self._points[self._points_mark :]
        self._rows -= sum(len(some) for some, _ in points)
        updates = self._updates[self._updates_mark :]
        del self._updates[self._updates_mark :]
        return _Taken(taken, points, updates)

    def _restore(self, current: _Taken) -> None:
        for key, (rows, owners) in current.rows.items():
            group = self._group(*key)
            group.rows.extend(rows)
            group.owners.extend(owners)
            self._rows += len(rows)
        self._points.extend(current.points)
        self._rows += sum(len(points) for points, _ in current.points)
        self._updates.extend(current.updates)
        self._points_mark = self._updates_mark = 0
        self._marks = {}

    def _clear(self) -> None:
        self._groups.clear()
        self._points.clear()
        self._updates.clear()
        self._waiting.clear()
        self._rows = self._bytes = 0
        self._marks = {}
        self._points_mark = self._updates_mark = 0
        self._failed.clear()

    def _roll_back(self) -> None:
        """Forget what waits, and of what is written all that may be a half."""
        if self._held:
            name = "entity" if self._spilled else "flush"
            self.connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT mlflow_bundle_{name}")
        else:
            self.connection.exec_driver_sql("ROLLBACK")
            self._open = False
        self._spilled = self._torn = False
        self._clear()

    def _begin(self) -> None:
        if not self._open:
            self.connection.exec_driver_sql(self._dialect.begin)
            self._open = True
            self._opened_at = time.monotonic()

    def _flush(self) -> None:
        self.settle()
        if not (self._rows or self._updates):
            return
        self._begin()
        execute = self.connection.exec_driver_sql
        self._torn = True
        if self._held:
            execute("SAVEPOINT mlflow_bundle_flush")
        groups: dict[str, list[_Group]] = {}
        for group in self._groups.values():
            groups.setdefault(group.table.name, []).append(group)
        for table in self._tables:
            for group in groups.get(table, ()):
                if self._failed or self._never:
                    self._drop_orphans(group)
                self._insert(group, group.rows, group.owners)
        for update in self._updates:
            self._update(update)
        if self._held:
            execute("RELEASE SAVEPOINT mlflow_bundle_flush")
        self._write_points()  # the last: others need not wait for them
        self._torn = False
        self._clear()
        self._stop_after_loss()

    def _refused(self, owner: Owner, name: str, reason: str) -> None:
        """List what was lost while entities are written: these become whole nevertheless."""
        try:
            self._lose(owner, name, reason)
        except LossError as exc:
            self._stop = self._stop or exc

    def _stop_after_loss(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            raise stop

    def _drop_orphans(self, group: _Group) -> None:
        """Leave out the rows of entities, and the edges from datasets, that were refused."""
        edges = group.table.name in _EDGES and self._never
        kept = []
        for row, owner in zip(group.rows, group.owners, strict=True):
            if owner[0] in self._failed:
                continue
            if edges and not self._never.isdisjoint(row):
                if group.table.name == "inputs":
                    self._never.add(row[group.columns.index("input_uuid")])
                    self._refused(*owner, "its dataset could not be written")
                continue
            kept.append((row, owner))
        group.rows = [row for row, _ in kept]
        group.owners = [owner for _, owner in kept]

    def _insert(
        self, group: _Group, rows: Sequence[Sequence[Any]], owners: Sequence[tuple[Owner, str]]
    ) -> None:
        """Insert rows; where the database refuses, again in halves, to lose what it means only."""
        if not rows:
            return
        try:
            count = self._attempt(
                lambda connection: self._dialect.insert(
                    connection,
                    group.table,
                    group.columns,
                    rows,
                    pass_over=group.table.name in _PASS_OVER,
                )
            )
            if count < len(rows) and group.table.name == "datasets":
                self._lose_passed_over(group, rows, owners)
            return
        except self._refusals as exc:
            error = exc
        if len(rows) == 1:
            owner, name = owners[0]
            if not name:
                self._failed.add(owner)
                self._uncount(owner.kind, 1)
            if group.table.name == POINT_TABLE:
                self._uncount(POINT_KIND, 1)
            self._refused(owner, name, _reason(error))
            return
        half = len(rows) // 2
        self._insert(group, rows[:half], owners[:half])
        self._insert(group, rows[half:], owners[half:])

    def _lose_passed_over(
        self, group: _Group, rows: Sequence[Sequence[Any]], owners: Sequence[tuple[Owner, str]]
    ) -> None:
        """List datasets that were passed over not for themselves, but for one of a like name."""
        column, position = group.table.c.dataset_uuid, group.columns.index("dataset_uuid")
        for some in chunks(rows):
            ids = [row[position] for row in some]
            found = self.connection.execute(sqlalchemy.select(column).where(column.in_(ids)))
            self._never.update(set(ids).difference(found.scalars()))
        for row, (owner, name) in zip(rows, owners, strict=True):
            if row[position] in self._never:
                self._refused(owner, name, "the database takes it for another dataset")

    def _write_points(self) -> None:
        """Write the points that wait; where the database refuses some, row by row."""
        points = [some for some in self._points if some[1] not in self._failed]
        if len(points) < len(self._points):
            every, kept = (sum(len(some) for some, _ in each) for each in (self._points, points))
            self._uncount(POINT_KIND, every - kept)
        if not points:
            return
        # Of most runs no point comes twice, and without a look they are faster.
        insert = partial(self._insert_points, [some for some, _ in points], pass_over=False)
        if self._held and not self._spilled:
            self._sent = self._sender.submit(self._attempt, insert, self.connection), points
            return
        try:
            self._attempt(insert)
        except self._refusals:
            self._write_points_carefully(points)

    def _take_sent(self) -> None:
        """Wait for points on their way; those that the database refused are written as they can."""
        if self._sent is None:
            return
        sending, points = self._sent
        try:
            sending.result()
        except self._refusals:
            self._sent = None  # else this asks for the connection for ever
            self._write_points_carefully(points)
        finally:
            # Who waits may be interrupted, and then the connection is not free yet.
            if sending.done():
                self._sent = None
        self._stop_after_loss()

    def _write_points_carefully(self, points: Sequence[tuple[Points, Owner]]) -> None:
        """Write points of which some come twice, or cannot be written."""
        every = [some for some, _ in points]
        with contextlib.suppress(*self._refusals):
            self._attempt(partial(self._insert_points, every, pass_over=True))
            return
        group = self._group(POINT_TABLE, POINT_COLUMNS)
        self._insert(
            group,
            [row for some in every for row in some.rows()],
            [(owner, f"metrics.{some.key}") for some, owner in points for _ in range(len(some))],
        )

    def _insert_points(
        self, points: Sequence[Points], connection: Connection, *, pass_over: bool
    ) -> int:
        table = self._tables[POINT_TABLE]
        return self._dialect.insert_points(connection, table, points, pass_over=pass_over)

    def _attempt(
        self, insert: Callable[[Connection], int], connection: Connection | None = None
    ) -> int:
        """Insert something and return how many rows; what is refused leaves no trace."""
        connection = connection or self.connection
        execute = connection.exec_driver_sql
        execute("SAVEPOINT mlflow_bundle")
        try:
            count = insert(connection)
        except self._refusals:
            execute("ROLLBACK TO SAVEPOINT mlflow_bundle")
            raise
        except self._failures as exc:
            if self._dialect.blames_row(exc):
                execute("ROLLBACK TO SAVEPOINT mlflow_bundle")
                raise self._refusals[0](*exc.args) from exc
            raise self._error(exc) from exc
        execute("RELEASE SAVEPOINT mlflow_bundle")
        return count

    def _update(self, update: _Update) -> None:
        # As the driver takes it, like rows that are inserted: JSON comes as text.
        statement = update_statement(
            self.connection,
            update.table,
            tuple(update.values),
            tuple(update.key),
            self._dialect.mark,
        )
        execute = self.connection.exec_driver_sql
        execute("SAVEPOINT mlflow_bundle")
        try:
            execute(statement, (*update.values.values(), *update.key.values()))
        except sqlalchemy.exc.DBAPIError as exc:
            error: Any = exc.orig
            if not (isinstance(error, self._refusals) or self._dialect.blames_row(error)):
                raise
            execute("ROLLBACK TO SAVEPOINT mlflow_bundle")
            self._refused(update.owner, ", ".join(update.values), _reason(error))
            return
        execute("RELEASE SAVEPOINT mlflow_bundle")


def _field(name: str, column: str) -> str:
    if not name:
        return column
    return name if column in _VALUE_COLUMNS else f"{name}.{column}"


def _reason(error: object) -> str:
    lines = str(error).strip().splitlines()
    return f"the database refused it: {lines[0] if lines else type(error).__name__}"
