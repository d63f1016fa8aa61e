"""A file store as a source."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow.utils.uri import is_local_uri

from mlflow_bundle.contracts import ArtifactPolicy, ArtifactTree, NoArtifacts, SourceInfo
from mlflow_bundle.entities import Experiment
from mlflow_bundle.errors import SourceError
from mlflow_bundle.filestore.files import (
    ARTIFACTS,
    META,
    TRACE_INFO,
    TRASH,
    directory_of,
    is_experiment_id,
)
from mlflow_bundle.filestore.filling import Filling
from mlflow_bundle.filestore.tables import Tables
from mlflow_bundle.host import WorkspaceHost
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.database import sqlite_uri
from mlflow_bundle.sql.source import SqlSource


class FileStoreSource(SqlSource):
    """Source over one directory: what it held when it was opened.

    Args:
        root: The directory.
        artifacts: Whether artifact files are handed out, or only where they lie.
        store: Where artifacts lie.

    Raises:
        SourceError: It cannot be read.
    """

    def __init__(
        self, root: Path, *, artifacts: ArtifactPolicy = "copy", store: ArtifactStore
    ) -> None:
        self._root = root
        self._store = store
        with tempfile.TemporaryDirectory(prefix="mlflow-bundle-") as directory:
            file = Path(directory) / "filestore.db"
            tables = Tables(file)
            self._filling = Filling(root, tables)
            try:
                self._filling.run()
            except OSError as exc:
                raise SourceError(f"{exc.filename or root}: {exc.strerror or exc}") from exc
            finally:
                tables.close()
            super().__init__(sqlite_uri(file), artifacts=artifacts, open_tree=self._open)
        self._database.shown_uri = root.as_uri()

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(uri=self._root.as_uri(), mlflow_version="")

    def select(self, selection: Selection, report: Report) -> None:
        super().select(selection, report)
        for loss in self._filling.losses:
            if self._is_asked_for(loss, selection):
                report.lose_again(loss)
        if number := self._filling.repeated_points:
            stand = "point stands" if number == 1 else "points stand"
            report.note(f"{number} metric {stand} twice in the file store: one of each is taken")

    def _is_asked_for(self, loss: Loss, selection: Selection) -> bool:
        """Whether a loss belongs to what was selected, as far as that can be known."""
        experiment_id = loss.id if loss.kind == Experiment.kind else loss.parent
        if experiment_id:
            name = self._experiments.get(experiment_id, "")
            return (
                selection.everything
                or selection.matches_experiment(experiment_id, name)
                or (loss.id in selection.run_ids)
            )
        return selection.everything or selection.matches_model(loss.id.partition("/")[0])

    def _open(self, location: str) -> ArtifactTree:
        uri = self._store.resolve(location)
        path = directory_of(uri) if is_local_uri(uri) else None
        if path is not None and (found := self._here(path)) is not None:
            here, owner = found
            if here.is_dir() and (not path.is_dir() or _is_in_file_store(owner)):
                return self._store.tree(str(here))
            if not path.is_dir():
                return NoArtifacts()
        return self._store.tree(location)

    def _here(self, path: Path) -> tuple[Path, Path] | None:
        """Return where a directory of this file store is now, and where its owner was.

        The file store was moved or copied as a whole, or the experiment was deleted, which moves
        it.
        """
        for start, part in enumerate(path.parts):
            inside = path.parts[start:]
            if is_experiment_id(part) and ARTIFACTS in inside:  # from the experiment on
                owner = inside[: inside.index(ARTIFACTS)]
                for root in (self._root, self._root / TRASH):
                    if root.joinpath(*owner).is_dir():
                        return root.joinpath(*inside), Path(*path.parts[:start], *owner)
        return None


def _is_in_file_store(owner: Path) -> bool:
    """Whether a directory is that of a run, a logged model or a trace, not only of its files.

    It is in a file store that this one was copied from. Where files were logged to another place
    than the file store they lie alone, and its own directory for them is empty.
    """
    return any((owner / name).is_file() for name in (META, TRACE_INFO))


class FileStoreHost(WorkspaceHost):
    """What holds no workspaces and takes none."""

    enabled = False

    def __init__(self, root: Path) -> None:
        self._root = root
        self.visible = {}

    @property
    def shown_uri(self) -> str:
        return self._root.as_uri()

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(uri=self.shown_uri, mlflow_version="")

    def _make(self, name: str, settings: dict[str, str]) -> None:
        raise NotImplementedError

    def _change(self, name: str, settings: dict[str, str]) -> None:
        raise NotImplementedError
