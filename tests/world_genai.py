"""The rest of the world: what MLflow 3 keeps besides runs, models and the registry.

`build_genai_world` is quick and holds only these kinds, with the few experiments, runs, logged
models and prompts that they refer to; `build_full_world` is that and `tests.world.build_world`.
There is one function per kind here and in `tests.world_traces` and `tests.world_services`.

Every table is filled over REST. What REST cannot make is made otherwise, and only when the server's
database is given: an archived trace (by the code of MLflow's own scheduler, see
`tests.world_traces.archive`). Not here at all: budgets of a user, which need authentication, and
the ``run_id`` of assessments, which MLflow's own code fills but its REST API does not.

What MLflow 3.17.2 refuses, and what therefore is not here: a label schema named ``Feedback`` (the
default schema's own name; that one is made by listing), a queue of a user with other users in it,
issues of statuses and severities outside MLflow's lists, decorator scorers with code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import world_scorers, world_services, world_traces
from tests.installed import has
from tests.world import T0, Json, World, _Build, _pairs, build_world


def build_genai_world(
    tracking_uri: str, *, database: Path | None = None, archive: Path | None = None
) -> World:
    """Fill a server with the kinds of this module.

    Args:
        tracking_uri: A server that `tests.servers` started.
        database: The server's SQLite file; without it no trace is archived.
        archive: Directory for archived traces, beside the database when not given.
    """
    build = _Build(tracking_uri)
    fill_genai(build, database, archive)
    return build.world()


def build_full_world(
    tracking_uri: str, *, database: Path | None = None, archive: Path | None = None
) -> World:
    """Fill an empty server with everything there is; arguments as of `build_genai_world`."""
    return extend_world(build_world(tracking_uri), database=database, archive=archive)


def extend_world(
    world: World, *, database: Path | None = None, archive: Path | None = None
) -> World:
    """Add the kinds of this module to a server that holds `tests.world.build_world`'s."""
    build = _Build.of(world)
    fill_genai(build, database, archive)
    return build.world()


def fill_genai(build: _Build, database: Path | None = None, archive: Path | None = None) -> None:
    """Make everything of this module and of its two neighbours."""
    foundations(build)
    issues(build)
    world_traces.traces(build)
    world_traces.assessments(build)
    label_schemas(build)
    review_queues(build)
    world_scorers.scorers(build)
    datasets(build)
    world_services.mcp_servers(build)
    world_services.skills(build)
    world_services.gateway(build)
    world_traces.archivable(build)
    world_traces.in_deleted(build)
    deletions(build)
    world_traces.assess_deleted(build)
    world_services.webhooks(build)
    if database is not None:
        location = database.parent / "archive" if archive is None else archive
        world_traces.archive(database, location, build.traces["archived"])


def foundations(build: _Build) -> None:
    """Experiments, runs, logged models and prompts that the other kinds refer to."""
    build.experiment("genai", "genai ünï", {"mlflow.experimentKind": "genai_development"})
    build.experiment("genai_other", "genai, another")
    build.experiment("genai_deleted", "genai, deleted")
    build.run("genai", "genai", tags={"mlflow.runType": "issue_detection"})
    build.run("genai_evaluation", "genai", tags={"mlflow.runType": "genai_evaluate"})
    build.run("genai_deleted", "genai")
    build.run("genai_in_deleted", "genai_deleted")
    for label, experiment in (
        ("genai", "genai"),
        ("genai_deleted", "genai"),
        ("genai_in_deleted", "genai_deleted"),
    ):
        run_id = build.runs[label]
        build.logged_model(label, experiment, name="agent", source_run_id=run_id, files={})
    outputs = [{"model_id": build.logged_models["genai_deleted"], "step": 0}]
    build.call("runs/outputs", run_id=build.runs["genai"], models=outputs)
    build.prompts["genai"] = "genai-prompt"
    marks = {"mlflow.prompt.is_prompt": "true"}
    ids = f",{build.experiments['genai']},{build.experiments['genai_deleted']},"
    build.call(
        "registered-models/create",
        name=build.prompts["genai"],
        tags=_pairs({**marks, "_mlflow_experiment_ids": ids}),
    )
    for text in ("Antworte: {{question}}", "Antworte höflich: {{question}} 😀"):
        tags = {**marks, "mlflow.prompt.text": text, "_mlflow_prompt_type": "text"}
        build.call(
            "model-versions/create",
            name=build.prompts["genai"],
            source="dummy-source",
            tags=_pairs(tags),
        )


_SINCE_3_18: Json = {}
if has(3, 18):
    _SINCE_3_18 |= {
        "last_seen_timestamp": T0 + 5,
        "metadata": {"z": 'letzter "ünï" 😀', "a": "", "json": '{"b": [1]}'},
    }


