"""Reads experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy
from msgspec import UNSET

from mlflow_bundle.entities import Dataset, Experiment
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Nulls, Reader, chunks

DATASET_COLUMNS = (
    "dataset_uuid",
    "name",
    "digest",
    "dataset_source_type",
    "dataset_source",
    "dataset_schema",
    "dataset_profile",
)


def dataset_of(row: Sequence[str | None]) -> Dataset:
    """Return the dataset that a row of ``DATASET_COLUMNS`` holds."""
    uuid, name, digest, source_type, source, schema, profile = row
    return Dataset(
        name=name or "",
        digest=digest or "",
        source_type=source_type or "",
        source=source or "",
        schema=schema,
        profile=profile,
        dataset_uuid=uuid or "",
    )


class ExperimentReader(Reader):
    """Reads experiments."""

    kind = Experiment.kind

    def select(self, chosen: Chosen) -> Ids:
        for id in chosen.experiment_ids:
            yield str(id), ""

    def read(self, wanted: Sequence[Selected]) -> Iterator[Experiment]:
        ids = [int(row.id) for row in wanted]
        tags = self._tags("experiment_tags", "experiment_id", ids)
        unused = self._unused_datasets(ids)
        columns = (
            "experiment_id",
            "name",
            "artifact_location",
            "lifecycle_stage",
            "creation_time",
            "last_update_time",
        )
        for some in chunks(ids):
            for row in self._rows.select("experiments", columns, where={"experiment_id": some}):
                id, name, location, stage, created, updated = row
                nulls = Nulls()
                yield Experiment(
                    experiment_id=str(id),
                    name=name,
                    artifact_location=nulls.text("artifact_location", location),
                    lifecycle_stage="deleted" if stage == "deleted" else "active",
                    tags=nulls.tags("tags", tags.get(id, ())),
                    creation_time=created,
                    last_update_time=updated,
                    datasets=unused.get(id) or UNSET,
                    null_fields=nulls.names,
                )

    def _unused_datasets(self, ids: Sequence[int]) -> dict[int, list[Dataset]]:
        """Datasets that no run names, by experiment."""
        found: dict[int, list[Dataset]] = {}
        if not self._rows.has("datasets", "dataset_uuid"):
            return found
        used = (
            sqlalchemy.select(1)
            .where(
                self._rows.column("inputs", "source_type") == "DATASET",
                self._rows.column("inputs", "source_id")
                == self._rows.column("datasets", "dataset_uuid"),
            )
            .exists()
        )
        for some in chunks(ids):
            for row in self._rows.select(
                "datasets",
                ("experiment_id", *DATASET_COLUMNS),
                where={"experiment_id": some},
                conditions=(~used,),
            ):
                found.setdefault(row[0], []).append(dataset_of(row[1:]))
        for datasets in found.values():
            datasets.sort(key=lambda dataset: (dataset.name, dataset.digest))
        return found
