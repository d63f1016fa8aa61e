"""The AI gateway travels without its secrets' values; what needs them asks for placeholders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_bundle.kinds import KINDS
from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, import_
from tests.transfer.kinds.services import CANARY, assert_no_canary, call, gateway_of
from tests.world import Json, _Build
from tests.world_genai import foundations
from tests.world_services import gateway
from tests.world_traces import start_trace

pytestmark = pytest.mark.server

PATH = "3.0/mlflow/gateway/"
PLACEHOLDERS = "--placeholder-secrets"


def post(server: MlflowServer, path: str, **body: object) -> Json:
    answer = call(server, "POST", PATH + path, json=body)
    (made,) = answer.values() or ({},)
    return dict(made)


def fill(server: MlflowServer) -> dict[str, str]:
    """A gateway without scorers; returns ids by name."""
    ids: dict[str, str] = {}
    ids["e"] = call(server, "POST", "2.0/mlflow/experiments/create", json={"name": "traces"})[
        "experiment_id"
    ]
    for name, values in (
        ("key", {"api_key": f"sk-{CANARY}"}),
        ("aws", {"aws_access_key_id": f"{CANARY}0", "aws_secret_access_key": f"{CANARY}1"}),
    ):
        region = f"https://user:{CANARY}@127.0.0.1/"
        made = post(
            server,
            "secrets/create",
            secret_name=f"{name} ünï",
            secret_value=values,
            provider="openai" if name == "key" else "bedrock",
            auth_config={"aws_region_name": "eu", "url": region} if name == "aws" else {},
            created_by="ana",
        )
        ids[name] = made["secret_id"]
    for name, secret, model in (("large", "key", "gpt-4o"), ("cloud", "aws", "claude")):
        made = post(
            server,
            "model-definitions/create",
            name=f"{name} ünï",
            secret_id=ids[secret],
            provider="openai",
            model_name=model,
            created_by="ana",
        )
        ids[name] = made["model_definition_id"]
    made = post(
        server,
        "endpoints/create",
        name="chat",
        model_configs=[
            {"model_definition_id": ids["large"], "linkage_type": "PRIMARY", "weight": 0.5},
            {"model_definition_id": ids["cloud"], "linkage_type": "FALLBACK", "fallback_order": 1},
        ],
        routing_strategy="REQUEST_BASED_TRAFFIC_SPLIT",
        fallback_config={"strategy": "SEQUENTIAL", "max_attempts": 2},
        experiment_id=ids["e"],
        created_by="ana",
    )
    ids["chat"] = made["endpoint_id"]
    call(
        server,
        "POST",
        f"{PATH}endpoints/set-tag",
        json={"endpoint_id": ids["chat"], "key": "team", "value": "ünï 😀"},
    )
    # MLflow makes an experiment for this one's traces; a tag of it names the endpoint.
    config = [{"model_definition_id": ids["large"], "linkage_type": "PRIMARY"}]
    ids["own"] = post(server, "endpoints/create", name="own", model_configs=config)["endpoint_id"]
    for scope, amount, target in (
        ("GLOBAL", 5, None),
        ("GLOBAL", 9, None),
        ("ENDPOINT", 7, "chat"),
    ):
        made = post(
            server,
            "budgets/create",
            budget_unit="USD",
            budget_amount=amount,
            duration={"unit": "DAYS", "value": 7},
            target_scope=scope,
            budget_action="ALERT",
            **({} if target is None else {"target_value": ids[target]}),
        )
        ids[f"{scope} {amount}"] = made["budget_policy_id"]
    return ids


def sources_of_experiments(server: MlflowServer) -> list[str]:
    """For each experiment that was made for an endpoint, the endpoint's name."""
    rows = row_dump(server.database)
    names = {row[0]: row[1] for row in rows["endpoints"]}
    return [
        names.get(value, value)
        for key, value, *_ in rows["experiment_tags"]
        if key == "mlflow.experiment.sourceId"
    ]


