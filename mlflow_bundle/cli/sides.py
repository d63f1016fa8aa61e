"""What a comparison is made of on the command line: a bundle, a directory or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlflow_bundle.cli.tracking import (
    NOTHING_TOLD,
    DatabaseOptions,
    file_store,
    is_database,
    open_auth_source,
    open_host,
    open_source,
    speaks_rest,
)
from mlflow_bundle.credentials import mask_uri

if TYPE_CHECKING:
    from mlflow_bundle.bundles.source import BundleSource
    from mlflow_bundle.contracts import Source
    from mlflow_bundle.diff import Place

_BUNDLE_SUFFIX = ".mlbundle"


def is_server(text: str) -> bool:
    """Whether ``text`` is a tracking URI: a bundle may be at an https URL too."""
    if is_database(text) or file_store(text) is not None:
        return True
    return speaks_rest(text) and not urlsplit(text).path.endswith(_BUNDLE_SUFFIX)


def open_place(text: str, *, jobs: int, database: DatabaseOptions = NOTHING_TOLD) -> Place:
    """Open a tracking URI, a bundle or a directory; the caller closes its source.

    Raises:
        BundleError: It cannot be read.
        FormatError: It is no bundle, or a damaged one.
    """
    if is_server(text):
        return server_place(text, jobs=jobs, database=database)
    from mlflow_bundle.bundles.opening import open_tree
    from mlflow_bundle.bundles.source import BundleSource

    return bundle_place(BundleSource(open_tree(text), name=shown_name(text)))


def server_place(uri: str, *, jobs: int, database: DatabaseOptions = NOTHING_TOLD) -> Place:
    """Open a server or its database; the caller closes its source.

    Raises:
        SourceError: It cannot be reached.
    """
    from mlflow_bundle.diff import Place
    from mlflow_bundle.errors import SourceError
    from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE

    def open_workspace(name: str | None) -> Source:
        return open_source(uri, host=host, jobs=jobs, workspace=name, database=database, auth=auth)

    host = open_host(uri, error=SourceError)
    auth = open_auth_source(database)
    return Place(
        source=open_workspace(None),
        others=[name for name in host.visible if name != DEFAULT_WORKSPACE],
        settings=host.visible,
        open=open_workspace,
        losses=[],
    )


def bundle_place(source: BundleSource) -> Place:
    """Return the place of a bundle; the caller closes its source."""
    from mlflow_bundle.diff import Place
    from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE

    settings = source.workspaces()
    return Place(
        source=source,
        others=[name for name in settings if name != DEFAULT_WORKSPACE],
        settings=settings,
        open=source.workspace,
        losses=source.read_losses(),
    )


def shown_name(text: str) -> str:
    """Return what a message calls it, without credentials."""
    return "standard input" if text == "-" else mask_uri(text)
