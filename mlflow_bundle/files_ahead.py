"""Artifact files that are on their way before they are asked for.

A sink asks for the files of one entity after the other. Behind its back the trees of entities to
come are listed and their small files read, many at once, within a budget of bytes; large ones are
opened when it is their turn, and those that lie on this machine are left to who asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import BinaryIO, Generic, TypeVar, cast

from mlflow_bundle.archive.content import HashedBytes
from mlflow_bundle.artifacts import SMALL_BYTES
from mlflow_bundle.contracts import (
    ArtifactFile,
    ArtifactTree,
    Content,
    FileReading,
    NoArtifacts,
    OpenedArtifact,
)
from mlflow_bundle.errors import SourceError
from mlflow_bundle.prefetch import ordered_prefetch

_BYTES_AHEAD = 64 * 1024 * 1024
_FILES_AHEAD = 64
_LISTINGS_AHEAD = 32

ExtraT = TypeVar("ExtraT")


def with_files_ahead(
    contents: Iterable[tuple[Content, ExtraT]], pool: Executor, *, files: FileReading
) -> Iterator[tuple[Content, ExtraT]]:
    """Yield contents whose artifacts are on their way.

    Their files must be opened in path order, and those of one content before the next is taken.

    Args:
        contents: In the order in which they are handed out; pulled some way ahead. Each may come
            with something that is handed through.
        pool: Lists and reads.
        files: What will be asked of the artifacts.
    """
    units = (_Unit(content, extra) for content, extra in contents)
    if files == "none":
        for unit in units:
            yield replace(unit.content, artifacts=NoArtifacts(), version_artifacts={}), unit.extra
        return

    opens = files != "list"

    def start_listing(unit: _Unit[ExtraT]) -> None:
        unit.listings = [(tree, pool.submit(tree.files)) for tree in unit.trees]

    def start_file(step: _Step[ExtraT]) -> None:
        if opens and step.tree is not None and step.file is not None and step.is_small:
            step.opened = pool.submit(_read, step.tree, step.file)

    steps = ordered_prefetch(
        _steps(ordered_prefetch(units, start_listing, budget=_LISTINGS_AHEAD)),
        start_file,
        budget=_BYTES_AHEAD,
        cost=lambda step: step.cost,
        most=_FILES_AHEAD,
    )
    for step, _ in steps:
        if step.file is not None:
            continue  # one that nobody asked for
        content = step.unit.content
        ahead = replace(
            content,
            artifacts=_tree_ahead(content.artifacts, steps),
            version_artifacts={
                number: _tree_ahead(tree, steps)
                for number, tree in content.version_artifacts.items()
            },
        )
        yield ahead, step.unit.extra


@dataclass(slots=True)
class _Unit(Generic[ExtraT]):
    """A content on its way through the pipeline."""

    content: Content
    extra: ExtraT
    listings: list[tuple[ArtifactTree, Future[list[ArtifactFile]]]] = field(default_factory=list)

    @property
    def trees(self) -> list[ArtifactTree]:
        trees = (self.content.artifacts, *self.content.version_artifacts.values())
        return [tree for tree in trees if not tree.is_near]


@dataclass(slots=True)
class _Step(Generic[ExtraT]):
    """A content, or one of its files, on its way through the pipeline."""

    unit: _Unit[ExtraT]
    tree: ArtifactTree | None = None
    file: ArtifactFile | None = None
    opened: Future[OpenedArtifact] | None = None

    @property
    def is_small(self) -> bool:
        return self.file is not None and (self.file.size is None or self.file.size <= SMALL_BYTES)

    @property
    def cost(self) -> int:
        if self.file is None or not self.is_small:
            return 0
        return self.file.size if self.file.size is not None else SMALL_BYTES


def _steps(units: Iterable[tuple[_Unit[ExtraT], None]]) -> Iterator[_Step[ExtraT]]:
    for unit, _ in units:
        yield _Step(unit)
        for tree, listing in unit.listings:
            if listing.exception() is None:
                for file in listing.result():
                    yield _Step(unit, tree, file)


def _tree_ahead(tree: ArtifactTree, steps: Iterator[tuple[_Step[ExtraT], None]]) -> ArtifactTree:
    return tree if tree.is_near else _TreeAhead(tree, steps)


class _TreeAhead(ArtifactTree):
    """A tree whose small files are already on their way, in the order they are asked for."""

    def __init__(self, tree: ArtifactTree, steps: Iterator[tuple[_Step[ExtraT], None]]) -> None:
        self.mode = tree.mode
        self._tree = tree
        self._steps = steps

    def files(self) -> list[ArtifactFile]:
        return self._tree.files()

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        for step, _ in self._steps:
            if step.tree is self._tree and step.file == file:
                opened = step.opened.result() if step.opened is not None else self._tree.open(file)
                if file.size is not None and opened.size != file.size:
                    opened.stream.close()
                    raise SourceError(
                        f"{opened.size} bytes came, the listing says {file.size}",
                        status=HTTPStatus.BAD_GATEWAY,
                    )
                return opened
        raise RuntimeError(f"artifact {file.path} was not asked for in path order")


def _read(tree: ArtifactTree, file: ArtifactFile) -> OpenedArtifact:
    """Open a file, and read it whole if it is as small as it was said to be."""
    opened = tree.open(file)
    if opened.size > SMALL_BYTES:
        return opened
    with opened.stream:
        data = opened.stream.read(opened.size + 1)
    return OpenedArtifact(cast(BinaryIO, HashedBytes(data)), len(data))
