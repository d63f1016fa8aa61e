"""Reads logged models (MLflow >= 3.0); deleted ones too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.entities import LoggedModel, LoggedModelMetric, encode_number
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Nulls, Reader, chunks, ids_of

_STATUS = {0: "UNSPECIFIED", 1: "PENDING", 2: "READY", 3: "FAILED"}
"""mlflow/entities/logged_model_status.py"""


class LoggedModelReader(Reader):
    """Reads logged models."""

    kind = LoggedModel.kind

    def select(self, chosen: Chosen) -> Ids:
        return self._in_experiments("logged_models", "model_id", chosen)

    def find(self, model_ids: Sequence[str]) -> Ids:
        """Yield those of some ids that are logged models, with their experiments."""
        for some in chunks(model_ids):
            for id, experiment_id in self._rows.select(
                "logged_models", ("model_id", "experiment_id"), where={"model_id": some}
            ):
                yield id, str(experiment_id)

    def read(self, wanted: Sequence[Selected]) -> Iterator[LoggedModel]:
        ids = ids_of(wanted)
        tags = self._tags("logged_model_tags", "model_id", ids, key="tag_key", value="tag_value")
        params = self._tags(
            "logged_model_params", "model_id", ids, key="param_key", value="param_value"
        )
        metrics = self._metrics(ids)
        columns = (
            "model_id",
            "experiment_id",
            "name",
            "artifact_location",
            "creation_timestamp_ms",
            "last_updated_timestamp_ms",
            "status",
            "lifecycle_stage",
            "model_type",
            "source_run_id",
            "status_message",
        )
        for row in self._records("logged_models", "model_id", wanted, columns):
            id = row["model_id"]
            nulls = Nulls()
            yield LoggedModel(
                model_id=id,
                experiment_id=str(row["experiment_id"]),
                name=row["name"],
                artifact_location=row["artifact_location"],
                creation_time=row["creation_timestamp_ms"],
                last_updated_timestamp=row["last_updated_timestamp_ms"],
                model_type=nulls.text("model_type", row["model_type"]),
                source_run_id=nulls.text("source_run_id", row["source_run_id"]) or None,
                status=_STATUS.get(row["status"], "UNSPECIFIED"),
                status_message=nulls.text("status_message", row["status_message"]),
                lifecycle_stage="deleted" if row["lifecycle_stage"] == "deleted" else "active",
                tags=dict(sorted(tags.get(id, ()))),
                params=dict(sorted(params.get(id, ()))),
                metrics=metrics.get(id, []),
                null_fields=nulls.names,
            )

    def tree(self, entity: LoggedModel) -> ArtifactTree:
        return self._from.tree(entity.artifact_location)

    def _metrics(self, ids: Sequence[str]) -> dict[Any, list[LoggedModelMetric]]:
        columns = (
            *("metric_name", "metric_value", "metric_timestamp_ms", "metric_step", "run_id"),
            *("dataset_name", "dataset_digest", "dataset_uuid"),
        )
        found = self._rows.grouped("logged_model_metrics", "model_id", ids, columns)
        return {
            id: [
                LoggedModelMetric(
                    key=key,
                    # SQLite has no NaN: it keeps null for one.
                    value="NaN" if value is None else encode_number(value),  # type: ignore[arg-type]
                    timestamp=timestamp,
                    step=step,
                    run_id=run_id,
                    dataset_name=name,
                    dataset_digest=digest,
                    dataset_uuid=uuid,
                )
                for key, value, timestamp, step, run_id, name, digest, uuid in rows
            ]
            for id, rows in found.items()
        }
