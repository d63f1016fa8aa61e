"""What reads one kind of plain entity from a server over REST."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.entities import Experiment, PlainEntity, Run
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds import Kind
from mlflow_bundle.kinds.reviews import ReviewQueue
from mlflow_bundle.report import Loss
from mlflow_bundle.rest.artifacts import ArtifactOwner
from mlflow_bundle.rest.session import Session, since

StructT = TypeVar("StructT", bound=msgspec.Struct)

_FIRST_HIDDEN = (3, 4)
"""When the first came of the kinds that the server hides in deleted experiments: scorers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a selection means for kinds other than runs and models.

    Attributes:
        experiments: Those that travel with everything in them.
        whole_server: Whether what lies in no experiment travels too.
        runs: Yields the runs that travel.
        prompt_versions: Those that travel, as ``name/number``.
    """

    experiments: tuple[Experiment, ...]
    whole_server: bool
    runs: Callable[[], Iterator[Run]] = lambda: iter(())
    prompt_versions: tuple[str, ...] = ()

    @property
    def active(self) -> list[Experiment]:
        """Experiments that are not deleted: many listings refuse the others."""
        return [e for e in self.experiments if e.lifecycle_stage == "active"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What every reader of an export shares.

    Attributes:
        session: The server.
        version: Its version.
        pool: Runs requests side by side.
        lose: ``Report.lose`` of the report of this export.
        note: ``Report.note`` of it.
        tree: Opens the artifacts at a URI, as the user's ``--artifacts`` asks for.
        list_label_schemas: Whether the user permits the one write that a listing may cause.
        queues: Review queues by experiment, as far as they were listed: two readers need them.
    """

    session: Session
    version: tuple[int, ...]
    pool: Executor
    lose: Callable[..., Loss]
    note: Callable[[str], None]
    tree: Callable[[str, ArtifactOwner], ArtifactTree]
    list_label_schemas: bool = False
    queues: dict[str, list[ReviewQueue]] = field(default_factory=dict)

    def since(self, *version: int) -> bool:
        """Whether the server has what came with MLflow ``version``."""
        return since(self.version, *version)


class Fetched(ABC):
    """The content of some entities of one kind, being fetched."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until everything has come.

        Raises:
            ServerError: The server cannot be reached.
        """

    def entity(self, entity: PlainEntity) -> PlainEntity:
        """Return the record of an entity with what only its content tells."""
        return entity

    def items(self, id: str) -> Iterable[msgspec.Struct]:
        """Return the items of one entity."""
        return ()

    def failures(self, id: str) -> list[tuple[str, str]]:
        """Return the fields of one entity that the server did not give, with the reason."""
        return []

    def close(self) -> None:
        """Free what is held."""


class FetchedVersions(Fetched, Generic[StructT]):
    """The versions of some entities, which are their items.

    Args:
        pool: Runs requests side by side.
        read: Lists the versions of an entity by its id.
        ids: Which entities.
    """

    def __init__(
        self, pool: Executor, read: Callable[[str], list[StructT]], ids: Iterable[str]
    ) -> None:
        self._futures = {id: pool.submit(read, id) for id in ids}

    def wait(self) -> None:
        for future in self._futures.values():
            exc = future.exception()
            if exc is not None and not (isinstance(exc, ServerError) and exc.status is not None):
                raise exc

    def items(self, id: str) -> list[StructT]:
        future = self._futures[id]
        return [] if future.exception() is not None else future.result()

    def failures(self, id: str) -> list[tuple[str, str]]:
        exc = self._futures[id].exception()
        return [("versions", exc.message)] if isinstance(exc, ServerError) else []


class Reader(ABC):
    """Reads the entities of one kind. Only reads: no request may change the server.

    Args:
        reading: The server and the report.
    """

    kind: Kind
    first: ClassVar[tuple[int, int]]
    """The version of MLflow with which the kind came."""
    in_files: ClassVar[Literal["always", "perhaps", "never"]] = "never"
    """Whether a server has the kind that keeps its tracking data in files, not in a database."""
    batch_size = 1
    """Entities whose content is fetched together."""

    def __init__(self, reading: Reading) -> None:
        self._from = reading

    @abstractmethod
    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        """Yield the entities that travel, without what :meth:`start` fetches.

        Raises:
            ServerError: The server refused: the kind is lost, or, where the server does not know
                it, not there. One that a single object causes is better listed with
                ``Reading.lose``.
        """

    def start(self, entities: list[PlainEntity]) -> Fetched | None:
        """Begin to fetch the content of consecutive entities; None where there is none."""
        return None

    def tree(self, entity: PlainEntity) -> ArtifactTree | None:
        """Return the artifacts of an entity, of a kind that has some."""
        return None

    def _visible(self, chosen: Chosen) -> list[Experiment]:
        """Return the experiments that are not deleted; note that nothing is shown of others."""
        if len(chosen.active) < len(chosen.experiments) and self._from.since(*_FIRST_HIDDEN):
            self._from.note(
                "of deleted experiments the server shows no scorers, label schemas and review "
                "queues: whether there are any is not known"
            )
        return chosen.active

    def _lose_all(self, error: ServerError, experiment_id: str) -> None:
        """List that the entities of one experiment could not be listed.

        Raises:
            ServerError: The server cannot be reached, or does not know the kind.
        """
        if error.status is None or self._from.session.is_absent(error):
            raise error
        self._from.lose(self.kind.name, "all", error.message, parent=experiment_id)

    def _get(self, endpoint: str, **options: Any) -> Any:
        return self._from.session.get(endpoint, **options)
