"""Reads issues (MLflow >= 3.11); those of deleted experiments too."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.issues import ISSUE, Issue
from mlflow_bundle.rest.readers.base import Chosen, Reader
from mlflow_bundle.rest.records import to_int
from mlflow_bundle.rest.session import API_3, Session

_PER_PAGE = 1000


class RestIssue(msgspec.Struct, frozen=True):
    """``issues/search``: one issue."""

    issue_id: str
    experiment_id: str
    name: str = ""
    description: str = ""
    status: str = ""
    severity: str | None = None
    root_causes: list[str] = []
    categories: list[str] = []
    source_run_id: str | None = None
    created_timestamp: int | str | None = None
    last_updated_timestamp: int | str | None = None
    created_by: str | None = None
    last_seen_timestamp: int | str | None = None
    last_updated_by: str | None = None
    metadata: dict[str, str] | None = None

    def record(self) -> Issue:
        """The record."""
        fields = msgspec.structs.asdict(self)
        for name in ("created_timestamp", "last_updated_timestamp", "last_seen_timestamp"):
            fields[name] = to_int(fields[name])
        return Issue(**fields)


class RestIssues(msgspec.Struct, frozen=True):
    """``issues/search``."""

    issues: list[RestIssue] = []
    next_page_token: str | None = None


class RestIssueAnswer(msgspec.Struct, frozen=True):
    """``issues``: one that was made or asked for."""

    issue: RestIssue


class IssueReader(Reader):
    """Reads issues."""

    kind = ISSUE
    first = (3, 11)

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        for experiment in chosen.experiments:
            try:
                yield from iter_issues(self._from.session, experiment.experiment_id)
            except ServerError as exc:
                self._lose_all(exc, experiment.experiment_id)


def iter_issues(session: Session, experiment_id: str) -> Iterator[Issue]:
    """Yield the issues of one experiment.

    Raises:
        ServerError: The server refused.
    """
    for page in session.iter_pages(
        "POST",
        f"{API_3}issues/search",
        {"experiment_id": experiment_id, "max_results": _PER_PAGE},
        type=RestIssues,
        what=f"issues of experiment {experiment_id}",
    ):
        for issue in page.issues:
            yield issue.record()
