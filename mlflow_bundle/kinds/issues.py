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
    last_seen_timestamp: Int64 | None = None
    """When it was last observed, in ms since the epoch (MLflow >= 3.18)."""
    last_updated_by: str | None = None
    """Who changed it last (MLflow >= 3.18)."""
    metadata: dict[str, str] | None = None
    """What applications note of it (MLflow >= 3.18)."""
    null_fields: list[str] | UnsetType = UNSET
    """Lists that are null in MLflow's table though they are empty here."""

    @property
    def id(self) -> str:
        return self.issue_id

    @property
    def last_seen(self) -> int | None:
        """When it was last observed; of an older MLflow's issue when it was made.

        So do the migration (8b6ad64cb8f5) and the server.
        """
        seen = self.last_seen_timestamp
        return self.created_timestamp if seen is None else seen

    @property
    def unknown_before_3_18(self) -> list[str]:
        """Names of the fields that an older MLflow cannot hold and that say something of their own.

        It is no news that an issue was seen when it was made, or changed by who made it.
        """
        seen, made = self.last_seen_timestamp, self.created_timestamp
        told = {
            "last_seen_timestamp": seen is not None and (made is None or seen > made),
            "last_updated_by": self.last_updated_by not in (None, self.created_by),
            "metadata": bool(self.metadata),
        }
        return [name for name, is_told in told.items() if is_told]


TOO_OLD = "the destination has no such field of issues (it came with MLflow 3.18)"
"""Why one of :attr:`Issue.unknown_before_3_18` is lost."""

ISSUE = Kind(record=Issue, directory="issues", document="issue.json", scope="experiment")
