"""Writes evaluation datasets: names are not unique, so ids and origins tell which is which."""

from __future__ import annotations

import hashlib
import json

from msgspec import UNSET

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Association, Entity, Experiment
from mlflow_bundle.kinds.datasets import OUTPUTS_KEY, DatasetRecord, EvaluationDataset
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.associations import AssociationRows
from mlflow_bundle.sql.writers.base import Writer, json_text, null_names
from mlflow_bundle.sql.writers.origins import OriginTags

_TABLE, _RECORDS = "evaluation_datasets", "evaluation_dataset_records"
_COMPARED = ("name", "created_by")
_RECORD_COMPARED = ("outputs", "expectations", "tags", "source", "source_id", "source_type")


class DatasetWriter(Writer):
    """Writes evaluation datasets. Runs name them as their inputs, so they are placed first."""

    kind = EvaluationDataset.kind

    def __init__(self, to: Target, links: AssociationRows) -> None:
        super().__init__(to)
        self._links = links
        self._origins = OriginTags(
            to,
            table=_TABLE,
            id="dataset_id",
            tags="evaluation_dataset_tags",
            within="workspace",
        )

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, EvaluationDataset)
        self._to.remap.place(self.kind, entity.id, self._find(entity))

    def _find(self, dataset: EvaluationDataset) -> str:
        here = self._to.row(_TABLE, {"dataset_id": dataset.id}, "workspace")
        if here is not None and here["workspace"] == self._to.workspace:
            return dataset.id
        origins = self._to.origins(dataset.id, dataset.tags)
        found = self._origins.find(self._to.workspace, origins)
        return found or self._to.free_id(
            _TABLE, "dataset_id", dataset.id, within=self._to.workspace, prefix="d-"
        )

    def write(self, content: Content, *, dry: bool) -> None:
        dataset = content.entity
        assert isinstance(dataset, EvaluationDataset)
        placed = self._to.remap.find(self.kind, dataset.id)
        if placed is None:
            return
        id = placed.id
        here = self._to.row(_TABLE, {"dataset_id": id}, *_COMPARED, "schema", "profile")
        if here is None and dry:
            return
        with Merge(self._to, self.kind, dataset.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                "dataset_id": id,
                "workspace": self._to.workspace,
                "name": dataset.name,
                "schema": dataset.schema,
                "profile": dataset.profile,
                "digest": dataset.digest,
                "created_time": dataset.created_time,
                "last_update_time": dataset.last_update_time,
                "created_by": dataset.created_by,
                "last_updated_by": dataset.last_updated_by,
            }
            merge.own(_TABLE, row, here, key=("dataset_id",), compared=_COMPARED)
            tags = self._to.tags_of(self.kind, dataset.tags)
            if here is not None:
                tags.pop(provenance.ORIGIN, None)
            elif id != dataset.id:
                tags[provenance.ORIGIN] = provenance.origin_of(dataset.id, dataset.tags)
            merge.map(
                "evaluation_dataset_tags",
                {"dataset_id": id},
                tags,
                name="tags",
                nulls=null_names(dataset.null_fields),
            )
            self._write_records(merge, content, id)
            if here is not None and merge.changed:
                self._follow(merge, dataset, here, id)
            self._write_links(merge, dataset, id)
            merge.count()

    def _follow(self, merge: Merge, dataset: EvaluationDataset, here: Row, id: str) -> None:
        """Let what follows from the records follow those that were added.

        A server works out schema and profile when it adds records; the bundle's are taken where
        there were none here.
        """
        values = {
            name: getattr(dataset, name)
            for name in ("schema", "profile")
            if not here[name] and getattr(dataset, name)
        }
        if values:
            merge.replace(_TABLE, {"dataset_id": id}, values)

    def _write_links(self, merge: Merge, dataset: EvaluationDataset, id: str) -> None:
        if dataset.associations is not UNSET:
            links = dataset.associations
        else:
            links = [
                Association(
                    association_id="", destination_type=Experiment.kind, destination_id=experiment
                )
                for experiment in dataset.experiment_ids
            ]
        self._links.write(merge, "evaluation_dataset", id, links, kept=id == dataset.id)

    # Records

    def _write_records(self, merge: Merge, content: Content, id: str) -> None:
        if merge.dry and merge.fresh:
            return
        for position, item in enumerate(content.items()):
            assert isinstance(item, DatasetRecord)
            name = f"records[{position}]"
            try:
                row = self._record(item, id, kept=content.entity.id == id)
            except (ValueError, RecursionError) as exc:
                self._to.report.lose(
                    self.kind, content.entity.id, f"a value is no JSON: {exc}", field=name
                )
                continue
            found = None if merge.fresh else self._record_here(id, row["input_hash"])
            if found is not None:
                # The table's key; what is compared is found by it.
                row["dataset_record_id"] = found["dataset_record_id"]
                for column in _RECORD_COMPARED:
                    if row[column] == "null":
                        row[column] = None
            merge.own(
                _RECORDS,
                row,
                found,
                key=("dataset_record_id",),
                compared=_RECORD_COMPARED,
                name=name,
            )

    def _record_here(self, dataset_id: str, input_hash: str) -> Row | None:
        where = {"dataset_id": dataset_id, "input_hash": input_hash}
        row = self._to.row(_RECORDS, where, "dataset_record_id", *_RECORD_COMPARED)
        if row is None:
            return None
        return {column: None if value == "null" else value for column, value in row.items()}

    def _record(self, record: DatasetRecord, dataset_id: str, *, kept: bool) -> Row:
        nulls = record.null_fields
        inputs = json.loads(record.inputs)
        outputs = record.outputs
        if outputs is not None:
            outputs = f'{{"{OUTPUTS_KEY}": {outputs}}}'
        input_hash = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        id = record.dataset_record_id
        if not kept or not id:
            id = f"dr-{self._to.made_id(_RECORDS, dataset_id, input_hash)}"
        return {
            "dataset_record_id": id,
            "dataset_id": dataset_id,
            "inputs": record.inputs,
            "outputs": json_text(outputs, "outputs", nulls),
            "expectations": json_text(record.expectations, "expectations", nulls),
            "tags": json_text(record.tags, "tags", nulls),
            "source": json_text(record.source, "source", nulls),
            "source_id": record.source_id,
            "source_type": record.source_type,
            "created_time": record.created_time,
            "last_update_time": record.last_update_time,
            "created_by": record.created_by,
            "last_updated_by": record.last_updated_by,
            "input_hash": input_hash,
        }
