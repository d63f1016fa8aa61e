"""Writes what runs read and made: datasets, and the edges to them and to logged models."""

from __future__ import annotations

from msgspec import UNSET

from mlflow_bundle.entities import Dataset, DatasetInput, LoggedModel, Run
from mlflow_bundle.references import rewrite_dataset_source
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target

_MOST_REMEMBERED = 20_000
_EDGE = ("source_type", "source_id", "destination_type", "destination_id")


class DatasetRows:
    """Finds or writes the datasets of experiments, which several runs may share.

    Args:
        to: The database.
    """

    def __init__(self, to: Target) -> None:
        self._to = to
        self._known: dict[tuple[str, str, str], str] = {}
        """Experiment here, name and digest to id, of those met last."""
        self._own: dict[str, tuple[str, str]] = {}
        """Ids that were kept last, to name and digest."""
        self._undone = 0

    def find(self, merge: Merge, dataset: Dataset, experiment_id: str, source_id: str) -> str:
        """Return the id here of a dataset, which is written where it is missing.

        Args:
            merge: The entity that names it.
            dataset: The bundle's.
            experiment_id: The experiment here.
            source_id: The experiment in the bundle.
        """
        key = (experiment_id, dataset.name, dataset.digest)
        if self._undone != self._to.batch.undone:
            # Some may have come with an entity that was not written after all.
            self._undone = self._to.batch.undone
            self._known.clear()
            self._own.clear()
        found = self._known.get(key)
        if found is not None:
            return found
        where = {
            "experiment_id": int(experiment_id),
            "name": dataset.name,
            "digest": dataset.digest,
        }
        here = (
            self._to.row_before("datasets", where, "dataset_uuid")
            if self._to.was_here(experiment_id)
            else None
        )
        uuid = dataset.dataset_uuid if experiment_id == source_id else UNSET
        if here is not None:
            id = str(here["dataset_uuid"])
        elif uuid is not UNSET and self._is_shared(uuid, key):
            id = uuid
        else:
            if uuid is UNSET:
                id = self._to.made_id("datasets", *key)
            else:
                id = uuid
                self._remember(uuid, key)
            dataset = rewrite_dataset_source(dataset, self._to.remap, self._to.report)
            row: Row = {
                "dataset_uuid": id,
                **where,
                "dataset_source_type": dataset.source_type,
                "dataset_source": dataset.source,
                "dataset_schema": dataset.schema,
                "dataset_profile": dataset.profile,
            }
            name = f"datasets.{dataset.name}"
            merge.own("datasets", row, None, key=("dataset_uuid",), compared=(), name=name)
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = id
        return id

    def _is_shared(self, uuid: str, key: tuple[str, str, str]) -> bool:
        """Whether a dataset is here already, in another experiment.

        MLflow before 3.10 had one for the runs of all experiments, and whoever reads an id that is
        there several times reads its tags several times.
        """
        if self._own.get(uuid) == key[1:]:
            return True
        here = self._to.row_before("datasets", {"dataset_uuid": uuid}, "name", "digest")
        return here is not None and (here["name"], here["digest"]) == key[1:]

    def _remember(self, uuid: str, key: tuple[str, str, str]) -> None:
        if len(self._own) >= _MOST_REMEMBERED:
            self._own.clear()
        self._own[uuid] = key[1:]


class InputRows:
    """Writes the edges of runs.

    Args:
        to: The database.
        datasets: Of all runs.
    """

    def __init__(self, to: Target, datasets: DatasetRows) -> None:
        self._to = to
        self._datasets = datasets

    def write(self, merge: Merge, run: Run, run_id: str, experiment_id: str) -> None:
        """Write what the run read and made.

        Args:
            merge: The run's.
            run: The bundle's.
            run_id: The run here.
            experiment_id: Its experiment here.
        """
        kept = run_id == run.id
        for entry in run.inputs.dataset_inputs:
            self._dataset(merge, entry, run, run_id, experiment_id)
        for position, read in enumerate(run.inputs.model_inputs):
            model_id = self._model_id(read.model_id, "inputs")
            uuid = read.input_uuid if kept and read.input_uuid is not UNSET else ""
            edge = ("RUN_INPUT", run_id, "MODEL_INPUT", model_id)
            self._edge(merge, edge, uuid, 0, f"inputs.model_inputs[{position}]")
        for position, made in enumerate(run.outputs.model_outputs):
            model_id = self._model_id(made.model_id, "outputs")
            uuid = made.input_uuid if kept and made.input_uuid is not UNSET else ""
            edge = ("RUN_OUTPUT", run_id, "MODEL_OUTPUT", model_id)
            self._edge(merge, edge, uuid, made.step, f"outputs.model_outputs[{position}]")

    def _dataset(
        self, merge: Merge, entry: DatasetInput, run: Run, run_id: str, experiment_id: str
    ) -> None:
        dataset_id = self._datasets.find(
            merge, entry.dataset, experiment_id, run.info.experiment_id
        )
        kept = run_id == run.id and entry.input_uuid is not UNSET
        field = f"inputs.{entry.dataset.name}"
        uuid = self._edge(
            merge,
            ("DATASET", dataset_id, "RUN", run_id),
            str(entry.input_uuid) if kept else "",
            0,
            field,
        )
        tags = {tag.key: tag.value for tag in entry.tags}
        merge.map("input_tags", {"input_uuid": uuid}, tags, name=field, key="name")

    def _edge(
        self, merge: Merge, edge: tuple[str, str, str, str], uuid: str, step: int, name: str
    ) -> str:
        """Write an edge where it is missing; return its id."""
        where = dict(zip(_EDGE, edge, strict=True))
        here = None if merge.fresh else self._to.row("inputs", where, "input_uuid", "step")
        row: Row = {"input_uuid": uuid or self._to.made_id("inputs", *edge), **where, "step": step}
        merge.own("inputs", row, here, key=_EDGE, compared=("step",), name=name)
        return str(row["input_uuid"] if here is None else here["input_uuid"])

    def _model_id(self, model_id: str, field: str) -> str:
        placed = self._to.remap.find(LoggedModel.kind, model_id)
        if placed is None:
            self._to.report.adjust(Run.kind, f"{field} (points outside)")
            return model_id
        return placed.id
