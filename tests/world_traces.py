"""Traces of the world: spans in every place, links, sessions, attachments, and assessments.

Trace, span and assessment ids are chosen by the client and random here, so that the traces of two
worlds can be merged. `traces` and `assessments` go through REST; `archive` is the one thing that
REST cannot do, and needs the server's database.

What MLflow 3.17.2 does to traces on the way in:

- a trace's ``mlflow.artifactLocation`` is the server's; posting it is refused;
- ``mlflow.trace.infoFinalized`` is added to the metadata of every posted trace;
- spans received as OTLP lose non-finite numbers' meaning in JSON, hence no NaN here; their
  ``mlflow.traceRequestId`` is derived from the OTel trace id;
- the ``valid`` of a posted assessment is ignored; an overridden one becomes invalid, but not when
  the overriding one is an expectation, whose ``overrides`` is not stored.
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.world import T0, Json, _Build

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as OTelSpan

MS = 1_000_000
"""Nanoseconds in a millisecond."""

GENAI_SESSION = "Sitzung ünï/1"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
"""The bytes of the world's attachment (no picture at all)."""


@dataclass(kw_only=True)
class SpanSpec:
    """One span to be sent; attributes are JSON values, as MLflow's own client sends them."""

    name: str
    kind: str = "INTERNAL"
    """MLflow keeps it since 3.18."""
    attributes: dict[str, Any] = field(default_factory=dict)
    parent: SpanSpec | None = None
    start_ns: int = T0 * MS
    end_ns: int | None = T0 * MS + 5 * MS
    status: str = "OK"
    status_message: str = ""
    events: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    """Name, nanoseconds, attributes."""
    links: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Trace id (``tr-…``), span id, attributes."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))


def new_trace_id() -> str:
    """A trace id of MLflow 3: ``tr-`` and an OpenTelemetry trace id."""
    return f"tr-{secrets.token_hex(16)}"


def start_trace(
    build: _Build,
    label: str,
    experiment: str,
    *,
    trace_id: str | None = None,
    state: str = "OK",
    request_ms: int = T0,
    duration_ms: int | None = 5,
    metadata: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    assessments: Iterable[Json] = (),
    **fields: str,
) -> str:
    """Post a trace without spans under ``label``; return its id."""
    trace_id = trace_id or new_trace_id()
    info: Json = {
        "trace_id": trace_id,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": build.experiments[experiment]},
        },
        "request_time": timestamp(request_ms),
        "state": state,
        "trace_metadata": {"mlflow.trace_schema.version": "3", **(metadata or {})},
        "tags": dict(tags or {}),
        "assessments": list(assessments),
        **fields,
    }
    if duration_ms is not None:
        info["execution_duration"] = f"{duration_ms / 1000:.3f}s"
    build.call("traces", api="3.0", trace={"trace_info": info})
    build.traces[label] = trace_id
    return trace_id


