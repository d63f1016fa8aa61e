"""An export that is killed anywhere goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from mlflow_bundle.archive.writer import ArchiveWriter
from mlflow_bundle.bundles import parts
from mlflow_bundle.bundles.opening import open_tree, open_writer
from mlflow_bundle.bundles.resume import find_unfinished
from mlflow_bundle.bundles.sink import BundleSink, ExportOptions
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.contracts import ArtifactFile, Content, OpenedArtifact
from mlflow_bundle.entities import Experiment, MetricHistory, RegisteredModel, Run
from mlflow_bundle.errors import BundleError, SelectionError, SourceError
from mlflow_bundle.kinds.datasets import DatasetRecord, EvaluationDataset
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.transfer import transfer
from tests.archive.bundles import noise
from tests.bundles import memory
from tests.bundles.trees import verified

ALL = Selection.all()
DEFAULT = ExportOptions()
RUN_ID = "a" * 32
FAR = -3
"""Where most of a bundle is written, counted from its last entity."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs, not even a clean-up."""


class FlakyArtifacts(memory.MemoryArtifacts):
    """One file that the store refuses."""

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        if file.path == "refused.bin":
            raise SourceError("the store refuses it", status=403)
        return super().open(file)


def contents() -> list[Content]:
    """30 runs of 900 kB in two experiments: several groups; one artifact of each is refused."""
    made = memory.sample()
    for experiment_id in ("98", "99"):
        made.append(Content(entity=Experiment(experiment_id=experiment_id, name=experiment_id)))
        for number in range(15):
            run = memory.run(
                f"{number:02x}" * 16,
                experiment_id,
                artifacts={
                    "a.bin": noise(900_000, number + int(experiment_id) * 100),
                    "refused.bin": b"x",
                    "z.txt": b"z",
                },
                tags={"mlflow.source.git.repoURL": "https://bob:secret@host/x"},
            )
            if number == 2:
                assert isinstance(run.artifacts, memory.MemoryArtifacts)
                run = msgspec_replace(run, FlakyArtifacts(run.artifacts.contents))
            made.append(run)
    return made


def msgspec_replace(content: Content, artifacts: FlakyArtifacts) -> Content:
    return Content(entity=content.entity, artifacts=artifacts, histories=content.histories)


def export(
    path: Path,
    made: list[Content],
    *,
    selection: Selection = ALL,
    options: ExportOptions = DEFAULT,
    uri: str = "http://localhost:5000",
    on_put: Callable[[int], None] = lambda count: None,
) -> Report:
    report = Report("export-all")
    count = 0

    class Counted(BundleSink):
        def put(self, content: Content) -> None:
            nonlocal count
            on_put(count)
            count += 1
            super().put(content)

    sink = Counted(
        open_writer(str(path), keep_partial=True, jobs=1),
        report,
        options=options,
        now=lambda: memory.NOW,
        bundle_uuid=memory.UUID,
        unfinished=find_unfinished(str(path), jobs=1),
    )
    try:
        transfer(memory.MemorySource(made, uri=uri), sink, selection, report, jobs=1)
    finally:
        sink.close()
    return report


def interrupt(path: Path, made: list[Content], at: int, **options: Any) -> bool:
    """Kill an export before it puts entity ``at``; tell whether it came to that."""

    def kill(count: int) -> None:
        if count == at % len(made):
            raise Killed

    try:
        export(path, made, on_put=kill, **options)
    except Killed:
        return True
    return False


def members(path: Path) -> dict[str, bytes]:
    tree = open_tree(str(path))
    try:
        return {m.path: tree.read(m.path, limit_bytes=2**26) for m in tree.iter_members()}
    finally:
        tree.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "whole.mlbundle"
    export(path, contents())
    return path


def cut(path: Path, bytes_off: int) -> None:
    partial = Path(f"{path}.partial")
    data = partial.read_bytes()
    partial.write_bytes(data[: max(len(data) - bytes_off, 0)])


