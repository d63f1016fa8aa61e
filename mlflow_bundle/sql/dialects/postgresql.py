"""PostgreSQL."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import IO, Any

import msgspec
import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, REGCLASS
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import URL
from sqlalchemy.types import TypeEngine

from mlflow_bundle.spooled import temporary_file_named
from mlflow_bundle.sql.dialects.base import CODEC, LOCK_NAME, Dialect, quoted, too_long, with_driver
from mlflow_bundle.sql.points import POINT_COLUMNS, Points

_ROWS = 2000
"""Rows whose text is made at once."""

_READ_BYTES = 64 * 1024

_NUMBER_TYPES: dict[str, TypeEngine[Any]] = {
    "q": BigInteger(),
    "d": DOUBLE_PRECISION(),
    "?": Boolean(),
}
"""Types whose binary form is what `struct` makes of these codes."""

_POINT_TYPES = {
    "value": DOUBLE_PRECISION,
    "timestamp": sqlalchemy.BIGINT,
    "step": sqlalchemy.BIGINT,
    "is_nan": sqlalchemy.BOOLEAN,
}
"""What ``metrics`` has to have for its points to come in binary."""

_ENCODING = "utf-8"
"""Of texts on their way, whatever the database's is."""

_SERVER_ENCODING = "mlflow_bundle.server_encoding"
"""What is kept of the columns of a database that is written to."""

_CODECS = {
    **{f"LATIN{n}": f"iso8859-{n}" for n in range(1, 5)},
    **{
        f"LATIN{n}": f"iso8859-{part}"
        for n, part in zip(range(5, 11), (9, 10, 13, 14, 15, 16), strict=True)
    },
    **{f"ISO_8859_{n}": f"iso8859-{n}" for n in range(5, 9)},
    **{f"WIN{n}": f"cp{n}" for n in (866, 874, *range(1250, 1259))},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUC_CN": "gb2312",
    "EUC_JP": "euc_jp",
    "EUC_KR": "euc_kr",
}
"""Encodings of databases that have not all characters, to Python's."""

_SETTINGS = {
    "extra_float_digits": "3",  # else older servers, and some settings, round
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
}
"""Of every session, as `pg_dump` has them. Not every server knows them all."""

