"""What every sink keeps of the contract (`mlflow_bundle.contracts.Sink`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.bundles.opening import open_writer
from mlflow_bundle.bundles.sink import BundleSink
from mlflow_bundle.contracts import Content, Sink
from mlflow_bundle.entities import RECORDS
from mlflow_bundle.errors import SinkError, SourceError
from mlflow_bundle.importing import ImportOptions
from mlflow_bundle.report import Report
from mlflow_bundle.rest.sink import RestSink
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.sink import SqlSink
from mlflow_bundle.transfer import transfer
from tests.bundles.memory import MemorySource, sample
from tests.conftest import LendServer

pytestmark = pytest.mark.server

MakeSink = Callable[[Report], Sink]


@pytest.fixture(params=["file", "directory", "rest", "sql"])
def make(
    request: pytest.FixtureRequest, empty_server: LendServer, tmp_path: Path
) -> Iterator[MakeSink]:
    made: list[Sink] = []
    server = empty_server() if request.param == "rest" else None

    def make(report: Report) -> Sink:
        if server is not None:
            made.append(RestSink(server.uri, report, options=ImportOptions()))
        elif request.param == "sql":
            for earlier in made:
                earlier.close()  # one at a time holds the lock
            store = ArtifactStore(artifacts_destination=str(tmp_path / "files"), error=SinkError)
            uri = f"sqlite:///{tmp_path}/mlflow.db"
            made.append(SqlSink(uri, report, options=ImportOptions(), artifact_store=store))
        else:
            directory = request.param == "directory"
            name = "tree" if directory else "f.mlbundle"
            writer = open_writer(str(tmp_path / name), is_directory=directory, jobs=1)
            made.append(BundleSink(writer, report))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


class Failing(MemorySource):
    """Fails as a whole after some contents."""

    def iter_contents(self, **options: Any) -> Iterator[Content]:
        for number, content in enumerate(super().iter_contents()):
            if number == 4:
                raise SourceError("the server is away")
            yield content


def carried() -> list[Content]:
    """What a server of any name accepts."""
    return [c for c in sample() if c.entity.kind in ("experiment", "run", "prompt")]


def test_everything_that_is_put_is_counted(make: MakeSink) -> None:
    report = Report()
    transfer(MemorySource(carried()), make(report), Selection.all(), report, jobs=2)
    for kind in RECORDS:
        assert report.done[kind] + report.present[kind] == report.planned[kind], kind
    assert report.done["run"] == 3
    assert report.done["artifact"] > 5


def test_a_source_that_fails_leaves_no_finished_result(
    make: MakeSink, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    report = Report()
    with pytest.raises(SourceError, match="the server is away"):
        transfer(Failing(carried()), make(report), Selection.all(), report, jobs=1)
    assert not (tmp_path / "f.mlbundle").exists()
    assert not (tmp_path / "tree").exists()
    # The same transfer again completes it.
    report = Report()
    transfer(MemorySource(carried()), make(report), Selection.all(), report, jobs=1)
    for kind in RECORDS:
        assert report.done[kind] + report.present[kind] == report.planned[kind], kind


def test_a_dry_run_writes_nothing(make: MakeSink, tmp_path: Path) -> None:
    report = Report(dry_run=True)
    transfer(MemorySource(carried()), make(report), Selection.all(), report, jobs=2)
    assert report.planned["artifact"] > 5
    assert sum(report.done.values()) == 0
    assert list(tmp_path.iterdir()) == []
    real = Report()
    transfer(MemorySource(carried()), make(real), Selection.all(), real, jobs=2)
    assert real.done["run"] == 3
