"""A bundle file that appears under its name only when it is complete.

The bytes go to ``<name>.partial``, which a file lock keeps from a second writer, and the file is
renamed when the archive is committed. What an export leaves there when it is interrupted can be
gone on with (:func:`find_unfinished`). ``-`` writes to standard output instead, where completeness
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

from mlflow_bundle.archive import ArchiveWriter, scan_groups
from mlflow_bundle.errors import BundleError

STANDARD_STREAM = "-"


class PartialFile:
    """``<name>.partial`` beside a bundle that is being made, locked as long as it is open.

    Args:
        path: Name of the bundle to be.
        force: Whether an existing bundle is replaced.

    Raises:
        BundleError: The bundle exists and ``force`` is not given, or the file cannot be made or is
            being written by another process.
    """

    def __init__(self, path: str, *, force: bool = False) -> None:
        self._final = Path(path)
        check_output(path, force=force)
        self.path = partial_path(path)
        try:
            # Not truncated before the lock is held: another process may be writing it.
            self.stream = open(self.path, "r+b" if self.path.exists() else "w+b")  # noqa: SIM115
        except OSError as exc:
            raise BundleError(f"cannot write {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self.stream.close()
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BundleError(
                    f"{self.path} is being written by another process",
                    hint="wait for it, or give another name",
                ) from exc
            raise

    def commit(self) -> None:
        """Give the file its name."""
        os.replace(self.path, self._final)
        _sync_directory(self._final.parent)
        self.stream.close()

    def discard(self) -> None:
        """Delete the file."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def close(self) -> None:
        """Leave the file as it is."""
        with contextlib.suppress(OSError):
            self.stream.close()


def partial_path(path: str) -> Path:
    """Return where the bundle ``path`` lies while it is being made."""
    return Path(f"{path}.partial")


class BundleFileWriter:
    """A :class:`~mlflow_bundle.bundles.tree.TreeWriter` over one bundle file.

    Args:
        path: The file to make, or ``-`` for standard output.
        header: Content of ``.mlbundle/bundle.json``.
        bundle_uuid: The uuid that ``header`` names.
        mtime_ns: Modification time of members that are given none.
        force: Whether an existing file is replaced.
        keep_partial: Whether what an interruption leaves stays, to be gone on with.
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
        keep_partial: bool = False,
        level: int = 3,
        jobs: int = 2,
    ) -> None:
        self._partial: PartialFile | None = None
        self._claimed: _ClaimedStdout | None = None
        if path == STANDARD_STREAM:
            self._claimed = _ClaimedStdout()
            stream = self._claimed.stream
        else:
            self._partial = PartialFile(path, force=force)
            stream = self._partial.stream
            stream.truncate(0)
        self._keep_partial = keep_partial
        self._finished = False
        try:
            self._archive = ArchiveWriter(
                stream,
                bundle_uuid=bundle_uuid,
                header=header,
                mtime_ns=mtime_ns,
                level=level,
                jobs=jobs,
            )
        except BaseException:
            self._discard()
            raise
        self._empty_bytes = self._archive.bytes_written

    @classmethod
    def resume(cls, partial: PartialFile, *, level: int = 3, jobs: int = 2) -> BundleFileWriter:
        """Go on behind the whole groups of an interrupted bundle.

        Args:
            partial: Its file; closed with the writer.
            level: zstd level.
            jobs: Compression threads.

        Raises:
            FormatError: As :meth:`ArchiveWriter.resume`.
        """
        writer = cls.__new__(cls)
        writer._partial, writer._claimed = partial, None
        writer._keep_partial, writer._finished = True, False
        # One that was complete but for its name ends before its trailer again.
        partial.stream.truncate(scan_groups(partial.stream).end)
        writer._archive = ArchiveWriter.resume(partial.stream, level=level, jobs=jobs)
        writer._empty_bytes = 0
        return writer

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
        if self._partial is not None:
            self._partial.commit()
        elif self._claimed is not None:
            self._claimed.stream.flush()
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
        if self._partial is None:
            return
        if self._keep_partial and self._archive.bytes_written > self._empty_bytes:
            self._partial.close()
        else:
            self._partial.discard()


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
        BundleError: It exists and ``force`` is not given, is no file, or its directory is missing.
    """
    if path == STANDARD_STREAM:
        return
    final = Path(path)
    if final.is_dir():
        raise BundleError(f"{path} is a directory", hint="name a file, or use --output-dir")
    if final.exists() and not final.is_file():
        # A device or a pipe, which a renamed file would take the place of.
        raise BundleError(
            f"{path} is a device or a pipe, not a file", hint=f"write to it with -o - > {path}"
        )
    if os.path.lexists(final) and not force:
        raise BundleError(f"{path} exists already", hint="give another name, or --force")
    if not final.parent.is_dir():
        raise BundleError(f"no such directory: {final.parent}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
