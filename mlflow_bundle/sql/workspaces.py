"""The workspaces that a database holds (MLflow >= 3.10)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy import Connection, Table, insert, select, update

from mlflow_bundle.archive import order_key
from mlflow_bundle.contracts import SourceInfo
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.errors import SinkError, SourceError
from mlflow_bundle.host import WorkspaceHost
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE, Workspace
from mlflow_bundle.layout import document_path
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.versions import version_of

_FIELDS = (
    "description",
    "default_artifact_root",
    "trace_archival_location",
    "trace_archival_retention",
)


class DatabaseWorkspaces(WorkspaceHost):
    """What one database says of its workspaces.

    Args:
        uri: Tracking URI.
        error: What is raised when the database fails: ``SourceError`` or ``SinkError``.

    Raises:
        ServerError: The database cannot be reached.
    """

    def __init__(self, uri: str, *, error: type[SourceError] | type[SinkError]) -> None:
        self._uri = uri
        self.visible = {}
        self.database: Database | None = None
        """Of a source: its workspaces are those of one state, and so is what is read of them."""
        if error is SinkError and self._is_new():
            return
        with contextlib.ExitStack() as opened:
            database = Database(uri, error=error)
            opened.callback(database.close)
            if error is SourceError:
                connection = database.state
            else:
                connection = opened.enter_context(_connected(database))
            self.enabled = database.has(WORKSPACE.directory)
            if self.enabled:
                found = _list(connection, database.tables[WORKSPACE.directory])
                found.sort(key=lambda workspace: order_key(document_path(workspace)))
                self.visible = {workspace.name: workspace for workspace in found}
            if error is SourceError:
                self.database = database
                opened.pop_all()

    def _is_new(self) -> bool:
        """Whether the database holds nothing yet: it will get the installed MLflow's tables."""
        from mlflow_bundle.sql.preparing import holds_nothing, installed_tables

        if not holds_nothing(self._uri):
            return False
        self.enabled = WORKSPACE.directory in installed_tables()
        if self.enabled:
            self.visible = {DEFAULT_WORKSPACE: Workspace(name=DEFAULT_WORKSPACE)}
        return True

    @property
    def shown_uri(self) -> str:
        return mask_uri(self._uri)

    @property
    def info(self) -> SourceInfo:
        version = version_of(self.database) if self.database is not None else ""
        return SourceInfo(uri=self.shown_uri, mlflow_version=version)

    def close(self) -> None:
        if self.database is not None:
            self.database.close()

    def _make(self, name: str, settings: dict[str, str]) -> None:
        with self._written() as (connection, table):
            known = select(sqlalchemy.literal(1)).where(table.c.name == name)
            if connection.scalar(known) is None:
                connection.execute(insert(table).values(name=name, **settings))

    def _change(self, name: str, settings: dict[str, str]) -> None:
        with self._written() as (connection, table):
            connection.execute(update(table).where(table.c.name == name).values(**settings))

    @contextlib.contextmanager
    def _written(self) -> Iterator[tuple[Connection, Table]]:
        from mlflow_bundle.sql.preparing import writable  # loads MLflow's store

        with writable(self._uri, dry=False) as database, _connected(database) as connection:
            yield connection, database.tables[WORKSPACE.directory]


@contextlib.contextmanager
def _connected(database: Database) -> Iterator[Connection]:
    with database.errors(), database.engine.begin() as connection:
        yield connection


def _list(connection: Connection, table: Table) -> list[Workspace]:
    columns = [table.c[name] for name in ("name", *_FIELDS) if name in table.c]
    found = [Workspace(**row) for row in connection.execute(select(*columns)).mappings()]
    if all(workspace.name != DEFAULT_WORKSPACE for workspace in found):
        found.append(Workspace(name=DEFAULT_WORKSPACE))
    return found
