"""Writes traces to servers of MLflow 2.14 to 3.1, which know them in an older form.

Such a server chooses a trace's id itself, so a tag says which one of the bundle it is
(``mlflow_bundle.origin``). Spans lie in ``traces.json`` among the trace's artifacts, in the form of
that time. What that form lacks is lost: assessments, previews, the client's id of the request,
links of spans, and links to runs and prompts.

A trace is started with its tags and metadata, then gets its files, and is ended last: one that is
not ended was interrupted, and is completed by the next import.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, Content, OpenedArtifact
from mlflow_bundle.kinds.traces import ARTIFACT_LOCATION, SPANS_LOCATION, TRACE_DATA, Span, Trace
from mlflow_bundle.rest.artifacts import ArtifactOwner
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.session import API
from mlflow_bundle.rest.trace_records import RestTracesV2
from mlflow_bundle.rest.upload import ArtifactWriter
from mlflow_bundle.rest.writers.trace_state import here as as_here
from mlflow_bundle.spans import SpanEncoder, has_kind, span_v2

_LOST = ("client_request_id", "request_preview", "response_preview", "run_ids", "prompts")
_TRACES_PER_PAGE = 500
_IN_PROGRESS = "IN_PROGRESS"
_STATUS = {"STATE_UNSPECIFIED": "TRACE_STATUS_UNSPECIFIED"}


class TracesV2:
    """Writes traces in their older form.

    Args:
        destination: The server.
        encoder: Replaces the ids in spans.
    """

    def __init__(self, destination: Destination, encoder: SpanEncoder) -> None:
        self._to = destination
        self._encoder = encoder
        self._here: dict[str, dict[str, Trace]] = {}
        self._lock = threading.Lock()

    def examine(self, content: Content, experiment_id: str) -> None:
        """Report what is there already and what cannot be; write nothing."""
        trace = content.entity
        assert isinstance(trace, Trace)
        there = self._find(trace, experiment_id)
        if there is not None:
            self._to.report.found(Trace.kind)
            self._changes(self._wanted(trace, experiment_id), there)
        self._lose_parts(trace)

    def put(self, content: Content, experiment_id: str, require: Callable[[], object]) -> None:
        """Write what the server lacks of a trace.

        Args:
            content: The trace.
            experiment_id: Its experiment here.
            require: Raises when nothing can be made in that experiment.

        Raises:
            SinkError: The server refused.
        """
        source = content.entity
        assert isinstance(source, Trace)
        trace = self._wanted(source, experiment_id)
        there = self._find(source, experiment_id)
        written = there is None
        if there is None:
            require()
            there = self._start(trace)
        changes = self._changes(trace, there)
        for key, value in changes.items():
            self._to.session.call(
                "PATCH",
                f"{API}traces/{quote(there.id)}/tags",
                json_body={"key": key, "value": value},
                what=f"trace {source.id}",
            )
        written = self._write_files(source, there, content, fresh=written) or written
        if there.state == _IN_PROGRESS and (
            trace.state != _IN_PROGRESS
            or (trace.execution_duration or 0) != (there.execution_duration or 0)
        ):
            self._end(trace, there.id)
            written = True
        self._lose_parts(source)
        if written or changes:
            self._to.report.did(Trace.kind)
        else:
            self._to.report.found(Trace.kind)

    def _wanted(self, source: Trace, experiment_id: str) -> Trace:
        """The bundle's trace as it is to be here."""
        trace = as_here(source, experiment_id, self._to)
        origin = {provenance.ORIGIN: provenance.origin_of(source.id, source.tags)}
        tags = {key: value for key, value in trace.tags.items() if key != SPANS_LOCATION}
        return msgspec.structs.replace(trace, tags=tags | origin)

    def _find(self, source: Trace, experiment_id: str) -> Trace | None:
        with self._lock:
            if experiment_id not in self._here:
                self._here[experiment_id] = (
                    self._list(experiment_id) if self._to.was_here(experiment_id) else {}
                )
            found = self._here[experiment_id]
        return found.get(provenance.origin_of(source.id, source.tags))

    def _list(self, experiment_id: str) -> dict[str, Trace]:
        query = {"experiment_ids": [experiment_id], "max_results": _TRACES_PER_PAGE}
        return {
            provenance.origin_of(trace.request_id, record.tags): record
            for page in self._to.session.iter_pages(
                "GET", f"{API}traces", query, type=RestTracesV2, what="traces"
            )
            for trace in page.traces
            for record in (trace.record(),)
        }

    def _start(self, trace: Trace) -> Trace:
        answer: Any = self._to.session.post(
            f"{API}traces",
            {
                "experiment_id": trace.experiment_id,
                "timestamp_ms": trace.request_time,
                "request_metadata": _pairs(trace.metadata),
                "tags": _pairs(trace.tags),
            },
            what=f"trace {trace.id}",
            once=True,
        )
        self._to.report.adjust(Trace.kind, "trace_id")
        self._to.report.adjust(Trace.kind, f"tags.{ARTIFACT_LOCATION}")
        info = answer["trace_info"]
        location = {t["key"]: t["value"] for t in info["tags"] if t["key"] == ARTIFACT_LOCATION}
        return msgspec.structs.replace(
            trace,
            trace_id=info["request_id"],
            state=_IN_PROGRESS,
            execution_duration=None,
            tags=trace.tags | location,
        )

    def _end(self, trace: Trace, id: str) -> None:
        self._to.session.call(
            "PATCH",
            f"{API}traces/{quote(id)}",
            json_body={
                "timestamp_ms": trace.request_time + (trace.execution_duration or 0),
                "status": _STATUS.get(trace.state, trace.state),
                "request_metadata": [],
                "tags": [],
            },
            what=f"trace {trace.id}",
        )

    def _changes(self, trace: Trace, there: Trace) -> dict[str, str]:
        """Return the tags to set; report what else differs, which nothing can change."""
        for key, value in trace.metadata.items():
            if there.metadata.get(key) != value:
                self._to.report.conflict(
                    Trace.kind, trace.id, f"metadata.{key}", "the server cannot change metadata"
                )
        return self._to.changed(Trace.kind, trace.id, "tags", there.tags, trace.tags)

    def _lose_parts(self, source: Trace) -> None:
        lost = [name for name in _LOST if getattr(source, name)]
        lost += [f"assessments.{a.assessment_id}" for a in source.assessments]
        for name in lost:
            self._lose(source, name, "the server's traces have none (they came with MLflow 3.2)")

    def _lose(self, source: Trace, field: str, reason: str) -> None:
        self._to.report.lose(
            Trace.kind, source.id, reason, field=field, parent=source.experiment_id
        )

    # Spans and files

    def _write_files(self, source: Trace, there: Trace, content: Content, *, fresh: bool) -> bool:
        try:
            data = self._data(source, there, content)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            self._lose(source, "spans", f"spans that the older form cannot hold: {exc}")
            data = None
        tree = _FilesV2(content.artifacts, data)
        files = tree.files()
        writer = ArtifactWriter(
            self._to,
            kind=Trace.kind,
            source_id=source.id,
            root=there.tags.get(ARTIFACT_LOCATION, ""),
            owner=ArtifactOwner("trace", there.id, tuple(file.path for file in files)),
            parent=source.experiment_id,
        )
        missing = writer.missing(tree, fresh=fresh, filling=there.state == _IN_PROGRESS)
        return bool(missing and writer.write(tree, missing))

    def _data(self, source: Trace, there: Trace, content: Content) -> bytes | None:
        """Return ``traces.json`` in the older form; None when the trace has no spans."""
        data: dict[str, Any] = {}
        spans = [json.loads(item.content) for item in content.items() if isinstance(item, Span)]
        for file in content.artifacts.files():
            if file.path == TRACE_DATA:
                with content.artifacts.open(file).stream as stream:
                    data = json.loads(stream.read())
                spans = data.get("spans") or []
        if not spans and not data:
            return None
        linked = sum(bool(span.get("links")) for span in spans)
        if linked:
            reason = f"the server keeps no links of spans ({linked} spans have some)"
            self._lose(source, "spans.links", reason)
        if kinds := sum(map(has_kind, spans)):
            reason = f"the server keeps no kinds of spans ({kinds} spans have one)"
            self._lose(source, "spans.kind", reason)
        old = [self._span(span, there.id) for span in spans]
        root: dict[str, Any] = next((s["attributes"] for s in old if not s["parent_id"]), {})
        made = {
            "request": data.get("request", root.get("mlflow.spanInputs")),
            "response": data.get("response", root.get("mlflow.spanOutputs")),
            "spans": old,
        }
        return json.dumps(made, ensure_ascii=False).encode()

    def _span(self, span: dict[str, Any], trace_id: str) -> dict[str, Any]:
        old = span_v2(span)
        attributes = self._encoder.rewritten(old["attributes"])
        return {
            **old,
            "attributes": {**attributes, "mlflow.traceRequestId": json.dumps(trace_id)},
        }


class _FilesV2(ArtifactTree):
    """A trace's files, with ``traces.json`` in the older form."""

    def __init__(self, tree: ArtifactTree, data: bytes | None) -> None:
        self.mode = tree.mode
        self._tree = tree
        self._data = data

    def files(self) -> list[ArtifactFile]:
        others = [file for file in self._tree.files() if file.path != TRACE_DATA]
        if self._data is None:
            return others
        return [*others, ArtifactFile(TRACE_DATA, len(self._data))]

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        if file.path == TRACE_DATA and self._data is not None:
            return OpenedArtifact(io.BytesIO(self._data), len(self._data))
        return self._tree.open(file)


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]