def issues(build: _Build) -> None:
    """Every status and severity, with and without a source run; two of the same name."""

    def issue(label: str, experiment: str, name: str, description: str, **fields: Any) -> None:
        answer = build.call(
            "issues",
            api="3.0",
            experiment_id=build.experiments[experiment],
            name=name,
            description=description,
            **fields,
        )
        build.issues[label] = answer["issue"]["issue_id"]

    issue(
        "genai",
        "genai",
        "Antwort falsch ünï",
        "Die Antwort *widerspricht* der Quelle.\n\n😀" + "d" * 5000,
        status="pending",
        severity="high",
        root_causes=["Quelle veraltet", "ünï, with a comma", ""],
        categories=["correctness", "ünï"],
        source_run_id=build.runs["genai"],
        created_by="ana@example.org",
        **_SINCE_3_18,
    )
    issue("resolved", "genai", "slow", "too slow", status="resolved", severity="low")
    if has(3, 18):
        build.call(
            f"issues/{build.issues['resolved']}",
            api="3.0",
            method="PATCH",
            issue_id=build.issues["resolved"],
            last_updated_by="bo@example.org",
            categories=["Latency", " latency", "cost"],
        )
    issue("rejected", "genai", "noise", " ", status="rejected", severity="not_an_issue")
    issue("plain", "genai", "plain", "nothing optional", status="pending")
    issue("twin_1", "genai", "twin", "first", status="pending", severity="medium")
    issue("twin_2", "genai", "twin", "second", status="pending", severity="medium")
    issue("genai_other", "genai_other", "another", "elsewhere", status="pending")
    issue(
        "of_deleted_run", "genai", "of a deleted run", "gone", status="pending",
        source_run_id=build.runs["genai_deleted"],
    )  # fmt: skip
    issue(
        "in_deleted", "genai_deleted", "in a deleted experiment", "gone", status="pending",
        source_run_id=build.runs["genai_in_deleted"],
    )  # fmt: skip


def label_schemas(build: _Build) -> None:
    """Every type of input, bounds given and left out; the default one comes of listing."""

    def schema(
        label: str, name: str, input: Json, *, experiment: str = "genai", **fields: Any
    ) -> None:
        answer = build.call(
            "label-schemas/create",
            api="3.0",
            experiment_id=build.experiments[experiment],
            name=name,
            input=input,
            **{"type": "FEEDBACK", **fields},
        )
        build.label_schemas[label] = answer["label_schema"]["schema_id"]

    passed = {"positive_label": "Richtig ✓", "negative_label": "Falsch"}
    schema(
        "pass_fail",
        "Richtig? ünï 😀",
        {"pass_fail": passed},
        instruction="Stimmt die *Antwort*?\nünï",
        enable_comment=True,
    )
    one = {"options": ["gut", "schlecht", "ünï, 😀"]}
    schema("categorical", "Note", {"categorical": one})
    schema("multi_select", "Mängel", {"categorical": {**one, "multi_select": True}})
    schema("numeric", "Punkte", {"numeric": {"min_value": -1.5, "max_value": 10}})
    schema("numeric_open", "offen", {"numeric": {}}, instruction="")
    schema("numeric_zero", "ab null", {"numeric": {"min_value": 0}}, type="EXPECTATION")
    schema("text", "Begründung", {"text": {"max_length": 500}}, type="EXPECTATION")
    schema("text_open", "frei", {"text": {}})
    schema("elsewhere", "Note", {"categorical": one}, experiment="genai_other")
    schema("in_deleted", "Note", {"categorical": one}, experiment="genai_deleted")
    for experiment in ("genai", "genai_other"):
        listed = build.send(
            "GET",
            "api/3.0/mlflow/label-schemas/list",
            params={"experiment_id": build.experiments[experiment]},
        )
        for row in listed["label_schemas"]:
            if row.get("is_default"):
                build.label_schemas[f"default of {experiment}"] = row["schema_id"]


