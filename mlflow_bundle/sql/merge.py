"""Brings one entity into the database: what is missing is added, what differs follows the options.

A writer says which rows an entity consists of. Of one that is new all are inserted. Of one that is
here the rows are read that belong to it: those missing are additions, which always apply; a value
that differs is a conflict (`Importing.differs`). What a row leaves out or holds None in says
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType
from typing import Any

from mlflow_bundle.errors import BundleError
from mlflow_bundle.sql.batch import Owner, Row
from mlflow_bundle.sql.rows import is_single, single
from mlflow_bundle.sql.target import Target

_JSON_BEGINS = ("{", "[")


class Merge:
    """One entity on its way; a context in which its rows are named.

    Args:
        to: The database.
        kind: Kind of the entity.
        id: Its id in the bundle, for reports.
        fresh: Whether nothing of it is here.
        dry: Whether differences are only reported.
    """

    def __init__(self, to: Target, kind: str, id: str, *, fresh: bool, dry: bool) -> None:
        self._to = to
        self._owner = Owner(kind, id)
        self.kind = kind
        self.fresh = fresh
        self.dry = dry
        self.changed = fresh
        """Whether something of it is written."""

    def __enter__(self) -> Merge:
        if not self.dry:
            self._to.batch.start(self._owner)
        return self

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.dry:
            return
        if error is None:
            self._to.batch.end()
        elif isinstance(error, BundleError):
            self._to.batch.undo()

    def part(self, owner: Owner, *, fresh: bool) -> Merge:
        """Return an entity that is written with this one, in whose context it is used."""
        return Merge(self._to, *owner, fresh=fresh, dry=self.dry)

    def count(self) -> None:
        """Count the entity as written or as found."""
        report, kind = self._to.report, self._owner.kind
        if self.dry:
            if not self.changed:
                report.found(kind)
        elif self.changed:
            report.did(kind)
        else:
            report.found(kind)

    # Rows

    def own(
        self,
        table: str,
        row: Row,
        here: Row | None,
        *,
        key: Collection[str],
        compared: Iterable[str],
        news: Collection[str] = (),
        name: str = "",
        holds: Any = None,
    ) -> Collection[str]:
        """Write a row that there is one of.

        Args:
            table: Where to.
            row: All its values.
            here: The row that is here, with the columns that are compared; None for none.
            key: Columns that it is found by.
            compared: Columns that may be changed.
            news: Those whose change is an addition this time.
            name: How reports name it; empty for the entity's own row.
            holds: Value by which others ask whether it waits to be written.

        Returns:
            The columns that get the values of ``row``.
        """
        if here is None:
            self._insert(table, row, name, holds)
            return row.keys()
        changes = {
            column: row[column]
            for column in compared
            if column in row
            and not self._is_kept(table, column, here[column], row[column])
            and self._wins(column, here, row, name, is_news=column in news)
        }
        if changes:
            self._update(table, {column: row[column] for column in key}, changes, name)
        return changes.keys()

    def map(
        self,
        table: str,
        within: Row,
        values: Mapping[str, Any],
        *,
        name: str,
        key: str = "key",
        value: str = "value",
        nulls: Collection[str] = (),
        joined: Mapping[str, str] = {},
    ) -> None:
        """Write rows of a name and a value.

        Args:
            table: Where to.
            within: Columns that all rows of the entity share.
            values: Value by name.
            name: What reports call them, e.g. ``tags``.
            key: Column of the name.
            value: Column of the value.
            nulls: ``<name>.<key>`` of those that are null, though they are empty texts in
                ``values``.
            joined: Values that are taken whatever is here, because they hold it too.
        """
        if self.fresh:
            here: dict[str, Any] = {}
            new: Mapping[str, Any] = {**values, **joined}
        else:
            here = self.here_map(table, within, key=key, value=value)
            # Nothing is lost of one that is empty here: what the bundle has is an addition.
            told = {entry: text for entry, text in here.items() if text != ""}
            mine = {k: v for k, v in values.items() if v != "" or here.get(k) != ""}
            new = self._to.changed(self._owner.kind, self._owner.id, name, told, mine)
            new = {**new, **{k: v for k, v in joined.items() if here.get(k) != v}}
        for entry, text in new.items():
            field = f"{name}.{entry}"
            stored = None if field in nulls and text == "" else text
            if entry in here:
                self._update(table, {**within, key: entry}, {value: stored}, field)
            else:
                self._insert(table, {**within, key: entry, value: stored}, field)

    def insert_map(
        self,
        table: str,
        within: Row,
        values: Mapping[str, Any],
        *,
        name: str,
        nulls: Collection[str] = (),
    ) -> None:
        """Write rows of a name and a value of which none is here; arguments as of :meth:`map`."""
        last = name.rpartition(".")[2]
        for key, value in values.items():
            is_null = value == "" and f"{last}.{key}" in nulls
            row = {**within, "key": key, "value": None if is_null else value}
            self._insert(table, row, f"{name}.{key}")

    def here_map(
        self, table: str, within: Row, *, key: str = "key", value: str = "value"
    ) -> dict[str, Any]:
        """Return the values here by name, an empty text for null."""
        rows = self._to.rows(table, within, (key, value))
        return {row[key]: "" if row[value] is None else row[value] for row in rows}

    def rows(
        self,
        table: str,
        within: Row,
        rows: Iterable[Row],
        *,
        key: tuple[str, ...],
        name: str,
        compared: Iterable[str] = (),
        named_by: str = "",
    ) -> None:
        """Write rows that there may be many of.

        Args:
            table: Where to.
            within: Values that find those that are here, and that all of ``rows`` have.
            rows: All their values.
            key: Columns that tell rows apart, among these.
            name: What reports call them, e.g. ``assessments``.
            compared: Columns that may be changed.
            named_by: Column by which reports name one; the first of ``key`` if empty.
        """
        rows = list(rows)
        if not rows:
            return
        compared = tuple(compared)
        here: dict[tuple[Any, ...], Row] = {}
        if not self.fresh:
            columns = dict.fromkeys((*key, *compared))
            here = {
                tuple(row[column] for column in key): row
                for row in self._to.rows(table, within, columns)
            }
        everywhere = dict.fromkeys((*within, *key))
        for row in rows:
            field = f"{name}.{row[named_by or key[0]]}"
            found = here.get(tuple(row[column] for column in key))
            self.own(table, row, found, key=everywhere, compared=compared, name=field)

    def replace(self, table: str, key: Row, values: Row) -> None:
        """Write values that follow from others: they are no conflict."""
        self._update(table, key, values, "")

    # Steps

    def _wins(self, column: str, here: Row, row: Row, name: str, *, is_news: bool) -> bool:
        """Whether the bundle's value of a column is written over the one that is here."""
        mine, other = row[column], here[column]
        if mine is None or _same(other, mine):
            return False
        if other is None or other == "" or is_news:
            return True
        field = f"{name}.{column}" if name else column
        return self._to.differs(self._owner.kind, self._owner.id, field, here=other, bundle=mine)

    def _is_kept(self, table: str, column: str, here: Any, bundle: Any) -> bool:
        """Whether a number is here as well as its column can keep it."""
        if not (isinstance(here, float) and isinstance(bundle, float | int)):
            return False
        return is_single(self._to.table(table).c[column]) and single(here) == single(bundle)

    def _insert(self, table: str, row: Row, name: str, holds: Any = None) -> None:
        if self.dry or self._to.batch.insert(self._owner, table, row, name=name, key=holds):
            self.changed = True

    def _update(self, table: str, key: Row, values: Row, name: str) -> None:
        if self.dry or self._to.batch.update(self._owner, table, key, values, name=name):
            self.changed = True


def _same(here: Any, bundle: Any) -> bool:
    """Whether two values are equal, JSON texts whatever their spaces and the order of keys."""
    if here == bundle:
        return True
    if not (isinstance(here, str) and isinstance(bundle, str) and here[:1] in _JSON_BEGINS):
        return False
    try:
        return bool(json.loads(here) == json.loads(bundle))
    except ValueError:
        return False
