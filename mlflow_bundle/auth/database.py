"""The database of MLflow's basic-auth app: opened for reading, or made ready to be written."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from functools import cached_property

from sqlalchemy import Connection, Engine, Table

from mlflow_bundle.errors import SinkError, SourceError
from mlflow_bundle.sql.database import Database, sqlite_file
from mlflow_bundle.sql.versions import migrations, revisions_of

REVISIONS = "alembic_version_auth"
"""Table that names the schema's revision. Absent before MLflow 3.6, which kept the revision where
the tracking data's is."""

_MIGRATIONS = "server/auth/db/migrations"

_USERS = ("users", "username", "password_hash", "is_admin")


def open_to_read(uri: str) -> Database:
    """Open one consistent state of an auth database; the caller closes it.

    Raises:
        SelectionError: The URI cannot be used.
        SourceError: It cannot be reached, or is something else.
    """
    database = Database(uri, error=SourceError)
    try:
        # What is read holds hashes of passwords: no error may show it.
        database.engine.hide_parameters = True
        database.state  # noqa: B018  # taken now, before anything else is read
        if not database.has(*_USERS):
            raise SourceError(
                f"{database.shown_uri} holds no users of MLflow's basic-auth app",
                hint="is it the database_uri of the server's configuration (basic_auth.ini)?",
            )
    except BaseException:
        database.close()
        raise
    return database


class AuthDestination:
    """An auth database that is written to.

    It has the schema of the installed MLflow, or holds nothing and gets it with the first write.

    Args:
        uri: As MLflow takes it.

    Raises:
        SelectionError: The URI cannot be used.
        SinkError: It cannot be reached, is of another MLflow or something else, or the installed
            MLflow has no such app.
    """

    def __init__(self, uri: str) -> None:
        from mlflow_bundle.sql.preparing import holds_nothing

        self._uri = uri
        self.known_permissions, self.known_types = _known_to_installed()
        self.is_new = holds_nothing(uri)
        self._lock = threading.Lock()
        if not self.is_new:
            _require_head(self.database)
        elif sqlite_file(uri) is None and self.database.dialect.name == "mysql":
            # Two constraints of its first migration (8606fa83a998) are called fk_user_id.
            raise SinkError(
                f"{self.database.shown_uri}: MLflow cannot make the tables of its basic-auth app "
                "in MySQL or MariaDB",
                status=409,
                hint="give an SQLite or PostgreSQL database",
            )

    @cached_property
    def database(self) -> Database:
        """The database, once it holds something."""
        database = Database(self._uri, error=SinkError)
        database.engine.hide_parameters = True
        return database

    @property
    def tables(self) -> dict[str, Table]:
        """The tables by name."""
        return self.database.tables

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[Connection | None]:
        """Open a connection that only reads; None while the database holds nothing."""
        if self.is_new:
            yield None
            return
        with self._lock, self.database.errors(), self.database.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def written(self) -> Iterator[Connection]:
        """Open one transaction, which an error undoes as a whole."""
        self._require_tables()
        with self._lock, self.database.errors(), self.database.engine.connect() as plain:
            # SQLite: the driver would begin with the first change, when others may have written.
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(self.database.dialect.begin)
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    def _require_tables(self) -> None:
        """Make the tables as MLflow does, where there are none."""
        if not self.is_new:
            return
        from mlflow_bundle.sql.preparing import initialise, require_file

        require_file(self._uri)
        initialise(self._uri, _migrate)
        self.is_new = False

    def close(self) -> None:
        """Close its connections."""
        if "database" in self.__dict__:
            self.database.close()


def _known_to_installed() -> tuple[frozenset[str], frozenset[str]]:
    """Return the permissions, and the types of resources, that the installed MLflow's server knows.

    Of other permissions it makes errors.

    Raises:
        SinkError: It has no basic-auth app, or one without roles.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what MLflow's server is made of
            from mlflow.server.auth.db.models import SqlRole  # noqa: F401
            from mlflow.server.auth.permissions import ALL_PERMISSIONS, VALID_RESOURCE_TYPES
    except ImportError as exc:
        raise SinkError(
            f"--auth-db: the installed MLflow has no basic-auth app with roles: {exc}",
            hint="pip install 'mlflow[auth]', of the version that the server has",
        ) from exc
    return frozenset(ALL_PERMISSIONS), frozenset(VALID_RESOURCE_TYPES)


def _migrate(engine: Engine) -> None:
    from mlflow.server.auth.db.utils import migrate_if_needed

    migrate_if_needed(engine, "head")


def _require_head(database: Database) -> None:
    """Refuse a database that this MLflow's server would not open as it is.

    Raises:
        SinkError: It is something else, or of another revision.
    """
    shown = database.shown_uri
    if not database.has(*_USERS):
        raise SinkError(
            f"{shown} holds tables that are not those of MLflow's basic-auth app",
            status=409,
            hint="give the database_uri of the server's configuration (basic_auth.ini), or a "
            "database of its own, which may be empty",
        )
    scripts = migrations(_MIGRATIONS)
    head = scripts.get_current_head()
    with database.errors(), database.engine.connect() as connection:
        revision = database.revision_over(connection, REVISIONS)
    if revision == head:
        return
    if not revision or revision in revisions_of(scripts):
        raise SinkError(
            f"{shown} has the users and permissions of an older MLflow (schema "
            f"{revision or 'unknown'}, here {head})",
            status=409,
            hint=f"back it up, then `python -m mlflow.server.auth db upgrade --url {shown}`",
        )
    raise SinkError(
        f"{shown} has users and permissions that the installed MLflow does not know (schema "
        f"{revision}, here {head})",
        status=409,
        hint="install the MLflow that your server runs beside mlflow-bundle",
    )
