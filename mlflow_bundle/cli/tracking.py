"""What a tracking URI leads to: a server over HTTP, or a database or file store used directly."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from mlflow_bundle.errors import SelectionError, SinkError, SourceError

if TYPE_CHECKING:
    from mlflow_bundle.auth.database import AuthDestination
    from mlflow_bundle.cli.settings import WriteSettings
    from mlflow_bundle.contracts import ArtifactPolicy, Sink, Source
    from mlflow_bundle.host import WorkspaceHost
    from mlflow_bundle.importing import ImportOptions
    from mlflow_bundle.patience import Patience
    from mlflow_bundle.progress import Progress
    from mlflow_bundle.report import Report
    from mlflow_bundle.rest.sink import RestSink
    from mlflow_bundle.sql.artifacts import ArtifactStore
    from mlflow_bundle.sql.database import Database
    from mlflow_bundle.sql.sink import SqlSink

_REST_SCHEMES = ("http", "https", "databricks")


@dataclass(frozen=True, kw_only=True)
class DatabaseOptions:
    """What only a database needs to be told.

    Attributes:
        artifacts_destination: What lies behind its server's artifact proxy.
        default_artifact_root: Where new experiments keep their files.
        include_secrets: Whether encrypted secrets, and hashes of passwords, travel.
        auth_db: Database of the users of the server, whatever that is reached by.
    """

    artifacts_destination: str | None = None
    default_artifact_root: str | None = None
    include_secrets: bool = False
    auth_db: str | None = None

    def store(
        self, *, error: type[SourceError] | type[SinkError], patience: Patience | None = None
    ) -> ArtifactStore:
        """Return the artifact store of the server that the database belongs to."""
        from mlflow_bundle.sql.artifacts import ArtifactStore

        return ArtifactStore(
            artifacts_destination=self.artifacts_destination,
            default_artifact_root=self.default_artifact_root,
            error=error,
            patience=patience,
        )

    def refuse_for_server(self, uri: str) -> None:
        """Refuse what a server would ignore.

        Raises:
            SelectionError: Something of it is given.
        """
        given = {
            "--artifacts-destination": self.artifacts_destination,
            "--default-artifact-root": self.default_artifact_root,
            "--include-secrets": self.include_secrets and self.auth_db is None,
        }
        for option, value in given.items():
            if value:
                raise SelectionError(
                    f"{option} is for a database, and {_shown(uri)} is a server",
                    hint="leave it out: the server itself says where its artifacts are, and shows "
                    "no secrets",
                )


NOTHING_TOLD = DatabaseOptions()


def tracking_uri(given: str | None) -> str:
    """Return the tracking URI: the one given, else MLflow's own.

    Raises:
        SelectionError: It is neither a server that can be reached over HTTP nor a database nor a
            file store.
    """
    if given is None:
        import mlflow  # takes a second, which an export of a database can do without

        given = mlflow.get_tracking_uri()
    uri = given
    if speaks_rest(uri) or is_database(uri) or file_store(uri) is not None:
        return uri
    raise SelectionError(
        f"the tracking URI {_shown(uri)!r} is no MLflow server (http:// or https://), no database "
        "(sqlite://, postgresql:// or mysql://) and no directory of MLflow's file store, which can "
        "only be read",
        hint="give --tracking-uri or set MLFLOW_TRACKING_URI, e.g. http://localhost:5000 or "
        "sqlite:////srv/mlflow.db",
    )


def speaks_rest(uri: str) -> bool:
    """Whether a tracking URI names a server: by HTTP, or a Databricks workspace."""
    return uri == "databricks" or urlsplit(uri).scheme.lower() in _REST_SCHEMES


def file_store(uri: str) -> Path | None:
    """Return the directory of MLflow's file store that a tracking URI names, if it does."""
    if not (uri.startswith("file:") or (uri and Path(uri).is_dir())):
        return None
    from mlflow_bundle.filestore.files import directory_of, is_file_store

    directory = directory_of(uri)
    return directory if directory is not None and is_file_store(directory) else None


def is_database(uri: str) -> bool:
    """Whether a tracking URI is a database."""
    return uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "postgres", "mysql")


