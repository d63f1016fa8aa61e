"""MySQL and MariaDB."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, Engine, Table, func, select
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

from mlflow_bundle.sql.dialects.base import (
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


class MySql(Dialect):
    name = "mysql"
    folds_keys = True

    def engine(self, url: URL) -> Engine:
        url = with_driver(url, self.name, {"mysqldb": "MySQLdb", "pymysql": "pymysql"})
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)

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

    def prepare(self, connection: Connection) -> None:
        # Experiment 0 would else get the next number.
        connection.exec_driver_sql(
            "SET SESSION sql_mode = CONCAT(@@SESSION.sql_mode, ',NO_AUTO_VALUE_ON_ZERO')"
        )

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

    def objection(self, column: Column[Any], value: str) -> str:
        if not isinstance(column.type, sqlalchemy.Text):
            return too_long(column, value)
        limit = _TEXT_BYTES.get(type(column.type), _PLAIN_TEXT_BYTES)
        size = len(value.encode("utf-8", "surrogatepass")) if len(value) * 4 > limit else 0
        return f"{size} bytes; the destination keeps {limit}" if size > limit else ""

    def fold(self, key: str) -> str:
        # As its usual collations do: neither case, accents nor spaces at the end count.
        letters = unicodedata.normalize("NFKD", key.casefold())
        return "".join(c for c in letters if not unicodedata.combining(c)).rstrip(" ")
