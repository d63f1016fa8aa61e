"""Opens what the user named: a bundle file, a URL, standard input, a directory; or makes one.

Whatever is given, the rest of the program sees a :class:`~mlflow_bundle.bundles.tree.TreeReader` or
a :class:`~mlflow_bundle.bundles.tree.TreeWriter`.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.bundles import output, peer
from mlflow_bundle.bundles.output import STANDARD_STREAM, BundleFileWriter
from mlflow_bundle.bundles.renewed import RenewedTree
from mlflow_bundle.bundles.sink import WriterFactory
from mlflow_bundle.bundles.tree import DirectoryWriter, TreeReader, TreeWriter
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.errors import BundleError, FormatError, SelectionError
from mlflow_bundle.spooled import temporary_file_named

_REMOTE_BLOCK_BYTES = 256 * 1024
_PACKAGE_OF_SCHEME = {
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}
"""Package that reads a scheme, where fsspec's own words do not name it plainly."""

_COPY_BYTES = 1024 * 1024


def open_tree(path: str, *, is_directory: bool = False, renew: bool = True) -> TreeReader:
    """Open a bundle for reading; the caller closes it.

    A directory is read as it was edited: its manifests are made anew from what is there.

    Args:
        path: A file, a URL that fsspec can read, ``-`` for standard input (copied to a private
            temporary file first, since a bundle's index is at its end), or a directory.
        is_directory: Only a directory will do, and ``-`` is the name of one.
        renew: False shows a directory's manifests as they lie.

    Raises:
        BundleError: There is no such file, or it cannot be read.
        FormatError: It is no bundle, or a damaged one.
    """
    if not is_directory and path == STANDARD_STREAM:
        return _open_stream(_spool(_standard_input()), "standard input")
    local = path if is_directory else _local_path(path)
    if local is None:
        return _open_url(path)
    if is_directory or os.path.isdir(local):
        tree = _open_directory(local)
        return RenewedTree(tree) if renew else tree
    return _open_stream(open_local(local), path)


