"""MCP servers, skills, webhooks and the gateway of the world.

All of them point to loopback addresses where nothing listens: creating objects on a server that
holds these webhooks reaches nobody. `tests.servers` allows such addresses.

What MLflow 3.17.2 refuses, and what therefore is not here: names of MCP servers that are no
``namespace/slug``, versions of them that are not semantic, budgets per user without authentication,
guardrails of scorers that hold code.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any

from tests.servers import fast_session
from tests.world import Json, _Build
from tests.world_scorers import judge, online_config, register_scorer
from tests.world_traces import SpanSpec, log_spans, start_trace

MCP = "api/3.0/mlflow/mcp-servers"
SKILLS = "api/3.0/mlflow/skills"
NOWHERE = "https://127.0.0.1:9"
"""Discard: nothing listens there."""


def mcp_servers(build: _Build) -> None:
    """Servers with several, one and no version; statuses, tags, aliases, access endpoints."""

    def server(label: str, name: str, **fields: Any) -> str:
        build.send("POST", MCP, json={"name": name, **fields})
        build.mcp_servers[label] = name
        return name

    def version(name: str, number: str, *, more: Json | None = None, **fields: Any) -> None:
        described = {"name": name, "version": number, **(more or {})}
        build.send("POST", f"{MCP}/{name}/versions", json={"server_json": described, **fields})

    def put(name: str, what: str, **fields: Any) -> Json:
        return build.send("POST", f"{MCP}/{name}/{what}", json=fields)

    icon = {
        "src": f"{NOWHERE}/icon.png",
        "mimeType": "image/png",
        "sizes": ["48x48", "any"],
        "theme": "dark",
        "extra": {"ü": 1},
    }
    rich = server(
        "rich", "org.example/weather", description="Wetter *ünï* 😀\n\nzwei", icons=[icon]
    )
    build.send("PATCH", f"{MCP}/{rich}", json={"display_name": "Wetter ünï"})
    described = {
        "title": "Wetter",
        "description": "ünï 😀",
        "icons": [icon],
        "packages": [
            {
                "registryType": "npm",
                "identifier": "@example/weather",
                "version": "1.0.0",
                "transport": {"type": "stdio"},
                "environmentVariables": [
                    {"name": "API_KEY", "description": "ü", "isRequired": True, "isSecret": True}
                ],
            }
        ],
        "remotes": [{"type": "streamable-http", "url": f"{NOWHERE}/mcp", "headers": []}],
        "repository": {"url": "https://example.org/ü", "source": "github", "id": "1"},
        "websiteUrl": "https://example.org",
        "_meta": {"org.example/ü": {"deep": [1, 2.5, None, True]}},
        "unknown field": ["kept"],
    }
    tool = {
        "name": "forecast",
        "title": "Vorhersage ünï",
        "description": "d" * 3000,
        "inputSchema": {"type": "object", "properties": {"ort": {"type": "string"}}},
        "outputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": True, "number": 0.5},
    }
    version(
        rich,
        "1.0.0",
        more=described,
        status="active",
        source=f"{NOWHERE}/source",
        tools=[tool, {"name": "minimal"}],
        connect_options={"ü": {"hidden": True}, "open": {"hidden": False}},
    )
    version(rich, "1.10.0-beta.2+build.5", status="draft", tools=[])
    version(rich, "1.9.0", status="active")
    build.send("PATCH", f"{MCP}/{rich}/versions/1.9.0", json={"status": "deprecated"})
    version(rich, "0.1.0")
    build.send("PATCH", f"{MCP}/{rich}/versions/0.1.0", json={"status": "deleted"})
    for key, value in (("ünï/b c", "wert 😀"), ("empty", ""), ("long", "t" * 5000)):
        put(rich, "tags", key=key, value=value)
        put(rich, "versions/1.0.0/tags", key=key, value=value)
    put(rich, "aliases", alias="production", version="1.0.0")
    put(rich, "aliases", alias="beta", version="1.10.0-beta.2+build.5")
    for target in ({"server_version": "1.0.0"}, {"server_alias": "production"}):
        url = f"{NOWHERE}/{next(iter(target))}?x=ü"
        put(rich, "endpoints", url=url, transport_type="sse", **target)
    other = server("one_version", "org.example/one.v_2-x")
    version(other, "2.0.0")
    server("empty", "com.example/no-versions", description="")


def skills(build: _Build) -> None:
    """Skills with uploaded and other versions, one of an organization, one without versions.

    A server of before MLflow 3.18 has none.
    """
    if not has_skills(build.uri):
        return
    icon = {"src": f"{NOWHERE}/ünï.png", "sizes": ["any"], "extra": {"ü": 1}}
    make_skill(build, "forecast", description="Wetter *ünï* 😀\n\nzwei", icons=[icon])
    upload_skill_version(
        build,
        "forecast",
        {
            "SKILL.md": "---\nname: forecast\n---\nünï 😀\n".encode(),
            "scripts/Über lauf.py": b"print('1.0.0')\n",
            "assets/deep/er/bild.bin": bytes(range(256)) * 64,
            "MLmodel": b"run_id: of no model\n",
        },
    )
    git = {
        "source_type": "git",
        "source": f"{NOWHERE}/skills.git",
        "ref": "main",
        "subpath": "skills/forecast",
        "digest": "ab" * 32,
    }
    make_skill_version(build, "forecast", **git)
    archive = {"source_type": "zip", "source": f"{NOWHERE}/skills.zip", "status": "draft"}
    make_skill_version(build, "forecast", **archive)
    for text in (b"of the fourth", b"of the fifth"):
        upload_skill_version(build, "forecast", {"SKILL.md": text})
    path = f"{SKILLS}/forecast"
    for number, statuses in ((4, ["deprecated"]), (5, ["draft", "deleted"])):
        for status in statuses:
            build.send("PATCH", f"{path}/versions/{number}", json={"status": status})
    make_skill_version(build, "forecast", **git)
    for alias, number in (("best", 1), ("neu-ünï", 6)):
        build.send("POST", f"{path}/aliases", json={"alias": alias, "version": number})
    for key, value in (("team", "ünï 😀"), ("empty", "")):
        build.send("POST", f"{path}/tags", json={"key": key, "value": value})
        build.send("POST", f"{path}/versions/2/tags", json={"key": key, "value": value})
    make_skill(build, "@example.org/forecast")
    image = {"source_type": "oci", "source": "127.0.0.1:9/skills:v1", "subpath": "forecast"}
    make_skill_version(build, "@example.org/forecast", **image)
    make_skill(build, "empty", description="")


def has_skills(uri: str) -> bool:
    """Whether a server has a registry of skills."""
    version = fast_session().get(f"{uri}/version").text
    return tuple(int(part) for part in version.split(".")[:2]) >= (3, 18)


def make_skill(build: _Build, id: str, **fields: Any) -> None:
    """Make a skill of a name, or of ``@organization/name``."""
    organization, _, name = id.removeprefix("@").rpartition("/")
    build.send("POST", SKILLS, json={"name": name, "organization": organization, **fields})
    build.skills[id] = id


def make_skill_version(build: _Build, id: str, **fields: Any) -> None:
    """Make the next version of a skill whose files lie somewhere else."""
    build.send("POST", f"{SKILLS}/{id}/versions", json=fields)


def upload_skill_version(build: _Build, id: str, files: dict[str, bytes]) -> None:
    """Make the next version of a skill with its files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    parts = {
        "metadata": ("metadata.json", b"{}", "application/json"),
        "content": ("content.tar.gz", packed.getvalue(), "application/gzip"),
    }
    build.send("POST", f"{SKILLS}/{id}/versions", files=parts)