@pytest.mark.parametrize("seed", range(12))
def test_a_killed_export_ends_byte_for_byte_as_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    path = tmp_path / "b.mlbundle"
    made = contents()
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(2, len(made) - 1)
        if not interrupt(path, made, at):
            path.unlink()  # too little was left to be killed in
        assert not path.exists()
        if Path(f"{path}.partial").exists():
            cut(path, draw.choice([0, 0, 1, 1000, 500_000]))
    report = export(path, made)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert not Path(f"{path}.partial").exists()
    assert [loss.id for loss in report.losses] == [f"{'02' * 16}/refused.bin"] * 2
    assert report.adjusted["run.tags.mlflow.source.git.repoURL (credentials masked)"] == 30
    assert verified(path).ok


def test_what_is_written_is_not_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "b.mlbundle"
    made = contents()
    interrupt(path, made, FAR)
    opened: list[str] = []

    class Watched(memory.MemoryArtifacts):
        def open(self, file: ArtifactFile) -> OpenedArtifact:
            opened.append(file.path)
            return super().open(file)

    watched = [
        Content(
            entity=content.entity,
            artifacts=Watched(content.artifacts.contents),
            histories=content.histories,
            version_artifacts=content.version_artifacts,
        )
        if isinstance(content.artifacts, memory.MemoryArtifacts)
        else content
        for content in made
    ]
    report = export(path, watched)
    written = report.present["run"]
    assert written > 10
    left = sum(isinstance(content.entity, Run) for content in made) - written
    assert 0 < len([path for path in opened if path == "a.bin"]) <= left


