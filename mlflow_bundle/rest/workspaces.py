"""The workspaces of a server (MLflow >= 3.10, with ``--enable-workspaces``): listed and made."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mlflow_bundle.archive import order_key
from mlflow_bundle.contracts import SourceInfo
from mlflow_bundle.errors import ServerError, SinkError, SourceError
from mlflow_bundle.host import WorkspaceHost
from mlflow_bundle.kinds.workspaces import Workspace
from mlflow_bundle.layout import document_path
from mlflow_bundle.patience import Patience
from mlflow_bundle.rest.session import API_3, Session

_ENDPOINT = f"{API_3}workspaces"


class ServerWorkspaces(WorkspaceHost):
    """What one server says of its workspaces.

    Args:
        uri: Tracking URI.
        error: What is raised when the server fails: ``SourceError`` or ``SinkError``.
        patience: How long the server may be away.

    Raises:
        ServerError: The server cannot be reached.
    """

    def __init__(
        self,
        uri: str,
        *,
        error: type[SourceError] | type[SinkError],
        patience: Patience | None = None,
    ) -> None:
        self._session = Session(uri, error=error, patience=patience)
        self._error = error
        self.enabled = self._are_enabled()
        """Whether the server knows workspaces."""
        self.visible: dict[str, Workspace] = {}
        """Those that the user may see, by name, in path order; empty when not enabled."""
        if self.enabled:
            answer = self._session.get(_ENDPOINT, what="workspaces")
            found = [_workspace(entry) for entry in answer.get("workspaces", [])]
            found.sort(key=lambda workspace: order_key(document_path(workspace)))
            self.visible = {workspace.name: workspace for workspace in found}

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._session.requests

    @property
    def shown_uri(self) -> str:
        """The server's URI without credentials."""
        return self._session.shown_uri

    @property
    def info(self) -> SourceInfo:
        """What the server is."""
        version = ".".join(map(str, self._session.probe()))
        return SourceInfo(uri=self.shown_uri, mlflow_version=version)

    def _are_enabled(self) -> bool:
        if self._session.is_databricks:  # whose workspaces are servers of their own
            return False
        return bool(self._session.server_info().get("workspaces_enabled"))

    def _make(self, name: str, settings: dict[str, str]) -> None:
        try:
            self._send("POST", _ENDPOINT, {"name": name, **settings}, name)
        except ServerError as exc:
            # Another import may have been faster; or it is there and not for this user to see.
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _change(self, name: str, settings: dict[str, str]) -> None:
        self._send("PATCH", f"{_ENDPOINT}/{quote(name, safe='')}", settings, name)

    def _send(self, method: str, endpoint: str, settings: dict[str, str], name: str) -> None:
        body: dict[str, Any] = dict(settings)
        retention = body.pop("trace_archival_retention", None)
        if retention is not None:
            body["trace_archival_config"] = {"retention": retention}
        self._session.call(method, endpoint, json_body=body, what=f"workspace {name!r}", once=True)


def _workspace(entry: dict[str, Any]) -> Workspace:
    archival = entry.get("trace_archival_config") or {}
    return Workspace(
        name=str(entry["name"]),
        description=entry.get("description"),
        default_artifact_root=entry.get("default_artifact_root"),
        trace_archival_location=archival.get("location"),
        trace_archival_retention=archival.get("retention"),
    )
