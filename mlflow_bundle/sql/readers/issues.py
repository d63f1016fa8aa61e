"""Reads issues (MLflow >= 3.11)."""

from __future__ import annotations

import json
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
    "last_seen_timestamp",
    "last_updated_by",
    "metadata",
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
            row["metadata"] = self._metadata(row["issue_id"], row["metadata"])
            yield Issue(**row, null_fields=nulls.names)

    def _metadata(self, id: str, text: str | None) -> dict[str, str] | None:
        values: dict[str, object] | None = self._decoded(id, "metadata", text or None, dict)
        if values is None:
            return None
        for key, value in values.items():
            if not isinstance(value, str):
                reason = f"the database's JSON is no str, but {json.dumps(value)[:40]}"
                self._from.lose(self.kind, id, reason, field=f"metadata.{key}")
        return {key: value for key, value in values.items() if isinstance(value, str)}
