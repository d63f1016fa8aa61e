"""The world's newer kinds are there, and a server tells them as they were made."""

from __future__ import annotations

import pytest
import requests

from tests.world import World

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_server_reads_the_spans_of_every_place(genai_world: World) -> None:
    expected = {
        "rich": 4,
        "otel_only": 1,
        "root_not_ended": 2,
        "in_artifacts": 1,
        "legacy": 1,
        "archived": 2,
    }
    found = {}
    for label in expected:
        url = f"{genai_world.tracking_uri}/ajax-api/3.0/mlflow/get-trace-artifact"
        reply = requests.get(url, params={"request_id": genai_world.traces[label]}, timeout=30)
        assert reply.status_code == 200, reply.text
        found[label] = len(reply.json()["spans"])
    assert found == expected
