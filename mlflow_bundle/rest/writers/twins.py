"""Which entity here is which of a bundle's, where neither an id nor a unique name tells."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from mlflow_bundle.entities import PlainEntity

EntityT = TypeVar("EntityT", bound=PlainEntity)


def match(
    bundle: Iterable[EntityT],
    here: Iterable[EntityT],
    *,
    key: Callable[[EntityT], Hashable],
    state: Callable[[EntityT], object],
) -> dict[str, EntityT]:
    """Return, by the id of the bundle's entity, the one here that it is.

    Of several with one key those that are equal belong together; of the others the first to the
    first. Each here is at most one of the bundle's, and the same on every import.

    Args:
        bundle: All entities of the kind in the bundle, with the ids of this server in them.
        here: All entities of the kind at the destination.
        key: What tells entities apart.
        state: What may differ between an entity and what it was before.
    """
    twins: dict[Hashable, list[EntityT]] = {}
    for entity in sorted(here, key=lambda entity: entity.id):
        twins.setdefault(key(entity), []).append(entity)
    matched: dict[str, EntityT] = {}
    left: list[EntityT] = []
    for entity in sorted(bundle, key=lambda entity: entity.id):
        candidates = twins.get(key(entity), [])
        equal = next((twin for twin in candidates if state(twin) == state(entity)), None)
        if equal is None:
            left.append(entity)
        else:
            candidates.remove(equal)
            matched[entity.id] = equal
    for entity in left:
        candidates = twins.get(key(entity), [])
        if candidates:
            matched[entity.id] = candidates.pop(0)
    return matched
