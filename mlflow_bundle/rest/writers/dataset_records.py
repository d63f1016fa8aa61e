"""Writes the records of one evaluation dataset: what the server lacks of each, and no more.

The server knows a record by its inputs. Writing an equal record again would still change its time,
so everything that is there is compared first; that listing is kept on disk past some size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from mlflow_bundle.decoding import prepared
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.datasets import DatasetRecord, EvaluationDataset
from mlflow_bundle.rest.destination import Destination, chunked
from mlflow_bundle.rest.halves import send_in_halves
from mlflow_bundle.rest.readers.datasets import DATASETS, iter_records
from mlflow_bundle.spool import Selected, Spool
from mlflow_bundle.users import USER_TAG

_RECORDS_PER_CALL = 500
_CALL_BYTES = 4 * 1024 * 1024
_UNSETTABLE = ("dataset_record_id", "created_time", "last_update_time")

Records = Callable[[], Iterable[msgspec.Struct]]

Upsert = dict[str, Any]
"""One record as ``datasets/<id>/records`` takes it."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be sent of one record."""

    position: int
    upserts: tuple[Upsert, ...]
    """One after the other: a later one changes who changed the record last."""
    is_new: bool
    size: int


class RecordWriter:
    """Compares and writes the records of one dataset.

    Args:
        to: The server.
        dataset: The bundle's dataset.
        filling: Whether a killed import left the dataset half written: then nothing that differs
            is a conflict.
    """

    def __init__(self, to: Destination, dataset: EvaluationDataset, *, filling: bool) -> None:
        self._to = to
        self._dataset = dataset
        self._filling = filling

    def examine(self, records: Records, here_id: str) -> None:
        """Report what differs; write nothing."""
        for _ in self._changes(records, here_id):
            pass

    def write(self, records: Records, id: str, *, was_here: bool) -> bool:
        """Write what is missing and what wins; return whether there was anything.

        Args:
            records: Opens the bundle's; may be called again.
            id: The dataset here.
            was_here: Whether it may have records already.
        """
        written = False
        batch: list[_Change] = []
        size = 0
        for change in self._changes(records, id if was_here else None):
            written = True
            if batch and (size + change.size > _CALL_BYTES or len(batch) == _RECORDS_PER_CALL):
                self._send(id, batch)
                batch, size = [], 0
            batch.append(change)
            size += change.size
        self._send(id, batch)
        return written

    def _send(self, id: str, batch: list[_Change]) -> None:
        """Send the first part of each record in one request, and what changes it in another."""
        refused: dict[int, ServerError] = {}
        for turn in range(max((len(change.upserts) for change in batch), default=0)):
            waiting = [c for c in batch if len(c.upserts) > turn and c.position not in refused]
            for change, exc in send_in_halves(waiting, partial(self._post, id, turn)):
                refused[change.position] = exc
        for position, exc in refused.items():
            self._lose(position, exc.message)
        made = sum(change.is_new and change.position not in refused for change in batch)
        if made:
            for name in _UNSETTABLE:
                self._to.report.adjust(EvaluationDataset.kind, f"records.{name}", made)

    def _post(self, id: str, turn: int, part: list[_Change]) -> None:
        # A JSON text inside the body: it may hold NaN, which the body may not.
        records = json.dumps([change.upserts[turn] for change in part])
        self._to.session.post(
            f"{DATASETS}/{id}/records",
            {"dataset_id": id, "records": records},
            what=f"records of dataset {self._dataset.id}",
        )

    def _lose(self, position: int, reason: str) -> None:
        self._to.report.lose(
            EvaluationDataset.kind, self._dataset.id, reason, field=f"records[{position}]"
        )

    def _changes(self, records: Records, here_id: str | None) -> Iterator[_Change]:
        spool = Spool()
        try:
            if here_id is not None:
                for page in chunked(iter_records(self._to.session, here_id), _RECORDS_PER_CALL):
                    spool.add(map(_row, page))
            for position, record in _in_order(records):
                try:
                    values = _Values.of(record)
                except (ValueError, RecursionError, TypeError) as exc:
                    self._lose(position, f"a value is no JSON: {exc}")
                    continue
                row = spool.find(DatasetRecord.__name__, values.key)
                if row is None:
                    upserts = self._new(record, values)
                else:
                    here = msgspec.msgpack.decode(row.body, type=prepared(DatasetRecord))
                    upserts = self._updates(position, values, _Values.of(here))
                if upserts:
                    size = (
                        sum(
                            len(text or "")
                            for text in (record.inputs, record.outputs, record.expectations)
                        )
                        + len(record.source or "")
                        + len(record.tags or "")
                    )
                    yield _Change(position, upserts, row is None, size)
        finally:
            spool.close()

    def _new(self, record: DatasetRecord, values: _Values) -> tuple[Upsert, ...]:
        """A record that is not there; its tag `mlflow.user` is who made it, then who changed it."""
        tags = values.tags
        first = {
            "inputs": values.inputs,
            # An absent one would become {}.
            "outputs": values.outputs,
            "expectations": values.expectations,
            "tags": tags,
            "source": values.source,
        }
        user = (tags or {}).get(USER_TAG)
        maker = record.created_by
        if maker == user:
            return (first,)
        if user is None:
            # The server makes the user of the tag the maker, and has no other way.
            self._to.report.adjust(EvaluationDataset.kind, "records.created_by")
            return (first,)
        tags = dict(tags or {})
        if maker is None:
            del tags[USER_TAG]
        else:
            tags[USER_TAG] = maker
        first["tags"] = tags
        return first, {"inputs": values.inputs, "tags": {USER_TAG: user}}

    def _updates(self, position: int, values: _Values, here: _Values) -> tuple[Upsert, ...]:
        """What a record that is there gets: what it lacks, and what wins."""
        kind, id, name = EvaluationDataset.kind, self._dataset.id, f"records[{position}]"
        changes: Upsert = {}
        if self._differs(f"{name}.outputs", here.outputs, values.outputs):
            changes["outputs"] = values.outputs
        for field, ours, theirs in (
            ("expectations", values.expectations or {}, here.expectations or {}),
            ("tags", values.tags or {}, here.tags or {}),
        ):
            taken = {
                key: value
                for key, value in ours.items()
                if key not in theirs or self._differs(f"{name}.{field}.{key}", theirs[key], value)
            }
            if taken:
                changes[field] = taken
        if self._differs(f"{name}.source", here.source, values.source):
            reason = "the server never changes the source of a record"
            self._to.report.lose(kind, id, reason, field=f"{name}.source")
        return ({"inputs": values.inputs, **changes},) if changes else ()

    def _differs(self, name: str, here: Any, bundle: Any) -> bool:
        """Whether the bundle's value is to be written."""
        if _text(here) == _text(bundle):
            return False
        return self._filling or self._to.differs(
            EvaluationDataset.kind, self._dataset.id, name, here=here, bundle=bundle
        )


