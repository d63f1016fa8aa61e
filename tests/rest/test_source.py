"""What a source over a server says of the server itself."""

from __future__ import annotations

import contextlib

import pytest

from mlflow_bundle.report import Report
from mlflow_bundle.rest import source as rest_source
from mlflow_bundle.selection import Selection
from tests.servers import MlflowServer


@pytest.mark.parametrize(("newest", "is_told"), [((3, 16), True), ((3, 18), False)])
def test_a_server_that_is_newer_than_what_is_known_is_told(
    full_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    newest: tuple[int, int],
    is_told: bool,
) -> None:
    monkeypatch.setattr(rest_source, "NEWEST_MLFLOW", newest)
    report = Report()
    with contextlib.closing(rest_source.RestSource(full_server.uri)) as source:
        source.select(Selection.all(), report)
    told = [note for note in report.notes if "newer than this mlflow-bundle knows" in note]
    assert len(told) == is_told
