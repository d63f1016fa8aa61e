"""Artifact trees of a server: which way leads to the files of a URI, for reading and for writing.

``mlflow-artifacts:`` locations go through the server's proxy with our own requests, which is
several times faster than MLflow's client; any other scheme goes through MLflow's artifact
repositories with the caller's own credentials. So do the files of a proxy that lets none through
and signs URLs of its store instead. A location on the server's own disk can be read only through
the server, wherever it runs, so that a missing directory here is never mistaken for "no artifacts".
"""

from __future__ import annotations

import io
import posixpath
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, BinaryIO, Literal, NamedTuple, cast
from urllib.parse import quote, urlsplit

import msgspec
import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.uri import (
    add_databricks_profile_info_to_artifact_uri,
    is_local_uri,
    validate_path_is_safe,
)

from mlflow_bundle.artifacts import (
    SMALL_BYTES,
    Entry,
    ListedOnce,
    RepositoryTree,
    put_in_repository,
    walk,
)
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, OpenedArtifact
from mlflow_bundle.errors import BundleError, ServerError, SinkError, SourceError
from mlflow_bundle.rest.session import AJAX, API, Session

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
PROXY_SCHEME = "mlflow-artifacts"

_PAUSES_S = (1.0, 3.0, 10.0)

OwnerKind = Literal["run", "logged_model", "model_version", "skill", "trace"]


class ArtifactOwner(NamedTuple):
    """Whose artifacts a location holds: the server relays files by owner."""

    kind: OwnerKind
    id: str
    files: tuple[str, ...] = ()
    """Of a trace: paths that it may have, which the server relays but cannot list."""


class _Entry(msgspec.Struct, frozen=True):
    path: str
    is_dir: bool = False
    file_size: int | str | None = None

    def entry(self) -> Entry:
        size = None if self.file_size is None else int(self.file_size)
        return Entry(self.path, self.is_dir, size)


class _Listing(msgspec.Struct, frozen=True):
    files: list[_Entry] = []
    next_page_token: str | None = None


