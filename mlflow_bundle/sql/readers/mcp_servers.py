"""Reads MCP servers with their versions (MLflow >= 3.15)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mlflow_bundle.kinds.mcp_servers import (
    MCP_SERVER,
    McpAccessEndpoint,
    McpServer,
    McpServerVersion,
)
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import MADE, Chosen, Ids, Items, Nulls, Reader, ids_of, made

_ENDPOINT = ("id", "url", "transport_type", "server_version", "server_alias")
_VERSION = ("version", "server_json", "status", "tools", "source", "connect_options")
_COMPACT = (",", ":")
"""How servers tell JSON that they give as it is."""
_SPACED = (", ", ": ")
_JSON = {"server_json": _COMPACT, "tools": _SPACED, "connect_options": _COMPACT}
"""How servers tell the JSON of a version."""
_NOTHING: tuple[Any, ...] = (None, [], {})


class McpServerReader(Reader):
    """Reads MCP servers."""

    kind = MCP_SERVER.name

    def select(self, chosen: Chosen) -> Ids:
        return self._all("mcp_servers", "name") if chosen.whole_server else iter(())

    def read(self, wanted: Sequence[Selected]) -> Iterator[McpServer]:
        ids = ids_of(wanted)
        tags = self._tags("mcp_server_tags", "name", ids)
        aliases = self._rows.grouped("mcp_server_aliases", "name", ids, ("alias", "version"))
        endpoints = self._rows.grouped(
            "mcp_access_endpoints",
            "server_name",
            ids,
            (*_ENDPOINT, *MADE),
            order=("created_at", "id"),
        )
        columns = ("name", "display_name", "description", "icons", *MADE)
        for row in self._records("mcp_servers", "name", wanted, columns):
            name = row["name"]
            nulls = Nulls()
            yield McpServer(
                name=name,
                display_name=row["display_name"],
                description=row["description"],
                icons=self._json(name, "icons", row["icons"], nulls),
                tags=nulls.tags("tags", tags.get(name, ())),
                aliases=dict(sorted(aliases.get(name, ()))),
                access_endpoints=[
                    _endpoint(dict(zip((*_ENDPOINT, *MADE), values, strict=True)))
                    for values in endpoints.get(name, ())
                ],
                **made(row),
                null_fields=nulls.names,
            )

    def read_items(self, wanted: Sequence[Selected]) -> Items:
        ids = ids_of(wanted)
        found = self._rows.grouped(
            "mcp_server_versions", "name", ids, (*_VERSION, *MADE), order=("created_at", "version")
        )
        tags = self._rows.grouped(
            "mcp_server_version_tags", "name", ids, ("version", "key", "value")
        )

        def items(id: str, parent: str) -> Iterator[McpServerVersion]:
            for values in found.get(id, ()):
                row = dict(zip((*_VERSION, *MADE), values, strict=True))
                nulls = Nulls()
                told = {
                    field: self._json(
                        f"{id}/{row['version']}", field, row[field], nulls, separators
                    )
                    for field, separators in _JSON.items()
                }
                yield McpServerVersion(
                    version=row["version"],
                    server_json=told["server_json"] or "{}",
                    status=row["status"],
                    tools=told["tools"],
                    source=row["source"],
                    connect_options=told["connect_options"],
                    tags=nulls.tags(
                        "tags", [tag[1:] for tag in tags.get(id, ()) if tag[0] == row["version"]]
                    ),
                    **made(row),
                    null_fields=nulls.names,
                )

        return items

    def _json(
        self,
        id: str,
        field: str,
        text: str | None,
        nulls: Nulls,
        separators: tuple[str, str] = _SPACED,
    ) -> str | None:
        """JSON as servers tell it; None for what holds nothing."""
        if text is None:
            nulls.add(field)
            return None
        value = self._decoded(id, field, text)
        if value in _NOTHING:
            return None
        return json.dumps(value, ensure_ascii=False, separators=separators)


def _endpoint(row: dict[str, Any]) -> McpAccessEndpoint:
    return McpAccessEndpoint(**{name: row[name] for name in _ENDPOINT}, **made(row))