def open_host(
    uri: str,
    *,
    error: type[SourceError] | type[SinkError],
    patience: Patience | None = None,
) -> WorkspaceHost:
    """Open what holds the workspaces at a tracking URI, for as long as the command runs.

    Args:
        uri: As :func:`tracking_uri` returned it.
        error: What is raised when it fails.
        patience: How long a server may be away.

    Raises:
        ServerError: Of type ``error``: it cannot be reached.
        SelectionError: It is to be written, and can only be read, or by a newer MLflow only.
    """
    host: WorkspaceHost
    if (directory := file_store(uri)) is not None:
        from mlflow_bundle.filestore.source import FileStoreHost

        if error is SinkError:
            raise SelectionError(
                f"{directory} is a directory of MLflow's file store, which is only read",
                hint="give a server or a database to write to, e.g. sqlite:///mlflow.db",
            )
        host = FileStoreHost(directory)
    elif is_database(uri):
        from mlflow_bundle.sql.versions import require_writing
        from mlflow_bundle.sql.workspaces import DatabaseWorkspaces

        if error is SinkError:
            require_writing()
        host = DatabaseWorkspaces(uri, error=error)
    else:
        from mlflow_bundle.rest.workspaces import ServerWorkspaces

        host = ServerWorkspaces(uri, error=error, patience=patience)
    click.get_current_context().call_on_close(host.close)
    return host


def open_auth_source(database: DatabaseOptions) -> Database | None:
    """Open the database of users that the options name, for as long as the command runs.

    Raises:
        SourceError: It cannot be reached, or is something else.
    """
    if database.auth_db is None:
        return None
    from mlflow_bundle.auth.database import open_to_read

    auth = open_to_read(database.auth_db)
    click.get_current_context().call_on_close(auth.close)
    return auth


def open_auth_destination(database: DatabaseOptions) -> AuthDestination | None:
    """Look at the database of users that the options name; nothing is written yet.

    Raises:
        SinkError: It cannot be written.
    """
    if database.auth_db is None:
        return None
    from mlflow_bundle.auth.database import AuthDestination

    auth = AuthDestination(database.auth_db)
    click.get_current_context().call_on_close(auth.close)
    return auth


def open_source(
    uri: str,
    *,
    host: WorkspaceHost,
    jobs: int,
    workspace: str | None = None,
    artifacts: ArtifactPolicy = "copy",
    notebook_formats: tuple[str, ...] = (),
    list_label_schemas: bool = False,
    database: DatabaseOptions = NOTHING_TOLD,
    auth: Database | None = None,
    patience: Patience | None = None,
) -> Source:
    """Open a tracking URI for reading.

    Args:
        uri: As :func:`tracking_uri` returned it.
        host: What :func:`open_host` returned for it: all workspaces of a database are read as they
            were at one moment.
        jobs: Requests, or files, at once.
        workspace: The only one that is read; None where there are none.
        artifacts: Whether artifact files are handed out.
        notebook_formats: Of a Databricks workspace.
        list_label_schemas: Of a server: whether it may be made to add its default one.
        database: Of a database.
        auth: What :func:`open_auth_source` returned: users and roles are read too.
        patience: How long a server may be away.

    Raises:
        SourceError: It cannot be reached.
    """
    source = _open_source(
        uri,
        host=host,
        jobs=jobs,
        workspace=workspace,
        artifacts=artifacts,
        notebook_formats=notebook_formats,
        list_label_schemas=list_label_schemas,
        database=database,
        patience=patience,
    )
    if auth is None:
        return source
    from mlflow_bundle.auth.source import AuthSource
    from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE

    return AuthSource(
        source,
        auth,
        workspace=workspace or DEFAULT_WORKSPACE,
        workspaces=host.visible,
        include_secrets=database.include_secrets,
    )


def _open_source(
    uri: str,
    *,
    host: WorkspaceHost,
    jobs: int,
    workspace: str | None,
    artifacts: ArtifactPolicy,
    notebook_formats: tuple[str, ...],
    list_label_schemas: bool,
    database: DatabaseOptions,
    patience: Patience | None,
) -> Source:
    if (directory := file_store(uri)) is not None:
        from mlflow_bundle.filestore.source import FileStoreSource

        store = database.store(error=SourceError, patience=patience)
        return FileStoreSource(directory, artifacts=artifacts, store=store)
    if is_database(uri):
        from mlflow_bundle.sql.source import SqlSource
        from mlflow_bundle.sql.workspaces import DatabaseWorkspaces

        store = database.store(error=SourceError, patience=patience)
        return SqlSource(
            uri,
            artifacts=artifacts,
            open_tree=store.tree,
            objection=store.objection,
            workspace=workspace,
            include_secrets=database.include_secrets,
            shared=host.database if isinstance(host, DatabaseWorkspaces) else None,
            jobs=jobs,
        )
    from mlflow_bundle.rest.source import RestSource

    database.refuse_for_server(uri)
    return RestSource(
        uri,
        jobs=jobs,
        artifacts=artifacts,
        notebook_formats=notebook_formats,
        list_label_schemas=list_label_schemas,
        workspace=workspace,
        patience=patience,
    )


