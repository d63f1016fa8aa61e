"""Writes issues: they have no tags, so id or name, description and source run tell which is which.

Servers since MLflow 3.18 take the id with a new issue; before, it got another one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import PlainEntity, Run
from mlflow_bundle.errors import SinkError, UnsupportedEntityError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.issues import TOO_OLD, Issue
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.issues import RestIssueAnswer, iter_issues
from mlflow_bundle.rest.session import API, API_3
from mlflow_bundle.rest.writers.base import Writer

_UNSETTABLE = ("created_timestamp", "last_updated_timestamp")
_UPDATABLE = ("name", "description", "status", "severity")
_STATE = ("status", "severity")

_ID = re.compile(r"iss-[A-Za-z0-9_-]{1,32}")
_MOST = 100
_LONGEST = 250
_LONGEST_VALUE = 65_536
"""What servers take since MLflow 3.18: categories or metadata, characters of a category or a key,
and of a value (``validate_issue_fields``, mlflow/utils/issue_utils.py)."""

_Key = tuple[str, str, str]


class IssueWriter(Writer):
    """Writes issues. Traces name them, so they are placed first."""

    kind = Issue.kind
    reserves = True

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._here: dict[str, _Here] = {}
        self._matched: dict[str, Issue] = {}
        """Issues that were here before, by the id of the bundle's."""
        self._made: dict[str, Issue] = {}
        """As the server made them, by the id of the bundle's."""
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
            here = self._issues_of(experiment_id).take(entity, run_id)
            if here is not None:
                self._matched[entity.id] = here
                if run_id and not here.source_run_id:
                    # An import without the run made it: the server takes no run later.
                    self._late_run.add(entity.id)
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

    def _issues_of(self, experiment_id: str) -> _Here:
        if experiment_id not in self._here:
            found = _Here()
            if self._to.was_here(experiment_id):
                for issue in iter_issues(self._to.session, experiment_id):
                    found.add(issue)
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
            "categories": self._categories(issue),
        }
        if issue.severity is not None:
            body["severity"] = issue.severity
        if issue.created_by is not None:
            body["created_by"] = issue.created_by
        if run_id:
            body["source_run_id"] = run_id
        elif issue.source_run_id:
            self._to.report.adjust(Issue.kind, "source_run_id (points outside)")
        if self._to.since(3, 18):
            if _ID.fullmatch(issue.id):
                body["issue_id"] = issue.id
            if issue.last_seen is not None and issue.last_seen >= 0:
                body["last_seen_timestamp"] = issue.last_seen
            if metadata := self._metadata(issue):
                body["metadata"] = metadata
        made = self._post(issue, body)
        self._made[issue.id] = made
        for name in _UNSETTABLE:
            self._to.report.adjust(Issue.kind, name)
        for name in ("issue_id", "created_by"):
            # Of a server with accounts it is the account that imports.
            if getattr(issue, name) not in (None, getattr(made, name)):
                self._to.report.adjust(Issue.kind, name)
        return made.issue_id

    def _post(self, issue: Issue, body: dict[str, Any]) -> Issue:
        """Make an issue, without what the server can be asked to leave out."""
        while True:
            try:
                answer: RestIssueAnswer = self._to.session.post(
                    f"{API_3}issues",
                    body,
                    type=RestIssueAnswer,
                    what=f"issue {issue.id}",
                    once=True,
                )
            except SinkError as exc:
                if "issue_id" in body and exc.error_code == "RESOURCE_ALREADY_EXISTS":
                    del body["issue_id"]  # in another experiment, or in one that is not seen
                    continue
                if exc.status == HTTPStatus.BAD_REQUEST and self._is_run_elsewhere(body):
                    del body["source_run_id"]
                    self._lose(issue, "source_run_id", exc.message)
                    continue
                raise
            return answer.issue.record()

    def _is_run_elsewhere(self, body: Mapping[str, Any]) -> bool:
        """Whether the run is of another experiment, which servers refuse since MLflow 3.18."""
        run_id = body.get("source_run_id")
        if not run_id or not self._to.since(3, 18):
            return False
        found = self._to.session.get(f"{API}runs/get", params={"run_id": run_id})
        return bool(found["run"]["info"]["experiment_id"] != body["experiment_id"])

    def _categories(self, issue: Issue) -> list[str]:
        """Return the categories that the server takes; the others are lost."""
        if not self._to.since(3, 18):
            return issue.categories
        fitting = [one for one in issue.categories if 1 <= len(one) <= _LONGEST][:_MOST]
        if len(fitting) < len(issue.categories):
            reason = f"the server takes {_MOST} of 1 to {_LONGEST} characters"
            self._lose(issue, "categories", reason)
        return fitting

    def _metadata(self, issue: Issue) -> dict[str, str]:
        """Return the metadata that the server takes; the others are lost."""
        fitting: dict[str, str] = {}
        for key, value in (issue.metadata or {}).items():
            if len(fitting) < _MOST and 1 <= len(key) <= _LONGEST and len(value) <= _LONGEST_VALUE:
                fitting[key] = value
            else:
                reason = (
                    f"the server takes {_MOST} with keys of 1 to {_LONGEST} characters and values "
                    f"of {_LONGEST_VALUE}"
                )
                self._lose(issue, f"metadata.{key}", reason)
        return fitting

    def _lose(self, issue: Issue, field: str, reason: str) -> None:
        self._to.report.lose(Issue.kind, issue.id, reason, field=field, parent=issue.experiment_id)

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
        if not self._to.since(3, 18):
            for name in issue.unknown_before_3_18:
                self._lose(issue, name, TOO_OLD)
        if here is None:
            self._settle(issue, self._made[issue.id])
            self._to.report.did(Issue.kind)
            return
        changes = self._changes(issue, here)
        if not changes:
            self._to.report.found(Issue.kind)
            return
        if self._names_another(issue, here):
            changes["last_updated_by"] = issue.last_updated_by
        self._update(issue, here, changes)
        self._to.report.did(Issue.kind)

    def _settle(self, issue: Issue, made: Issue) -> None:
        """Let an issue that was made name who changed it last: at first it is who made it."""
        if self._names_another(issue, made):
            made = self._update(issue, made, {"last_updated_by": issue.last_updated_by})
            if self._names_another(issue, made):
                self._to.report.adjust(Issue.kind, "last_updated_by")

    def _names_another(self, issue: Issue, here: Issue) -> bool:
        by = issue.last_updated_by
        return self._to.since(3, 18) and by not in (None, "", here.last_updated_by)

    def _update(self, issue: Issue, here: Issue, changes: Mapping[str, Any]) -> Issue:
        answer: RestIssueAnswer = self._to.session.call(
            "PATCH",
            f"{API_3}issues/{here.issue_id}",
            json_body={"issue_id": here.issue_id, **changes},
            type=RestIssueAnswer,
            what=f"issue {issue.id}",
        )
        return answer.issue.record()

    def _changes(self, issue: Issue, here: Issue) -> dict[str, Any]:
        """Fields of the bundle's issue that are to be written."""
        changes: dict[str, Any] = {}
        for name in _UPDATABLE:
            mine, other = getattr(issue, name), getattr(here, name)
            if mine in (None, "") or mine == other:
                continue  # an empty text changes nothing
            if self._to.differs(Issue.kind, issue.id, name, here=other, bundle=mine):
                changes[name] = mine
        if self._to.since(3, 18):
            changes |= self._newer_changes(issue, here)
        return changes

    def _newer_changes(self, issue: Issue, here: Issue) -> dict[str, Any]:
        """What can be changed since MLflow 3.18; a later observation is none that differs."""
        changes: dict[str, Any] = {}
        mine, other = self._categories(issue), here.categories
        if mine not in ([], other) and (
            not other
            or self._to.differs(Issue.kind, issue.id, "categories", here=other, bundle=mine)
        ):
            changes["categories"] = mine
        if issue.last_seen is not None and issue.last_seen > (here.last_seen or 0):
            changes["last_seen_timestamp"] = issue.last_seen
        new = self._to.changed(
            Issue.kind, issue.id, "metadata", here.metadata or {}, self._metadata(issue)
        )
        if new:
            changes["metadata"] = new
        return changes


class _Here:
    """Issues of an experiment here that no issue of the bundle is yet."""

    def __init__(self) -> None:
        self._by_id: dict[str, Issue] = {}
        self._by_key: dict[_Key, list[Issue]] = {}

    def add(self, issue: Issue) -> None:
        """Add one."""
        self._by_id[issue.id] = issue
        self._by_key.setdefault(_key(issue, issue.source_run_id or ""), []).append(issue)

    def take(self, issue: Issue, run_id: str) -> Issue | None:
        """Return, once, the one that an issue of the bundle is, whose run is this one here."""
        twins = self._by_key.get(_key(issue, run_id)) or self._by_key.get(_key(issue, "")) or []
        # Of several that are alike the one that is equal; another one may be updated.
        equal = (twin for twin in twins if _state(twin) == _state(issue))
        found = self._by_id.get(issue.id) or next(equal, None) or next(iter(twins), None)
        if found is not None:
            del self._by_id[found.id]
            self._by_key[_key(found, found.source_run_id or "")].remove(found)
        return found


def _state(issue: Issue) -> tuple[str | None, ...]:
    return tuple(getattr(issue, name) for name in _STATE)


def _key(issue: Issue, run_id: str) -> _Key:
    return issue.name, issue.description, run_id