def webhooks(build: _Build) -> None:
    """One for every event, disabled ones, with and without a secret; last, as events fire."""

    def webhook(label: str, name: str, events: list[tuple[str, str]], **fields: str) -> str:
        answer = build.call(
            "webhooks",
            name=name,
            url=f"{NOWHERE}/{label}?x=1&y=%C3%BC",
            events=[{"entity": entity, "action": action} for entity, action in events],
            **fields,
        )
        build.webhooks[label] = answer["webhook"]["webhook_id"]
        return build.webhooks[label]

    everything = [
        ("REGISTERED_MODEL", "CREATED"),
        ("MODEL_VERSION", "CREATED"),
        ("MODEL_VERSION_TAG", "SET"),
        ("MODEL_VERSION_TAG", "DELETED"),
        ("MODEL_VERSION_ALIAS", "CREATED"),
        ("MODEL_VERSION_ALIAS", "DELETED"),
        ("PROMPT", "CREATED"),
        ("PROMPT_VERSION", "CREATED"),
        ("PROMPT_TAG", "SET"),
        ("PROMPT_TAG", "DELETED"),
        ("PROMPT_VERSION_TAG", "SET"),
        ("PROMPT_VERSION_TAG", "DELETED"),
        ("PROMPT_ALIAS", "CREATED"),
        ("PROMPT_ALIAS", "DELETED"),
        ("BUDGET_POLICY", "EXCEEDED"),
    ]
    webhook(
        "everything", "every-event", everything, description="Alle ünï 😀", status="DISABLED",
        secret="not a real secret",
    )  # fmt: skip
    webhook("plain", "plain", everything[:1], status="DISABLED")
    webhook("twin_1", "same.name", everything[1:2], status="DISABLED", description="first")
    webhook("twin_2", "same.name", everything[1:3], status="DISABLED", description="second")
    webhook("active", "active_1", everything[-1:])
    gone = webhook("deleted", "deleted", everything[:2])
    build.call(f"webhooks/{gone}", method="DELETE")
    del build.webhooks["deleted"]


