"""Workspaces: servers within a server, in which names are unique (MLflow >= 3.10)."""

from __future__ import annotations

from typing import ClassVar

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.kinds.base import Kind

DEFAULT_WORKSPACE = "default"
"""The workspace that every server has: its tree is the one at the top of a bundle."""


class Workspace(PlainEntity, frozen=True, kw_only=True):
    """One workspace without what lies in it."""

    kind: ClassVar[str] = "workspace"
    uri_fields: ClassVar[tuple[str, ...]] = ("default_artifact_root", "trace_archival_location")

    name: str
    description: str | None = None
    default_artifact_root: str | None = None
    trace_archival_location: str | None = None
    trace_archival_retention: str | None = None
    """Age of traces that are archived, as MLflow writes it: ``30d``, ``12h``."""

    @property
    def id(self) -> str:
        return self.name


WORKSPACE = Kind(
    record=Workspace, directory="workspaces", document="workspace.json", scope="bundle"
)
