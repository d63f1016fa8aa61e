"""Traces: what an application did for one request, with its spans and what people thought of it."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Association, Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind

ARCHIVE_LOCATION = "mlflow.trace.archiveLocation"
ARTIFACT_LOCATION = "mlflow.artifactLocation"
SPANS_LOCATION = "mlflow.trace.spansLocation"
TRACKING_STORE = "TRACKING_STORE"
ARCHIVE_REPO = "ARCHIVE_REPO"
ARTIFACT_REPO = "ARTIFACT_REPO"
LINKED_PROMPTS = "mlflow.linkedPrompts"
SOURCE_RUN = "mlflow.sourceRun"
TRACED_MODEL = "mlflow.modelId"
ASSESSING_RUN = "mlflow.assessment.sourceRunId"

TRACE_NAME = "mlflow.traceName"
TRACE_SESSION = "mlflow.trace.session"

NUMBERS = {
    "mlflow.trace.tokenUsage": (
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "cache_creation_input_tokens_above_1hr",
    ),
    "mlflow.trace.cost": ("input_cost", "output_cost", "total_cost"),
}
"""Metadata of which a server keeps these numbers, in columns called alike, and no text (from 3.17
on; mlflow/store/tracking/utils/trace_analytics.py)."""

OPEN_STATES = frozenset({"IN_PROGRESS", "STATE_UNSPECIFIED"})
"""States of traces that are not known to have ended."""

_OLD_STATES = {
    "TRACE_STATUS_UNSPECIFIED": "STATE_UNSPECIFIED",
    "UNSPECIFIED": "STATE_UNSPECIFIED",
}


def state_of(status: str) -> str:
    """Return the state that a status of MLflow before 3.0 means."""
    return _OLD_STATES.get(status, status)


TRACE_DATA = "traces.json"
"""File name of the spans that lie in a trace's artifacts."""


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """A feedback or expectation about a trace, or the issue that a trace shows."""

    assessment_id: str
    name: str
    """Of type ``issue``: the id of the issue."""
    type: str
    """``feedback``, ``expectation`` or ``issue``."""
    value: str | None = None
    """JSON text, as the server keeps it; of an issue ``{"issue_name": …}``."""
    error: str | None = None
    """JSON text: ``error_code``, ``error_message``, ``stack_trace``."""
    created_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    source_type: str = ""
    source_id: str | None = None
    run_id: str | None = None
    span_id: str | None = None
    rationale: str | None = None
    overrides: str | None = None
    """Id of the assessment of the same trace that this one replaces."""
    valid: bool = True
    metadata: dict[str, str] = {}


class PromptVersionRef(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt version that a trace used."""

    name: str
    version: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span."""

    content: str
    """JSON text, as the server keeps it."""
    type: str | UnsetType | None = UNSET
    """Its type in MLflow's table, where ``content`` has another: what OpenTelemetry's attributes
    mean is written into the text alone."""


class Trace(PlainEntity, frozen=True, kw_only=True):
    """One trace without its spans, which are its items or lie in its ``traces.json``."""

    kind: ClassVar[str] = "trace"
    uri_fields: ClassVar[tuple[str, ...]] = ()

    trace_id: str
    experiment_id: str
    request_time: Int64
    """ms since the epoch."""
    execution_duration: Int64 | None = None
    """ms."""
    state: str = "STATE_UNSPECIFIED"
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    tags: dict[str, str] = {}
    """With ``mlflow.traceName``, wherever the server keeps it."""
    metadata: dict[str, str] = {}
    """With ``mlflow.trace.session``, ``.tokenUsage`` and ``.cost``, wherever it keeps them."""
    assessments: list[Assessment] = []
    run_ids: list[str] = []
    """Runs that it was linked to, beside the one in ``mlflow.sourceRun``."""
    prompts: list[PromptVersionRef] = []
    """Prompt versions that it was linked to."""
    associations: list[Association] | UnsetType = UNSET
    """All its links, those of ``run_ids`` and ``prompts`` among them."""
    null_fields: list[str] | UnsetType = UNSET
    """``tags.<key>`` and ``metadata.<key>`` that are null in MLflow's table."""

    @property
    def id(self) -> str:
        return self.trace_id

    @property
    def time_ms(self) -> int | None:
        return self.request_time

    @property
    def spans_location(self) -> str:
        """Where the server keeps the spans: empty for traces of before MLflow 3.6."""
        return self.tags.get(SPANS_LOCATION, "")


TRACE = Kind(
    record=Trace,
    directory="traces",
    document="trace.json",
    scope="experiment",
    has_artifacts=True,
    item=Span,
    has_many_items=True,
)
