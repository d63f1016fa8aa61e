"""The documented tree as a plain directory: the same reading and writing as a bundle file.

:class:`TreeReader` and :class:`TreeWriter` are what source and sink need of a tree; the archive's
reader and writer fulfil them as they are, :class:`DirectoryReader` and :class:`DirectoryWriter` are
their twins over a directory. A directory is written under a temporary name and renamed when it is
complete. Links are neither followed nor made.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from mlflow_bundle.archive import HEADER_PATH, order_key, validate_path
from mlflow_bundle.errors import BundleError, LimitError, NotABundleError, UnsafePathError

_COPY_BYTES = 1024 * 1024
_HEADER_DIRECTORY = HEADER_PATH.partition("/")[0]


class TreeMember(Protocol):
    """One file of a tree."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...


@runtime_checkable
class TreeReader(Protocol):
    """Random access to the members of a tree, safe from many threads.

    The header, ``.mlbundle/bundle.json``, is not among the members.
    """

    @property
    def header(self) -> bytes:
        """Content of ``.mlbundle/bundle.json``."""

    def find(self, path: str) -> TreeMember | None:
        """Return the member at ``path``, or None."""

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        """Yield the members below the directory ``prefix`` in path order."""

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        """Yield the children of a directory as (component, is a directory), in path order."""

    def read(self, member: str, *, limit_bytes: int = ...) -> bytes:
        """Return a whole member, verified."""

    def open_member(self, member: str) -> BinaryIO:
        """Open a member for reading; the caller closes it."""

    def close(self) -> None: ...


