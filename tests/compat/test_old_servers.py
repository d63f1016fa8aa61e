"""Older servers as source and as destination: what they can hold arrives, the rest is listed."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlflow
import pytest

from tests.compare import EXEMPT, Exemption, Snapshot, differences, row_dump, snapshot
from tests.compat.conftest import Newest, Old
from tests.compat.contents import IRIS, LONG_POINTS, SHARED_RUNS, parsed
from tests.compat.kinds import read_traces
from tests.conftest import LendServer
from tests.installed import has
from tests.transfer.commands import Done, export, import_
from tests.world import Json

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.compat]

CAME_WITH = {
    "experiment": (2, 0),
    "run": (2, 0),
    "registered_model": (2, 0),
    "model_version": (2, 0),
    "prompt": (2, 0),  # by convention a registered model
    "prompt_version": (2, 0),
    "logged_model": (3, 0),
    "trace": (2, 14),
    "webhook": (3, 3),
    "dataset": (3, 4),
    "scorer": (3, 4),
    "gateway_secret": (3, 8),
    "gateway_model_definition": (3, 8),
    "gateway_endpoint": (3, 8),
    "workspace": (3, 10),
    "issue": (3, 11),
    "gateway_budget": (3, 11),
    "gateway_guardrail": (3, 12),
    "label_schema": (3, 14),
    "review_queue": (3, 14),
    "mcp_server": (3, 15),
    "skill": (3, 18),
}
"""Kind to the first version of MLflow that has it."""

SPAN_PLACES = {"mlflow.trace.spansLocation", "mlflow.trace.archiveLocation"}

NEW_FIELD = (Exemption(("experiments", "workspace"), "servers from 3.10 on tell it"),)


def test_nothing_is_lost_from_an_old_server(
    old: Old, empty_server: LendServer, tmp_path: Path
) -> None:
    old.server.reset()
    contents = old.fill()
    here = old.snapshot()
    traces = read_traces(old.server, old.version)
    assert (len(traces) > 4) == old.has(2, 14)
    if old.has(2, 14):
        assert set(contents.traces.values()) == traces.keys()
    bundle = tmp_path / "old.mlbundle"
    done = export(old.server, bundle)
    assert done.report["lost"] == []
    # Before, there were none of the kinds that are hidden in deleted experiments.
    assert any("shows no scorers" in note for note in done.report["notes"]) == old.has(3, 4)
    server = empty_server()
    done = import_(server, bundle)
    assert done.report["lost"] == done.report["conflicts"] == []
    arrived = snapshot(server.uri, artifacts=server.artifact_directory)
    assert differences(here, arrived, exempt=EXEMPT + NEW_FIELD) == []
    # The comparison above is of no more than the old server tells.
    by_origin = {run["tags"]["mlflow_bundle.origin"]: run for run in arrived.data["runs"].values()}
    histories = {label: by_origin[id].get("histories", {}) for label, id in contents.runs.items()}
    assert len(histories["long"]["long"]) == LONG_POINTS
    assert len(histories["histories"]["odd"]) == 3000
    assert sum(value == "nan" for _, _, value in histories["histories"]["odd"]) == 31
    assert sum("shared" in found for found in histories.values()) == SHARED_RUNS
    kinds = {kind for kind in done.report["done"] if kind in CAME_WITH}
    assert kinds >= {"experiment", "run", "registered_model", "model_version"}
    assert ("prompt" in kinds, "logged_model" in kinds) == (old.has(2, 21), old.has(3, 0))
    assert arrived.data["registered_models"][IRIS]["versions"].keys() >= {"1", "3", "4"}
    ids = new_ids(arrived)
    there = read_traces(server, parsed(mlflow.__version__))
    assert there.keys() == traces.keys()
    for id, trace in traces.items():
        assert without_added(comparable(there[id]), trace) == comparable(trace, ids), id


def test_an_old_server_takes_what_it_can_hold_and_the_rest_is_listed(
    old: Old, newest: Newest
) -> None:
    old.server.reset()
    done = import_(old.server, newest.path, "--placeholder-secrets", expect=3)
    planned, made = done.report["planned"], done.report["done"]
    whole = Counter(kind for kind, _, field in done.losses if not field)
    unknown = {kind: count for kind, count in planned.items() if not old.has(*CAME_WITH[kind])}
    assert unknown.keys() & made.keys() == set()
    partly = {} if old.has(3, 0) else {"model_version": 1}
    if old.has(3, 3) and not old.has(3, 11):
        partly["webhook"] = 1  # that of the one event which came with budgets
    assert whole == unknown | partly
    assert all(loss["reason"] for loss in done.report["lost"])
    assert all(made[kind] + whole[kind] == count for kind, count in planned.items() if kind in made)
    assert Counter(parts_lost(done, newest)) == expected_parts(old, newest)
    lines = differences(newest.snapshot, old.snapshot(), exempt=EXEMPT + NEW_FIELD)
    assert unexplained(lines, old) == []
    rows = row_dump(old.server.database)
    again = import_(old.server, newest.path, "--placeholder-secrets", expect=3)
    assert (again.report["done"], again.losses) == ({}, done.losses)
    assert row_dump(old.server.database) == rows
    if old.has(2, 14):
        there = read_traces(old.server, old.version)
        if not old.has(3, 2):
            counts = {id: len(spans_of(trace)) for id, trace in there.items() if trace["spans"]}
            assert spans_its_client_reads(old, counts) == counts
        arrived = by_first_id(there, old)
        ids = new_ids(old.snapshot()) | hidden_models(old)
        assert arrived.keys() == newest.traces.keys()
        in_form = held if old.has(3, 2) else held_v2
        for id, trace in newest.traces.items():
            assert without_added(in_form(arrived[id]), trace) == in_form(trace, ids), id


def spans_its_client_reads(old: Old, ids: Iterable[str]) -> dict[str, int]:
    """How many spans the client of that version finds in each trace."""
    program = (
        "import json, sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "client = mlflow.MlflowClient()\n"
        "print(json.dumps({id: len(client.get_trace(id).data.spans) for id in sys.argv[2:]}))"
    )
    command = [str(old.python), "-c", program, old.server.uri, *ids]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def by_first_id(traces: Mapping[str, Json], old: Old) -> dict[str, Json]:
    """Traces by the ids that they had at first; servers until MLflow 3.1 gave them new ones."""
    if old.has(3, 2):
        return dict(traces)
    for id, trace in traces.items():
        for span in spans_of(trace):
            assert span["attributes"]["mlflow.traceRequestId"] == json.dumps(id)
    return {trace["tags"].pop("mlflow_bundle.origin"): trace for trace in traces.values()}


def new_ids(arrived: Snapshot) -> dict[str, str]:
    """Source id to id of the runs and logged models that were imported."""
    return {
        row["tags"]["mlflow_bundle.origin"]: id
        for kind in ("runs", "logged_models")
        for id, row in arrived.data[kind].items()
        if "mlflow_bundle.origin" in row["tags"]
    }


def hidden_models(old: Old) -> dict[str, str]:
    """As :func:`new_ids`, of deleted logged models: these servers do not show them."""
    if not old.has(3, 0):
        return {}
    with contextlib.closing(sqlite3.connect(old.server.database)) as connection:
        rows = connection.execute(
            "SELECT tag_value, model_id FROM logged_model_tags WHERE tag_key = ?",
            ("mlflow_bundle.origin",),
        )
        return dict(rows.fetchall())


def comparable(trace: Json, ids: Mapping[str, str] | None = None) -> Json:
    """A trace with ids replaced and without what each server says in its own way."""
    text = json.dumps(trace)
    for source, here in (ids or {}).items():
        text = text.replace(source, here)
    trace = json.loads(text)
    if has(3, 18) and trace["tags"].get("mlflow.trace.spansLocation") == "ARTIFACT_REPO":
        del trace["tags"]["mlflow.trace.spansLocation"]  # which servers take from nobody now
    for span in spans_of(trace):
        span["attributes"].pop("mlflow.experimentId", None)
        if not span.get("links"):
            span.pop("links", None)
        if span.get("kind") == "SPAN_KIND_INTERNAL":  # what servers until MLflow 3.17 leave out
            del span["kind"]
        # Servers until MLflow 3.10 tell none of a span that has not ended, later ones zero.
        if "end_time_unix_nano" in span:
            span["end_time_unix_nano"] = span["end_time_unix_nano"] or 0
    spans_of(trace).sort(key=_span_id)
    return trace


def without_added(trace: Json, source: Json) -> Json:
    """Without what a server reads out of the attributes of others' spans into MLflow's."""
    before = {_span_id(span): span["attributes"] for span in spans_of(source)}
    known = {key for attributes in before.values() for key in attributes}
    for span in spans_of(trace):
        span["attributes"] = {k: v for k, v in span["attributes"].items() if k in known}
        # Newer servers read a type that nobody gave out of them as well.
        if before.get(_span_id(span), {}).get("mlflow.spanType") == json.dumps("UNKNOWN"):
            span["attributes"]["mlflow.spanType"] = json.dumps("UNKNOWN")
    return trace


def _span_id(span: Json) -> str:
    return str(span.get("span_id") or span.get("context", {}).get("span_id"))


def spans_of(trace: Json) -> list[Json]:
    return (trace["spans"] or {}).get("spans", [])


def held(trace: Json, ids: Mapping[str, str] | None = None) -> Json:
    """What a server until MLflow 3.10 can hold of a trace; see `expected_parts` for the rest."""
    trace = comparable(trace, ids)
    trace["tags"] = {k: v for k, v in trace["tags"].items() if k not in SPAN_PLACES}
    trace["metadata"].pop("mlflow.gateway.endpointId", None)  # a new one
    trace["assessments"] = [
        assessment
        for assessment in trace["assessments"]
        if "issue" not in assessment and assessment.get("feedback") != {"value": None}
    ]
    for span in spans_of(trace):
        span.pop("links", None)
        span.pop("kind", None)
    return trace


def held_v2(trace: Json, ids: Mapping[str, str] | None = None) -> Json:
    """What a server until MLflow 3.1 can hold of a trace, whichever form its spans have."""
    trace = comparable(trace, ids)
    # These servers do not tell where spans lie: they know one place.
    trace["tags"] = {k: v for k, v in trace["tags"].items() if k not in SPAN_PLACES}
    spans = [
        {
            "name": span["name"],
            "parent": bool(span.get("parent_id") or span.get("parent_span_id")),
            "times": [
                int(span.get(old) or span.get(new) or 0)
                for old, new in (
                    ("start_time", "start_time_unix_nano"),
                    ("end_time", "end_time_unix_nano"),
                )
            ],
            "attributes": {
                key: value
                for key, value in span["attributes"].items()
                if key != "mlflow.traceRequestId"
            },
            "events": [event["name"] for event in span["events"]],
        }
        for span in spans_of(trace)
    ]
    spans.sort(key=json.dumps)
    kept = ("experiment", "time", "duration", "state", "tags", "metadata")
    return {**{key: trace[key] for key in kept}, "spans": {"spans": spans} if spans else None}


def parts_lost(done: Done, newest: Newest) -> list[str]:
    """Kind, name and field of what is lost of things that arrived."""
    made = (newest.contents.runs, newest.world.runs, newest.world.traces)
    made += (newest.world.assessments, newest.world.webhooks)
    labels = {id: label for some in made for label, id in some.items()}
    return [
        f"{kind} {labels.get(id, id)} {'.'.join(labels.get(p, p) for p in field.split('.'))}"
        for kind, id, field in done.losses
        if field
    ]


def expected_parts(old: Old, newest: Newest) -> dict[str, int]:
    lines: list[str] = []
    if old.has(3, 2) and not old.has(3, 11):
        lines += [
            "trace assessed assessments.feedback/null",
            "trace elsewhere assessments.issue_elsewhere",
            "trace rich assessments.issue",
            "trace rich spans.links",
            "webhook everything events",
        ]
    if has(3, 18) and old.has(2, 14) and not old.has(3, 18):
        lines += ["trace rich spans.kind"]
    if old.has(2, 14) and not old.has(3, 2):
        lines += newer_parts_of_traces(newest)
    if not old.has(3, 0):
        lines += [
            "run genai outputs",
            "model_version sklearn_iris/6 tags.longer",
            "registered_model longer tags.longer",
            "run reader inputs",
            "run trainer outputs",
        ]
    if not old.has(2, 4):
        lines += [
            "prompt greeting aliases.production",
            "registered_model sklearn_iris aliases.best",
            "registered_model sklearn_iris aliases.champion",
            "run histories inputs.dataset_inputs",
            "run root inputs.dataset_inputs",
            "run limits params.long",
            "run values params.long",
            "run limits params.a:b",
            "run limits tags.longer",
            "run limits tags.a:b",
            "run limits metrics.a:b",
        ]
    return Counter(lines)


def newer_parts_of_traces(newest: Newest) -> list[str]:
    """What servers until MLflow 3.1 cannot hold of the newest one's traces."""
    labels = {id: label for label, id in newest.world.traces.items()}
    assessments = {id: label for label, id in newest.world.assessments.items()}
    lines = ["trace rich spans.links", "trace of_run prompts"]
    linked = ("rich", "turn_0", "legacy", "elsewhere")
    lines += [f"trace {label} run_ids" for label in linked]
    for id, trace in newest.traces.items():
        parts = {
            "client_request_id": trace["client_request_id"],
            "request_preview": trace["previews"][0],
            "response_preview": trace["previews"][1],
        }
        lines += [f"trace {labels[id]} {name}" for name, value in parts.items() if value]
        lines += [
            f"trace {labels[id]} assessments.{assessments[assessment['assessment_id']]}"
            for assessment in trace["assessments"]
        ]
    return lines


