"""Artifacts inside a bundle, read through MLflow by ``mlbundle:`` URIs.

``mlbundle:///abs/path/server.mlbundle/experiments/1/<run_id>/artifacts`` is the directory
``experiments/1/<run_id>/artifacts`` of that bundle. The file's path is percent-decoded as in
``file:`` URIs; what follows is the member path as it stands in the bundle, escapes included.
Artifact paths below it are given and listed as the user logged them.

Not promised: an artifact name so long that the bundle holds a digest of it is listed under that
shortened name; it can be read by either.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from urllib.parse import unquote

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DATA_LOSS,
    INVALID_PARAMETER_VALUE,
    IO_ERROR,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from mlflow_bundle.archive import ArchiveReader, Member, escape_path, unescape_component
from mlflow_bundle.errors import BundleError

_SCHEME = "mlbundle:"
_SUFFIX = ".mlbundle"
_CHUNK_BYTES = 1 << 20
_HEADER_DIRECTORY = ".mlbundle"


def split_uri(uri: str) -> tuple[str, str]:
    """Split an ``mlbundle:`` URI into the bundle's file path and a member directory.

    The bundle is the first component whose name ends in ``.mlbundle`` and that is a file, or the
    first of such a name when none is.

    Raises:
        MlflowException: The URI has a host, a relative path, or no such component.
    """
    rest = uri[len(_SCHEME) :] if uri.startswith(_SCHEME) else uri
    if rest.startswith("//"):
        rest = rest[2:]
        if rest.startswith("localhost/"):
            rest = rest[len("localhost") :]
    components = rest.split("/")
    ends = [i + 1 for i, name in enumerate(components) if unquote(name).endswith(_SUFFIX)]
    if not rest.startswith("/") or not ends:
        raise MlflowException(
            f"Invalid bundle URI {uri!r}: expected mlbundle:///abs/path/name.mlbundle/directory",
            error_code=INVALID_PARAMETER_VALUE,
        )
    candidates = [(unquote("/".join(components[:end])), end) for end in ends]
    path, end = next((c for c in candidates if os.path.isfile(c[0])), candidates[0])
    return path, "/".join(component for component in components[end:] if component)


class BundleArtifactRepository(ArtifactRepository):  # type: ignore[misc]  # mlflow is untyped here
    """Read-only artifact repository over a directory of a bundle.

    Opens the bundle at first use and keeps it open. Every write is refused.
    """

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri)  # the base class of MLflow 3.0 takes no more than this
        self.tracking_uri = tracking_uri
        self.registry_uri = registry_uri
        self._path, self._directory = split_uri(artifact_uri)
        self._lock = threading.Lock()
        self._opened: ArchiveReader | None = None

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what lies directly under ``path``; empty for a file and for what is not there."""
        with self._faults():
            for directory in self._candidates(path or ""):
                found = list(self._iter_children(directory, (path or "").strip("/")))
                if found:
                    return sorted(found, key=lambda info: str(info.path))
        return []

    def _iter_children(self, directory: str, path: str) -> Iterator[FileInfo]:
        for component, is_directory in self._reader().iter_directory(directory):
            if not directory and component == _HEADER_DIRECTORY:
                continue
            # None for the hashed form of a long name: its original is not in the index.
            name = unescape_component(component) or component
            member = None
            if not is_directory:
                member = self._reader().find(_join(directory, component))
            size = None if member is None else member.size
            yield FileInfo(_join(path, name), is_directory, size)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        with self._faults():
            member = self._find(remote_file_path)
            # Written beside its place: a damaged artifact leaves nothing under the final name.
            directory = os.path.dirname(os.path.abspath(local_path))
            partial = os.path.join(directory, f".{uuid.uuid4().hex}.partial")
            try:
                with self._reader().open_member(member) as content, open(partial, "xb") as out:
                    shutil.copyfileobj(content, out, _CHUNK_BYTES)
                os.replace(partial, local_path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(partial)
                raise

    def _find(self, path: str) -> Member:
        for candidate in self._candidates(path):
            member = self._reader().find(candidate)
            if member is not None:
                return member
        raise MlflowException(
            f"No such artifact: {path!r} in {self.artifact_uri}",
            error_code=RESOURCE_DOES_NOT_EXIST,
        )

    def _candidates(self, path: str) -> list[str]:
        """Return the member paths that ``path`` may mean: its escaped form, then as it stands."""
        path = path.strip("/")
        if not path:
            return [self._directory]
        escaped = escape_path(path)
        forms = [escaped] if escaped == path else [escaped, path]
        return [_join(self._directory, form) for form in forms]

    def _reader(self) -> ArchiveReader:
        with self._lock:
            if self._opened is None:
                self._opened = ArchiveReader.open(self._path)
            return self._opened

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn our errors into MLflow's: this is the seam between them."""
        try:
            yield
        except BundleError as exc:
            raise MlflowException(f"{self._path}: {exc}", error_code=DATA_LOSS) from exc
        except FileNotFoundError as exc:
            raise MlflowException(str(exc), error_code=RESOURCE_DOES_NOT_EXIST) from exc
        except PermissionError as exc:
            raise MlflowException(str(exc), error_code=PERMISSION_DENIED) from exc
        except OSError as exc:
            raise MlflowException(str(exc), error_code=IO_ERROR) from exc

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._refuse("log artifacts")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self._refuse("log artifacts")

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        self._refuse("delete artifacts")

    def _log_artifact_async(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("log artifacts")

    def _refuse(self, what: str) -> NoReturn:
        raise MlflowException(
            f"Cannot {what}: the bundle {self._path} is read-only. Import it into a server first.",
            error_code=PERMISSION_DENIED,
        )


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