def test_the_gateway_arrives_once_with_placeholders_for_its_secrets(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    ids = fill(source)
    rows = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    assert row_dump(source.database) == rows
    assert exported.report["adjusted"]["gateway_secret.auth_config (credentials masked)"] == 1

    # Without placeholders what needs a secret is a loss that says how it can come.
    bare = import_(destination, bundle, expect=3)
    lost = {loss[0] for loss in bare.losses}
    assert lost == {
        "gateway_secret",
        "gateway_model_definition",
        "gateway_endpoint",
        "gateway_budget",
    }
    assert len(bare.losses) == 2 + 2 + 2 + 1
    for loss in bare.report["lost"]:
        assert PLACEHOLDERS in loss["reason"] or loss["kind"] == "gateway_budget"
    assert bare.report["done"]["gateway_budget"] == 2
    assert sources_of_experiments(destination) == [ids["own"]]

    filled = import_(destination, bundle, PLACEHOLDERS)
    expected = gateway_of(source)
    for secret in expected["secrets"]:
        if "auth_config" in secret:
            secret["auth_config"]["url"] = "https://***@127.0.0.1/"
    assert gateway_of(destination) == expected
    assert filled.report["present"]["gateway_budget"] == 2
    assert sources_of_experiments(destination) == ["own"]
    named = [note for note in filled.report["notes"] if "set its value again" in note]
    assert {f"'{name} ünï'" in note for name in ("key", "aws") for note in named} == {True, False}
    assert len(named) == 2
    assert_no_canary(bundle, exported, bare, filled)
    command("diff", bundle, destination.uri)

    # The flag is for making: what is here is found without it, and named as long as it is needed.
    rows = row_dump(destination.database)
    again = import_(destination, bundle)
    assert [note for note in again.report["notes"] if "set its value again" in note] == named
    assert row_dump(destination.database) == rows
    counts = {kind: n for kind, n in again.report["present"].items() if "gateway" in kind}
    assert counts == {
        "gateway_budget": 3,
        "gateway_endpoint": 2,
        "gateway_model_definition": 2,
        "gateway_secret": 2,
    }

    # A newer bundle: additions come, changes are conflicts until they are asked for.
    post(source, "model-definitions/update", model_definition_id=ids["large"], model_name="new")
    post(source, "budgets/update", budget_policy_id=ids["GLOBAL 9"], budget_amount=10)
    changed = [{"model_definition_id": ids["cloud"], "linkage_type": "PRIMARY"}]
    post(source, "endpoints/update", endpoint_id=ids["own"], model_configs=changed)
    call(
        source,
        "POST",
        f"{PATH}endpoints/set-tag",
        json={"endpoint_id": ids["chat"], "key": "new", "value": ""},
    )
    newer = tmp_path / "newer.mlbundle"
    export(source, newer)
    import_(destination, newer, "--on-conflict", "fail", expect=1)
    assert row_dump(destination.database) == rows
    kept = import_(destination, newer)
    assert [field for _, _, field in kept.conflicts] == [
        "budget_amount",
        "model_configs",
        "model_name",
    ]
    import_(destination, newer, "--on-conflict", "update")
    after = gateway_of(source)
    for kind in ("models", "endpoints", "budgets"):
        for row in after[kind]:
            for mapping in row.get("model_mappings", []):
                # Replaced models have no maker at the source and at the destination.
                assert mapping["created_by"] is None or row["name"] == "chat"
        assert gateway_of(destination)[kind] == after[kind]
    command("verify", newer)


def test_a_gateway_that_is_switched_off_is_a_loss(
    empty_server: Callable[..., MlflowServer], tmp_path: Path
) -> None:
    source = empty_server()
    post(
        source,
        "budgets/create",
        budget_unit="USD",
        budget_amount=1,
        duration={"unit": "DAYS", "value": 1},
        target_scope="GLOBAL",
        budget_action="REJECT",
    )
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    off = empty_server(env={"MLFLOW_ENABLE_AI_GATEWAY": "false"})
    refused = import_(off, bundle, expect=3)
    assert [loss[0] for loss in refused.losses] == ["gateway_budget"]
    assert "disabled" in refused.report["lost"][0]["reason"].lower()


@pytest.mark.skipif("scorer" not in KINDS, reason="scorers, which guardrails need, do not travel")
def test_guardrails_and_bindings_follow_their_scorers(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = _Build(source.uri)
    foundations(build)
    start_trace(build, "rich", "genai")
    gateway(build)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    import_(destination, bundle, PLACEHOLDERS)
    assert gateway_of(destination) == gateway_of(source)

    rows = row_dump(destination.database)
    again = import_(destination, bundle, "--on-conflict", "fail")
    assert again.report["present"]["gateway_guardrail"] == 3
    assert row_dump(destination.database) == rows


def test_the_schedule_of_an_experiment_names_its_secret(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    """What looks for issues since MLflow 3.18 asks a model with it."""
    source, destination = empty_server(), empty_server()
    secret = post(
        source,
        "secrets/create",
        secret_name="key",
        secret_value={"api_key": "sk"},
        provider="openai",
    )["secret_id"]
    key = "mlflow.issueDetection.schedule"
    schedule = '{"version": 1, "model": {"model": "m", "secretId": "%s"}, "paused": true}'
    tags = [{"key": key, "value": schedule % secret}]
    body = {"name": "e", "tags": tags}
    call(source, "POST", "2.0/mlflow/experiments/create", json=body)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)

    done = import_(destination, bundle, PLACEHOLDERS, "--verify")
    rows = row_dump(destination.database)
    ((there, *_),) = rows["secrets"]
    assert there != secret
    assert (key, schedule % there) in {tuple(row[:2]) for row in rows["experiment_tags"]}
    assert done.report["verification"]["differences"] == []
    again = import_(destination, bundle, PLACEHOLDERS)
    assert (again.report["done"], again.conflicts) == ({}, [])
    assert row_dump(destination.database) == rows

    # Without the secret it names what is not there: that is told.
    bare = empty_server()
    adjusted = import_(bare, bundle, expect=3).report["adjusted"]
    assert adjusted[f"experiment.tags.{key} (points outside)"] == 1
