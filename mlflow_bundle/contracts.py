"""The two contracts of a transfer: where entities come from and where they go.

``transfer(source, sink, selection)`` (`transfer.py`) pairs any source with any sink. A source
hands out entities in *path order* (`layout.py`): an experiment's runs and logged models before the
experiment itself, experiments before registered models, so that a bundle can be written front to
back. A sink is told first of the entities that others refer to (:meth:`Sink.reserve`), parents
before children: one that gives new ids can therefore rewrite every reference the moment it writes
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple

from mlflow_bundle.entities import Entity, MetricHistory
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection

ArtifactMode = Literal["included", "reference", "skipped", "unreadable"]
"""What a bundle holds of an entity's artifacts: "none" and "not exported" differ."""

ArtifactPolicy = Literal["copy", "reference", "skip"]
"""What the user asked for with ``--artifacts``."""

MODE_OF_POLICY: dict[ArtifactPolicy, ArtifactMode] = {
    "copy": "included",
    "reference": "reference",
    "skip": "skipped",
}


class ArtifactFile(NamedTuple):
    """One artifact file of an entity."""

    path: str
    """POSIX path relative to the entity's artifact root, as MLflow shows it."""
    size: int | None
    """Bytes, or None when the store does not tell."""
    content_id: Hashable = None
    """Equal ids mean equal content, by the source's word; None when nothing is known."""


class OpenedArtifact(NamedTuple):
    """An artifact that is being read; the caller closes the stream."""

    stream: BinaryIO
    size: int


class ArtifactTree(ABC):
    """The artifact files of one run, logged model or model version."""

    mode: ArtifactMode = "included"

    @abstractmethod
    def files(self) -> list[ArtifactFile]:
        """Return every file, in path order. Listed once; later calls return the same list.

        Raises:
            ServerError: The store could not be listed.
        """

    @abstractmethod
    def open(self, file: ArtifactFile) -> OpenedArtifact:
        """Open one file of :meth:`files` for reading from its start.

        Raises:
            ServerError: The store refused or lacks the file.
            FormatError: The bundle that holds the file is damaged.
        """


class NoArtifacts(ArtifactTree):
    """A tree without files: artifacts that are referenced, skipped or cannot be read."""

    def __init__(self, mode: ArtifactMode = "included") -> None:
        self.mode = mode

    def files(self) -> list[ArtifactFile]:
        return []

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        raise KeyError(file.path)


def no_histories() -> Iterable[MetricHistory]:
    """Histories of an entity that has none."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One entity with everything that belongs to it."""

    entity: Entity
    artifacts: ArtifactTree = field(default_factory=NoArtifacts)
    histories: Callable[[], Iterable[MetricHistory]] = no_histories
    """Opens the metric histories: keys in the order of their escaped form
    (`documents.history_order`), a long key in several chunks."""
    version_artifacts: dict[int, ArtifactTree] = field(default_factory=dict)
    """Registered models: files of versions that lie outside every run and logged model moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What is recorded of a source in a bundle."""

    uri: str
    """Tracking URI or bundle name, without credentials."""
    mlflow_version: str
    """Version of the server (or of the one a bundle was made from); empty when unknown."""


class Source(ABC):
    """Where entities come from."""

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What this source is."""

    @abstractmethod
    def select(self, selection: Selection, report: Report) -> None:
        """Fix what will be handed out, with everything it depends on, and count it as planned.

        Raises:
            SelectionError: Something asked for does not exist.
            SourceError: The source cannot be read.
        """

    @abstractmethod
    def iter_entities(self, kind: str) -> Iterator[Entity]:
        """Yield the selected entities of one kind, in path order, without their content.

        Records may lack what only the content pass fetches. May be called repeatedly.
        """

    @abstractmethod
    def iter_contents(self, *, listing_only: bool = False) -> Iterator[Content]:
        """Yield every selected entity once, in path order.

        Each content's streams are read before the next one is asked for, unless the source says
        otherwise with :attr:`random_access`.

        Args:
            listing_only: Artifacts will be listed but not opened, histories not read.
        """

    random_access: bool = False
    """Whether contents stay readable after the next one was asked for, from any thread."""

    def close(self) -> None:
        """Free what the source holds."""


class Sink(ABC):
    """Where entities go."""

    reserved_kinds: tuple[str, ...] = ("experiment",)
    """Kinds whose entities :meth:`reserve` is told of before any :meth:`put`, in this order."""

    concurrent: bool = False
    """Whether :meth:`put` may be called from many threads at once and in any order."""

    @abstractmethod
    def begin(self, source: SourceInfo, selection: Selection) -> None:
        """Prepare for writing; called once, before everything else.

        Raises:
            SinkError: The sink cannot be written.
        """

    def reserve(self, entity: Entity, *, dry: bool = False) -> None:
        """Create or find the place of ``entity``: its id here is known afterwards.

        Harmless when called again for the same entity after a crash.

        Args:
            entity: One of :attr:`reserved_kinds`.
            dry: Whether it is only looked for.

        Raises:
            SinkError: The sink refused.
        """

    def examine(self, content: Content) -> None:
        """Report what is there already and every conflict, without writing.

        Called after a dry :meth:`reserve` of everything.
        """

    @abstractmethod
    def put(self, content: Content) -> None:
        """Write one entity with its content; its references are rewritten to this sink's ids.

        Harmless when called again after a crash: what is there already is kept. A value or file
        that cannot be written is a loss in the report, not an exception.

        Raises:
            SinkError: The sink failed as a whole.
            SourceError: The source failed as a whole while its streams were read.
        """

    @abstractmethod
    def finish(self) -> None:
        """Make complete what was put; called once, after the last :meth:`put`."""

    def abort(self) -> None:
        """Give up: nothing half-made may stay under a final name."""

    def close(self) -> None:
        """Free what the sink holds."""
