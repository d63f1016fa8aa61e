"""Brings an artifact tree to a store: what is there already stays, what differs is a conflict."""

from __future__ import annotations

import io
import posixpath
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from mlflow_bundle.artifacts import SMALL_BYTES
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, OpenedArtifact, Sizes
from mlflow_bundle.errors import BundleError, ServerError
from mlflow_bundle.importing import Importing
from mlflow_bundle.kinds.skills import SKILL
from mlflow_bundle.kinds.traces import TRACE_DATA
from mlflow_bundle.references import MLMODEL, rewrite_mlmodel, rewrite_trace_data

_BESIDE_AT_ONCE = 32
"""Files that another process is given at once, after which it tells their sizes."""


class Place(Protocol):
    """Where the files of one entity go."""

    @property
    def directory(self) -> Path | None:
        """Where that is on this machine, if it is."""

    def existing(self) -> list[ArtifactFile]:
        """Return the files that are there already."""

    def upload(self, path: str, open_content: Callable[[], OpenedArtifact]) -> int:
        """Write one file and return its size.

        Args:
            path: Artifact path.
            open_content: Opens the content, which is closed here; may be called again.

        Raises:
            ServerError: The store refused.
        """


class TreeWriter:
    """Writes the artifacts of one entity.

    Args:
        to: The import.
        place: Where they go.
        kind: Kind of the entity, for the report.
        source_id: Its id in the bundle, for the report.
        below: Directory below the place that the tree goes to.
        parent: Id in the bundle of the experiment that it lies in.
    """

    def __init__(
        self,
        to: Importing,
        place: Place,
        *,
        kind: str,
        source_id: str,
        below: str = "",
        parent: str = "",
    ) -> None:
        self._to = to
        self._place = place
        self._kind = kind
        self._source_id = source_id
        self._below = below
        self._parent = parent

    def missing(self, tree: ArtifactTree, *, fresh: bool, filling: bool) -> list[ArtifactFile]:
        """Return the files of ``tree`` that have to be written.

        Args:
            tree: The bundle's files.
            fresh: The entity was made just now: nothing can be there.
            filling: An earlier import was interrupted while it filled the entity.
        """
        options = self._to.options
        if tree.mode != "included" or options.artifacts != "copy":
            mode = tree.mode if tree.mode != "included" else f"--artifacts {options.artifacts}"
            self._to.report.adjust(self._kind, f"artifacts ({mode})")
            return []
        files = tree.files()
        if fresh or not files:
            return files
        here = {file.path: file.size for file in self._place.existing()}
        missing = [file for file in files if self._is_missing(tree, file, here, filling)]
        if self._to.report.dry_run:
            size = _bytes(files) - _bytes(missing)
            self._to.report.found("artifact", len(files) - len(missing), size=size)
        return missing

    def _is_missing(
        self, tree: ArtifactTree, file: ArtifactFile, here: dict[str, int | None], filling: bool
    ) -> bool:
        path = self.path_of(file)
        if path not in here:
            return True
        if here[path] is None or here[path] == file.size:
            return False
        if self._is_rewritten(file):
            rewritten = self._rewritten(tree, file)
            rewritten.stream.close()
            if here[path] == rewritten.size:
                return False
        return filling or self._to.differs(
            self._kind,
            self._source_id,
            f"artifacts/{file.path}",
            here=f"{here[path]} bytes",
            bundle=f"{file.size} bytes",
        )

    def write(self, tree: ArtifactTree, files: list[ArtifactFile]) -> int:
        """Write ``files`` side by side and return how many arrived; a refusal is a loss."""
        return self.start(tree, files).finish()

    def start(self, tree: ArtifactTree, files: list[ArtifactFile]) -> Uploads:
        """Begin to write ``files`` side by side; they must have arrived before the content of
        ``tree`` is left, unless it allows random access."""
        beside = self._start_beside(tree, files)
        return Uploads(
            self._to,
            [(file, beside.get(file.path) or self._submit(tree, file).result) for file in files],
            self._lose,
        )

    def _lose(self, file: ArtifactFile, error: ServerError) -> None:
        self._to.may_come(error, self._kind, self._source_id, self._parent)
        self._to.report.lose("artifact", f"{self._source_id}/{file.path}", error.message)

    def _submit(self, tree: ArtifactTree, file: ArtifactFile) -> Future[int]:
        return self._to.files.submit(self._write_one, tree, file)

    def _start_beside(
        self, tree: ArtifactTree, files: list[ArtifactFile]
    ) -> dict[str, Callable[[], int]]:
        """Let another process write what it can; return what waits for each file, by path."""
        write, directory = self._to.write_beside, self._place.directory
        if write is None or directory is None:
            return {}
        pairs = [
            (file, member)
            for file in files
            if not self._is_rewritten(file) and (member := tree.held(file)) is not None
        ]
        waits: dict[str, Callable[[], int]] = {}
        for start in range(0, len(pairs), _BESIDE_AT_ONCE):
            some = pairs[start : start + _BESIDE_AT_ONCE]
            taken = [file for file, _ in some]
            paths = [self.path_of(file) for file in taken]
            sizes = write([member for _, member in some], directory, paths)
            if sizes is not None:
                beside = _Beside(taken, sizes, partial(self._submit, tree))
                for position, file in enumerate(taken):
                    waits[file.path] = partial(beside.wait, position)
        return waits

    def path_of(self, file: ArtifactFile) -> str:
        """Return where a file of the tree goes."""
        return posixpath.join(self._below, file.path) if self._below else file.path

    def _write_one(self, tree: ArtifactTree, file: ArtifactFile) -> int:
        return self._place.upload(self.path_of(file), self._opener(tree, file))

    def _opener(self, tree: ArtifactTree, file: ArtifactFile) -> Callable[[], OpenedArtifact]:
        if self._is_rewritten(file):
            return partial(self._rewritten, tree, file)
        return partial(tree.open, file)

    def _is_rewritten(self, file: ArtifactFile) -> bool:
        name = posixpath.basename(file.path)
        if self._kind == "trace":
            return name == TRACE_DATA
        if self._kind == SKILL.name:
            return False  # they have a digest
        return name == MLMODEL and (file.size or 0) <= SMALL_BYTES

    def _rewritten(self, tree: ArtifactTree, file: ArtifactFile) -> OpenedArtifact:
        remap = self._to.remap
        with tree.open(file).stream as stream:
            if self._kind != "trace":
                data = rewrite_mlmodel(stream.read(), remap)
                return OpenedArtifact(io.BytesIO(data), len(data))
            spooled = tempfile.SpooledTemporaryFile(SMALL_BYTES)  # noqa: SIM115 - see Place
            for chunk in rewrite_trace_data(stream, remap):
                spooled.write(chunk)
        size = spooled.tell()
        spooled.seek(0)
        return OpenedArtifact(cast(BinaryIO, spooled), size)


