"""Reads label schemas (MLflow >= 3.14); of deleted experiments too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow_bundle.kinds.reviews import LABEL_SCHEMA, LabelSchema
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Reader

_COLUMNS = (
    "schema_id",
    "experiment_id",
    "name",
    "type",
    "instruction",
    "enable_comment",
    "input_type",
    "input_config",
    "created_by",
    "created_time",
    "last_update_time",
    "is_default",
)


class LabelSchemaReader(Reader):
    """Reads label schemas."""

    kind = LABEL_SCHEMA.name

    def select(self, chosen: Chosen) -> Ids:
        return self._in_experiments("label_schemas", "schema_id", chosen)

    def read(self, wanted: Sequence[Selected]) -> Iterator[LabelSchema]:
        for row in self._records("label_schemas", "schema_id", wanted, _COLUMNS):
            row["experiment_id"] = str(row["experiment_id"])
            for name in ("enable_comment", "is_default"):
                row[name] = bool(row[name])
            yield LabelSchema(**row)
