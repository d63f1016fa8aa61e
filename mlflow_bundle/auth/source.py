"""A source with the users and roles that belong to it, whatever that source is."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from itertools import islice

from mlflow_bundle import layout
from mlflow_bundle.archive import order_key
from mlflow_bundle.auth.database import REVISIONS
from mlflow_bundle.auth.legacy import LegacyPermissions
from mlflow_bundle.auth.readers import RoleReader, UserReader, count_by_workspace
from mlflow_bundle.contracts import Content, FileReading, HistoryReading, Source, SourceInfo, Wanted
from mlflow_bundle.entities import Entity, Prompt
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.spool import Selected, Spool
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.rows import Rows

_AT_ONCE = 200


class AuthSource(Source):
    """What another source hands out, and users and roles with an export of everything.

    Args:
        inner: The source of everything else; closed with this one.
        database: Where users and roles are (`auth/database.py`); stays open.
        workspace: The workspace that ``inner`` reads.
        workspaces: All that there are beside it.
        include_secrets: Whether hashes of passwords are read.
    """

    def __init__(
        self,
        inner: Source,
        database: Database,
        *,
        workspace: str,
        workspaces: Collection[str],
        include_secrets: bool = False,
    ) -> None:
        self._inner = inner
        self._database = database
        self._workspace = workspace
        self._workspaces = workspaces
        self._include_secrets = include_secrets
        self._spool = Spool()
        self._readers: dict[str, RoleReader | UserReader] = {}
        self.random_access = inner.random_access

    @property
    def info(self) -> SourceInfo:
        return self._inner.info

    @property
    def requests(self) -> int:
        return self._inner.requests

    def shows(self, kind: str) -> bool:
        return True

    def select(self, selection: Selection, report: Report) -> None:
        self._inner.select(selection, report)
        if not selection.everything:
            return
        database = self._database
        with database.reading, database.errors():
            revision = database.revision_over(database.state, REVISIONS)
        rows = Rows(database, database.state, self._workspace)
        legacy = LegacyPermissions(revision, rows, self._workspace, report)
        if self._workspace == DEFAULT_WORKSPACE and not selection.workspaces:
            self._lose_other_workspaces(rows, legacy, report)
        users = UserReader(
            rows,
            self._workspace,
            legacy=legacy,
            prompts=self._prompts,
            report=report,
            include_secrets=self._include_secrets,
        )
        self._readers = {reader.kind: reader for reader in (RoleReader(rows), users)}
        for kind, reader in self._readers.items():
            with database.reading:
                names = list(dict.fromkeys(reader.select()))
            self._spool.add(
                Selected(order_key(layout.document_path_of(kind, name, "")), kind, name, "", b"")
                for name in names
            )
            if names:
                report.plan(kind, len(names))

    def _lose_other_workspaces(self, rows: Rows, legacy: LegacyPermissions, report: Report) -> None:
        """List the workspaces that only the database of users knows: nobody reads their roles."""
        with self._database.reading:
            counts = count_by_workspace(rows, ("roles", *legacy.tables))
        for name, count in counts.items():
            if name != DEFAULT_WORKSPACE and name not in self._workspaces:
                report.lose(
                    WORKSPACE.name,
                    name,
                    f"{self.info.uri} does not show it; the database of users has {count} "
                    f"role{'s' * (count != 1)} in it",
                )

    def _prompts(self) -> Collection[str]:
        return {entity.id for entity in self._inner.iter_entities(Prompt.kind)}

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        if kind not in self._readers:
            yield from self._inner.iter_entities(kind)
        else:
            yield from self._read(self._spool.iterate(kind))

    def _read(self, selected: Iterator[Selected]) -> Iterator[Entity]:
        while batch := list(islice(selected, _AT_ONCE)):
            found: dict[tuple[str, str], Entity] = {}
            for kind, reader in self._readers.items():
                names = [row.id for row in batch if row.kind == kind]
                with self._database.reading:
                    found |= {(kind, entity.id): entity for entity in reader.read(names)}
            for row in batch:
                if (entity := found.get((row.kind, row.id))) is not None:
                    yield entity

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        others = self._inner.iter_contents(files=files, histories=histories, wanted=wanted)
        mine = (
            row
            for row in self._spool.iterate()
            if wanted is None or wanted(row.kind, row.id, row.parent)
        )
        # What was yielded has been used when the next one is asked for, as without this.
        yield from heapq.merge(
            others,
            (Content(entity=entity) for entity in self._read(mine)),
            key=lambda content: order_key(layout.document_path(content.entity)),
        )

    def conclude(self) -> None:
        self._inner.conclude()

    def close(self) -> None:
        self._spool.close()
        self._inner.close()
