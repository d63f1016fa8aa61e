"""Writes MCP servers: the name says which is which, below it the version."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import MASK, mask_uri
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError, UnsupportedEntityError
from mlflow_bundle.kinds.mcp_servers import McpAccessEndpoint, McpServer, McpServerVersion
from mlflow_bundle.rest.lost_answers import made_once
from mlflow_bundle.rest.readers.mcp_servers import (
    MCP,
    RestMcpServer,
    list_versions,
    server_path,
    with_own_description,
)
from mlflow_bundle.rest.writers.base import Writer, same_json

_UNSETTABLE = ("created_by", "last_updated_by", "creation_timestamp", "last_updated_timestamp")
_FIRST_STATUSES = frozenset({"draft", "active"})
"""Statuses that a version may be made with (mlflow/utils/validation.py)."""


class McpServerWriter(Writer):
    """Writes MCP servers with all that lies below them."""

    kind = McpServer.kind

    def examine(self, content: Content) -> None:
        server = _server(content.entity)
        here = self._find(server)
        if here is None:
            return
        self._to.report.found(McpServer.kind)
        shown, versions = here
        self._changes(server, shown)
        self._to.changed(McpServer.kind, server.name, "tags", shown.tags, self._tags(server.tags))
        self._to.changed(McpServer.kind, server.name, "aliases", shown.aliases, server.aliases)
        for version in _versions(content):
            if (other := versions.get(version.version)) is not None:
                self._version_changes(server, version, other)
                self._version_tags(server, version, other)

    def put(self, content: Content) -> None:
        server = _server(content.entity)
        here = self._find(server)
        written = _Written(self, server)
        versions: dict[str, McpServerVersion] = {}
        if here is None:
            shown = self._create(server)
        else:
            shown, versions = here
            if changes := self._changes(server, shown):
                self._to.session.call(
                    "PATCH", server_path(server.name), json_body=changes, what=_what(server)
                )
                written.count += 1
        for version in _versions(content):
            written.version(version, versions.get(version.version))
        written.tags(shown)
        written.aliases(shown)
        written.endpoints(shown)
        if here is None or written.count:
            self._to.report.did(McpServer.kind)
        else:
            self._to.report.found(McpServer.kind)

    def _find(self, server: McpServer) -> tuple[McpServer, dict[str, McpServerVersion]] | None:
        """Return the server and its versions here."""
        if not self._to.since(3, 15):
            raise UnsupportedEntityError(
                f"{_what(server)}: the server has no registry of MCP servers (it came with MLflow "
                "3.15)",
                status=404,
            )
        found = self._get(server)
        if found is None:
            return None
        versions = list_versions(self._to.session, server.name)
        shown = with_own_description(found.record(), versions, found.latest_version)
        return shown, {version.version: version for version in versions}

    def _get(self, server: McpServer) -> RestMcpServer | None:
        session = self._to.session
        try:
            found: RestMcpServer = session.get(
                server_path(server.name), type=RestMcpServer, what=_what(server)
            )
        except ServerError as exc:
            if session.is_missing(exc) and not session.is_absent(exc):
                return None
            raise
        return found

    def _create(self, server: McpServer) -> McpServer:
        body: dict[str, Any] = {"name": server.name}
        if server.description is not None:
            body["description"] = server.description
        if server.icons is not None:
            body["icons"] = json.loads(server.icons)
        made = made_once(lambda: self._post(server, body), lambda: self._get(server))
        if server.display_name is not None:
            self._to.session.call(
                "PATCH",
                server_path(server.name),
                json_body={"display_name": server.display_name},
                what=_what(server),
            )
        for name in _UNSETTABLE:
            self._to.report.adjust(McpServer.kind, name)
        return made.record()

    def _post(self, server: McpServer, body: dict[str, Any]) -> RestMcpServer:
        made: RestMcpServer = self._to.session.post(
            MCP, body, type=RestMcpServer, what=_what(server), once=True
        )
        return made

    def _changes(self, server: McpServer, here: McpServer) -> dict[str, Any]:
        """Fields of the server that are to be written."""
        changes: dict[str, Any] = {}
        for name in ("description", "display_name"):
            value, other = getattr(server, name), getattr(here, name)
            if value is None or value == other:
                continue
            if other is None or self._to.differs(
                McpServer.kind, server.name, name, here=other, bundle=value
            ):
                changes[name] = value
        if (
            server.icons is not None
            and not same_json(here.icons, server.icons)
            and (
                here.icons is None
                or self._to.differs(
                    McpServer.kind, server.name, "icons", here=here.icons, bundle=server.icons
                )
            )
        ):
            changes["icons"] = json.loads(server.icons)
        return changes

    def _version_changes(
        self, server: McpServer, version: McpServerVersion, here: McpServerVersion
    ) -> dict[str, Any]:
        """Fields of a version that are to be written."""
        id = f"{server.name}/{version.version}"
        changes: dict[str, Any] = {}
        for name in ("server_json", "source"):
            value, other = getattr(version, name), getattr(here, name)
            same = same_json(other, value) if name == "server_json" else _same_uri(other, value)
            if not same:
                # No request changes it, whatever --on-conflict says.
                reason = "the destination has another one, which cannot be changed"
                self._to.report.conflict(McpServer.kind, id, name, reason)
        if version.status != here.status and self._to.differs(
            McpServer.kind, id, "status", here=here.status, bundle=version.status
        ):
            changes["status"] = version.status
        for name in ("tools", "connect_options"):
            value, other = getattr(version, name), getattr(here, name)
            if value is None or same_json(other, value):
                continue
            if other is None or self._to.differs(
                McpServer.kind, id, name, here=other, bundle=value
            ):
                changes[name] = json.loads(value)
        return changes

    def _version_tags(
        self, server: McpServer, version: McpServerVersion, here: McpServerVersion | None
    ) -> dict[str, str]:
        """Tags of a version that are to be written."""
        tags = self._tags(version.tags)
        if here is None:
            return tags
        id = f"{server.name}/{version.version}"
        return self._to.changed(McpServer.kind, id, "tags", here.tags, tags)

    def _tags(self, tags: dict[str, str]) -> dict[str, str]:
        return self._to.tags_of(McpServer.kind, tags)


class _Written:
    """Writes what lies below one server, and counts it."""

    def __init__(self, writer: McpServerWriter, server: McpServer) -> None:
        self._writer = writer
        self._to = writer._to
        self._server = server
        self._path = server_path(server.name)
        self.count = 0

    def version(self, version: McpServerVersion, here: McpServerVersion | None) -> None:
        """Write one version; one that the server refuses is a loss."""
        try:
            if here is None:
                self._create(version)
                self.count += 1
            elif changes := self._writer._version_changes(self._server, version, here):
                self._patch(version, changes)
                self.count += 1
            tags = self._writer._version_tags(self._server, version, here)
            for key, value in tags.items():
                self._post(f"versions/{_quoted(version.version)}/tags", key=key, value=value)
        except ServerError as exc:
            self._lose(f"versions[{version.version}]", exc)

    def _create(self, version: McpServerVersion) -> None:
        body: dict[str, Any] = {
            "server_json": json.loads(version.server_json),
            "status": version.status if version.status in _FIRST_STATUSES else "active",
        }
        if version.source is not None:
            body["source"] = version.source
        for name in ("tools", "connect_options"):
            if (value := getattr(version, name)) is not None:
                body[name] = json.loads(value)
        self._to.session.post(f"{self._path}/versions", body, what=self._what(version), once=True)
        for name in _UNSETTABLE:
            self._to.report.adjust(McpServer.kind, f"versions.{name}")
        texts = (version.server_json, version.tools, version.connect_options, version.source)
        if any(MASK in text for text in texts if text):
            self._to.report.note(f"{self._what(version)}: set its masked values ({MASK}) again")
        if body["status"] != version.status:
            self._patch(version, {"status": version.status})

    def _patch(self, version: McpServerVersion, changes: dict[str, Any]) -> None:
        self._to.session.call(
            "PATCH",
            f"{self._path}/versions/{_quoted(version.version)}",
            json_body=changes,
            what=self._what(version),
        )

    def tags(self, here: McpServer) -> None:
        """Write the server's tags."""
        tags = self._writer._tags(self._server.tags)
        new = self._to.changed(McpServer.kind, self._server.name, "tags", here.tags, tags)
        for key, value in new.items():
            try:
                self._post("tags", key=key, value=value)
            except ServerError as exc:
                self._lose(f"tags.{key}", exc)

    def aliases(self, here: McpServer) -> None:
        """Write the aliases."""
        new = self._to.changed(
            McpServer.kind, self._server.name, "aliases", here.aliases, self._server.aliases
        )
        for alias, version in new.items():
            try:
                self._post("aliases", alias=alias, version=version)
            except ServerError as exc:
                self._lose(f"aliases.{alias}", exc)

    def endpoints(self, here: McpServer) -> None:
        """Write the access endpoints: what one is says which it is."""
        present = [_endpoint_key(endpoint) for endpoint in here.access_endpoints]
        for endpoint in self._server.access_endpoints:
            key = _endpoint_key(endpoint)
            if key in present:
                present.remove(key)
                continue
            target = (
                {"server_version": endpoint.server_version}
                if endpoint.server_version is not None
                else {"server_alias": endpoint.server_alias}
            )
            try:
                self._post(
                    "endpoints", url=endpoint.url, transport_type=endpoint.transport_type, **target
                )
            except ServerError as exc:
                self._lose(f"access_endpoints[{endpoint.url}]", exc)
                continue
            for name in ("id", *_UNSETTABLE):
                self._to.report.adjust(McpServer.kind, f"access_endpoints.{name}")
            if MASK in endpoint.url:
                what = f"{_what(self._server)}, access endpoint {endpoint.url}"
                self._to.report.note(f"{what}: set its URL again")

    def _post(self, below: str, **body: Any) -> None:
        self._to.session.post(
            f"{self._path}/{below}", body, what=_what(self._server), once=below == "endpoints"
        )
        self.count += 1

    def _lose(self, field: str, exc: ServerError) -> None:
        if exc.status is None:
            raise exc
        self._to.report.lose(McpServer.kind, self._server.name, exc.message, field=field)

    def _what(self, version: McpServerVersion) -> str:
        return f"{_what(self._server)}, version {version.version}"


def _same_uri(here: str | None, bundle: str | None) -> bool:
    return (here and mask_uri(here)) == bundle


def _endpoint_key(endpoint: McpAccessEndpoint) -> tuple[str | None, ...]:
    return (
        mask_uri(endpoint.url),
        endpoint.transport_type,
        endpoint.server_version,
        endpoint.server_alias,
    )


def _server(entity: object) -> McpServer:
    assert isinstance(entity, McpServer)
    return entity


def _versions(content: Content) -> Iterable[McpServerVersion]:
    for item in content.items():
        assert isinstance(item, McpServerVersion)
        yield item


def _quoted(version: str) -> str:
    return quote(version, safe="")


def _what(server: PlainEntity) -> str:
    return f"MCP server {server.id!r}"