class _Beside:
    """Files that another process writes; those that it does not are written here.

    Args:
        files: The files.
        sizes: What the process has written, to come.
        submit: Begins to write one here.
    """

    def __init__(
        self,
        files: list[ArtifactFile],
        sizes: Future[Sizes],
        submit: Callable[[ArtifactFile], Future[int]],
    ) -> None:
        self._files = files
        self._sizes = sizes
        self._submit = submit
        self._here: dict[int, Future[int]] | None = None

    def wait(self, position: int) -> int:
        """Wait for the file of that position and return its size; errors as of writing it."""
        sizes = self._sizes.result()
        if self._here is None:
            self._here = {
                at: self._submit(self._files[at]) for at, size in enumerate(sizes) if size is None
            }
        size = sizes[position]
        return self._here[position].result() if size is None else size


class Uploads:
    """Files of one entity on their way.

    Args:
        to: The import.
        pending: The files, each with what waits for it and returns its size.
        lose: Called with a file that the store refused, and why.
    """

    def __init__(
        self,
        to: Importing,
        pending: list[tuple[ArtifactFile, Callable[[], int]]],
        lose: Callable[[ArtifactFile, ServerError], None],
    ) -> None:
        self._to = to
        self._pending = pending
        self._lose = lose

    def __len__(self) -> int:
        return len(self._pending)

    def finish(self) -> int:
        """Wait for all of them and return how many arrived; a refusal is a loss.

        Raises:
            ServerError: The store cannot be reached.
            FormatError: The bundle is damaged.
        """
        written = 0
        failure: BundleError | None = None
        for file, wait in self._pending:
            try:
                size = wait()
            except ServerError as exc:
                if exc.status is None:
                    failure = exc
                    continue
                self._lose(file, exc)
                continue
            except BundleError as exc:
                failure = exc
                continue
            written += 1
            self._to.report.did("artifact", size=size)
            self._to.progress.advance(bytes=size)
        if failure is not None:
            raise failure
        return written


def _bytes(files: list[ArtifactFile]) -> int:
    return sum(file.size or 0 for file in files)
