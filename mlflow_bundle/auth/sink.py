"""A sink with the users and roles that belong to it, whatever that sink is.

They are few and name almost everything else: all are kept until the rest was written, and then
written in one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_bundle.contracts import Content, Sink, SourceInfo
from mlflow_bundle.entities import Entity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.importing import Importing
from mlflow_bundle.kinds import APART
from mlflow_bundle.kinds.auth import Role, User, scorer_pattern
from mlflow_bundle.kinds.mcp_servers import McpServer
from mlflow_bundle.kinds.scorers import Scorer
from mlflow_bundle.kinds.skills import Skill
from mlflow_bundle.references import SCORER_NAME
from mlflow_bundle.selection import Selection
from mlflow_bundle.users import map_users

if TYPE_CHECKING:  # it loads what databases need, and most imports have none of users
    from mlflow_bundle.auth.writer import AuthWriter


_NAMED = (Scorer.kind, McpServer.kind, Skill.kind)
"""Kinds that only permissions refer to by name: no other sink places them by it."""


class AuthSink(Sink):
    """Gives users and roles to the database that they belong to, and all else to another sink.

    Args:
        inner: The sink of everything else; closed with this one.
        importing: The import that ``inner`` makes.
        writer: Where users and roles go; None where no such database was named: they are left out.
    """

    def __init__(self, inner: Sink, importing: Importing, writer: AuthWriter | None) -> None:
        self._inner = inner
        self._import = importing
        self._writer = writer
        self._roles: list[Role] = []
        self._users: list[User] = []
        self.reserved_kinds = inner.reserved_kinds
        if writer is not None:
            self.reserved_kinds = tuple(dict.fromkeys((*inner.reserved_kinds, *_NAMED)))
        self.takes_files = inner.takes_files
        self.concurrent = inner.concurrent

    @property
    def requests(self) -> int:
        return self._inner.requests

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        self._inner.begin(source, selection)

    def reserve(self, entity: Entity, *, dry: bool = False) -> None:
        if entity.kind in self._inner.reserved_kinds:
            self._inner.reserve(entity, dry=dry)
        if (named := _as_permissions_name(entity)) is not None:
            self._import.remap.place(*named, named[1])

    def wants(self, kind: str, id: str, parent: str) -> bool:
        if kind not in APART:
            return self._inner.wants(kind, id, parent)
        if self._writer is None:
            self._note()
        return self._writer is not None

    def _note(self) -> None:
        self._import.report.note(
            "users and roles of the bundle were left out: --auth-db names the database of the "
            "destination that they would go into"
        )

    def examine(self, content: Content) -> None:
        entity = self._mapped(content.entity)
        if entity is None:
            self._inner.examine(content)
        elif self._writer is None:
            self._note()
        else:
            self._writer.examine(entity)

    def put(self, content: Content) -> None:
        entity = self._mapped(content.entity)
        if entity is None:
            self._put_other(content)
            return
        self._import.progress.advance(1)
        if isinstance(entity, Role):
            self._roles.append(entity)
        else:
            self._users.append(entity)

    def _put_other(self, content: Content) -> None:
        try:
            self._inner.put(content)
        except ServerError:
            # One of that name at the destination is another one.
            if (named := _as_permissions_name(content.entity)) is not None:
                self._import.remap.forget(*named)
            raise

    def _mapped(self, entity: Entity) -> Role | User | None:
        """Return a role or user with the users that it has here; None for anything else."""
        if not isinstance(entity, Role | User):
            return None
        return map_users(entity, self._import.options.users)

    def finish(self) -> None:
        self._inner.finish()
        if self._writer is None:
            return
        if self._roles or self._users:
            self._writer.write(self._roles, self._users)
        else:
            self._import.report.note(
                "--auth-db: the source has no users and roles; an export with --auth-db has them"
            )

    def abort(self) -> None:
        self._inner.abort()

    def close(self) -> None:
        self._inner.close()


def _as_permissions_name(entity: Entity) -> tuple[str, str] | None:
    """Return kind and name that only permissions use; None for what they name like all others."""
    if isinstance(entity, Scorer):
        return SCORER_NAME, scorer_pattern(entity.experiment_id, entity.name)
    return (entity.kind, entity.id) if entity.kind in _NAMED else None
