"""MCP servers travel with versions, tags, aliases and access endpoints, without credentials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, import_
from tests.transfer.faults import DROPPED, Answer, faulty
from tests.transfer.kinds.services import CANARY, assert_no_canary, call, mcp_servers_of
from tests.world import Json, _Build
from tests.world_services import NOWHERE, mcp_servers

pytestmark = pytest.mark.server

PATH = "3.0/mlflow/mcp-servers"
RICH = "org.example/weather"


def test_mcp_servers_arrive_once_with_all_that_lies_below_them(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    mcp_servers(_Build(source.uri))
    inherited = {"name": "org.example/other", "version": "1.0.0", "description": "of the version"}
    call(source, "POST", f"{PATH}/org.example/other/versions", json={"server_json": inherited})
    rows = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    assert row_dump(source.database) == rows
    assert not [key for key in exported.report["adjusted"] if "masked" in key]

    import_(destination, bundle)
    assert mcp_servers_of(destination) == mcp_servers_of(source)
    command("diff", bundle, destination.uri)
    described = dict(row_dump(destination.database))["mcp_servers"]
    assert not any("of the version" in row for row in described), "inherited, not the server's own"
    rows = row_dump(destination.database)
    again = import_(destination, bundle)
    assert again.report["present"]["mcp_server"] == 4
    assert row_dump(destination.database) == rows

    # A newer bundle: what is new comes, what was changed is a conflict until it is asked for.
    more: Json = {"name": RICH, "version": "2.0.0"}
    call(source, "POST", f"{PATH}/{RICH}/versions", json={"server_json": more})
    call(source, "POST", f"{PATH}/{RICH}/aliases", json={"alias": "next", "version": "2.0.0"})
    call(source, "POST", f"{PATH}/{RICH}/tags", json={"key": "new", "value": "1"})
    endpoint = {"url": f"{NOWHERE}/new", "server_alias": "next"}
    call(source, "POST", f"{PATH}/{RICH}/endpoints", json=endpoint)
    newer = tmp_path / "newer.mlbundle"
    export(source, newer)
    assert import_(destination, newer).conflicts == []
    assert mcp_servers_of(destination) == mcp_servers_of(source)

    call(source, "PATCH", f"{PATH}/{RICH}", json={"description": "changed"})
    call(source, "PATCH", f"{PATH}/{RICH}/versions/2.0.0", json={"status": "active"})
    call(source, "POST", f"{PATH}/{RICH}/aliases", json={"alias": "next", "version": "1.0.0"})
    changed = tmp_path / "changed.mlbundle"
    export(source, changed)
    kept = import_(destination, changed)
    fields = [field for _, _, field in kept.conflicts]
    assert fields == ["aliases.next", "description", "status"]
    import_(destination, changed, "--on-conflict", "update")
    assert mcp_servers_of(destination) == mcp_servers_of(source)
    command("verify", changed)


def test_no_credential_of_an_mcp_server_enters_a_bundle(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    name = "org.example/secrets"
    token = f"ghp_{CANARY}0123"
    described = {
        "name": name,
        "version": "1.0.0",
        "packages": [
            {
                "registryType": "npm",
                "identifier": "x",
                "transport": {"type": "stdio"},
                "environmentVariables": [
                    {"name": "GITHUB_TOKEN", "value": token},
                    {"name": "PLAIN", "value": token, "isSecret": True},
                    {"name": "REGION", "value": "eu"},
                    {"name": "PICKED", "isSecret": True, "choices": [token]},
                ],
                "runtimeArguments": ["--api-key", token, f"--token={token}", "--verbose"],
                "packageArguments": [
                    {"type": "named", "name": "-e", "value": f"API_TOKEN={token}"},
                    {"type": "positional", "valueHint": "api_key", "value": token},
                ],
            }
        ],
        "remotes": [
            {
                "type": "sse",
                "url": f"https://user:{token}@127.0.0.1:9/?api_key={token}",
                "headers": [
                    {"name": "Authorization", "value": f"Bearer {token}"},
                    {
                        "name": "X-Key",
                        "value": "Bearer {api_key}",
                        "variables": {"api_key": {"value": token, "default": token}},
                    },
                ],
            }
        ],
        "_meta": {"notes": f"curl -H 'Authorization: Bearer {token}'", "clientSecret": token},
    }
    body = {
        "server_json": described,
        "source": f"https://u:{token}@127.0.0.1:9/#access_token={token}",
        "tools": [
            {
                "name": "t",
                "description": f"run with --env=API_TOKEN={token}",
                "inputSchema": {"properties": {"password": {"default": token}}},
            }
        ],
    }
    call(source, "POST", f"{PATH}/{name}/versions", json=body)
    endpoint = {"url": f"{NOWHERE}/?access_token={token}", "server_version": "1.0.0"}
    call(source, "POST", f"{PATH}/{name}/endpoints", json=endpoint)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    masked = {key for key in exported.report["adjusted"] if "masked" in key}
    assert masked == {
        "mcp_server.access_endpoints.url (credentials masked)",
        "mcp_server.items.server_json (credentials masked)",
        "mcp_server.items.source (credentials masked)",
        "mcp_server.items.tools (credentials masked)",
    }
    imported = import_(destination, bundle)
    assert_no_canary(bundle, exported, imported)
    notes = [note for note in imported.report["notes"] if name in note]
    assert len(notes) == 2
    (server,) = mcp_servers_of(destination)
    package = server["versions"][0]["server_json"]["packages"][0]
    values = [variable.get("value") for variable in package["environmentVariables"]]
    assert values == ["***", "***", "eu", None]
    assert [a["value"] for a in package["packageArguments"]] == ["API_TOKEN=***", "***"]
    assert package["runtimeArguments"] == ["--api-key", "***", "--token=***", "--verbose"]

    rows = row_dump(source.database)
    assert import_(source, bundle).report["present"]["mcp_server"] == 1
    assert row_dump(source.database) == rows


def test_a_server_comes_at_once_though_the_answer_got_lost(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    mcp_servers(_Build(source.uri))
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    lost: list[str] = []

    def lose_answers(method: str, path: str, true: Answer) -> Answer:
        if method == "POST" and path.endswith("/mcp-servers") and true.status == 200:
            lost.append(path)
            return DROPPED
        return true

    with faulty(destination.uri, lose_answers) as uri:
        command("import-all", bundle, "--tracking-uri", uri)
    assert len(lost) == 4 - 1  # one is made by its first version
    assert mcp_servers_of(destination) == mcp_servers_of(source)
