"""Issues: problems that people and judges found in traces (MLflow >= 3.11)."""

from __future__ import annotations

from typing import ClassVar

from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind


class Issue(PlainEntity, frozen=True, kw_only=True):
    """One issue of an experiment; traces name it in assessments of type ``issue``."""

    kind: ClassVar[str] = "issue"

    issue_id: str
    experiment_id: str
    name: str
    description: str = ""
    status: str = ""
    severity: str | None = None
    root_causes: list[str] = []
    categories: list[str] = []
    source_run_id: str | None = None
    created_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    created_by: str | None = None
    null_fields: list[str] | UnsetType = UNSET
    """Lists that are null in MLflow's table though they are empty here."""

    @property
    def id(self) -> str:
        return self.issue_id


ISSUE = Kind(record=Issue, directory="issues", document="issue.json", scope="experiment")
