"""Files that are on their way before they are asked for: in order, out of it, and again."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mlflow_bundle import files_ahead
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, Content, OpenedArtifact
from mlflow_bundle.entities import Run, RunInfo
from mlflow_bundle.errors import SourceError
from mlflow_bundle.files_ahead import with_files_ahead

FILES = 40


class FarTree(ArtifactTree):
    """Files that hold their names, and a count of how often each was fetched."""

    def __init__(self, name: str) -> None:
        self.mode = "included"
        self.name = name
        self.fetched: dict[str, int] = {}

    def files(self) -> list[ArtifactFile]:
        return [ArtifactFile(f"{n:03}", len(self.content(f"{n:03}"))) for n in range(FILES)]

    def content(self, path: str) -> bytes:
        return f"{self.name}/{path}".encode()

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        self.fetched[file.path] = self.fetched.get(file.path, 0) + 1
        data = self.content(file.path)
        return OpenedArtifact(io.BytesIO(data), len(data))


def content(tree: ArtifactTree) -> Content:
    info = RunInfo(run_id="r", experiment_id="0", run_name="r", user_id="u", start_time=1)
    return Content(entity=Run(info=info), artifacts=tree)


@contextmanager
def ahead(trees: list[FarTree]) -> Iterator[Iterator[Content]]:
    with ThreadPoolExecutor(8) as pool:
        pairs = ((content(tree), None) for tree in trees)
        yield (each for each, _ in with_files_ahead(pairs, pool, files="open"))


def read(tree: ArtifactTree, file: ArtifactFile) -> bytes:
    with tree.open(file).stream as stream:
        return stream.read()


def test_threads_that_overtake_each_other_get_their_files() -> None:
    random.seed(1)

    def late(tree: ArtifactTree, file: ArtifactFile) -> bytes:
        time.sleep(random.random() / 100)
        return read(tree, file)

    trees = [FarTree("a"), FarTree("b"), FarTree("c")]
    with ahead(trees) as contents, ThreadPoolExecutor(8) as writers:
        for tree, each in zip(trees, contents, strict=True):
            files = each.artifacts.files()
            got = list(writers.map(late, [each.artifacts] * FILES, files))
            assert got == [tree.content(file.path) for file in files]
            assert set(tree.fetched.values()) == {1}


@pytest.mark.parametrize("kept", [0, files_ahead._BYTES_PASSED])
def test_a_file_may_be_opened_out_of_order_and_again(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_ahead, "_BYTES_PASSED", kept)
    trees = [FarTree("a"), FarTree("b"), FarTree("c")]
    with ahead(trees) as contents:
        first = next(contents)
        files = first.artifacts.files()
        for file in (files[-1], files[3], files[-1], files[0]):
            assert read(first.artifacts, file) == trees[0].content(file.path)
        second = next(contents)
        assert read(first.artifacts, files[7]) == trees[0].content("007")  # let go, and there
        assert read(second.artifacts, files[7]) == trees[1].content("007")
        assert read(next(contents).artifacts, files[0]) == trees[2].content("000")
        assert next(contents, None) is None


def test_a_source_that_fails_ends_the_contents_and_is_no_files_fault() -> None:
    def contents() -> Iterator[tuple[Content, None]]:
        for tree in trees:
            yield content(tree), None
        raise SourceError("what follows is lost", status=500)

    def read_all() -> None:
        for each, _ in with_files_ahead(contents(), pool, files="open"):
            for file in each.artifacts.files():
                try:
                    read(each.artifacts, file)
                except SourceError:
                    lost.append(file)

    trees = [FarTree(str(number)) for number in range(50)]
    lost: list[ArtifactFile] = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(SourceError, match="what follows is lost"):
        read_all()
    assert lost == []
