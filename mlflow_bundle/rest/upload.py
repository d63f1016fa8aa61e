"""Brings an artifact tree to a server: what is there already stays, what differs is a conflict."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, OpenedArtifact
from mlflow_bundle.errors import ServerError
from mlflow_bundle.references import MLMODEL, rewrite_mlmodel
from mlflow_bundle.rest.artifacts import SMALL_BYTES, ArtifactOwner, Uploader
from mlflow_bundle.rest.destination import Destination


class ArtifactWriter:
    """Writes the artifacts of one entity.

    Args:
        destination: The server.
        kind: Kind of the entity, for the report.
        source_id: Its id in the bundle, for the report.
        root: Its artifact root at the server.
        owner: The entity at the server.
        below: Directory below the root that the tree goes to.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        kind: str,
        source_id: str,
        root: str,
        owner: ArtifactOwner,
        below: str = "",
    ) -> None:
        self._destination = destination
        self._kind = kind
        self._source_id = source_id
        self._below = below
        self._uploader = Uploader(destination.session, root, owner)

    def missing(self, tree: ArtifactTree, *, fresh: bool, filling: bool) -> list[ArtifactFile]:
        """Return the files of ``tree`` that have to be written.

        Args:
            tree: The bundle's files.
            fresh: The entity was made just now: nothing can be there.
            filling: An earlier import was interrupted while it filled the entity.
        """
        options = self._destination.options
        if tree.mode != "included" or options.artifacts != "copy":
            mode = tree.mode if tree.mode != "included" else f"--artifacts {options.artifacts}"
            self._destination.report.adjust(self._kind, f"artifacts ({mode})")
            return []
        files = tree.files()
        if fresh or not files:
            return files
        here = {file.path: file.size for file in self._uploader.existing()}
        return [file for file in files if self._is_missing(tree, file, here, filling)]

    def _is_missing(
        self, tree: ArtifactTree, file: ArtifactFile, here: dict[str, int | None], filling: bool
    ) -> bool:
        path = self._path(file)
        if path not in here:
            return True
        if here[path] is None or here[path] == file.size:
            return False
        if self._is_rewritten(file) and here[path] == self._rewritten(tree, file).size:
            return False
        return filling or self._destination.differs(
            self._kind,
            self._source_id,
            f"artifacts/{file.path}",
            here=f"{here[path]} bytes",
            bundle=f"{file.size} bytes",
        )

    def write(self, tree: ArtifactTree, files: list[ArtifactFile]) -> int:
        """Write ``files`` side by side and return how many arrived; a refusal is a loss."""
        pending: list[tuple[ArtifactFile, Future[int]]] = [
            (file, self._destination.files.submit(self._write_one, tree, file)) for file in files
        ]
        written = 0
        unreachable: ServerError | None = None
        for file, future in pending:
            try:
                size = future.result()
            except ServerError as exc:
                if exc.status is None:
                    unreachable = exc
                    continue
                self._destination.report.lose(
                    "artifact", f"{self._source_id}/{file.path}", exc.message
                )
                continue
            written += 1
            self._destination.report.did("artifact", size=size)
            self._destination.progress.advance(bytes=size)
        if unreachable is not None:
            raise unreachable
        if written and self._uploader.writes_here:
            self._uploader.check_visible(self._path(files[0]))
        return written

    def _path(self, file: ArtifactFile) -> str:
        return posixpath.join(self._below, file.path) if self._below else file.path

    def _write_one(self, tree: ArtifactTree, file: ArtifactFile) -> int:
        return self._uploader.upload(self._path(file), self._opener(tree, file))

    def _opener(self, tree: ArtifactTree, file: ArtifactFile) -> Callable[[], OpenedArtifact]:
        if self._is_rewritten(file):
            return partial(self._rewritten, tree, file)
        return partial(tree.open, file)

    @staticmethod
    def _is_rewritten(file: ArtifactFile) -> bool:
        return posixpath.basename(file.path) == MLMODEL and (file.size or 0) <= SMALL_BYTES

    def _rewritten(self, tree: ArtifactTree, file: ArtifactFile) -> OpenedArtifact:
        with tree.open(file).stream as stream:
            data = rewrite_mlmodel(stream.read(), self._destination.remap)
        return OpenedArtifact(io.BytesIO(data), len(data))


def artifact_tags(tree: ArtifactTree, source_root: str) -> dict[str, str]:
    """Tags that say where artifacts lie that were referenced instead of copied."""
    if tree.mode == "reference" and source_root:
        return {provenance.SOURCE_ARTIFACTS: source_root}
    return {}
