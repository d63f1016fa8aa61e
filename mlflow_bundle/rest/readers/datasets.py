"""Reads evaluation datasets (MLflow >= 3.4): those of chosen experiments, or all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec

from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.datasets import DATASET, DatasetRecord, EvaluationDataset
from mlflow_bundle.rest.readers.base import Chosen, Fetched, Reader
from mlflow_bundle.rest.readers.items import FetchedItems
from mlflow_bundle.rest.records import to_int
from mlflow_bundle.rest.session import API_3, Session

DATASETS = f"{API_3}datasets"

_PER_PAGE = 1000
_RECORDS_PER_PAGE = 1000
_EXPERIMENTS_PER_SEARCH = 100


class RestDataset(msgspec.Struct, frozen=True):
    """``datasets/search``: one dataset; its tags are a JSON text."""

    dataset_id: str
    name: str = ""
    tags: str = ""
    schema: str | None = None
    profile: str | None = None
    digest: str | None = None
    created_time: int | str | None = None
    last_update_time: int | str | None = None
    created_by: str | None = None
    last_updated_by: str | None = None

    def all_tags(self) -> dict[str, str | None]:
        """The tags; MLflow's table may hold a key without a value."""
        tags: dict[str, str | None] = msgspec.json.decode(self.tags or "{}", type=dict)
        return tags

    def record(self, experiment_ids: list[str]) -> EvaluationDataset:
        """The record."""
        fields = msgspec.structs.asdict(self)
        fields["tags"] = {k: str(v) for k, v in self.all_tags().items() if v is not None}
        for name in ("created_time", "last_update_time"):
            fields[name] = to_int(fields[name])
        return EvaluationDataset(experiment_ids=experiment_ids, **fields)


class RestDatasets(msgspec.Struct, frozen=True):
    """``datasets/search``."""

    datasets: list[RestDataset] = []
    next_page_token: str | None = None


class RestDatasetAnswer(msgspec.Struct, frozen=True):
    """``datasets/create``, ``datasets/<id>``."""

    dataset: RestDataset


class _ExperimentIds(msgspec.Struct, frozen=True):
    experiment_ids: list[str] = []


class _Records(msgspec.Struct, frozen=True):
    """``datasets/<id>/records``: the records are a JSON text, which may hold NaN."""

    records: str = "[]"
    next_page_token: str | None = None


class _RestRecord(msgspec.Struct, frozen=True):
    dataset_record_id: str
    inputs: Any
    outputs: Any = None
    expectations: Any = None
    tags: Any = None
    source: Any = None
    source_id: str | None = None
    source_type: str | None = None
    created_time: int | None = None
    last_update_time: int | None = None
    created_by: str | None = None
    last_updated_by: str | None = None

    def record(self) -> DatasetRecord:
        fields = msgspec.structs.asdict(self)
        for name in ("inputs", "outputs", "expectations", "tags", "source"):
            if fields[name] is not None or name == "inputs":
                # MLflow's own encoder: the text is that of its table.
                fields[name] = json.dumps(fields[name])
        return DatasetRecord(**fields)


class DatasetReader(Reader):
    """Reads evaluation datasets."""

    kind = DATASET
    first = (3, 4)
    batch_size = 8

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        found: set[str] = set()
        for query in self._queries(chosen):
            for page in iter_dataset_pages(self._from.session, query):
                new = [d for d in page.datasets if d.dataset_id not in found]
                found.update(d.dataset_id for d in new)
                yield from self._from.pool.map(self._record, new)

    def _queries(self, chosen: Chosen) -> Iterator[dict[str, Any]]:
        if chosen.whole_server:
            yield {}
            return
        ids = [experiment.experiment_id for experiment in chosen.experiments]
        for start in range(0, len(ids), _EXPERIMENTS_PER_SEARCH):
            yield {"experiment_ids": ids[start : start + _EXPERIMENTS_PER_SEARCH]}

    def _record(self, dataset: RestDataset) -> EvaluationDataset:
        for key, value in dataset.all_tags().items():
            if value is None:
                self._from.lose(
                    DATASET.name, dataset.dataset_id, "it has no value", field=f"tags.{key}"
                )
        try:
            experiment_ids = read_experiment_ids(self._from.session, dataset.dataset_id)
        except ServerError as exc:
            if exc.status is None:
                raise
            experiment_ids = []
            self._from.lose(DATASET.name, dataset.dataset_id, exc.message, field="experiment_ids")
        return dataset.record(experiment_ids)

    def start(self, entities: list[PlainEntity]) -> Fetched:
        openers: dict[str, Callable[[], Iterator[msgspec.Struct]]] = {
            entity.id: partial(iter_records, self._from.session, entity.id) for entity in entities
        }
        return FetchedItems(self._from.pool, openers, type=DatasetRecord, field="records")


def iter_dataset_pages(session: Session, query: dict[str, Any]) -> Iterator[RestDatasets]:
    """Yield datasets in pages.

    Raises:
        ServerError: The server refused.
    """
    yield from session.iter_pages(
        "POST",
        f"{DATASETS}/search",
        {"max_results": _PER_PAGE, "order_by": ["created_time ASC"], **query},
        type=RestDatasets,
        what="evaluation datasets",
    )


def read_experiment_ids(session: Session, dataset_id: str) -> list[str]:
    """Return the experiments that a dataset is linked to.

    Raises:
        ServerError: The server refused.
    """
    answer: _ExperimentIds = session.get(
        f"{DATASETS}/{dataset_id}/experiment-ids",
        type=_ExperimentIds,
        what=f"experiments of dataset {dataset_id}",
    )
    return sorted(answer.experiment_ids)


def iter_records(session: Session, dataset_id: str) -> Iterator[DatasetRecord]:
    """Yield the records of a dataset, oldest first.

    Raises:
        ServerError: The server refused.
    """
    what = f"records of dataset {dataset_id}"
    pages = session.iter_pages(
        "GET",
        f"{DATASETS}/{dataset_id}/records",
        {"max_results": _RECORDS_PER_PAGE},
        type=_Records,
        what=what,
    )
    for page in pages:
        try:
            rows = msgspec.convert(json.loads(page.records), prepared(list[_RestRecord]))
        except (ValueError, RecursionError) as exc:
            raise session.garbled(what, exc) from exc
        for row in rows:
            yield row.record()
