"""How a bundle's trace is to be at the destination, and what the destination lacks of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mlflow_bundle.decoding import prepared
from mlflow_bundle.kinds.traces import (
    ARTIFACT_LOCATION,
    ARTIFACT_REPO,
    ASSESSING_RUN,
    NUMBERS,
    OPEN_STATES,
    SPANS_LOCATION,
    Assessment,
    Trace,
)
from mlflow_bundle.references import rewrite_assessment, rewrite_values
from mlflow_bundle.report import Report
from mlflow_bundle.rest.destination import Destination

FINALIZED = "mlflow.trace.infoFinalized"
"""Metadata that servers from 3.12 on give to each trace that was started."""

SERVER_TAGS = frozenset(
    {
        ARTIFACT_LOCATION,
        SPANS_LOCATION,
        "mlflow.trace.archiveLocation",
        "mlflow.trace.archivalFailure",
    }
)
"""Tags by which a server says where it keeps the parts of a trace."""

_FIELDS = (
    "state",
    "request_time",
    "execution_duration",
    "client_request_id",
    "request_preview",
    "response_preview",
)


@dataclass(slots=True)
class Missing:
    """What is to be written of a trace that is at the destination."""

    start: Trace | None = None
    """The trace to start again, which changes what nothing else can; None when that is not needed.
    """
    spans: bool = False
    """Whether its spans may be missing."""
    tags: dict[str, str] = field(default_factory=dict)
    assessments: list[Assessment] = field(default_factory=list)
    """Those to add."""
    changed: list[Assessment] = field(default_factory=list)
    """Those that win over the destination's."""


def here(trace: Trace, experiment_id: str, to: Destination) -> Trace:
    """Return the bundle's trace as it is to be at the destination: ids replaced."""
    tags = {
        key: value
        for key, value in to.tags_of(Trace.kind, trace.tags).items()
        if key not in SERVER_TAGS
    }
    if trace.spans_location == ARTIFACT_REPO:
        tags[SPANS_LOCATION] = ARTIFACT_REPO
    metadata = rewrite_values(Trace.kind, "metadata", trace.metadata, to.remap, to.report)
    return msgspec.structs.replace(
        trace,
        experiment_id=experiment_id,
        tags=tags,
        metadata=metadata,
        assessments=[_assessment(assessment, to) for assessment in trace.assessments],
    )


def _assessment(assessment: Assessment, to: Destination) -> Assessment:
    rewritten = rewrite_assessment(assessment, to.remap, to.report)
    return msgspec.structs.replace(rewritten, run_id=rewritten.metadata.get(ASSESSING_RUN))


def missing(bundle: Trace, there: Trace, to: Destination) -> Missing:
    """Compare the bundle's trace, as it is to be, with the one that is there.

    Differences are reported (`Destination.differs`). A trace that was not started yet, because an
    import was killed between its spans and itself, or that was open and has ended, is the bundle's.
    """
    id = bundle.id
    comparable = _comparable_metadata(bundle, there)
    added = comparable.keys() - there.metadata.keys() - {FINALIZED}
    unstarted = bool(added) or (not there.metadata and _differs(bundle, there))
    ended = there.state in OPEN_STATES and bundle.state not in OPEN_STATES
    found = Missing(spans=unstarted or ended or there.state in OPEN_STATES)
    values: dict[str, Any] = {}
    for name in _FIELDS:
        mine, other = getattr(bundle, name), getattr(there, name)
        if mine == other or mine is None:
            continue
        if (
            unstarted
            or ended
            or other is None
            or to.differs(Trace.kind, id, name, here=other, bundle=mine)
        ):
            values[name] = mine
    mine_tags = {key: value for key, value in bundle.tags.items() if key not in SERVER_TAGS}
    found.tags = to.changed(Trace.kind, id, "tags", there.tags, mine_tags)
    if unstarted or ended:
        metadata = comparable
    else:
        comparable.pop(FINALIZED, None)
        metadata = to.changed(Trace.kind, id, "metadata", there.metadata, comparable)
    _compare_assessments(bundle, there, found, to)
    if values or added or unstarted or ended or metadata.items() - there.metadata.items():
        found.start = msgspec.structs.replace(
            there,
            **values,
            tags={
                key: value
                for key, value in (there.tags | found.tags).items()
                if key not in SERVER_TAGS
            },
            metadata=there.metadata | metadata,
        )
    return found


