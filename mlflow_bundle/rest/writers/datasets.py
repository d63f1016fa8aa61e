"""Writes evaluation datasets: a tag with the origin tells which is which, since names do not."""

from __future__ import annotations

import json
import threading
from urllib.parse import quote

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Experiment, PlainEntity
from mlflow_bundle.errors import UnsupportedEntityError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.datasets import EvaluationDataset
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.datasets import (
    DATASETS,
    RestDataset,
    RestDatasetAnswer,
    iter_dataset_pages,
    read_experiment_ids,
)
from mlflow_bundle.rest.writers.base import Writer
from mlflow_bundle.rest.writers.dataset_records import RecordWriter
from mlflow_bundle.users import USER_TAG

_UNSETTABLE = ("dataset_id", "digest", "created_time", "last_update_time")
_DERIVED = ("created_by", "last_updated_by", "schema", "profile")
"""What the server sets by itself, often as it was."""

_KIND = EvaluationDataset.kind


class DatasetWriter(Writer):
    """Writes evaluation datasets. Runs name them as their inputs, so they are placed first."""

    kind = _KIND
    reserves = True

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._here: dict[str, RestDataset] | None = None
        """Datasets that were here before, by own id and by origin."""
        self._matched: dict[str, RestDataset] = {}
        """The same, by the id of the bundle's."""
        self._lock = threading.Lock()

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        assert isinstance(entity, EvaluationDataset)
        if not self._to.since(3, 4):
            raise UnsupportedEntityError(
                f"dataset {entity.id}: the server has no evaluation datasets (they came with "
                "MLflow 3.4)",
                status=404,
            )
        here = self._find(entity)
        if here is not None:
            self._matched[entity.id] = here
            id = here.dataset_id
        else:
            id = NEW if dry else self._create(entity)
        self._to.remap.place(_KIND, entity.id, id)

    def _find(self, dataset: EvaluationDataset) -> RestDataset | None:
        with self._lock:
            if self._here is None:
                self._here = {}
                for page in iter_dataset_pages(self._to.session, {}):
                    for here in page.datasets:
                        origin = here.all_tags().get(provenance.ORIGIN) or here.dataset_id
                        self._here[origin] = self._here[here.dataset_id] = here
            origin = provenance.origin_of(dataset.id, dataset.tags)
            return self._here.get(origin) or self._here.get(dataset.id)

    def _create(self, dataset: EvaluationDataset) -> str:
        tags = self._tags(dataset)
        tags[provenance.ORIGIN] = provenance.origin_of(dataset.id, dataset.tags)
        tags[provenance.STATE] = provenance.IMPORTING
        # The server takes the maker from this tag; what the tag is now is set at the end.
        tags.pop(USER_TAG, None)
        if dataset.created_by is not None:
            tags[USER_TAG] = dataset.created_by
        answer: RestDatasetAnswer = self._to.session.post(
            f"{DATASETS}/create",
            {
                "name": dataset.name,
                "experiment_ids": self._experiments(dataset, count=True),
                "tags": json.dumps(tags),
            },
            type=RestDatasetAnswer,
            what=f"dataset {dataset.id}",
            once=True,
        )
        for name in _UNSETTABLE:
            self._to.report.adjust(_KIND, name)
        return answer.dataset.dataset_id

    def _tags(self, dataset: EvaluationDataset) -> dict[str, str]:
        tags = self._to.tags_of(_KIND, dataset.tags)
        tags.pop(provenance.ORIGIN, None)
        return tags

    def _experiments(self, dataset: EvaluationDataset, *, count: bool = False) -> list[str]:
        """Return the experiments here that the dataset is linked to.

        One that was not moved is left out: its number may be that of another experiment here.
        """
        places = [self._to.remap.find(Experiment.kind, id) for id in dataset.experiment_ids]
        outside = places.count(None)
        if count and outside:
            self._to.report.adjust(_KIND, "experiment_ids (points outside)", outside)
        return [place.id for place in places if place is not None]

    def examine(self, content: Content) -> None:
        dataset = content.entity
        assert isinstance(dataset, EvaluationDataset)
        here = self._matched.get(dataset.id)
        if here is not None:
            self._to.report.found(_KIND)
            filling = _is_filling(here)
            self._new_tags(dataset, here, filling=filling)
            RecordWriter(self._to, dataset, filling=filling).examine(content.items, here.dataset_id)

    def put(self, content: Content) -> None:
        dataset = content.entity
        assert isinstance(dataset, EvaluationDataset)
        placed = self._to.remap.find(_KIND, dataset.id)
        if placed is None:
            return
        here = self._matched.get(dataset.id)
        filling = here is None or _is_filling(here)
        written = RecordWriter(self._to, dataset, filling=filling).write(
            content.items, placed.id, was_here=here is not None
        )
        if here is not None:
            written |= self._link(dataset, placed.id)
        written |= self._set_tags(placed.id, self._new_tags(dataset, here, filling=filling))
        if filling:
            self._complete(dataset, placed.id)
        if written or filling:
            self._to.report.did(_KIND)
        else:
            self._to.report.found(_KIND)

    def _link(self, dataset: EvaluationDataset, id: str) -> bool:
        """Link the dataset to experiments that it is not linked to yet."""
        wanted = self._experiments(dataset)
        linked = set(read_experiment_ids(self._to.session, id)) if wanted else set()
        missing = [other for other in wanted if other not in linked]
        if missing:
            self._to.session.post(
                f"{DATASETS}/{id}/add-experiments",
                {"dataset_id": id, "experiment_ids": missing},
                what=f"experiments of dataset {dataset.id}",
            )
        return bool(missing)

    def _new_tags(
        self, dataset: EvaluationDataset, here: RestDataset | None, *, filling: bool
    ) -> dict[str, str]:
        """Return the tags to set."""
        tags = self._tags(dataset)
        if here is None:
            # All others were given when it was made.
            user = tags.get(USER_TAG)
            return {USER_TAG: user} if user not in (None, dataset.created_by) else {}
        had = {key: value or "" for key, value in here.all_tags().items()}
        if filling:
            return {key: value for key, value in tags.items() if had.get(key) != value}
        return self._to.changed(_KIND, dataset.id, "tags", had, tags)

    def _set_tags(self, id: str, tags: dict[str, str]) -> bool:
        if tags:
            self._to.session.call(
                "PATCH",
                f"{DATASETS}/{id}/tags",
                json_body={"dataset_id": id, "tags": json.dumps(tags)},
                what=f"tags of dataset {id}",
            )
        return bool(tags)

    def _complete(self, dataset: EvaluationDataset, id: str) -> None:
        """Say what the server has set otherwise, then that the dataset is complete."""
        if dataset.created_by is not None and USER_TAG not in self._tags(dataset):
            self._delete_tag(id, USER_TAG)
        answer: RestDatasetAnswer = self._to.session.get(
            f"{DATASETS}/{id}", type=RestDatasetAnswer, what=f"dataset {dataset.id}"
        )
        for name in _DERIVED:
            wanted = getattr(dataset, name)
            if getattr(answer.dataset, name) != wanted:
                self._to.report.adjust(_KIND, name)
        self._delete_tag(id, provenance.STATE)

    def _delete_tag(self, id: str, key: str) -> None:
        self._to.session.remove(
            f"{DATASETS}/{id}/tags/{quote(key, safe='')}", what=f"tags of dataset {id}"
        )


def _is_filling(here: RestDataset) -> bool:
    return here.all_tags().get(provenance.STATE) == provenance.IMPORTING
