"""What every source keeps of the contract (`mlflow_bundle.contracts.Source`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_bundle import layout
from mlflow_bundle.archive import order_key
from mlflow_bundle.bundles.opening import open_tree
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.contracts import Source
from mlflow_bundle.entities import RECORDS, Experiment, LoggedModel, Run
from mlflow_bundle.errors import SelectionError, SourceError
from mlflow_bundle.filestore.source import FileStoreSource
from mlflow_bundle.report import Report
from mlflow_bundle.rest.source import RestSource
from mlflow_bundle.selection import Selection, parse_experiments
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.source import SqlSource
from tests.bundles.memory import MemorySource, sample, write_bundle
from tests.filestore.filled import fill
from tests.transfer.commands import command
from tests.transfer.small import build_small

pytestmark = pytest.mark.server

KINDS = ("file", "directory", "memory", "rest", "sql", "filestore")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, _pool) -> Iterator[Callable[[str], Source]]:  # type: ignore[no-untyped-def]
    directory = tmp_path_factory.mktemp("contract")
    write_bundle(directory / "f.mlbundle")
    write_bundle(directory / "tree", is_directory=True)
    servers = []

    def make(kind: str) -> Source:
        if kind == "memory":
            return MemorySource(sample())
        if kind == "filestore":
            if not (directory / "mlruns").exists():
                fill(directory / "mlruns")
            return FileStoreSource(directory / "mlruns", store=ArtifactStore(error=SourceError))
        if kind in ("rest", "sql"):
            if not servers:
                servers.append(_pool.borrow({}))
                build_small(servers[0].uri)
            if kind == "rest":
                return RestSource(servers[0].uri)
            artifacts = str(servers[0].artifact_directory)
            store = ArtifactStore(artifacts_destination=artifacts, error=SourceError)
            return SqlSource(f"sqlite:///{servers[0].database}", open_tree=store.tree)
        return BundleSource(open_tree(str(directory / {"file": "f.mlbundle"}.get(kind, "tree"))))

    yield make
    for server in servers:
        _pool.give_back(server, {})


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, make: Callable[[str], Source]) -> Iterator[Source]:
    made = make(request.param)
    yield made
    made.close()


def test_contents_come_once_each_in_path_order(source: Source) -> None:
    source.select(Selection.all(), Report())
    paths = []
    for content in source.iter_contents():
        paths.append(layout.document_path(content.entity))
        for file in content.artifacts.files():
            content.artifacts.open(file).stream.close()
    assert len(paths) > 5
    assert len(set(paths)) == len(paths)
    assert paths == sorted(paths, key=order_key)


def test_entities_and_contents_are_the_same(source: Source) -> None:
    source.select(Selection.all(), Report())
    listed = {(kind, entity.id) for kind in RECORDS for entity in source.iter_entities(kind)}
    again = [(kind, entity.id) for kind in RECORDS for entity in source.iter_entities(kind)]
    assert sorted(again) == sorted(listed)
    contents = {
        (content.entity.kind, content.entity.id)
        for content in source.iter_contents(files="list", histories=False)
        if content.entity.kind in RECORDS
    }
    assert contents == listed


def test_only_what_is_wanted_comes_and_files_only_when_asked_for(source: Source) -> None:
    source.select(Selection.all(), Report())
    wanted = {entity.id for entity in source.iter_entities(Run.kind)}
    wanted.pop()
    contents = list(
        source.iter_contents(
            files="none", wanted=lambda kind, id, parent: kind == Run.kind and id in wanted
        )
    )
    assert {content.entity.id for content in contents} == wanted
    assert not any(content.artifacts.files() for content in contents)
    listed = [
        (content.entity.id, file.path)
        for content in source.iter_contents(files="list")
        for file in content.artifacts.files()
    ]
    assert len(listed) > 4


def test_what_is_planned_is_what_comes(source: Source) -> None:
    report = Report()
    source.select(Selection.all(), report)
    counted = Counter(
        content.entity.kind for content in source.iter_contents(files="list", histories=False)
    )
    for kind in RECORDS:
        assert report.planned[kind] == counted[kind], kind


def test_parents_are_known_before_what_they_hold_is_written(source: Source) -> None:
    source.select(Selection.all(), Report())
    experiments = {entity.id for entity in source.iter_entities(Experiment.kind)}
    for kind in (Run.kind, LoggedModel.kind):
        for entity in source.iter_entities(kind):
            assert isinstance(entity, Run | LoggedModel)
            place = entity.info.experiment_id if isinstance(entity, Run) else entity.experiment_id
            assert place in experiments


def test_artifacts_and_histories_hold_what_is_announced(source: Source) -> None:
    source.select(Selection.all(), Report())
    files = points = 0
    for content in source.iter_contents():
        assert content.artifacts.files() == content.artifacts.files()
        for file in content.artifacts.files():
            opened = content.artifacts.open(file)
            with opened.stream as stream:
                data = stream.read()
            assert len(data) == opened.size
            assert file.size in (None, opened.size)
            files += 1
        keys = []
        for history in content.histories():
            assert len(history.values) == len(history.timestamps) == len(history.steps) > 0
            keys.append(history.key)
            points += len(history.values)
        if isinstance(content.entity, Run):
            assert set(keys) == set(content.entity.metric_keys) or not content.entity.metric_keys
    assert files > 4
    assert points > 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
def test_what_does_not_exist_is_refused(make: Callable[[str], Source], kind: str) -> None:
    source = make(kind)
    selection = Selection(experiments=parse_experiments(["no such experiment"]))
    with pytest.raises(SelectionError, match="no such experiment"):
        source.select(selection, Report())
    source.close()
    source = make(kind)
    source.select(replace(selection, run_ids=("0" * 32,), lenient=True), Report())
    assert list(source.iter_contents()) == []
    source.close()


def test_a_file_and_a_directory_say_the_same(tmp_path: Path) -> None:
    write_bundle(tmp_path / "f.mlbundle")
    command("extract", tmp_path / "f.mlbundle", "-o", tmp_path / "tree")
    seen = []
    for path in ("f.mlbundle", "tree"):
        source = BundleSource(open_tree(str(tmp_path / path)))
        source.select(Selection.all(), Report())
        seen.append(
            [content.entity for content in source.iter_contents(files="list", histories=False)]
        )
        source.close()
    assert seen[0] == seen[1]
