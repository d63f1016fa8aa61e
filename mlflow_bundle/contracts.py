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
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from mlflow_bundle.entities import EncodedHistory, Entity, MetricHistory
from mlflow_bundle.kinds import APART
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection

ArtifactMode = Literal["included", "reference", "skipped", "unreadable"]
"""What a bundle holds of an entity's artifacts: "none" and "not exported" differ."""

ArtifactPolicy = Literal["copy", "reference", "skip"]
"""What the user asked for with ``--artifacts``."""

FileReading = Literal["ahead", "open", "list", "none"]
"""What is done with artifacts while contents are handed out."""

HistoryReading = bool | Literal["encoded", "items"]
"""Whether histories and items will be read, and whether histories are wanted encoded; or only
items, and those of kinds that have few."""

Wanted = Callable[[str, str, str], bool]
"""Whether the content of an entity is wanted: kind, id, id of the experiment it lies in or ""."""

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


class HeldMember(NamedTuple):
    """Where another process of this machine can read a file itself."""

    descriptor: int
    """Of the open bundle that holds it."""
    path: str
    """Of the member."""


Sizes = Sequence[int | None]
"""Of files that another process writes, in bytes; None for one that it did not write."""


class ArtifactTree(ABC):
    """The artifact files of one run, logged model or model version."""

    mode: ArtifactMode = "included"

    is_near: bool = False
    """Whether files lie on a disk of this machine: fetching them ahead would gain nothing."""

    random_access: bool = False
    """Whether files may be opened in any order, from any thread, and after their content was
    left."""

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

    def held(self, file: ArtifactFile) -> HeldMember | None:
        """Return where another process can read one file of :meth:`files`, if it can."""
        return None


class NoArtifacts(ArtifactTree):
    """A tree without files: artifacts that are referenced, skipped or cannot be read."""

    is_near = True

    def __init__(self, mode: ArtifactMode = "included") -> None:
        self.mode = mode

    def files(self) -> list[ArtifactFile]:
        return []

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        raise KeyError(file.path)


def no_histories() -> Iterable[MetricHistory]:
    """Histories of an entity that has none."""
    return ()


def no_items() -> Iterable[msgspec.Struct]:
    """Items of an entity that has none."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One entity with everything that belongs to it."""

    entity: Entity
    artifacts: ArtifactTree = field(default_factory=NoArtifacts)
    histories: Callable[[], Iterable[MetricHistory]] = no_histories
    """Opens the metric histories: keys in the order of their escaped form
    (`documents.history_order`), a long key in several chunks."""
    encoded_histories: Callable[[], Iterable[MetricHistory | EncodedHistory]] | None = None
    """The same, short ones encoded, where they were wanted so and the source does that."""
    version_artifacts: dict[int, ArtifactTree] = field(default_factory=dict)
    """Registered models: files of versions that lie outside every run and logged model moved."""
    items: Callable[[], Iterable[msgspec.Struct]] = no_items
    """Opens what a plain entity has many of (`kinds.Kind.item`), in the source's order."""


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

    def shows(self, kind: str) -> bool:
        """Whether entities of a kind would be handed out if there were some."""
        return kind not in APART

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
    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        """Yield every selected entity once, in path order.

        Each content's streams are read before the next one is asked for, unless the source says
        otherwise with :attr:`random_access`.

        Args:
            files: Whether artifacts will be opened, about in path order (``open``), also
                before the next content is asked for, whatever :attr:`random_access` says
                (``ahead``: they may be fetched before they are asked for); mostly listed, a few
                opened (``list``); or neither, and then there are none (``none``).
            histories: Whether histories and items will be read; ``encoded`` if it is by
                :attr:`Content.encoded_histories`, where there are some; ``items`` if only items
                are, and none of kinds that have many (``Kind.has_many_items``).
            wanted: Leaves out entities for which it is false; nothing of theirs is fetched.
        """

    def conclude(self) -> None:
        """Tell the report what only shows when all contents have been read."""

    @property
    def requests(self) -> int:
        """Requests sent so far, where there are some."""
        return 0

    random_access: bool = False
    """Whether contents stay readable after the next one was asked for, from any thread."""

    def close(self) -> None:
        """Free what the source holds."""


class Sink(ABC):
    """Where entities go."""

    reserved_kinds: tuple[str, ...] = ("experiment",)
    """Kinds whose entities :meth:`reserve` is told of before any :meth:`put`, in this order."""

    takes_files: bool = True
    """Whether artifacts are written, or left where they are."""

    @property
    def requests(self) -> int:
        """Requests sent so far, where there are some."""
        return 0

    takes_encoded_histories: bool = False
    """Whether :attr:`Content.encoded_histories` is read where there are some."""

    in_order: bool = False
    """Whether :meth:`put` reads the files of a content one by one in path order, before it
    returns."""

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

    def wants(self, kind: str, id: str, parent: str) -> bool:
        """Whether :meth:`put` needs the content of an entity; arguments as of :data:`Wanted`."""
        return True

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
