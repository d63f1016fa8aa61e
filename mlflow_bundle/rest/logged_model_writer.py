"""Writes one logged model to a server: what is missing is added, what differs is a conflict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import LoggedModel, LoggedModelMetric, decode_number
from mlflow_bundle.errors import UnsupportedEntityError
from mlflow_bundle.remap import Placed
from mlflow_bundle.rest import records
from mlflow_bundle.rest.artifacts import ArtifactOwner
from mlflow_bundle.rest.destination import Destination, chunked
from mlflow_bundle.rest.histories import PAGE_ROWS
from mlflow_bundle.rest.lost_answers import made_once, search_origin
from mlflow_bundle.rest.run_writer import MAX_METRICS, MAX_PARAMS
from mlflow_bundle.rest.session import API
from mlflow_bundle.rest.upload import ArtifactWriter, artifact_tags

_UNSETTABLE = ("model_id", "artifact_location", "creation_time", "last_updated_timestamp")
_SETTABLE_STATUS = ("READY", "FAILED")


class LoggedModelWriter:
    """Writes logged models.

    Args:
        destination: The server.
    """

    def __init__(self, destination: Destination) -> None:
        self._to = destination

    def create(self, model: LoggedModel, experiment_id: str) -> records.RestModelInfo:
        """Make an empty logged model that is marked as being imported."""
        if not self._to.since(3, 0):
            raise UnsupportedEntityError(
                f"logged model {model.id}: the server has no logged models (they came with "
                "MLflow 3.0)",
                status=404,
            )
        origin = provenance.origin_of(model.id, model.tags)
        tags = {provenance.ORIGIN: origin, provenance.STATE: provenance.IMPORTING}
        body: dict[str, Any] = {
            "experiment_id": experiment_id,
            "name": model.name,
            "tags": records.tag_list(tags),
        }
        if model.model_type:
            body["model_type"] = model.model_type
        if model.source_run_id:
            run = self._to.remap.find("run", model.source_run_id)
            if run is None:
                self._to.report.adjust(LoggedModel.kind, "source_run_id (points outside)")
            body["source_run_id"] = run.id if run else model.source_run_id
        info = made_once(lambda: self._post(model, body), lambda: self._find(experiment_id, origin))
        for name in _UNSETTABLE:
            self._to.report.adjust(LoggedModel.kind, name)
        if model.status_message:
            self._to.report.adjust(LoggedModel.kind, "status_message")
        if model.status not in ("PENDING", *_SETTABLE_STATUS):
            self._to.report.adjust(LoggedModel.kind, "status (PENDING)")
        return info

    def _post(self, model: LoggedModel, body: dict[str, Any]) -> records.RestModelInfo:
        answer: records.RestLoggedModelAnswer = self._to.session.post(
            f"{API}logged-models",
            body,
            type=records.RestLoggedModelAnswer,
            what=f"logged model {model.id}",
            once=True,
        )
        return answer.model.info

    def _find(self, experiment_id: str, origin: str) -> records.RestModelInfo | None:
        """Return the logged model of an origin, of which there was none before this import."""
        found: records.RestLoggedModels | None = search_origin(
            self._to.session,
            f"{API}logged-models/search",
            experiment_id,
            origin,
            type=records.RestLoggedModels,
            what="logged models",
        )
        return found.models[0].info if found and found.models else None

    def write(self, content: Content, placed: Placed, here: LoggedModel | None) -> None:
        """Write what ``here`` lacks of the model; None means made by this import."""
        self._apply(content, placed, here, dry=False)

    def examine(self, content: Content, placed: Placed, here: LoggedModel) -> None:
        """Report the differences between the bundle's model and the server's."""
        self._apply(content, placed, here, dry=True)

    def _apply(
        self, content: Content, placed: Placed, here: LoggedModel | None, *, dry: bool
    ) -> None:
        model = content.entity
        assert isinstance(model, LoggedModel)
        report = self._to.report
        if here is not None and here.lifecycle_stage == "deleted":
            if model.lifecycle_stage != "deleted":
                report.conflict(
                    LoggedModel.kind, model.id, "lifecycle_stage", "deleted at the destination"
                )
            written = 0
            if model.lifecycle_stage == "deleted" and placed.sink_root:
                # The server takes nothing else into it, but stores know of no deletion.
                artifacts = self._artifacts(model, placed)
                files = artifacts.missing(content.artifacts, fresh=False, filling=False)
                written = 0 if dry else artifacts.write(content.artifacts, files)
            if written:
                report.did(LoggedModel.kind)
            elif not dry:
                report.found(LoggedModel.kind)
            return
        filling = here is None or here.tags.get(provenance.STATE) == provenance.IMPORTING
        tags = self._to.tags_of(LoggedModel.kind, model.tags)
        tags.pop(provenance.ORIGIN, None)
        tags |= artifact_tags(content.artifacts, model.artifact_location)
        new_tags = self._to.changed(
            LoggedModel.kind, model.id, "tags", here.tags if here else {}, tags
        )
        here_params = here.params if here else {}
        new_params = {k: v for k, v in model.params.items() if k not in here_params}
        metrics = self._missing_metrics(model, here)
        status = self._new_status(model, here)
        artifacts = self._artifacts(model, placed)
        files = artifacts.missing(content.artifacts, fresh=here is None, filling=filling)
        if dry:
            return
        url = f"{API}logged-models/{placed.id}"
        what = f"logged model {model.id}"
        for pairs in chunked(new_params.items(), MAX_PARAMS):
            self._to.session.post(
                f"{url}/params",
                {"model_id": placed.id, "params": records.tag_list(dict(pairs))},
                what=what,
            )
        if new_tags:
            self._to.session.call(
                "PATCH", f"{url}/tags", json_body={"tags": records.tag_list(new_tags)}, what=what
            )
        written = artifacts.write(content.artifacts, files)
        self._log_metrics(model, placed, metrics)
        if status:
            self._to.session.call(
                "PATCH",
                url,
                json_body={"model_id": placed.id, "status": records.model_status(status)},
                what=what,
            )
        if filling:
            self._to.session.remove(f"{url}/tags/{provenance.STATE}", what=what)
        changed = new_params or new_tags or metrics or status or written
        if filling or changed or is_deleted_by(model, here):
            report.did(LoggedModel.kind)
        else:
            report.found(LoggedModel.kind)

    def _artifacts(self, model: LoggedModel, placed: Placed) -> ArtifactWriter:
        return ArtifactWriter(
            self._to,
            kind=LoggedModel.kind,
            source_id=model.id,
            root=placed.sink_root,
            owner=ArtifactOwner("logged_model", placed.id),
            parent=model.experiment_id,
        )

    def _new_status(self, model: LoggedModel, here: LoggedModel | None) -> str:
        if model.status not in _SETTABLE_STATUS or (here and here.status == model.status):
            return ""
        if here is None or here.status not in _SETTABLE_STATUS:
            return model.status
        wins = self._to.differs(
            LoggedModel.kind, model.id, "status", here=here.status, bundle=model.status
        )
        return model.status if wins else ""

    def _missing_metrics(
        self, model: LoggedModel, here: LoggedModel | None
    ) -> list[tuple[str, LoggedModelMetric]]:
        """Metrics to log, each with the run at the server that it is logged through."""
        known = {_identity(m, m.run_id or "") for m in here.metrics} if here else set()
        missing = []
        for metric in model.metrics:
            run = self._to.remap.find("run", metric.run_id) if metric.run_id else None
            if run is None:
                # A metric lives in a run: without that run there is no place for it.
                self._to.report.adjust(LoggedModel.kind, "metrics (of a run outside)")
            elif _identity(metric, run.id) not in known:
                missing.append((run.id, metric))
        return missing

    def _log_metrics(
        self, model: LoggedModel, placed: Placed, metrics: list[tuple[str, LoggedModelMetric]]
    ) -> None:
        by_run: dict[str, list[LoggedModelMetric]] = {}
        for run_id, metric in metrics:
            by_run.setdefault(run_id, []).append(metric)
        for run_id, group in by_run.items():
            nan_steps = self._nan_steps(run_id, group)
            for some in chunked(group, MAX_METRICS):
                body = {
                    "run_id": run_id,
                    "metrics": [_metric_body(m, placed.id, nan_steps) for m in some],
                }
                self._to.session.post(
                    f"{API}runs/log-batch", body, what=f"metrics of logged model {model.id}"
                )

    def _nan_steps(
        self, run_id: str, metrics: Iterable[LoggedModelMetric]
    ) -> set[tuple[str, int, int]]:
        """Points of zero here that are NaN in the run: MLflow keeps no NaN of a logged model.

        Logging such a zero would add a point that the run never had; logging NaN again adds nothing
        and is kept as zero for the model.
        """
        suspects = {m.key for m in metrics if decode_number(m.value) == 0}
        found = set()
        for key in suspects:
            for page in self._to.session.iter_pages(
                "GET",
                f"{API}metrics/get-history",
                {"run_id": run_id, "metric_key": key, "max_results": PAGE_ROWS},
                what=f"history of {key!r} of run {run_id}",
            ):
                for point in page.get("metrics", ()):
                    if point.get("value") == "NaN":
                        found.add((key, int(point["timestamp"]), int(point.get("step", 0))))
        return found


def is_deleted_by(model: LoggedModel, here: LoggedModel | None) -> bool:
    """Whether the import of ``model`` deletes it, ``here`` being what was there before."""
    was_deleted = here is not None and here.lifecycle_stage == "deleted"
    return model.lifecycle_stage == "deleted" and not was_deleted


def _identity(metric: LoggedModelMetric, run_id: str) -> tuple[Any, ...]:
    return (
        metric.key,
        metric.timestamp,
        metric.step,
        run_id,
        metric.dataset_name or "",
        metric.dataset_digest or "",
    )


def _metric_body(
    metric: LoggedModelMetric, model_id: str, nan_steps: set[tuple[str, int, int]]
) -> dict[str, Any]:
    is_nan = (metric.key, metric.timestamp, metric.step) in nan_steps
    body: dict[str, Any] = {
        "key": metric.key,
        "value": "NaN" if is_nan else metric.value,
        "timestamp": metric.timestamp,
        "step": metric.step,
        "model_id": model_id,
    }
    if metric.dataset_name:
        body["dataset_name"] = metric.dataset_name
    if metric.dataset_digest:
        body["dataset_digest"] = metric.dataset_digest
    return body