_BINARY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What the binary format of ``COPY`` begins with: no flags, no extension."""
_BINARY_END = b"\xff\xff"


class PostgreSql(Dialect):
    name = "postgresql"
    rolls_back_tables = True

    def engine(self, url: URL) -> Engine:
        url = with_driver(url, self.name, {"psycopg2": "psycopg2", "psycopg": "psycopg"})
        engine = sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.NullPool, client_encoding=_ENCODING
        )
        sqlalchemy.event.listen(engine, "connect", _settle_session)
        return engine

    def prepare(self, connection: Connection, tables: Iterable[Table]) -> None:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        for table in tables:
            for column in table.c:
                column.info[_SERVER_ENCODING] = encoding
                column.info[CODEC] = _CODECS.get(encoding)

    @contextlib.contextmanager
    def snapshot(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as plain:
            connection = plain.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            yield connection

    def share(self, connection: Connection) -> str | None:
        # Asked first: a refusal would end the transaction, and with it the state.
        may = func.has_function_privilege("pg_export_snapshot()", "execute")
        if not connection.scalar(select(may)):
            return None
        return str(connection.scalar(select(func.pg_export_snapshot())))

    @contextlib.contextmanager
    def join(self, engine: Engine, token: str) -> Iterator[Connection]:
        with self.snapshot(engine) as connection:
            name = token.replace("'", "''")  # it takes no parameter
            connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{name}'")
            yield connection

    def numbers(
        self, connection: Connection, statement: Select[Any], codes: str
    ) -> Iterator[tuple[Any, ...]]:
        # The driver would make each number from a text.
        columns: list[ColumnElement[Any]] = [
            cast(column, _NUMBER_TYPES[code])
            for column, code in zip(statement.selected_columns, codes, strict=True)
        ]
        # This paramstyle lets a percent sign be one.
        plain: Any = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
        query = statement.with_only_columns(*columns, maintain_column_froms=True).compile(
            dialect=plain, compile_kwargs={"literal_binds": True}
        )
        row = struct.Struct(">2x" + "".join(f"4x{code}" for code in codes))
        with temporary_file_named(), tempfile.TemporaryFile(buffering=_READ_BYTES) as file:
            with contextlib.closing(connection.connection.cursor()) as cursor:
                _copy_out(cursor, f"COPY ({query}) TO STDOUT (FORMAT binary)", file)
            file.seek(len(_BINARY_HEAD))  # writes what is left, too
            # What ends it is shorter than a row.
            while len(some := file.read(row.size * _ROWS)) >= row.size:
                yield from row.iter_unpack(memoryview(some)[: len(some) // row.size * row.size])

    @contextlib.contextmanager
    def lock(self, engine: Engine) -> Iterator[bool]:
        key = zlib.crc32(LOCK_NAME.encode())
        # Of a transaction, not of the session: a pooler (PgBouncer) keeps sessions, and with them
        # their locks, and gives one to several clients.
        with engine.connect() as connection:
            yield bool(connection.scalar(select(func.pg_try_advisory_xact_lock(key))))

    def insert(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        pass_over: bool = False,
    ) -> int:
        pieces = (
            _lines(rows[start : start + _ROWS]).encode(_ENCODING)
            for start in range(0, len(rows), _ROWS)
        )
        count = _insert(connection, table, columns, pieces, pass_over=pass_over)
        return len(rows) if count is None else count

    def insert_points(
        self,
        connection: Connection,
        table: Table,
        points: Sequence[Points],
        *,
        pass_over: bool = False,
    ) -> int:
        # Binary is a fraction of the work for both sides; what is of another type would be garbage.
        if any(type(table.c[name].type) is not kind for name, kind in _POINT_TYPES.items()):
            return super().insert_points(connection, table, points, pass_over=pass_over)
        pieces = itertools.chain([_BINARY_HEAD], map(_binary_rows, points), [_BINARY_END])
        count = _insert(
            connection, table, POINT_COLUMNS, pieces, pass_over=pass_over, options="(FORMAT binary)"
        )
        return sum(map(len, points)) if count is None else count

    def unindexed(self, connection: Connection, tables: Iterable[Table]) -> Callable[[], None]:
        execute = connection.exec_driver_sql
        keys: list[tuple[Table, str]] = []
        others: list[str] = []
        for table in tables:
            name = quoted(connection, table.name)
            if not _is_own(connection, name):
                continue  # only its owner may
            where = f"= '{name}'::regclass"
            # What refers to others first: a key goes when nothing refers to it any more.
            for constraint, kind, definition in execute(
                "SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint"
                f" WHERE conrelid {where} AND contype IN ('p', 'u', 'f') ORDER BY contype"
            ).all():
                title = quoted(connection, constraint)
                execute(f"ALTER TABLE {name} DROP CONSTRAINT {title}")
                statement = f"ALTER TABLE {name} ADD CONSTRAINT {title} {definition}"
                if kind == "p":
                    keys.append((table, statement))
                else:
                    others.append(statement)
            for index, definition in execute(
                "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
                f" WHERE indrelid {where}"
            ).all():
                execute(f"DROP INDEX {index}")
                others.append(definition)

        def restore() -> None:
            for table, statement in keys:
                _add_key(connection, table, statement)
            for statement in others:
                execute(statement)

        return restore

    def objection(self, column: Column[Any], value: str) -> str:
        if "\0" in value:
            return "holds a NUL character, which PostgreSQL takes in no text"
        if not self.can_hold(column, value):
            encoding = column.info[_SERVER_ENCODING]
            return f"the database is in {encoding}, which has not all of its characters"
        return too_long(column, value)

    def set_sequences(self, connection: Connection, tables: Iterable[Table]) -> None:
        for table in tables:
            column = table.autoincrement_column
            if column is None:
                continue
            serial = func.pg_get_serial_sequence(quoted(connection, table.name), column.name)
            name = connection.scalar(select(serial))
            if name is None:
                continue
            sequence = cast(name, REGCLASS)
            highest = connection.scalar(select(func.max(column))) or 0
            # One that is ahead, because the last rows were deleted, stays there.
            ahead = highest - (
                connection.scalar(select(func.pg_sequence_last_value(sequence))) or 0
            )
            if ahead <= 0:
                continue
            if connection.scalar(select(func.has_sequence_privilege(sequence, "UPDATE"))):
                connection.execute(select(func.setval(sequence, highest)))
            else:  # who may insert rows may at least take numbers
                numbers = func.generate_series(1, ahead).table_valued("number")
                connection.execute(select(func.count(func.nextval(sequence))).select_from(numbers))


def _settle_session(connection: Any, _: object) -> None:
    """Set up a connection of the driver's own."""
    wanted = ", ".join(f"('{name}', '{value}')" for name, value in _SETTINGS.items())
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(
            "SELECT set_config(name, value, false) FROM pg_settings"
            f" JOIN (VALUES {wanted}) AS wanted (name, value) USING (name)"
        )
    connection.commit()


def _is_own(connection: Connection, name: str) -> bool:
    """Whether the user has the rights of the owner of a table."""
    owner = f"SELECT relowner FROM pg_class WHERE oid = '{name}'::regclass"
    return bool(connection.exec_driver_sql(f"SELECT pg_has_role(({owner}), 'USAGE')").scalar())


def _add_key(connection: Connection, table: Table, statement: str) -> None:
    """Make the primary key of a table again; of rows that have one key, one stays."""
    execute = connection.exec_driver_sql
    execute("SAVEPOINT mlflow_bundle_key")
    try:
        execute(statement)
    except sqlalchemy.exc.IntegrityError:
        execute("ROLLBACK TO SAVEPOINT mlflow_bundle_key")
        name = quoted(connection, table.name)
        key = ", ".join(quoted(connection, column.name) for column in table.primary_key)
        execute(
            f"DELETE FROM {name} WHERE ctid IN (SELECT place FROM (SELECT ctid AS place,"
            f" row_number() OVER (PARTITION BY {key} ORDER BY ctid) AS nth FROM {name}) AS all_rows"
            " WHERE nth > 1)"
        )
        execute(statement)
    execute("RELEASE SAVEPOINT mlflow_bundle_key")


