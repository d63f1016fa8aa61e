"""Reads skills with their versions (MLflow >= 3.18); deleted versions are not shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.skills import SKILL, Skill, SkillVersion
from mlflow_bundle.rest.artifacts import ArtifactOwner
from mlflow_bundle.rest.readers.base import Chosen, Fetched, FetchedVersions, Reader, Reading
from mlflow_bundle.rest.session import API_3, Session
from mlflow_bundle.skill_files import VersionTrees

SKILLS = f"{API_3}skills"
_PER_PAGE = 100


class RestSkillVersion(msgspec.Struct, frozen=True):
    """``skills/<skill>/versions``: one version."""

    version: int
    source_type: str | None = None
    source: str | None = None
    ref: str | None = None
    subpath: str | None = None
    digest: str | None = None
    status: str = "active"
    tags: dict[str, str | None] = {}
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None

    def record(self) -> SkillVersion:
        """The record."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        tags = {key: value or "" for key, value in self.tags.items()}
        return SkillVersion(**{**fields, "tags": tags})


class RestSkillVersions(msgspec.Struct, frozen=True):
    """``skills/<skill>/versions``."""

    skill_versions: list[RestSkillVersion] = []
    next_page_token: str | None = None


class RestAlias(msgspec.Struct, frozen=True):
    """An alias of a version."""

    alias: str
    version: int


class RestSkill(msgspec.Struct, frozen=True):
    """``skills``: one skill."""

    name: str
    organization: str = ""
    description: str | None = None
    icons: list[dict[str, Any]] | None = None
    aliases: list[RestAlias] = []
    tags: dict[str, str | None] = {}
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None

    def record(self) -> Skill:
        """The record."""
        icons = None if self.icons is None else json.dumps(self.icons, ensure_ascii=False)
        return Skill(
            name=self.name,
            organization=self.organization,
            description=self.description,
            icons=icons,
            tags={key: value or "" for key, value in self.tags.items()},
            aliases={alias.alias: alias.version for alias in self.aliases},
            created_by=self.created_by,
            last_updated_by=self.last_updated_by,
            creation_timestamp=self.creation_timestamp,
            last_updated_timestamp=self.last_updated_timestamp,
        )


class RestSkills(msgspec.Struct, frozen=True):
    """``skills``."""

    skills: list[RestSkill] = []
    next_page_token: str | None = None


class SkillReader(Reader):
    """Reads skills."""

    kind = SKILL
    first = (3, 18)

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading)
        self._versions: dict[str, list[SkillVersion]] = {}
        """Versions with files, by skill, until their tree was asked for."""

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if not (chosen.whole_server and self._from.since(*self.first)):
            return
        query = {"max_results": _PER_PAGE}
        for page in self._from.session.iter_pages(
            "GET", SKILLS, query, type=RestSkills, what="skills"
        ):
            for skill in page.skills:
                yield skill.record()

    def start(self, entities: list[PlainEntity]) -> Fetched:
        return FetchedVersions(
            self._from.pool, self._list_versions, [entity.id for entity in entities]
        )

    def _list_versions(self, id: str) -> list[SkillVersion]:
        self._versions[id] = []
        versions = list_versions(self._from.session, id)
        self._versions[id] = [version for version in versions if version.has_files]
        return versions

    def tree(self, entity: PlainEntity) -> ArtifactTree | None:
        if entity.id not in self._versions:  # nobody reads its items
            try:
                self._list_versions(entity.id)
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._from.lose(self.kind.name, entity.id, exc.message, field="artifacts")
        versions = self._versions.pop(entity.id)
        if not versions:
            return None
        owner = ArtifactOwner("skill", entity.id)
        trees = {
            version.version: self._from.tree(version.source or "", owner) for version in versions
        }
        lose = partial(self._lose_files, entity.id)
        return VersionTrees(trees, lose=lose, empty="the server shows none of its files")

    def _lose_files(self, id: str, number: int, reason: str) -> None:
        self._from.lose(self.kind.name, f"{id}/{number}", reason, field="artifacts")


def list_versions(session: Session, id: str) -> list[SkillVersion]:
    """Return the versions of a skill by number.

    Raises:
        ServerError: The server refused.
    """
    return [
        version.record()
        for page in session.iter_pages(
            "GET",
            f"{skill_path(id)}/versions",
            {"max_results": _PER_PAGE},
            type=RestSkillVersions,
            what=f"versions of skill {id!r}",
        )
        for version in page.skill_versions
    ]


def skill_path(id: str) -> str:
    """Return the endpoint of one skill."""
    return f"{SKILLS}/{id}"
