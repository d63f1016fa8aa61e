"""MCP servers: the registry of tool servers (MLflow >= 3.15)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind


class McpAccessEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version, or the version behind an alias, can be reached; one of the two is null."""

    uri_fields: ClassVar[tuple[str, ...]] = ("url",)

    id: str = ""
    url: str
    transport_type: str = "streamable-http"
    server_version: str | None = None
    server_alias: str | None = None
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None


class McpServerVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an MCP server: an item of it."""

    uri_fields: ClassVar[tuple[str, ...]] = ("source",)
    json_fields: ClassVar[tuple[str, ...]] = ("server_json", "tools", "connect_options")

    version: str
    server_json: str
    """JSON text: what MCP calls ``server.json``."""
    status: str = "draft"
    tools: str | None = None
    """JSON text; null for none, as REST does not tell none from an empty list."""
    source: str | None = None
    connect_options: str | None = None
    """JSON text; null for none."""
    tags: dict[str, str] = {}
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    null_fields: list[str] | UnsetType = UNSET
    """``tags.<key>`` that are null in MLflow's table, and JSON texts that are null there and not,
    as usual, the JSON text ``null``."""

    @property
    def is_deleted(self) -> bool:
        """Whether only the database tells of it."""
        return self.status == "deleted"


class McpServer(PlainEntity, frozen=True, kw_only=True):
    """One MCP server; its versions are items, in the order in which they were made."""

    kind: ClassVar[str] = "mcp_server"
    json_fields: ClassVar[tuple[str, ...]] = ("icons",)

    name: str
    display_name: str | None = None
    description: str | None = None
    """Null where the server shows that of its latest version."""
    icons: str | None = None
    """JSON text; null where the server shows those of its latest version."""
    tags: dict[str, str] = {}
    aliases: dict[str, str] = {}
    """Alias to version."""
    access_endpoints: list[McpAccessEndpoint] = []
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    null_fields: list[str] | UnsetType = UNSET
    """As of a version."""

    @property
    def id(self) -> str:
        """The name: MCP servers have no other id."""
        return self.name


MCP_SERVER = Kind(
    record=McpServer,
    directory="mcp_servers",
    document="mcp_server.json",
    scope="server",
    item=McpServerVersion,
)