def _insert(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    pieces: Iterable[bytes],
    *,
    pass_over: bool,
    options: str = "",
) -> int | None:
    """Send rows through ``COPY``; return how many were inserted, None for all.

    Args:
        connection: In a transaction.
        table: Where to.
        columns: Names of the columns.
        pieces: Rows of these columns in ``COPY``'s text format, or the whole of its binary one.
        pass_over: Whether rows are left out whose key is there already.
        options: Of ``COPY``.
    """
    name = quoted(connection, table.name)
    names = ", ".join(quoted(connection, column) for column in columns)
    with contextlib.closing(connection.connection.cursor()) as cursor:
        if not pass_over:
            _copy(cursor, f"COPY {name} ({names}) FROM STDIN {options}", pieces)
            return None
        waiting = quoted(connection, f"mlflow_bundle_{table.name}")
        cursor.execute(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {waiting} (LIKE {name}) ON COMMIT DELETE ROWS"
        )
        _copy(cursor, f"COPY {waiting} ({names}) FROM STDIN {options}", pieces)
        cursor.execute(
            f"INSERT INTO {name} ({names}) SELECT {names} FROM {waiting} ON CONFLICT DO NOTHING"
        )
        count = int(cursor.rowcount)
        cursor.execute(f"TRUNCATE {waiting}")
        return count


def _copy(cursor: Any, statement: str, pieces: Iterable[bytes]) -> None:
    """Send data with psycopg2 or psycopg 3.

    Piece by piece: the server takes in one while the next is made.
    """
    if hasattr(cursor, "copy_expert"):
        stream = _Pieces(iter(pieces))
        try:
            cursor.copy_expert(statement, stream, size=_READ_BYTES)
        except Exception:
            # The driver raises one of its own, as if the server had failed.
            if stream.failure is not None:
                raise stream.failure from None
            raise
    else:
        with cursor.copy(statement) as copy:
            for piece in pieces:
                copy.write(piece)


def _copy_out(cursor: Any, statement: str, file: IO[bytes]) -> None:
    """Receive data with psycopg2 or psycopg 3."""
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(statement, file)
    else:
        with cursor.copy(statement) as copy:
            for piece in copy:
                file.write(piece)


class _Pieces(io.RawIOBase):
    """Pieces as one stream, which is read to its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self.failure: Exception | None = None
        """Why a piece could not be made."""

    def read(self, size: int = -1, /) -> bytes:
        while self._at >= len(self._piece):
            try:
                piece = next(self._pieces, None)
            except Exception as exc:
                self.failure = exc
                raise
            if piece is None:
                return b""
            self._piece, self._at = piece, 0
        start, self._at = self._at, self._at + size
        return self._piece[start : self._at]


def _lines(rows: Sequence[Sequence[Any]]) -> str:
    """Rows in the text format of ``COPY``."""
    columns = [_texts(column) for column in zip(*rows, strict=True)]
    return "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"


def _binary_rows(points: Points) -> bytes:
    """Points in the binary format of ``COPY``: each value with its length before it."""
    head = len(POINT_COLUMNS).to_bytes(2, "big")
    for text in (points.key, points.run_id):
        encoded = text.encode(_ENCODING)
        head += len(encoded).to_bytes(4, "big") + encoded
    pack = struct.Struct(f">{len(head)}sidiqiqi?").pack
    rows = map(
        pack,
        repeat(head),
        *(repeat(8), points.values),
        *(repeat(8), points.timestamps),
        *(repeat(8), points.steps),
        *(repeat(1), points.is_nan),
    )
    try:
        return b"".join(rows)
    except struct.error as exc:
        raise OverflowError(str(exc)) from exc


def _texts(column: Sequence[Any]) -> Iterable[str]:
    """The values of a column in the text format of ``COPY``."""
    types = set(map(type, column))
    if len(types) == 1:
        (only,) = types
        if only is str:
            escaped = {value: _escaped(value) for value in set(column)}
            return map(escaped.__getitem__, column)
        if only in (float, int, bool):
            # Its numbers are PostgreSQL's too, and it makes them several times as fast as str().
            texts = msgspec.json.encode(column)[1:-1].decode().split(",")
            if only is not float or "null" not in texts:  # NaN, infinity
                return texts
    return map(_text, column)


def _text(value: Any) -> str:
    """One value in the text format of ``COPY``."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, bytes):
        return f"\\\\x{value.hex()}"
    return str(value)


def _escaped(text: str) -> str:
    """A text without what means something in the text format of ``COPY``."""
    # Several times as fast as str.translate.
    text = text.replace("\\", "\\\\").replace("\t", "\\t")
    return text.replace("\n", "\\n").replace("\r", "\\r")
