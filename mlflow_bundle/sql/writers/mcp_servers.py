"""Writes MCP servers with all that lies below them: the name says which is which."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from mlflow.utils.semver_utils import encode_prerelease_sort_key, parse_semver

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import MASK, mask_uri
from mlflow_bundle.kinds.mcp_servers import McpAccessEndpoint, McpServer, McpServerVersion
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.writers.base import (
    Writer,
    json_text,
    made,
    null_names,
    own_masked,
    spaced,
)

_SERVERS, _VERSIONS, _ENDPOINTS = "mcp_servers", "mcp_server_versions", "mcp_access_endpoints"
_SERVER_COMPARED = ("display_name", "description", "icons")
_VERSION_COMPARED = ("server_json", "status", "tools", "source", "connect_options")
_ENDPOINT_COMPARED = ("url", "transport_type", "server_version", "server_alias")
_VERSION_JSON = ("server_json", "tools", "connect_options")


class McpServerWriter(Writer):
    """Writes MCP servers."""

    kind = McpServer.kind

    def write(self, content: Content, *, dry: bool) -> None:
        server = content.entity
        assert isinstance(server, McpServer)
        within: Row = {"workspace": self._to.workspace, "name": server.name}
        here = self._to.row(_SERVERS, within, *_SERVER_COMPARED)
        if here is None and dry:
            return
        nulls = server.null_fields
        with Merge(self._to, self.kind, server.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                **within,
                "display_name": server.display_name,
                "description": server.description,
                "icons": json_text(spaced(server.icons), "icons", nulls),
                **made(server),
            }
            own_masked(
                merge,
                _SERVERS,
                row,
                here,
                key=within,
                compared=_SERVER_COMPARED,
                json_columns=("icons",),
            )
            tags = self._to.tags_of(self.kind, server.tags)
            merge.map("mcp_server_tags", within, tags, name="tags", nulls=null_names(nulls))
            unlike = self._versions_here(merge, within)
            lost: set[str] = set()
            for item in content.items():
                assert isinstance(item, McpServerVersion)
                if not self._write_version(merge, server, item, within, unlike):
                    lost.add(item.version)
            aliases = {a: version for a, version in server.aliases.items() if version not in lost}
            for alias in server.aliases.keys() - aliases.keys():
                self._lose(server, f"aliases.{alias}")
            merge.map(
                "mcp_server_aliases",
                within,
                aliases,
                name="aliases",
                key="alias",
                value="version",
            )
            self._write_endpoints(merge, self._without(server, lost))
            merge.count()

    def _versions_here(self, merge: Merge, within: Row) -> dict[str, str]:
        """Return the versions here by what MySQL made of them before MLflow 3.18."""
        dialect = self._to.database.dialect
        if merge.fresh or not dialect.folds_keys:
            return {}
        return {
            dialect.fold(row["version"]): row["version"]
            for row in self._to.rows(_VERSIONS, within, ("version",))
        }

    def _objection(self, version: str, unlike: dict[str, str]) -> str:
        """Return why there can be no such version here; empty when there can."""
        dialect = self._to.database.dialect
        if not dialect.folds_keys:
            return ""
        other = unlike.setdefault(dialect.fold(version), version)
        column = self._to.table(_VERSIONS).c.version
        if other == version or not dialect.is_one(self._to.connection, column, other, version):
            return ""
        return f"the database takes it for {other!r} (MLflow 3.18 and newer tell them apart)"

    def _without(self, server: McpServer, lost: Collection[str]) -> McpServer:
        """Return a server without access endpoints of versions that are not here."""
        if not lost:
            return server
        endpoints: list[McpAccessEndpoint] = []
        for endpoint in server.access_endpoints:
            alias = endpoint.server_alias or ""
            if endpoint.server_version in lost or server.aliases.get(alias) in lost:
                self._lose(server, f"access_endpoints.{endpoint.url}")
            else:
                endpoints.append(endpoint)
        return msgspec.structs.replace(server, access_endpoints=endpoints)

    def _lose(self, server: McpServer, field: str) -> None:
        reason = "its version could not be made"
        self._to.report.lose(self.kind, server.id, reason, field=field)

    def _write_version(
        self,
        merge: Merge,
        server: McpServer,
        version: McpServerVersion,
        within: Row,
        unlike: dict[str, str],
    ) -> bool:
        """Write a version; return whether there can be one of its number."""
        where: Row = {**within, "version": version.version}
        here = None if merge.fresh else self._to.row(_VERSIONS, where, *_VERSION_COMPARED)
        nulls, name = version.null_fields, f"versions.{version.version}"
        if here is None and (reason := self._objection(version.version, unlike)):
            self._to.report.lose(self.kind, server.id, reason, field=name)
            return False
        try:
            parsed = parse_semver(version.version)
            order = (
                parsed.major,
                parsed.minor,
                parsed.patch,
                encode_prerelease_sort_key(parsed),
            )
        except Exception as exc:  # MLflow's own, of several types
            reason = f"its number is none that MLflow takes: {exc}"
            self._to.report.lose(self.kind, server.id, reason, field=name)
            return False
        row: Row = {
            **where,
            "version_major": order[0],
            "version_minor": order[1],
            "version_patch": order[2],
            "version_prerelease_sort_key": order[3],
            "status": version.status,
            "source": version.source,
            **{
                column: json_text(spaced(getattr(version, column)), column, nulls)
                for column in _VERSION_JSON
            },
            **made(version),
        }
        own_masked(
            merge,
            _VERSIONS,
            row,
            here,
            key=where,
            compared=_VERSION_COMPARED,
            json_columns=_VERSION_JSON,
            uri_columns=("source",),
            name=name,
        )
        texts = (version.server_json, version.tools, version.connect_options, version.source)
        if here is None and any(MASK in text for text in texts if text):
            what = f"MCP server {server.name!r}, version {version.version}"
            self._to.report.note(f"{what}: set its masked values ({MASK}) again")
        tags = self._to.tags_of(self.kind, version.tags)
        merge.map(
            "mcp_server_version_tags",
            where,
            tags,
            name=f"{name}.tags",
            nulls=[f"{name}.{entry}" for entry in null_names(nulls)],
        )
        return True

    def _write_endpoints(self, merge: Merge, server: McpServer) -> None:
        within = {"workspace": self._to.workspace, "server_name": server.name}
        here: dict[str, Row] = {}
        if not merge.fresh:
            for row in self._to.rows(_ENDPOINTS, within, ("id", *_ENDPOINT_COMPARED)):
                here[str(row["id"])] = {**row, "url": mask_uri(row["url"])}
        rest: list[McpAccessEndpoint] = []
        for endpoint in server.access_endpoints:
            wanted = _shown(endpoint)
            found = (id for id, row in here.items() if row == {**wanted, "id": id})
            if (same := next(found, None)) is not None:
                del here[same]
            else:
                rest.append(endpoint)
        for endpoint in rest:
            name = f"access_endpoints.{endpoint.url}"
            old = here.pop(endpoint.id, None) if endpoint.id else None
            if old is None:
                row = self._endpoint(endpoint, within)
                merge.own(_ENDPOINTS, row, None, key=("id",), compared=(), name=name)
            elif not self._follow(merge, server, endpoint, old, name):
                continue
            if MASK in endpoint.url:
                what = f"MCP server {server.name!r}, access endpoint {endpoint.url}"
                self._to.report.note(f"{what}: set its URL again")

    def _follow(
        self, merge: Merge, server: McpServer, endpoint: McpAccessEndpoint, old: Row, name: str
    ) -> bool:
        """Let an access endpoint that somebody changed be as in the bundle, if that is asked for.

        Its version and its alias go together: one has to be null.
        """
        shown = _shown(endpoint)
        values = {column: shown[column] for column in shown if shown[column] != old[column]}
        before = {column: old[column] for column in values}
        if not self._to.differs(self.kind, server.id, name, here=before, bundle=values):
            return False
        merge.replace(
            _ENDPOINTS,
            {"id": endpoint.id},
            {column: getattr(endpoint, column) for column in values},
        )
        return "url" in values

    def _endpoint(self, endpoint: McpAccessEndpoint, within: Row) -> Row:
        id = endpoint.id or endpoint.url
        return {
            "id": self._to.free_id(
                _ENDPOINTS, "id", id, within=str(within["server_name"]), short=False
            )
            if endpoint.id
            else self._to.made_id(_ENDPOINTS, str(within["server_name"]), id, short=False),
            **within,
            "server_version": endpoint.server_version,
            "server_alias": endpoint.server_alias,
            "url": endpoint.url,
            "transport_type": endpoint.transport_type,
            **made(endpoint),
        }


def _shown(endpoint: McpAccessEndpoint) -> Row:
    """Return what may be changed of an access endpoint, with no credentials in its URL."""
    values = {column: getattr(endpoint, column) for column in _ENDPOINT_COMPARED}
    return {**values, "url": mask_uri(endpoint.url)}
