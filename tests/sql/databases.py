"""Databases on PostgreSQL and MariaDB: made empty, read back as SQLite files, dropped."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import make_url

from tests.servers import _template_database

DEFAULT_URIS = {
    "postgresql": "postgresql+psycopg2://root@127.0.0.1:5432/postgres",
    "mysql": "mysql+pymysql://root@127.0.0.1:3306/mysql",
}
"""Where databases are made, by dialect; ``MLFLOW_BUNDLE_TEST_<DIALECT>`` says otherwise."""


def server_uri(dialect: str) -> str:
    """URI of a database on the server where others are made."""
    name = f"MLFLOW_BUNDLE_TEST_{dialect.upper()}"
    return os.environ.get(name) or DEFAULT_URIS[dialect]


def is_reachable(dialect: str) -> bool:
    """Whether there is such a server."""
    engine = sqlalchemy.create_engine(server_uri(dialect), poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect():
            return True
    except (sqlalchemy.exc.SQLAlchemyError, ImportError):
        return False


@contextlib.contextmanager
def new_database(dialect: str, options: str = "", *, empty: bool = True) -> Iterator[str]:
    """Make a database and drop it at the end; gives its URI.

    Args:
        dialect: Of the server.
        options: Of ``CREATE DATABASE``.
        empty: Whether it holds nothing; else it is as MLflow makes it, which takes seconds once.
    """
    uri = server_uri(dialect)
    name = f"sqlsink_{uuid.uuid4().hex[:12]}"
    if not empty and dialect == "postgresql":
        options = f"TEMPLATE {_template(dialect)} {options}"
    with _connection(uri) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} {options}")
        if not empty and dialect == "mysql":
            _fill_like(connection, _template(dialect), name)
    try:
        yield _uri_of(uri, name)
    finally:
        _drop(uri, name)


@functools.cache
def _template(dialect: str) -> str:
    """Name of a database as MLflow makes it, which goes when this process ends."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = server_uri(dialect)
    name = f"sqlsink_template_{uuid.uuid4().hex[:12]}"
    with _connection(uri) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    atexit.register(_drop, uri, name)
    store = SqlAlchemyStore(_uri_of(uri, name), "mlflow-artifacts:/")
    store.engine.dispose()  # nobody may be connected to what PostgreSQL copies
    return name


def _fill_like(connection: sqlalchemy.Connection, template: str, name: str) -> None:
    """Make the tables of one database of MySQL in another one, with their rows."""
    execute = connection.exec_driver_sql
    execute(f"USE {template}")
    tables = [table for (table,) in execute("SHOW TABLES")]
    statements = [execute(f"SHOW CREATE TABLE `{table}`").one()[1] for table in tables]
    execute(f"USE {name}")
    execute("SET SESSION foreign_key_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
    for table, statement in zip(tables, statements, strict=True):
        execute(statement.replace("%", "%%"))
        if execute(f"SELECT 1 FROM {template}.`{table}` LIMIT 1").first() is not None:
            execute(f"INSERT INTO `{table}` SELECT * FROM {template}.`{table}`")


@contextlib.contextmanager
def _connection(uri: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(
        uri, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        yield connection


def _uri_of(server: str, database: str) -> str:
    return make_url(server).set(database=database).render_as_string(hide_password=False)


def _drop(uri: str, name: str) -> None:
    force = " WITH (FORCE)" if uri.startswith("postgresql") else ""
    with _connection(uri) as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}{force}")


def rows(uri: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement on any database."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


def execute(uri: str, statement: str) -> None:
    """Run a statement on any database."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def change(file: Path, statement: str, *values: Any) -> None:
    """Change rows of an SQLite file; there have to be some."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute(statement, values).rowcount > 0
        connection.commit()


def read_back(uri: str, file: Path) -> Path:
    """Copy every row of an MLflow database into an SQLite file, as MLflow would write it there."""
    import sys

    shutil.copyfile(_template_database(sys.executable), file)
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    metadata = sqlalchemy.MetaData()
    with engine.connect() as source, contextlib.closing(sqlite3.connect(file)) as target:
        metadata.reflect(source, resolve_fks=False)
        known = dict(target.execute("SELECT name, 1 FROM sqlite_master WHERE type = 'table'"))
        for table in metadata.tables.values():
            if table.name not in known:
                continue
            hidden = {
                row[1] for row in target.execute(f'PRAGMA table_xinfo("{table.name}")') if row[6]
            }
            columns = [column for column in table.c if column.name not in hidden]
            names = ", ".join(f'"{column.name}"' for column in columns)
            marks = ", ".join("?" * len(columns))
            target.execute(f'DELETE FROM "{table.name}"')
            rows = source.execute(sqlalchemy.select(*map(_plain_column, columns)))
            target.executemany(
                f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})',
                (tuple(_plain(value) for value in row) for row in rows),
            )
        target.commit()
    engine.dispose()
    return file


def _plain_column(column: sqlalchemy.Column[Any]) -> Any:
    """JSON as the text it is, numbers as floats."""
    if isinstance(column.type, sqlalchemy.JSON):
        return sqlalchemy.cast(column, sqlalchemy.Text)
    is_decimal = getattr(column.type, "asdecimal", False)
    return sqlalchemy.type_coerce(column, sqlalchemy.Float()) if is_decimal else column


def _plain(value: object) -> object:
    """A value as SQLite has it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, memoryview):
        return bytes(value)
    return value
