"""One MLflow database: what it has, and connections to it.

Nothing is assumed of its revision. The tables are read from the database itself, so that what a
table or column of a newer MLflow holds is simply not there in an older one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from mlflow_bundle.credentials import MASK, mask_uri
from mlflow_bundle.errors import SelectionError, ServerError
from mlflow_bundle.sql.dialects import DIALECTS
from mlflow_bundle.sql.dialects.base import Dialect
from mlflow_bundle.sql.dialects.sqlite import Sqlite, file_of

_CLOSING_S = 10.0
_REVISIONS = "alembic_version"
_IN_MEMORY = ":memory:"
"""SQLite's name for a database that ends with its connection."""


def _is_told(record: logging.LogRecord) -> bool:
    """Whether what SQLAlchemy logs is not what our own error says: that a session has ended."""
    return not record.getMessage().startswith("Exception during reset")


logging.getLogger(f"{NullPool.__module__}.{NullPool.__name__}").addFilter(_is_told)


class Database:
    """A database that MLflow keeps its tracking data in.

    Args:
        uri: As MLflow takes it, e.g. ``postgresql://user@host/mlflow``.
        error: Raised when the database cannot be used.
        token: What :meth:`share` of another process returned: the state is the one that it sees.
        only: Tables that are looked at; all of them when None.

    Raises:
        SelectionError: The URI cannot be used.
        ServerError: Of type ``error``: it cannot be reached.
    """

    def __init__(
        self,
        uri: str,
        *,
        error: type[ServerError],
        token: str | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        self.uri = uri
        """May hold a password; :attr:`shown_uri` does not."""
        self.shown_uri = mask_uri(uri)
        self._token = token
        self._only = only
        self._error = error
        self._held = contextlib.ExitStack()
        self.reading = threading.Lock()
        """Held while something is asked over :attr:`state`."""
        self.url, self.dialect = _parsed(uri)
        file = sqlite_file(uri)
        if token is None and file is not None and not file.is_file():
            raise error(
                f"there is no database {self.shown_uri}",
                hint="is the path right? An absolute one has four slashes (sqlite:////srv/x.db); "
                "without --tracking-uri it is mlflow.db here, MLflow's own default",
            )
        try:
            self.engine = self.dialect.engine(self.url)
        except sqlalchemy.exc.NoSuchModuleError:
            raise SelectionError(
                f"{self.shown_uri}: there is no driver {self.url.drivername!r}",
                hint="name one that is, e.g. postgresql+psycopg2 or mysql+pymysql, or none",
            ) from None
        except ImportError as exc:
            package = "psycopg2-binary" if self.dialect.name == "postgresql" else "pymysql"
            raise SelectionError(
                f"{self.shown_uri}: its driver is not installed: {exc}",
                hint=f"install the one that your MLflow server uses, e.g. pip install {package}",
            ) from None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the driver raises into our own error."""
        try:
            yield
        except sqlalchemy.exc.SQLAlchemyError as exc:
            raise self.failure(getattr(exc, "orig", None) or exc) from exc

    def failure(self, exc: object) -> ServerError:
        """Return the error for what a driver raised, whose text may hold a part of the login."""
        lines = str(exc).strip().splitlines()
        text = lines[0] if lines else repr(exc)
        for secret in (self.url.password, (self.url.host or "").rpartition("@")[0]):
            if secret:
                text = text.replace(str(secret), MASK)
        return self._error(f"{self.shown_uri}: {text}")

    @cached_property
    def state(self) -> Connection:
        """One consistent state (`Dialect.snapshot`), of which tables and revision are known too.

        Not even SQLite's own housekeeping touches the database when it is only read so.

        Raises:
            ServerError: It cannot be read.
        """
        with self.errors():
            if self._token is None:
                snapshot = self.dialect.snapshot(self.engine)
            else:
                snapshot = self.dialect.join(self.engine, self._token)
            connection = self._held.enter_context(snapshot)
            self.tables = _reflected(connection, self._only)
            if _REVISIONS in self.tables:
                self.revision = self.revision_over(connection)
        return connection

    def share(self) -> str | None:
        """Return what another process needs to see :attr:`state`; None where it cannot.

        Only to be called while nothing else is asked over it.
        """
        with self.errors():
            return self.dialect.share(self.state)

    def settle(self) -> None:
        """Tell that no other process will come to see :attr:`state`."""
        self.dialect.settle(self.state)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by name, as the database has them.

        Raises:
            ServerError: It cannot be reached, or holds nothing of MLflow's.
        """
        with self.errors(), self.engine.connect() as connection:
            return _reflected(connection, self._only)

    @cached_property
    def revision(self) -> str:
        """MLflow's schema revision; empty when there is none: nothing was ever in it."""
        if _REVISIONS not in self.tables:
            return ""
        with self.errors(), self.engine.connect() as connection:
            return self.revision_over(connection)

    def revision_over(self, connection: Connection, table: str = _REVISIONS) -> str:
        """Return the revision that a table of alembic's names; empty where there is none.

        Args:
            connection: Of this database.
            table: MLflow's schemas have one each.
        """
        found = self.tables.get(table)
        if found is None:
            return ""
        return str(connection.scalar(sqlalchemy.select(found.c.version_num)) or "")

    def has(self, table: str, *columns: str) -> bool:
        """Whether there is a table, with all of these columns."""
        found = self.tables.get(table)
        return found is not None and all(name in found.c for name in columns)

    def close(self) -> None:
        """Close its connections, when what another thread is asking has been answered.

        A driver's traceback would else be the last thing to be seen. One that does not answer for
        some seconds is not waited for.
        """
        is_free = self.reading.acquire(timeout=_CLOSING_S)
        try:
            # Nothing was written over it: where the server has ended it, nothing is lost.
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                self._held.close()
        finally:
            if is_free:
                self.reading.release()
        self.engine.dispose()


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite database, which need not exist; None for another database.

    Raises:
        SelectionError: The URI cannot be used.
    """
    url, dialect = _parsed(uri)
    if not isinstance(dialect, Sqlite):
        return None
    file = file_of(url)
    if str(file) in (".", _IN_MEMORY):
        raise _not_usable(uri)
    return file


def sqlite_uri(file: Path) -> str:
    """Return the URI of an SQLite database: a percent sign in a path is one in no URI."""
    return URL.create("sqlite", database=str(file)).render_as_string()


def _parsed(uri: str) -> tuple[URL, Dialect]:
    try:
        url = make_url(uri)
        return url, DIALECTS[_dialect_name(url)]
    except (sqlalchemy.exc.ArgumentError, KeyError, ValueError):
        raise _not_usable(uri) from None


def _not_usable(uri: str) -> SelectionError:
    return SelectionError(
        f"{mask_uri(uri)!r} is no database that can be used",
        hint="e.g. sqlite:////srv/mlflow.db, postgresql://user@host/mlflow",
    )


def _reflected(connection: Connection, only: Sequence[str] | None) -> dict[str, Table]:
    metadata = MetaData()
    metadata.reflect(connection, only=only, resolve_fks=False)
    return dict(metadata.tables)


def _dialect_name(url: URL) -> str:
    name = url.get_backend_name()
    return {"postgres": "postgresql", "mariadb": "mysql"}.get(name, name)


def null(column: str) -> Any:
    """Return a column of nulls that stands for one that the database lacks."""
    return sqlalchemy.null().label(column)
