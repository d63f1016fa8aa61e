"""Artifact trees of a server: which way leads to the files of a URI, for reading and for writing.

``mlflow-artifacts:`` locations go through the server's proxy with our own requests, which is
several times faster than MLflow's client; any other scheme goes through MLflow's artifact
repositories with the caller's own credentials. A location on the server's own disk can be read
only through the server, wherever it runs, so that a missing directory here is never mistaken for
"no artifacts".
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast
from urllib.parse import quote, urlsplit

import msgspec
import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.uri import is_local_uri

from mlflow_bundle.archive import escape_path, order_key
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, OpenedArtifact
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.session import AJAX, API, Session

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
PROXY_SCHEME = "mlflow-artifacts"

SMALL_BYTES = 4 * 1024 * 1024
"""Files up to this size are held in memory while they travel."""

_PAUSES_S = (1.0, 3.0, 10.0)

OwnerKind = Literal["run", "logged_model", "model_version"]


class ArtifactOwner(NamedTuple):
    """Whose artifacts a location holds: the server relays files by owner."""

    kind: OwnerKind
    id: str


class _Entry(msgspec.Struct, frozen=True):
    path: str
    is_dir: bool = False
    file_size: int | str | None = None


class _Listing(msgspec.Struct, frozen=True):
    files: list[_Entry] = []
    next_page_token: str | None = None


def _size(entry: _Entry) -> int | None:
    return None if entry.file_size is None else int(entry.file_size)


def _walk(list_directory: Callable[[str], Iterator[_Entry]]) -> list[ArtifactFile]:
    """List a tree one directory at a time; ``path`` of an entry is relative to the root."""
    files: list[ArtifactFile] = []
    pending = [""]
    while pending:
        directory = pending.pop()
        for entry in list_directory(directory):
            if entry.is_dir:
                pending.append(entry.path)
            elif entry.path != directory:
                files.append(ArtifactFile(entry.path, _size(entry)))
    return sorted(files, key=lambda file: order_key(escape_path(file.path)))


class _ListedOnce(ArtifactTree):
    def __init__(self) -> None:
        self._files: list[ArtifactFile] | None = None

    def files(self) -> list[ArtifactFile]:
        if self._files is None:
            self._files = self._list()
        return self._files

    def _list(self) -> list[ArtifactFile]:
        raise NotImplementedError


class HttpArtifacts(_ListedOnce):
    """A tree whose files are read with one GET each."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def _file_request(self, path: str) -> tuple[str, dict[str, str] | None]:
        """Endpoint and query parameters that give one file."""
        raise NotImplementedError

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        endpoint, params = self._file_request(file.path)
        response = self._session.request(
            "GET",
            endpoint,
            params=params,
            stream=True,
            # The announced length must be that of the bytes that come.
            headers={"Accept-Encoding": "identity"},
        )
        if not response.ok:
            self._session.refuse(response, file.path)
        length = response.headers.get("Content-Length")
        size = int(length) if length is not None and length.isdigit() else None
        stream = _ResponseStream(response, self._session)
        if size is None or (size <= SMALL_BYTES):
            return _buffered(stream, size)
        return OpenedArtifact(cast(BinaryIO, io.BufferedReader(stream, 1024 * 1024)), size)


def _buffered(stream: io.RawIOBase, size: int | None) -> OpenedArtifact:
    """Read a small stream whole, and one of unknown size to a temporary file."""
    with stream:
        if size is not None:
            data = stream.read()
            return OpenedArtifact(io.BytesIO(data), len(data))
        spooled = tempfile.SpooledTemporaryFile(SMALL_BYTES)  # noqa: SIM115 - the caller closes it
        shutil.copyfileobj(cast(BinaryIO, stream), spooled)
        length = spooled.tell()
        spooled.seek(0)
        return OpenedArtifact(cast(BinaryIO, spooled), length)


class _ResponseStream(io.RawIOBase):
    """The content of an HTTP answer; a connection that breaks is a ServerError."""

    def __init__(self, response: requests.Response, session: Session) -> None:
        self._response = response
        self._session = session

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._response.raw.read(len(buffer), decode_content=True)
        except Exception as exc:
            # urllib3's exceptions have no common base that requests would export.
            raise self._session.broken(exc) from exc
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