class TreeWriter(Protocol):
    """Writes members in increasing path order."""

    def add(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> object:
        """Write a small member."""

    def add_stream(
        self,
        path: str,
        stream: BinaryIO,
        size: int,
        *,
        mtime_ns: int | None = None,
        content_id: Hashable | None = None,
    ) -> object:
        """Write a member of ``size`` bytes; equal ``content_id`` promises equal content."""

    def finish(self) -> object:
        """Make the tree complete and durable."""

    def close(self) -> None:
        """Free resources; without :meth:`finish` before, nothing valid remains."""


class DirectoryMember(NamedTuple):
    """One file of a directory tree."""

    path: str
    size: int
    mtime_ns: int


def scan_directory(root: Path, path: str) -> list[tuple[os.DirEntry[str], bool]]:
    """Return what lies directly in a directory below ``root``, each with whether it is one.

    Raises:
        UnsafePathError: Something is a link, a device, a socket or a pipe.
    """
    try:
        with os.scandir(root / path) as scan:
            entries = list(scan)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for entry in entries:
        child = f"{path}/{entry.name}" if path else entry.name
        if entry.is_symlink():
            raise UnsafePathError("symbolic links are not followed", path=child)
        is_directory = entry.is_dir(follow_symlinks=False)
        if not is_directory and not entry.is_file(follow_symlinks=False):
            raise UnsafePathError("neither a file nor a directory", path=child)
        found.append((entry, is_directory))
    return found


class DirectoryReader:
    """A tree in a plain directory.

    Args:
        root: The directory.
        header: Stands for ``.mlbundle/bundle.json`` in a directory without one.

    Raises:
        NotABundleError: There is no such directory.
    """

    def __init__(self, root: str | os.PathLike[str], *, header: bytes | None = None) -> None:
        self.root = Path(root)
        self._header = header
        if not self.root.is_dir():
            raise NotABundleError("no such directory", path=str(root))

    @property
    def header(self) -> bytes:
        if self._header is not None:
            return self._header
        if self.find(HEADER_PATH) is None:
            raise NotABundleError(
                f"{self.root} holds no {HEADER_PATH}: not the documented layout",
                hint="name the directory that an export or `mlflow bundle extract` wrote",
            )
        return self.read(HEADER_PATH)

    def find(self, path: str) -> DirectoryMember | None:
        validate_path(path)
        try:
            status = self._lstat(path)
        except FileNotFoundError:
            return None
        return self._member(path, status) if stat.S_ISREG(status.st_mode) else None

    def _lstat(self, path: str) -> os.stat_result:
        """Status of ``path``, refusing a link anywhere below the root."""
        current = self.root
        for component in path.split("/"):
            current = current / component
            try:
                status = current.lstat()
            except NotADirectoryError as exc:
                raise FileNotFoundError(path) from exc
            if stat.S_ISLNK(status.st_mode):
                raise UnsafePathError("symbolic links are not followed", path=path)
        return status

    def _member(self, path: str, status: os.stat_result) -> DirectoryMember:
        return DirectoryMember(path, status.st_size, status.st_mtime_ns)

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        if path:
            validate_path(path)
        for entry, is_directory in self._entries(path):
            if path or entry.name != _HEADER_DIRECTORY:
                yield entry.name, is_directory

    def _entries(self, path: str) -> list[tuple[os.DirEntry[str], bool]]:
        entries = scan_directory(self.root, path)
        return sorted(entries, key=lambda item: (not item[1], os.fsencode(item[0].name)))

    def iter_members(self, prefix: str = "") -> Iterator[DirectoryMember]:
        if prefix and (member := self.find(prefix)) is not None:
            yield member
            return
        yield from self._walk(prefix)

    def _walk(self, path: str) -> Iterator[DirectoryMember]:
        for entry, is_directory in self._entries(path):
            child = f"{path}/{entry.name}" if path else entry.name
            if child == _HEADER_DIRECTORY:
                continue
            if is_directory:
                yield from self._walk(child)
            else:
                validate_path(child)
                yield self._member(child, entry.stat(follow_symlinks=False))

    def read(self, member: str, *, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        with self.open_member(member) as stream:
            data = stream.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise LimitError(f"larger than {limit_bytes} bytes", path=member)
        return data

    def open_member(self, member: str) -> BinaryIO:
        validate_path(member)
        self._lstat(member)
        return open(os.open(self.root / member, os.O_RDONLY | os.O_NOFOLLOW), "rb")

    def close(self) -> None:
        """Nothing is held open."""


class DirectoryWriter:
    """Writes a tree into a new directory, under ``<root>.partial`` until it is complete.

    Args:
        root: The directory to make. Its parent must exist.
        header: Content of ``.mlbundle/bundle.json``.
        mtime_ns: Modification time of members that are given none.
        force: Whether a tree that exists there is replaced once the new one is complete.

    Raises:
        BundleError: As :meth:`check`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        header: bytes,
        mtime_ns: int,
        force: bool = False,
    ) -> None:
        self.check(root, force=force)
        self.root = Path(os.path.abspath(root))
        self._mtime_ns = mtime_ns
        self._partial = self.root.with_name(self.root.name + ".partial")
        self._remove(self._partial)
        self._partial.mkdir()
        self._chain: list[tuple[str, int]] = []
        self._root_fd = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY)
        self._last_key = b""
        self._finished = False
        self.add(HEADER_PATH, header)

    @staticmethod
    def check(root: str | os.PathLike[str], *, force: bool) -> None:
        """Refuse early a directory that could not be made later.

        Raises:
            BundleError: It exists and ``force`` is not given, or it is no tree of ours and would
                be deleted, or its parent is missing.
        """
        final = Path(os.path.abspath(root))
        if not final.parent.is_dir():
            raise BundleError(f"no such directory: {final.parent}")
        if not os.path.lexists(final):
            return
        if final.is_symlink() or not final.is_dir():
            raise BundleError(f"{root} exists already and is no directory")
        if not any(final.iterdir()):
            return
        if not force:
            raise BundleError(f"{root} exists already", hint="give another name, or --force")
        if not (final / HEADER_PATH).is_file():
            raise BundleError(
                f"{root} holds something else than the tree of a bundle, and is not replaced",
                hint="give another name",
            )

    def add(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> None:
        self.add_stream(path, io.BytesIO(data), len(data), mtime_ns=mtime_ns)

    def add_stream(
        self,
        path: str,
        stream: BinaryIO,
        size: int,
        *,
        mtime_ns: int | None = None,
        content_id: Hashable | None = None,
    ) -> None:
        validate_path(path)
        key = order_key(path)
        if key <= self._last_key:
            raise ValueError(f"members out of order: {path}")
        *directories, name = path.split("/")
        parent = self._enter(directories, path)
        descriptor = self._create(name, parent, path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                written = 0
                while chunk := stream.read(_COPY_BYTES):
                    file.write(chunk)
                    written += len(chunk)
                if written != size:
                    raise BundleError(f"{path}: {written} bytes came, {size} were announced")
            mtime = self._mtime_ns if mtime_ns is None else mtime_ns
            os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        self._last_key = key

    def _create(self, name: str, parent: int, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o644, dir_fd=parent)
        except FileExistsError as exc:
            raise self._twins(path) from exc

    def _enter(self, directories: list[str], path: str) -> int:
        """Make and open ``directories`` one below the other; return the last one's descriptor."""
        common = 0
        for (name, _), wanted in zip(self._chain, directories, strict=False):
            if name != wanted:
                break
            common += 1
        for _, descriptor in reversed(self._chain[common:]):
            os.close(descriptor)
        del self._chain[common:]
        parent = self._chain[-1][1] if self._chain else self._root_fd
        for name in directories[common:]:
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError as exc:
                # Path order visits a directory once: one that is there already has another name.
                raise self._twins(path) from exc
            parent = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            self._chain.append((name, parent))
        return parent

    @staticmethod
    def _twins(path: str) -> BundleError:
        return UnsafePathError(
            "this file system does not tell it from a name written before",
            path=path,
            hint="extract onto a file system that keeps the case of names",
        )

    def finish(self) -> None:
        self._close_descriptors()
        replaced = self.root.with_name(self.root.name + ".replaced")
        if self.root.exists():
            self._remove(replaced)
            self.root.rename(replaced)
        self._partial.rename(self.root)
        self._finished = True
        self._remove(replaced)

    def close(self) -> None:
        if not self._finished:
            self._close_descriptors()
            with contextlib.suppress(OSError):
                self._remove(self._partial)
            self._finished = True

    @staticmethod
    def _remove(directory: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)

    def _close_descriptors(self) -> None:
        for _, descriptor in self._chain:
            os.close(descriptor)
        self._chain.clear()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1
