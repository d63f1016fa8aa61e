"""The items of entities, each entity's read by one thread of the pool and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor

import msgspec

from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.readers.base import Fetched
from mlflow_bundle.spooled import Spooled


class FetchedItems(Fetched):
    """The items of some entities of one kind.

    What a server refuses half way is a failure of ``field``; the items before it are handed out.

    Args:
        pool: Reads them.
        openers: Id of an entity to what yields its items.
        type: Type of the items.
        field: What the items are called in a report.
    """

    def __init__(
        self,
        pool: Executor,
        openers: Mapping[str, Callable[[], Iterable[msgspec.Struct]]],
        *,
        type: type[msgspec.Struct],
        field: str,
    ) -> None:
        self._field = field
        self._items: dict[str, Spooled[msgspec.Struct]] = {id: Spooled(type) for id in openers}
        self._failed: dict[str, str] = {}
        self._futures = [pool.submit(self._fetch, id, opener) for id, opener in openers.items()]

    def _fetch(self, id: str, opener: Callable[[], Iterable[msgspec.Struct]]) -> None:
        try:
            for item in opener():
                self._items[id].add(item)
        except ServerError as exc:
            if exc.status is None:
                raise
            self._failed[id] = exc.message

    def wait(self) -> None:
        for future in self._futures:
            future.result()

    def items(self, id: str) -> Iterable[msgspec.Struct]:
        return self._items[id]

    def failures(self, id: str) -> list[tuple[str, str]]:
        return [(self._field, self._failed[id])] if id in self._failed else []

    def close(self) -> None:
        for items in self._items.values():
            items.close()
