"""Deleted logged models of a destination: how an import finds those that it made, and deletes them.

MLflow deletes a logged model for good as far as REST is concerned: no listing shows it and nothing
brings it back, so that a second import could not find it by its origin. Before an import deletes
models it therefore writes their origins and ids into a tag of their experiment. A model that was
deleted at its own home is found by its id.
"""

from __future__ import annotations

import itertools
import json
import threading
from typing import NamedTuple

from mlflow_bundle import provenance
from mlflow_bundle.entities import LoggedModel
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.experiments import get_experiment
from mlflow_bundle.rest.logged_models import get_deleted_model
from mlflow_bundle.rest.session import API

_TAG_CHARS = 5000
"""What the value of an experiment's tag may have (mlflow/utils/validation.py)."""


class _Deletion(NamedTuple):
    source_id: str
    origin: str
    id: str


class DeletedModels:
    """Finds deleted logged models and deletes others.

    Args:
        destination: The server.
    """

    def __init__(self, destination: Destination) -> None:
        self._to = destination
        self._lock = threading.Lock()
        self._ledgers: dict[str, dict[str, str]] = {}
        """Origin to id of those that imports deleted, by experiment."""
        self._tags: dict[str, dict[str, str]] = {}
        self._here: dict[str, LoggedModel] = {}
        self._to_delete: dict[str, list[_Deletion]] = {}

    def find(
        self, experiment_id: str, model: LoggedModel, origins: tuple[str, ...]
    ) -> LoggedModel | None:
        """Return what became of ``model`` if it is deleted here, else None.

        Args:
            experiment_id: Where it would be; its listing does not show it.
            model: The bundle's model.
            origins: Its origin and its own id.
        """
        if not self._to.was_here(experiment_id):
            return None
        ledger = self._ledger(experiment_id)
        for origin in origins:
            id = ledger.get(origin, origin)
            here = get_deleted_model(self._to.session, id)
            if here is None and origin in ledger:
                # The server is too old to show it, or it is gone for good.
                here = LoggedModel(
                    model_id=id, experiment_id=experiment_id, lifecycle_stage="deleted"
                )
            if here is not None and here.experiment_id == experiment_id:
                with self._lock:
                    self._here[model.id] = here
                    self._to.deleted_models.add(here.id)
                return here
        return None

    def found(self, model: LoggedModel) -> LoggedModel | None:
        """Return what :meth:`find` returned for ``model``."""
        return self._here.get(model.id)

    def delete_later(self, experiment_id: str, model: LoggedModel, id: str) -> None:
        """Have the logged model ``id`` deleted by :meth:`delete`."""
        origin = provenance.origin_of(model.id, model.tags)
        with self._lock:
            jobs = self._to_delete.setdefault(experiment_id, [])
            jobs.append(_Deletion(model.id, origin, id))

    def delete(self) -> None:
        """Delete what is to be deleted, once nothing needs it any more; a refusal is a loss."""
        for experiment_id, jobs in self._to_delete.items():
            ready = [job for job in jobs if not self._is_awaited(job)]
            try:
                self._enter(experiment_id, ready)
            except ServerError as exc:
                self._lose(ready, exc)
                continue
            list(self._to.files.map(self._delete, ready))

    def _is_awaited(self, job: _Deletion) -> bool:
        version = self._to.awaited_models.get(job.source_id)
        if version is not None:
            # A version of a deleted logged model cannot be made.
            reason = f"model version {version} needs it and could not be made"
        elif (LoggedModel.kind, job.source_id) in self._to.unfinished:
            reason = "not all of it has arrived"
        else:
            return False
        self._to.report.lose(
            LoggedModel.kind,
            job.source_id,
            f"not deleted yet: {reason}; import again",
            field="lifecycle_stage",
        )
        return True

    def _delete(self, job: _Deletion) -> None:
        try:
            self._to.session.call(
                "DELETE", f"{API}logged-models/{job.id}", what=f"logged model {job.source_id}"
            )
        except ServerError as exc:
            self._lose([job], exc)

    def _lose(self, jobs: list[_Deletion], exc: ServerError) -> None:
        if exc.status is None:
            raise exc
        for job in jobs:
            self._to.report.lose(
                LoggedModel.kind, job.source_id, exc.message, field="lifecycle_stage"
            )

    # The tag

    def _ledger(self, experiment_id: str) -> dict[str, str]:
        with self._lock:
            if experiment_id not in self._ledgers:
                tags: dict[str, str] = {}
                if self._to.was_here(experiment_id):
                    tags = get_experiment(self._to.session, experiment_id).tags
                self._tags[experiment_id] = tags
                self._ledgers[experiment_id] = _read(tags)
            return self._ledgers[experiment_id]

    def _enter(self, experiment_id: str, jobs: list[_Deletion]) -> None:
        ledger = self._ledger(experiment_id) | {job.origin: job.id for job in jobs}
        for key, value in _written(ledger).items():
            if self._tags[experiment_id].get(key) != value:
                self._to.session.post(
                    f"{API}experiments/set-experiment-tag",
                    {"experiment_id": experiment_id, "key": key, "value": value},
                    what=f"experiment {experiment_id}",
                )


def _keys() -> itertools.chain[str]:
    return itertools.chain(
        [provenance.DELETED_MODELS],
        (f"{provenance.DELETED_MODELS}.{number}" for number in itertools.count(2)),
    )


def _read(tags: dict[str, str]) -> dict[str, str]:
    ledger: dict[str, str] = {}
    for key in _keys():
        if key not in tags:
            return ledger
        try:
            entries = json.loads(tags[key])
        except ValueError:
            continue
        if isinstance(entries, dict):
            ledger |= {k: v for k, v in entries.items() if isinstance(v, str)}
    return ledger


def _written(ledger: dict[str, str]) -> dict[str, str]:
    """Return the tags that say ``ledger``; those that are full do not change when it grows."""
    tags = {}
    keys = _keys()
    entries: dict[str, str] = {}
    for origin, id in ledger.items():
        if len(_text(entries | {origin: id})) > _TAG_CHARS:
            tags[next(keys)] = _text(entries)
            entries = {}
        entries[origin] = id
    if entries:
        tags[next(keys)] = _text(entries)
    return tags


def _text(entries: dict[str, str]) -> str:
    return json.dumps(entries, separators=(",", ":"))
