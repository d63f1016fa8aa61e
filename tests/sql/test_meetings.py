"""What an import meets in a database that others use: small worlds, made by MLflow's own client."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.entities.gateway_budget_policy import (
    BudgetAction,
    BudgetDuration,
    BudgetDurationUnit,
    BudgetTargetScope,
    BudgetUnit,
)
from mlflow.entities.gateway_endpoint import GatewayEndpointModelConfig, GatewayModelLinkageType
from mlflow.entities.span import Span
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bundle.sql.batch import Batch
from mlflow_bundle.sql.points import Points
from tests.sql.databases import change, execute, rows
from tests.sql.imports import Place, exported, imported
from tests.transfer.commands import command

pytestmark = pytest.mark.slow

HOOK = [WebhookEvent(WebhookEntity.REGISTERED_MODEL, WebhookAction.CREATED)]
URL = "https://93.184.216.34/hook"


def experiment(place: Place, name: str) -> str:
    client = MlflowClient(place.uri)
    return client.create_experiment(name, artifact_location=f"{place.artifacts}/{name}")


def test_json_that_is_changed_stays_json(source: Place, destination: Place, tmp_path: Path) -> None:
    store = SqlAlchemyStore(source.uri, str(source.artifacts))
    dataset = store.create_dataset("evals", experiment_ids=["0"])
    record = {"inputs": {"q": 1}, "expectations": {"a": 1}}
    store.upsert_dataset_records(dataset.dataset_id, [record])
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f")
    record = {**record, "expectations": {"a": 1, "b": "ü"}, "outputs": "o"}
    store.upsert_dataset_records(dataset.dataset_id, [record])
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f", "--on-conflict", "update")
    there = SqlAlchemyStore(destination.uri, str(destination.artifacts))
    (found,), _ = there._load_dataset_records(dataset.dataset_id)
    assert (found.expectations, found.outputs) == ({"a": 1, "b": "ü"}, "o")


@pytest.mark.parametrize("destination", ["postgresql", "mysql"], indirect=True)
def test_what_does_not_fit_is_in_the_json_report(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    MlflowClient(source.uri).create_registered_model("m", description="x" * 6000)
    exported(source, tmp_path / "f")
    report = imported(destination, tmp_path / "f", expect=3)
    assert [(loss["kind"], loss["field"]) for loss in report["lost"]] == [
        ("registered_model", "description")
    ]


def test_another_experiment_of_a_deleted_ones_name_lives_on(
    source: Place, target: Place, tmp_path: Path
) -> None:
    MlflowClient(source.uri).delete_experiment(experiment(source, "prod"))
    exported(source, tmp_path / "f")
    experiment(target, "prod")
    report = imported(target, tmp_path / "f")
    assert [(c["kind"], c["field"]) for c in report["conflicts"]] == [
        ("experiment", "lifecycle_stage")
    ]
    stages = "SELECT lifecycle_stage FROM experiments WHERE name = 'prod'"
    assert rows(target.uri, stages) == [("active",)]
    imported(target, tmp_path / "f", "--on-conflict", "update")
    assert rows(target.uri, stages) == [("deleted",)]


def test_an_experiment_that_was_deleted_since_is_deleted_here_too(
    source: Place, target: Place, tmp_path: Path
) -> None:
    experiment(target, "takes the id")
    id = experiment(source, "prod")
    exported(source, tmp_path / "f")
    imported(target, tmp_path / "f")
    MlflowClient(source.uri).delete_experiment(id)
    exported(source, tmp_path / "f")
    assert imported(target, tmp_path / "f")["conflicts"] == []
    stages = "SELECT name, lifecycle_stage FROM experiments WHERE name <> 'Default' ORDER BY name"
    assert rows(target.uri, stages) == [("prod", "deleted"), ("takes the id", "active")]


def test_an_experiment_comes_into_no_deleted_one_of_another_workspace(
    source: Place, target: Place, tmp_path: Path
) -> None:
    MlflowClient(source.uri).delete_experiment(experiment(source, "prod"))
    experiment(source, "red")
    change(source.file, "INSERT INTO workspaces (name) VALUES ('red')")
    change(
        source.file, "UPDATE experiments SET workspace = 'red', name = 'prod' WHERE name = 'red'"
    )
    exported(source, tmp_path / "f")
    stages = "SELECT name, lifecycle_stage FROM experiments ORDER BY experiment_id"
    before = rows(target.uri, stages)
    together = ("--workspace-map", "default=default", "--workspace-map", "red=default")
    place = ("--tracking-uri", target.uri, "--artifacts-destination", target.artifacts)
    for more in ((), ("--dry-run",), ("--on-conflict", "fail")):
        done = command("import-all", tmp_path / "f", *place, *together, *more, expect=1)
        assert "'prod' of workspace red would come into default after" in done.stderr
    assert rows(target.uri, stages) == before
    imported(target, tmp_path / "f", "--workspace", "red", "--workspace-map", "red=default")
    report = imported(target, tmp_path / "f", "--workspace", "default")
    assert [(c["kind"], c["field"]) for c in report["conflicts"]] == [
        ("experiment", "lifecycle_stage")
    ]
    assert rows(target.uri, stages) == [*before, ("prod", "active")]


def test_another_webhook_of_a_deleted_ones_name_lives_on(
    source: Place, target: Place, tmp_path: Path
) -> None:
    there, here = MlflowClient(source.uri), MlflowClient(target.uri)
    there.delete_webhook(there.create_webhook("hook", URL, HOOK).webhook_id)
    exported(source, tmp_path / "f")
    mine = here.create_webhook("hook", URL, HOOK)
    for _ in range(2):
        imported(target, tmp_path / "f")
        assert [hook.webhook_id for hook in here.list_webhooks()] == [mine.webhook_id]
        assert rows(target.uri, "SELECT count(*) FROM webhooks") == [(2,)]


def test_nothing_is_made_of_null_and_of_empty_texts(
    source: Place, target: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    id = experiment(source, "e")
    run = client.create_run(id)
    client.create_logged_model(id, name="of no run")
    client.create_registered_model("m")
    for _ in range(3):
        client.create_model_version("m", f"runs:/{run.info.run_id}/model")
    client.create_registered_model("other")
    client.create_model_version("other", "models:/m/2")
    change(source.file, "UPDATE model_versions SET storage_location = NULL WHERE name = 'other'")
    client.set_model_version_tag("m", "3", "tag", "value")
    change(
        source.file, "UPDATE model_versions SET user_id = '', status_message = '' WHERE version = 2"
    )
    change(source.file, "UPDATE logged_models SET status_message = ''")
    change(source.file, "UPDATE model_version_tags SET value = NULL")
    client.delete_model_version("m", "3")
    client.delete_model_version("m", "1")
    exported(source, tmp_path / "f", expect=3)  # no model has a file
    imported(target, tmp_path / "f")
    for statement in (
        "SELECT name, version, user_id, status_message, run_id, source, current_stage,"
        " storage_location IS NULL FROM model_versions ORDER BY name, version",
        "SELECT model_id, source_run_id, status_message FROM logged_models",
        "SELECT * FROM model_version_tags",
    ):
        assert rows(target.uri, statement) == rows(source.uri, statement)


def test_only_histories_that_are_not_whole_are_inserted_again(
    source: Place, destination: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(source.uri)
    experiment_id = experiment(source, "e")
    metrics = [
        Metric(key, value, 1_700_000_000_000 + step, step)
        for key in ("whole", "cut")
        for step, value in enumerate((0.1, -0.0, 1 / 3, math.nan, 1e308))
    ]
    for _ in range(2):
        client.log_batch(client.create_run(experiment_id).info.run_id, metrics)
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f")
    select = "SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics"
    if destination.uri.startswith("mysql"):
        select = select.replace("key", "`key`")
    whole = sorted(map(tuple, rows(destination.uri, select)))
    inserted: list[list[str]] = []
    insert = Batch.insert_missing

    def insert_missing(batch: Batch, points: Sequence[Points]) -> int:
        inserted.append([some.key for some in points])
        return insert(batch, points)

    monkeypatch.setattr(Batch, "insert_missing", insert_missing)
    again = imported(destination, tmp_path / "f")
    assert inserted == []
    assert again["present"]["run"] == 2
    run_id = whole[0][-1]
    cut = f"DELETE FROM metrics WHERE run_uuid = '{run_id}' AND step > 2 AND value <> 0"
    execute(destination.uri, cut + f" AND {'`key`' if '`' in select else 'key'} = 'cut'")
    again = imported(destination, tmp_path / "f")
    assert inserted == [["cut"]]
    assert again["done"]["metric_point"] == 1
    assert sorted(map(tuple, rows(destination.uri, select))) == whole


def test_the_first_experiment_of_an_unused_server_gets_its_times(
    source: Place, target: Place, tmp_path: Path
) -> None:
    change(source.file, "UPDATE experiments SET creation_time = 1, last_update_time = 2")
    exported(source, tmp_path / "f")
    times = "SELECT creation_time, last_update_time FROM experiments"
    imported(target, tmp_path / "f")
    assert rows(target.uri, times) == [(1, 2)]
    MlflowClient(target.uri).create_run("0")
    change(source.file, "UPDATE experiments SET creation_time = 3")
    exported(source, tmp_path / "f")
    imported(target, tmp_path / "f")
    assert rows(target.uri, times) == [(1, 2)]


def test_the_first_experiment_of_an_unused_server_may_be_deleted_at_the_source(
    source: Place, target: Place, tmp_path: Path
) -> None:
    change(source.file, "UPDATE experiments SET creation_time = 1")
    MlflowClient(source.uri).delete_experiment("0")
    exported(source, tmp_path / "f")
    for _ in range(2):
        assert imported(target, tmp_path / "f")["conflicts"] == []
        assert rows(target.uri, "SELECT lifecycle_stage FROM experiments") == [("deleted",)]


def test_a_deleted_webhook_comes_once_into_another_workspace_of_its_database(
    source: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    client.delete_webhook(client.create_webhook("hook", URL, HOOK).webhook_id)
    exported(source, tmp_path / "f")
    for _ in range(2):
        report = imported(source, tmp_path / "f", "--workspace-map", "default=team")
        assert report["lost"] == []
    assert rows(source.uri, "SELECT count(*) FROM webhooks") == [(2,)]


def test_a_dataset_that_runs_of_several_experiments_share_stays_one(
    source: Place, target: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    dataset = Dataset("data", "digest", "code", "{}")
    tag = InputTag("mlflow.data.context", "train")
    for name in ("a", "b", "c"):
        run = client.create_run(experiment(source, name))
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [tag])])
    # As MLflow 2 has it: one row, in the first experiment.
    (uuid,) = rows(source.uri, "SELECT dataset_uuid FROM datasets ORDER BY experiment_id LIMIT 1")[
        0
    ]
    change(source.file, f"DELETE FROM datasets WHERE dataset_uuid <> '{uuid}'")
    change(source.file, f"UPDATE inputs SET source_id = '{uuid}'")
    exported(source, tmp_path / "part", "--artifacts", "skip")
    for _ in range(2):
        imported(target, tmp_path / "part", "--artifacts", "skip")
        every = "SELECT experiment_id, dataset_uuid FROM datasets"
        assert rows(target.uri, every) == rows(source.uri, every)
    for run in MlflowClient(target.uri).search_runs(["1", "2", "3"]):
        (found,) = run.inputs.dataset_inputs
        assert [each.value for each in found.tags] == ["train"]


def test_logged_models_name_versions_by_their_new_numbers(
    source: Place, target: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    id = experiment(source, "e")
    for number in ("1", "2"):
        model_id = client.create_logged_model(id, name=f"lm-{number}").model_id
        client.create_model_version("m", "s3://for/now")
        made_of = f"source = 'models:/{model_id}', storage_location = NULL"
        change(source.file, f"UPDATE model_versions SET {made_of} WHERE version = {number}")
        told = json.dumps([{"name": "m", "version": int(number)}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": told})
    exported(source, tmp_path / "f", "--artifacts", "skip")
    there = MlflowClient(target.uri)
    there.create_registered_model("m")
    there.create_model_version("m", "s3://elsewhere/m")
    for _ in range(2):
        imported(target, tmp_path / "f", "--artifacts", "skip", "--renumber")
        for version in there.search_model_versions("name = 'm'"):
            if version.source.startswith("models:/"):
                model = there.get_logged_model(version.source.removeprefix("models:/"))
                told = json.loads(model.tags["mlflow.modelVersions"])
                assert told == [{"name": "m", "version": int(version.version)}]


def test_an_alias_of_a_version_that_has_no_place_is_lost_with_it(
    source: Place, target: Place, tmp_path: Path
) -> None:
    for place in (source, target):
        client = MlflowClient(place.uri)
        client.create_registered_model("m")
        client.create_model_version("m", "s3://elsewhere/m")
    MlflowClient(source.uri).set_registered_model_alias("m", "champion", "1")
    exported(source, tmp_path / "f", "--artifacts", "reference")
    report = imported(target, tmp_path / "f", "--artifacts", "reference", expect=3)
    assert [(loss["kind"], loss["id"], loss["field"]) for loss in report["lost"]] == [
        ("model_version", "m/1", ""),
        ("registered_model", "m", "aliases.champion"),
    ]


@pytest.mark.parametrize("has_model", [False, True])
def test_an_artifact_store_with_nothing_in_it_is_told(
    source: Place, tmp_path: Path, has_model: bool
) -> None:
    client = MlflowClient(source.uri)
    id = client.create_experiment("e", artifact_location="mlflow-artifacts:/1")
    run_id = client.create_run(id).info.run_id
    if has_model:
        client.create_registered_model("m")
        client.create_model_version("m", f"runs:/{run_id}/model")
    there = source.artifacts / "1" / run_id / "artifacts" / "model"
    there.mkdir(parents=True)
    there.joinpath("MLmodel").write_text(f"run_id: {run_id}\n")
    assert exported(source, tmp_path / "right")["done"]["artifact"] == 1

    wrong = Place(source.uri, tmp_path / "wrong")
    wrong.artifacts.mkdir()
    report = exported(wrong, tmp_path / "f", expect=3 if has_model else 0)
    told = [loss["reason"] for loss in report["lost"]] if has_model else report["notes"]
    assert len(told) == 1
    assert "no artifacts at all were found" in told[0]
    assert (report["lost"] == []) is not has_model

    wrong.artifacts.rmdir()
    (loss,) = exported(wrong, tmp_path / "f", expect=3)["lost"]
    assert "there is no such directory" in loss["reason"]


def test_models_without_files_are_told_of(source: Place, tmp_path: Path) -> None:
    client = MlflowClient(source.uri)
    id = client.create_experiment("e", artifact_location=(tmp_path / "e").as_uri())
    models = [client.create_logged_model(id, name) for name in ("ready", "pending", "whole")]
    for model in (models[0], models[2]):
        client.finalize_logged_model(model.model_id, "READY")
    whole = tmp_path / models[2].artifact_location.removeprefix(f"{tmp_path.as_uri()}/")
    for directory in (tmp_path / "there", whole):
        directory.mkdir(parents=True)
        directory.joinpath("MLmodel").write_text("flavors: {}\n")
    client.create_registered_model("m")
    for name in ("there", "gone"):
        client.create_model_version("m", (tmp_path / name).as_uri())
    assert exported(source, tmp_path / "f")["notes"] == [
        "2 logged models and model versions have no files where the source says that they are:"
        f" logged model {models[0].model_id}, model version m/2"
    ]


def test_a_version_is_completed_when_its_run_arrives(
    source: Place, target: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    run = client.create_run(experiment(source, "e"))
    model = Path(run.info.artifact_uri, "model")
    model.mkdir(parents=True)
    model.joinpath("data").write_text("weights")
    client.create_model_version("m", str(model), run_id=run.info.run_id)
    exported(source, tmp_path / "f")
    imported(target, tmp_path / "f")
    columns = "SELECT source, storage_location, run_id FROM model_versions"
    whole = rows(target.uri, columns)
    assert whole != rows(source.uri, columns)
    # As an import leaves them that could not make the run.
    change(target.file, "DELETE FROM tags")
    change(target.file, "DELETE FROM runs")
    ((location, storage, _),) = rows(source.uri, columns)
    change(
        target.file, "UPDATE model_versions SET source = ?, storage_location = ?", location, storage
    )
    report = imported(target, tmp_path / "f", "--verify")
    assert report["done"]["model_version"] == 1
    assert report["conflicts"] == []
    assert rows(target.uri, columns) == whole
    assert "model_version" not in imported(target, tmp_path / "f")["done"]


def test_a_version_made_of_files_elsewhere_stays_as_it_is_in_its_own_database(
    source: Place, tmp_path: Path
) -> None:
    model = tmp_path / "elsewhere"
    model.mkdir()
    model.joinpath("data").write_text("weights")
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(model))
    exported(source, tmp_path / "f")
    columns = "SELECT source, storage_location FROM model_versions"
    before = rows(source.uri, columns)
    assert "model_version" not in imported(source, tmp_path / "f")["done"]
    assert rows(source.uri, columns) == before


def test_a_dry_run_does_not_call_present_what_gets_something(
    source: Place, target: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    client.create_model_version("m", "s3://elsewhere/m")
    client.create_run(experiment(source, "e"))
    exported(source, tmp_path / "f", "--artifacts", "skip")
    imported(target, tmp_path / "f")
    dry = imported(target, tmp_path / "f", "--tag", "site=here", "--dry-run")
    real = imported(target, tmp_path / "f", "--tag", "site=here")
    kinds = ("experiment", "run", "registered_model", "model_version")
    assert [dry["present"].get(kind, 0) for kind in kinds] == [0, 0, 0, 0]
    assert [real["present"].get(kind, 0) for kind in kinds] == [0, 0, 0, 0]
    again = imported(target, tmp_path / "f", "--tag", "site=here", "--dry-run")
    assert all(again["present"][kind] == again["planned"][kind] for kind in kinds)


def test_a_model_that_is_a_prompt_at_the_destination_is_lost_once(
    source: Place, target: Place, tmp_path: Path
) -> None:
    MlflowClient(source.uri).create_registered_model("m")
    MlflowClient(target.uri).register_prompt("m", "text")
    exported(source, tmp_path / "f")
    report = imported(target, tmp_path / "f", expect=3)
    assert [(loss["kind"], loss["id"]) for loss in report["lost"]] == [("registered_model", "m")]
    assert len(report["conflicts"]) == 1


def test_stages_alone_do_not_copy_everything(source: Place, target: Place) -> None:
    words = ("copy", "--tracking-uri", source.uri, "--to", target.uri, "--stages", "Production")
    assert "--models" in command(*words, expect=2).stderr


def test_a_look_for_conflicts_leaves_nothing_behind(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        experiment(source, name)
    exported(source, tmp_path / "f")
    statement = "SELECT experiment_id, name FROM experiments ORDER BY 1"
    for _ in range(2):
        report = imported(destination, tmp_path / "f", "--on-conflict", "fail")
        assert (report["conflicts"], report["lost"]) == ([], [])
        assert rows(destination.uri, statement) == rows(source.uri, statement)


def test_a_stage_that_no_version_has_is_told(source: Place, tmp_path: Path) -> None:
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    client.create_model_version("m", "s3://elsewhere/m")
    words = ("export-models", "--models", "m", "--artifacts", "reference", "--json", "--quiet")
    words += ("--tracking-uri", source.uri, "--stages")
    notes = command(*words, "Production", "-o", tmp_path / "f").report["notes"]
    assert "no version of the selected models is in stage Production" in " ".join(notes)
    notes = command(*words, "None", "-o", tmp_path / "g").report["notes"]
    assert "in stage" not in " ".join(notes)


def test_the_last_line_says_why_a_strict_import_ends_as_it_does(
    source: Place, target: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    client.create_model_version("m", "s3://elsewhere/m")
    exported(source, tmp_path / "f", "--artifacts", "skip")
    words = ("import-all", tmp_path / "f", "--tracking-uri", target.uri, "--strict")
    done = command(*words, "--artifacts-destination", target.artifacts, expect=3)
    assert "nothing lost but what was adjusted (--strict)" in done.stderr.splitlines()[-1]


def test_a_span_keeps_the_type_that_its_text_has_another_for(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    store = SqlAlchemyStore(source.uri, str(source.artifacts))
    tracer = TracerProvider().get_tracer("of OpenTelemetry alone")
    for attributes in ({"gen_ai.operation.name": "chat"}, {"mlflow.spanType": '"TOOL"'}, {}):
        span = tracer.start_span("s", attributes=attributes)
        trace_id = f"tr-{span.get_span_context().trace_id:032x}"
        span.set_attribute("mlflow.traceRequestId", json.dumps(trace_id))
        span.end()
        store.log_spans("0", [Span(span)])
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f")
    statement = "SELECT span_id, type, content FROM spans ORDER BY span_id"
    there = rows(source.uri, statement)
    assert any(type is None and "CHAT_MODEL" in content for _, type, content in there)
    assert rows(destination.uri, statement) == there


@pytest.mark.parametrize(
    ("options", "environment", "why"),
    [
        (("--include-secrets",), {}, "with other options"),
        ((), {"MLFLOW_WORKSPACE": "team"}, "of another selection"),
    ],
)
def test_only_the_same_export_completes_one(
    source: Place,
    tmp_path: Path,
    options: tuple[str, ...],
    environment: dict[str, str],
    why: str,
) -> None:
    execute(source.uri, "INSERT INTO workspaces (name) VALUES ('team')")
    client = MlflowClient(source.uri)
    client.create_registered_model("m")
    client.create_model_version("m", "elsewhere://nothing/there")  # a loss
    words = ("--tracking-uri", source.uri, "--artifacts-destination", source.artifacts, *options)
    export = ("export", "--models", "all", "-o")
    old = tmp_path / "old"
    command(*export, old, *words[:4], expect=3)
    whole = (tmp_path / "whole", "--complete", old)
    refused = command(*export, *whole, *words, expect=2, env=environment)
    assert why in refused.stderr


def test_an_endpoints_models_follow_without_those_of_another_one(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    def models(*weights: float, turned: bool = False) -> list[GatewayEndpointModelConfig]:
        main, fallback = GatewayModelLinkageType.PRIMARY, GatewayModelLinkageType.FALLBACK
        primary = [
            GatewayEndpointModelConfig(id, main, weight)
            for id, weight in zip(ids, weights, strict=True)
        ]
        return primary + [
            GatewayEndpointModelConfig(id, fallback, fallback_order=order)
            for order, id in enumerate(reversed(ids) if turned else ids)
        ]

    store = SqlAlchemyStore(source.uri, str(source.artifacts))
    secret = store.create_gateway_secret("s", {"api_key": "k"}, "openai").secret_id
    ids = [
        store.create_gateway_model_definition(name, secret, "openai", name).model_definition_id
        for name in "ab"
    ]
    one, _ = (store.create_gateway_endpoint(name, models(0.5, 0.5)).endpoint_id for name in "xy")
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f", "--placeholder-secrets")
    # MLflow makes all of an endpoint's models anew where one changes.
    store.update_gateway_endpoint(one, model_configs=models(0.25, 0.75, turned=True))
    exported(source, tmp_path / "g")
    columns = "endpoint_id, model_definition_id, linkage_type, weight, fallback_order"
    statement = f"SELECT {columns} FROM endpoint_model_mappings ORDER BY 1, 2, 3"
    before = rows(destination.uri, statement)
    kept = imported(destination, tmp_path / "g")
    assert rows(destination.uri, statement) == before
    assert {conflict["id"] for conflict in kept["conflicts"]} == {one}
    imported(destination, tmp_path / "g", "--on-conflict", "update")
    assert rows(destination.uri, statement) == rows(source.uri, statement)
    again = imported(destination, tmp_path / "g", "--on-conflict", "update")
    assert (again["conflicts"], again["done"]) == ([], {})


def test_a_metric_of_a_logged_model_follows_without_that_of_another_one(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    run_id = client.create_run(experiment(source, "e")).info.run_id
    one, two = (client.create_logged_model("0", name).model_id for name in ("one", "two"))
    for model_id in (one, two):
        client.log_metric(run_id, "accuracy", 0.5, 1_700_000_000_000, 1, model_id=model_id)
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f")
    change(
        source.file, "UPDATE logged_model_metrics SET metric_value = 0.75 WHERE model_id = ?", one
    )
    exported(source, tmp_path / "g")
    imported(destination, tmp_path / "g", "--on-conflict", "update")
    statement = "SELECT model_id, metric_value FROM logged_model_metrics"
    assert dict(rows(destination.uri, statement)) == {one: 0.75, two: 0.5}
    again = imported(destination, tmp_path / "g", "--on-conflict", "update")
    assert (again["conflicts"], again["done"]) == ([], {})


def test_a_span_that_differs_is_found_before_anything_is_written(
    source: Place, target: Place, tmp_path: Path
) -> None:
    store = SqlAlchemyStore(source.uri, str(source.artifacts))
    span = TracerProvider().get_tracer("t").start_span("s")
    trace_id = f"tr-{span.get_span_context().trace_id:032x}"
    span.set_attribute("mlflow.traceRequestId", json.dumps(trace_id))
    span.set_attribute("answer", "41")
    span.end()
    store.log_spans("0", [Span(span)])
    exported(source, tmp_path / "f")
    imported(target, tmp_path / "f")
    change(target.file, "UPDATE spans SET content = replace(content, '41', '42')")
    MlflowClient(source.uri).set_trace_tag(trace_id, "new", "tag")
    exported(source, tmp_path / "g")
    dry = imported(target, tmp_path / "g", "--dry-run")
    found = [(conflict["kind"], conflict["id"]) for conflict in dry["conflicts"]]
    assert found == [("trace", trace_id)]
    before = rows(target.uri, "SELECT * FROM trace_tags")
    words = ("--tracking-uri", target.uri, "--artifacts-destination", target.artifacts)
    refused = command("import-all", tmp_path / "g", *words, "--on-conflict", "fail", expect=1)
    assert "1 conflicts, nothing was written" in refused.stderr
    assert rows(target.uri, "SELECT * FROM trace_tags") == before
    imported(target, tmp_path / "g")
    change(target.file, "DELETE FROM spans")
    assert "trace" not in imported(target, tmp_path / "g", "--dry-run")["present"]


def test_all_of_a_budget_that_can_be_changed_is_compared(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    store = SqlAlchemyStore(source.uri, str(source.artifacts))
    month, day = (
        BudgetDuration(unit=unit, value=1)
        for unit in (BudgetDurationUnit.MONTHS, BudgetDurationUnit.DAYS)
    )
    budget = store.create_budget_policy(
        budget_unit=BudgetUnit.USD,
        budget_amount=5.0,
        duration=month,
        target_scope=BudgetTargetScope.USER,
        target_value="ana",
        budget_action=BudgetAction.ALERT,
    )
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f")
    store.update_budget_policy(
        budget.budget_policy_id, duration=day, target_scope=BudgetTargetScope.GLOBAL
    )
    exported(source, tmp_path / "g")
    kept = imported(destination, tmp_path / "g")
    assert {c["field"] for c in kept["conflicts"]} == {"duration_unit", "target_scope"}
    imported(destination, tmp_path / "g", "--on-conflict", "update")
    statement = "SELECT duration_unit, target_scope, target_value FROM budget_policies"
    assert rows(destination.uri, statement) == rows(source.uri, statement)
    again = imported(destination, tmp_path / "g", "--on-conflict", "update")
    assert (again["conflicts"], again["done"]) == ([], {})


def test_the_url_of_a_webhook_is_compared(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    client = MlflowClient(source.uri)
    hook = client.create_webhook("hook", URL, HOOK)
    exported(source, tmp_path / "f")
    imported(destination, tmp_path / "f")
    client.update_webhook(hook.webhook_id, url=f"{URL}/new")
    exported(source, tmp_path / "g")
    (conflict,) = imported(destination, tmp_path / "g")["conflicts"]
    assert (conflict["kind"], conflict["field"]) == ("webhook", "url")
    imported(destination, tmp_path / "g", "--on-conflict", "update")
    assert rows(destination.uri, "SELECT url FROM webhooks") == [(f"{URL}/new",)]
    again = imported(destination, tmp_path / "g", "--on-conflict", "update")
    assert (again["conflicts"], again["done"]) == ([], {})


def test_an_access_endpoint_that_was_changed_is_no_second_one(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    store = SqlAlchemyStore(source.uri, str(source.artifacts))
    described = {"name": "org.example/mcp", "version": "1.0.0"}
    store.create_mcp_server("org.example/mcp")
    store.create_mcp_server_version(described)
    store.set_mcp_server_alias("org.example/mcp", "best", "1.0.0")
    endpoint = store.create_mcp_access_endpoint(
        "org.example/mcp", "https://u:p@127.0.0.1:9/a", server_version="1.0.0"
    )
    words = ("copy", "--tracking-uri", source.uri, "--to", destination.uri, "--json", "--quiet")
    words += ("--artifacts", "skip")
    columns = "SELECT id, url, server_version, server_alias FROM mcp_access_endpoints"
    for _ in range(2):
        command(*words)
        assert rows(destination.uri, columns) == rows(source.uri, columns)
    store.update_mcp_access_endpoint(
        "org.example/mcp", endpoint.id, server_alias="best", url="https://u:p@127.0.0.1:9/b"
    )
    before = rows(destination.uri, columns)
    assert len(command(*words).conflicts) == 1
    assert rows(destination.uri, columns) == before
    command(*words, "--on-conflict", "update")
    assert rows(destination.uri, columns) == rows(source.uri, columns)
    again = command(*words, "--on-conflict", "update")
    assert (again.conflicts, again.report["done"]) == ([], {})
