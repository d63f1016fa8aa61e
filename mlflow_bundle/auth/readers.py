"""Reads roles and users of one workspace from the database of MLflow's basic-auth app."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy
from msgspec import UNSET

from mlflow_bundle.auth.legacy import LegacyPermissions
from mlflow_bundle.kinds.auth import ROLE, USER, Permission, Role, User
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.report import Report
from mlflow_bundle.sql.rows import Rows, chunks

_OWN_ROLE = re.compile(r"__user_(\d+)__")
_GRANT = ("resource_type", "resource_pattern", "permission")


def own_role_name(user_id: int) -> str:
    """Return the name of the hidden role by which MLflow gives a user permissions of their own.

    (mlflow/server/auth/sqlalchemy_store.py)
    """
    return f"__user_{user_id}__"


def is_own_role(name: str) -> bool:
    """Whether a role is the hidden one of some user."""
    return _OWN_ROLE.fullmatch(name) is not None


def _permissions(rows: Rows, role_ids: Sequence[int]) -> dict[int, list[Permission]]:
    """Return the permissions of roles by their ids, sorted."""
    found = rows.grouped("role_permissions", "role_id", role_ids, _GRANT)
    return {
        id: sorted(Permission(**dict(zip(_GRANT, grant, strict=True))) for grant in grants)
        for id, grants in found.items()
    }


def count_by_workspace(rows: Rows, tables: Iterable[str]) -> dict[str, int]:
    """Return how many rows of some tables each workspace has, not only that of ``rows``."""
    counts: Counter[str] = Counter()
    for table in tables:
        if rows.has(table, "workspace"):
            workspace = rows.column(table, "workspace")
            statement = sqlalchemy.select(workspace, sqlalchemy.func.count()).group_by(workspace)
            for batch in rows.stream(statement):
                counts.update({str(name): count for name, count in batch})
    return dict(sorted(counts.items()))


class RoleReader:
    """Reads roles.

    Args:
        rows: Of one workspace.
    """

    kind = ROLE.name

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def select(self) -> Iterator[str]:
        """Yield the names of all roles but the hidden ones."""
        for batch in self._rows.batches("roles", ("name",)):
            yield from (name for (name,) in batch if not is_own_role(name))

    def read(self, names: Sequence[str]) -> Iterator[Role]:
        """Yield roles, in any order."""
        columns = ("id", "name", "description")
        found = self._rows.select("roles", columns, where={"name": list(names)})
        permissions = _permissions(self._rows, [id for id, *_ in found])
        for id, name, description in found:
            yield Role(name=name, description=description, permissions=permissions.get(id, []))


class UserReader:
    """Reads users, with what they have in one workspace.

    Args:
        rows: Of that workspace.
        workspace: Its name.
        legacy: Permissions of before MLflow had roles.
        prompts: Returns the names of the prompts of the workspace.
        report: Told of losses.
        include_secrets: Whether the hashes of passwords are read.
    """

    kind = USER.name

    def __init__(
        self,
        rows: Rows,
        workspace: str,
        *,
        legacy: LegacyPermissions,
        prompts: Callable[[], Collection[str]],
        report: Report,
        include_secrets: bool,
    ) -> None:
        self._rows = rows
        self._is_default = workspace == DEFAULT_WORKSPACE
        self._legacy = legacy
        self._prompts = prompts
        self._report = report
        self._include_secrets = include_secrets

    def select(self) -> Iterator[str]:
        """Yield the names of users: all of ``default``, who have something in other workspaces."""
        if self._is_default:
            for batch in self._rows.batches("users", ("username",)):
                for (name,) in batch:
                    if name is None:
                        self._report.lose(USER.name, "unknown", "a user without a name")
                    else:
                        yield name
            return
        role_ids = [id for (id,) in self._rows.select("roles", ("id",))]
        assigned = self._rows.grouped("user_role_assignments", "role_id", role_ids, ("user_id",))
        ids = {user_id for users in assigned.values() for (user_id,) in users}
        ids.update(self._legacy.user_ids())
        for some in chunks(sorted(ids)):
            for (name,) in self._rows.select("users", ("username",), where={"id": list(some)}):
                if name is not None:
                    yield name

    def read(self, names: Sequence[str]) -> Iterator[User]:
        """Yield users, in any order."""
        columns = ["id", "username", "is_admin"]
        if self._include_secrets:
            columns.append("password_hash")
        found = self._rows.select("users", columns, where={"username": list(names)})
        users: dict[int, str] = {row[0]: row[1] for row in found}
        roles, permissions = self._assigned(users)
        prompts = self._prompts() if self._legacy.name_models else ()
        for id, old in self._legacy.of(users, prompts).items():
            permissions.setdefault(id, []).extend(old)
        for id, name, is_admin, *secrets in found:
            yield User(
                username=name,
                is_admin=bool(is_admin),
                roles=sorted(roles.get(id, ())),
                permissions=sorted(permissions.get(id, ())),
                password_hash=secrets[0] if secrets else UNSET,
            )

    def _assigned(
        self, users: dict[int, str]
    ) -> tuple[dict[int, list[str]], dict[int, list[Permission]]]:
        """Return the names of the roles, and the permissions of their own, of users by id."""
        assigned = self._rows.grouped("user_role_assignments", "user_id", list(users), ("role_id",))
        role_ids = list({id for roles in assigned.values() for (id,) in roles})
        # Those of this workspace only.
        named: dict[int, Any] = self._rows.grouped("roles", "id", role_ids, ("name",))
        own: dict[int, int] = {}
        roles: dict[int, list[str]] = {}
        for user_id, ids in assigned.items():
            for (role_id,) in ids:
                if role_id not in named:
                    continue
                ((name,),) = named[role_id]
                if name == own_role_name(user_id):
                    own[role_id] = user_id
                elif is_own_role(name):
                    reason = f"role {name} holds the permissions of another user alone"
                    self._report.lose(USER.name, users[user_id], reason, field="roles")
                else:
                    roles.setdefault(user_id, []).append(name)
        permissions = _permissions(self._rows, list(own))
        return roles, {own[role_id]: granted for role_id, granted in permissions.items()}
