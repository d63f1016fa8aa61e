"""What writes one kind of plain entity to a server over REST."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import ClassVar

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import mask_json
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import SinkError
from mlflow_bundle.remap import Placed
from mlflow_bundle.rest.destination import IN_DELETED, Destination


class Writer(ABC):
    """Writes the entities of one kind.

    An import calls, in this order: :meth:`begin`; :meth:`reserve` for each entity, where
    ``reserves``, before any is put; :meth:`put` for each, from many threads and in any order;
    :meth:`finish` when everything was put; then the runs and experiments are deleted that are
    deleted in the bundle; then :meth:`complete`.

    Every step is harmless when it is repeated after a crash: it looks first, then writes what is
    missing.

    Args:
        destination: The server.
    """

    kind: ClassVar[str]
    reserves: ClassVar[bool] = False
    """Whether other entities hold ids of this kind that change: then it is placed before them."""
    hides_in_deleted: ClassVar[bool] = False
    """Whether the server shows none of deleted experiments."""

    def __init__(self, destination: Destination) -> None:
        self._to = destination

    def begin(self) -> None:
        """Look at the server; called once."""

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        """Find or make the entity and record it in ``Destination.remap``.

        Args:
            entity: The bundle's, without items.
            dry: Whether it is only looked for.

        Raises:
            SinkError: The server refused.
        """

    @abstractmethod
    def examine(self, content: Content) -> None:
        """Report what is there already (``Report.found``) and every conflict; write nothing."""

    @abstractmethod
    def put(self, content: Content) -> None:
        """Write what the server lacks of the entity, and count it as done or as found.

        Raises:
            SinkError: The server refused: the entity is a loss.
        """

    def finish(self) -> None:
        """Write what had to wait for every other entity; called once."""

    def complete(self) -> None:
        """Write what a deletion of runs and experiments would have taken; called once."""

    def close(self) -> None:
        """Free what is held."""

    def _place(self, entity: PlainEntity) -> Placed:
        """Return the experiment here that the entity belongs to; it may be deleted here.

        Raises:
            SinkError: It could not be made.
        """
        place = self._to.remap.find("experiment", entity.parent)
        if place is None:
            raise SinkError(
                f"{entity.kind} {entity.id}: its experiment {entity.parent} could not be made",
                status=409,
            )
        return place

    def _experiment(self, entity: PlainEntity) -> Placed:
        """Return the experiment here that the entity can be made in.

        Raises:
            SinkError: It could not be made, or was deleted here before this import.
        """
        place = self._place(entity)
        if place.id in self._to.deleted_experiments:
            unseen = " (until then the server does not show whether it has come before)"
            raise SinkError(
                f"{entity.kind} {entity.id}: {IN_DELETED}" + unseen * self.hides_in_deleted,
                status=409,
            )
        return place


def same_json(here: str | None, bundle: str | None) -> bool:
    """Whether a JSON text here is the bundle's, in which credentials are masked."""
    if here is None or bundle is None:
        return here is bundle
    return bool(json.loads(mask_json(here)) == json.loads(bundle))
