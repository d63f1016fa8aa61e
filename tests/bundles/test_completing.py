"""An export that lost something and is completed: only what was lost is fetched."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlflow_bundle.bundles.completing import OldExport
from mlflow_bundle.bundles.opening import open_tree, open_writer
from mlflow_bundle.bundles.sink import BundleSink, ExportOptions
from mlflow_bundle.contracts import ArtifactFile, Content, OpenedArtifact
from mlflow_bundle.entities import LoggedModel, RegisteredModel, Run
from mlflow_bundle.errors import SelectionError, SourceError
from mlflow_bundle.kinds.scorers import Scorer
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.transfer import transfer
from tests.bundles import memory
from tests.bundles.trees import verified

URI = "http://localhost:5000"


class Store(memory.MemoryArtifacts):
    """Files, some of which the store refuses; remembers which were read."""

    def __init__(
        self, contents: dict[str, bytes], refused: Collection[str], read: list[str]
    ) -> None:
        super().__init__(contents)
        self._refused = refused
        self._read = read

    def files(self) -> list[ArtifactFile]:
        if "*" in self._refused:
            raise SourceError("the store cannot be listed", status=500)
        return super().files()

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        if file.path in self._refused:
            raise SourceError("the store refuses it", status=403)
        self._read.append(file.path)
        return super().open(file)


class Server(memory.MemorySource):
    """A server that fails to give some things.

    Args:
        contents: What it holds.
        refused: Paths of files that cannot be read; ``*`` for those that cannot be listed.
        lost: Ids of runs that cannot be read.
        without_params: Ids of runs whose params cannot be read.
    """

    def __init__(
        self,
        contents: list[Content],
        *,
        refused: Collection[str] = (),
        lost: Collection[str] = (),
        without_params: Collection[str] = (),
    ) -> None:
        self.read: list[str] = []
        self.handed_out: list[str] = []
        self._lost = lost
        self._without_params = without_params
        super().__init__(
            [
                replace(
                    content,
                    artifacts=self._store(content.artifacts, refused),
                    version_artifacts={
                        number: self._store(tree, refused)
                        for number, tree in content.version_artifacts.items()
                    },
                )
                for content in contents
                if content.entity.id not in lost
            ]
        )

    def _store(self, tree: Any, refused: Collection[str]) -> Any:
        return (
            Store(tree.contents, refused, self.read)
            if isinstance(tree, memory.MemoryArtifacts)
            else tree
        )

    def select(self, selection: Selection, report: Report) -> None:
        self._report = report
        for id in sorted(self._lost):
            report.lose(Run.kind, id, "no answer", parent="1")
        super().select(selection, report)

    def iter_contents(self, **options: Any) -> Iterator[Content]:
        for content in super().iter_contents(**options):
            entity = content.entity
            self.handed_out.append(entity.id)
            if isinstance(entity, Run) and entity.id in self._without_params:
                self._report.lose(Run.kind, entity.id, "no answer", field="params", parent="1")
                content = replace(content, entity=msgspec.structs.replace(entity, params={}))
            yield content


def export(path: Path, source: Any) -> Report:
    report = Report("export-all")
    sink = BundleSink(
        open_writer(str(path), jobs=1), report, now=lambda: memory.NOW, bundle_uuid=memory.UUID
    )
    transfer(source, sink, Selection.all(), report, jobs=1)
    return report


def complete(old: Path, new: Path, server: Server) -> Report:
    held = OldExport(str(old))
    report = Report("export-all")
    held.report_adjustments(report)
    source = held.source(None, server)
    sink = BundleSink(
        open_writer(str(new), jobs=1), report, now=lambda: memory.NOW, bundle_uuid=memory.UUID
    )
    try:
        transfer(source, sink, Selection.all(), report, jobs=1)
    finally:
        source.close()
        held.close()
    assert verified(new).ok
    return report


def members(path: Path) -> dict[str, bytes]:
    tree = open_tree(str(path))
    try:
        return {m.path: tree.read(m.path, limit_bytes=2**26) for m in tree.iter_members()}
    finally:
        tree.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.mlbundle"
    export(path, Server(memory.sample()))
    return path


IRIS, READER = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("fault", "handed_out", "read"),
    [
        ({"refused": {"model/model.pkl", "empty"}}, [IRIS], ["empty", "model/model.pkl"]),
        ({"refused": {"MLmodel"}}, ["m-1", "sklearn_iris"], ["MLmodel", "MLmodel"]),
        ({"lost": {READER}}, [READER], ["model/MLmodel"]),
        ({"without_params": {IRIS}}, [IRIS], []),
        ({"lost": {READER}, "refused": {"big.bin"}}, [IRIS, READER], ["big.bin", "model/MLmodel"]),
    ],
    ids=["files", "files of models", "run", "field", "both"],
)
def test_only_what_was_lost_is_fetched_and_the_result_is_whole(
    whole: Path, tmp_path: Path, fault: Any, handed_out: list[str], read: list[str]
) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    assert export(old, Server(memory.sample(), **fault)).losses
    server = Server(memory.sample())
    report = complete(old, new, server)
    assert report.losses == []
    assert server.handed_out == handed_out
    assert sorted(server.read) == read
    assert members(new) == members(whole)


def test_a_tree_that_could_not_be_listed_is_fetched_whole(whole: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Server(memory.sample(), refused={"*"}))
    assert complete(old, new, Server(memory.sample())).losses == []
    assert members(new) == members(whole)


def test_what_is_still_lost_stays_lost_and_what_was_whole_stays(
    whole: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    before = export(old, Server(memory.sample(), refused={"big.bin", "empty"}, lost={READER}))
    server = Server(memory.sample(), refused={"big.bin"}, lost={READER})
    report = complete(old, new, server)
    assert [(loss.kind, loss.id) for loss in report.losses] == [
        (loss.kind, loss.id) for loss in before.losses if not loss.id.endswith("/empty")
    ]
    missing = members(whole).keys() - members(new).keys()
    assert missing == {
        f"experiments/1/{IRIS}/artifacts/big.bin",
        f"experiments/1/{READER}/run.json",
        f"experiments/1/{READER}/artifacts/model/MLmodel",
    }
    again = tmp_path / "again.mlbundle"
    assert complete(new, again, Server(memory.sample())).losses == []
    assert members(again) == members(whole)


@pytest.mark.parametrize("refused", [{"*"}, set()], ids=["unlistable", "gone"])
def test_files_are_kept_where_the_source_has_lost_its_own(
    tmp_path: Path, refused: set[str]
) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Server(memory.sample(), refused={"empty"}))
    emptied = [
        replace(content, artifacts=memory.MemoryArtifacts({}))
        if content.entity.id == IRIS
        else content
        for content in memory.sample()
    ]
    report = complete(old, new, Server(emptied, refused=refused))
    assert [loss.id for loss in report.losses] == [f"{IRIS}/empty"]
    assert members(new).keys() == members(old).keys()
    document = json.loads(members(new)[f"experiments/1/{IRIS}/run.json"])
    assert [loss["id"] for loss in document["losses"]] == [f"{IRIS}/empty"]


def test_an_entity_that_is_gone_stays_a_loss(tmp_path: Path) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Server(memory.sample(), lost={READER}))
    gone = [content for content in memory.sample() if content.entity.id != READER]
    report = complete(old, new, Server(gone))
    assert [(loss.kind, loss.id, loss.reason) for loss in report.losses] == [
        ("run", READER, "no answer")
    ]
    assert members(new) == members(old)


def test_what_appeared_since_is_not_fetched(tmp_path: Path) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Server(memory.sample(), refused={"empty"}))
    later = [memory.run("c" * 32), Content(entity=RegisteredModel(name="later"))]
    server = Server([*memory.sample(), *later])
    complete(old, new, server)
    assert server.handed_out == [IRIS]


def test_a_listing_that_failed_is_made_up_for(whole: Path, tmp_path: Path) -> None:
    class Unlisted(Server):
        def select(self, selection: Selection, report: Report) -> None:
            report.lose(RegisteredModel.kind, "all", "no answer")
            super().select(selection, report)

    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    without = [c for c in memory.sample() if c.entity.kind != RegisteredModel.kind]
    export(old, Unlisted(without))
    server = Server(memory.sample())
    assert complete(old, new, server).losses == []
    assert members(new) == members(whole)
    assert set(server.handed_out) == {"sklearn_iris", *memory.ODD_NAMES}
    unlisted = Unlisted(without)
    assert [loss.id for loss in complete(old, tmp_path / "third", unlisted).losses] == ["all"]


def test_a_scorer_that_was_lost_comes_though_another_experiment_has_one_of_its_name(
    tmp_path: Path,
) -> None:
    class Unlisted(Server):
        def select(self, selection: Selection, report: Report) -> None:
            report.lose("scorer", "all", "no answer", parent="2")
            super().select(selection, report)

    here, there = (
        Content(entity=Scorer(experiment_id=id, name="polite", scorer_id=f"s-{id}"))
        for id in ("1", "2")
    )
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Unlisted([*memory.sample(), here]))
    complete(old, new, Server([*memory.sample(), here, there]))
    assert [path for path in members(new) if path.endswith("/scorer.json")] == [
        "experiments/1/scorers/polite/scorer.json",
        "experiments/2/scorers/polite/scorer.json",
    ]


class Hiding(Server):
    """A server that loses a run and does not know, then, what only that one names."""

    def __init__(self, hidden: Collection[str]) -> None:
        without = [content for content in memory.sample() if content.entity.id not in hidden]
        super().__init__(without, lost={IRIS})


def test_what_only_a_lost_run_names_comes_with_it(whole: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Hiding({"m-1"}))
    server = Server(memory.sample())
    assert complete(old, new, server).losses == []
    assert set(server.handed_out) == {IRIS, "m-1"}
    assert members(new) == members(whole)


def test_what_a_lost_run_names_and_cannot_be_had_is_a_loss(tmp_path: Path) -> None:
    class Refusing(Server):
        def select(self, selection: Selection, report: Report) -> None:
            report.lose(LoggedModel.kind, "m-1", "refused", parent="1")
            report.lose(LoggedModel.kind, "m-2", "of no concern", parent="1")
            super().select(selection, report)

    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    export(old, Hiding({"m-1"}))
    without = [content for content in memory.sample() if content.entity.id != "m-1"]
    report = complete(old, new, Refusing(without))
    assert [(loss.kind, loss.id) for loss in report.losses] == [("logged_model", "m-1")]


def test_traces_are_read_again_that_a_lost_run_may_be_linked_to(tmp_path: Path) -> None:
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    trace = Trace(trace_id="tr-1", experiment_id="1", request_time=1)
    linked = msgspec.structs.replace(trace, run_ids=[IRIS])
    export(old, Server([*memory.sample(), Content(entity=trace)], lost={IRIS}))
    later = Trace(trace_id="tr-2", experiment_id="1", request_time=1)
    server = Server([*memory.sample(), Content(entity=linked), Content(entity=later)])
    complete(old, new, server)
    assert set(server.handed_out) == {IRIS, "tr-1"}
    document = json.loads(members(new)["experiments/1/traces/tr-1/trace.json"])
    assert document["entity"]["run_ids"] == [IRIS]


def test_a_bundle_that_lost_nothing_is_refused(whole: Path) -> None:
    with pytest.raises(SelectionError, match="lists no losses: there is nothing to complete"):
        OldExport(str(whole))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"uri": "http://other:5000"}, "is an export of another server"),
        ({"selection": Selection(run_ids=("x",))}, "is an export of another selection"),
        ({"options": ExportOptions(artifacts="skip")}, "is an export with other options"),
    ],
)
def test_another_export_is_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    old = tmp_path / "old.mlbundle"
    export(old, Server(memory.sample(), refused={"empty"}))
    held = OldExport(str(old))
    asked = {"uri": URI, "selection": Selection.all(), "options": ExportOptions()}
    held.require_same(**asked)  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match=match):
        held.require_same(**asked | changes)  # type: ignore[arg-type]
    held.close()
