"""Where the files lie that the rows of a database name, and where new ones go.

A database holds locations, not files. Those behind the artifact proxy of an ``mlflow server``
(``mlflow-artifacts:``) mean a directory that only that server's ``--artifacts-destination`` tells;
every other location means itself.
"""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow_bundle.artifacts import (
    LocalTree,
    RepositoryTree,
    is_full,
    is_inside,
    put_in_directory,
    put_in_repository,
    store_failure,
)
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, NoArtifacts, OpenedArtifact
from mlflow_bundle.errors import MAKE_ROOM, BundleError, SelectionError, ServerError
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.patience import Patience
from mlflow_bundle.sql.patient_store import PatientRepository, StoreAwayError

PROXY_ROOT = "mlflow-artifacts:/"
"""``mlflow server``'s own default for ``--default-artifact-root``."""

WORKSPACES = "workspaces"
"""Directory of those of workspaces (``WORKSPACES_DIR_NAME``, mlflow/utils/workspace_utils.py)."""

_PROXY_SCHEME = "mlflow-artifacts"
_PROXY_PATH = "/api/2.0/mlflow-artifacts/artifacts"
_DEFAULT_DESTINATION = Path("mlartifacts")
"""``mlflow server``'s own default for ``--artifacts-destination``."""

_LEVELS_MADE_LATE = 4
"""Directories of a location that appear with the first file: experiment, ``models``, logged model,
artifacts (of a run one less)."""


class ArtifactStore:
    """The artifact store of a tracking server whose database is read or written directly.

    Args:
        artifacts_destination: What lies behind the server's artifact proxy, as of
            ``mlflow server``; None for its default, if there is such a directory here.
        default_artifact_root: Where new experiments keep their files, likewise.
        error: Raised when a store fails: ``SourceError`` or ``SinkError``.
        patience: How long a store that has answered may be away.
    """

    def __init__(
        self,
        *,
        artifacts_destination: str | None = None,
        default_artifact_root: str | None = None,
        error: type[ServerError],
        patience: Patience | None = None,
    ) -> None:
        self._patience = patience or Patience()
        self._answered: set[str] = set()
        self._destination = artifacts_destination
        self.default_root = default_artifact_root or PROXY_ROOT
        self._error = error

    def objection(self) -> str:
        """Return why nothing can lie behind the proxy; empty if something can."""
        path = _local_path(self._destination) if self._destination else None
        if path is None or path.is_dir():
            return ""
        return f"--artifacts-destination {self._destination}: there is no such directory"

    def require_writable(self) -> None:
        """Refuse directories in which nothing can be made, before each file fails by itself.

        Raises:
            SelectionError: One is no directory, or not this user's to write to.
        """
        from mlflow.exceptions import MlflowException

        for option, place in (
            ("--artifacts-destination", self._destination),
            ("--default-artifact-root", self.default_root),
        ):
            try:
                path = _local_path(place) if place else None
            except MlflowException as exc:  # a file of another machine
                raise SelectionError(f"{option} {place}: {exc.message}") from exc
            if path is None:
                continue
            there = next(directory for directory in (path, *path.parents) if _exists(directory))
            reason = ""
            if not there.is_dir():
                reason = "is not a directory"
            elif not os.access(there, os.W_OK | os.X_OK):
                reason = "is not yours to write to"
            if reason:
                raise SelectionError(
                    f"{option} {place}: {there} {reason}",
                    hint="give another one, or --artifacts skip (copy's destination: --to-…)",
                )

    def resolve(self, location: str) -> str:
        """Return the URI or directory that ``location`` means.

        Raises:
            SelectionError: It is behind a proxy, and nobody said what that is.
            ServerError: It leads out of the store.
        """
        path = _path_behind_proxy(location)
        if path is None:
            return location
        if not is_inside(path):
            raise self._error(
                f"{location}: leads out of the artifact store", status=HTTPStatus.BAD_GATEWAY
            )
        if self._destination is None and not _DEFAULT_DESTINATION.is_dir():
            raise SelectionError(
                f"artifacts lie at {location}: what that is only the server of the database knows",
                hint="give --artifacts-destination (copy's destination: --to-…, diff: --a-… or "
                "--b-…) as you give it to mlflow server, or --artifacts skip",
            )
        destination = self._destination or str(_DEFAULT_DESTINATION.resolve())
        if not path:
            return destination
        if "/" in destination and ":" not in destination:  # a directory: nothing to parse
            return posixpath.join(destination, path)
        from mlflow.utils.uri import append_to_uri_path

        return str(append_to_uri_path(destination, path))

    def tree(self, location: str) -> ArtifactTree:
        """Return the files at a location."""
        uri = self.resolve(location)
        root = _local_path(uri)
        if root is not None:
            if not root.is_dir():
                self._require_neighbours(root)
                return NoArtifacts()
            return LocalTree(root, error=self._error)
        return RepositoryTree(uri, lambda: self._repository(uri), failed=self._failed)

    def place(self, location: str) -> ArtifactPlace:
        """Return a location for writing.

        Raises:
            SelectionError: It is behind a proxy, and nobody said what that is.
            ServerError: It leads out of the store.
        """
        uri = self.resolve(location)
        return ArtifactPlace(location, uri, self.tree, lambda: self._repository(uri), self._failed)

    def _repository(self, uri: str) -> PatientRepository:
        return PatientRepository(
            uri, lambda: _repository(uri), patience=self._patience, answered=self._answered
        )

    def _require_neighbours(self, root: Path) -> None:
        """Refuse a directory that is missing with all around it: it is on another machine's disk.

        Raises:
            ServerError: It is.
        """
        # The farthest first: it is that of many.
        around = list(root.parents[:_LEVELS_MADE_LATE])[::-1]
        if any(_is_directory(path) for path in around if path != path.parent):
            return
        raise self._error(
            f"{root}: there is no such directory on this machine, nor any around it",
            status=HTTPStatus.BAD_GATEWAY,
            hint="run this where the artifacts are, or give --artifacts-destination",
        )

    def _failed(self, uri: str, exc: Exception) -> ServerError:
        if isinstance(exc, StoreAwayError):
            return self._error(
                str(exc), hint="give the same command again when it is back: it goes on"
            )
        if is_full(exc):
            return self._error(store_failure(uri, exc), hint=MAKE_ROOM)
        return self._error(store_failure(uri, exc), status=HTTPStatus.BAD_GATEWAY, retryable=True)