class ProxyRoots:
    """Which artifact roots exist behind a server's proxy, asked once per experiment.

    A root's directory is made with its first file, and most runs of most servers have none: one
    listing of the experiment's directory spares a request for each of them.

    Args:
        session: The server.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._names: dict[str, Future[set[str] | None]] = {}

    def may_hold(self, root: str) -> bool:
        """Whether files may lie below ``root``, e.g. ``1/<run_id>/artifacts``."""
        owner, _, last = root.rpartition("/")
        parent, _, name = owner.rpartition("/")
        if last != "artifacts" or not parent:
            return True
        with self._lock:
            future = self._names.get(parent)
            asks = future is None
            if future is None:
                future = self._names[parent] = Future()
        if asks:
            future.set_result(self._list(parent))
        names = future.result()
        return names is None or name in names

    def _list(self, parent: str) -> set[str] | None:
        try:
            listing: _Listing = self._session.get(
                PROXY, params={"path": parent}, type=_Listing, what=f"artifacts in {parent}"
            )
        except ServerError:
            # Then each root is listed by itself, and says what is wrong.
            return None
        return {entry.path.rstrip("/").rpartition("/")[2] for entry in listing.files}


class ProxiedArtifacts(HttpArtifacts):
    """Files behind the server's artifact proxy.

    Args:
        session: The server.
        root: Path below the proxy, e.g. ``1/<run_id>/artifacts``.
        roots: Knows which roots exist, if asking it pays.
    """

    def __init__(self, session: Session, root: str, roots: ProxyRoots | None = None) -> None:
        super().__init__(session)
        self._root = root.strip("/")
        self._roots = roots

    def _list(self) -> list[ArtifactFile]:
        if self._roots is not None and not self._roots.may_hold(self._root):
            return []
        return _walk(self._list_directory)

    def _list_directory(self, directory: str) -> Iterator[_Entry]:
        path = posixpath.join(self._root, directory) if directory else self._root
        listing: _Listing = self._session.get(
            PROXY, params={"path": path}, type=_Listing, what=f"artifacts in {path}"
        )
        for entry in listing.files:
            below = posixpath.join(directory, entry.path) if directory else entry.path
            yield msgspec.structs.replace(entry, path=below)

    def _file_request(self, path: str) -> tuple[str, None]:
        return f"{PROXY}/{quote(posixpath.join(self._root, path))}", None


class RelayedArtifacts(HttpArtifacts):
    """Files that the server reads for us, whatever store they are in.

    Args:
        session: The server.
        owner: A run or logged model.
    """

    def __init__(self, session: Session, owner: ArtifactOwner) -> None:
        super().__init__(session)
        self._owner = owner

    def _list(self) -> list[ArtifactFile]:
        return _walk(self._list_directory)

    def _list_directory(self, directory: str) -> Iterator[_Entry]:
        if self._owner.kind == "run":
            endpoint, parameter = f"{API}artifacts/list", "path"
            query = {"run_id": self._owner.id}
        else:
            endpoint = f"{API}logged-models/{quote(self._owner.id)}/artifacts/directories"
            parameter, query = "artifact_directory_path", {}
        if directory:
            query[parameter] = directory
        what = f"artifacts of {self._owner.kind} {self._owner.id}"
        for page in self._session.iter_pages("GET", endpoint, query, type=_Listing, what=what):
            yield from page.files

    def _file_request(self, path: str) -> tuple[str, dict[str, str]]:
        if self._owner.kind == "run":
            return "/get-artifact", {"path": path, "run_uuid": self._owner.id}
        endpoint = f"{AJAX}logged-models/{quote(self._owner.id)}/artifacts/files"
        return endpoint, {"artifact_file_path": path}


class RepositoryArtifacts(_ListedOnce):
    """Files in any store that MLflow has an artifact repository for.

    Args:
        uri: Root of the tree.
        session: The server, for the URI's own resolution and the error class.
    """

    def __init__(self, uri: str, session: Session) -> None:
        super().__init__()
        self._uri = uri
        self._session = session

    def _repository(self) -> Any:
        return get_artifact_repository(self._uri, tracking_uri=self._session.uri)

    def _list(self) -> list[ArtifactFile]:
        try:
            repository = self._repository()
            return _walk(
                lambda directory: (
                    _Entry(path=info.path, is_dir=info.is_dir, file_size=info.file_size)
                    for info in repository.list_artifacts(directory or None)
                )
            )
        except Exception as exc:
            # Each store's client has exceptions of its own.
            raise self._session.store_failed(self._uri, exc) from exc

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        directory = tempfile.mkdtemp(prefix="mlflow-bundle-")
        local = Path(directory) / "artifact"
        try:
            self._repository()._download_file(file.path, str(local))
            stream = _TemporaryFile(local)
        except Exception as exc:
            shutil.rmtree(directory, ignore_errors=True)
            raise self._session.store_failed(f"{self._uri}/{file.path}", exc) from exc
        return OpenedArtifact(cast(BinaryIO, stream), local.stat().st_size)


class _TemporaryFile(io.FileIO):
    """A downloaded file that goes away, with its directory, when it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._directory = path.parent

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._directory, ignore_errors=True)


