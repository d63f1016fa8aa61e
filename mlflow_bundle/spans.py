"""Spans between the three forms that MLflow has of them.

- ``spans.content``, which is what a bundle holds: JSON text in which every attribute's value is
  JSON text again (mlflow/entities/span.py, ``Span.to_dict``);
- OTLP as JSON: what ``traces/batchGet`` answers;
- OTLP as protobuf: what ``/v1/traces`` takes.

A server that receives OTLP encodes attribute values anew, but takes a text that is JSON already as
it is (mlflow/tracing/otel/translation, ``sanitize_attributes``, ``strip_otlp_double_encoding``
since 3.18): sent as text, the objects and arrays of a span arrive byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_bundle.references import rewrite_values
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

SPAN_TYPE = "mlflow.spanType"

USUAL_KIND = "SPAN_KIND_INTERNAL"
"""Kind of a span that names none; MLflow keeps kinds since 3.18, and then names this one too."""

_STATUS_CODES = ("STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR")
_KINDS = tuple(
    f"SPAN_KIND_{name}"
    for name in ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
)
_INT64 = range(-(2**63), 2**63)


def content_of(span: Mapping[str, Any]) -> str:
    """Return ``spans.content`` of one span that ``traces/batchGet`` answered."""
    status = span.get("status") or {}
    content = {
        "trace_id": span["trace_id"],
        "span_id": span["span_id"],
        "parent_span_id": span.get("parent_span_id") or None,
        "name": span.get("name", ""),
        **({"kind": span["kind"]} if span.get("kind") else {}),
        "start_time_unix_nano": int(span.get("start_time_unix_nano", 0)),
        "end_time_unix_nano": int(span.get("end_time_unix_nano", 0)),
        "events": [
            {
                "name": event.get("name", ""),
                "time_unix_nano": int(event.get("time_unix_nano", 0)),
                "attributes": _values(event.get("attributes")),
            }
            for event in span.get("events") or ()
        ],
        "status": {
            "code": status.get("code", "STATUS_CODE_UNSET"),
            "message": status.get("message", ""),
        },
        "attributes": {key: dumps(value) for key, value in _values(span.get("attributes")).items()},
        "links": [
            {
                "trace_id": f"tr-{base64.b64decode(link['trace_id']).hex()}",
                "span_id": base64.b64decode(link["span_id"]).hex(),
                "attributes": _values(link.get("attributes")) or None,
            }
            for link in span.get("links") or ()
        ],
    }
    return dumps(content)


def has_kind(span: Mapping[str, Any]) -> bool:
    """Whether a decoded span has another kind than the usual one."""
    return span.get("kind") not in (None, "", _KINDS[0], USUAL_KIND)


def comparable(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return a decoded span as it is compared: the usual kind is as good as none."""
    if has_kind(span):
        return dict(span)
    return {name: value for name, value in span.items() if name != "kind"}


def is_same(one: str, other: str) -> bool:
    """Whether two texts of ``spans.content`` say the same."""
    try:
        spans = json.loads(one), json.loads(other)
    except ValueError:
        return False
    return all(isinstance(span, dict) for span in spans) and (
        comparable(spans[0]) == comparable(spans[1])
    )


def type_in(content: str) -> Any:
    """Return the type that ``spans.content`` gives its span; None for none."""
    attributes = json.loads(content).get("attributes") or {}
    return attribute_value(attributes.get(SPAN_TYPE))