def test_changes_behind_the_cut_are_listed_and_the_bundle_keeps_what_it_had(
    tmp_path: Path,
) -> None:
    path = tmp_path / "b.mlbundle"
    made = contents()
    interrupt(path, made, FAR)
    changed = []
    for content in made:
        entity = content.entity
        if isinstance(entity, Run) and entity.info.experiment_id == "98":
            if entity.id == "01" * 16:
                entity = msgspec.structs.replace(entity, params={"new": "param"})
                content = Content(entity=entity, artifacts=content.artifacts)
            if entity.id == "00" * 16:
                continue  # deleted for good
        changed.append(content)
    late = memory.run("0a" * 15 + "ff", "98")
    assert isinstance(late.entity, Run)
    info = msgspec.structs.replace(late.entity.info, start_time=memory.CREATED_NS // 10**6 + 5)
    changed.append(Content(entity=msgspec.structs.replace(late.entity, info=info)))
    changed.append(memory.run("0b" * 15 + "ff", "98"))
    report = export(path, changed)
    assert [note.partition(":")[0] for note in report.notes] == [
        "1 changed at the source, and are here as they were, since this export began",
        "1 appeared at the source, and are not here, since this export began",
        "1 vanished from the source, and are here as they were, since this export began",
    ]
    assert "0b" * 15 + "ff" in [loss.id for loss in report.losses]
    assert members(path)[f"experiments/98/{'00' * 16}/run.json"]
    assert verified(path).ok


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"uri": "http://other:5000"}, "of another server"),
        ({"selection": Selection(run_ids=("x",))}, "of another selection"),
        ({"options": ExportOptions(artifacts="skip")}, "with other options"),
    ],
)
def test_an_export_of_something_else_is_refused_and_the_partial_file_stays(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    path = tmp_path / "b.mlbundle"
    made = contents()
    interrupt(path, made, FAR)
    before = Path(f"{path}.partial").read_bytes()
    with pytest.raises(SelectionError, match=match) as caught:
        export(path, made, **changes)
    assert "--restart" in caught.value.hint
    assert Path(f"{path}.partial").read_bytes() == before


class HalfWritten:
    """An export that is killed in the middle of one entity, and goes on from a changed source."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        accept = ArchiveWriter._accept

        def written_at_once(archive: ArchiveWriter, path: str, key: bytes) -> None:
            accept(archive, path, key)
            archive._end_group()
            archive._write_pending(0)

        monkeypatch.setattr(ArchiveWriter, "_accept", written_at_once)
        monkeypatch.setattr(parts, "INLINE_POINTS_PER_KEY", 2)
        monkeypatch.setattr(parts, "POINTS_PER_PART", 4)
        monkeypatch.setattr(parts, "INLINE_ITEM_BYTES", 200)
        monkeypatch.setattr(parts, "ITEM_PART_BYTES", 400)

    def run(self, lengths: dict[str, int], **files: bytes) -> list[Content]:
        """An experiment with a run that has histories of some lengths, and files."""
        histories = [memory.history(key, *range(length)) for key, length in lengths.items()]
        experiment = Content(entity=Experiment(experiment_id="98", name="98"))
        return [experiment, memory.run(RUN_ID, "98", histories=histories, artifacts=files)]

    def dataset(self, numbers: Sequence[int]) -> list[Content]:
        """An evaluation dataset with a record for each number."""
        records = [
            DatasetRecord(dataset_record_id=f"r-{number}", inputs=f'{{"number": {number}}}')
            for number in numbers
        ]
        entity = EvaluationDataset(dataset_id="d-1", name="questions")
        return [Content(entity=entity, items=lambda: iter(records))]

    def killed(self, made: list[Content]) -> None:
        """Export until the last part of what comes in parts is written."""

        def histories(content: Content) -> Iterator[MetricHistory]:
            yield from content.histories()
            raise Killed

        def items(content: Content) -> Iterator[msgspec.Struct]:
            yield from content.items()
            raise Killed

        dying = [
            replace(
                content,
                histories=functools.partial(histories, content),
                items=functools.partial(items, content),
            )
            for content in made
        ]
        with pytest.raises(Killed):
            export(self._path, dying)

    def gone_on(self, made: list[Content]) -> Report:
        report = export(self._path, made)
        assert verified(self._path).problems == []
        return report

    def read(self) -> dict[str, Content]:
        """What the bundle holds, by id."""
        source = BundleSource(open_tree(str(self._path)), name="")
        source.select(ALL, Report("import-all"))
        return {content.entity.id: content for content in source.iter_contents()}

    def steps(self) -> dict[str, list[int]]:
        """Steps of each history."""
        found: dict[str, list[int]] = {}
        for chunk in self.read()[RUN_ID].histories():
            found.setdefault(chunk.key, []).extend(chunk.steps)
        return found


@pytest.fixture
def half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HalfWritten:
    return HalfWritten(tmp_path / "b.mlbundle", monkeypatch)


def test_histories_go_on_behind_the_part_that_was_the_last_one(half_written: HalfWritten) -> None:
    half_written.killed(half_written.run({"a": 3, "b": 6, "c": 9}))
    report = half_written.gone_on(half_written.run({"a": 3, "b": 6, "c": 15}))
    assert half_written.steps() == {"a": [0, 1, 2], "b": [*range(6)], "c": [*range(15)]}
    assert report.losses == []


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        ({"a": 2, "b": 10, "c": 9}, 6),  # a part more than there is room for
        ({"a": 2, "b": 7, "c": 9}, 6),  # another last part
        ({"a": 2, "b": 2, "c": 9}, 6),  # short now
        ({"a": 2, "c": 9}, 6),  # gone
    ],
)
def test_a_history_whose_place_is_passed_is_as_it_was_and_a_loss(
    half_written: HalfWritten, now: dict[str, int], kept: int
) -> None:
    half_written.killed(half_written.run({"a": 2, "b": 6, "c": 9}))
    report = half_written.gone_on(half_written.run(now))
    assert half_written.steps() == {"a": [0, 1], "b": [*range(kept)], "c": [*range(9)]}
    assert [(loss.kind, loss.id, loss.field) for loss in report.losses] == [
        ("run", RUN_ID, "metrics.b")
    ]


def test_a_history_that_became_long_when_its_place_was_passed_is_a_loss(
    half_written: HalfWritten,
) -> None:
    half_written.killed(half_written.run({"a": 2, "b": 6}))
    report = half_written.gone_on(half_written.run({"a": 3, "b": 6}))
    assert half_written.steps() == {"b": [*range(6)]}
    assert [loss.field for loss in report.losses] == ["metrics.a"]


@pytest.mark.parametrize(
    ("now", "losses"),
    [
        (range(40), []),
        (range(60), []),  # more behind the end
        (range(-1, 40), ["items"]),  # one more at the beginning
        (range(2), ["items"]),
    ],
)
def test_items_go_on_behind_the_parts_that_were_written(
    half_written: HalfWritten, now: Sequence[int], losses: list[str]
) -> None:
    half_written.killed(half_written.dataset(range(40)))
    report = half_written.gone_on(half_written.dataset(now))
    records = [cast(DatasetRecord, item) for item in half_written.read()["d-1"].items()]
    if not losses:
        assert [record.inputs for record in records] == [
            f'{{"number": {number}}}' for number in now
        ]
    assert [loss.field for loss in report.losses] == losses


def test_files_that_vanished_or_changed_in_the_middle_of_a_run_are_listed(
    half_written: HalfWritten,
) -> None:
    half_written.killed(half_written.run({"a": 6}, gone=b"gone", other=b"1", same=b"same"))
    report = half_written.gone_on(half_written.run({"a": 6}, other=b"22", same=b"same"))
    artifacts = half_written.read()[RUN_ID].artifacts
    found = {file.path: artifacts.open(file).stream.read() for file in artifacts.files()}
    assert found == {"gone": b"gone", "other": b"1", "same": b"same"}
    assert report.notes == [
        "1 changed at the source, and are here as they were, since this export began:"
        f" artifact {RUN_ID}/other",
        "1 vanished from the source, and are here as they were, since this export began:"
        f" artifact {RUN_ID}/gone",
    ]


def test_a_run_that_vanished_when_half_of_it_was_written_is_a_loss(
    half_written: HalfWritten,
) -> None:
    made = half_written.run({"a": 6}, file=b"file")
    half_written.killed(made)
    report = half_written.gone_on(made[:1])
    assert list(half_written.read()) == ["98"]
    assert [(loss.kind, loss.id) for loss in report.losses] == [
        ("run", f"experiments/98/{RUN_ID}/run.json")
    ]


def test_behind_the_runs_of_an_experiment_that_vanished_nothing_goes_on(
    half_written: HalfWritten,
) -> None:
    half_written.killed(half_written.run({"a": 6}))
    other = Content(entity=Experiment(experiment_id="99", name="99"))
    with pytest.raises(BundleError, match="in the middle of experiments/98, which the source does"):
        half_written.gone_on([other])


def test_behind_the_files_of_a_version_that_vanished_nothing_goes_on(
    half_written: HalfWritten,
) -> None:
    class Dying(memory.MemoryArtifacts):
        def files(self) -> list[ArtifactFile]:
            raise Killed

    def model(*trees: memory.MemoryArtifacts) -> list[Content]:
        artifacts = dict(enumerate(trees, 4 - len(trees)))
        versions = [memory.version("m", number) for number in artifacts]
        entity = RegisteredModel(name="m", versions=versions)
        return [Content(entity=entity, version_artifacts=artifacts)]

    files = memory.MemoryArtifacts({"MLmodel": b"{}"})
    half_written.killed(model(files, files, Dying({})))
    with pytest.raises(BundleError, match="in the middle of models/m/versions/1, which"):
        half_written.gone_on(model(files, files))


def test_a_bundle_that_was_complete_but_for_its_name_gets_it(
    undisturbed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.mlbundle"
    Path(f"{path}.partial").write_bytes(undisturbed.read_bytes())
    export(path, contents())
    assert path.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("rest", [b"", b"something else", b"\x28\xb5\x2f\xfd" * 20])
def test_a_partial_file_without_a_whole_group_is_begun_anew(
    undisturbed: Path, tmp_path: Path, rest: bytes
) -> None:
    path = tmp_path / "b.mlbundle"
    Path(f"{path}.partial").write_bytes(rest)
    export(path, contents())
    assert path.read_bytes() == undisturbed.read_bytes()


def test_a_partial_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "b.mlbundle"
    made = contents()
    interrupt(path, made, FAR)
    held = find_unfinished(str(path))
    assert held is not None
    with pytest.raises(BundleError, match="being written by another process"):
        export(path, made)
    held.close()
