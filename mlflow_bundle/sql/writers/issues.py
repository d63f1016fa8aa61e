"""Writes issues; the run that one was found in once that is there.

Since MLflow 3.18 the categories of an issue have rows of their own as well, by which alone the
server finds it. They follow from the list (mlflow/utils/issue_utils.py, ``issue_category_hash``).
"""

from __future__ import annotations

import hashlib
import json

import sqlalchemy
from msgspec import UNSET

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Entity, Run
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.issues import TOO_OLD, Issue
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import Nulls, Writer, null_names

_TABLE = "issues"
_COMPARED = (
    "name",
    "description",
    "status",
    "severity",
    "root_causes",
    "categories",
    "source_run_id",
    "created_by",
)
_SINCE_3_18 = ("last_seen_timestamp", "last_updated_by", "metadata")
_CATEGORIES = "issue_categories"


class IssueWriter(Writer):
    """Writes issues. Traces name them, so they are placed first."""

    kind = Issue.kind

    def __init__(self, to: Target) -> None:
        super().__init__(to)
        self._matched: set[str] = set()
        """Issues here that one of the bundle's is, without its id."""
        self._later: list[tuple[Issue, str, str]] = []
        """Issues whose run was still to come: the bundle's, its id and the run's here."""
        self._is_old = not to.database.has(_TABLE, *_SINCE_3_18)

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, Issue)
        place = self._to.experiment(entity.experiment_id, self.kind, entity.id)
        self._to.remap.place(self.kind, entity.id, self._find(entity, place.id))

    def _find(self, issue: Issue, experiment_id: str) -> str:
        here = self._to.row(_TABLE, {"issue_id": issue.id}, "experiment_id")
        if experiment_id == NEW:
            return issue.id if here is None else NEW
        if here is not None and str(here["experiment_id"]) == experiment_id:
            return issue.id
        if self._to.was_here(experiment_id):
            where = {
                "experiment_id": int(experiment_id),
                "name": issue.name,
                "description": issue.description,
            }
            run_id = self._run(issue)
            for twin in self._to.rows(_TABLE, where, ("issue_id", "source_run_id")):
                id = str(twin["issue_id"])
                if id not in self._matched and twin["source_run_id"] in (None, run_id):
                    self._matched.add(id)
                    return id
        return self._to.free_id(_TABLE, "issue_id", issue.id, within=experiment_id, prefix="iss-")

    def _run(self, issue: Issue) -> str | None:
        run = self._to.remap.find(Run.kind, issue.source_run_id) if issue.source_run_id else None
        return None if run is None else run.id

    def write(self, content: Content, *, dry: bool) -> None:
        issue = content.entity
        assert isinstance(issue, Issue)
        placed = self._to.remap.find(self.kind, issue.id)
        if placed is None or placed.id == NEW:
            return
        place = self._to.experiment(issue.experiment_id, self.kind, issue.id)
        columns = _COMPARED if self._is_old else (*_COMPARED, *_SINCE_3_18)
        here = self._to.row(_TABLE, {"issue_id": placed.id}, *columns)
        if here is None and dry:
            return
        run_id = self._run(issue)
        waits = run_id is not None and not self._to.is_here("runs", "run_uuid", run_id)
        if issue.source_run_id and run_id is None:
            self._to.report.adjust(self.kind, "source_run_id (points outside)")
        with Merge(self._to, self.kind, issue.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                "issue_id": placed.id,
                "experiment_id": int(place.id),
                "name": issue.name,
                "description": issue.description,
                "status": issue.status,
                "severity": issue.severity,
                "root_causes": _list(issue.root_causes, "root_causes", issue.null_fields),
                "source_run_id": None if waits else run_id,
                "categories": _list(issue.categories, "categories", issue.null_fields),
                "created_timestamp": issue.created_timestamp or 0,
                "last_updated_timestamp": issue.last_updated_timestamp or 0,
                "created_by": issue.created_by,
            }
            if not self._is_old:
                row |= self._newer(issue, here)
            written = merge.own(
                _TABLE,
                row,
                here,
                key=("issue_id",),
                compared=columns,
                news=("last_seen_timestamp", "metadata"),
            )
            if not self._is_old:
                self._write_categories(merge, row, here, is_new="categories" in written)
            merge.count()
        if self._is_old and not dry:
            for name in issue.unknown_before_3_18:
                self._to.report.lose(self.kind, issue.id, TOO_OLD, field=name)
        if waits and not dry and (here is None or here["source_run_id"] is None):
            assert run_id is not None
            self._later.append((issue, placed.id, run_id))

    def _newer(self, issue: Issue, here: Row | None) -> Row:
        """Return the values of the columns that came with MLflow 3.18.

        As the server does, a later observation is taken and metadata are taken key by key. Who
        changed an issue last goes with a change that is not taken.
        """
        seen, by, metadata = issue.last_seen, issue.last_updated_by, issue.metadata
        if here is not None:
            if seen is not None and (here["last_seen_timestamp"] or seen) > seen:
                seen = None
            by = by if here["last_updated_by"] is None else None
            known = _map(here["metadata"])
            new = self._to.changed(self.kind, issue.id, "metadata", known, metadata or {})
            metadata = {**known, **new} if new else None
        return {
            "last_seen_timestamp": seen,
            "last_updated_by": by,
            "metadata": None if metadata is None else json.dumps(metadata),
        }

    def _write_categories(self, merge: Merge, row: Row, here: Row | None, *, is_new: bool) -> None:
        """Write the rows that follow from the list that the issue has now."""
        within = {"issue_id": row["issue_id"]}
        if is_new and here is not None and not merge.dry:
            source = self._to.table(_CATEGORIES)
            self._to.batch.execute(
                sqlalchemy.delete(source).where(source.c.issue_id == row["issue_id"])
            )
        text = row["categories"] if here is None or is_new else here["categories"]
        by_digest = {_digest(category): category for category in _texts(text)}
        rows = [
            {**within, "category_hash": digest, "category": category}
            for digest, category in by_digest.items()
        ]
        merge.rows(_CATEGORIES, within, rows, key=("category_hash",), name="categories")

    def finish(self) -> None:
        for issue, id, run_id in self._later:
            if not self._to.is_here("runs", "run_uuid", run_id):
                reason = f"run {issue.source_run_id} could not be made"
                self._to.report.lose(self.kind, issue.id, reason, field="source_run_id")
                continue
            with Merge(self._to, self.kind, issue.id, fresh=False, dry=False) as merge:
                merge.replace(_TABLE, {"issue_id": id}, {"source_run_id": run_id})


def _list(values: list[str], name: str, nulls: Nulls) -> str | None:
    if not values and (nulls is UNSET or name in null_names(nulls)):
        return None
    return json.dumps(values)


def _digest(category: str) -> str:
    return hashlib.sha256(category.strip().lower().encode("utf-8", "surrogatepass")).hexdigest()


def _texts(text: str | None) -> list[str]:
    """The texts of a list that is in the table, in which somebody may have written anything."""
    found = _decoded(text)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _map(text: str | None) -> dict[str, str]:
    found = _decoded(text)
    return found if isinstance(found, dict) else {}


def _decoded(text: str | None) -> object:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
