"""The rows of a SQLite database in another kind of database, table by table."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import JSON, Engine, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

_MYSQL_TEXT_CHARS = 65535 // 4
"""What a column of 65 535 bytes holds of any text."""


@contextlib.contextmanager
def cloned(path: Path, copy: Path, server: URL, name: str) -> Iterator[URL]:
    """Copy the rows of an MLflow database to a new one at ``server``, dropped afterwards.

    Args:
        path: A SQLite file.
        copy: Where a copy of it is put that holds the same: texts that the columns of the other
            database are too short for, which SQLite lets pass, are cut.
        server: A database that there is.
        name: Of the new one.
    """
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from mlflow.store.model_registry.dbmodels import models as registry
    from mlflow.store.tracking.dbmodels import models as tracking

    assert registry
    assert tracking

    admin = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
        # MySQL's usual order takes upper and lower case for the same.
        binary = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if _is_mysql(admin) else ""
        connection.exec_driver_sql(f"CREATE DATABASE {name}{binary}")
    url = server.set(database=name)
    engine = create_sqlalchemy_engine(url.render_as_string(hide_password=False))
    try:
        # Bare tables: MLflow's migrations take minutes on some.
        bare = sqlalchemy.MetaData()
        for table in Base.metadata.sorted_tables:
            columns = (
                sqlalchemy.Column(c.name, c.type, primary_key=c.primary_key, autoincrement=False)
                for c in table.c
            )
            sqlalchemy.Table(table.name, bare, *columns)
        bare.create_all(engine)
        there = sqlalchemy.MetaData()
        there.reflect(engine)
        order = [there.tables[table.name] for table in Base.metadata.sorted_tables]
        shutil.copyfile(path, copy)
        _shorten(copy, order)
        _fill(copy, engine, order)
        yield url
    finally:
        engine.dispose()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
        admin.dispose()


def _shorten(path: Path, tables: list[Table]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in tables:
            for column in table.c:
                length = getattr(column.type, "length", None)
                if type(column.type) is mysql.TEXT:
                    length = _MYSQL_TEXT_CHARS
                if length:
                    connection.execute(
                        f'UPDATE "{table.name}" SET "{column.name}" ='
                        f' substr("{column.name}", 1, {length})'
                        f' WHERE length("{column.name}") > {length}'
                    )
        connection.commit()


def _fill(path: Path, engine: Engine, tables: list[Table]) -> None:
    with (
        contextlib.closing(sqlite3.connect(path)) as reading,
        engine.begin() as writing,
    ):
        if _is_mysql(engine):
            writing.exec_driver_sql("SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
            writing.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for table in reversed(tables):
            writing.execute(table.delete())
        for table in tables:
            columns = [column for column in table.c if column.computed is None]
            names = ", ".join(f'"{column.name}"' for column in columns)
            # JSON goes as the text that it is.
            target = sqlalchemy.table(
                table.name,
                *(
                    sqlalchemy.column(c.name, None if isinstance(c.type, JSON) else c.type)
                    for c in columns
                ),
            )
            rows: list[dict[str, Any]] = [
                {c.name: _value(c, v) for c, v in zip(columns, row, strict=True)}
                for row in reading.execute(f'SELECT {names} FROM "{table.name}"')
            ]
            if rows:
                writing.execute(target.insert(), rows)


def _value(column: Any, value: Any) -> Any:
    is_bool = isinstance(column.type, sqlalchemy.Boolean)
    return bool(value) if is_bool and value is not None else value


def _is_mysql(engine: Engine) -> bool:
    return engine.dialect.name in ("mysql", "mariadb")
