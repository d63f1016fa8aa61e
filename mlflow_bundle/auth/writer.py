"""Writes roles and users of one workspace into the database of MLflow's basic-auth app.

They are found by name. What is missing is added; a value that differs is a conflict like any other.
Ids are the destination's own. A user who is there keeps the password.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy
from sqlalchemy import Connection

from mlflow_bundle.auth.database import AuthDestination
from mlflow_bundle.auth.readers import is_own_role, own_role_name
from mlflow_bundle.importing import Importing
from mlflow_bundle.kinds.auth import ANY, Permission, Role, User
from mlflow_bundle.references import NAMED_BY_PERMISSIONS, rewrite_permission
from mlflow_bundle.sql.rows import mysql_bytes

_NAMED_USERS = 20
"""Users that one note names."""

Row = Mapping[str, Any]


class AuthWriter:
    """Writes into one workspace.

    Args:
        to: The database.
        importing: The import, with the new ids of everything else.
        workspace: Where roles and permissions go.
        include_secrets: Whether users come with the hashes of their passwords.
    """

    def __init__(
        self,
        to: AuthDestination,
        importing: Importing,
        *,
        workspace: str,
        include_secrets: bool = False,
    ) -> None:
        self._to = to
        self._import = importing
        self._workspace = workspace
        self._include_secrets = include_secrets
        self._without_password: list[str] = []
        self._new_admins: list[str] = []

    def examine(self, entity: Role | User) -> None:
        """Count an entity that is here, and report what differs; nothing is written."""
        with self._to.looked_at() as connection:
            if connection is not None:
                self._put(_Merging(self, connection, entity, dry=True))

    def write(self, roles: Iterable[Role], users: Iterable[User]) -> None:
        """Write roles and users, all or none."""
        with self._to.written() as connection:
            for role in roles:
                self._put(_Merging(self, connection, role, dry=False))
            for user in users:
                self._put(_Merging(self, connection, user, dry=False))
        self._note_passwords()

    def _put(self, merging: _Merging) -> None:
        entity = merging.entity
        if isinstance(entity, Role):
            merging.role(entity)
        else:
            merging.user(entity)
        merging.count()

    def _note_passwords(self) -> None:
        names = self._without_password
        if not names:
            return
        shown = ", ".join(names[:_NAMED_USERS])
        if len(names) > _NAMED_USERS:
            shown += f" and {len(names) - _NAMED_USERS} more"
        self._import.report.note(
            f"set passwords again, without which nobody can log in as: {shown} "
            "(PATCH /api/2.0/mlflow/users/update-password, as an administrator)"
        )
        if set(names) & set(self._new_admins):
            self._import.report.note(
                "if no other administrator has a password, start the server once with another "
                "admin_username in its configuration: it makes that one"
            )


class _Merging:
    """One role or user on its way."""

    def __init__(
        self, writer: AuthWriter, connection: Connection, entity: Role | User, *, dry: bool
    ) -> None:
        self.entity = entity
        self._writer = writer
        self._to = writer._to
        self._import = writer._import
        self._report = writer._import.report
        self._workspace = writer._workspace
        self._connection = connection
        self._dry = dry
        self._fresh = self._changed = self._lost = False

    # Entities

    def role(self, role: Role) -> None:
        """Write a role with its permissions."""
        if is_own_role(role.name):
            self._lose("MLflow keeps such names for the permissions of single users")
            return
        where = {"workspace": self._workspace, "name": role.name}
        here = self._find("roles", where, "id", "description")
        if here is None:
            self._fresh = True
            id = self._insert("roles", {**where, "description": role.description})
        else:
            id = here["id"]
            self._merge("roles", id, "description", here["description"], role.description)
        if id is not None:
            self._grant(id, role.permissions)

    def user(self, user: User) -> None:
        """Write a user with roles and permissions; the roles are there."""
        here = self._find("users", {"username": user.username}, "id", "is_admin")
        if here is None:
            self._fresh = True
            id = self._insert_user(user)
        else:
            id = here["id"]
            self._merge("users", id, "is_admin", bool(here["is_admin"]), user.is_admin)
        if id is None:
            return
        for name in user.roles:
            role = self._find("roles", {"workspace": self._workspace, "name": name}, "id")
            if role is not None:
                self._assign(id, role["id"])
            elif not self._dry:
                self._report.adjust("user", "roles (of what did not come)")
        if user.permissions and (own := self._own_role(id)) is not None:
            self._grant(own, user.permissions)

    def _insert_user(self, user: User) -> int | None:
        row = {"username": user.username, "is_admin": user.is_admin}
        if self._writer._include_secrets and isinstance(user.password_hash, str):
            return self._insert("users", {**row, "password_hash": user.password_hash})
        id = self._insert("users", {**row, "password_hash": _hash_of_nothing()})
        if id is not None:
            self._report.adjust("user", "password (to be set again)")
            self._writer._without_password.append(user.username)
            if user.is_admin:
                self._writer._new_admins.append(user.username)
        return id

    def _own_role(self, user_id: int) -> int | None:
        """Return the hidden role of a user, as MLflow makes it; None where there is none."""
        where = {"workspace": self._workspace, "name": own_role_name(user_id)}
        here = self._find("roles", where, "id")
        if here is None and self._dry:
            return None
        role_id = self._insert("roles", where) if here is None else here["id"]
        if role_id is None:
            return None
        table = self._to.tables["user_role_assignments"]
        others = sqlalchemy.select(table.c.user_id).where(
            table.c.role_id == role_id, table.c.user_id != user_id
        )
        if self._connection.execute(others.limit(1)).first() is not None:
            self._lose(
                f"role {where['name']!r} at the destination, which should be this user's alone, "
                "is another one's too",
                field="permissions",
            )
            return None
        self._assign(user_id, role_id)
        return int(role_id)

    # Rows

    def _assign(self, user_id: int, role_id: int) -> None:
        row = {"user_id": user_id, "role_id": role_id}
        if self._find("user_role_assignments", row, "id") is None:
            self._insert("user_role_assignments", row)

    def _grant(self, role_id: int, permissions: Iterable[Permission]) -> None:
        for permission in permissions:
            field = f"permissions.{permission.resource_type} {permission.resource_pattern}"
            if reason := self._objection_to(permission):
                self._lose(reason, field=field)
                continue
            moved = rewrite_permission(permission, self._import.remap)
            if moved is None:
                if not self._dry:
                    self._report.adjust(self.entity.kind, "permissions (of what did not come)")
                continue
            where = {
                "role_id": role_id,
                "resource_type": moved.resource_type,
                "resource_pattern": moved.resource_pattern,
            }
            here = self._find("role_permissions", where, "id", "permission")
            if here is None:
                row = {**where, "permission": moved.permission}
                self._insert("role_permissions", row, field=field)
            else:
                self._merge(
                    "role_permissions",
                    here["id"],
                    "permission",
                    here["permission"],
                    moved.permission,
                    field=field,
                )

    def _objection_to(self, permission: Permission) -> str:
        """Return why a permission means nothing here; empty for one that does."""
        type = permission.resource_type
        if permission.permission not in self._to.known_permissions:
            return f"the installed MLflow knows no permission {permission.permission!r}"
        if type not in self._to.known_types:
            return f"the installed MLflow knows no type of resource {type!r}"
        if permission.resource_pattern != ANY and type not in NAMED_BY_PERMISSIONS:
            return f"MLflow has permissions for all of this type alone ({ANY})"
        return ""

    def _find(self, table: str, where: Row, *columns: str) -> Row | None:
        if self._objection(table, where):
            return None  # what cannot be there is not
        source = self._to.tables[table]
        statement = sqlalchemy.select(*(source.c[name] for name in columns))
        folds = self._to.database.dialect.folds_keys
        for name, value in where.items():
            statement = statement.where(source.c[name] == value)
            if folds and isinstance(value, str) and name == "resource_pattern":
                statement = statement.where(mysql_bytes(source.c[name]) == mysql_bytes(value))
        row = self._connection.execute(statement).mappings().first()
        return None if row is None else dict(row)

    def _objection(self, table: str, row: Row) -> str:
        """Return why the database cannot hold values of a row; empty when it can."""
        columns, dialect = self._to.tables[table].c, self._to.database.dialect
        for name, value in row.items():
            if isinstance(value, str) and (reason := dialect.objection(columns[name], value)):
                return f"{name}: {reason}"
        return ""

    def _insert(self, table: str, row: Row, *, field: str = "") -> int | None:
        """Insert a row; return its id, or None where there is none."""
        if reason := self._objection(table, row):
            self._lose(reason, field=field)
            return None
        self._changed = True
        if self._dry:
            return None
        result = self._connection.execute(self._to.tables[table].insert().values(**row))
        (id,) = result.inserted_primary_key or (None,)
        return None if id is None else int(id)

    def _merge(
        self, table: str, id: int, column: str, here: Any, bundle: Any, *, field: str = ""
    ) -> None:
        """Bring one value of a row that is here."""
        if bundle is None or bundle == here:
            return
        entity = self.entity
        if here not in (None, "") and not self._import.differs(
            entity.kind, entity.id, field or column, here=here, bundle=bundle
        ):
            return
        target = self._to.tables[table]
        if isinstance(bundle, str) and (
            reason := self._to.database.dialect.objection(target.c[column], bundle)
        ):
            self._lose(reason, field=field or column)
            return
        self._changed = True
        if not self._dry:
            update = target.update().where(target.c.id == id).values({column: bundle})
            self._connection.execute(update)

    # Telling

    def _lose(self, reason: str, *, field: str = "") -> None:
        self._report.lose(self.entity.kind, self.entity.id, reason, field=field)
        self._lost = self._lost or not field

    def count(self) -> None:
        """Count the entity as written or as found."""
        kind = self.entity.kind
        if self._lost or (self._dry and self._fresh):
            return
        if self._changed and not self._dry:
            self._report.did(kind)
        else:
            self._report.found(kind)


def _hash_of_nothing() -> str:
    """Return the hash of a password that nobody knows."""
    from werkzeug.security import generate_password_hash

    made: Callable[[str], str] = generate_password_hash
    return made(secrets.token_urlsafe(32))
