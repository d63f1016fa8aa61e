"""Databricks notebooks as artifacts of the runs that they made (``--notebook-formats``).

A run that was made in a notebook records the notebook's path and revision in its tags. That very
revision is asked of the workspace API, once per format, and joins the run's artifacts as
``notebooks/<name>.<format>``, where mlflow-export-import puts it. It is fetched when the artifact
is read: one that cannot be exported is a loss as any artifact that cannot be read, and stops
nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import BinaryIO, cast

import msgspec

from mlflow_bundle.archive import escape_path, order_key
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, OpenedArtifact
from mlflow_bundle.entities import Run
from mlflow_bundle.errors import ServerError, SourceError
from mlflow_bundle.rest.session import Session

PATH_TAG = "mlflow.databricks.notebookPath"
REVISION_TAG = "mlflow.databricks.notebookRevisionID"

DIRECTORY = "notebooks"
"""Where notebooks lie among a run's artifacts."""

_EXPORT = "/api/2.0/workspace/export"


class _Exported(msgspec.Struct, frozen=True):
    content: str
    """Base64."""


class Notebooks:
    """The workspace API of one server.

    Args:
        session: The server.
        formats: Some of ``SOURCE``, ``HTML``, ``JUPYTER`` and ``DBC``.
    """

    def __init__(self, session: Session, formats: tuple[str, ...]) -> None:
        self._session = session
        self._formats = formats
        self._absent = False

    def join(self, run: Run, tree: ArtifactTree) -> ArtifactTree:
        """Return ``tree`` with the run's notebook among its files, if it was made in one."""
        if not self._formats or PATH_TAG not in run.tags:
            return tree
        return _WithNotebook(tree, run, self._formats, self)

    def fetch(self, run: Run, format: str) -> bytes:
        """Return the revision of the run's notebook that made the run.

        Raises:
            ServerError: The run names no revision, the server is no Databricks workspace, or it
                refused.
        """
        what = f"notebook {run.tags[PATH_TAG]!r} as {format}"
        revision = run.tags.get(REVISION_TAG)
        if not revision:
            raise SourceError(f"{what}: the run does not tell which revision made it", status=404)
        if self._absent:
            raise self._no_workspace(what)
        # The revision is no documented parameter; mlflow-export-import sends it in this form. As
        # base64 in JSON an answer that is no notebook, like a login page, cannot pass for one.
        query = {
            "path": run.tags[PATH_TAG],
            "format": format,
            "direct_download": False,
            "revision": {"revision_timestamp": revision},
        }
        try:
            answer: _Exported = self._session.get(
                _EXPORT, json_body=query, type=_Exported, what=what
            )
        except ServerError as exc:
            if not self._session.is_absent(exc):
                raise
            self._absent = True
            raise self._no_workspace(what) from exc
        try:
            return base64.b64decode(answer.content, validate=True)
        except binascii.Error as exc:
            raise SourceError(f"{what}: the content is no base64: {exc}", status=502) from exc

    def _no_workspace(self, what: str) -> ServerError:
        return SourceError(
            f"{what}: the server is no Databricks workspace: it has no {_EXPORT}",
            status=404,
        )


class _WithNotebook(ArtifactTree):
    """A run's artifacts and its notebook. A file that lies there already is not fetched again."""

    def __init__(
        self, tree: ArtifactTree, run: Run, formats: tuple[str, ...], notebooks: Notebooks
    ) -> None:
        self.mode = tree.mode
        self._tree = tree
        self._run = run
        self._notebooks = notebooks
        name = run.tags[PATH_TAG].rstrip("/").rpartition("/")[2]
        if name in ("", ".", ".."):
            name = "notebook"
        self._format_of = {f"{DIRECTORY}/{name}.{format.lower()}": format for format in formats}
        self._files: list[ArtifactFile] | None = None

    def files(self) -> list[ArtifactFile]:
        if self._files is None:
            files = self._tree.files()
            for file in files:
                self._format_of.pop(file.path, None)
            files = files + [ArtifactFile(path, None) for path in self._format_of]
            self._files = sorted(files, key=lambda file: order_key(escape_path(file.path)))
        return self._files

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        if file.path not in self._format_of:
            return self._tree.open(file)
        data = self._notebooks.fetch(self._run, self._format_of[file.path])
        return OpenedArtifact(cast(BinaryIO, io.BytesIO(data)), len(data))