class HttpArtifacts(ListedOnce):
    """A tree whose files are read with one GET each."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def _file_request(self, path: str) -> tuple[str, dict[str, str] | None]:
        """Endpoint and query parameters that give one file."""
        raise NotImplementedError

    def _taken_for(self, path: str) -> str:
        """The path that the server takes one for."""
        return path

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        taken = self._taken_for(file.path)
        if taken != file.path and any(other.path == taken for other in self.files()):
            raise SourceError(
                f"{file.path}: MLflow's server gives the content of {taken!r} for it",
                status=HTTPStatus.BAD_GATEWAY,
                hint="export from the server's database, or rename one of the two",
            )
        stream = _ResponseStream(self._session, file.path, *self._file_request(file.path))
        if stream.size is None or (stream.size <= SMALL_BYTES):
            return _buffered(stream, stream.size)
        return OpenedArtifact(cast(BinaryIO, io.BufferedReader(stream, 1024 * 1024)), stream.size)


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
    """The content of a file; where the connection breaks, it is asked for again and goes on.

    Args:
        session: The server.
        path: Of the file, for messages.
        endpoint: Gives the file.
        params: Query parameters.

    Raises:
        ServerError: The server refused, or the connection broke again and again.
    """

    def __init__(
        self, session: Session, path: str, endpoint: str, params: dict[str, str] | None
    ) -> None:
        self._session = session
        self._path = path
        self._endpoint = endpoint
        self._params = params
        self._position = 0
        self._pauses_s = list(_PAUSES_S)
        self._response = self._request()
        self.size = _length_of(self._response)
        """Bytes; None when the server does not say."""

    def _request(self) -> requests.Response:
        response = self._session.request(
            "GET",
            self._endpoint,
            params=self._params,
            stream=True,
            # The announced length must be that of the bytes that come.
            headers={"Accept-Encoding": "identity"},
        )
        if not response.ok:
            self._session.refuse(response, self._path)
        return response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        skip = 0
        while True:
            try:
                while skip > 0:
                    # One that has become shorter ends; whoever knows its size will see it.
                    skip -= len(self._received(min(skip, 1024 * 1024))) or skip
                data = self._received(len(buffer))
                break
            except Exception as exc:
                # urllib3's exceptions have no common base that requests would export.
                if not self._pauses_s:
                    raise self._session.broken(exc) from exc
            self._response.close()
            time.sleep(self._pauses_s.pop(0))
            self._response = self._request()
            # MLflow's servers give no part of a file: what came already comes again.
            skip = self._position
        self._position += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _received(self, size: int) -> bytes:
        data: bytes = self._response.raw.read(size, decode_content=True)
        return data

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


def _length_of(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and length.isdigit() else None


_ANY_ROOT = "root/"


def _decoded_below(root: str, path: str) -> str:
    """Return what MLflow's server takes an artifact path for: it decodes it as if it were a URL.

    Args:
        root: What the server puts before it; empty or with a slash at its end.
        path: Artifact path; returned as it is where the server refuses it.
    """
    try:
        return str(validate_path_is_safe(root + path)).removeprefix(root)
    except (MlflowException, ValueError):
        return path


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
        relay: The same files by their owner, if the server relays them too.
    """

    def __init__(
        self,
        session: Session,
        root: str,
        roots: ProxyRoots | None = None,
        relay: RelayedArtifacts | None = None,
    ) -> None:
        super().__init__(session)
        self._root = root.strip("/")
        self._roots = roots
        self._relay = relay

    def _list(self) -> list[ArtifactFile]:
        if self._roots is not None and not self._roots.may_hold(self._root):
            return []
        return walk(self._list_directory)

    def _list_directory(self, directory: str) -> Iterator[Entry]:
        path = posixpath.join(self._root, directory) if directory else self._root
        listing: _Listing = self._session.get(
            PROXY, params={"path": path}, type=_Listing, what=f"artifacts in {path}"
        )
        for entry in listing.files:
            below = posixpath.join(directory, entry.path) if directory else entry.path
            yield entry.entry()._replace(path=below)

    def _taken_for(self, path: str) -> str:
        return _decoded_below(_ANY_ROOT, path)

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        if self._relay is not None and not _is_latin_1(posixpath.basename(file.path)):
            # The proxy of older servers (3.10 among them) puts the name into a header, which
            # breaks the connection (_response_with_file_attachment_headers, server/handlers.py).
            try:
                return self._relay.open(file)
            except ServerError as exc:
                # Of a deleted logged model only the proxy gives files.
                if not (self._session.is_missing(exc) or self._session.is_direct(exc)):
                    raise
        if not self._session.is_direct():
            try:
                return super().open(file)
            except ServerError as exc:
                if not self._session.is_direct(exc):
                    raise
        return _repository_tree(f"{PROXY_SCHEME}:/{self._root}", self._session).open(file)

    def _file_request(self, path: str) -> tuple[str, None]:
        return f"{PROXY}/{quote(posixpath.join(self._root, path))}", None


def _is_latin_1(name: str) -> bool:
    try:
        name.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


