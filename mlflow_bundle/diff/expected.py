"""How the first side is to look at the second: what an import was asked to change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from mlflow_bundle.locations import Locations
from mlflow_bundle.users import USER_TAG, map_users

RecordT = TypeVar("RecordT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Names, users, tags and locations that the second side has in place of the first side's.

    Attributes:
        experiment_name_prefix: Put before every experiment's name.
        rename_experiments: Old name to new name, applied before the prefix.
        rename_models: Old name to new name, for registered models and prompts.
        users: User at the second side by user at the first, where they differ.
        keeps_users: Whether runs have kept their user; else users of runs are not compared.
        extra_tags: Given to everything that has tags.
        rewrite_locations: New root by old root of files that moved by themselves.
    """

    experiment_name_prefix: str = ""
    rename_experiments: dict[str, str] = field(default_factory=dict)
    rename_models: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    keeps_users: bool = True
    extra_tags: dict[str, str] = field(default_factory=dict)
    rewrite_locations: dict[str, str] = field(default_factory=dict)

    @property
    def renames(self) -> bool:
        """Whether anything has another name."""
        return bool(self.experiment_name_prefix or self.rename_experiments or self.rename_models)

    def experiment(self, name: str) -> str:
        """Name of an experiment at the second side."""
        return self.experiment_name_prefix + self.rename_experiments.get(name, name)

    def model(self, name: str) -> str:
        """Name of a registered model or prompt at the second side."""
        return self.rename_models.get(name, name)

    def user(self, name: str) -> str:
        """Name of a user at the second side."""
        return self.users.get(name, name)

    def location(self, location: str) -> str:
        """A location at the second side."""
        return Locations(self.rewrite_locations).of(location)

    def record(self, record: RecordT) -> RecordT:
        """A plain entity, or an item of one, with its users at the second side."""
        return map_users(record, self.users)

    def tags(self, tags: dict[str, str]) -> dict[str, str]:
        """Tags of an entity at the second side."""
        here = dict(tags)
        if USER_TAG in here:
            here[USER_TAG] = self.user(here[USER_TAG])
        return here | self.extra_tags


AS_IT_IS = Expected()
