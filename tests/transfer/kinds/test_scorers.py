"""Scorers travel with every version under its number, and with their online configurations."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer, fast_session
from tests.transfer.commands import command, export, import_
from tests.world_scorers import judge, serialized_scorer

pytestmark = pytest.mark.server

API = "api/3.0/mlflow"


def call(server: MlflowServer, path: str, method: str = "POST", **body: Any) -> Any:
    reply = fast_session().request(method, f"{server.uri}/{path}", json=body)
    assert reply.ok, reply.text
    return reply.json()


def experiment(server: MlflowServer, name: str) -> str:
    id: str = call(server, "api/2.0/mlflow/experiments/create", name=name)["experiment_id"]
    return id


def register(server: MlflowServer, experiment_id: str, name: str, *texts: str) -> None:
    for text in texts:
        call(
            server,
            f"{API}/scorers/register",
            experiment_id=experiment_id,
            name=name,
            serialized_scorer=text,
        )


def endpoint(server: MlflowServer, name: str) -> str:
    gateway = f"{API}/gateway"
    secret = call(
        server,
        f"{gateway}/secrets/create",
        secret_name="s",
        secret_value={"api_key": "none"},
        provider="openai",
    )["secret"]["secret_id"]
    model = call(
        server,
        f"{gateway}/model-definitions/create",
        name="m",
        secret_id=secret,
        provider="openai",
        model_name="gpt-4o",
    )["model_definition"]["model_definition_id"]
    models = [{"model_definition_id": model, "linkage_type": "PRIMARY"}]
    answer = call(
        server,
        f"{gateway}/endpoints/create",
        name=name,
        model_configs=models,
        usage_tracking=False,
    )
    id: str = answer["endpoint"]["endpoint_id"]
    return id


def contents(server: MlflowServer) -> dict[str, Any]:
    """Versions and online configurations by experiment and scorer, as the database has them."""
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:
        found: dict[str, Any] = {}
        for id, name in database.execute(
            "SELECT scorer_id, e.name || '/' || scorer_name FROM scorers s"
            " JOIN experiments e ON e.experiment_id = s.experiment_id"
        ):
            found[name] = {
                "versions": dict(
                    database.execute(
                        "SELECT scorer_version, serialized_scorer FROM scorer_versions"
                        " WHERE scorer_id = ?",
                        (id,),
                    ).fetchall()
                ),
                "online": database.execute(
                    "SELECT sample_rate, filter_string FROM online_scoring_configs"
                    " WHERE scorer_id = ?",
                    (id,),
                ).fetchall(),
            }
        return found


def test_versions_keep_numbers_and_texts_and_what_is_refused_is_named(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    first, gone = experiment(source, "e"), experiment(source, "gone")
    plain = [judge("j", f"{{{{ outputs }}}} ünï {i}", "openai:/gpt-4o") for i in range(4)]
    compact = json.dumps(json.loads(plain[3]), ensure_ascii=False, separators=(",", ":"))
    register(source, first, "j", plain[0], plain[1], compact)
    call(source, f"{API}/scorers/delete", "DELETE", experiment_id=first, name="j", version=2)
    call(
        source,
        f"{API}/scorers/online-config",
        "PUT",
        experiment_id=first,
        name="j",
        sample_rate=0.0,
        filter_string="status = 'OK'",
    )
    ask = endpoint(source, "ask")
    register(source, first, "asks", judge("asks", "{{ outputs }}", "gateway:/ask"))
    call(
        source,
        f"{API}/scorers/online-config",
        "PUT",
        experiment_id=first,
        name="asks",
        sample_rate=0.5,
    )
    # Registered when the server was told to take code.
    code = serialized_scorer(
        "code", call_source="return 1", call_signature="()", original_func_name="code"
    )
    register(source, first, "code", plain[0], plain[1])
    with sqlite3.connect(source.database) as database:
        database.execute(
            "UPDATE scorer_versions SET serialized_scorer = ? WHERE scorer_version = 1 AND"
            " scorer_id = (SELECT scorer_id FROM scorers WHERE scorer_name = 'code')",
            (code,),
        )
    register(source, gone, "j", plain[0])
    call(source, "api/2.0/mlflow/experiments/delete", experiment_id=gone)
    before = row_dump(source.database)
    bundle = tmp_path / "b.mlbundle"
    exported = export(source, bundle, "--experiments", f"{first},{gone}", name="export-experiments")
    assert row_dump(source.database) == before
    assert exported.report["planned"]["scorer"] == 3
    (note,) = (note for note in exported.report["notes"] if "scorers" in note)
    assert "deleted experiments" in note
    command("verify", bundle)

    done = import_(destination, bundle, expect=3)
    assert done.losses == [("scorer", "asks", ""), ("scorer", "code", "versions[1]")]
    reasons = " ".join(loss["reason"] for loss in done.report["lost"])
    assert "'ask'" in reasons
    assert "--placeholder-secrets" in reasons
    assert "Custom scorer registration" in reasons
    expected = contents(source)
    got = contents(destination)
    assert got == {
        "e/j": expected["e/j"],
        "e/code": {"versions": {2: plain[1]}, "online": []},
    }
    assert expected["e/j"]["versions"] == {1: plain[0], 3: compact}
    assert expected["e/j"]["online"] == [(0.0, "status = 'OK'")]

    # The endpoint has come: what asks it follows, and nothing else changes.
    here = endpoint(destination, "ask")
    rows = row_dump(destination.database)
    again = import_(destination, bundle, expect=3)
    assert again.losses == [("scorer", "code", "versions[1]")]
    assert again.report["done"]["scorer"] == 1
    got = contents(destination)
    (asked,) = got["e/asks"]["versions"].values()
    assert asked == expected["e/asks"]["versions"][1].replace(ask, here)
    assert got["e/asks"]["online"] == expected["e/asks"]["online"] == [(0.5, None)]
    after = row_dump(destination.database)
    changed = {table for table in rows if rows[table] != after[table]}
    assert changed <= {
        "scorers", "scorer_versions", "online_scoring_configs", "endpoint_bindings",
        "experiment_tags", "experiments",
    }  # fmt: skip
    import_(destination, bundle, "--on-conflict", "update", expect=3)
    assert row_dump(destination.database) == after

    # Newer: a version is added. Another one's number is a conflict, unless it may have the next.
    register(source, first, "j", plain[2])
    newer = tmp_path / "newer.mlbundle"
    export(source, newer, "--experiments", first, name="export-experiments")
    assert import_(destination, newer, expect=3).report["done"]["scorer"] == 1
    assert contents(destination)["e/j"] == contents(source)["e/j"]
    other = empty_server()
    register(other, experiment(other, "e"), "j", plain[3])
    call(other, f"{API}/scorers/online-config", "PUT", experiment_id="1", name="j", sample_rate=0.0)
    merged = import_(other, newer, expect=3)
    assert ("scorer", "j", "versions[1]") in merged.conflicts
    assert ("scorer", "j", "online_configs") in merged.conflicts
    assert contents(other)["e/j"]["versions"] == {1: plain[3], 3: compact, 4: plain[2]}
    numbered_anew = ("--experiments", "e", "--renumber")
    for _ in range(2):
        import_(other, newer, *numbered_anew, name="import", expect=3)
        numbered = contents(other)["e/j"]["versions"]
        assert numbered == {1: plain[3], 3: compact, 4: plain[2], 5: plain[0]}


def test_fillers_of_a_killed_import_are_removed_and_never_exported(
    empty_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    first, there = experiment(source, "e"), experiment(destination, "e")
    texts = [judge("j", f"{{{{ outputs }}}} {i}", "openai:/x") for i in range(3)]
    register(source, first, "j", *texts)
    for version in (1, 2):
        which = {"experiment_id": first, "name": "j", "version": version}
        call(source, f"{API}/scorers/delete", "DELETE", **which)
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    filler = json.dumps({"name": "j", "mlflow_bundle.filler": True})
    register(destination, there, "j", filler)
    assert not export(destination, tmp_path / "with_filler.mlbundle").losses
    command("extract", tmp_path / "with_filler.mlbundle", "-o", tmp_path / "tree")
    (document,) = (tmp_path / "tree").glob("experiments/*/scorers/j/scorer.json")
    assert json.loads(document.read_text())["items"] == []
    import_(destination, bundle)
    assert contents(destination)["e/j"]["versions"] == {3: texts[2]}