class FallbackArtifacts(_ListedOnce):
    """The first of two ways that can list: the store itself, else the server's relay."""

    def __init__(self, first: ArtifactTree, second: ArtifactTree) -> None:
        super().__init__()
        self._first = first
        self._second = second
        self._chosen: ArtifactTree = first

    def _list(self) -> list[ArtifactFile]:
        try:
            return self._first.files()
        except ServerError as reason:
            try:
                files = self._second.files()
            except ServerError:
                raise reason from None
            self._chosen = self._second
            return files

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        return self._chosen.open(file)


def proxy_root(uri: str) -> str | None:
    """Return the path below the server's own proxy that ``uri`` means, or None."""
    parts = urlsplit(uri)
    if parts.scheme == PROXY_SCHEME and not parts.netloc:
        return uri.partition(":")[2].strip("/")
    return None


def open_tree(
    session: Session, uri: str, owner: ArtifactOwner, roots: ProxyRoots | None = None
) -> ArtifactTree:
    """Return the tree at ``uri`` the way that leads there from here."""
    root = proxy_root(uri)
    if root is not None:
        return ProxiedArtifacts(session, root, roots)
    relayable = owner.kind != "model_version"
    if is_local_uri(uri) and relayable:
        return RelayedArtifacts(session, owner)
    repository = RepositoryArtifacts(uri, session)
    return (
        FallbackArtifacts(repository, RelayedArtifacts(session, owner)) if relayable else repository
    )


class Uploader:
    """Writes the artifacts of one entity.

    Args:
        session: The server.
        uri: The entity's artifact root.
        owner: The entity, to see that what was written is what the server shows.
    """

    def __init__(self, session: Session, uri: str, owner: ArtifactOwner) -> None:
        self._session = session
        self._uri = uri
        self._owner = owner
        self._root = proxy_root(uri)

    def existing(self) -> list[ArtifactFile]:
        """Return the files that are there already."""
        return open_tree(self._session, self._uri, self._owner).files()

    def upload(self, path: str, open_content: Callable[[], OpenedArtifact]) -> int:
        """Write one file and return its size.

        Args:
            path: Artifact path.
            open_content: Opens the content from its start; called again for a retry.

        Raises:
            ServerError: The store refused.
        """
        if self._root is None:
            return self._log_artifact(path, open_content)
        endpoint = f"{PROXY}/{quote(posixpath.join(self._root, path))}"
        headers = {"Content-Type": _guess_mime_type(path)}
        pauses_s = list(_PAUSES_S)
        while True:
            with (content := open_content()).stream as stream:
                if content.size <= SMALL_BYTES:
                    data: Any = stream.read()
                    response = self._session.request("PUT", endpoint, data=data, headers=headers)
                    break
                # A stream cannot be sent again from the middle: it is opened anew.
                sized: Any = _Sized(stream, content.size)
                try:
                    response = self._session.request(
                        "PUT", endpoint, data=sized, headers=headers, max_retries=0
                    )
                except ServerError:
                    if not pauses_s:
                        raise
                else:
                    if response.ok or response.status_code < 500 or not pauses_s:
                        break
                    response.close()
            time.sleep(pauses_s.pop(0))
        if not response.ok:
            self._session.refuse(response, path)
        return content.size

    def _log_artifact(self, path: str, open_content: Callable[[], OpenedArtifact]) -> int:
        directory, _, name = path.rpartition("/")
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="mlflow-bundle-"))
            content = open_content()
            stream = stack.enter_context(content.stream)
            local = os.path.join(temporary, name)
            with open(local, "wb") as file:
                shutil.copyfileobj(stream, file, 1024 * 1024)
            try:
                repository = get_artifact_repository(self._uri, tracking_uri=self._session.uri)
                repository.log_artifact(local, directory or None)
            except Exception as exc:
                # Each store's client has exceptions of its own.
                raise self._session.store_failed(f"{self._uri}/{path}", exc) from exc
        return content.size

    @property
    def writes_here(self) -> bool:
        """Whether files go to a disk of this machine, which need not be the server's."""
        return bool(is_local_uri(self._uri))

    def check_visible(self, path: str) -> None:
        """See through the server that ``path`` was written where the server looks.

        Raises:
            ServerError: The server does not show it.
        """
        tree = RelayedArtifacts(self._session, self._owner)
        if all(file.path != path for file in tree.files()):
            raise self._session.store_failed(
                self._uri,
                MlflowException(
                    "the server keeps artifacts on its own disk, which this machine does not share"
                ),
            )


class _Sized(io.RawIOBase):
    """A stream that tells its length, so that it is not sent in chunks of unknown number."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
