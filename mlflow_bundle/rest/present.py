"""What a destination's experiments hold already, found by own id or by origin.

Only experiments that existed before the import are listed, each once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from mlflow_bundle import provenance
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import LoggedModel, Run
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest import records
from mlflow_bundle.rest.session import API, Session, since
from mlflow_bundle.spool import Selected, Spool

_RecordT = TypeVar("_RecordT", Run, LoggedModel)

_PAGE = 1000


class Present:
    """Runs and logged models of the destination's experiments, on disk past some size."""

    def __init__(self, session: Session, version: tuple[int, ...]) -> None:
        self._session = session
        self._version = version
        self._spool = Spool()

    def list_experiment(self, experiment_id: str) -> None:
        """List one experiment."""
        for page in self._session.iter_pages(
            "POST",
            f"{API}runs/search",
            {
                "experiment_ids": [experiment_id],
                "run_view_type": "ALL",
                "max_results": _PAGE,
                "order_by": ["attributes.run_id ASC"],
            },
            type=records.RestRuns,
            what="runs",
        ):
            self._spool.add(
                row
                for run in page.runs
                for row in _rows(experiment_id, Run.kind, run.record(), run.info.run_id)
            )
        for page in self._logged_model_pages(experiment_id):
            self._spool.add(
                row
                for model in page.models
                for row in _rows(
                    experiment_id, LoggedModel.kind, model.record(), model.info.model_id
                )
            )

    def _logged_model_pages(self, experiment_id: str) -> Iterator[records.RestLoggedModels]:
        if not since(self._version, 3, 0):
            return
        try:
            yield from self._session.iter_pages(
                "POST",
                f"{API}logged-models/search",
                {
                    "experiment_ids": [experiment_id],
                    "max_results": self._session.logged_models_per_page,
                },
                type=records.RestLoggedModels,
                what="logged models",
            )
        except ServerError as exc:
            # One that says it is new enough has them, and a proxy answers in its place.
            if self._version or not self._session.is_absent(exc):
                raise

    def run(self, experiment_id: str, origins: tuple[str, ...]) -> Run | None:
        """Return the run of that experiment with one of these ids or origins."""
        return self._find(Run, experiment_id, origins)

    def logged_model(self, experiment_id: str, origins: tuple[str, ...]) -> LoggedModel | None:
        """Return the logged model of that experiment with one of these ids or origins."""
        return self._find(LoggedModel, experiment_id, origins)

    def _find(
        self, type: type[_RecordT], experiment_id: str, origins: tuple[str, ...]
    ) -> _RecordT | None:
        for origin in dict.fromkeys(origins):
            row = self._spool.find(type.kind, f"{experiment_id}/{origin}")
            if row is not None:
                return msgspec.msgpack.decode(row.body, type=prepared(type))
        return None

    def close(self) -> None:
        """Forget everything."""
        self._spool.close()


def _rows(experiment_id: str, kind: str, record: Run | LoggedModel, id: str) -> Iterator[Selected]:
    body = msgspec.msgpack.encode(record)
    for name in {id, provenance.origin_of(id, record.tags)}:
        key = f"{kind}/{experiment_id}/{name}"
        yield Selected(key.encode(), kind, f"{experiment_id}/{name}", experiment_id, body)
