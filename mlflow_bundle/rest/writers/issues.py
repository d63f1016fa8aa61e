"""Writes issues: they have no tags, so name, description and source run tell which is which."""

from __future__ import annotations

import threading
from typing import Any

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import PlainEntity, Run
from mlflow_bundle.errors import SinkError, UnsupportedEntityError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.issues import Issue
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.issues import RestIssueAnswer, iter_issues
from mlflow_bundle.rest.session import API_3
from mlflow_bundle.rest.writers.base import Writer

_UNSETTABLE = ("issue_id", "created_timestamp", "last_updated_timestamp")
_UPDATABLE = ("status", "severity")

_Key = tuple[str, str, str]


class IssueWriter(Writer):
    """Writes issues. Traces name them, so they are placed first."""

    kind = Issue.kind
    reserves = True

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._here: dict[str, dict[_Key, list[Issue]]] = {}
        self._matched: dict[str, Issue] = {}
        """Issues that were here before, by the id of the bundle's."""
        self._late_run: set[str] = set()
        """Issues of the bundle that are here without their source run."""
        self._lock = threading.Lock()

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        assert isinstance(entity, Issue)
        if not self._to.since(3, 11):
            raise UnsupportedEntityError(
                f"issue {entity.id}: the server has no issues (they came with MLflow 3.11)",
                status=404,
            )
        experiment_id = self._place(entity).id
        run_id = self._source_run(entity)
        with self._lock:
            issues = self._issues_of(experiment_id)
            twins = issues.get(_key(entity, run_id), [])
            if not twins and run_id:
                # An import without the run made it: the server takes no run later.
                twins = issues.get(_key(entity, ""), [])
                self._late_run |= {entity.id} if twins else set()
            # Of several that are alike the one that is equal; another one may be updated.
            here = next((twin for twin in twins if _state(twin) == _state(entity)), None)
            here = here or (twins[0] if twins else None)
            if here is not None:
                twins.remove(here)
                self._matched[entity.id] = here
        id = here.issue_id if here is not None else NEW
        if here is None:
            self._experiment(entity)
            if not run_id and (Run.kind, entity.source_run_id) in self._to.unfinished:
                # The server takes no run later.
                raise SinkError(
                    f"issue {entity.id}: its run could not be made; import again",
                    status=409,
                    retryable=True,
                )
        if here is None and not dry:
            id = self._create(entity, experiment_id, run_id)
        self._to.remap.place(Issue.kind, entity.id, id)

    def _issues_of(self, experiment_id: str) -> dict[_Key, list[Issue]]:
        """Issues of an experiment here that no issue of the bundle is yet."""
        if experiment_id not in self._here:
            found: dict[_Key, list[Issue]] = {}
            if self._to.was_here(experiment_id):
                for issue in iter_issues(self._to.session, experiment_id):
                    found.setdefault(_key(issue, issue.source_run_id or ""), []).append(issue)
            self._here[experiment_id] = found
        return self._here[experiment_id]

    def _source_run(self, issue: Issue) -> str:
        """The source run here; empty for none: the server takes no run that it does not know."""
        if not issue.source_run_id:
            return ""
        run = self._to.remap.find("run", issue.source_run_id)
        return run.id if run is not None else ""

    def _create(self, issue: Issue, experiment_id: str, run_id: str) -> str:
        body: dict[str, Any] = {
            "experiment_id": experiment_id,
            "name": issue.name,
            "description": issue.description,
            "status": issue.status,
            "root_causes": issue.root_causes,
            "categories": issue.categories,
        }
        if issue.severity is not None:
            body["severity"] = issue.severity
        if issue.created_by is not None:
            body["created_by"] = issue.created_by
        if run_id:
            body["source_run_id"] = run_id
        elif issue.source_run_id:
            self._to.report.adjust(Issue.kind, "source_run_id (points outside)")
        answer: RestIssueAnswer = self._to.session.post(
            f"{API_3}issues", body, type=RestIssueAnswer, what=f"issue {issue.id}", once=True
        )
        for name in _UNSETTABLE:
            self._to.report.adjust(Issue.kind, name)
        return answer.issue.issue_id

    def examine(self, content: Content) -> None:
        issue = content.entity
        assert isinstance(issue, Issue)
        here = self._matched.get(issue.id)
        if here is not None:
            self._to.report.found(Issue.kind)
            self._changes(issue, here)

    def put(self, content: Content) -> None:
        issue = content.entity
        assert isinstance(issue, Issue)
        if self._to.remap.find(Issue.kind, issue.id) is None:
            return
        here = self._matched.get(issue.id)
        if issue.id in self._late_run:
            self._to.report.adjust(Issue.kind, "source_run_id (came later than the issue)")
        if here is None:
            self._to.report.did(Issue.kind)
            return
        changes = self._changes(issue, here)
        if not changes:
            self._to.report.found(Issue.kind)
            return
        self._to.session.call(
            "PATCH",
            f"{API_3}issues/{here.issue_id}",
            json_body={"issue_id": here.issue_id, **changes},
            what=f"issue {issue.id}",
        )
        self._to.report.did(Issue.kind)

    def _changes(self, issue: Issue, here: Issue) -> dict[str, str]:
        """Fields of the bundle's issue that are to be written."""
        return {
            name: getattr(issue, name)
            for name in _UPDATABLE
            if getattr(issue, name) is not None
            and getattr(issue, name) != getattr(here, name)
            and self._to.differs(
                Issue.kind, issue.id, name, here=getattr(here, name), bundle=getattr(issue, name)
            )
        }


def _state(issue: Issue) -> tuple[str | None, ...]:
    return tuple(getattr(issue, name) for name in _UPDATABLE)


def _key(issue: Issue, run_id: str) -> _Key:
    return issue.name, issue.description, run_id