def log_spans(build: _Build, trace_id: str, experiment: str, spans: Iterable[SpanSpec]) -> None:
    """Send spans of one trace as OTLP; they are stored in the tracking store."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for spec in spans:
        scope.spans.append(_otel_span(trace_id, build.experiments[experiment], spec))
    build.send(
        "POST",
        "v1/traces",
        data=request.SerializeToString(),
        headers={
            "Content-Type": "application/x-protobuf",
            "x-mlflow-experiment-id": build.experiments[experiment],
        },
    )


def _otel_span(trace_id: str, experiment_id: str, spec: SpanSpec) -> OTelSpan:
    from mlflow.tracing.utils.otlp import _set_otel_proto_anyvalue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    def put(target: Any, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            attribute = target.attributes.add()
            attribute.key = key
            _set_otel_proto_anyvalue(attribute.value, value)

    span = Span(
        trace_id=bytes.fromhex(trace_id.removeprefix("tr-")),
        span_id=bytes.fromhex(spec.id),
        name=spec.name,
        start_time_unix_nano=spec.start_ns,
    )
    if spec.end_ns is not None:
        span.end_time_unix_nano = spec.end_ns
    span.kind = Span.SpanKind.Value(f"SPAN_KIND_{spec.kind}")
    if spec.parent is not None:
        span.parent_span_id = bytes.fromhex(spec.parent.id)
    codes = {"UNSET": Status.STATUS_CODE_UNSET, "OK": Status.STATUS_CODE_OK}
    span.status.code = codes.get(spec.status, Status.STATUS_CODE_ERROR)
    span.status.message = spec.status_message
    put(
        span,
        {
            "mlflow.experimentId": experiment_id,
            "mlflow.traceRequestId": trace_id,
            "mlflow.spanType": "UNKNOWN",
            **spec.attributes,
        },
    )
    for name, time_ns, attributes in spec.events:
        event = span.events.add()
        event.name, event.time_unix_nano = name, time_ns
        put(event, attributes)
    for other_trace, other_span, attributes in spec.links:
        link = span.links.add()
        link.trace_id = bytes.fromhex(other_trace.removeprefix("tr-"))
        link.span_id = bytes.fromhex(other_span)
        put(link, attributes)
    return span


def traces(build: _Build) -> None:
    """Every state and place of spans, and whatever a trace can point to."""
    in_tracking_store(build)
    unfinished_and_failed(build)
    sessions(build)
    in_artifacts(build)
    links(build)


def in_tracking_store(build: _Build) -> None:
    """Nested spans with events, links, an exception, unicode and numbers; odd tags and fields."""
    other = new_trace_id()
    root = SpanSpec(
        name="Wurzel „ünï“ 日本 😀",
        attributes={
            "mlflow.spanType": "AGENT",
            "mlflow.spanInputs": {"question": "Wie viel ist 2+2? 😀", "n": 3, "x": 0.5, "b": True},
            "mlflow.spanOutputs": ["vier", 4, 4.0, None, {"deep": {"er": [[], {}, ""]}}],
            "empty": "",
            "int": 2**53 + 1,
            "negative": -7,
            "float": 0.1 + 0.2,
            "tiny": 5e-324,
            "huge": 1.7976931348623157e308,
            "whole float": 3.0,
            "list": [1, 2.5, "a", False],
            "json text": '{"a": 1}',
            "lines": "a\nb\r\n\tc\u2028d",
            "long": "v" * 70_000,
            "ü/b c.d-e:f": "odd key",
        },
        end_ns=T0 * MS + 5 * MS + 1,
        events=[
            ("start", T0 * MS, {}),
            ("ünï", T0 * MS + 1, {"k": "v 😀", "n": 1, "f": 1.5, "list": ["a", "b"]}),
        ],
        links=[(other, "00000000000000aa", {"why": "ünï"}), (other, "00000000000000ab", {})],
    )
    llm = SpanSpec(
        name="llm",
        kind="CLIENT",
        parent=root,
        start_ns=T0 * MS + 1,
        end_ns=T0 * MS + 2 * MS,
        attributes={
            "mlflow.spanType": "CHAT_MODEL",
            "mlflow.llm.model": "gpt-4o-mini",
            "mlflow.llm.provider": "openai",
            "mlflow.chat.tokenUsage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
            "mlflow.llm.cost": {"input_cost": 0.1, "output_cost": 0.25, "total_cost": 0.35},
            "mlflow.linkedPrompts": json.dumps(
                [{"name": build.prompts.get("genai", "none"), "version": "1"}]
            ),
        },
    )
    tool = SpanSpec(
        name="tool",
        parent=llm,
        start_ns=T0 * MS + 1,
        end_ns=T0 * MS + 1,  # takes no time
        status="ERROR",
        status_message="ValueError: ünï",
        attributes={"mlflow.spanType": "TOOL"},
        events=[
            (
                "exception",
                T0 * MS + 1,
                {
                    "exception.type": "ValueError",
                    "exception.message": "ünï",
                    "exception.stacktrace": 'Traceback…\n  File "x.py", line 1\nValueError: ünï\n',
                    "exception.escaped": "False",
                },
            )
        ],
    )
    unset = SpanSpec(name="", parent=root, status="UNSET", start_ns=T0 * MS + 3)
    spans = [root, llm, tool, unset]
    trace_id = start_trace(
        build,
        "rich",
        "genai",
        client_request_id="client-1 ünï",
        request_preview="Wie viel ist 2+2? 😀",
        response_preview="r" * 1000,
        metadata={
            "mlflow.trace.sizeStats": json.dumps({"total_size_bytes": 9, "num_spans": 4}),
            "mlflow.trace.tokenUsage": json.dumps(
                {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
            ),
            "mlflow.trace.cost": json.dumps(
                {"input_cost": 0.1, "output_cost": 0.25, "total_cost": 0.35}
            ),
            "mlflow.trace.user": "Jürgen Ö.",
            "mlflow.user": "ana",
            "mlflow.source.name": "app.py",
            "mlflow.source.type": "LOCAL",
            "ünï": "metadata 😀",
            "empty": "",
            "long": "m" * 250,
        },
        tags={
            "mlflow.traceName": "Wurzel „ünï“ 日本 😀",
            "ünï tag": "Wert 😀",
            "empty": "",
            "long": "t" * 4096,
            "mlflow.eval.requestId": "eval-1",
            "mlflow.trace.sourceScorer": "correctness",
        },
    )
    log_spans(build, trace_id, "genai", spans)
    build.spans |= {f"rich/{spec.name}": spec.id for spec in spans}
    tag = {"key": "set later", "value": "ja"}
    build.call(f"traces/{trace_id}/tags", api="3.0", method="PATCH", trace_id=trace_id, **tag)
    # Spans that only OpenTelemetry made: no start_trace, and MLflow's attributes are missing.
    foreign = build.traces["otel_only"] = new_trace_id()
    plain = SpanSpec(name="from OpenTelemetry", attributes={"gen_ai.request.model": "claude"})
    log_spans(build, foreign, "genai", [plain])


def unfinished_and_failed(build: _Build) -> None:
    """In progress with and without its root span, failed, of no state, and without any span."""
    running = start_trace(
        build,
        "in_progress",
        "genai",
        state="IN_PROGRESS",
        duration_ms=None,
        request_preview="läuft noch",
        metadata={"mlflow.trace.sizeStats": json.dumps({"num_spans": 3})},
    )
    root = SpanSpec(name="root not ended", end_ns=None, status="UNSET")
    log_spans(build, running, "genai", [SpanSpec(name="child first", parent=root)])
    open_root = start_trace(build, "root_not_ended", "genai", state="IN_PROGRESS", duration_ms=None)
    log_spans(build, open_root, "genai", [root, SpanSpec(name="ended", parent=root)])
    start_trace(build, "in_progress_empty", "genai", state="IN_PROGRESS", duration_ms=None)
    failed = start_trace(build, "failed", "genai", state="ERROR", tags={"mlflow.traceName": "fail"})
    log_spans(
        build,
        failed,
        "genai",
        [SpanSpec(name="fail", status="ERROR", status_message="Zeitüberschreitung")],
    )
    start_trace(
        build, "unspecified", "genai", state="STATE_UNSPECIFIED", request_ms=1, duration_ms=0
    )
    start_trace(
        build, "no_spans", "genai", request_preview="", response_preview="", client_request_id="x"
    )


def sessions(build: _Build) -> None:
    """Three turns of one session by two users, and one in another experiment."""
    for i in range(3):
        trace_id = start_trace(
            build,
            f"turn_{i}",
            "genai",
            request_ms=T0 + i * 1000,
            metadata={
                "mlflow.trace.session": GENAI_SESSION,
                "mlflow.trace.user": "ana" if i < 2 else "bo",
            },
            tags={"mlflow.traceName": "turn"},
        )
        start = (T0 + i * 1000) * MS
        span = SpanSpec(name="turn", start_ns=start, end_ns=start + MS)
        log_spans(build, trace_id, "genai", [span])
    elsewhere = start_trace(
        build, "elsewhere", "genai_other", metadata={"mlflow.trace.session": GENAI_SESSION}
    )
    log_spans(build, elsewhere, "genai_other", [SpanSpec(name="elsewhere")])


def in_artifacts(build: _Build) -> None:
    """Spans in ``traces.json`` (of MLflow 3 and of 2.14 to 2.22), and attachments."""
    new = start_trace(
        build, "in_artifacts", "genai", tags={"mlflow.trace.spansLocation": "ARTIFACT_REPO"}
    )
    build.put_files(trace_location(build, new), {"traces.json": _traces_json(new)})

    legacy = uuid.uuid4().hex
    start_trace(
        build,
        "legacy",
        "genai",
        trace_id=legacy,
        metadata={
            "mlflow.trace_schema.version": "2",
            "mlflow.traceInputs": '{"q": "ünï"}',
            "mlflow.traceOutputs": '"ok"',
        },
        tags={"mlflow.traceName": "predict"},
    )
    build.put_files(trace_location(build, legacy), {"traces.json": _legacy_traces_json(legacy)})

    attached = start_trace(build, "attachment", "genai")
    id = str(uuid.uuid4())
    query = {"content_type": "image/png", "trace_id": attached, "size": str(len(PNG))}
    reference = f"mlflow-attachment://{id}?{urllib.parse.urlencode(query)}"
    span = SpanSpec(name="draw", attributes={"mlflow.spanOutputs": {"image": reference}})
    log_spans(build, attached, "genai", [span])
    build.put_files(trace_location(build, attached), {f"attachments/{id}": PNG})


def _traces_json(trace_id: str) -> bytes:
    def encoded(hexadecimal: str) -> str:
        return base64.b64encode(bytes.fromhex(hexadecimal)).decode()

    span = {
        "trace_id": encoded(trace_id.removeprefix("tr-")),
        "span_id": encoded(secrets.token_hex(8)),
        "parent_span_id": None,
        "name": "in artifacts ünï",
        "start_time_unix_nano": T0 * MS,
        "end_time_unix_nano": T0 * MS + MS,
        "events": [],
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {
            "mlflow.traceRequestId": json.dumps(trace_id),
            "mlflow.spanType": '"CHAIN"',
            "mlflow.spanInputs": '{"q": "\\u00fcn\\u00ef"}',
        },
        "links": [],
    }
    return json.dumps({"spans": [span]}).encode()


def _legacy_traces_json(trace_id: str) -> bytes:
    span = {
        "name": "predict",
        "context": {"span_id": f"0x{secrets.token_hex(8)}", "trace_id": f"0x{trace_id}"},
        "parent_id": None,
        "start_time": T0 * MS,
        "end_time": T0 * MS + MS,
        "status_code": "OK",
        "status_message": "",
        "attributes": {
            "mlflow.traceRequestId": json.dumps(trace_id),
            "mlflow.spanType": '"CHAIN"',
            "mlflow.spanInputs": '{"q": "\\u00fcn\\u00ef"}',
            "mlflow.spanOutputs": '"ok"',
        },
        "events": [],
    }
    return json.dumps({"request": '{"q": "ünï"}', "response": '"ok"', "spans": [span]}).encode()


def trace_location(build: _Build, trace_id: str) -> str:
    """Where files of the trace belong."""
    answer = build.send("GET", f"api/3.0/mlflow/traces/{trace_id}")
    return str(answer["trace"]["trace_info"]["tags"]["mlflow.artifactLocation"])


def links(build: _Build) -> None:
    """To runs (by link and by metadata), to a logged model, and to prompt versions."""
    run, model = build.runs["genai"], build.logged_models["genai"]
    made = start_trace(
        build,
        "of_run",
        "genai",
        metadata={"mlflow.sourceRun": run, "mlflow.modelId": model},
        tags={"mlflow.traceName": "of run"},
    )
    log_spans(build, made, "genai", [SpanSpec(name="of run")])
    linked = [build.traces[label] for label in ("rich", "turn_0", "legacy", "elsewhere")]
    build.call("traces/link-to-run", trace_ids=linked, run_id=build.runs["genai_evaluation"])
    build.call("traces/link-to-run", trace_ids=linked[:1], run_id=run)
    name = build.prompts["genai"]
    versions = [{"name": name, "version": "1"}, {"name": name, "version": "2"}]
    build.call("traces/link-prompts", trace_id=made, prompt_versions=versions)
    tag = {"key": "mlflow.linkedPrompts", "value": json.dumps(versions)}
    build.call(f"traces/{made}/tags", api="3.0", method="PATCH", trace_id=made, **tag)


def assessments(build: _Build) -> None:
    """Every kind, type of value and source; with errors, on spans, overridden, of runs."""
    values: dict[str, Any] = {
        "float": 0.75,
        "int": 5,
        "whole float": 4.0,
        "negative": -1.5,
        "true": True,
        "false": False,
        "text": "gut ünï 😀",
        "empty": "",
        "null": None,
        "list": ["a", 1, 2.5, None, True, []],
        "dict": {"ü": {"deep": [1, {"er": None}]}, "empty": {}},
        "yes": "yes",
    }
    of_values: dict[str, Json] = {}
    assessed = new_trace_id()
    for i, (label, value) in enumerate(values.items()):
        name = f"feedback/{label}"
        of_values[name] = posted(assessed, T0 + i, name=name, feedback={"value": value})
        if value is None:
            continue
        name = f"expectation/{label}"
        expectation: Json = {"value": value}
        if isinstance(value, list | dict):
            text = {"serialization_format": "JSON_FORMAT", "value": json.dumps(value)}
            expectation = {"serialized_value": text}
        of_values[name] = posted(assessed, T0 + i, name=name, expectation=expectation)
    # All in the request that makes the trace; those below in requests of their own.
    start_trace(build, "assessed", "genai", trace_id=assessed, assessments=of_values.values())
    build.assessments |= {label: row["assessment_id"] for label, row in of_values.items()}
    rich = build.traces["rich"]
    _assess(
        build,
        "all_fields",
        rich,
        T0 + 100,
        changed_ms=T0 + 5000,
        source=("LLM_JUDGE", "judge/ünï"),
        feedback={"value": "no"},
        rationale="Weil 😀\n\nünï " + "r" * 5000,
        span_id=build.spans["rich/llm"],
        metadata={
            "mlflow.assessment.sourceRunId": build.runs["genai_evaluation"],
            "mlflow.assessment.scorerTraceId": build.traces["turn_0"],
            "mlflow.assessment.scorerName": "correctness",
            "mlflow.assessment.scorerVersion": "2",
            "mlflow.assessment.judgeCost": "0.001",
            "ünï": "wert 😀",
        },
    )
    _assess(
        build,
        "error",
        rich,
        T0 + 101,
        source=("CODE", "scorer.py"),
        feedback={
            "value": None,
            "error": {
                "error_code": "RATE_LIMIT",
                "error_message": "zu oft ünï",
                "stack_trace": "Traceback…\nRateLimit\n",
            },
        },
    )
    issue = build.issues["genai"]
    _assess(
        build,
        "issue",
        rich,
        T0 + 102,
        source=("LLM_JUDGE", build.runs["genai"]),
        name=issue,
        issue={"issue_name": "Antwort falsch ünï"},
        rationale="falsch",
        metadata={"mlflow.assessment.sourceRunId": build.runs["genai"]},
    )
    _assess(
        build,
        "issue_elsewhere",
        build.traces["elsewhere"],
        T0 + 1,
        name=build.issues["genai_other"],
        issue={"issue_name": "another"},
    )
    # A chain: the first two become invalid, the last is the one that counts.
    chain = build.traces["turn_1"]
    first = _assess(build, "overridden", chain, T0, name="quality", feedback={"value": 1})
    second = _assess(
        build, "overriding", chain, T0 + 1, name="quality", feedback={"value": 2}, overrides=first
    )
    _assess(
        build, "overriding_last", chain, T0 + 2, name="quality", feedback={"value": 3},
        overrides=second,
    )  # fmt: skip
    for label in ("legacy", "in_artifacts", "in_progress", "no_spans", "of_run"):
        _assess(build, f"on/{label}", build.traces[label], T0, feedback={"value": label})


def posted(
    trace_id: str,
    created_ms: int,
    *,
    name: str = "quality",
    changed_ms: int | None = None,
    source: tuple[str, str] = ("HUMAN", "ana@example.org"),
    **fields: Any,
) -> Json:
    """An assessment as REST takes it, with an id of its own."""
    return {
        "assessment_id": f"a-{uuid.uuid4().hex}",
        "assessment_name": name,
        "trace_id": trace_id,
        "source": {"source_type": source[0], "source_id": source[1]},
        "create_time": timestamp(created_ms),
        "last_update_time": timestamp(created_ms if changed_ms is None else changed_ms),
        **fields,
    }


def _assess(build: _Build, label: str, trace_id: str, created_ms: int, **fields: Any) -> str:
    fields.setdefault("name", label)
    assessment = posted(trace_id, created_ms, **fields)
    build.call(f"traces/{trace_id}/assessments", api="3.0", assessment=assessment)
    id = str(assessment["assessment_id"])
    build.assessments[label] = id
    return id


def in_deleted(build: _Build) -> None:
    """Traces and assessments of an experiment, a run and a logged model that end up deleted.

    Deleting a run or an experiment also deletes the assessments whose metadata names that run or
    a run of that experiment as their source; such an assessment can be added afterwards.
    """
    run, experiment = build.runs["genai_in_deleted"], "genai_deleted"
    trace_id = start_trace(
        build,
        "in_deleted",
        experiment,
        metadata={
            "mlflow.sourceRun": run,
            "mlflow.modelId": build.logged_models["genai_in_deleted"],
        },
    )
    log_spans(build, trace_id, experiment, [SpanSpec(name="in deleted")])
    build.call("traces/link-to-run", trace_ids=[trace_id], run_id=run)
    _assess(build, "in_deleted", trace_id, T0, feedback={"value": 1})
    start_trace(build, "in_deleted_2", experiment)
    of_deleted = start_trace(
        build,
        "of_deleted_run",
        "genai",
        metadata={
            "mlflow.sourceRun": build.runs["genai_deleted"],
            "mlflow.modelId": build.logged_models["genai_deleted"],
        },
    )
    log_spans(build, of_deleted, "genai", [SpanSpec(name="of deleted run")])
    build.call("traces/link-to-run", trace_ids=[of_deleted], run_id=build.runs["genai_deleted"])


def assess_deleted(build: _Build) -> None:
    """After the deletions: assessments that name deleted runs as their source."""
    for label, run in (("in_deleted", "genai_in_deleted"), ("of_deleted_run", "genai_deleted")):
        _assess(
            build,
            f"{label}/by_run",
            build.traces[label],
            T0,
            feedback={"value": True},
            metadata={"mlflow.assessment.sourceRunId": build.runs[run]},
        )


def archivable(build: _Build) -> None:
    """A trace for `archive`: finished, its spans in the tracking store."""
    trace_id = start_trace(build, "archived", "genai", tags={"mlflow.traceName": "archived"})
    root = SpanSpec(name="archived", attributes={"mlflow.spanInputs": {"q": "ünï 😀"}})
    log_spans(build, trace_id, "genai", [root, SpanSpec(name="child", parent=root)])


def archive(database: Path | str, location: Path | str, trace_id: str) -> None:
    """Archive one trace as MLflow's scheduler does, by the code of its store.

    The scheduler runs in the server's job process only, every five minutes at the soonest it is
    of use, and no endpoint starts it.

    Args:
        database: The server's SQLite file; the server may be running.
        location: A directory, where ``traces.pb`` comes to lie below.
        trace_id: A finished trace with its spans in the tracking store.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{database}", "mlflow-artifacts:/")
    try:
        archived = store._archive_trace_candidate(
            trace_id=trace_id,
            resolved_trace_archival_location=Path(location).resolve().as_uri(),
        )
    finally:
        store._dispose_engine()
    if not archived:
        raise RuntimeError(f"MLflow did not archive {trace_id}")


def timestamp(ms: int) -> str:
    """Milliseconds since the epoch as protobuf's JSON has times."""
    moment = datetime.datetime.fromtimestamp(ms // 1000, datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"
