"""How files are sent."""

from __future__ import annotations

import io

import requests

from mlflow_bundle.rest.artifacts import _Sized


def test_a_stream_is_sent_with_its_length_and_not_in_chunks() -> None:
    """MLflow 3.10 stores what comes in chunks as an empty file."""
    stream = _Sized(io.BytesIO(b"x" * 70_000), 70_000)
    request = requests.Request("PUT", "http://127.0.0.1/x", data=stream).prepare()
    assert request.headers["Content-Length"] == "70000"
    assert "Transfer-Encoding" not in request.headers
    assert stream.read() == b"x" * 70_000
    assert stream.tell() == 70_000
