"""Permissions of before MLflow had roles, as MLflow's own migration turns them into today's.

Until then each type of resource had a table of its own, with one row for a user and a thing. The
tables stay in the database after the migration, and mean nothing any more. What the migration drops
without a word is kept here where today's MLflow can say it: a user to whom a thing was closed
(``NO_PERMISSIONS``) is denied it.

The rules are those of mlflow/server/auth/db/migrations/versions/e5f6a7b8c9d0 and f1a2b3c4d5e6.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from mlflow_bundle.kinds.auth import ANY, Permission, scorer_pattern
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.report import Report
from mlflow_bundle.sql.rows import Rows

_KIND = "user"
_CLOSED, _DENIED = "NO_PERMISSIONS", "DENY"
_OF_THINGS = frozenset({"READ", "USE", "EDIT", "MANAGE"})
_OF_WORKSPACES = {"READ": "USE", "USE": "USE", "MANAGE": "MANAGE"}
_EDITED_IN_WORKSPACES = (
    "experiment",
    "registered_model",
    "scorer",
    "gateway_secret",
    "gateway_endpoint",
    "gateway_model_definition",
)
_BEFORE_ROLES = frozenset({"", "8606fa83a998", "0965eb92f5f0", "a1b2c3d4e5f6", "2ed73881770d"})
_ROLES_WITHOUT_PERMISSIONS = "c3d4e5f6a7b8"


class _Legacy(NamedTuple):
    table: str
    resource_type: str
    columns: tuple[str, ...]
    pattern: Callable[..., str]


def _itself(value: object) -> str:
    return str(value)


_TABLES = (
    _Legacy("experiment_permissions", "experiment", ("experiment_id",), _itself),
    _Legacy("registered_model_permissions", "registered_model", ("name",), _itself),
    _Legacy("scorer_permissions", "scorer", ("experiment_id", "scorer_name"), scorer_pattern),
    _Legacy("gateway_secret_permissions", "gateway_secret", ("secret_id",), _itself),
    _Legacy("gateway_endpoint_permissions", "gateway_endpoint", ("endpoint_id",), _itself),
    _Legacy(
        "gateway_model_definition_permissions",
        "gateway_model_definition",
        ("model_definition_id",),
        _itself,
    ),
)
_WORKSPACES = "workspace_permissions"


class LegacyPermissions:
    """Reads the old tables of one workspace, where they still count.

    Args:
        revision: Of the schema of the auth database.
        rows: Its rows of one workspace.
        workspace: Name of that.
        report: Told what is not as it was.
    """

    def __init__(self, revision: str, rows: Rows, workspace: str, report: Report) -> None:
        self._rows = rows
        self._workspace = workspace
        self._report = report
        self.count = revision in (*_BEFORE_ROLES, _ROLES_WITHOUT_PERMISSIONS)
        """Whether they do."""
        self.tables = (_WORKSPACES, *(legacy.table for legacy in _TABLES)) if self.count else ()
        """Those that do."""

    def _has(self, table: str) -> bool:
        """Whether a table has rows of this workspace; without a column for it, of ``default``."""
        if not (self.count and self._rows.has(table)):
            return False
        return self._workspace == DEFAULT_WORKSPACE or self._rows.has(table, "workspace")

    @property
    def name_models(self) -> bool:
        """Whether some may be about prompts, which were registered models then."""
        return self._has("registered_model_permissions")

    def user_ids(self) -> Iterator[int]:
        """Yield the ids of the users who have some, some of them repeatedly."""
        for table in self.tables:
            if self._has(table):
                for batch in self._rows.batches(table, ("user_id",)):
                    yield from (user_id for (user_id,) in batch)

    def of(self, users: dict[int, str], prompts: Collection[str]) -> dict[int, list[Permission]]:
        """Return the permissions of users by their ids.

        Args:
            users: Name by id.
            prompts: Names of the registered models that are prompts.
        """
        found: dict[int, list[Permission]] = {id: [] for id in users}
        if self._has(_WORKSPACES):
            rows = self._rows.grouped(_WORKSPACES, "user_id", list(users), ("permission",))
            for id, permissions in rows.items():
                for (permission,) in permissions:
                    found[id] += self._of_workspace(users[id], permission)
        for legacy in _TABLES:
            if not self._has(legacy.table):
                continue
            columns = (*legacy.columns, "permission")
            rows = self._rows.grouped(legacy.table, "user_id", list(users), columns)
            for id, granted in rows.items():
                for *names, permission in granted:
                    found[id] += self._of_thing(users[id], legacy, names, permission, prompts)
        return found

    def _of_workspace(self, user: str, permission: str) -> list[Permission]:
        field = "permissions (of a workspace, as MLflow's migration has them)"
        if permission == "EDIT":
            self._report.adjust(_KIND, field)
            edits = [
                Permission(resource_type=type, resource_pattern=ANY, permission="EDIT")
                for type in _EDITED_IN_WORKSPACES
            ]
            return [*self._of_workspace(user, "USE"), *edits]
        if permission not in _OF_WORKSPACES:
            reason = f"{permission} for a workspace: MLflow has no such permission any more"
            self._report.lose(_KIND, user, reason, field="permissions")
            return []
        today = _OF_WORKSPACES[permission]
        if today != permission:
            self._report.adjust(_KIND, field)
        return [Permission(resource_type="workspace", resource_pattern=ANY, permission=today)]

    def _of_thing(
        self,
        user: str,
        legacy: _Legacy,
        names: Sequence[object],
        permission: str,
        prompts: Collection[str],
    ) -> list[Permission]:
        type, pattern = legacy.resource_type, legacy.pattern(*names)
        if type == "registered_model" and pattern in prompts:
            type = "prompt"
        if permission == _CLOSED:
            self._report.adjust(_KIND, f"permissions ({_CLOSED} is {_DENIED} now)")
            permission = _DENIED
        elif permission not in _OF_THINGS:
            reason = f"{permission} for {type} {pattern}: MLflow has no such permission"
            self._report.lose(_KIND, user, reason, field="permissions")
            return []
        return [Permission(resource_type=type, resource_pattern=pattern, permission=permission)]
