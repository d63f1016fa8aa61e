"""Skills: the registry of instructions and files for agents (MLflow >= 3.18)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind

UPLOADED = "mlflow"
"""Type of the source of a version whose files were uploaded to MLflow (``SkillSourceType``)."""


class SkillVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a skill: an item of it."""

    uri_fields: ClassVar[tuple[str, ...]] = ("source",)

    version: int
    source_type: str | None = None
    source: str | None = None
    ref: str | None = None
    subpath: str | None = None
    digest: str | None = None
    status: str = "active"
    tags: dict[str, str] = {}
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    null_fields: list[str] | UnsetType = UNSET
    """``tags.<key>`` that are null in MLflow's table."""

    @property
    def is_deleted(self) -> bool:
        """Whether only the database tells of it; its number is never given again."""
        return self.status == "deleted"

    @property
    def has_files(self) -> bool:
        """Whether MLflow keeps the files of this version, which nothing else uses.

        With a ``subpath`` it refers to files that belong to something else
        (mlflow/store/tracking/skill_registry/artifact_paths.py).
        """
        return self.source_type == UPLOADED and bool(self.source) and self.subpath is None


class Skill(PlainEntity, frozen=True, kw_only=True):
    """One skill; its versions are items, by number, and their files lie below those numbers."""

    kind: ClassVar[str] = "skill"
    json_fields: ClassVar[tuple[str, ...]] = ("icons",)

    name: str
    organization: str = ""
    description: str | None = None
    icons: str | None = None
    """JSON text, an array."""
    tags: dict[str, str] = {}
    aliases: dict[str, int] = {}
    """Alias to version."""
    created_by: str | None = None
    last_updated_by: str | None = None
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    null_fields: list[str] | UnsetType = UNSET
    """``tags.<key>`` that are null in MLflow's table, and ``icons`` where they are null there and
    not, as usual, the JSON text ``null``."""

    @property
    def id(self) -> str:
        """What MLflow calls it: ``name``, or ``@organization/name``."""
        return id_of(self.organization, self.name)


def id_of(organization: str, name: str) -> str:
    """Return the id of a skill."""
    return f"@{organization}/{name}" if organization else name


def whole_id(id: str) -> str:
    """Return the id of a skill, given that or what begins with it and a slash."""
    return "/".join(id.split("/")[: 2 if id.startswith("@") else 1])


def split_id(id: str) -> tuple[str, str]:
    """Return organization, empty for none, and name of a skill."""
    if not id.startswith("@"):
        return "", id
    organization, _, name = id[1:].partition("/")
    return organization, name


SKILL = Kind(
    record=Skill,
    directory="skills",
    document="skill.json",
    scope="server",
    has_artifacts=True,
    item=SkillVersion,
)
