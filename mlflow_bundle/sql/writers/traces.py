"""Writes traces under their own ids, with spans, assessments and links.

Spans go where the database has them; those that lie in a trace's files, or in an archive that a
source has opened, come as the source hands them out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
from mlflow.store.tracking.utils.trace_analytics import (
    PROMOTED_TRACE_METADATA_KEYS,
    analytics_columns_from_metadata,
    assessment_aggregate,
    bounded_model_dimension,
    finite_float_or_none,
)
from mlflow.utils.uri import append_to_uri_path
from msgspec import UNSET

from mlflow_bundle.contracts import Content
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import Association, Run
from mlflow_bundle.errors import SinkError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.traces import (
    ARCHIVE_LOCATION,
    ARCHIVE_REPO,
    ARTIFACT_LOCATION,
    ARTIFACT_REPO,
    ASSESSING_RUN,
    LINKED_PROMPTS,
    NUMBERS,
    OPEN_STATES,
    SPANS_LOCATION,
    TRACE_NAME,
    TRACKING_STORE,
    Assessment,
    Span,
    Trace,
)
from mlflow_bundle.references import rewrite_assessment, rewrite_values
from mlflow_bundle.remap import Placed
from mlflow_bundle.spans import SPAN_TYPE, SpanEncoder, attribute_value, id_bytes, is_same
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.rollups import RollupQueue
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.associations import AssociationRows
from mlflow_bundle.sql.writers.base import FileWriter, Writer, null_names

_TABLE = "trace_info"
_COMPARED = (
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "client_request_id",
    "request_preview",
    "response_preview",
    "trace_name",
    "session_id",
)
_NUMBERS = tuple(itertools.chain.from_iterable(NUMBERS.values()))
_ASSESSMENT_COMPARED = (
    "name",
    "value",
    "error",
    "source_type",
    "source_id",
    "run_id",
    "span_id",
    "rationale",
    "overrides",
    "valid",
    "assessment_metadata",
)
_SPAN_COLUMNS = (
    "trace_id",
    "experiment_id",
    "span_id",
    "parent_span_id",
    "name",
    "type",
    "status",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "content",
    "input_cost",
    "output_cost",
    "total_cost",
    "model_name",
    "model_provider",
)


class TraceWriter(Writer):
    """Writes traces."""

    kind = Trace.kind

    def __init__(self, to: Target, links: AssociationRows, rollups: RollupQueue) -> None:
        super().__init__(to)
        self._links = links
        self._rollups = rollups
        self._encoder = SpanEncoder(to.remap, to.report)

    def write(self, content: Content, *, dry: bool) -> None:
        trace = content.entity
        assert isinstance(trace, Trace)
        place = self._to.experiment(trace.experiment_id, self.kind, trace.id)
        here = self._to.row_before(
            _TABLE, {"request_id": trace.id}, "experiment_id", *_COMPARED, *_NUMBERS
        )
        if here is None and (dry or place.id == NEW):
            return
        if here is not None and str(here["experiment_id"]) != place.id:
            raise SinkError(
                f"trace {trace.id}: the destination has it in experiment "
                f"{here['experiment_id']}, and a trace can be in one only",
                status=409,
            )
        location = self._location(content, place, here)
        files = FileWriter(
            self._to, kind=self.kind, id=trace.id, location=location, tree=content.artifacts
        )
        written = 0 if dry else files.write(fresh=here is None)
        with Merge(self._to, self.kind, trace.id, fresh=here is None, dry=dry) as merge:
            merge.changed |= bool(written)
            spans = (item for item in content.items() if isinstance(item, Span))
            self._write_rows(merge, trace, int(place.id), location, spans, here)
            merge.count()

    def _location(self, content: Content, place: Placed, here: Row | None) -> str:
        """Where the trace's files are, or will be."""
        trace = content.entity
        assert isinstance(trace, Trace)
        if here is not None:
            where = {"request_id": trace.id, "key": ARTIFACT_LOCATION}
            tag = self._to.row("trace_tags", where, "value")
            if tag is not None and tag["value"]:
                return str(tag["value"])
        kept = trace.tags.get(ARTIFACT_LOCATION, "")
        if kept and "reference" in (self._to.options.artifacts, content.artifacts.mode):
            return kept
        return str(append_to_uri_path(place.sink_root, "traces", trace.id, "artifacts"))

    def _write_rows(
        self,
        merge: Merge,
        trace: Trace,
        experiment_id: int,
        location: str,
        spans: Iterator[Span],
        here: Row | None,
    ) -> None:
        first = next(spans, None)
        tags, metadata = self._tags(trace, location, has_spans=first is not None), self._meta(trace)
        if here is not None and first is None:
            # Without spans there is nothing to say of where they are.
            tags.pop(SPANS_LOCATION, None)
        ended = (
            here is not None and here["status"] in OPEN_STATES and trace.state not in OPEN_STATES
        )
        columns = analytics_columns_from_metadata(metadata)
        row: Row = {
            "request_id": trace.id,
            "experiment_id": experiment_id,
            "timestamp_ms": trace.request_time,
            "execution_time_ms": trace.execution_duration,
            "status": trace.state,
            "client_request_id": trace.client_request_id,
            "request_preview": trace.request_preview,
            "response_preview": trace.response_preview,
            "db_payload_generation": 0,
            "trace_name": tags.pop(TRACE_NAME, None),
            "session_id": columns.get("session_id"),
            **{name: columns.get(name) for name in _NUMBERS},
        }
        merge.own(
            _TABLE,
            row,
            here,
            key=("request_id",),
            compared=(*_COMPARED, *_NUMBERS),
            news=_COMPARED if ended else (),
            holds=trace.id,
        )
        nulls = null_names(trace.null_fields)
        within = {"request_id": trace.id}
        if here is not None:
            tags.pop(ARTIFACT_LOCATION, None)
        merge.map("trace_tags", within, tags, name="tags", nulls=nulls)
        for key in PROMOTED_TRACE_METADATA_KEYS:
            metadata.pop(key, None)
        merge.map("trace_request_metadata", within, metadata, name="metadata", nulls=nulls)
        times = self._write_spans(merge, trace, experiment_id, first, spans, ended=ended)
        self._write_assessments(merge, trace, experiment_id)
        self._write_links(merge, trace)
        if merge.changed and not merge.dry:
            self._rollups.add(experiment_id, trace.request_time, times)

    def _tags(self, trace: Trace, location: str, *, has_spans: bool) -> dict[str, str]:
        tags = self._to.tags_of(self.kind, trace.tags)
        tags[ARTIFACT_LOCATION] = location
        if has_spans:
            if trace.spans_location == ARCHIVE_REPO:
                tags.pop(ARCHIVE_LOCATION, None)
                self._to.report.adjust(self.kind, "tags.mlflow.trace.archiveLocation (unarchived)")
            tags[SPANS_LOCATION] = TRACKING_STORE
        elif trace.spans_location == ARCHIVE_REPO and self._to.options.artifacts == "copy":
            self._to.report.adjust(self.kind, "tags.mlflow.trace.archiveLocation (points outside)")
        elif trace.spans_location == ARTIFACT_REPO:
            tags[SPANS_LOCATION] = ARTIFACT_REPO
        return tags

    def _meta(self, trace: Trace) -> dict[str, str]:
        return rewrite_values(
            self.kind, "metadata", trace.metadata, self._to.remap, self._to.report
        )

    # Spans

    def _write_spans(
        self,
        merge: Merge,
        trace: Trace,
        experiment_id: int,
        first: Span | None,
        more: Iterator[Span],
        *,
        ended: bool,
    ) -> list[int]:
        """Write the spans; return when they began, in ms."""
        if first is None:
            return []
        here: dict[str, str] = {}
        if not merge.fresh:
            rows = self._to.rows("spans", {"trace_id": trace.id}, ("span_id", "content"))
            here = {row["span_id"]: row["content"] for row in rows}
        times: set[int] = set()
        for span in itertools.chain((first,), more):
            try:
                row = self._span(span, trace, experiment_id)
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                self._to.report.lose(
                    self.kind,
                    trace.id,
                    f"a span that is none: {exc}",
                    field="spans",
                    parent=trace.experiment_id,
                )
                continue
            times.add(row["start_time_unix_nano"] // 86_400_000_000_000)
            name = f"spans.{row['span_id']}"
            old = here.get(row["span_id"])
            if not old or (old != row["content"] and not is_same(old, row["content"])):
                found = None if old is None else {**row, "content": old}
                merge.own(
                    "spans",
                    row,
                    found,
                    key=("trace_id", "span_id"),
                    compared=("content",),
                    news=("content",) if ended else (),
                    name=name,
                )
        return [day * 86_400_000 for day in times]

    def _span(self, of: Span, trace: Trace, experiment_id: int) -> Row:
        """Return a span's row: what the database has beside its text follows from it.

        Raises:
            ValueError: It is no span.
        """
        content = of.content
        if str(experiment_id) != trace.experiment_id or LINKED_PROMPTS in content:
            content = self._encoder.content(content)
        span = msgspec.json.decode(content, type=prepared(_SpanText))
        attributes = span.attributes or {}
        cost: Any = {}
        if (text := attributes.get("mlflow.llm.cost")) is not None:
            cost = attribute_value(text)
            cost = cost if isinstance(cost, dict) else {}
        return {
            "trace_id": trace.id,
            "experiment_id": experiment_id,
            "span_id": id_bytes(span.span_id, 8).hex(),
            "parent_span_id": (
                id_bytes(span.parent_span_id, 8).hex() if span.parent_span_id else None
            ),
            "name": span.name,
            "type": attribute_value(attributes.get(SPAN_TYPE)) if of.type is UNSET else of.type,
            "status": _STATUS.get(span.status.code, span.status.code),
            "start_time_unix_nano": span.start_time_unix_nano,
            "end_time_unix_nano": span.end_time_unix_nano,
            "content": content,
            "input_cost": finite_float_or_none(cost.get("input_cost")),
            "output_cost": finite_float_or_none(cost.get("output_cost")),
            "total_cost": finite_float_or_none(cost.get("total_cost")),
            "model_name": bounded_model_dimension(
                attribute_value(attributes.get("mlflow.llm.model"))
            ),
            "model_provider": bounded_model_dimension(
                attribute_value(attributes.get("mlflow.llm.provider"))
            ),
        }

    # Assessments and links

    def _write_assessments(self, merge: Merge, trace: Trace, experiment_id: int) -> None:
        rows = [
            self._assessment(assessment, trace, experiment_id) for assessment in trace.assessments
        ]
        merge.rows(
            "assessments",
            {"trace_id": trace.id},
            rows,
            key=("assessment_id",),
            name="assessments",
            compared=_ASSESSMENT_COMPARED,
        )

    def _assessment(self, assessment: Assessment, trace: Trace, experiment_id: int) -> Row:
        to = self._to
        rewritten = rewrite_assessment(assessment, to.remap, to.report)
        metadata = rewritten.metadata
        value = assessment.value if assessment.value is not None else "null"
        aggregate, is_numeric = assessment_aggregate(attribute_value(value))
        created = assessment.created_timestamp
        updated = assessment.last_updated_timestamp
        run_id = assessment.run_id
        if run_id is not None:
            run = to.remap.find(Run.kind, run_id)
            run_id = metadata.get(ASSESSING_RUN, run_id) if run is None else run.id
        return {
            "assessment_id": assessment.assessment_id,
            "trace_id": trace.id,
            "name": rewritten.name,
            "assessment_type": assessment.type,
            "value": value,
            "error": assessment.error,
            "created_timestamp": trace.request_time if created is None else created,
            "last_updated_timestamp": trace.request_time if updated is None else updated,
            "experiment_id": experiment_id,
            "trace_timestamp_ms": trace.request_time,
            "aggregate_value": aggregate,
            "is_numeric_value": is_numeric,
            "source_type": assessment.source_type,
            "source_id": rewritten.source_id,
            "run_id": run_id,
            "span_id": assessment.span_id,
            "rationale": assessment.rationale,
            "overrides": assessment.overrides,
            "valid": assessment.valid,
            "assessment_metadata": json.dumps(metadata) if metadata else None,
        }

    def _write_links(self, merge: Merge, trace: Trace) -> None:
        if trace.associations is not UNSET:
            links = trace.associations
        else:
            links = [_link("run", run_id) for run_id in trace.run_ids]
            links += [
                _link("prompt_version", f"{prompt.name}/{prompt.version}")
                for prompt in trace.prompts
            ]
        self._links.write(merge, "trace", trace.id, links)


_STATUS = {"STATUS_CODE_UNSET": "UNSET", "STATUS_CODE_OK": "OK", "STATUS_CODE_ERROR": "ERROR"}


class _SpanStatus(msgspec.Struct, frozen=True):
    code: str = "STATUS_CODE_UNSET"


class _SpanText(msgspec.Struct, frozen=True):
    """What the columns beside a span's text are made of."""

    span_id: str
    name: str
    start_time_unix_nano: int
    end_time_unix_nano: int | None = None
    parent_span_id: str | None = None
    status: _SpanStatus = _SpanStatus()
    attributes: dict[str, Any] | None = None


def _link(type: str, id: str) -> Association:
    return Association(association_id="", destination_type=type, destination_id=id)
