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
from threading import Lock
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
_BYTES_PASSED = 32 * 1024 * 1024
"""What is kept of files that were passed over, for threads that ask out of order."""

ExtraT = TypeVar("ExtraT")
_Key = tuple[int, str]
"""Identity of a tree and the path of a file."""


def with_files_ahead(
    contents: Iterable[tuple[Content, ExtraT]], pool: Executor, *, files: FileReading
) -> Iterator[tuple[Content, ExtraT]]:
    """Yield contents whose artifacts are on their way.

    Their files are opened at best in path order, and before the next content is taken. From any
    thread they may be opened otherwise too, and more than once: then some are fetched again.

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
    line = _Line(step for step, _ in steps)
    while (next_unit := line.next_unit()) is not None:
        content = next_unit.content
        ahead = replace(
            content,
            artifacts=_tree_ahead(content.artifacts, line),
            version_artifacts={
                number: _tree_ahead(tree, line)
                for number, tree in content.version_artifacts.items()
            },
        )
        yield ahead, next_unit.extra


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


class _Line(Generic[ExtraT]):
    """The steps in their order, of which threads take those of one content."""

    def __init__(self, steps: Iterator[_Step[ExtraT]]) -> None:
        self._steps = steps
        self._lock = Lock()
        self._ahead: set[_Key] = set()
        """Files of the content in hand that are still among the steps."""
        self._passed: dict[_Key, _Step[ExtraT]] = {}
        """Steps of others that another thread has met on its way to its own, oldest first."""
        self._bytes_passed = 0
        self._failure: Exception | None = None

    def next_unit(self) -> _Unit[ExtraT] | None:
        """Return the next content; None after the last. Files of the one before are let go."""
        with self._lock:
            self._ahead.clear()
            while self._passed:
                self._drop_oldest()
            while (step := self._next()) is not None:
                if step.file is None:
                    self._ahead = {
                        (id(tree), file.path)
                        for tree, listing in step.unit.listings
                        if listing.exception() is None
                        for file in listing.result()
                    }
                    return step.unit
                _drop(step)
            if self._failure is not None:
                raise self._failure
        return None

    def take(self, tree: ArtifactTree, file: ArtifactFile) -> _Step[ExtraT] | None:
        """Return the step of a file; None where it was taken or let go."""
        key = (id(tree), file.path)
        with self._lock:
            while key in self._ahead:
                step = self._next()
                if step is None:  # what comes next cannot be had, which is not this file's fault
                    self._ahead.clear()
                    break
                assert step.file is not None
                met = (id(step.tree), step.file.path)
                self._ahead.discard(met)
                self._passed[met] = step
                self._bytes_passed += step.cost
            found = self._passed.pop(key, None)
            if found is not None:
                self._bytes_passed -= found.cost
            while self._bytes_passed > _BYTES_PASSED:
                self._drop_oldest()
        return found

    def _next(self) -> _Step[ExtraT] | None:
        """Return the next step; None after the last, or where the source fails at what follows."""
        try:
            return next(self._steps, None)
        except Exception as exc:  # for who asks for the next content
            self._failure = exc
            return None

    def _drop_oldest(self) -> None:
        step = self._passed.pop(next(iter(self._passed)))
        self._bytes_passed -= step.cost
        _drop(step)


def _drop(step: _Step[ExtraT]) -> None:
    if step.opened is not None and not step.opened.cancel():
        step.opened.add_done_callback(_close)


def _close(opened: Future[OpenedArtifact]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().stream.close()


def _tree_ahead(tree: ArtifactTree, line: _Line[ExtraT]) -> ArtifactTree:
    return tree if tree.is_near else _TreeAhead(tree, line)


class _TreeAhead(ArtifactTree):
    """A tree whose small files are already on their way."""

    def __init__(self, tree: ArtifactTree, line: _Line[ExtraT]) -> None:
        self.mode = tree.mode
        self._tree = tree
        self._line = line

    def files(self) -> list[ArtifactFile]:
        return self._tree.files()

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        step = self._line.take(self._tree, file)
        if step is None or step.opened is None:
            opened = self._tree.open(file)
        else:
            opened = step.opened.result()
        if file.size is not None and opened.size != file.size:
            opened.stream.close()
            raise SourceError(
                f"{opened.size} bytes came, the listing says {file.size}",
                status=HTTPStatus.BAD_GATEWAY,
            )
        return opened


def _read(tree: ArtifactTree, file: ArtifactFile) -> OpenedArtifact:
    """Open a file, and read it whole if it is as small as it was said to be."""
    opened = tree.open(file)
    if opened.size > SMALL_BYTES:
        return opened
    with opened.stream:
        data = opened.stream.read(opened.size + 1)
    return OpenedArtifact(cast(BinaryIO, HashedBytes(data)), len(data))
