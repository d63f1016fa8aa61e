"""What is known of both sides, on disk: who is whose twin, and what the first side says.

*Things* are the entities of both sides (a version of a registered model is one of its own). Twins
are found by origin, by own id, by natural key or else by all that they say, in this order, within
the same experiment or registered model. *Facts* are the compared values of things that have a twin;
those of the first side wait here until the second side's come.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mlflow_bundle.diff.result import Side

_SCHEMA = """
PRAGMA journal_mode = OFF;
CREATE TABLE thing (
    number INTEGER PRIMARY KEY, side TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    parent TEXT NOT NULL, scope TEXT NOT NULL, origin TEXT, key TEXT, body TEXT NOT NULL,
    root TEXT NOT NULL, label TEXT NOT NULL, twin INTEGER, state INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX thing_id ON thing (side, kind, id, parent);
CREATE INDEX thing_label ON thing (side, kind, label);
CREATE INDEX thing_version_root ON thing (side, root) WHERE kind = 'model_version';
CREATE INDEX thing_scope ON thing (kind, side, scope);
CREATE TABLE fact (
    pair INTEGER NOT NULL, side TEXT NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL,
    flag TEXT NOT NULL
);
CREATE INDEX fact_pair ON fact (pair, side, field, value);
CREATE TABLE suspect (pair INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (pair, key));
CREATE TABLE point (
    pair INTEGER NOT NULL, key TEXT NOT NULL, side TEXT NOT NULL, timestamp INTEGER NOT NULL,
    step INTEGER NOT NULL, value TEXT NOT NULL
);
"""

_NAMED = "('experiment', 'registered_model', 'prompt', 'model_version', 'prompt_version')"
"""Kinds of which equal ids mean nothing: names tell."""

_MATCHES = (
    # What ties two things together, best first. Of several alike the first is the first's twin.
    ("origin", "number", ""),
    ("id", "number", f" AND kind NOT IN {_NAMED}"),
    ("key", "body, number", ""),
    ("body", "number", " AND key IS NULL AND body <> ''"),
)

_ROWS_AT_ONCE = 1000

_NEW, _DIFFERENT, _EQUAL = 0, 1, 2


class Entry(NamedTuple):
    """An entity as it is put down before twins are looked for."""

    kind: str
    id: str
    parent: str
    """Id of the experiment it lies in; empty for others."""
    scope: str
    """Name, at B, of the experiment or registered model within which it has its twin."""
    origin: str | None
    """The id at its first home; None where only a name tells which is which."""
    key: str | None
    """Natural key, where the kind has one."""
    body: str
    """Tells things of one natural key apart."""
    root: str
    """Where its artifacts lie; for a model version its source."""
    label: str
    """What references to it are replaced by; that of A counts."""


class Thing(NamedTuple):
    """An entity of one side."""

    number: int
    side: Side
    kind: str
    id: str
    parent: str
    scope: str
    origin: str | None
    root: str
    label: str
    twin: int | None
    pair: int | None
    """Number of the pair: that of A's thing, or of the first of A's that are one at B."""


_THING = (
    "number, side, kind, id, parent, scope, origin, root, label, twin, CASE side WHEN 'b' THEN twin"
    " ELSE (SELECT b.twin FROM thing b WHERE b.number = thing.twin) END"
)


class Fact(NamedTuple):
    """One value of one entity, comparable as text."""

    field: str
    value: str
    flag: str = ""
    """What has to be known when it differs (`facts.py`)."""


class Unequal(NamedTuple):
    """Facts of a pair that are not the same; one of them may be missing."""

    field: str
    a: Fact | None
    b: Fact | None


class Points(NamedTuple):
    """How far two histories differ."""

    pair: int
    key: str
    only_in_a: int
    only_in_b: int
    in_a: int
    in_b: int


class Ledger:
    """A temporary database of both sides. Safe from many threads."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.RLock()
        self._joined: set[int] = set()
        """Pairs of several things of A."""
        self._database.executescript(_SCHEMA)

    # Things

    def add(self, side: Side, entries: Iterable[Entry]) -> None:
        """Put down entities of one side."""
        rows = ((side, *entry) for entry in entries)
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            with self._lock:
                self._database.execute("BEGIN")
                self._database.executemany(
                    "INSERT INTO thing"
                    " (side, kind, id, parent, scope, origin, key, body, root, label)"
                    " VALUES (?,?,?,?,?,?,?,?,?,?)",
                    some,
                )
                self._database.execute("COMMIT")

    def match(self) -> None:
        """Find the twins; what references are replaced by is then the same on both sides."""
        for column, order, condition in _MATCHES:
            ranked = (
                f"SELECT number, kind, scope, {column} AS tie, row_number() OVER"
                f" (PARTITION BY kind, scope, {column} ORDER BY {order}) AS rank FROM thing"
                f" WHERE twin IS NULL AND {column} IS NOT NULL{condition} AND side ="
            )
            with self._lock:
                self._database.executescript(
                    "CREATE TEMP TABLE pair AS SELECT a.number AS a, b.number AS b"
                    f" FROM ({ranked} 'a') a JOIN ({ranked} 'b') b"
                    " USING (kind, scope, tie, rank);"
                    "CREATE INDEX pair_a ON pair (a); CREATE INDEX pair_b ON pair (b);"
                    "UPDATE thing SET twin = (SELECT b FROM pair WHERE a = number)"
                    " WHERE number IN (SELECT a FROM pair);"
                    "UPDATE thing SET twin = (SELECT a FROM pair WHERE b = number)"
                    " WHERE number IN (SELECT b FROM pair);"
                    "DROP TABLE pair;"
                )
        self._join_users()
        with self._lock:
            self._database.execute(
                "UPDATE thing SET label = (SELECT label FROM thing a WHERE a.number = thing.twin)"
                " WHERE side = 'b' AND twin IS NOT NULL"
            )

    def _join_users(self) -> None:
        """Give users of A that are one at B (``--user-map``) the same twin."""
        with self._lock:
            self._database.execute(
                "UPDATE thing SET twin = (SELECT first.twin FROM thing first WHERE first.side = 'a'"
                " AND first.kind = 'user' AND first.origin = thing.origin"
                " AND first.twin IS NOT NULL)"
                " WHERE side = 'a' AND kind = 'user' AND twin IS NULL"
            )
            rows = self._database.execute(
                "SELECT b.twin FROM thing a JOIN thing b ON b.number = a.twin"
                " WHERE a.side = 'a' AND a.kind = 'user' AND a.number <> b.twin"
            )
            self._joined = {pair for (pair,) in rows}

    def find(self, side: Side, kind: str, id: str, parent: str | None = None) -> Thing | None:
        """Return one entity by its own id, or None."""
        condition = "" if parent is None else " AND parent = ?"
        values = (side, kind, id) if parent is None else (side, kind, id, parent)
        return self._thing(f"side = ? AND kind = ? AND id = ?{condition}", values)

    def find_label(self, side: Side, kind: str, label: str) -> Thing | None:
        """Return the entity of one side that references to ``label`` mean, or None."""
        return self._thing("side = ? AND kind = ? AND label = ?", (side, kind, label))

    def find_origin(self, side: Side, kind: str, origin: str) -> Thing | None:
        """Return an entity by its origin, or None."""
        return self._thing("side = ? AND kind = ? AND origin = ?", (side, kind, origin))

    def find_version_at(self, side: Side, root: str) -> Thing | None:
        """Return the model version whose files lie there, or None."""
        return self._thing("kind = 'model_version' AND side = ? AND root = ?", (side, root))

    def _thing(self, condition: str, values: tuple[str, ...]) -> Thing | None:
        with self._lock:
            row = self._database.execute(
                f"SELECT {_THING} FROM thing WHERE {condition} LIMIT 1", values
            ).fetchone()
        return None if row is None else Thing(*row)

    def get(self, number: int) -> Thing:
        """Return an entity by its number."""
        with self._lock:
            row = self._database.execute(
                f"SELECT {_THING} FROM thing WHERE number = ?", (number,)
            ).fetchone()
        return Thing(*row)

    def names(self, side: Side, kind: str) -> list[str]:
        """Labels of the entities of one kind, each once."""
        with self._lock:
            rows = self._database.execute(
                "SELECT DISTINCT label FROM thing WHERE side = ? AND kind = ? ORDER BY label",
                (side, kind),
            ).fetchall()
        return [row[0] for row in rows]

    def iter_alone(self, side: Side) -> Iterator[Thing]:
        """Yield the entities of one side that have no twin, in the order they came."""
        after = 0
        while True:
            with self._lock:
                rows = self._database.execute(
                    f"SELECT {_THING} FROM thing WHERE side = ? AND twin IS NULL AND number > ?"
                    " ORDER BY number LIMIT 500",
                    (side, after),
                ).fetchall()
            if not rows:
                return
            yield from (Thing(*row) for row in rows)
            after = rows[-1][0]

    def mark(self, pair: int, *, equal: bool) -> None:
        """Note the outcome of a pair; different stays different."""
        with self._lock:
            if equal:
                self._database.execute(
                    "UPDATE thing SET state = ? WHERE number = ? AND state = ?",
                    (_EQUAL, pair, _NEW),
                )
            else:
                self._database.execute(
                    "UPDATE thing SET state = ? WHERE number = ?", (_DIFFERENT, pair)
                )

    def count_pairs(self) -> list[tuple[str, int, int, int]]:
        """Return kind, number of equal, of different, and of never compared pairs."""
        with self._lock:
            return self._database.execute(
                "SELECT a.kind, sum(pair.state = ?), sum(pair.state = ?), sum(pair.state = ?)"
                " FROM thing a JOIN thing b ON b.number = a.twin"
                " JOIN thing pair ON pair.number = b.twin WHERE a.side = 'a' GROUP BY a.kind",
                (_EQUAL, _DIFFERENT, _NEW),
            ).fetchall()

    # Facts

    def put(self, side: Side, facts: Iterable[tuple[int, Fact]]) -> None:
        """Put down facts, each with the pair that it is about."""
        rows = ((pair, side, *fact) for pair, fact in facts)
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            with self._lock:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT INTO fact VALUES (?,?,?,?,?)", some)
                self._database.execute("COMMIT")

    def has(self, pair: int, side: Side, field: str) -> bool:
        """Whether a side of a pair has said something of a field."""
        with self._lock:
            row = self._database.execute(
                "SELECT 1 FROM fact WHERE pair = ? AND side = ? AND field = ? LIMIT 1",
                (pair, side, field),
            ).fetchone()
        return row is not None

    def iter_unequal(self, pair: int) -> Iterator[Unequal]:
        """Yield what the two sides of a pair do not say alike, in the order of fields.

        A field may have several values, in no order: those that both have are left out, and of the
        rest the first of each side stand side by side.
        """
        left, right = (_Group(self._facts(pair, side)) for side in ("a", "b"))
        while (field := min((g.field for g in (left, right) if g.field), default="")) != "":
            ours = left.take() if left.field == field else []
            theirs = right.take() if right.field == field else []
            ours, theirs = _without(ours, theirs), _without(theirs, ours)
            for index in range(max(len(ours), len(theirs))):
                yield Unequal(
                    field,
                    ours[index] if index < len(ours) else None,
                    theirs[index] if index < len(theirs) else None,
                )

    def _facts(self, pair: int, side: str) -> Iterator[Fact]:
        distinct = "DISTINCT " if pair in self._joined else ""
        with self._lock:
            cursor = self._database.execute(
                f"SELECT {distinct}field, value, flag FROM fact WHERE pair = ? AND side = ?"
                " ORDER BY field, value",
                (pair, side),
            )
        for row in cursor:
            yield Fact(*row)

    def forget(self, pair: int) -> None:
        """Delete the facts of a pair."""
        with self._lock:
            self._database.execute("DELETE FROM fact WHERE pair = ?", (pair,))

    # Histories that are not the same

    def suspect(self, pair: int, key: str) -> None:
        """Note that the histories of one metric differ."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO suspect VALUES (?,?)", (pair, key))

    def suspects(self, pair: int) -> set[str]:
        """Return the metrics of a run whose histories differ."""
        with self._lock:
            rows = self._database.execute("SELECT key FROM suspect WHERE pair = ?", (pair,))
            return {row[0] for row in rows}

    def add_points(
        self, pair: int, side: Side, key: str, points: Iterable[tuple[int, int, str]]
    ) -> None:
        """Put down points (timestamp, step, value) of a history that differs."""
        rows = [(pair, key, side, *point) for point in points]
        with self._lock:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO point VALUES (?,?,?,?,?,?)", rows)
            self._database.execute("COMMIT")

    def iter_points(self) -> Iterator[Points]:
        """Yield how far each pair of noted histories differs."""
        with self._lock:
            rows = self._database.execute(
                "SELECT suspect.pair, suspect.key, total(max(a - b, 0)), total(max(b - a, 0)),"
                " total(a), total(b) FROM suspect LEFT JOIN ("
                "  SELECT pair, key, sum(side = 'a') AS a, sum(side = 'b') AS b FROM point"
                "  GROUP BY pair, key, timestamp, step, value"
                " ) AS counted ON counted.pair = suspect.pair AND counted.key = suspect.key"
                " GROUP BY suspect.pair, suspect.key ORDER BY suspect.pair, suspect.key"
            ).fetchall()
        for pair, key, *counts in rows:
            yield Points(pair, key, *map(int, counts))

    def close(self) -> None:
        """Delete everything."""
        with self._lock:
            self._database.close()


def _without(facts: list[Fact], others: list[Fact]) -> list[Fact]:
    """Return ``facts`` but for those whose value occurs in ``others``, as often as it does."""
    there = Counter(fact.value for fact in others)
    left = []
    for fact in facts:
        if there[fact.value]:
            there[fact.value] -= 1
        else:
            left.append(fact)
    return left


class _Group:
    """Consecutive facts of one field, taken together."""

    def __init__(self, facts: Iterator[Fact]) -> None:
        self._facts = facts
        self._next = next(facts, None)

    @property
    def field(self) -> str:
        """The field that comes next; empty at the end."""
        return self._next.field if self._next is not None else ""

    def take(self) -> list[Fact]:
        """Return every fact of the field that comes next."""
        taken: list[Fact] = []
        field = self.field
        while self._next is not None and self._next.field == field:
            taken.append(self._next)
            self._next = next(self._facts, None)
        return taken