def attribute_value(text: Any) -> Any:
    """Return what an attribute of ``spans.content`` says: JSON in a text, or else itself."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def dumps(value: Any) -> str:
    """Return JSON text as a server writes that of spans."""
    return json.dumps(value, ensure_ascii=False)


def _values(pairs: Iterable[Mapping[str, Any]] | None) -> dict[str, Any]:
    # protobuf's JSON leaves an empty key out.
    return {pair.get("key", ""): _value(pair.get("value") or {}) for pair in pairs or ()}


def _value(any_value: Mapping[str, Any]) -> Any:
    for name, value in any_value.items():
        if name == "int_value":
            return int(value)
        if name == "double_value":
            return float(value)
        if name == "array_value":
            return [_value(entry) for entry in value.get("values") or ()]
        if name == "kvlist_value":
            return _values(value.get("values"))
        return value
    return None


class SpanEncoder:
    """Makes OTLP requests of spans, with ids replaced.

    Args:
        remap: The new ids.
        report: Counts references that point outside.
        arrays_as_text: Whether the server takes a text that is a JSON array as it is; older ones
            (3.10) do so with objects only, and would make a text of it.
    """

    def __init__(self, remap: Remap, report: Report, *, arrays_as_text: bool = True) -> None:
        self._remap = remap
        self._report = report
        self._as_text = (dict, list) if arrays_as_text else dict

    def add(self, request: ExportTraceServiceRequest, content: str) -> None:
        """Add one span to a request.

        Raises:
            ValueError: OTLP cannot hold the span.
        """
        if not request.resource_spans:
            request.resource_spans.add().scope_spans.add()
        spans = request.resource_spans[0].scope_spans[0].spans
        span = spans.add()
        try:
            self._fill(span, json.loads(content))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as exc:
            del spans[-1]
            raise ValueError(f"a span that OTLP cannot hold: {exc}") from exc

    def _fill(self, span: ProtoSpan, content: Mapping[str, Any]) -> None:
        span.trace_id = id_bytes(content["trace_id"], 16)
        span.span_id = id_bytes(content["span_id"], 8)
        if content.get("parent_span_id"):
            span.parent_span_id = id_bytes(content["parent_span_id"], 8)
        span.name = content["name"]
        if content.get("kind") in _KINDS:
            span.kind = _KINDS.index(content["kind"])  # type: ignore[assignment]
        span.start_time_unix_nano = int(content["start_time_unix_nano"])
        span.end_time_unix_nano = int(content.get("end_time_unix_nano") or 0)
        status = content.get("status") or {}
        if status.get("code") in _STATUS_CODES:
            span.status.code = _STATUS_CODES.index(status["code"])  # type: ignore[assignment]
        span.status.message = status.get("message") or ""
        attributes = content.get("attributes") or {}
        for key, text in self.rewritten(attributes).items():
            pair = span.attributes.add()
            pair.key = key
            self._set_text(pair.value, text)
        for event in content.get("events") or ():
            made = span.events.add()
            made.name = event["name"]
            made.time_unix_nano = int(event["time_unix_nano"])
            _set_pairs(made.attributes, event.get("attributes"))
        for link in content.get("links") or ():
            other = span.links.add()
            other.trace_id = bytes.fromhex(link["trace_id"].rpartition("-")[2])
            other.span_id = bytes.fromhex(link["span_id"])
            _set_pairs(other.attributes, link.get("attributes"))

    def _set_text(self, target: AnyValue, text: Any) -> None:
        """Set an attribute from its JSON text."""
        if not isinstance(text, str):
            _set(target, text)
            return
        try:
            value = json.loads(text)
        except ValueError:
            target.string_value = text
            return
        if isinstance(value, self._as_text) or (isinstance(value, str) and _is_json_text(value)):
            target.string_value = text
        else:
            _set(target, value)

    def rewritten(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return a span's attributes with ids replaced."""
        texts = {key: text for key, text in attributes.items() if isinstance(text, str)}
        return {
            **attributes,
            **rewrite_values("span", "attributes", texts, self._remap, self._report),
        }

    def content(self, content: str) -> str:
        """Return ``content`` with ids replaced: for spans that do not travel as OTLP."""
        decoded = json.loads(content)
        attributes = decoded.get("attributes") or {}
        rewritten = self.rewritten(attributes)
        return content if rewritten == attributes else dumps({**decoded, "attributes": rewritten})


def span_v2(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return a span as ``traces.json`` of MLflow 2.14 to 2.22 has it; its links are left out.

    Raises:
        ValueError: The ids are none.
    """
    if "context" in span:
        return dict(span)
    status = span.get("status") or {}
    parent = span.get("parent_span_id")
    return {
        "name": span["name"],
        "context": {
            "span_id": f"0x{id_bytes(span['span_id'], 8).hex()}",
            "trace_id": f"0x{id_bytes(span['trace_id'], 16).hex()}",
        },
        "parent_id": f"0x{id_bytes(parent, 8).hex()}" if parent else None,
        "start_time": int(span["start_time_unix_nano"]),
        "end_time": int(span.get("end_time_unix_nano") or 0) or None,
        "status_code": str(status.get("code", "UNSET")).removeprefix("STATUS_CODE_"),
        "status_message": status.get("message") or "",
        "attributes": dict(span.get("attributes") or {}),
        "events": [
            {
                "name": event["name"],
                "timestamp": int(event["time_unix_nano"]),
                "attributes": event.get("attributes") or {},
            }
            for event in span.get("events") or ()
        ],
    }


def id_bytes(text: str, size: int) -> bytes:
    """Decode an id: base64, or hexadecimal with or without a prefix (MLflow 3.5.0)."""
    try:
        data = base64.b64decode(text, validate=True)
        if len(data) == size:
            return data
    except binascii.Error:
        pass
    data = bytes.fromhex(text.removeprefix("tr-").removeprefix("0x"))
    if len(data) != size:
        raise ValueError(f"id of {len(data)} bytes")
    return data


def _is_json_text(value: str) -> bool:
    """Whether a server would take a text for one that is JSON already."""
    if value[:1] not in '"{[ \t\r\n' or not value:
        return False
    try:
        return isinstance(json.loads(value), str | dict | list)
    except ValueError:
        return False


def _set_pairs(pairs: Any, values: Mapping[str, Any] | None) -> None:
    for key, value in (values or {}).items():
        pair = pairs.add()
        pair.key = key
        _set(pair.value, value)


def _set(target: AnyValue, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, int):
        if value not in _INT64:
            raise ValueError(f"{value} is no 64-bit integer")
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for entry in value:
            _set(target.array_value.values.add(), entry)
    else:
        target.kvlist_value.SetInParent()
        _set_pairs(target.kvlist_value.values, value)