class RelayedArtifacts(HttpArtifacts):
    """Files that the server reads for us, whatever store they are in.

    Args:
        session: The server.
        owner: A run, logged model or trace.
    """

    def __init__(self, session: Session, owner: ArtifactOwner) -> None:
        super().__init__(session)
        self._owner = owner

    def _list(self) -> list[ArtifactFile]:
        if self._owner.kind == "trace":
            return [file for path in sorted(self._owner.files) for file in self._found(path)]
        return walk(self._list_directory)

    def _found(self, path: str) -> Iterator[ArtifactFile]:
        """Yield one file of a trace, if it is there."""
        endpoint, params = self._file_request(path)
        response = self._session.request("GET", endpoint, params=params, stream=True)
        with response:
            if response.ok:
                yield ArtifactFile(path, None)
                return
            try:
                self._session.refuse(response, path)
            except ServerError as exc:
                # Who does not answer in MLflow's words cannot tell that there is none.
                if not self._session.is_missing(exc) or self._session.is_absent(exc):
                    raise

    def _list_directory(self, directory: str) -> Iterator[Entry]:
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
            yield from (entry.entry() for entry in page.files)

    def _taken_for(self, path: str) -> str:
        return _decoded_below("", path) if self._owner.kind == "run" else path

    def _file_request(self, path: str) -> tuple[str, dict[str, str]]:
        if self._owner.kind == "run":
            return "/get-artifact", {"path": path, "run_uuid": self._owner.id}
        if self._owner.kind == "trace":
            query = {"request_id": self._owner.id}
            if path.startswith("attachments/"):
                query["path"] = path.removeprefix("attachments/")
            return f"{AJAX}get-trace-artifact", query
        endpoint = f"{AJAX}logged-models/{quote(self._owner.id)}/artifacts/files"
        return endpoint, {"artifact_file_path": path}


def _repository(uri: str, session: Session) -> Any:
    """MLflow's repository for a URI, in the workspace of the session if that is Databricks."""
    uri = add_databricks_profile_info_to_artifact_uri(uri, session.uri)
    return get_artifact_repository(uri, tracking_uri=session.uri)


def _repository_tree(uri: str, session: Session) -> RepositoryTree:
    return RepositoryTree(
        uri,
        lambda: _repository(uri, session),
        failed=session.store_failed,
        inside=session.in_workspace,
    )


class FallbackArtifacts(ListedOnce):
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
        relay = RelayedArtifacts(session, owner) if owner.kind in ("run", "logged_model") else None
        return ProxiedArtifacts(session, root, roots, relay)
    relayable = owner.kind not in ("model_version", "skill")
    if is_local_uri(uri) and relayable:
        return RelayedArtifacts(session, owner)
    repository = _repository_tree(uri, session)
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

    directory = None

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
        if self._root is None or self._session.is_direct():
            return self._log_artifact(path, open_content)
        if (taken := _decoded_below(_ANY_ROOT, path)) != path:
            raise SinkError(
                f"MLflow's server would take its name for {taken!r}, as if it were part of a URL",
                status=HTTPStatus.BAD_REQUEST,
            )
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
                    response = self._session.request("PUT", endpoint, data=sized, headers=headers)
                except ServerError as exc:
                    if exc.status is None or not pauses_s:
                        raise
                else:
                    if response.ok or response.status_code < 500 or not pauses_s:
                        break
                    response.close()
            time.sleep(pauses_s.pop(0))
        if response.ok:
            return content.size
        try:
            self._session.refuse(response, path)
        except ServerError as exc:
            if not self._session.is_direct(exc):
                raise
        return self._log_artifact(path, open_content)

    def _log_artifact(self, path: str, open_content: Callable[[], OpenedArtifact]) -> int:
        with (content := open_content()).stream:
            try:
                with self._session.in_workspace():
                    put_in_repository(_repository(self._uri, self._session), path, content)
            except BundleError:  # of whoever is read from
                raise
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
        tree = RelayedArtifacts(self._session, self._owner._replace(files=(path,)))
        if all(file.path != path for file in tree.files()):
            raise self._session.store_failed(
                self._uri,
                MlflowException(
                    "the server keeps artifacts on its own disk, which this machine does not share"
                ),
            )


class _Sized(io.RawIOBase):
    """A stream that tells its length, so that it is not sent in chunks of unknown number.

    MLflow 3.10 stores a body sent in chunks as an empty file, and says that all is well.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._position = 0

    def __len__(self) -> int:
        return self._size

    def tell(self) -> int:
        # requests sends in chunks what cannot tell where it stands.
        return self._position

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
