"""Writes experiments: the name tells which is which, the id is kept where it is free."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy
from mlflow.utils.uri import append_to_uri_path

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Entity, Experiment
from mlflow_bundle.errors import ConflictError, SinkError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import Writer, known, now_ms, null_names
from mlflow_bundle.sql.writers.inputs import DatasetRows

_TABLE = "experiments"
_DEFAULT_ID, _DEFAULT_NAME = "0", "Default"
_TIMES = ("creation_time", "last_update_time")
_CONTENTS = ("logged_models", "runs", "trace_info")
"""Tables of what lies in experiments."""
_LARGEST_ID = 2**31 - 1
"""What an INTEGER column holds; SQLite's holds more."""


class _Waiting(NamedTuple):
    """An experiment whose id is taken, until all that keep theirs have it."""

    experiment: Experiment
    dry: bool


class ExperimentWriter(Writer):
    """Writes experiments. They are placed first, as nearly everything lies in one."""

    kind = Experiment.kind

    def __init__(self, to: Target, datasets: DatasetRows) -> None:
        super().__init__(to)
        self._datasets = datasets
        self._waiting: list[_Waiting] = []
        self._kept: set[int] = set()
        """Ids that are promised in this import."""
        self._made: dict[str, tuple[str, str, str]] = {}
        """What this import makes: name to id here, location, id in the bundle."""

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, Experiment)
        name = self._name(entity)
        if name in self._made:  # two experiments that become one
            id, location, _ = self._made[name]
            self._place(entity, id, location)
            return
        self._to.claim(_TABLE, "name", name)
        here = self._to.row(
            _TABLE,
            {"workspace": self._to.workspace, "name": name},
            "experiment_id",
            "artifact_location",
            "lifecycle_stage",
        )
        if here is not None:
            id = str(here["experiment_id"])
            # One that is deleted on both sides may be what an import that was interrupted has made.
            if here["lifecycle_stage"] == "deleted" and entity.lifecycle_stage != "deleted":
                raise ConflictError(
                    f"experiment {name!r} is deleted at the destination",
                    status=409,
                    hint="restore it there, or give it another name with --rename-experiment",
                )
            self._place(entity, id, here["artifact_location"] or "")
        elif self._keeps_id(entity):
            self._make(entity, int(entity.experiment_id), dry=dry)
        else:
            self._waiting.append(_Waiting(entity, dry))

    def settle(self) -> None:
        """Give new ids to the experiments whose own were taken; called when all are known."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        table = self._to.table(_TABLE)
        highest = self._to.connection.scalar(
            sqlalchemy.select(sqlalchemy.func.max(table.c.experiment_id))
        )
        next_id = max(highest or 0, *self._kept, 0) + 1
        for experiment, dry in waiting:
            try:
                self._make(experiment, next_id, dry=dry, show=not dry)
            except SinkError as exc:
                self._to.report.lose(self.kind, experiment.id, exc.message)
            else:
                next_id += 1

    def _name(self, experiment: Experiment) -> str:
        options = self._to.options
        name = options.rename_experiments.get(experiment.name, experiment.name)
        return options.experiment_name_prefix + name

    def _keeps_id(self, experiment: Experiment) -> bool:
        text = experiment.experiment_id
        if not text.isdecimal() or str(int(text)) != text:
            return False
        id = int(text)
        if text == _DEFAULT_ID and not (
            self._name(experiment) == _DEFAULT_NAME and self._to.workspace == DEFAULT_WORKSPACE
        ):
            return False  # a server looks for its own experiment there
        if id > (2**63 - 1 if self._to.database.dialect.name == "sqlite" else _LARGEST_ID):
            return False
        taken = self._to.row(_TABLE, {"experiment_id": id}, "experiment_id")
        return taken is None and id not in self._kept

    def _make(self, experiment: Experiment, id: int, *, dry: bool, show: bool = True) -> None:
        options = self._to.options
        location = self._to.location(str(id))
        if options.artifacts == "reference" and experiment.artifact_location:
            location = experiment.artifact_location
        if not dry:
            row: Row = {
                "experiment_id": id,
                "name": self._name(experiment),
                "workspace": self._to.workspace,
                "artifact_location": location,
                "lifecycle_stage": experiment.lifecycle_stage,
                "creation_time": experiment.creation_time,
                "last_update_time": experiment.last_update_time,
            }
            with Merge(self._to, self.kind, experiment.id, fresh=True, dry=False) as merge:
                merge.own(_TABLE, row, None, key=("experiment_id",), compared=())
            self._made[self._name(experiment)] = (str(id), location, experiment.id)
            self._to.new_experiments.add(str(id))
            if str(id) != experiment.id:
                self._to.report.adjust(self.kind, "experiment_id (taken at the destination)")
        self._kept.add(id)
        self._place(experiment, str(id) if show else NEW, location)

    def _place(self, experiment: Experiment, id: str, location: str) -> None:
        self._to.remap.place(
            self.kind,
            experiment.id,
            id,
            source_root=experiment.artifact_location,
            sink_root=location,
        )

    def write(self, content: Content, *, dry: bool) -> None:
        experiment = content.entity
        assert isinstance(experiment, Experiment)
        place = self._to.remap.find(self.kind, experiment.id)
        if place is None or place.id == NEW:
            return
        made = self._made.get(self._name(experiment), ("", "", ""))[2] == experiment.id
        if not made and place.id in self._to.new_experiments:
            self._to.batch.commit()  # it is compared with what another one has brought
        if dry and self._to.row(_TABLE, {"experiment_id": int(place.id)}, "name") is None:
            return
        id = int(place.id)
        tags = self._to.tags_of(self.kind, experiment.tags)
        tags.pop(provenance.ORIGIN, None)
        if made and place.id != experiment.id:
            tags[provenance.ORIGIN] = provenance.origin_of(experiment.id, experiment.tags)
        with Merge(self._to, self.kind, experiment.id, fresh=made, dry=dry) as merge:
            if not made:
                here = self._to.row(_TABLE, {"experiment_id": id}, "lifecycle_stage", *_TIMES)
                row = {"experiment_id": id, "lifecycle_stage": experiment.lifecycle_stage}
                is_unused = self._is_unused(id)
                if here is not None and is_unused:
                    times = {name: getattr(experiment, name) for name in _TIMES}
                    if None not in times.values() and times.items() - here.items():
                        merge.replace(_TABLE, {"experiment_id": id}, times)
                if here is not None and here["lifecycle_stage"] == "active":
                    # Another one of that name is not what was deleted there.
                    is_same = is_unused or self._is_same(experiment, id, here)
                    merge.own(
                        _TABLE,
                        row,
                        here,
                        key=("experiment_id",),
                        compared=("lifecycle_stage",),
                        news=("lifecycle_stage",) if is_same else (),
                    )
            merge.map(
                "experiment_tags",
                {"experiment_id": id},
                tags,
                name="tags",
                nulls=null_names(experiment.null_fields),
            )
            for dataset in known(experiment.datasets, []):
                self._datasets.find(merge, dataset, place.id, experiment.id)
            merge.count()

    def _is_unused(self, id: int) -> bool:
        """Whether an experiment is what a server made when it first started here."""
        return str(id) == _DEFAULT_ID and self._to.empty.issuperset(_CONTENTS)

    def _is_same(self, experiment: Experiment, id: int, here: Row) -> bool:
        tag = {"experiment_id": id, "key": provenance.ORIGIN}
        found = self._to.row("experiment_tags", tag, "value")
        origin = None if found is None else found["value"]
        return provenance.is_same(experiment, here["creation_time"], origin)

    def make_default(self) -> None:
        """Make the experiment that a server looks for, where there is none."""
        if self._to.row(_TABLE, {"experiment_id": 0}, "name") is not None:
            return
        experiment = Experiment(
            experiment_id=_DEFAULT_ID,
            name=_DEFAULT_NAME,
            creation_time=now_ms(),
            last_update_time=now_ms(),
        )
        row: Row = {
            "experiment_id": 0,
            "name": experiment.name,
            "workspace": DEFAULT_WORKSPACE,
            "artifact_location": str(append_to_uri_path(self._to.store.default_root, "0")),
            "lifecycle_stage": experiment.lifecycle_stage,
            "creation_time": experiment.creation_time,
            "last_update_time": experiment.last_update_time,
        }
        with Merge(self._to, self.kind, experiment.id, fresh=True, dry=False) as merge:
            merge.own(_TABLE, row, None, key=("experiment_id",), compared=())
