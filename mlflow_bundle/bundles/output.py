"""A bundle file that appears under its name only when it is complete.

The bytes go to ``<name>.partial``, which a file lock keeps from a second writer, and the file is
renamed when the archive is committed. ``-`` writes to standard output instead, where completeness
can only be told by the trailer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import uuid
from collections.abc import Hashable
from pathlib import Path
from typing import BinaryIO

from mlflow_bundle.archive import ArchiveWriter
from mlflow_bundle.errors import BundleError

STANDARD_STREAM = "-"


class BundleFileWriter:
    """A :class:`~mlflow_bundle.bundles.tree.TreeWriter` over one bundle file.

    Args:
        path: The file to make, or ``-`` for standard output.
        header: Content of ``.mlbundle/bundle.json``.
        bundle_uuid: The uuid that ``header`` names.
        mtime_ns: Modification time of members that are given none.
        force: Whether an existing file is replaced.
        level: zstd level, 1 to 19.
        jobs: Compression threads.

    Raises:
        BundleError: The file exists and ``force`` is not given, cannot be made, or is being
            written by another process.
    """

    def __init__(
        self,
        path: str,
        *,
        header: bytes,
        bundle_uuid: uuid.UUID,
        mtime_ns: int,
        force: bool = False,
        level: int = 3,
        jobs: int = 2,
    ) -> None:
        self._final: Path | None = None
        self._partial: Path | None = None
        self._claimed: _ClaimedStdout | None = None
        self._stream = self._open(path, force=force)
        self._finished = False
        try:
            self._archive = ArchiveWriter(
                self._stream,
                bundle_uuid=bundle_uuid,
                header=header,
                mtime_ns=mtime_ns,
                level=level,
                jobs=jobs,
            )
        except BaseException:
            self._discard()
            raise

    def _open(self, path: str, *, force: bool) -> BinaryIO:
        if path == STANDARD_STREAM:
            self._claimed = _ClaimedStdout()
            return self._claimed.stream
        self._final = Path(path)
        check_output(path, force=force)
        self._partial = self._final.with_name(self._final.name + ".partial")
        try:
            # Not truncated before the lock is held: another process may be writing it.
            stream = open(self._partial, "r+b" if self._partial.exists() else "w+b")  # noqa: SIM115
        except OSError as exc:
            raise BundleError(f"cannot write {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            stream.close()
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BundleError(
                    f"{self._partial} is being written by another process",
                    hint="wait for it, or give another name",
                ) from exc
            raise
        stream.truncate(0)
        return stream

    @property
    def bytes_written(self) -> int:
        """Bytes of the file so far."""
        return self._archive.bytes_written

    def add(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> object:
        return self._archive.add(path, data, mtime_ns=mtime_ns)

    def add_stream(
        self,
        path: str,
        stream: BinaryIO,
        size: int,
        *,
        mtime_ns: int | None = None,
        content_id: Hashable | None = None,
    ) -> object:
        return self._archive.add_stream(
            path, stream, size, mtime_ns=mtime_ns, content_id=content_id
        )

    def finish(self) -> object:
        """Commit the archive and give the file its name."""
        digest = self._archive.finish()
        self._archive.close()
        if self._partial is not None and self._final is not None:
            os.replace(self._partial, self._final)
            _sync_directory(self._final.parent)
            self._stream.close()
        elif self._claimed is not None:
            self._stream.flush()
            self._claimed.release()
        self._finished = True
        return digest

    def close(self) -> None:
        if not self._finished:
            self._archive.close()
            self._discard()
            self._finished = True

    def _discard(self) -> None:
        if self._claimed is not None:
            self._claimed.release()
        if self._partial is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
            with contextlib.suppress(FileNotFoundError):
                self._partial.unlink()


class _ClaimedStdout:
    """Standard output for the bundle alone: what others print meanwhile goes to standard error."""

    def __init__(self) -> None:
        self._saved = sys.stdout
        self._saved.flush()
        self._descriptor: int | None = None
        try:
            self._number = self._saved.fileno()
        except (OSError, ValueError):  # not a real file: a test's
            self.stream: BinaryIO = self._saved.buffer
        else:
            # Not only sys.stdout: libraries and child processes write to the descriptor.
            self._descriptor = os.dup(self._number)
            self.stream = os.fdopen(os.dup(self._number), "wb")
            os.dup2(2, self._number)
        sys.stdout = sys.stderr

    def release(self) -> None:
        """Give standard output back; harmless when called again."""
        sys.stdout = self._saved
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self.stream.close()
            os.dup2(self._descriptor, self._number)
            os.close(self._descriptor)
            self._descriptor = None


def check_output(path: str, *, force: bool) -> None:
    """Refuse an output file early that could not be made later.

    Raises:
        BundleError: It exists and ``force`` is not given, or its directory is missing.
    """
    if path == STANDARD_STREAM:
        return
    final = Path(path)
    if final.is_dir():
        raise BundleError(f"{path} is a directory", hint="name a file, or use --output-dir")
    if final.exists() and not force:
        raise BundleError(f"{path} exists already", hint="give another name, or --force")
    if not final.parent.is_dir():
        raise BundleError(f"no such directory: {final.parent}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
