"""Traces as MLflow's REST API writes them, and the records they are."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

from mlflow_bundle.errors import SinkError
from mlflow_bundle.kinds.traces import ASSESSING_RUN, Assessment, Trace, state_of

_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)


class RestSource(msgspec.Struct, frozen=True):
    """Who made an assessment."""

    source_type: str = ""
    source_id: str | None = None


class RestAssessment(msgspec.Struct, frozen=True):
    """One assessment of a trace."""

    assessment_id: str
    assessment_name: str = ""
    source: RestSource = RestSource()
    create_time: datetime | None = None
    last_update_time: datetime | None = None
    feedback: dict[str, Any] | None = None
    expectation: dict[str, Any] | None = None
    issue: dict[str, Any] | None = None
    span_id: str | None = None
    rationale: str | None = None
    overrides: str | None = None
    valid: bool = True
    metadata: dict[str, str] = {}

    def record(self) -> Assessment:
        """The record."""
        kind, value, error = self._content()
        return Assessment(
            assessment_id=self.assessment_id,
            name=self.assessment_name,
            type=kind,
            value=value,
            error=error,
            created_timestamp=_ms(self.create_time),
            last_updated_timestamp=_ms(self.last_update_time),
            source_type=self.source.source_type,
            source_id=self.source.source_id,
            run_id=self.metadata.get(ASSESSING_RUN),
            span_id=self.span_id or None,
            rationale=self.rationale,
            overrides=self.overrides or None,
            valid=self.valid,
            metadata=self.metadata,
        )

    def _content(self) -> tuple[str, str, str | None]:
        """Type, value and error; texts as the server's database has them."""
        if self.expectation is not None:
            serialized = self.expectation.get("serialized_value")
            if isinstance(serialized, dict):
                return "expectation", str(serialized.get("value", "null")), None
            return "expectation", json.dumps(self.expectation.get("value")), None
        if self.issue is not None:
            return "issue", json.dumps(self.issue), None
        feedback = self.feedback or {}
        error = feedback.get("error")
        return (
            "feedback",
            json.dumps(feedback.get("value")),
            None if error is None else json.dumps(error),
        )


class RestExperimentLocation(msgspec.Struct, frozen=True):
    """The experiment of a trace."""

    experiment_id: str = ""


class RestTraceLocation(msgspec.Struct, frozen=True):
    """Where a trace lies."""

    mlflow_experiment: RestExperimentLocation = RestExperimentLocation()


class RestTrace(msgspec.Struct, frozen=True):
    """``traces/search`` and ``traces/batchGetInfos``: one trace without spans."""

    trace_id: str
    trace_location: RestTraceLocation
    request_time: datetime
    execution_duration: str | None = None
    state: str = "STATE_UNSPECIFIED"
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    trace_metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    assessments: list[RestAssessment] = []

    def record(self) -> Trace:
        """The record."""
        duration = self.execution_duration
        return Trace(
            trace_id=self.trace_id,
            experiment_id=self.trace_location.mlflow_experiment.experiment_id,
            request_time=_ms(self.request_time) or 0,
            execution_duration=None if duration is None else round(float(duration[:-1]) * 1000),
            state=self.state,
            client_request_id=self.client_request_id,
            request_preview=self.request_preview,
            response_preview=self.response_preview,
            tags=self.tags,
            metadata=self.trace_metadata,
            assessments=[assessment.record() for assessment in self.assessments],
        )


class RestTraces(msgspec.Struct, frozen=True):
    """``traces/search``."""

    traces: list[RestTrace] = []
    next_page_token: str | None = None


class RestTraceInfos(msgspec.Struct, frozen=True):
    """``traces/batchGetInfos``."""

    trace_infos: list[RestTrace] = []


