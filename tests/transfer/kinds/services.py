"""MCP servers, skills, webhooks and gateway of a server, read without the package, and canaries.

What a server makes by itself, ids and times, is left out of what is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import zstandard

from tests.servers import MlflowServer, fast_session
from tests.transfer.commands import Done
from tests.world import Json

CANARY = "CANARY7f3a9"
"""Part of every credential that is planted: it may stand in nothing that is written."""

_MADE = (
    "id",
    "webhook_id",
    "workspace",
    "last_updated_by",
    "creation_timestamp",
    "last_updated_timestamp",
    "resolved_version",
    "secret_id",
    "model_definition_id",
    "endpoint_id",
    "guardrail_id",
    "budget_policy_id",
    "created_at",
    "last_updated_at",
)


def call(server: MlflowServer, method: str, path: str, **options: Any) -> Json:
    """Send a request below ``/api/``."""
    reply = fast_session().request(method, f"{server.uri}/api/{path}", **options)
    assert reply.ok, f"{method} {path}: {reply.text}"
    answer: Json = reply.json()
    return answer


def webhooks_of(server: MlflowServer) -> list[Json]:
    """The webhooks, sorted."""
    return _plain(call(server, "GET", "2.0/mlflow/webhooks").get("webhooks", []))


def mcp_servers_of(server: MlflowServer) -> list[Json]:
    """The MCP servers with all that lies below them."""
    path = "3.0/mlflow/mcp-servers"
    servers = call(server, "GET", path)["mcp_servers"]
    for row in servers:
        name = quote(row["name"], safe="/")
        versions = call(server, "GET", f"{path}/{name}/versions")["mcp_server_versions"]
        row["versions"] = _plain(versions)
        row["access_endpoints"] = _plain(row["access_endpoints"])
    return _plain(servers)


def skills_of(server: MlflowServer) -> list[Json]:
    """The skills with all that lies below them, and what their files hold."""
    path = "3.0/mlflow/skills"
    skills = call(server, "GET", path)["skills"]
    for row in skills:
        organization = row["organization"]
        id = f"@{organization}/{row['name']}" if organization else row["name"]
        row["versions"] = _plain(call(server, "GET", f"{path}/{id}/versions")["skill_versions"])
        for version in row["versions"]:
            if version["source_type"] == "mlflow":
                version["files"] = _files_below(server, version.pop("source"))
    return _plain(skills)


def _files_below(server: MlflowServer, uri: str) -> dict[str, bytes]:
    """The files at a location of the server's artifact proxy, by path."""
    root, pending = uri.removeprefix("mlflow-artifacts:/"), [""]
    base, found = f"{server.uri}/api/2.0/mlflow-artifacts/artifacts", dict[str, bytes]()
    while pending:
        directory = pending.pop()
        listing = call(
            server, "GET", "2.0/mlflow-artifacts/artifacts", params={"path": f"{root}{directory}"}
        )
        for entry in listing["files"]:
            path = f"{directory}/{entry['path']}"
            if entry["is_dir"]:
                pending.append(path)
            else:
                reply = fast_session().get(f"{base}/{quote(root + path)}")
                assert reply.ok
                found[path] = reply.content
    return found


def gateway_of(server: MlflowServer) -> Json:
    """The gateway's objects, what they refer to by name instead of by id."""

    def listed(path: str, field: str, **query: str) -> list[Json]:
        rows = call(server, "GET", f"3.0/mlflow/gateway/{path}", params=query).get(field, [])
        return [dict(row) for row in rows]

    experiments = {
        row["experiment_id"]: row["name"]
        for row in call(
            server,
            "POST",
            "2.0/mlflow/experiments/search",
            json={"view_type": "ALL", "max_results": 1000},
        )["experiments"]
    }
    secrets = listed("secrets/list", "secrets")
    models = listed("model-definitions/list", "model_definitions")
    endpoints = listed("endpoints/list", "endpoints")
    names = {row["endpoint_id"]: row["name"] for row in endpoints}
    for row in secrets:
        row["masked_values"] = sorted(row["masked_values"])
    guardrails = listed("guardrails/list", "guardrails")
    for row in guardrails:
        scorer = row.pop("scorer")
        row["scorer"] = [experiments[str(scorer["experiment_id"])], scorer["scorer_name"]]
        row["scorer_version"] = scorer["scorer_version"]
    bindings = listed("endpoints/bindings/list", "bindings")
    for row in endpoints:
        row["experiment"] = experiments.get(row.pop("experiment_id", ""))
        row["guardrails"] = [
            [config["guardrail"]["name"], config.get("execution_order")]
            for config in listed(
                "guardrails/list-for-endpoint", "configs", endpoint_id=row["endpoint_id"]
            )
        ]
        row["bindings"] = sorted(
            [binding["resource_type"], binding.get("display_name", ""), binding.get("created_by")]
            for binding in bindings
            if binding["endpoint_id"] == row["endpoint_id"]
        )
        row["tags"] = sorted(row.get("tags", []), key=repr)
        row["model_mappings"] = sorted(
            (
                {
                    "model": mapping["model_definition"]["name"],
                    **{key: mapping.get(key) for key in ("weight", "linkage_type")},
                    **{key: mapping.get(key) for key in ("fallback_order", "created_by")},
                }
                for mapping in row["model_mappings"]
            ),
            key=repr,
        )
    budgets = listed("budgets/list", "budget_policies")
    for row in budgets:
        row["target_value"] = names.get(row.get("target_value", ""), row.get("target_value"))
    return {
        "secrets": _plain(secrets),
        "models": _plain(models),
        "endpoints": _plain(endpoints),
        "guardrails": _plain(guardrails),
        "budgets": _plain(budgets),
    }


def _plain(rows: list[Json]) -> list[Json]:
    return sorted(
        ({key: value for key, value in row.items() if key not in _MADE} for row in rows), key=repr
    )


def assert_no_canary(bundle: Path, *commands: Done) -> None:
    """Search every byte of a bundle, packed and unpacked, and what commands said."""
    with bundle.open("rb") as file:
        raw = file.read()
        file.seek(0)
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        unpacked = stream.read()
    assert len(unpacked) > 1000
    for data in (raw, unpacked):
        assert CANARY.encode() not in data
    for done in commands:
        assert CANARY not in done.stdout
        assert CANARY not in done.stderr