def review_queues(build: _Build) -> None:
    """Custom and user queues; items pending, complete and declined; one empty."""

    def queue(label: str, experiment: str, name: str, **fields: Any) -> str:
        answer = build.call(
            "review-queues/create",
            api="3.0",
            experiment_id=build.experiments[experiment],
            name=name,
            queue_type="CUSTOM",
            **fields,
        )
        build.review_queues[label] = answer["review_queue"]["queue_id"]
        return build.review_queues[label]

    def add(queue_id: str, *traces: str) -> None:
        ids = [build.traces[label] for label in traces]
        build.call(
            "review-queues/items/add",
            api="3.0",
            queue_id=queue_id,
            item_type="TRACE",
            item_ids=ids,
        )

    def decide(queue_id: str, trace: str, status: str, by: str) -> None:
        build.call(
            "review-queues/items/set-status",
            api="3.0",
            queue_id=queue_id,
            item_id=build.traces[trace],
            status=status,
            completed_by=by,
        )

    schemas = build.label_schemas
    custom = queue(
        "custom",
        "genai",
        "Prüfung ünï 😀",
        users=["ana@example.org", "Jürgen"],
        schema_ids=[schemas["pass_fail"], schemas["text"], schemas["numeric"]],
    )
    add(custom, "rich", "turn_0", "turn_1", "legacy", "in_progress")
    decide(custom, "rich", "COMPLETE", "ana@example.org")
    decide(custom, "turn_0", "DECLINED", "Jürgen")
    queue("empty", "genai", "empty")
    queue("elsewhere", "genai_other", "Prüfung ünï 😀", schema_ids=[schemas["elsewhere"]])
    add(build.review_queues["elsewhere"], "elsewhere")
    deleted = queue("in_deleted", "genai_deleted", "gone", users=["ana@example.org"])
    answer = build.call(
        "review-queues/get-or-create-user",
        api="3.0",
        experiment_id=build.experiments["genai"],
        user="bo@example.org",
    )
    build.review_queues["user"] = answer["review_queue"]["queue_id"]
    add(build.review_queues["user"], "turn_2")
    world_traces.start_trace(build, "queued_in_deleted", "genai_deleted")
    add(deleted, "queued_in_deleted")


def datasets(build: _Build) -> None:
    """Records of every source, with and without outputs; two of one name; links, tags."""

    def dataset(label: str, name: str, tags: dict[str, str], *experiments: str) -> str:
        answer = build.call(
            "datasets/create",
            api="3.0",
            name=name,
            experiment_ids=[build.experiments[other] for other in experiments],
            tags=json.dumps(tags),
        )
        build.datasets[label] = answer["dataset"]["dataset_id"]
        return build.datasets[label]

    def add(dataset_id: str, records: list[Json]) -> None:
        build.call(
            f"datasets/{dataset_id}/records",
            api="3.0",
            dataset_id=dataset_id,
            records=json.dumps(records),
        )

    rich = dataset(
        "rich",
        "Fragen ünï 😀",
        {"mlflow.user": "ana@example.org", "ünï/b c": "wert 😀", "empty": "", "long": "t" * 5000},
        "genai",
        "genai_other",
    )
    add(rich, _records(build.traces["rich"]))
    add(rich, [{"inputs": {"case": "human"}, "expectations": {"added": "later"}}])
    many = dataset("many", "many records", {}, "genai")
    add(many, [{"inputs": {"i": i}, "outputs": {"o": i}} for i in range(120)])
    for i in range(2):
        twin = dataset(f"twin_{i}", "same name", {"i": str(i)})
        add(twin, [{"inputs": {"twin": i}}])
    dataset("empty", "no records", {}, "genai")
    dataset("in_deleted", "of a deleted experiment", {}, "genai_deleted")
    added = [build.experiments["genai_other"]]
    build.call(f"datasets/{many}/add-experiments", api="3.0", dataset_id=many, experiment_ids=added)


def _records(trace_id: str) -> list[Json]:
    def source(kind: str, **data: str) -> Json:
        return {"source_type": kind, "source_data": data}

    document = source("DOCUMENT", doc_uri="s3://bucket/ü.pdf", content="c" * 5000)
    return [
        {
            "inputs": {"question": "Wie viel ist 2+2? 😀", "n": 1, "x": 0.5, "deep": {"a": [None]}},
            "outputs": {"answer": "vier", "n": 4},
            "expectations": {"expected": "4", "list": [1, 2.0, "ü"], "null": None},
            "tags": {"mlflow.user": "bo", "ünï": "wert"},
            "source": source("TRACE", trace_id=trace_id, session_id="s"),
        },
        {
            "inputs": {"case": "human"},
            "outputs": "text ünï",
            "source": source("HUMAN", user_name="ana"),
        },
        {"inputs": {"case": "code"}, "outputs": [1, None], "source": source("CODE")},
        {"inputs": {"case": "document"}, "outputs": 0, "source": document},
        {"inputs": {"case": "no outputs"}},
        {"inputs": {"case": "null outputs"}, "outputs": None},
        {"inputs": {"case": "empty outputs"}, "outputs": {}, "expectations": {}, "tags": {}},
        {"inputs": {"case": "false"}, "outputs": False},
        {
            "inputs": {"case": "a trace that never was here"},
            "source": source("TRACE", trace_id=f"tr-{'0' * 32}"),
        },
    ]


def deletions(build: _Build) -> None:
    """After everything else: nothing can be added to what is deleted, except assessments."""
    build.call("runs/delete", run_id=build.runs["genai_deleted"])
    build.call(f"logged-models/{build.logged_models['genai_deleted']}", method="DELETE")
    build.call("experiments/delete", experiment_id=build.experiments["genai_deleted"])
