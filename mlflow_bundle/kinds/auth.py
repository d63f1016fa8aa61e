"""Users, roles and permissions of MLflow's basic-auth app, which has a database of its own.

A user exists once for a whole server, roles and permissions exist in each workspace. So that every
workspace's tree can be taken alone, a user stands in that of ``default`` and in the tree of each
workspace where they have something.
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.kinds.base import Kind

ANY = "*"
"""Pattern of a permission for everything of a type in the workspace."""


def scorer_pattern(experiment_id: str, name: str) -> str:
    """Return what permissions call a scorer (mlflow/server/auth/sqlalchemy_store.py)."""
    return f"{experiment_id}/{quote(name, safe='')}"


class Permission(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What somebody may do with one thing, or with everything of a type."""

    resource_type: str
    """``experiment``, ``registered_model``, ``prompt``, ``scorer``, ``workspace``…"""
    resource_pattern: str
    """``*``, or the thing's id or name; of a scorer ``<experiment id>/<quoted name>``."""
    permission: str
    """``READ``, ``USE``, ``EDIT``, ``MANAGE`` or ``DENY``."""


class Role(PlainEntity, frozen=True, kw_only=True):
    """A set of permissions in one workspace, which users can be given."""

    kind: ClassVar[str] = "role"

    name: str
    description: str | None = None
    permissions: list[Permission] = []

    @property
    def id(self) -> str:
        return self.name


class User(PlainEntity, frozen=True, kw_only=True):
    """An account, with what it has in one workspace; its password only hashed, if asked for."""

    kind: ClassVar[str] = "user"

    username: str
    is_admin: bool = False
    roles: list[str] = []
    """Names of roles of the workspace."""
    permissions: list[Permission] = []
    """Those of the user alone, which MLflow keeps in a hidden role."""
    password_hash: str | UnsetType | None = UNSET

    @property
    def id(self) -> str:
        return self.username


ROLE = Kind(record=Role, directory="roles", document="role.json", scope="server", apart=True)
USER = Kind(record=User, directory="users", document="user.json", scope="server", apart=True)

AUTH_KINDS = (ROLE, USER)
"""In the order in which they refer to each other."""
