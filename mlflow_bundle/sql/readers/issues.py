"""Reads issues (MLflow >= 3.11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow_bundle.kinds.issues import ISSUE, Issue
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Nulls, Reader

_COLUMNS = (
    "issue_id",
    "experiment_id",
    "name",
    "description",
    "status",
    "severity",
    "root_causes",
    "categories",
    "source_run_id",
    "created_timestamp",
    "last_updated_timestamp",
    "created_by",
)


class IssueReader(Reader):
    """Reads issues."""

    kind = ISSUE.name

    def select(self, chosen: Chosen) -> Ids:
        return self._in_experiments("issues", "issue_id", chosen)

    def read(self, wanted: Sequence[Selected]) -> Iterator[Issue]:
        for row in self._records("issues", "issue_id", wanted, _COLUMNS):
            nulls = Nulls()
            row["experiment_id"] = str(row["experiment_id"])
            for name in ("root_causes", "categories"):
                text = nulls.text(name, row[name]) or "[]"
                row[name] = self._decoded(row["issue_id"], name, text, list) or []
            yield Issue(**row, null_fields=nulls.names)
