"""Reads MCP servers with their versions (MLflow >= 3.15); deleted versions are not shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.kinds.mcp_servers import (
    MCP_SERVER,
    McpAccessEndpoint,
    McpServer,
    McpServerVersion,
)
from mlflow_bundle.rest.readers.base import Chosen, Fetched, FetchedVersions, Reader
from mlflow_bundle.rest.session import API_3, Session

MCP = f"{API_3}mcp-servers"
_PER_PAGE = 1000
_VERSIONS_PER_PAGE = 100
_OWN = "server"
"""Mark on the icons that are the server's own and not those of its latest version."""


class RestVersion(msgspec.Struct, frozen=True):
    """``mcp-servers/<name>/versions``: one version."""

    version: str
    server_json: msgspec.Raw
    status: str = "draft"
    tools: msgspec.Raw = msgspec.Raw(b"null")
    source: str | None = None
    connect_options: msgspec.Raw = msgspec.Raw(b"null")
    tags: dict[str, str | None] = {}
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None

    def record(self) -> McpServerVersion:
        """The record."""
        return McpServerVersion(
            version=self.version,
            server_json=_text(self.server_json) or "{}",
            status=self.status,
            tools=_tools(self.tools),
            source=self.source,
            connect_options=_text(self.connect_options),
            tags={key: value or "" for key, value in self.tags.items()},
            created_by=self.created_by,
            last_updated_by=self.last_updated_by,
            creation_timestamp=self.creation_timestamp,
            last_updated_timestamp=self.last_updated_timestamp,
        )


class RestVersions(msgspec.Struct, frozen=True):
    """``mcp-servers/<name>/versions``."""

    mcp_server_versions: list[RestVersion] = []
    next_page_token: str | None = None


class RestAlias(msgspec.Struct, frozen=True):
    """An alias of a version."""

    alias: str
    version: str


class RestMcpServer(msgspec.Struct, frozen=True):
    """``mcp-servers``: one server."""

    name: str
    display_name: str | None = None
    description: str | None = None
    icons: list[dict[str, Any]] | None = None
    access_endpoints: list[McpAccessEndpoint] = []
    latest_version: str | None = None
    aliases: list[RestAlias] = []
    tags: dict[str, str | None] = {}
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None

    def record(self) -> McpServer:
        """The record, its description not yet told from that of its latest version."""
        own = [
            {key: value for key, value in icon.items() if key != "source"}
            for icon in self.icons or []
            if icon.get("source") == _OWN
        ]
        return McpServer(
            name=self.name,
            display_name=self.display_name,
            description=self.description,
            icons=json.dumps(own, ensure_ascii=False) if own else None,
            tags={key: value or "" for key, value in self.tags.items()},
            aliases={alias.alias: alias.version for alias in self.aliases},
            access_endpoints=sorted(self.access_endpoints, key=_endpoint_order),
            created_by=self.created_by,
            last_updated_by=self.last_updated_by,
            creation_timestamp=self.creation_timestamp,
            last_updated_timestamp=self.last_updated_timestamp,
        )


class RestMcpServers(msgspec.Struct, frozen=True):
    """``mcp-servers``."""

    mcp_servers: list[RestMcpServer] = []
    next_page_token: str | None = None


class McpServerReader(Reader):
    """Reads MCP servers."""

    kind = MCP_SERVER
    first = (3, 15)

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        self._latest: dict[str, str | None] = {}
        if not (chosen.whole_server and self._from.since(*self.first)):
            return
        for server in iter_servers(self._from.session):
            self._latest[server.name] = server.latest_version
            yield server.record()

    def start(self, entities: list[PlainEntity]) -> Fetched:
        names = [entity.id for entity in entities]
        return _Versions(self._from.session, self._from.pool, names, self._latest)


class _Versions(FetchedVersions[McpServerVersion]):
    """The versions of some servers."""

    def __init__(
        self, session: Session, pool: Executor, names: list[str], latest: dict[str, str | None]
    ) -> None:
        super().__init__(pool, partial(list_versions, session), names)
        self._latest = latest

    def entity(self, entity: PlainEntity) -> PlainEntity:
        assert isinstance(entity, McpServer)
        return with_own_description(entity, self.items(entity.id), self._latest.get(entity.id))


def iter_servers(session: Session) -> Iterator[RestMcpServer]:
    """Yield the MCP servers.

    Raises:
        ServerError: The server refused.
    """
    query = {"max_results": _PER_PAGE}
    for page in session.iter_pages("GET", MCP, query, type=RestMcpServers, what="MCP servers"):
        yield from page.mcp_servers


def list_versions(session: Session, name: str) -> list[McpServerVersion]:
    """Return the versions of a server in the order in which they were made.

    Raises:
        ServerError: The server refused.
    """
    found = [
        version.record()
        for page in session.iter_pages(
            "GET",
            f"{server_path(name)}/versions",
            {"max_results": _VERSIONS_PER_PAGE},
            type=RestVersions,
            what=f"versions of MCP server {name!r}",
        )
        for version in page.mcp_server_versions
    ]
    # Of versions that are equal in order, as 1.0.0+a and 1.0.0+b, the one made last is the latest.
    return sorted(found, key=lambda version: (version.creation_timestamp or 0, version.version))


def server_path(name: str) -> str:
    """Return the endpoint of one server."""
    return f"{MCP}/{quote(name, safe='/')}"


def with_own_description(
    server: McpServer, versions: list[McpServerVersion], latest: str | None
) -> McpServer:
    """Return ``server`` without a description that is only that of its latest version."""
    inherited = next((v.server_json for v in versions if v.version == latest), None)
    if inherited is None or server.description is None:
        return server
    if json.loads(inherited).get("description") != server.description:
        return server
    return msgspec.structs.replace(server, description=None)


def _endpoint_order(endpoint: McpAccessEndpoint) -> tuple[int, str]:
    return endpoint.creation_timestamp or 0, endpoint.id


def _text(raw: msgspec.Raw) -> str | None:
    """JSON as text; None for what holds nothing."""
    text = bytes(raw).decode()
    return None if text in ("null", "[]", "{}") else text


def _tools(raw: msgspec.Raw) -> str | None:
    """Tools without the fields that they do not have: the server shows all, as null."""
    tools = msgspec.json.decode(raw, type=list[dict[str, Any]] | None)
    if not tools:
        return None
    given = [{key: value for key, value in tool.items() if value is not None} for tool in tools]
    return json.dumps(given, ensure_ascii=False)
