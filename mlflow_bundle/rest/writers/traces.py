"""Writes traces under their own ids, many at a time.

Starting a trace whose id the server has would move it, with its spans and assessments, so a batch
is looked up first. Then each trace is started, in one transaction that sets state, times, tags,
metadata and assessments, and the spans of all follow in one request. A server infers state and
times from spans; where it would infer others than the bundle's, the spans go first, and starting
the trace then corrects it, at twice the cost.

An import that was killed between the two is completed by what is missing: a started trace without
spans lacks the tag that says where they are, and one with spans that was not started lacks
metadata, which nothing else can add. What follows (assessments that replace others, files, links)
is compared with the bundle each time.

Assessments whose run will be deleted come last: deleting the run takes them away.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import quote

import msgspec

from mlflow_bundle.artifacts import SMALL_BYTES
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, Content, OpenedArtifact
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import Run
from mlflow_bundle.errors import ServerError, SinkError, UnsupportedEntityError
from mlflow_bundle.kinds.traces import (
    ARCHIVE_REPO,
    ARTIFACT_LOCATION,
    ARTIFACT_REPO,
    ASSESSING_RUN,
    NUMBERS,
    OPEN_STATES,
    SPANS_LOCATION,
    TRACE_DATA,
    Assessment,
    Span,
    Trace,
)
from mlflow_bundle.later import Later
from mlflow_bundle.rest.artifacts import ArtifactOwner
from mlflow_bundle.rest.destination import Destination, chunked
from mlflow_bundle.rest.halves import send_in_halves
from mlflow_bundle.rest.session import AJAX, API_3
from mlflow_bundle.rest.trace_records import (
    RestSpans,
    RestTrace,
    RestTraceInfos,
    assessment_body,
    trace_body,
    value_body,
)
from mlflow_bundle.rest.upload import ArtifactWriter
from mlflow_bundle.rest.writers.base import Writer
from mlflow_bundle.rest.writers.trace_state import (
    FINALIZED,
    Missing,
    agrees_with_spans,
    here,
    missing,
)
from mlflow_bundle.rest.writers.traces_v2 import TracesV2
from mlflow_bundle.spans import SpanEncoder, comparable, has_kind

_NO_END = re.compile(r'"end_time_unix_nano"\s*:\s*null')
_TRACES_AT_ONCE = 50
_BYTES_AT_ONCE = 4 * 1024 * 1024
_SIZE_STATS = "mlflow.trace.sizeStats"
"""Metadata that counts the spans of a trace."""
_LINKS_PER_REQUEST = 100
"""MAX_TRACE_LINKS_PER_REQUEST, mlflow/store/tracking/sqlalchemy_store.py."""

_LINKED = '"links": [{'
"""What the content of a span with links holds."""

_KIND = '"kind": "SPAN_KIND_'
"""What the content of a span with a kind holds."""

_OTEL_ID = re.compile(r"tr-[0-9a-f]{32}")


@dataclass(slots=True, kw_only=True)
class _Job:
    """One trace on its way to the server."""

    trace: Trace
    """As it is to be there."""
    source: Trace
    artifacts: ArtifactTree
    spans: list[str]
    """Those in memory."""
    more: Iterator[str]
    """Those that follow."""
    size: int = 0
    here: Trace | None = None
    missing: Missing = field(default_factory=Missing)
    location: str = ""
    """Where its files lie at the server."""
    written: bool = False
    failed: bool = False

    @property
    def all_spans(self) -> Iterator[str]:
        return chain(self.spans, self.more)

    @property
    def has_spans(self) -> bool:
        return bool(self.spans)

    @property
    def by_otlp(self) -> bool:
        """Whether the server can take its spans: it derives the trace's id from OpenTelemetry's."""
        return _OTEL_ID.fullmatch(self.trace.id) is not None


class TraceWriter(Writer):
    """Writes traces."""

    kind = Trace.kind

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._encoder = SpanEncoder(
            destination.remap, destination.report, arrays_as_text=destination.since(3, 17)
        )
        self._older = TracesV2(destination, self._encoder)
        self._lock = threading.Lock()
        self._jobs: list[_Job] = []
        self._size = 0
        self._links: dict[str, list[str]] = {}
        self._prompts = Later()
        self._assessments = Later()

    # One by one

    def examine(self, content: Content) -> None:
        trace = content.entity
        assert isinstance(trace, Trace)
        self._require_traces(trace)
        if not self._to.since(3, 2):
            self._older.examine(content, self._place(trace).id)
            return
        found, unknown = self._look([trace.id])
        if unknown:
            raise unknown[trace.id]
        there = found.get(trace.id)
        if there is None:
            return
        job = self._job(content)
        self._check_place(job, there)
        self._to.report.found(Trace.kind)
        missing(job.trace, there, self._to)
        files = content.artifacts.files()
        if files:
            job.location = there.tags.get(ARTIFACT_LOCATION, "")
            self._writer(job, files).missing(content.artifacts, fresh=False, filling=False)

    def put(self, content: Content) -> None:
        trace = content.entity
        assert isinstance(trace, Trace)
        self._require_traces(trace)
        if not self._to.since(3, 2):
            self._older.put(content, self._place(trace).id, lambda: self._experiment(trace))
            return
        job = self._job(content)
        if job.size > _BYTES_AT_ONCE:
            self._write([job])
            return
        with self._lock:
            self._jobs.append(job)
            self._size += job.size
            if len(self._jobs) < _TRACES_AT_ONCE and self._size < _BYTES_AT_ONCE:
                return
            jobs, self._jobs, self._size = self._jobs, [], 0
        self._write(jobs)

    def _require_traces(self, trace: Trace) -> None:
        if not self._to.since(2, 14):
            raise UnsupportedEntityError(
                f"trace {trace.id}: the server has no traces (they came with MLflow 2.14)",
                status=404,
            )

    def _job(self, content: Content) -> _Job:
        trace = content.entity
        assert isinstance(trace, Trace)
        place = self._place(trace)
        job = _Job(
            trace=here(trace, place.id, self._to),
            source=trace,
            artifacts=content.artifacts,
            spans=[],
            more=(item.content for item in content.items() if isinstance(item, Span)),
        )
        for text in job.more:
            job.spans.append(text)
            job.size += len(text)
            if job.size > _BYTES_AT_ONCE:
                return job
        files = content.artifacts.files()
        if sum(_size(file) for file in files) > _BYTES_AT_ONCE:
            job.size = _BYTES_AT_ONCE + 1
        elif files:
            # The next entity may be asked for before this one is written.
            job.artifacts = _HeldFiles(content.artifacts, files)
            job.size += sum(_size(file) for file in files)
        return job

    def finish(self) -> None:
        self._write(self._jobs)
        self._jobs = []
        for run_id, trace_ids in self._links.items():
            self._link(run_id, trace_ids)
        self._links.clear()
        for links in chunked(self._prompts.read(), _TRACES_AT_ONCE):
            list(self._to.files.map(self._link_prompts, links))

    def complete(self) -> None:
        for some in chunked(self._assessments.read(), _TRACES_AT_ONCE):
            there, unknown = self._look([id for id, _ in some])
            for id, exc in unknown.items():
                self._to.report.lose(Trace.kind, id, exc.message, field="assessments")
            list(
                self._to.files.map(
                    self._assess_late, [(there.get(id), id, bodies) for id, bodies in some]
                )
            )

    def close(self) -> None:
        self._prompts.close()
        self._assessments.close()

    # A batch

    def _write(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        there, unknown = self._look([job.trace.id for job in jobs])

        def plan(job: _Job) -> None:
            if job.trace.id in unknown:
                raise unknown[job.trace.id]
            self._plan(job, there.get(job.trace.id))

        for job in jobs:
            self._guarded(job, plan)
        jobs = [job for job in jobs if not job.failed]
        sending = [job for job in jobs if job.missing.spans and self._sends_spans(job)]
        later = [job for job in sending if self._starts_first(job)]
        self._send_spans([job for job in sending if job not in later])
        list(self._to.files.map(lambda job: self._guarded(job, self._start), jobs))
        self._send_spans([job for job in later if not job.failed])
        for step in (self._check_links, self._check_kinds, self._write_files):
            for job in jobs:
                if not job.failed:
                    self._guarded(job, step)
        for job in jobs:
            if not job.failed:
                self._note_links(job)
                if job.written:
                    self._to.report.did(Trace.kind)
                else:
                    self._to.report.found(Trace.kind)

    def _guarded(self, job: _Job, step: Any) -> None:
        """Do one step for one trace: what it cannot do loses that trace and no other."""
        try:
            step(job)
        except ServerError as exc:
            if exc.status is None:
                raise
            job.failed = True
            self._to.may_come(exc, Trace.kind, job.trace.id, job.source.experiment_id)
            self._to.report.lose(
                Trace.kind, job.trace.id, exc.message, parent=job.source.experiment_id
            )

    def _look(self, ids: list[str]) -> tuple[dict[str, Trace], dict[str, ServerError]]:
        """Look for traces under these ids, in any experiment.

        Returns:
            Those that the server has, and those of which it cannot tell, with the reason.
        """
        if self._to.since(3, 11):
            found: dict[str, Trace] = {}
            refused = send_in_halves(ids, lambda some: found.update(self._look_at(some)))
            return found, dict(refused)
        answers = dict(zip(ids, self._to.files.map(self._look_one, ids), strict=True))
        return (
            {id: answer for id, answer in answers.items() if isinstance(answer, Trace)},
            {id: answer for id, answer in answers.items() if isinstance(answer, ServerError)},
        )

    def _look_at(self, ids: list[str]) -> dict[str, Trace]:
        answer: RestTraceInfos = self._to.session.post(
            f"{API_3}traces/batchGetInfos",
            {"trace_ids": ids},
            type=RestTraceInfos,
            what=f"traces {ids[0]}, …" if len(ids) > 1 else f"trace {ids[0]}",
            # What fails is asked for in halves, the single trace with patience.
            once=len(ids) > 1,
        )
        return {trace.trace_id: trace.record() for trace in answer.trace_infos}

    def _look_one(self, id: str) -> Trace | ServerError | None:
        try:
            answer = self._to.session.get(f"{API_3}traces/{quote(id)}", what=f"trace {id}")
        except ServerError as exc:
            if self._to.session.is_missing(exc):
                return None
            if exc.status is None:
                raise
            return exc
        return msgspec.convert(answer["trace"]["trace_info"], prepared(RestTrace)).record()

    def _check_place(self, job: _Job, there: Trace) -> None:
        if there.experiment_id != job.trace.experiment_id:
            raise SinkError(
                f"trace {job.trace.id}: the destination has it in experiment "
                f"{there.experiment_id}, and a trace can be in one only",
                status=409,
            )

    def _plan(self, job: _Job, there: Trace | None) -> None:
        """Find out what is to be written."""
        if there is None:
            self._experiment(job.source)
            job.missing = Missing(
                start=job.trace, spans=job.has_spans, assessments=job.trace.assessments
            )
            self._count_unsettable(job)
            return
        self._check_place(job, there)
        job.here = there
        job.location = there.tags.get(ARTIFACT_LOCATION, "")
        job.missing = found = missing(job.trace, there, self._to)
        found.spans = found.spans or _may_lack_spans(job, there)
        if found.spans and found.start is None:
            found.spans = self._lacks_spans(job)
            if found.spans:
                # What the server infers from spans is not to change a trace that is there.
                found.start = msgspec.structs.replace(there, tags=job.trace.tags)
        if found.start is not None:
            self._experiment(job.source)

    def _lacks_spans(self, job: _Job) -> bool:
        """Whether the bundle has spans that the server has not, or, of an open trace, not so."""
        if not job.has_spans or not job.by_otlp:
            return False
        try:
            answer = self._spans_here(job)
        except ServerError as exc:
            if self._to.session.is_missing(exc):
                return True
            raise
        present = {span.get("span_id"): comparable(span) for span in answer.spans}
        is_open = job.here is None or job.here.state in OPEN_STATES
        job.spans = list(job.all_spans)
        contents = (comparable(json.loads(self._encoder.content(text))) for text in job.spans)
        # Older servers lack a part of every span, which sending it again does not bring.
        return any(
            (id := content.get("span_id")) not in present
            or (is_open and any(content.get(k) != v for k, v in present[id].items()))
            for content in contents
        )

    def _check_links(self, job: _Job) -> None:
        """List the links of spans that the server did not keep (those until MLflow 3.10)."""
        if self._to.since(3, 17) or not (job.by_otlp and any(_LINKED in t for t in job.spans)):
            return
        wanted = {
            content.get("span_id") for content in map(json.loads, job.spans) if content.get("links")
        }
        answer = self._spans_here(job)
        there = {span.get("span_id") for span in answer.spans if span.get("links")}
        if wanted - there:
            self._to.report.lose(
                Trace.kind,
                job.trace.id,
                f"the server keeps no links of spans ({len(wanted - there)} spans have some)",
                field="spans.links",
                parent=job.source.experiment_id,
            )

    def _check_kinds(self, job: _Job) -> None:
        """List the kinds of spans, which no server keeps before MLflow 3.18."""
        if self._to.since(3, 18) or not self._sends_spans(job):
            return
        if count := sum(has_kind(json.loads(text)) for text in job.spans if _KIND in text):
            self._to.report.lose(
                Trace.kind,
                job.trace.id,
                f"the server keeps no kinds of spans ({count} spans have one)",
                field="spans.kind",
                parent=job.source.experiment_id,
            )

    def _spans_here(self, job: _Job) -> RestSpans:
        answer: RestSpans = self._to.session.get(
            f"{AJAX}get-trace-artifact",
            params={"request_id": job.trace.id},
            type=RestSpans,
            what=f"spans of trace {job.trace.id}",
        )
        return answer

    # Spans

    def _sends_spans(self, job: _Job) -> bool:
        """Whether spans of the trace can go into the server's database."""
        return job.by_otlp and self._to.since(3, 4)

    def _starts_first(self, job: _Job) -> bool:
        """Whether the server leaves a new trace as it is when its spans come."""
        return (
            job.here is None
            # Until 3.6 nothing tells a trace whose spans are missing.
            and self._to.since(3, 6)
            # Older servers (3.10) add the tokens and costs of spans to those that are there.
            and (self._to.since(3, 17) or not NUMBERS.keys() & job.trace.metadata.keys())
            # One of several requests would leave a part of them.
            and job.size <= _BYTES_AT_ONCE
            and agrees_with_spans(job.trace, job.spans)
        )

    def _send_spans(self, jobs: list[_Job]) -> None:
        """Send the spans of traces, in as few requests as may be."""
        by_experiment: dict[str, list[_Job]] = {}
        for job in jobs:
            by_experiment.setdefault(job.trace.experiment_id, []).append(job)
        for experiment_id, some in by_experiment.items():
            self._send_spans_to(experiment_id, some)

    def _send_spans_to(self, experiment_id: str, jobs: list[_Job]) -> None:
        request, senders, size = _new_request(), list[_Job](), 0
        for job in jobs:
            senders.append(job)
            for text in job.all_spans:
                try:
                    self._encoder.add(request, text)
                except ValueError as exc:
                    self._lose_spans(job, str(exc))
                size += len(text)
                if size > _BYTES_AT_ONCE:
                    self._send(experiment_id, request, senders)
                    request, senders, size = _new_request(), [job], 0
        if request.resource_spans:
            self._send(experiment_id, request, senders)

    def _send(self, experiment_id: str, request: Any, jobs: list[_Job]) -> None:
        try:
            self._post_spans(experiment_id, request)
        except ServerError as exc:
            if exc.status is None:
                raise
            if len(jobs) == 1:
                (job,) = jobs
                self._to.may_come(exc, Trace.kind, job.trace.id, job.source.experiment_id)
                self._lose_spans(job, exc.message)
                return
            # One that the server refuses spoils the whole request.
            for job in jobs:
                own = _new_request()
                wanted = bytes.fromhex(job.trace.id.removeprefix("tr-"))
                spans = own.resource_spans.add().scope_spans.add().spans
                spans.extend(
                    span
                    for span in request.resource_spans[0].scope_spans[0].spans
                    if span.trace_id == wanted
                )
                if spans:
                    self._send(experiment_id, own, [job])

    def _post_spans(self, experiment_id: str, request: Any) -> None:
        response = self._to.session.request(
            "POST",
            "/v1/traces",
            data=request.SerializeToString(),
            headers={
                "Content-Type": "application/x-protobuf",
                "x-mlflow-experiment-id": experiment_id,
            },
        )
        if not response.ok:
            self._to.session.refuse(response, "spans")

    def _lose_spans(self, job: _Job, reason: str) -> None:
        self._to.report.lose(
            Trace.kind, job.trace.id, reason, field="spans", parent=job.source.experiment_id
        )

    # The trace itself

    def _start(self, job: _Job) -> None:
        first, replacing, late = self._in_turn(job)
        if job.missing.start is not None:
            bodies = [body for a in first if (body := self._body(job, a)) is not None]
            try:
                answer = self._post(job, bodies)
            except ServerError as exc:
                if job.here is not None or not self._is_elsewhere(exc):
                    raise
                raise SinkError(
                    f"trace {job.trace.id}: the destination has it in another workspace, and a "
                    "trace can be in one only",
                    status=409,
                ) from exc
            job.location = answer["trace"]["trace_info"]["tags"].get(ARTIFACT_LOCATION, "")
            job.written = True
        else:
            replacing = first + replacing
            self._set_tags(job)
        for assessment in replacing:
            if (body := self._body(job, assessment)) is not None and self._assess(job, body):
                job.written = True
        for assessment in job.missing.changed:
            try:
                self._update(job, assessment)
                job.written = True
            except ServerError as exc:
                if exc.status is None:
                    raise
                field = f"assessments[{assessment.assessment_id}]"
                self._to.report.lose(Trace.kind, job.trace.id, exc.message, field=field)
        bodies = [body for a in late if (body := self._body(job, a)) is not None]
        if bodies:
            job.written = job.written or any(a in job.missing.assessments for a in late)
            self._assessments.add((job.trace.id, bodies))

    def _is_elsewhere(self, error: ServerError) -> bool:
        """Whether it says that a trace is there that cannot be seen from this workspace."""
        session = self._to.session
        return session.workspace is not None and session.is_missing(error)

    def _post(self, job: _Job, bodies: list[dict[str, Any]]) -> Any:
        """Start the trace; assessments that the server refuses are lost alone."""
        trace, what = self._to_start(job), f"trace {job.trace.id}"
        if job.here is not None and not self._to.since(3, 17):
            # Servers until 3.10 take those away that are not named again.
            kept = (self._body(job, a) for a in job.here.assessments)
            bodies = [*(body for body in kept if body is not None), *bodies]
        try:
            return self._to.session.post(f"{API_3}traces", trace_body(trace, bodies), what=what)
        except ServerError as exc:
            if not bodies or exc.status != 400:
                raise
        answer = self._to.session.post(f"{API_3}traces", trace_body(trace, []), what=what)
        for body in bodies:
            self._assess(job, body)
        return answer

    def _to_start(self, job: _Job) -> Trace:
        start = job.missing.start
        assert start is not None
        if job.has_spans and not self._sends_spans(job):
            return msgspec.structs.replace(
                start, tags={**start.tags, SPANS_LOCATION: ARTIFACT_REPO}
            )
        return start

    def _in_turn(self, job: _Job) -> tuple[list[Assessment], list[Assessment], list[Assessment]]:
        """Divide assessments: those for the start, those that replace others, those for the end."""
        of_bundle = {a.assessment_id: a for a in job.trace.assessments}
        waits = {
            a.assessment_id
            for a in job.trace.assessments
            if (Run.kind, a.metadata.get(ASSESSING_RUN)) in self._to.to_delete
        }
        first: list[Assessment] = []
        replacing: list[Assessment] = []
        for assessment in job.missing.assessments:
            replaced = of_bundle.get(assessment.overrides or "")
            if assessment.assessment_id in waits:
                continue
            if replaced is None or replaced.valid or assessment.type != "feedback":
                first.append(assessment)
            elif replaced.assessment_id in waits:
                waits.add(assessment.assessment_id)
            else:
                replacing.append(assessment)
        # Those of runs that will be deleted go with the run, also where they are here already.
        late = [a for a in job.trace.assessments if a.assessment_id in waits]
        return first, _ordered(replacing), _ordered(late)

    def _body(self, job: _Job, assessment: Assessment) -> dict[str, Any] | None:
        try:
            return assessment_body(assessment, job.trace.id)
        except ValueError as exc:
            self._to.report.lose(
                Trace.kind,
                job.trace.id,
                f"its value is no JSON: {exc}",
                field=f"assessments.{assessment.assessment_id}",
                parent=job.source.experiment_id,
            )
            return None

    def _assess(self, job: _Job, body: dict[str, Any]) -> bool:
        """Add one assessment; return whether the server took it."""
        return self._add(job.trace.id, body, job.source.experiment_id)

    def _add(self, trace_id: str, body: dict[str, Any], parent: str = "") -> bool:
        try:
            self._to.session.post(
                f"{API_3}traces/{quote(trace_id)}/assessments",
                {"assessment": body},
                what=f"assessment {body['assessment_id']}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            self._to.may_come(exc, Trace.kind, trace_id, parent)
            self._to.report.lose(
                Trace.kind,
                trace_id,
                exc.message,
                field=f"assessments.{body['assessment_id']}",
                parent=parent,
            )
            return False
        return True

    def _assess_late(self, job: tuple[Trace | None, str, list[dict[str, Any]]]) -> None:
        trace, trace_id, bodies = job
        if trace is None:
            return
        present = {assessment.assessment_id for assessment in trace.assessments}
        for body in bodies:
            if body["assessment_id"] in present:
                continue
            self._add(trace_id, body)

    def _update(self, job: _Job, assessment: Assessment) -> None:
        body = {
            "assessment_id": assessment.assessment_id,
            "trace_id": job.trace.id,
            "assessment_name": assessment.name,
            "metadata": assessment.metadata,
            **value_body(assessment),
        }
        # Written with an underscore, the server passes over the whole mask and says nothing.
        mask = ["assessmentName", "metadata", assessment.type]
        if assessment.type == "feedback":
            # None has no sign of its own here: a rationale can be emptied, not removed.
            body["rationale"] = assessment.rationale or ""
            mask.append("rationale")
        self._to.session.call(
            "PATCH",
            f"{API_3}traces/{quote(job.trace.id)}/assessments/{quote(assessment.assessment_id)}",
            json_body={"assessment": body, "update_mask": ",".join(mask)},
            what=f"assessment {assessment.assessment_id}",
        )

    def _set_tags(self, job: _Job) -> None:
        for key, value in job.missing.tags.items():
            self._to.session.call(
                "PATCH",
                f"{API_3}traces/{quote(job.trace.id)}/tags",
                json_body={"trace_id": job.trace.id, "key": key, "value": value},
                what=f"trace {job.trace.id}",
            )
            job.written = True

    def _count_unsettable(self, job: _Job) -> None:
        """Count what the server decides about a trace that it did not have."""
        adjust = self._to.report.adjust
        adjust(Trace.kind, f"tags.{ARTIFACT_LOCATION}")
        if job.source.spans_location == ARCHIVE_REPO:
            adjust(Trace.kind, "tags.mlflow.trace.archiveLocation (spans come unarchived)")
        if job.source.spans_location == ARTIFACT_REPO and self._to.since(3, 18):
            adjust(Trace.kind, f"tags.{SPANS_LOCATION} (the server takes none)")
        if FINALIZED not in job.trace.metadata and self._to.since(3, 12):
            adjust(Trace.kind, f"metadata.{FINALIZED} (the server adds it)")
        open_spans = sum(map(_is_open, job.spans))
        if open_spans:
            adjust(Trace.kind, "spans.end_time (0 where there is none)", open_spans)
        if job.has_spans:
            for name, sign in (
                ("request_preview", "mlflow.spanInputs"),
                ("response_preview", "mlflow.spanOutputs"),
            ):
                if getattr(job.trace, name) is None and any(sign in text for text in job.spans):
                    adjust(Trace.kind, f"{name} (the server derives it)")
        for assessment in job.source.assessments:
            if assessment.run_id is not None and ASSESSING_RUN not in assessment.metadata:
                adjust("assessment", "run_id (the server takes it from the metadata)")
        replaced = {a.overrides for a in job.trace.assessments if a.type == "feedback"}
        for assessment in job.trace.assessments:
            if not assessment.valid and assessment.assessment_id not in replaced:
                adjust("assessment", "valid")
            if assessment.rationale == "":
                adjust("assessment", "rationale (an empty one becomes none)")
            if assessment.overrides is not None and assessment.type != "feedback":
                adjust("assessment", "overrides")
            if assessment.type == "feedback" and _has_integers(assessment.value):
                adjust("assessment", "value (integers become floats)")

    # Files and links

    def _write_files(self, job: _Job) -> None:
        tree: ArtifactTree = job.artifacts
        if (
            job.has_spans
            and not self._sends_spans(job)
            and all(file.path != TRACE_DATA for file in tree.files())
        ):
            tree = _SpansFile(tree, [self._encoder.content(text) for text in job.all_spans])
        if not job.location and tree.files():
            raise SinkError(
                f"trace {job.trace.id}: the server names no place for files", status=502
            )
        writer = self._writer(job, tree.files())
        files = writer.missing(tree, fresh=job.here is None, filling=False)
        if files and writer.write(tree, files):
            job.written = True

    def _writer(self, job: _Job, files: list[ArtifactFile]) -> ArtifactWriter:
        return ArtifactWriter(
            self._to,
            kind=Trace.kind,
            source_id=job.trace.id,
            root=job.location,
            owner=ArtifactOwner("trace", job.trace.id, tuple(file.path for file in files)),
            parent=job.source.experiment_id,
        )

    def _note_links(self, job: _Job) -> None:
        full: list[tuple[str, list[str]]] = []
        with self._lock:
            for source_id in job.source.run_ids:
                run = self._to.remap.find(Run.kind, source_id)
                if run is None:
                    self._to.report.adjust(Trace.kind, "run_ids (points outside)")
                    continue
                ids = self._links.setdefault(run.id, [])
                ids.append(job.trace.id)
                if len(ids) == _LINKS_PER_REQUEST:
                    full.append((run.id, self._links.pop(run.id)))
        for run_id, ids in full:
            self._link(run_id, ids)
        if job.source.prompts:
            links = [(prompt.name, prompt.version) for prompt in job.source.prompts]
            self._prompts.add((job.trace.id, links))

    def _link(self, run_id: str, trace_ids: list[str]) -> None:
        try:
            self._to.session.post(
                "/api/2.0/mlflow/traces/link-to-run",
                {"trace_ids": trace_ids, "run_id": run_id},
                what=f"links of {len(trace_ids)} traces to run {run_id}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            for id in trace_ids:
                self._to.report.lose(Trace.kind, id, exc.message, field="run_ids")

    def _link_prompts(self, links: tuple[str, list[tuple[str, str]]]) -> None:
        trace_id, prompts = links
        versions = []
        for name, version in prompts:
            placed = self._to.remap.find("prompt_version", f"{name}/{version}")
            if placed is None:
                self._to.report.adjust(Trace.kind, "prompts (points outside)")
            else:
                name, _, version = placed.id.rpartition("/")
            versions.append({"name": name, "version": version})
        try:
            self._to.session.post(
                "/api/2.0/mlflow/traces/link-prompts",
                {"trace_id": trace_id, "prompt_versions": versions},
                what=f"prompts of trace {trace_id}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            self._to.report.lose(Trace.kind, trace_id, exc.message, field="prompts")


class _HeldFiles(ArtifactTree):
    """Small files, read at once."""

    def __init__(self, tree: ArtifactTree, files: list[ArtifactFile]) -> None:
        self.mode = tree.mode
        self._files = files
        self._data: dict[str, bytes] = {}
        for file in files:
            with tree.open(file).stream as stream:
                self._data[file.path] = stream.read()

    def files(self) -> list[ArtifactFile]:
        return self._files

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        data = self._data[file.path]
        return OpenedArtifact(io.BytesIO(data), len(data))


class _SpansFile(ArtifactTree):
    """A trace's files, and ``traces.json`` with spans that the server's database cannot take."""

    def __init__(self, tree: ArtifactTree, spans: list[str]) -> None:
        self._tree = tree
        self._data = f'{{"spans": [{", ".join(spans)}]}}'.encode()
        self._file = ArtifactFile(TRACE_DATA, len(self._data))

    def files(self) -> list[ArtifactFile]:
        return [*self._tree.files(), self._file]

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        if file.path == TRACE_DATA:
            return OpenedArtifact(io.BytesIO(self._data), len(self._data))
        return self._tree.open(file)


def _new_request() -> Any:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return ExportTraceServiceRequest()


def _size(file: ArtifactFile) -> int:
    return SMALL_BYTES if file.size is None else file.size


def _ordered(assessments: list[Assessment]) -> list[Assessment]:
    """Those that are replaced before those that replace them."""
    ids = {assessment.assessment_id for assessment in assessments}
    done: set[str] = set()
    ordered: list[Assessment] = []
    waiting = assessments
    while waiting:
        ready = [a for a in waiting if a.overrides not in ids - done]
        # A circle cannot be ordered; the server says what it thinks of it.
        ready = ready or waiting
        ordered += ready
        done.update(assessment.assessment_id for assessment in ready)
        waiting = [a for a in waiting if a.assessment_id not in done]
    return ordered


def _is_open(span: str) -> bool:
    """Whether a span, as JSON text, has no end."""
    return _NO_END.search(span) is not None


def _has_integers(text: str | None) -> bool:
    found: list[str] = []
    try:
        json.loads(text or "null", parse_int=found.append)
    except ValueError:
        return False
    return bool(found)


def _may_lack_spans(job: _Job, there: Trace) -> bool:
    """Whether the server may have a part of the spans only.

    Those of a large trace come in several requests, of which a killed import has sent some; and
    some spans reach the source after the trace was counted.
    """
    if not job.has_spans or not job.by_otlp:
        return False
    if SPANS_LOCATION not in there.tags or job.size > _BYTES_AT_ONCE:
        return True
    try:
        stated = json.loads(there.metadata.get(_SIZE_STATS, "{}")).get("num_spans")
    except (ValueError, AttributeError):
        stated = None
    return bool(stated != len(job.spans))
