"""Webhooks travel without their secrets, come last, and are never made twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, import_
from tests.transfer.kinds.services import CANARY, assert_no_canary, call, webhooks_of
from tests.world import _Build
from tests.world_services import NOWHERE, webhooks

pytestmark = pytest.mark.server

PATH = "2.0/mlflow/webhooks"


def make(server: MlflowServer, name: str, url: str, **fields: object) -> str:
    event = {"entity": "REGISTERED_MODEL", "action": "CREATED"}
    body = {"name": name, "url": url, "events": [event], "status": "DISABLED", **fields}
    answer = call(server, "POST", PATH, json=body)
    return str(answer["webhook"]["webhook_id"])


def test_webhooks_arrive_once_and_an_update_is_a_conflict(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    webhooks(_Build(source.uri))
    changed = make(source, "twin", f"{NOWHERE}/same")
    make(source, "twin", f"{NOWHERE}/same", status="ACTIVE")
    rows = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    assert row_dump(source.database) == rows

    # What is there already is found: the bundle brings the others.
    make(destination, "twin", f"{NOWHERE}/same")
    dry = import_(destination, bundle, "--dry-run")
    assert dry.report["present"]["webhook"] == 1
    first = import_(destination, bundle)
    assert webhooks_of(destination) == webhooks_of(source)
    assert first.report["done"]["webhook"] == len(webhooks_of(source)) - 1
    assert first.report["adjusted"]["webhook.secret (to be set again)"] == 6
    named = [note for note in first.report["notes"] if "set its secret again" in note]
    assert any("'every-event'" in note for note in named)
    assert len(named) == 6

    rows = row_dump(destination.database)
    again = import_(destination, bundle)
    assert again.report["present"]["webhook"] == len(webhooks_of(source))
    assert not again.report["notes"]
    assert row_dump(destination.database) == rows

    events = [{"entity": "PROMPT", "action": "CREATED"}]
    call(source, "PATCH", f"{PATH}/{changed}", json={"events": events, "description": "new"})
    make(source, "added", f"{NOWHERE}/added")
    newer = tmp_path / "newer.mlbundle"
    export(source, newer)
    import_(destination, newer, "--on-conflict", "fail", expect=1)
    assert row_dump(destination.database) == rows
    kept = import_(destination, newer)
    assert [field for _, _, field in kept.conflicts] == ["description", "events"]
    import_(destination, newer, "--on-conflict", "update")
    assert webhooks_of(destination) == webhooks_of(source)
    command("verify", newer)


def test_no_credential_of_a_webhook_enters_a_bundle(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    url = f"https://user:{CANARY}@127.0.0.1:9/a?token={CANARY}&x=1"
    make(source, "hook", url, secret=f"secret {CANARY}")
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle)
    assert exported.report["adjusted"]["webhook.url (credentials masked)"] == 1
    imported = import_(destination, bundle)
    assert_no_canary(bundle, exported, imported)
    assert [w["url"] for w in webhooks_of(destination)] == [
        "https://***@127.0.0.1:9/a?token=***&x=1"
    ]
    assert any("set its URL again" in note for note in imported.report["notes"])

    # At home the webhook with its credentials is the bundle's: nothing is made or changed.
    rows = row_dump(source.database)
    assert import_(source, bundle).report["present"]["webhook"] == 1
    assert row_dump(source.database) == rows


def test_a_webhook_that_the_destination_refuses_is_a_loss(
    empty_server: Callable[..., MlflowServer], tmp_path: Path
) -> None:
    source = empty_server()
    make(source, "hook", f"{NOWHERE}/a")
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    strict = empty_server(env={"MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "false"})
    refused = import_(strict, bundle, expect=3)
    (loss,) = refused.report["lost"]
    assert loss["kind"] == "webhook"
    assert "127.0.0.1" in loss["reason"] or "non-public" in loss["reason"]
    assert webhooks_of(strict) == []
