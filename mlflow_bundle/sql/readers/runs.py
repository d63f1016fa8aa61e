"""Reads runs, deleted ones too; their metric points are read by `points`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.entities import (
    Dataset,
    DatasetInput,
    KeyValue,
    ModelInput,
    ModelOutput,
    Run,
    RunInfo,
    RunInputs,
    RunOutputs,
)
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Nulls, Reader, chunks, ids_of
from mlflow_bundle.sql.readers.experiments import DATASET_COLUMNS, dataset_of
from mlflow_bundle.sql.rows import Row

_RUN_NAME = "mlflow.runName"

_Links = dict[str, list[Row]]


class RunReader(Reader):
    """Reads runs."""

    kind = Run.kind

    def select(self, chosen: Chosen) -> Ids:
        start = self._rows.column("runs", "start_time")
        selection = chosen.selection
        conditions: list[ColumnElement[bool]] = []
        if selection.since_ms is not None:
            conditions.append(start >= selection.since_ms)
        if selection.until_ms is not None:
            conditions.append(start < selection.until_ms)
        return self._in_experiments("runs", "run_uuid", chosen, conditions)

    def find(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield those of some ids that are runs, with their experiments."""
        for some in chunks(run_ids):
            for id, experiment_id in self._rows.select(
                "runs", ("run_uuid", "experiment_id"), where={"run_uuid": some}
            ):
                yield id, str(experiment_id)

    def linked_models(self, run_ids: Sequence[str]) -> Iterator[str]:
        """Yield the ids of the logged models that runs read and made."""
        for direction in ("INPUT", "OUTPUT"):
            for rows in self._model_links(direction, run_ids, ("destination_id",)).values():
                for (model_id,) in rows:
                    yield model_id

    def places(self, wanted: Sequence[Selected]) -> Iterator[tuple[str, str, str]]:
        """Yield id, experiment and artifact location of some runs."""
        columns = ("run_uuid", "experiment_id", "artifact_uri")
        for row in self._records("runs", "run_uuid", wanted, columns):
            yield row["run_uuid"], str(row["experiment_id"]), row["artifact_uri"] or ""

    def read(self, wanted: Sequence[Selected]) -> Iterator[Run]:
        ids = ids_of(wanted)
        tags = self._tags("tags", "run_uuid", ids)
        params = self._tags("params", "run_uuid", ids)
        keys = self._rows.grouped("latest_metrics", "run_uuid", ids, ("key",))
        datasets = self._datasets(ids)
        read = self._model_links("INPUT", ids, ("destination_id", "input_uuid"))
        made = self._model_links("OUTPUT", ids, ("destination_id", "input_uuid", "step"))
        columns = (
            "run_uuid",
            "experiment_id",
            "name",
            "user_id",
            "status",
            "start_time",
            "end_time",
            "lifecycle_stage",
            "artifact_uri",
            "deleted_time",
            "source_type",
            "source_name",
            "source_version",
            "entry_point_name",
        )
        for row in self._records("runs", "run_uuid", wanted, columns):
            id = row["run_uuid"]
            nulls = Nulls()
            run_tags = nulls.tags("tags", tags.get(id, ()))
            yield Run(
                info=RunInfo(
                    run_id=id,
                    run_uuid=id,
                    experiment_id=str(row["experiment_id"]),
                    run_name=_run_name(row["name"], run_tags, nulls),
                    user_id=nulls.text("user_id", row["user_id"]),
                    status=row["status"] or "RUNNING",
                    start_time=row["start_time"],
                    end_time=row["end_time"],
                    lifecycle_stage="deleted" if row["lifecycle_stage"] == "deleted" else "active",
                    artifact_uri=nulls.text("artifact_uri", row["artifact_uri"]),
                    deleted_time=row["deleted_time"],
                    source_type=row["source_type"],
                    source_name=row["source_name"],
                    source_version=row["source_version"],
                    entry_point_name=row["entry_point_name"],
                    null_fields=nulls.names,
                ),
                params=dict(sorted(params.get(id, ()))),
                tags=run_tags,
                inputs=RunInputs(
                    dataset_inputs=datasets.get(id, []),
                    model_inputs=[
                        ModelInput(model_id=model_id, input_uuid=uuid)
                        for model_id, uuid in read.get(id, ())
                    ],
                ),
                outputs=RunOutputs(
                    model_outputs=[
                        ModelOutput(model_id=model_id, step=step or 0, input_uuid=uuid)
                        for model_id, uuid, step in made.get(id, ())
                    ]
                ),
                metric_keys=sorted(key for (key,) in keys.get(id, ())),
            )

    def tree(self, entity: Run) -> ArtifactTree:
        return self._from.tree(entity.info.artifact_uri)

    def _datasets(self, run_ids: Sequence[str]) -> dict[str, list[DatasetInput]]:
        if not self._rows.has("inputs"):
            return {}
        found = self._rows.grouped(
            "inputs",
            "destination_id",
            run_ids,
            ("source_id", "input_uuid"),
            where={"destination_type": "RUN", "source_type": "DATASET"},
        )
        uuids = sorted({row[0] for rows in found.values() for row in rows})
        datasets: dict[str, Dataset] = {}
        for some in chunks(uuids):
            for row in self._rows.select("datasets", DATASET_COLUMNS, where={"dataset_uuid": some}):
                datasets[row[0]] = dataset_of(row)
        tags = self._tags(
            "input_tags",
            "input_uuid",
            [row[1] for rows in found.values() for row in rows],
            key="name",
        )
        return {
            run_id: [
                DatasetInput(
                    dataset=datasets[dataset_uuid],
                    tags=[
                        KeyValue(key=key, value=value) for key, value in sorted(tags.get(uuid, ()))
                    ],
                    input_uuid=uuid,
                )
                for dataset_uuid, uuid in rows
                if dataset_uuid in datasets
            ]
            for run_id, rows in found.items()
        }

    def _model_links(
        self, direction: str, run_ids: Sequence[str], columns: Sequence[str]
    ) -> _Links:
        return self._rows.grouped(
            "inputs",
            "source_id",
            run_ids,
            columns,
            where={
                "source_type": f"RUN_{direction}",
                "destination_type": f"MODEL_{direction}",
            },
        )


def _run_name(name: str | None, tags: dict[str, str], nulls: Nulls) -> str | None:
    """The name as servers tell it: that of the tag where the column has none."""
    if name or _RUN_NAME not in tags:
        return name
    if name is None:
        nulls.add("run_name")
    return tags[_RUN_NAME]
