"""Databases on PostgreSQL and MariaDB: made empty, read back as SQLite files, dropped."""

from __future__ import annotations

import contextlib
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
def new_database(dialect: str, options: str = "") -> Iterator[str]:
    """Make an empty database and drop it at the end; gives its URI.

    Args:
        dialect: Of the server.
        options: Of ``CREATE DATABASE``.
    """
    uri = server_uri(dialect)
    name = f"sqlsink_{uuid.uuid4().hex[:12]}"
    engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} {options}")
        try:
            yield make_url(uri).set(database=name).render_as_string(hide_password=False)
        finally:
            force = " WITH (FORCE)" if dialect == "postgresql" else ""
            with engine.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
    finally:
        engine.dispose()


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
