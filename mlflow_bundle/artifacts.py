"""Artifact trees in the stores that MLflow has artifact repositories for, and on local disks.

A repository downloads to a file and uploads from one; what travels between goes through a
temporary file. Local directories are read and written directly.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from mlflow_bundle.archive import escape_path, order_key
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, OpenedArtifact
from mlflow_bundle.credentials import mask_uri, mask_uris_in
from mlflow_bundle.errors import ServerError

SMALL_BYTES = 4 * 1024 * 1024
"""Files up to this size are held in memory while they travel."""

_COPY_BYTES = 1024 * 1024


class Entry(NamedTuple):
    """A file or directory; ``path`` is relative to the root of the tree."""

    path: str
    is_dir: bool = False
    size: int | None = None


def walk(list_directory: Callable[[str], Iterator[Entry]]) -> list[ArtifactFile]:
    """List a tree one directory at a time, in path order."""
    files: list[ArtifactFile] = []
    pending = [""]
    while pending:
        directory = pending.pop()
        for entry in list_directory(directory):
            if entry.is_dir:
                pending.append(entry.path)
            elif entry.path != directory:
                files.append(ArtifactFile(entry.path, entry.size))
    return sorted(files, key=lambda file: order_key(escape_path(file.path)))


class ListedOnce(ArtifactTree):
    """A tree that is listed at the first question."""

    def __init__(self) -> None:
        self._files: list[ArtifactFile] | None = None

    def files(self) -> list[ArtifactFile]:
        if self._files is None:
            self._files = self._list()
        return self._files

    @abstractmethod
    def _list(self) -> list[ArtifactFile]:
        """List every file, in path order."""


class RepositoryTree(ListedOnce):
    """Files in any store that MLflow has an artifact repository for.

    Args:
        uri: Root of the tree, for messages.
        make: Makes the repository.
        failed: Makes the error for a path that failed.
        inside: What a request has to be made in.
    """

    def __init__(
        self,
        uri: str,
        make: Callable[[], Any],
        *,
        failed: Callable[[str, Exception], ServerError],
        inside: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        super().__init__()
        self._uri = uri
        self._make = make
        self._failed = failed
        self._inside = inside
        self._made: Any = None

    def _repository(self) -> Any:
        # Two threads may make one each. A Databricks one asks the workspace when it is made.
        if self._made is None:
            self._made = self._make()
        return self._made

    def _list(self) -> list[ArtifactFile]:
        try:
            with self._inside():
                repository = self._repository()
                return walk(
                    lambda directory: (
                        Entry(info.path, info.is_dir, info.file_size)
                        for info in repository.list_artifacts(directory or None)
                    )
                )
        except Exception as exc:
            # Each store's client has exceptions of its own.
            raise self._failed(self._uri, exc) from exc

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        directory = tempfile.mkdtemp(prefix="mlflow-bundle-")
        local = Path(directory) / "artifact"
        try:
            with self._inside():
                self._repository()._download_file(file.path, str(local))
            stream = _TemporaryFile(local)
        except Exception as exc:
            shutil.rmtree(directory, ignore_errors=True)
            raise self._failed(f"{self._uri}/{file.path}", exc) from exc
        return OpenedArtifact(cast(BinaryIO, stream), local.stat().st_size)


class _TemporaryFile(io.FileIO):
    """A downloaded file that goes away, with its directory, when it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._directory = path.parent

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._directory, ignore_errors=True)


def put_in_repository(repository: Any, path: str, content: OpenedArtifact) -> None:
    """Write one file through MLflow's artifact repository.

    Args:
        repository: Of the root that ``path`` is relative to.
        path: Artifact path.
        content: Read to its end; not closed.

    Raises:
        Exception: Whatever the store's client raises.
    """
    directory, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="mlflow-bundle-") as temporary:
        local = os.path.join(temporary, name)
        with open(local, "wb") as file:
            shutil.copyfileobj(content.stream, file, _COPY_BYTES)
        repository.log_artifact(local, directory or None)