@dataclass(frozen=True, slots=True)
class _Values:
    """The JSON values of a record."""

    inputs: dict[str, Any]
    outputs: Any
    expectations: dict[str, Any] | None
    tags: dict[str, Any] | None
    source: dict[str, Any] | None

    @classmethod
    def of(cls, record: DatasetRecord) -> _Values:
        """Parse the texts of a record.

        Raises:
            ValueError: One is no JSON, or not of the type that MLflow has there.
            RecursionError: One is nested too deep.
        """
        return cls(
            inputs=_object(record.inputs) or {},
            outputs=None if record.outputs is None else json.loads(record.outputs),
            expectations=_object(record.expectations),
            tags=_object(record.tags),
            source=_object(record.source),
        )

    @property
    def key(self) -> str:
        """By what the server knows the record (`SqlAlchemyStore.upsert_dataset_records`)."""
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()


def _in_order(records: Records) -> Iterator[tuple[int, DatasetRecord]]:
    """Yield records with their positions: one whose outputs have keys comes first.

    The server infers a type from the first outputs it sees; after any but an object it fails on
    every object (`SqlAlchemyStore._update_dataset_schema`).
    """
    first = next(
        (
            (position, record)
            for position, record in _enumerate(records)
            if (record.outputs or "").startswith("{") and record.outputs != "{}"
        ),
        None,
    )
    if first is not None:
        yield first
    for position, record in _enumerate(records):
        if first is None or position != first[0]:
            yield position, record


def _enumerate(records: Records) -> Iterator[tuple[int, DatasetRecord]]:
    for position, record in enumerate(records()):
        assert isinstance(record, DatasetRecord)
        yield position, record


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected object, got {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    """A text that is equal for equal values: 1 is not True, {"a": 1, "b": 2} has no order."""
    return json.dumps(value, sort_keys=True)


def _row(record: DatasetRecord) -> Selected:
    key = _Values.of(record).key
    return Selected(key.encode(), DatasetRecord.__name__, key, "", msgspec.msgpack.encode(record))