class _Pair(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class RestTraceV2(msgspec.Struct, frozen=True):
    """``traces`` of MLflow 2.14 to 3.1: one trace without spans."""

    request_id: str
    experiment_id: str
    timestamp_ms: int | str
    execution_time_ms: int | str | None = None
    status: str = "TRACE_STATUS_UNSPECIFIED"
    request_metadata: list[_Pair] = []
    tags: list[_Pair] = []

    def record(self) -> Trace:
        """The record."""
        # Told as 0 when the trace has not ended (mlflow/entities/trace_info.py, ``to_proto``).
        running = self.status not in ("OK", "ERROR") and not int(self.execution_time_ms or 0)
        duration = None if running else self.execution_time_ms
        return Trace(
            trace_id=self.request_id,
            experiment_id=self.experiment_id,
            request_time=int(self.timestamp_ms),
            execution_duration=None if duration is None else int(duration),
            state=state_of(self.status),
            tags={pair.key: pair.value for pair in self.tags},
            metadata={pair.key: pair.value for pair in self.request_metadata},
        )


class RestTracesV2(msgspec.Struct, frozen=True):
    """``traces`` of MLflow 2.14 to 3.1."""

    traces: list[RestTraceV2] = []
    next_page_token: str | None = None


class RestSpans(msgspec.Struct, frozen=True):
    """``get-trace-artifact``: spans as the server keeps them, bare NaN in them included."""

    spans: list[dict[str, Any]] = []


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MILLISECOND


def timestamp(ms: int) -> str:
    """Return ms since the epoch as protobuf's JSON has times.

    Raises:
        SinkError: It is beyond the years 1 to 9999, which are all that protobuf has.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError as exc:
        raise SinkError(f"{ms} ms since 1970 is no time that MLflow can hold", status=400) from exc
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def trace_body(trace: Trace, assessments: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what starts ``trace``: ``POST traces``."""
    info: dict[str, Any] = {
        "trace_id": trace.trace_id,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": trace.experiment_id},
        },
        "request_time": timestamp(trace.request_time),
        "state": trace.state,
        "trace_metadata": trace.metadata,
        "tags": trace.tags,
        "assessments": assessments,
    }
    if trace.execution_duration is not None:
        info["execution_duration"] = f"{trace.execution_duration / 1000:.3f}s"
    for name in ("client_request_id", "request_preview", "response_preview"):
        if getattr(trace, name) is not None:
            info[name] = getattr(trace, name)
    return {"trace": {"trace_info": info}}


def assessment_body(assessment: Assessment, trace_id: str) -> dict[str, Any]:
    """Return an assessment as ``POST traces`` and ``POST traces/<id>/assessments`` take it.

    Raises:
        ValueError: Its value is no JSON that the API can take.
    """
    body: dict[str, Any] = {
        "assessment_id": assessment.assessment_id,
        "assessment_name": assessment.name,
        "trace_id": trace_id,
        "source": {"source_type": assessment.source_type, "source_id": assessment.source_id or ""},
        "metadata": assessment.metadata,
        **value_body(assessment),
    }
    times = {
        "create_time": assessment.created_timestamp,
        "last_update_time": assessment.last_updated_timestamp,
    }
    body |= {name: timestamp(ms) for name, ms in times.items() if ms is not None}
    for name in ("span_id", "rationale", "overrides"):
        if getattr(assessment, name) is not None:
            body[name] = getattr(assessment, name)
    return body


def value_body(assessment: Assessment) -> dict[str, Any]:
    """Return the part of a body that holds an assessment's value."""
    text = "null" if assessment.value is None else assessment.value
    if assessment.type == "expectation":
        # As text, numbers stay what they are; otherwise every one becomes a float.
        return {
            "expectation": {
                "serialized_value": {"serialization_format": "JSON_FORMAT", "value": text}
            }
        }
    value = json.loads(text)
    if assessment.type == "issue":
        return {"issue": value}
    feedback: dict[str, Any] = {"value": value}
    if assessment.error is not None:
        feedback["error"] = json.loads(assessment.error)
    return {"feedback": feedback}
