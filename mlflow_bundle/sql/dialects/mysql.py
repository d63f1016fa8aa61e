"""MySQL and MariaDB."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, Engine, Table, func, select
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

from mlflow_bundle.sql.dialects.base import (
    CODEC,
    LOCK_NAME,
    Dialect,
    insert_statement,
    too_long,
    with_driver,
)

_TEXT_BYTES: dict[type[Any], int] = {
    mysql.TINYTEXT: 2**8 - 1,
    mysql.MEDIUMTEXT: 2**24 - 1,
    mysql.LONGTEXT: 2**32 - 1,
}
_PLAIN_TEXT_BYTES = 2**16 - 1


_CODECS = {"latin1": "cp1252", "ascii": "ascii"}
_FEW_BYTES = ("utf8", "utf8mb3")
"""Encodings without the characters behind U+FFFF."""

_ENCODED = "utf8mb4"
"""How texts are on their way, whatever their columns are in."""

_ENCODING = "mlflow_bundle.encoding"
_COLLATION = "mlflow_bundle.collation"
_PACKET = "mlflow_bundle.packet_bytes"
"""What is kept of the columns of a database that is written to."""

_OTHER_BYTES = 64 * 1024
"""What a statement takes of a packet beside its longest text, more than enough."""

_ESCAPED = "\0\n\r\x1a\"'\\"
"""Characters of which drivers send two bytes."""

_DAYS_S = 24 * 24 * 60 * 60
"""As long as every server takes for a timeout."""

_SETTINGS = {
    "wait_timeout": _DAYS_S,  # the connection that holds the lock says nothing meanwhile
    "net_read_timeout": _DAYS_S,
    "net_write_timeout": _DAYS_S,  # rows are fetched when a slow destination has room
    "idle_transaction_timeout": 0,
    "idle_readonly_transaction_timeout": 0,
    "idle_write_transaction_timeout": 0,
    "max_statement_time": 0,
    "max_execution_time": 0,
}
"""Of every session. Not every server knows them all."""

_ROW_ERRORS = frozenset({1267, 1366, 3140, 3819, 4025})
"""Texts that cannot be compared or encoded, no JSON, a check that failed (MySQL's, MariaDB's)."""


class MySql(Dialect):
    name = "mysql"
    folds_keys = True

    def engine(self, url: URL) -> Engine:
        url = with_driver(url, self.name, {"mysqldb": "MySQLdb", "pymysql": "pymysql"})
        # What the connection's encoding lacks, the server gives as a question mark.
        url = url.difference_update_query(["collation"]).update_query_dict({"charset": _ENCODED})
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        sqlalchemy.event.listen(engine, "connect", _settle_session)
        return engine

    @contextlib.contextmanager
    def snapshot(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as plain:
            connection = plain.execution_options(isolation_level="REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            yield connection

    @contextlib.contextmanager
    def lock(self, engine: Engine) -> Iterator[bool]:
        # The name counts in the whole server: it tells databases apart.
        name = f"{LOCK_NAME} {engine.url.database}"[:64]
        with engine.connect() as connection:
            yield connection.scalar(select(func.get_lock(name, 0))) == 1

    def prepare(self, connection: Connection, tables: Iterable[Table]) -> None:
        # Experiment 0 would else get the next number, and what does not fit would be changed.
        connection.exec_driver_sql(
            "SET SESSION sql_mode ="
            " CONCAT(@@SESSION.sql_mode, ',NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES')"
        )
        texts = {
            (table, column): (encoding, collation)
            for table, column, encoding, collation in connection.exec_driver_sql(
                "SELECT TABLE_NAME, COLUMN_NAME, CHARACTER_SET_NAME, COLLATION_NAME"
                " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()"
                " AND CHARACTER_SET_NAME IS NOT NULL"
            )
        }
        packet = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
        for table in tables:
            for column in table.c:
                encoding, collation = texts.get((table.name, column.name), ("", ""))
                column.info[_ENCODING], column.info[_COLLATION] = encoding, collation
                column.info[CODEC] = _CODECS.get(encoding)
                column.info[_PACKET] = packet - _OTHER_BYTES

    def insert(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        pass_over: bool = False,
    ) -> int:
        verb = "INSERT IGNORE" if pass_over else "INSERT"
        statement = insert_statement(connection, table, columns, mark=self.mark, verb=verb)
        with contextlib.closing(connection.connection.cursor()) as cursor:
            # The driver makes statements of many rows of it.
            cursor.executemany(statement, rows)
            return int(cursor.rowcount)

    def blames_row(self, error: Exception) -> bool:
        return bool(error.args) and error.args[0] in _ROW_ERRORS

    def objection(self, column: Column[Any], value: str) -> str:
        if not self.can_hold(column, value):
            encoding = column.info[_ENCODING]
            return f"the column is in {encoding}, which has not all of its characters"
        packet = column.info.get(_PACKET, 0)
        if len(value) * 4 > packet > 0 and _sent_bytes(value) > packet:
            return "larger than what the server takes at once (its max_allowed_packet)"
        if not isinstance(column.type, sqlalchemy.Text):
            return too_long(column, value)
        limit = _TEXT_BYTES.get(type(column.type), _PLAIN_TEXT_BYTES)
        size = len(value.encode("utf-8", "surrogatepass")) if len(value) * 4 > limit else 0
        return f"{size} bytes; the destination keeps {limit}" if size > limit else ""

    def can_hold(self, column: Column[Any], value: str) -> bool:
        if column.info.get(_ENCODING) in _FEW_BYTES:
            return value.isascii() or max(value) <= "\uffff"
        return super().can_hold(column, value)

    def fold(self, key: str) -> str:
        # As its usual collations do: neither case, accents nor spaces at the end count.
        letters = unicodedata.normalize("NFKD", key.casefold())
        return "".join(c for c in letters if not unicodedata.combining(c)).rstrip(" ")

    def is_one(self, connection: Connection, column: Column[Any], one: str, other: str) -> bool:
        encoding, collation = column.info.get(_ENCODING), column.info.get(_COLLATION)
        if not encoding:
            return True
        text = f"CONVERT(%s USING {encoding})"
        question = f"SELECT {text} COLLATE {collation} = {text}"
        return bool(connection.exec_driver_sql(question, (one, other)).scalar())


def _sent_bytes(value: str) -> int:
    return len(value.encode("utf-8", "surrogatepass")) + sum(map(value.count, _ESCAPED))


def _settle_session(connection: Any, _: object) -> None:
    """Set up a connection of the driver's own."""
    names = ", ".join(f"'{name}'" for name in _SETTINGS)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(f"SHOW SESSION VARIABLES WHERE Variable_name IN ({names})")
        known = [name for name, _ in cursor.fetchall()]
        cursor.execute("SET " + ", ".join(f"SESSION {name} = {_SETTINGS[name]}" for name in known))
    connection.commit()