def gateway(build: _Build) -> None:
    """Secrets, models, endpoints with everything on them, and the scorers that ask them."""

    def make(kind: str, label: str, answer: Json, id: str) -> str:
        (made,) = answer.values()
        build.gateway[f"{kind}/{label}"] = made[id]
        return str(made[id])

    def call(path: str, **fields: Any) -> Json:
        return build.call(f"gateway/{path}", api="3.0", **fields)

    def secret(label: str, name: str, values: dict[str, str], provider: str, **more: Any) -> str:
        answer = call(
            "secrets/create", secret_name=name, secret_value=values, provider=provider, **more
        )
        return make("secret", label, answer, "secret_id")

    def model(label: str, name: str, secret_id: str, provider: str, model_name: str) -> str:
        answer = call(
            "model-definitions/create",
            name=name,
            secret_id=secret_id,
            provider=provider,
            model_name=model_name,
            created_by="ana@example.org",
        )
        return make("model", label, answer, "model_definition_id")

    def endpoint(label: str, name: str, models: list[Json], **more: Any) -> str:
        answer = call("endpoints/create", name=name, model_configs=models, **more)
        return make("endpoint", label, answer, "endpoint_id")

    key = secret("key", "Schlüssel ünï", {"api_key": "sk-not-real"}, "openai", created_by="ana")
    aws = secret(
        "compound",
        "aws",
        {"aws_access_key_id": "AKIA0", "aws_secret_access_key": "none"},
        "bedrock",
        auth_config={"auth_mode": "access_keys", "aws_region_name": "eu-central-1"},
    )
    secret("unused", "unused", {"api_key": "sk-unused-none"}, "anthropic")
    large = model("large", "groß ünï", key, "openai", "gpt-4o")
    small = model("small", "small", key, "openai", "gpt-4o-mini")
    cloud = model("cloud", "cloud", aws, "bedrock", "anthropic.claude-3")
    chat = endpoint(
        "chat",
        "chat",
        [
            {"model_definition_id": large, "linkage_type": "PRIMARY", "weight": 0.75},
            {"model_definition_id": small, "linkage_type": "PRIMARY", "weight": 0.25},
            {"model_definition_id": cloud, "linkage_type": "FALLBACK", "fallback_order": 1},
        ],
        routing_strategy="REQUEST_BASED_TRAFFIC_SPLIT",
        fallback_config={"strategy": "SEQUENTIAL", "max_attempts": 2},
        experiment_id=build.experiments["genai_other"],
        usage_tracking=True,
        created_by="ana@example.org",
    )
    # MLflow makes an experiment for this one's traces.
    tracked = endpoint(
        "tracked", "own.experiment_1", [{"model_definition_id": small, "linkage_type": "PRIMARY"}]
    )
    untracked = endpoint(
        "untracked",
        "untracked-2",
        [{"model_definition_id": small, "linkage_type": "PRIMARY"}],
        usage_tracking=False,
    )
    for name, value in (("team", "Blumen & Söhne 😀"), ("empty", "")):
        call("endpoints/set-tag", endpoint_id=chat, key=name, value=value)
    made = build.send(
        "GET", "api/3.0/mlflow/gateway/endpoints/get", params={"endpoint_id": tracked}
    )
    own = made["endpoint"]["experiment_id"]
    build.experiments["gateway"] = own
    name = build.get("experiments/get", experiment_id=own)["experiment"]["name"]
    build.experiment_names["gateway"] = name

    text = judge("asks gateway", "Ist {{ outputs }} richtig?", "gateway:/chat")
    registered = register_scorer(build, "gateway", "genai", "asks gateway", text)
    scorer_id = registered["scorer_id"]
    text = judge("asks gateway", "Ist {{ outputs }} wirklich richtig?", "gateway:/chat")
    register_scorer(build, "gateway", "genai", "asks gateway", text)
    online_config(build, "genai", "asks gateway", 0.25, "attributes.status = 'OK'")
    call(
        "endpoints/bindings/create",
        endpoint_id=untracked,
        resource_type="scorer",
        resource_id=scorer_id,
        created_by="ana@example.org",
    )
    for label, stage, action, more in (
        ("before", "BEFORE", "VALIDATION", {}),
        ("after", "AFTER", "SANITIZATION", {"action_endpoint_id": untracked}),
        ("unused", "AFTER", "VALIDATION", {}),
    ):
        answer = call(
            "guardrails/create",
            name=f"Wache ünï {label}",
            scorer_id=scorer_id,
            scorer_version=1 if label == "before" else 2,
            stage=stage,
            action=action,
            **more,
        )
        make("guardrail", label, answer, "guardrail_id")
    for order, label in enumerate(("before", "after")):
        guardrail = build.gateway[f"guardrail/{label}"]
        call(
            "guardrails/add-to-endpoint",
            endpoint_id=chat,
            guardrail_id=guardrail,
            execution_order=order,
        )
    no_order = build.gateway["guardrail/before"]
    call("guardrails/add-to-endpoint", endpoint_id=untracked, guardrail_id=no_order)
    _budgets(build, chat)

    asked = start_trace(
        build, "gateway", "genai_other", metadata={"mlflow.gateway.endpointId": chat}
    )
    linked = {"mlflow.gateway.linkedTraceId": build.traces["rich"]}
    log_spans(build, asked, "genai_other", [SpanSpec(name="gateway", attributes=linked)])


def _budgets(build: _Build, endpoint_id: str) -> None:
    for label, scope, unit, count, action, more in (
        ("global", "GLOBAL", "MONTHS", 1, "REJECT", {}),
        ("workspace", "WORKSPACE", "DAYS", 7, "ALERT", {"created_by": "ana@example.org"}),
        ("endpoint", "ENDPOINT", "MINUTES", 30, "ALERT", {"target_value": endpoint_id}),
    ):
        answer = build.call(
            "gateway/budgets/create",
            api="3.0",
            budget_unit="USD",
            budget_amount=12.5,
            duration={"unit": unit, "value": count},
            target_scope=scope,
            budget_action=action,
            **more,
        )
        build.gateway[f"budget/{label}"] = answer["budget_policy"]["budget_policy_id"]
