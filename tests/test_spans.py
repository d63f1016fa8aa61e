"""Spans between the three forms that MLflow has of them."""

from __future__ import annotations

import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlflow_bundle.errors import SinkError
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report
from mlflow_bundle.rest.trace_records import timestamp
from mlflow_bundle.spans import SpanEncoder, content_of, is_same


def test_an_attribute_without_a_name_is_one_with_an_empty_name() -> None:
    """An empty key stands nowhere in protobuf's JSON."""
    content = content_of(
        {
            "trace_id": "AAAAAAAAAAAAAAAAAAAAAA==",
            "span_id": "AAAAAAAAAAA=",
            "attributes": [{"value": {"string_value": "x"}}],
            "events": [{"attributes": [{"value": {"int_value": "1"}}]}],
        }
    )
    assert json.loads(content)["attributes"] == {"": '"x"'}
    assert json.loads(content)["events"][0]["attributes"] == {"": 1}
    request = ExportTraceServiceRequest()
    SpanEncoder(Remap(), Report()).add(request, content)
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert [(pair.key, pair.value.string_value) for pair in span.attributes] == [("", "x")]


def test_a_time_is_written_as_protobuf_has_it_or_refused() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(-1) == "1969-12-31T23:59:59.999Z"
    for ms in (2**63 - 1, -(2**63), 253402300800000):
        with pytest.raises(SinkError, match=r"is no time that MLflow can hold"):
            timestamp(ms)


def test_the_kind_of_a_span_goes_both_ways_and_the_usual_one_is_as_good_as_none() -> None:
    """MLflow keeps it since 3.18; what it kept before, it tells with the usual one."""
    span = {"trace_id": "AAAAAAAAAAAAAAAAAAAAAA==", "span_id": "AAAAAAAAAAA="}
    client, usual, none = (
        content_of({**span, **kind})
        for kind in ({"kind": "SPAN_KIND_CLIENT"}, {"kind": "SPAN_KIND_INTERNAL"}, {})
    )
    assert list(json.loads(client))[3:5] == ["name", "kind"]
    assert "kind" not in json.loads(none)
    assert is_same(usual, none)
    assert not is_same(client, none)
    assert not is_same("[]", none)
    request = ExportTraceServiceRequest()
    for content in (client, usual, none):
        SpanEncoder(Remap(), Report()).add(request, content)
    kinds = [span.kind for span in request.resource_spans[0].scope_spans[0].spans]
    assert kinds == [3, 1, 0]
