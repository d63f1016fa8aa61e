"""Traces travel under their own ids, with spans, assessments, files and links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer, fast_session
from tests.sql.databases import change
from tests.table_rows import Database
from tests.tables import changed_rows, compare_databases
from tests.transfer.commands import command, export, import_
from tests.world import T0, World, _Build
from tests.world_traces import MS, PNG, SpanSpec, log_spans, new_trace_id, posted, start_trace

pytestmark = pytest.mark.server

LendServer = Callable[..., MlflowServer]
TABLES = (
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "assessments",
)


def rows(server: MlflowServer, table: str, **fields: Any) -> list[dict[str, Any]]:
    """Rows of a table that have these values."""
    return [
        dict(row)
        for row in Database(server.database).rows(table)
        if all(row[name] == value for name, value in fields.items())
    ]


def tags(server: MlflowServer, trace_id: str) -> dict[str, str]:
    return {row["key"]: row["value"] for row in rows(server, "trace_tags", request_id=trace_id)}


def info(server: MlflowServer, trace_id: str) -> dict[str, Any]:
    (row,) = rows(server, "trace_info", request_id=trace_id)
    return row


def trace_artifact(server: MlflowServer, trace_id: str, path: str = "") -> bytes:
    reply = fast_session().get(
        f"{server.uri}/ajax-api/2.0/mlflow/get-trace-artifact",
        params={"request_id": trace_id, **({"path": path} if path else {})},
    )
    assert reply.ok, reply.text
    return reply.content


def test_traces_of_every_kind_arrive_row_by_row_and_a_second_import_changes_no_row(
    genai_server: MlflowServer,
    genai_world: World,
    empty_server: LendServer,
    tmp_path: Path,
) -> None:
    bundle, server = tmp_path / "b.mlbundle", empty_server()
    before = row_dump(genai_server.database)
    done = export(genai_server, bundle, expect=None)
    assert list(changed_rows(before, genai_server.database)) == []
    assert done.report["planned"]["trace"] == len(genai_world.traces)
    assert [loss for loss in done.losses if loss[0] == "trace"] == []

    imported = import_(server, bundle, expect=None)
    assert [loss for loss in imported.losses if loss[0] in ("trace", "artifact")] == []
    assert imported.report["done"]["trace"] == len(genai_world.traces)
    compared = compare_databases(genai_server.database, server.database, tables=TABLES)
    print(compared)
    assert compared.differences == []
    assert set(TABLES) <= compared.rows.keys()
    links = compare_databases(
        genai_server.database, server.database, tables=["entity_associations"], may_lack=True
    )
    assert links.differences == []
    wanted = Database(genai_server.database).rows("entity_associations")
    assert links.rows["entity_associations"] + 2 >= sum(r["source_type"] == "trace" for r in wanted)

    # What no table holds: files, and spans that lie in them or were archived.
    for label in ("legacy", "in_artifacts", "archived"):
        id = genai_world.traces[label]
        theirs, ours = (json.loads(trace_artifact(s, id)) for s in (server, genai_server))
        assert len(theirs["spans"]) == len(ours["spans"]) > 0
        for a, b in zip(theirs["spans"], ours["spans"], strict=True):
            for span in (a, b):
                span["attributes"].pop("mlflow.experimentId", None)
            assert a == b
    drawn = genai_world.traces["attachment"]
    (name,) = (
        path.name
        for path in genai_server.artifact_directory.rglob(f"{drawn}/artifacts/attachments/*")
    )
    assert trace_artifact(server, drawn, name) == PNG

    before = row_dump(server.database)
    sent = len(server.requests())
    again = import_(server, bundle, expect=None)
    assert again.report["present"]["trace"] == len(genai_world.traces)
    assert "trace" not in again.report["done"]
    assert [c for c in again.conflicts if c[0] == "trace"] == []
    assert list(changed_rows(before, server.database)) == []
    # 23 traces are looked up together, and none of them is listed or read by itself.
    asked = [r for r in server.requests()[sent:] if "/traces" in r]
    assert len([r for r in asked if "batchGetInfos" in r]) <= 3
    dry = import_(server, bundle, "--dry-run", expect=None)
    assert dry.report["present"]["trace"] == len(genai_world.traces)
    assert list(changed_rows(before, server.database)) == []
    command("verify", bundle)


def small_world(server: MlflowServer) -> _Build:
    build = _Build(server.uri)
    build.experiment("one", "one")
    build.run("judge", "one", tags={"mlflow.runType": "genai_evaluate"})
    return build


def assess(build: _Build, trace_id: str, at_ms: int = T0, **fields: Any) -> str:
    assessment = posted(trace_id, at_ms, **fields)
    build.call(f"traces/{trace_id}/assessments", api="3.0", assessment=assessment)
    return str(assessment["assessment_id"])


def set_tag(build: _Build, trace_id: str, key: str, value: str) -> None:
    build.call(
        f"traces/{trace_id}/tags",
        api="3.0",
        method="PATCH",
        trace_id=trace_id,
        key=key,
        value=value,
    )


def test_newer_bundle_adds_spans_tags_and_assessments_and_changed_values_are_conflicts(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = small_world(source)
    growing = start_trace(build, "growing", "one", state="IN_PROGRESS", duration_ms=None)
    root = SpanSpec(name="root", end_ns=T0 * MS + 9 * MS)
    log_spans(build, growing, "one", [SpanSpec(name="first", parent=root)])
    still = start_trace(build, "still", "one", state="IN_PROGRESS", duration_ms=None)
    log_spans(build, still, "one", [SpanSpec(name="first", parent=root)])
    ended = start_trace(build, "ended", "one", tags={"colour": "red"})
    log_spans(build, ended, "one", [SpanSpec(name="all of it")])
    late = start_trace(build, "late", "one")
    log_spans(build, late, "one", [SpanSpec(name="first")])
    kept = assess(build, ended, name="kept", feedback={"value": "yes"}, rationale="because")
    first, newer = tmp_path / "first.mlbundle", tmp_path / "newer.mlbundle"
    export(source, first)
    import_(server, first)

    log_spans(build, growing, "one", [root])
    log_spans(build, late, "one", [SpanSpec(name="second", parent=root)])
    start_trace(build, "growing", "one", trace_id=growing, duration_ms=9, response_preview="42")
    log_spans(build, still, "one", [SpanSpec(name="second", parent=root)])
    set_tag(build, ended, "colour", "blue")
    set_tag(build, ended, "size", "large")
    build.call(
        f"traces/{ended}/assessments/{kept}",
        api="3.0",
        method="PATCH",
        assessment={
            "assessment_id": kept,
            "trace_id": ended,
            "feedback": {"value": "no"},
            "rationale": "",
        },
        update_mask="feedback,rationale",
    )
    assess(build, ended, T0 + 1, name="new", feedback={"value": 1}, overrides=kept)
    build.experiment("no traces", "no traces")
    build.run("elsewhere", "no traces")
    for name in ("judge", "elsewhere"):
        build.call("traces/link-to-run", trace_ids=[growing], run_id=build.runs[name])
    export(source, newer)

    merged = import_(server, newer)
    assert merged.conflicts == [
        ("trace", ended, f"assessments.{kept}.value"),
        ("trace", ended, "tags.colour"),
    ]
    assert info(server, growing)["status"] == "OK"
    assert info(server, growing)["execution_time_ms"] == 9
    assert len(rows(server, "spans", trace_id=growing)) == 2
    assert len(rows(server, "spans", trace_id=still)) == 2
    assert len(rows(server, "spans", trace_id=late)) == 2
    assert info(server, still)["status"] == "IN_PROGRESS"
    assert tags(server, ended)["colour"] == "red"
    assert tags(server, ended)["size"] == "large"
    assert [row["valid"] for row in rows(server, "assessments", assessment_id=kept)] == [0]
    assert len(rows(server, "assessments", trace_id=ended)) == 2
    assert len(rows(server, "entity_associations", source_id=growing)) == 2
    before = row_dump(server.database)
    import_(server, newer)
    assert list(changed_rows(before, server.database)) == []

    import_(server, newer, "--on-conflict", "update")
    assert tags(server, ended)["colour"] == "blue"
    (updated,) = rows(server, "assessments", assessment_id=kept)
    assert (updated["value"], updated["rationale"]) == ('"no"', "")
    assert import_(server, newer).conflicts == []
    compared = compare_databases(
        source.database, server.database, tables=("trace_info", "spans", "trace_tags")
    )
    assert compared.differences == []


def test_import_killed_between_traces_and_their_spans_is_completed(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = small_world(source)
    ids = []
    for number in range(3):
        # Later than its span, and longer than it: the server alone would infer other times.
        id = start_trace(
            build,
            str(number),
            "one",
            request_ms=T0 + 77,
            duration_ms=1234,
            tags={"mlflow.traceName": "name"},
            metadata={"mlflow.trace.session": "s"},
            assessments=[],
        )
        log_spans(build, id, "one", [SpanSpec(name="s", attributes={"mlflow.spanInputs": [1]})])
        start_trace(build, str(number), "one", trace_id=id, request_ms=T0 + 77, duration_ms=1234)
        assess(build, id, name="x", feedback={"value": number})
        ids.append(id)

    started = start_trace(build, "started", "one", tags={"a": "b"})
    log_spans(build, started, "one", [SpanSpec(name="s")])
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    # What an import that ends half way has left: spans of some traces, and one trace without.
    copy = _Build(server.uri)
    copy.experiment("one", "one")
    start_trace(copy, "started", "one", trace_id=started, tags={"a": "b"})
    for id in ids:
        span_id = rows(source, "spans", trace_id=id)[0]["span_id"]
        spans = [SpanSpec(name="s", attributes={"mlflow.spanInputs": [1]}, id=span_id)]
        log_spans(copy, id, "one", spans)
    assert info(server, ids[0])["timestamp_ms"] == T0

    done = import_(server, bundle)
    assert done.conflicts == []
    assert done.report["done"]["trace"] == 4
    assert compare_databases(source.database, server.database, tables=TABLES).differences == []
    before = row_dump(server.database)
    assert import_(server, bundle).report["present"]["trace"] == 4
    assert list(changed_rows(before, server.database)) == []


def test_trace_that_is_elsewhere_at_the_destination_is_lost_and_never_moved(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = small_world(source)
    taken = start_trace(build, "taken", "one")
    log_spans(build, taken, "one", [SpanSpec(name="s")])
    other = start_trace(build, "other", "one")
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    import_(server, bundle)
    before = row_dump(server.database)
    again = import_(server, bundle, "--experiment-name-prefix", "copy of ", expect=3)
    assert again.losses == [("trace", id, "") for id in sorted((taken, other))]
    assert "in one only" in again.report["lost"][0]["reason"]
    assert {"spans", "trace_info", "assessments"}.isdisjoint(changed_rows(before, server.database))


def test_assessments_of_a_run_that_the_import_deletes_stay(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = small_world(source)
    build.run("gone", "one")
    trace = start_trace(build, "t", "one")
    by_run = {"metadata": {"mlflow.assessment.sourceRunId": build.runs["gone"]}}
    first = assess(build, trace, name="a", feedback={"value": 1}, **by_run)
    before_deletion, after = tmp_path / "first.mlbundle", tmp_path / "newer.mlbundle"
    export(source, before_deletion)
    import_(server, before_deletion)
    build.call("runs/delete", run_id=build.runs["gone"])
    assert rows(source, "assessments") == []
    # As MLflow's own clients leave it: written after the deletion.
    again = posted(trace, T0, name="a", feedback={"value": 1}, **by_run)
    again["assessment_id"] = first
    build.call(f"traces/{trace}/assessments", api="3.0", assessment=again)
    assess(build, trace, T0 + 1, name="a", feedback={"value": 2}, overrides=first, **by_run)
    export(source, after)
    import_(server, after)
    compared = compare_databases(source.database, server.database, tables=TABLES)
    assert compared.differences == []
    assert compared.rows["assessments"] == 2
    before = row_dump(server.database)
    import_(server, after)
    assert list(changed_rows(before, server.database)) == []


def test_an_assessment_names_its_run_when_that_comes_later(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server, bundle = empty_server(), empty_server(), tmp_path / "f.mlbundle"
    build = small_world(source)
    build.experiment("two", "two")
    build.run("late", "two")
    trace = start_trace(build, "t", "one")
    by_run = {"metadata": {"mlflow.assessment.sourceRunId": build.runs["late"]}}
    assess(build, trace, name="a", feedback={"value": 1}, **by_run)
    export(source, bundle)
    import_(server, bundle, "--experiments", "one", name="import-experiments")
    done = import_(server, bundle)
    assert done.conflicts == []
    late = [tag["run_uuid"] for tag in rows(server, "tags", value=build.runs["late"])]
    (row,) = rows(server, "assessments")
    assert [json.loads(row["assessment_metadata"])["mlflow.assessment.sourceRunId"]] == late
    before = row_dump(server.database)
    import_(server, bundle)
    assert list(changed_rows(before, server.database)) == []


def test_odd_spans_arrive_byte_for_byte_and_one_that_cannot_be_read_loses_no_sibling(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = small_world(source)
    texts = {
        "quoted": '"in quotes"',
        "number": "12",
        "list": '["a",1]',
        "object": '{"b": {"c": [1.50, null]}}',
        "null": "null",
        "surrogate": "\\ud83d",
        "empty": None,
        "nested": {"json": '{"x":1}', "list": [[], {}, [None]]},
    }
    odd = start_trace(build, "odd", "one")
    log_spans(build, odd, "one", [SpanSpec(name="odd", attributes=texts)])
    gone = start_trace(build, "gone", "one")
    # In the database: servers since 3.18 take no such tag.
    change(
        source.database,
        "INSERT INTO trace_tags (request_id, key, value) VALUES (?, ?, ?)",
        *(gone, "mlflow.trace.spansLocation", "ARCHIVE_REPO"),
    )
    assess(build, gone, name="x", feedback={"value": 1})
    prompt = "p"
    build.call(
        "registered-models/create",
        name=prompt,
        tags=[{"key": "mlflow.prompt.is_prompt", "value": "true"}],
    )
    build.call(
        "model-versions/create",
        name=prompt,
        source="dummy-source",
        tags=[
            {"key": "mlflow.prompt.is_prompt", "value": "true"},
            {"key": "mlflow.prompt.text", "value": "t"},
        ],
    )
    link = {"name": prompt, "version": "1"}
    build.call("traces/link-prompts", trace_id=odd, prompt_versions=[link])
    set_tag(build, odd, "mlflow.linkedPrompts", json.dumps([link]))
    bundle = tmp_path / "b.mlbundle"
    lost = export(source, bundle, expect=3)
    assert lost.losses == [("trace", gone, "spans")]

    done = import_(server, bundle, "--rename-model", "p=q")
    assert done.report["done"]["trace"] == 2
    tables = ("trace_info", "spans", "assessments")
    assert compare_databases(source.database, server.database, tables=tables).differences == []
    (linked,) = rows(server, "entity_associations", source_id=odd)
    assert linked["destination_id"] == "q/1"
    assert json.loads(tags(server, odd)["mlflow.linkedPrompts"]) == [{"name": "q", "version": "1"}]


def test_one_span_that_the_server_refuses_loses_that_trace_alone(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = small_world(source)
    good = start_trace(build, "good", "one")
    log_spans(build, good, "one", [SpanSpec(name="good")])
    bad = new_trace_id()
    start_trace(build, "bad", "one", trace_id=bad)
    log_spans(build, bad, "one", [SpanSpec(name="bad")])
    timeless = start_trace(build, "timeless", "one")
    tree = tmp_path / "tree"
    export(source, tmp_path / "b.mlbundle")
    command("extract", tmp_path / "b.mlbundle", "-o", tree)
    (document,) = tree.rglob(f"{bad}/trace.json")
    content = json.loads(document.read_text())
    span = json.loads(content["items"][0]["content"])
    span["attributes"]["huge"] = str(2**64)
    content["items"][0]["content"] = json.dumps(span)
    document.write_text(json.dumps(content))
    (document,) = tree.rglob(f"{timeless}/trace.json")
    content = json.loads(document.read_text())
    content["entity"]["request_time"] = 2**62
    document.write_text(json.dumps(content))
    done = import_(server, tree, expect=3)
    assert done.losses == sorted([("trace", bad, "spans"), ("trace", timeless, "")])
    assert len(rows(server, "spans", trace_id=good)) == 1
    assert info(server, bad)["status"] == "OK"


def test_spans_in_a_large_file_name_the_experiment_of_the_destination(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    for name in ("first", "second"):
        _Build(server.uri).experiment(name, name)
    build = small_world(source)
    large = start_trace(build, "large", "one", tags={"mlflow.trace.spansLocation": "ARTIFACT_REPO"})
    own = json.dumps(json.dumps(build.experiments["one"]))
    spans = ",".join(
        f'{{"name": "{i}", "attributes": {{"mlflow.experimentId": {own}, "text": "{"x" * 3000}"}}}}'
        for i in range(2000)
    )
    location = tags(source, large)["mlflow.artifactLocation"]
    data = f'{{"spans": [{spans}]}}'.encode()
    assert len(data) > 5 * 1024 * 1024
    build.put_files(location, {"traces.json": data})
    bundle = tmp_path / "b.mlbundle"
    export(source, bundle)
    import_(server, bundle)
    (written,) = server.artifact_directory.rglob(f"{large}/artifacts/traces.json")
    (row,) = rows(server, "trace_info", request_id=large)
    there = json.dumps(json.dumps(str(row["experiment_id"])))
    assert there != own
    assert written.read_bytes() == data.replace(own.encode(), there.encode())
    command("diff", bundle, server.uri, "--experiments", "one")
    before = row_dump(server.database)
    assert import_(server, bundle).report["present"]["trace"] == 1
    assert list(changed_rows(before, server.database)) == []