def open_sink(
    uri: str,
    report: Report,
    *,
    options: ImportOptions,
    jobs: int,
    progress: Progress,
    workspace: str | None = None,
    database: DatabaseOptions = NOTHING_TOLD,
    auth: AuthDestination | None = None,
    patience: Patience | None = None,
) -> Sink:
    """Open a tracking URI for writing.

    Args:
        uri: As :func:`tracking_uri` returned it.
        report: Counts what is written.
        options: What the user asked of the import.
        jobs: Requests, or files, at once.
        progress: Told of objects and bytes.
        workspace: The one that is written to; None where there are none.
        database: Of a database.
        auth: What :func:`open_auth_destination` returned: users and roles are written too.
        patience: How long a server may be away.

    Raises:
        SinkError: It cannot be reached.
    """
    from mlflow_bundle.auth.sink import AuthSink
    from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE

    sink = _open_sink(
        uri,
        report,
        options=options,
        jobs=jobs,
        progress=progress,
        workspace=workspace,
        database=database,
        patience=patience,
    )
    writer = None
    if auth is not None:
        from mlflow_bundle.auth.writer import AuthWriter

        writer = AuthWriter(
            auth,
            sink.importing,
            workspace=workspace or DEFAULT_WORKSPACE,
            include_secrets=database.include_secrets,
        )
    return AuthSink(sink, sink.importing, writer)


def _open_sink(
    uri: str,
    report: Report,
    *,
    options: ImportOptions,
    jobs: int,
    progress: Progress,
    workspace: str | None,
    database: DatabaseOptions,
    patience: Patience | None,
) -> SqlSink | RestSink:
    if is_database(uri):
        from mlflow_bundle.sql.sink import SqlSink

        store = database.store(error=SinkError, patience=patience)
        if options.artifacts == "copy":
            store.resolve(store.default_root)  # before anything is written
        return SqlSink(
            uri,
            report,
            options=options,
            artifact_store=store,
            workspace=workspace,
            progress=progress,
            jobs=jobs,
            include_secrets=database.include_secrets,
        )
    from mlflow_bundle.rest.sink import RestSink

    database.refuse_for_server(uri)
    return RestSink(
        uri,
        report,
        options=options,
        jobs=jobs,
        progress=progress,
        workspace=workspace,
        patience=patience,
    )


def workspace_in_use() -> str:
    """Return the workspace that MLflow's client would use (``MLFLOW_WORKSPACE``), or nothing."""
    if "mlflow" not in sys.modules and not os.environ.get("MLFLOW_WORKSPACE"):
        return ""  # nothing can have set one: MLflow's import takes a second
    try:
        from mlflow.utils.workspace_context import get_request_workspace
    except ImportError:  # MLflow < 3.10
        return ""
    return get_request_workspace() or ""


def workspaces_in_use() -> tuple[str, ...]:
    """Return the workspaces that a source is read for where none are named."""
    name = workspace_in_use()
    return (name,) if name else ()


def import_options_of(settings: WriteSettings, *, to: str) -> ImportOptions:
    """Return what the options of an import or a copy say.

    Args:
        settings: As the command line has them.
        to: Where it goes, as :func:`tracking_uri` returned it.

    Raises:
        SelectionError: One of them is not for that destination.
    """
    if settings.rewrite_location and not is_database(to):
        raise SelectionError(
            f"--rewrite-location is for a database, and {_shown(to)} is a server",
            hint="MLflow's API cannot set where files are: give the database that is behind it",
        )
    from mlflow_bundle.importing import ImportOptions

    return ImportOptions(
        experiment_name_prefix=settings.experiment_name_prefix,
        rename_experiments=settings.rename_experiment,
        rename_models=settings.rename_model,
        use_src_user_id=settings.use_src_user_id,
        user=_importing_user(),
        users=settings.user_map,
        extra_tags=settings.tag,
        on_conflict=settings.on_conflict,
        delete_model=settings.delete_model,
        renumber=settings.renumber,
        placeholder_secrets=settings.placeholder_secrets,
        steal=settings.steal,
        artifacts=settings.artifacts,
        rewrite_locations=settings.rewrite_location,
    )


def _importing_user() -> str:
    """Return the name that MLflow would give a run of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _shown(uri: str) -> str:
    from mlflow_bundle.credentials import mask_uri

    return mask_uri(uri)
