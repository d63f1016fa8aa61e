"""Reads skills with their versions, and the files that were uploaded for these (MLflow >= 3.18)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.kinds.skills import SKILL, Skill, SkillVersion, id_of, split_id
from mlflow_bundle.skill_files import VersionTrees
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.artifacts import in_workspace
from mlflow_bundle.sql.readers.base import (
    MADE,
    Chosen,
    Ids,
    Items,
    Nulls,
    Reader,
    Reading,
    ids_of,
    made,
)
from mlflow_bundle.sql.rows import Row

_COLUMNS = ("organization", "name", "description", "icons", *MADE)
_VERSION = ("version", "source_type", "source", "ref", "subpath", "digest", "status")


class SkillReader(Reader):
    """Reads skills."""

    kind = SKILL.name

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading)
        self._files: dict[str, dict[int, str]] = {}
        """Where the files of versions lie, by skill and number."""

    def select(self, chosen: Chosen) -> Ids:
        if not chosen.whole_server:
            return
        for batch in self._rows.batches("skills", ("organization", "name")):
            for organization, name in batch:
                yield id_of(organization, name), ""

    def read(self, wanted: Sequence[Selected]) -> Iterator[Skill]:
        ids = ids_of(wanted)
        tags = self._below("skill_tags", ids, ("key", "value"))
        aliases = self._below("skill_aliases", ids, ("alias", "version"))
        versions = self._below("skill_versions", ids, _VERSION)
        names = sorted({split_id(id)[1] for id in ids})
        for values in self._rows.select("skills", _COLUMNS, where={"name": names}):
            row = dict(zip(_COLUMNS, values, strict=True))
            id = id_of(row["organization"], row["name"])
            if id not in ids:
                continue
            self._files[id] = {
                version.version: in_workspace(version.source or "", self._rows.workspace)
                for version in (_version(values) for values in versions.get(id, ()))
                if version.has_files
            }
            nulls = Nulls()
            yield Skill(
                name=row["name"],
                organization=row["organization"],
                description=row["description"],
                icons=self._icons(id, row["icons"], nulls),
                tags=nulls.tags("tags", tags.get(id, ())),
                aliases=dict(sorted(aliases.get(id, ()))),
                **made(row),
                null_fields=nulls.names,
            )

    def read_items(self, wanted: Sequence[Selected]) -> Items:
        ids = ids_of(wanted)
        found = self._below("skill_versions", ids, (*_VERSION, *MADE), order=("version",))
        tags = self._below("skill_version_tags", ids, ("version", "key", "value"))

        def items(id: str, parent: str) -> Iterator[SkillVersion]:
            for values in found.get(id, ()):
                nulls = Nulls()
                row = dict(zip(MADE, values[len(_VERSION) :], strict=True))
                of_version = [tag[1:] for tag in tags.get(id, ()) if tag[0] == values[0]]
                yield _version(
                    values[: len(_VERSION)],
                    tags=nulls.tags("tags", of_version),
                    **made(row),
                    null_fields=nulls.names,
                )

        return items

    def tree(self, entity: Any) -> ArtifactTree | None:
        files = self._files.get(entity.id)
        if not files:
            return None
        trees = {number: self._from.tree(location) for number, location in files.items()}
        lose = partial(self._lose_files, entity.id)
        return VersionTrees(trees, lose=lose, empty="its files are not there")

    def _lose_files(self, id: str, number: int, reason: str) -> None:
        reason = f"{self._files[id][number]}: {reason}"
        self._from.lose(self.kind, f"{id}/{number}", reason, field="artifacts")

    def _below(
        self, table: str, ids: Sequence[str], columns: Sequence[str], *, order: Sequence[str] = ()
    ) -> dict[str, list[Row]]:
        """Return the rows that belong to skills, by id."""
        groups: dict[str, list[Row]] = {}
        names = sorted({split_id(id)[1] for id in ids})
        found = self._rows.grouped(table, "name", names, ("organization", *columns), order=order)
        for name, rows in found.items():
            for organization, *values in rows:
                groups.setdefault(id_of(organization, name), []).append(tuple(values))
        return groups

    def _icons(self, id: str, text: str | None, nulls: Nulls) -> str | None:
        """JSON as servers tell it."""
        if text is None:
            nulls.add("icons")
        value = self._decoded(id, "icons", text, list)
        return None if value is None else json.dumps(value, ensure_ascii=False)


def _version(values: Sequence[Any], **others: Any) -> SkillVersion:
    return SkillVersion(**dict(zip(_VERSION, values, strict=True)), **others)
