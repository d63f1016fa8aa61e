"""Files that are read over a connection that breaks."""

from __future__ import annotations

import random

import pytest

from mlflow_bundle.contracts import ArtifactFile
from mlflow_bundle.errors import SourceError
from mlflow_bundle.rest.artifacts import ProxiedArtifacts
from mlflow_bundle.rest.session import Session
from tests.transfer.faults import Answer, faulty

CONTENT = random.Random(5).randbytes(6_000_000)
WHOLE = Answer(200, "application/octet-stream", CONTENT)


@pytest.mark.parametrize("size", [3_000_000, 6_000_000], ids=["small", "large"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_goes_on_where_the_connection_broke(size: int, share: float) -> None:
    content = CONTENT[:size]
    asked = 0

    def instead(method: str, path: str) -> Answer:
        nonlocal asked
        asked += 1
        if asked == 1:
            return WHOLE._replace(content=content[: int(size * share)], announced=size)
        return WHOLE._replace(content=content)

    with faulty("http://127.0.0.1:9", instead=instead) as uri:
        tree = ProxiedArtifacts(Session(uri, error=SourceError), "1/run/artifacts")
        opened = tree.open(ArtifactFile("a.bin", size))
        assert opened.size == size
        with opened.stream as stream:
            assert stream.read() == content
    assert asked == 2


def test_a_file_that_is_refused_the_second_time_is_an_error() -> None:
    answers = [WHOLE._replace(announced=7_000_000), Answer(403, "", b"")]

    with faulty("http://127.0.0.1:9", instead=lambda method, path: answers.pop(0)) as uri:
        tree = ProxiedArtifacts(Session(uri, error=SourceError), "1/run/artifacts")
        stream = tree.open(ArtifactFile("a.bin", 7_000_000)).stream
        with stream, pytest.raises(SourceError, match=r"a\.bin: 403"):
            stream.read()
