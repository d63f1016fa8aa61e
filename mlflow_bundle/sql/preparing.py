"""Makes a database ready to be written: it has the installed MLflow's own schema, or nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.store.db import utils as mlflow_db
from sqlalchemy import Engine

from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.errors import SelectionError, SinkError
from mlflow_bundle.sql.database import Database, sqlite_file, sqlite_uri
from mlflow_bundle.sql.versions import migrations, revisions_of


@contextlib.contextmanager
def writable(uri: str, *, dry: bool) -> Iterator[Database]:
    """Open a database for writing; one that holds nothing gets MLflow's tables.

    Args:
        uri: As MLflow takes it.
        dry: Whether nothing is to be written: then a private database stands for one that holds
            nothing.

    Raises:
        SelectionError: The URI cannot be used.
        SinkError: The database cannot be reached, or is of another MLflow.
    """
    with contextlib.ExitStack() as stack:
        if not dry:
            # First: what another import makes of an empty database is no database of ours yet.
            require_file(uri)
            stack.enter_context(_locked(uri))
        if holds_nothing(uri):
            if dry:
                directory = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="mlflow-bundle-")
                )
                uri = sqlite_uri(Path(directory) / "empty.db")
                require_file(uri)
            initialise(uri, _migrate)
        database = stack.enter_context(contextlib.closing(Database(uri, error=SinkError)))
        _require_head(database)
        yield database


@contextlib.contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Hold the lock of imports.

    Raises:
        SinkError: Another import has it.
    """
    with (
        contextlib.closing(Database(uri, error=SinkError)) as database,
        database.errors(),
        database.dialect.lock(database.engine) as is_held,
    ):
        if not is_held:
            raise SinkError(
                f"another import is writing to {database.shown_uri}",
                status=409,
                hint="wait until it has ended: one that was killed holds nothing",
            )
        yield


def require_file(uri: str) -> None:
    """Make the file of an SQLite database that does not exist.

    Raises:
        SelectionError: It cannot be made.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        try:
            file.touch()
        except OSError as exc:
            raise SelectionError(f"{mask_uri(uri)}: {exc.strerror or exc}") from exc


def holds_nothing(uri: str) -> bool:
    """Whether a database has no tables yet, or is a file that does not exist.

    MLflow begins with a few tables of its first version, in a transaction of their own: where one
    that was killed has left these, and nothing is in them, there is nothing either.

    Raises:
        SelectionError: The URI cannot be used.
        SinkError: It cannot be reached.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return True
    with contextlib.closing(Database(uri, error=SinkError)) as database, database.errors():
        names = sqlalchemy.inspect(database.engine).get_table_names()
        if all(name.startswith("alembic_") for name in names):
            return True
        if not set(names) <= set(mlflow_db.InitialBase.metadata.tables):
            return False
        with database.engine.connect() as connection:
            one = sqlalchemy.literal(1)
            return all(
                connection.execute(
                    sqlalchemy.select(one).select_from(sqlalchemy.table(name)).limit(1)
                ).first()
                is None
                for name in names
            )


def installed_tables() -> frozenset[str]:
    """Return the names of the tables that the installed MLflow makes."""
    from mlflow.store.db.base_sql_model import Base

    return frozenset(Base.metadata.tables)


def initialise(uri: str, migrate: Callable[[Engine], None]) -> None:
    """Make the tables of one of MLflow's schemas.

    In an SQLite database that holds nothing they come at once, in a file that takes the name of the
    empty one: migrations that are killed would leave an older schema behind.

    Args:
        uri: Of the database, which exists.
        migrate: Makes them.

    Raises:
        SinkError: They cannot be made.
    """
    file = sqlite_file(uri)
    if file is None or not holds_nothing(uri):
        with _engine_of(uri, shown=mask_uri(uri)) as engine:
            migrate(engine)
        return
    file = file.resolve()
    beside = file.with_name(f"{file.name}.mlflow-bundle-new")
    for left in (beside, beside.with_name(f"{beside.name}-journal")):
        left.unlink(missing_ok=True)  # by one that was killed
    try:
        beside.touch()
        shutil.copymode(file, beside)
        with _engine_of(sqlite_uri(beside), shown=mask_uri(uri)) as engine:
            sqlalchemy.event.listen(engine, "connect", _go_fast)
            migrate(engine)
        os.replace(beside, file)
    except OSError as exc:
        raise SinkError(f"{mask_uri(uri)}: {exc.strerror or exc}") from exc
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _engine_of(uri: str, *, shown: str) -> Iterator[Engine]:
    """Give the engine of a database; errors name it ``shown``."""
    with contextlib.closing(Database(uri, error=SinkError)) as database:
        database.shown_uri = shown
        with database.errors():
            yield database.engine


def _go_fast(connection: Any, _: object) -> None:
    # Nothing is lost when the machine fails: there is nothing yet.
    connection.execute("PRAGMA synchronous = OFF")


def _migrate(engine: Engine) -> None:
    with _quiet(mlflow_db._logger):
        mlflow_db._initialize_tables(engine)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _require_head(database: Database) -> None:
    """Refuse a database that this MLflow's server would not open.

    Raises:
        SinkError: It is of another revision.
    """
    head = mlflow_db._get_latest_schema_revision()
    if database.revision == head:
        return
    if not database.has("experiments"):
        raise SinkError(
            f"{database.shown_uri} holds tables that are not MLflow's",
            status=409,
            hint="give a database of its own, which may be empty",
        )
    if not database.revision or database.revision in revisions_of(migrations()):
        hint = f"back it up, then `mlflow db upgrade {database.shown_uri}`"
        if database.dialect.name == "mysql" and _has_no_experiment(database):
            # It keeps each step of a migration, and MLflow cannot go on from within one.
            hint = (
                "it has no experiment: where an import that was making its tables was "
                "interrupted, drop the database and make an empty one"
            )
        raise SinkError(
            f"{database.shown_uri} has the tables of an older MLflow (schema "
            f"{database.revision or 'unknown'}, here {head})",
            status=409,
            hint=hint,
        )
    raise SinkError(
        f"{database.shown_uri} has tables that the installed MLflow does not know (schema "
        f"{database.revision}, here {head})",
        status=409,
        hint="install the MLflow that your server runs beside mlflow-bundle",
    )


def _has_no_experiment(database: Database) -> bool:
    """Whether no server has used a database yet: the first thing it makes is an experiment."""
    statement = sqlalchemy.select(sqlalchemy.literal(1)).select_from(
        sqlalchemy.table("experiments")
    )
    with database.errors(), database.engine.connect() as connection:
        return connection.execute(statement.limit(1)).first() is None