class _Times(msgspec.Struct, frozen=True):
    start_time_unix_nano: int
    end_time_unix_nano: int | None = None
    parent_span_id: str | None = None


def agrees_with_spans(trace: Trace, spans: list[str]) -> bool:
    """Whether a server would infer nothing else from spans than what the trace says.

    It widens the time of a trace to that of its spans, and ends an open one whose root came
    (``log_spans``, mlflow/store/tracking/sqlalchemy_store.py).
    """
    try:
        times = [msgspec.json.decode(text, type=prepared(_Times)) for text in spans]
    except msgspec.DecodeError:
        return False
    if trace.execution_duration is None or not times:
        return not times
    if trace.state in OPEN_STATES and any(span.parent_span_id is None for span in times):
        return False
    start_ms = min(span.start_time_unix_nano for span in times) // 1_000_000
    end_ms = max(span.end_time_unix_nano or 0 for span in times) // 1_000_000
    return start_ms >= trace.request_time and end_ms <= trace.request_time + (
        trace.execution_duration
    )


def _differs(bundle: Trace, there: Trace) -> bool:
    return any(
        getattr(bundle, name) is not None and getattr(bundle, name) != getattr(there, name)
        for name in _FIELDS
    )


def _comparable_metadata(bundle: Trace, there: Trace) -> dict[str, str]:
    """The bundle's metadata without what the server keeps as numbers, where these are equal."""
    return {
        key: value
        for key, value in bundle.metadata.items()
        if key not in NUMBERS or _numbers(key, value) - _numbers(key, there.metadata.get(key, ""))
    }


def _numbers(key: str, text: str) -> set[tuple[str, float]]:
    try:
        values = json.loads(text)
    except ValueError:
        return set()
    if not isinstance(values, dict):
        return set()
    return {
        (name, float(values[name]))
        for name in NUMBERS[key]
        if isinstance(values.get(name), int | float) and not isinstance(values[name], bool)
    }


def _compare_assessments(bundle: Trace, there: Trace, found: Missing, to: Destination) -> None:
    present = {assessment.assessment_id: assessment for assessment in there.assessments}
    for assessment in bundle.assessments:
        other = present.get(assessment.assessment_id)
        if other is None:
            found.assessments.append(assessment)
            continue
        mine_view, other_view = _view(assessment), _view(other)
        # What was added here stays: the server cannot take it away.
        other_view["metadata"] = {
            key: value for key, value in other.metadata.items() if key in assessment.metadata
        }
        differing = [name for name in mine_view if mine_view[name] != other_view[name]]
        if not differing:
            continue
        # What it names had not come yet when it was written.
        completed = rewrite_assessment(other, to.remap, Report())
        completed_view = other_view | {
            "name": completed.name,
            "metadata": {key: completed.metadata[key] for key in other_view["metadata"]},
        }
        if completed_view == mine_view or to.differs(
            Trace.kind,
            bundle.id,
            f"assessments.{assessment.assessment_id}.{differing[0]}",
            here=other_view[differing[0]],
            bundle=mine_view[differing[0]],
        ):
            found.changed.append(assessment)


def _view(assessment: Assessment) -> dict[str, Any]:
    """What an assessment says; numbers as REST tells them."""
    return {
        "name": assessment.name,
        "value": as_floats(assessment.value),
        "error": as_floats(assessment.error),
        # The server takes an empty one for none.
        "rationale": assessment.rationale or None,
        "metadata": assessment.metadata,
    }


def as_floats(text: str | None) -> str | None:
    """Return a JSON text with its numbers as floats and its keys in order."""
    if text is None:
        return None
    try:
        return json.dumps(json.loads(text, parse_int=float), sort_keys=True)
    except ValueError:
        return text
