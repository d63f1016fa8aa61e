"""Reads evaluation datasets (MLflow >= 3.4): those of chosen experiments, or all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from mlflow_bundle.kinds.datasets import DATASET, OUTPUTS_KEY, DatasetRecord, EvaluationDataset
from mlflow_bundle.spool import Selected
from mlflow_bundle.spooled import Spooled
from mlflow_bundle.sql.readers.base import Chosen, Ids, Items, Nulls, Reader, chunks, ids_of

_COLUMNS = (
    "dataset_id",
    "name",
    "schema",
    "profile",
    "digest",
    "created_time",
    "last_update_time",
    "created_by",
    "last_updated_by",
)
_TYPE = "evaluation_dataset"
_JSON = ("inputs", "outputs", "expectations", "tags", "source")
_RECORDS_PER_QUERY = 500
_RECORD_COLUMNS = tuple(name for name in DatasetRecord.__struct_fields__ if name != "null_fields")


class DatasetReader(Reader):
    """Reads evaluation datasets."""

    kind = DATASET.name

    def select(self, chosen: Chosen) -> Ids:
        if chosen.whole_server:
            yield from self._all("evaluation_datasets", "dataset_id")
            return
        if not self._rows.has("evaluation_datasets"):
            return
        found: set[str] = set()
        for some in chunks([str(id) for id in chosen.experiment_ids]):
            for (id,) in self._rows.select(
                "entity_associations",
                ("source_id",),
                where={
                    "source_type": _TYPE,
                    "destination_type": "experiment",
                    "destination_id": some,
                },
            ):
                found.add(id)
        for ids in chunks(sorted(found)):
            for (id,) in self._rows.select(
                "evaluation_datasets", ("dataset_id",), where={"dataset_id": ids}
            ):
                yield id, ""

    def read(self, wanted: Sequence[Selected]) -> Iterator[EvaluationDataset]:
        ids = ids_of(wanted)
        tags = self._tags("evaluation_dataset_tags", "dataset_id", ids)
        links = self._associations(_TYPE, ids)
        for row in self._records("evaluation_datasets", "dataset_id", wanted, _COLUMNS):
            id = row["dataset_id"]
            nulls = Nulls()
            yield EvaluationDataset(
                **row,
                tags=nulls.tags("tags", tags.get(id, ())),
                experiment_ids=[
                    link.destination_id
                    for link in links.get(id, ())
                    if link.destination_type == "experiment"
                ],
                associations=links.get(id) or msgspec.UNSET,
                null_fields=nulls.names,
            )

    def read_items(self, wanted: Sequence[Selected]) -> Items:
        found: dict[str, Spooled[DatasetRecord]] = {}
        for some in chunks(ids_of(wanted)):
            for rows in self._rows.batches(
                "evaluation_dataset_records",
                ("dataset_id", *_RECORD_COLUMNS),
                where={"dataset_id": some},
                order=("created_time", "dataset_record_id"),
                size=_RECORDS_PER_QUERY,
            ):
                for dataset_id, *values in rows:
                    if dataset_id not in found:
                        found[dataset_id] = Spooled(DatasetRecord)
                    row = dict(zip(_RECORD_COLUMNS, values, strict=True))
                    found[dataset_id].add(self._record(dataset_id, row))
        return lambda id, parent: found.get(id, ())

    def _record(self, dataset_id: str, row: dict[str, Any]) -> DatasetRecord:
        nulls = Nulls()
        for name in _JSON:
            text = row[name]
            if text is None and name != "inputs":
                nulls.add(name)
            field = f"records.{row['dataset_record_id']}.{name}"
            value = self._decoded(dataset_id, field, text)
            if name == "outputs":
                value = value.get(OUTPUTS_KEY) if isinstance(value, dict) else None
            # As MLflow's own encoder writes it, whatever form the database keeps JSON in.
            row[name] = None if value is None and name != "inputs" else json.dumps(value)
        return DatasetRecord(**row, null_fields=nulls.names)