def open_local(path: str) -> BinaryIO:
    """Open a file of this machine for reading; the caller closes it.

    Raises:
        BundleError: There is no such file, or it cannot be read.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError as exc:
        raise BundleError(f"no such file: {path}") from exc
    except OSError as exc:
        raise BundleError(f"cannot read {path}: {exc.strerror}") from exc


def _local_path(path: str) -> str | None:
    """Path on this machine; None for a URL of somewhere else."""
    if "://" not in path:
        return path
    parts = urlsplit(path)
    return url2pathname(parts.path) if parts.scheme.lower() == "file" else None


def _open_directory(path: str) -> TreeReader:
    if not os.path.isdir(path):
        what = "not a directory" if os.path.lexists(path) else "no such directory"
        raise BundleError(f"{what}: {path}")
    return peer.open_directory(path)


class _OpenedBundle(ArchiveReader):
    """An archive reader that closes its stream, of whatever kind."""

    def __init__(self, stream: BinaryIO, *, name: str) -> None:
        super().__init__(stream, name=name)
        self._stream = stream

    def close(self) -> None:
        super().close()
        self._stream.close()


def _open_stream(stream: BinaryIO, name: str) -> TreeReader:
    try:
        return _OpenedBundle(stream, name=name)
    except FormatError as exc:
        stream.close()
        raise named_error(exc, name) from exc
    except BaseException:
        stream.close()
        raise


def named_error(error: FormatError, name: str) -> FormatError:
    """Return an error that names the file at fault, where it names no member."""
    if error.path is not None:
        return error
    named = type(error)(error.message, path=name, hint=error.hint)
    named.offset = error.offset
    return named


def _standard_input() -> BinaryIO:
    stream: TextIO | None = sys.stdin
    if stream is None:  # it was closed when the program began (`<&-`)
        raise OSError(errno.EBADF, "it is closed", "standard input")
    if stream.isatty():
        raise SelectionError(
            "standard input is a terminal", hint="pipe a bundle into the command, or name a file"
        )
    return stream.buffer


def _spool(stream: BinaryIO) -> BinaryIO:
    """Copy a stream to a temporary file without a name, which vanishes when it is closed."""
    spooled = tempfile.TemporaryFile(prefix="mlflow-bundle-")  # noqa: SIM115 - the tree's
    try:
        while piece := stream.read(_COPY_BYTES):
            with temporary_file_named():
                spooled.write(piece)
        with temporary_file_named():
            spooled.flush()
    except BaseException:
        spooled.close()
        raise
    return cast(BinaryIO, spooled.detach())  # unbuffered: read at offsets, from many threads


def _open_url(url: str) -> TreeReader:
    import fsspec

    shown = mask_uri(url)
    scheme = urlsplit(url).scheme.lower()
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        stream = filesystem.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES, cache_type="readahead")
        try:
            stream.seek(0, os.SEEK_END)
        except (ValueError, OSError, NotImplementedError):  # a server without range requests
            stream.close()
            with filesystem.open(path, "rb", block_size=0) as whole:
                stream = _spool(whole)
    except ImportError as exc:
        package = _PACKAGE_OF_SCHEME.get(scheme)
        hint = f"pip install {package}" if package else f"{exc}"
        raise BundleError(
            f"cannot read {shown}: {scheme}:// needs another package", hint=hint
        ) from exc
    except FileNotFoundError as exc:
        # fsspec says so too when a server cannot be reached; the cause knows.
        cause = exc.__cause__
        if isinstance(cause, Exception) and getattr(cause, "status", None) != 404:
            raise BundleError(f"cannot read {shown}: {_reason(cause, url, shown)}") from exc
        raise BundleError(f"no such file: {shown}") from exc
    except Exception as exc:  # every file system has exceptions of its own
        raise BundleError(f"cannot read {shown}: {_reason(exc, url, shown)}") from exc
    return _open_stream(cast(BinaryIO, _RemoteStream(stream, url, shown)), shown)


class _RemoteStream:
    """A remote file whose faults name it."""

    def __init__(self, stream: Any, url: str, shown: str) -> None:
        self._stream = stream
        self._url = url
        self._shown = shown

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def read(self, length: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(length))
        except Exception as exc:  # every file system has exceptions of its own
            reason = _reason(exc, self._url, self._shown)
            raise BundleError(f"cannot read {self._shown}: {reason}") from exc

    def close(self) -> None:
        with suppress(Exception):
            self._stream.close()


def _reason(exc: Exception, url: str, shown: str) -> str:
    """What went wrong, without the credentials that the URL may hold."""
    text = str(exc).replace(url, shown) or type(exc).__name__
    return text[:1].lower() + text[1:]


def check_output(path: str, *, is_directory: bool = False, force: bool = False) -> None:
    """Refuse early what :func:`open_writer` could not make later.

    Raises:
        BundleError: It exists and ``force`` is not given, or its directory is missing.
        SelectionError: Standard output is a terminal.
    """
    if is_directory:
        DirectoryWriter.check(path, force=force)
        return
    output.check_output(path, force=force)
    if path == STANDARD_STREAM and sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "standard output")
    if path == STANDARD_STREAM and sys.stdout.isatty():
        raise SelectionError(
            "a bundle is not written to a terminal",
            hint="redirect standard output, or name a file with -o FILE",
        )


def refuse_output_inside(directory: str, output_path: str) -> None:
    """Refuse to write into the directory that is read.

    Raises:
        SelectionError: The output would be a part of its own input.
    """
    root = Path(os.path.realpath(directory))
    final = Path(os.path.realpath(output_path))
    if root.is_dir() and (final == root or root in final.parents):
        raise SelectionError(f"{output_path} lies inside {directory}", hint="write it elsewhere")


def open_writer(
    path: str,
    *,
    is_directory: bool = False,
    force: bool = False,
    keep_partial: bool = False,
    level: int = 3,
    jobs: int = 2,
) -> WriterFactory:
    """Return what makes the writer of ``path`` once the header is known.

    Nothing is touched before that. While the writer of ``-`` is open, whatever else is printed to
    standard output goes to standard error.

    Args:
        path: A file, ``-`` for standard output, or a directory.
        is_directory: Whether a directory is written.
        force: Whether what exists is replaced.
        keep_partial: Whether what an interruption leaves of a file stays (`resume.py`).
        level: zstd level, 1 to 19; of no meaning for a directory.
        jobs: Compression threads.
    """

    def make(header: bytes, bundle_uuid: uuid.UUID, mtime_ns: int) -> TreeWriter:
        check_output(path, is_directory=is_directory, force=force)
        if is_directory:
            return DirectoryWriter(Path(path), header=header, mtime_ns=mtime_ns, force=force)
        return BundleFileWriter(
            path,
            header=header,
            bundle_uuid=bundle_uuid,
            mtime_ns=mtime_ns,
            force=force,
            keep_partial=keep_partial,
            level=level,
            jobs=jobs,
        )

    return make
