"""Finds, by their origin tags, what earlier imports made under other ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy

from mlflow_bundle import provenance
from mlflow_bundle.sql.target import Target


class OriginTags:
    """Finds what earlier imports made under other ids.

    Args:
        to: The database.
        table: Of the entities.
        id: Its id.
        tags: Table of their tags.
        key: Its column of names.
        value: Its column of values.
        within: Column of ``table`` of what they lie in.
    """

    def __init__(
        self,
        to: Target,
        *,
        table: str,
        id: str,
        tags: str,
        within: str,
        key: str = "key",
        value: str = "value",
    ) -> None:
        self._to = to
        entities, tag = to.table(table), to.table(tags)
        self._within = entities.c[within]
        self._statement = (
            sqlalchemy.select(tag.c[value], entities.c[id])
            .join_from(tag, entities, tag.c[id] == entities.c[id])
            .where(tag.c[key] == provenance.ORIGIN)
        )
        self._found: dict[Any, dict[str, str]] = {}

    def find(self, within: Any, origins: Iterable[str]) -> str | None:
        """Return the id here of what has one of these origins."""
        if within not in self._found:
            rows = self._to.connection.execute(self._statement.where(self._within == within))
            self._found[within] = {origin: str(id) for origin, id in rows}
        found = self._found[within]
        return next((found[origin] for origin in origins if origin in found), None)
