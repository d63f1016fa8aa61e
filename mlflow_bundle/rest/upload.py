"""Brings an artifact tree to a server."""

from __future__ import annotations

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree
from mlflow_bundle.rest.artifacts import ArtifactOwner, Uploader
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.tree_writer import TreeWriter


class ArtifactWriter(TreeWriter):
    """Writes the artifacts of one entity.

    Args:
        destination: The server.
        kind: Kind of the entity, for the report.
        source_id: Its id in the bundle, for the report.
        root: Its artifact root at the server.
        owner: The entity at the server.
        below: Directory below the root that the tree goes to.
        parent: Id in the bundle of the experiment that it lies in.
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
        parent: str = "",
    ) -> None:
        self._uploader = Uploader(destination.session, root, owner)
        super().__init__(
            destination,
            self._uploader,
            kind=kind,
            source_id=source_id,
            below=below,
            parent=parent,
        )

    def write(self, tree: ArtifactTree, files: list[ArtifactFile]) -> int:
        written = super().write(tree, files)
        if written and self._uploader.writes_here:
            self._uploader.check_visible(self.path_of(files[0]))
        return written


def artifact_tags(tree: ArtifactTree, source_root: str) -> dict[str, str]:
    """Tags that say where artifacts lie that were referenced instead of copied."""
    if tree.mode == "reference" and source_root:
        return {provenance.SOURCE_ARTIFACTS: source_root}
    return {}
