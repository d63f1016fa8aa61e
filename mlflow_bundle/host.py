"""What holds workspaces, at either end of a transfer: a tracking server or its database.

What is behind a tracking URI has workspaces or is one: sources and sinks read and write one at a
time, and this says which there are, and makes those that are missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from mlflow_bundle.contracts import SourceInfo
from mlflow_bundle.importing import OnConflict
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE, Workspace
from mlflow_bundle.report import Report

_DEFAULT_DESCRIPTION = "Default workspace for legacy resources"
"""What MLflow's migration says of ``default``: nothing that anybody set."""

LOCATIONS = ("default_artifact_root", "trace_archival_location")
"""Where the source keeps its files: at another server they would be another's."""


def iter_settings(workspace: Workspace) -> list[tuple[str, str]]:
    """Return the fields of a workspace that somebody set, with their values."""
    return [
        (name, value)
        for name in ("description", *LOCATIONS, "trace_archival_retention")
        if (value := getattr(workspace, name))
        and not (workspace.name == DEFAULT_WORKSPACE and value == _DEFAULT_DESCRIPTION)
    ]


class WorkspaceHost(ABC):
    """What is behind one tracking URI."""

    enabled: bool
    """Whether it knows workspaces."""
    visible: dict[str, Workspace]
    """Those that the user may see, by name, in path order; empty when not enabled."""

    @property
    @abstractmethod
    def shown_uri(self) -> str:
        """The URI without credentials."""

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What it is."""

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return 0

    def close(self) -> None:
        """Free what is held; sources that were opened with it are of no use then."""

    @abstractmethod
    def _make(self, name: str, settings: dict[str, str]) -> None:
        """Make a workspace; harmless when it is there already."""

    @abstractmethod
    def _change(self, name: str, settings: dict[str, str]) -> None:
        """Set fields of a workspace."""

    def place(
        self,
        workspace: Workspace,
        name: str,
        report: Report,
        *,
        on_conflict: OnConflict = "skip",
        dry: bool = False,
    ) -> None:
        """Make the workspace ``name`` here, or see what differs in the one that is there.

        Args:
            workspace: As the source has it.
            name: The name here. Under another name one that is there is left as it is.
            report: Told what was made, found, adjusted and differs.
            on_conflict: As of an import.
            dry: Whether it is only looked for.

        Raises:
            SinkError: The server refused.
        """
        settings = dict(iter_settings(workspace))
        for field in LOCATIONS:
            if settings.pop(field, None) is not None:
                report.adjust(WORKSPACE.name, f"{field} (the destination's own)")
        here = self.visible.get(name)
        if here is not None:
            changes: dict[str, str] = {}
            if name == workspace.name:
                changes = self._changes(here, settings, report, on_conflict)
            else:
                for field in settings:
                    report.adjust(WORKSPACE.name, f"{field} (mapped)")
            if changes and not dry:
                self._change(name, changes)
                report.did(WORKSPACE.name)
            else:
                report.found(WORKSPACE.name)
            return
        if dry:
            return
        self._make(name, settings)
        self.visible[name] = Workspace(name=name, **settings)
        report.did(WORKSPACE.name)
        if name != workspace.name:
            report.adjust(WORKSPACE.name, "name (as asked)")

    def _changes(
        self, here: Workspace, settings: dict[str, str], report: Report, on_conflict: OnConflict
    ) -> dict[str, str]:
        set_here = dict(iter_settings(here))
        changes = {}
        for field, value in settings.items():
            if field in set_here and set_here[field] != value:
                taken = on_conflict == "update"
                report.conflict(
                    WORKSPACE.name,
                    here.name,
                    field,
                    f"the destination has {set_here[field]!r}, the bundle {value!r}"
                    + (", which is taken" if taken else ""),
                )
                if not taken:
                    continue
            if set_here.get(field) != value:
                changes[field] = value
        return changes