def unexplained(lines: list[str], old: Old) -> list[str]:
    """Take out the differences that `expected_parts` lists; each must be there."""
    known: list[str] = []
    if old.has(3, 8):
        # It names its endpoint, which has a new id.
        known += [r"experiments\[gateway/own\..*\] tags/mlflow\.experiment\.sourceId: .*"]
    if old.has(3, 0) and not old.has(3, 7):
        # These servers do not show a deleted logged model, though runs name it.
        known += [
            r"logged_models\[m-[0-9a-f]+\]: only in the first",
            r"runs\[[0-9a-f]+\] model_outputs: \[\['<model m-[0-9a-f]+>', 0\]\] != .*",
        ]
    if not old.has(3, 0):
        known += [
            r"logged_models\[.*\]: only in the first",
            r"runs\[.*\] model_(in|out)puts: .*",
            r"registered_models\[sklearn_iris\] versions/5/.*",
            r"registered_models\[sklearn_iris\] versions/6/tags/longer: .*",
            r"registered_models\[longer\] tags/longer: .*",
        ]
    if not old.has(2, 4):
        known += [
            r"(registered_models|prompts)\[.*\] aliases/.*",
            r"runs\[.*\] dataset_inputs/.*",
            r"runs\[.*\] (params|tags|metrics|histories)/(a:b|long|longer): .*",
        ]
    for pattern in known:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no more needed: {pattern}"
    return [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in known)]