class LocalTree(ListedOnce):
    """Files below a directory of this machine; links are followed as MLflow does it.

    Args:
        root: The directory; one that is missing has no files.
        error: Raised when it cannot be read.
    """

    is_near = True

    def __init__(self, root: Path, *, error: type[ServerError]) -> None:
        super().__init__()
        self._root = root
        self._error = error

    def _list(self) -> list[ArtifactFile]:
        try:
            return walk(self._entries)
        except OSError as exc:
            raise self._failed(exc) from exc

    def _entries(self, directory: str) -> Iterator[Entry]:
        try:
            found = os.scandir(self._root / directory)
        except (FileNotFoundError, NotADirectoryError):
            if directory:
                raise
            return
        with found:
            for entry in found:
                path = f"{directory}/{entry.name}" if directory else entry.name
                if not _is_directory(entry):
                    yield Entry(path, size=_size(entry))
                elif not (entry.is_symlink() and self._is_loop(Path(entry.path))):
                    yield Entry(path, is_dir=True)

    @staticmethod
    def _is_loop(link: Path) -> bool:
        target = link.resolve()
        return target == link.parent.resolve() or target in link.parent.resolve().parents

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        path = os.path.join(self._root, file.path)
        try:
            # Few calls, of which a server has millions. A pipe does not keep it waiting.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, "no regular file", path)
        except OSError as exc:
            raise self._failed(exc) from exc
        stream = _SizedFile(descriptor, status.st_size, partial(self._became_shorter, path))
        return OpenedArtifact(cast(BinaryIO, stream), status.st_size)

    def _became_shorter(self, path: str) -> ServerError:
        reason = "it became shorter while it was read"
        return self._error(f"{path}: {reason}", status=HTTPStatus.BAD_GATEWAY)

    def _failed(self, exc: OSError) -> ServerError:
        return self._error(
            f"{exc.filename or self._root}: {exc.strerror}", status=HTTPStatus.BAD_GATEWAY
        )


class _SizedFile(io.FileIO):
    """A file up to the size that it had when it was opened: somebody may still write to it.

    Args:
        descriptor: The open file, which is closed with this.
        size: Its size.
        shorter: Makes what is raised when it ends before that.
    """

    def __init__(self, descriptor: int, size: int, shorter: Callable[[], Exception]) -> None:
        super().__init__(descriptor, "rb")
        self._left = size
        self._shorter = shorter

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes: up to ``size``, or all that are left."""
        if size is None or size < 0:
            return self.readall()
        wanted = min(size, self._left)
        data = super().read(wanted) or b""
        if wanted and not data:
            raise self._shorter()
        self._left -= len(data)
        return data

    def readall(self) -> bytes:
        """Return what is left."""
        return b"".join(iter(lambda: self.read(self._left), b""))

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer and return how many bytes came."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: refused when it is opened
        return False


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing: refused when it is opened
        return None


def put_in_directory(root: Path, path: str, content: OpenedArtifact) -> None:
    """Write one file below a directory of this machine; it has its name when it is whole.

    Args:
        root: The directory; made when it is missing.
        path: Artifact path.
        content: Read to its end; not closed.

    Raises:
        OSError: It could not be written.
    """
    if not is_inside(path):
        raise OSError(errno.EINVAL, "a name that leads out of the directory", str(root / path))
    target = root / path
    # Always the same name: what a killed import left is taken by the one that repeats it.
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()
    partial = target.parent / f".mlflow-bundle-{digest[:16]}.partial"
    try:
        with _made(partial) as file:
            # No larger than need be: a megabyte for each small file would cost more than the file.
            shutil.copyfileobj(content.stream, file, min(content.size + 1, _COPY_BYTES))
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _made(path: Path) -> IO[bytes]:
    """Open a new file, in a directory that may be missing."""
    try:
        return open(path, "wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def is_inside(path: str) -> bool:
    """Whether an artifact path stays below its root."""
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path


def is_full(exc: Exception) -> bool:
    """Whether there is no room left: then no other file has any either."""
    return isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)


def store_failure(uri: str, exc: Exception) -> str:
    """Return what to say of an artifact store that refused or could not be reached."""
    from mlflow.exceptions import MlflowException

    if isinstance(exc, ModuleNotFoundError):
        message = f"reading it needs the Python package {exc.name!r}"
    elif isinstance(exc, MlflowException):
        message = exc.message
    else:
        message = f"{type(exc).__name__}: {exc}"
    return f"{mask_uri(uri)}: {mask_uris_in(' '.join(message.split()))}"