class ArtifactPlace:
    """One location that files are written to.

    Args:
        location: As rows name it.
        uri: What it means.
        tree: Lists a location.
        repository: Makes the repository of a store that is no directory.
        failed: Makes the error for a path that failed.

    Attributes:
        directory: Where it is on this machine, if it is.
    """

    def __init__(
        self,
        location: str,
        uri: str,
        tree: Callable[[str], ArtifactTree],
        repository: Callable[[], PatientRepository],
        failed: Callable[[str, Exception], ServerError],
    ) -> None:
        self._location = location
        self._uri = uri
        self.directory = _local_path(uri)
        self._tree = tree
        self._make = repository
        self._failed = failed
        self._repository: PatientRepository | None = None

    def existing(self) -> list[ArtifactFile]:
        """Return the files that are there already."""
        if self.directory is not None and not self.directory.is_dir():
            return []
        files = self._tree(self._location).files()
        if self.directory is None:
            return files
        return [file for file in files if file.size is not None]  # not a link to nothing

    def upload(self, path: str, open_content: Callable[[], OpenedArtifact]) -> int:
        """Write one file and return its size.

        Args:
            path: Artifact path.
            open_content: Opens the content from its start.

        Raises:
            ServerError: The store refused, or the content could not be read.
            FormatError: The bundle that is read is damaged.
        """
        with (content := open_content()).stream:
            try:
                if self.directory is not None:
                    put_in_directory(self.directory, path, content)
                elif not is_inside(path):
                    raise ValueError("a name that leads out of its directory")
                else:
                    self._repository = self._repository or self._make()
                    put_in_repository(self._repository, path, content)
            except BundleError:  # of whoever is read from
                raise
            except Exception as exc:
                # Each store's client has exceptions of its own.
                raise self._failed(posixpath.join(self._uri, path), exc) from exc
        return content.size


# MLflow is imported where it is needed only: that takes a second, as long as many an export.


def _local_path(uri: str) -> Path | None:
    """Return the directory of this machine that a URI means, if it does."""
    if "/" in uri and ":" not in uri:
        return Path(uri).absolute()
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    return Path(local_file_uri_to_path(uri)).absolute() if is_local_uri(uri) else None


def _repository(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)


@functools.lru_cache(4096)
def _is_directory(path: Path) -> bool:
    """Whether there is one; asked once, since that of most runs and traces is missing."""
    return path.is_dir()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # what lies below a directory that may not be entered
        return False


def in_workspace(location: str, workspace: str) -> str:
    """Return what a location means that MLflow keeps relative to the workspace of its owner.

    Those of runs and models name the workspace themselves; the server adds it to the others
    (``_get_workspace_scoped_repo_path_if_enabled``, mlflow/server/handlers.py).
    """
    path = _path_behind_proxy(location)
    if path is None or workspace == DEFAULT_WORKSPACE or path.startswith(f"{WORKSPACES}/"):
        return location
    return f"{PROXY_ROOT}{WORKSPACES}/{workspace}/{path}"


def _path_behind_proxy(location: str) -> str | None:
    """Return the path below a server's proxy that a location means, or None."""
    parts = urlsplit(location)
    if parts.scheme == _PROXY_SCHEME:
        return unquote(parts.path).strip("/")
    if parts.scheme in ("http", "https") and _PROXY_PATH in parts.path:
        return unquote(parts.path.partition(_PROXY_PATH)[2]).strip("/")
    return None
