"""Writes one run to a server: what is missing is added, what differs follows ``--on-conflict``."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import msgspec

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import (
    DatasetInput,
    MetricHistory,
    ModelOutput,
    Run,
    bounded,
    encode_number,
)
from mlflow_bundle.errors import ServerError
from mlflow_bundle.references import rewrite_dataset_source
from mlflow_bundle.remap import Placed
from mlflow_bundle.rest import records
from mlflow_bundle.rest.artifacts import ArtifactOwner
from mlflow_bundle.rest.databricks import is_reserved_tag
from mlflow_bundle.rest.destination import Destination, chunked
from mlflow_bundle.rest.histories import PAGE_ROWS
from mlflow_bundle.rest.lost_answers import made_once, search_origin
from mlflow_bundle.rest.refusals import is_forbidden
from mlflow_bundle.rest.session import API
from mlflow_bundle.rest.upload import ArtifactWriter, artifact_tags
from mlflow_bundle.users import USER_TAG

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
MAX_ITEMS = 1000
"""What one log-batch takes (mlflow/utils/validation.py)."""

_MAX_INPUTS = 1000

_UNSETTABLE = ("run_id", "artifact_uri")
"""What REST cannot set of a run."""

Point = tuple[int, int, float | str]
"""(timestamp, step, value), the value comparable even for NaN."""


class _Taken(NamedTuple):
    """How much of what was sent the server took."""

    points: int
    values: int
    """Params and tags."""

    def __add__(self, other: object) -> _Taken:
        assert isinstance(other, _Taken)
        return _Taken(self.points + other.points, self.values + other.values)


class RunWriter:
    """Writes runs.

    Args:
        destination: The server.
    """

    def __init__(self, destination: Destination) -> None:
        self._to = destination
        self._datasets: set[tuple[str, str, str]] = set()
        self._datasets_lock = threading.Lock()

    def create(self, run: Run, experiment_id: str) -> records.RestRunInfo:
        """Make an empty run that is marked as being imported."""
        origin = provenance.origin_of(run.id, run.tags)
        tags = {provenance.ORIGIN: origin, provenance.STATE: provenance.IMPORTING}
        body: dict[str, Any] = {"experiment_id": experiment_id, "tags": records.tag_list(tags)}
        if not self._to.is_databricks:
            body["user_id"] = self._user(run)
        if run.info.run_name:
            body["run_name"] = run.info.run_name
        if run.info.start_time is not None:
            body["start_time"] = run.info.start_time
        info = made_once(lambda: self._post(run, body), lambda: self._find(experiment_id, origin))
        for name in _UNSETTABLE:
            self._to.report.adjust(Run.kind, name)
        if self._to.is_databricks:
            self._to.report.adjust(Run.kind, "user_id (Databricks sets it)")
        elif self._to.options.use_src_user_id and self._user(run) != run.info.user_id:
            self._to.report.adjust(Run.kind, "user_id (as asked)")
        if not run.info.run_name:
            self._to.report.adjust(Run.kind, "run_name (empty)")
        if run.info.start_time is None:
            self._to.report.adjust(Run.kind, "start_time (none)")
        return info

    def _post(self, run: Run, body: dict[str, Any]) -> records.RestRunInfo:
        answer: records.RestRunAnswer = self._to.session.post(
            f"{API}runs/create",
            body,
            type=records.RestRunAnswer,
            what=f"run {run.id}",
            once=True,
        )
        return answer.run.info

    def _find(self, experiment_id: str, origin: str) -> records.RestRunInfo | None:
        """Return the run of an origin, of which there was none before this import."""
        found: records.RestRuns | None = search_origin(
            self._to.session,
            f"{API}runs/search",
            experiment_id,
            origin,
            type=records.RestRuns,
            what="runs",
        )
        return found.runs[0].info if found and found.runs else None

    def _user(self, run: Run) -> str:
        options = self._to.options
        return options.user_of(run.info.user_id) if options.use_src_user_id else options.user

    def write(self, content: Content, placed: Placed, here: Run | None) -> None:
        """Write what ``here`` lacks of the run.

        Args:
            content: The bundle's run.
            placed: Where it is at the server.
            here: The run at the server before this import; None when it was made by this import.
        """
        self._apply(content, placed, here, dry=False)

    def examine(self, content: Content, placed: Placed, here: Run) -> None:
        """Report the differences between the bundle's run and the server's."""
        self._apply(content, placed, here, dry=True)

    def _apply(self, content: Content, placed: Placed, here: Run | None, *, dry: bool) -> None:
        run = content.entity
        assert isinstance(run, Run)
        report = self._to.report
        filling = here is None or here.tags.get(provenance.STATE) == provenance.IMPORTING
        if here is not None and here.info.lifecycle_stage == "deleted":
            if run.info.lifecycle_stage != "deleted":
                report.conflict(Run.kind, run.id, "lifecycle_stage", "deleted at the destination")
            if filling:
                report.lose(
                    Run.kind,
                    run.id,
                    "deleted at the destination before all of it had arrived; restore it there "
                    "and import again",
                    parent=run.info.experiment_id,
                )
            written = 0
            if run.info.lifecycle_stage == "deleted":
                if not filling:
                    self._lose_points(content, placed, here)
                # The server takes nothing else into it, but stores know of no deletion.
                artifacts = self._artifacts(run, placed)
                files = artifacts.missing(content.artifacts, fresh=False, filling=filling)
                written = 0 if dry else artifacts.write(content.artifacts, files)
            if written:
                report.did(Run.kind)
            elif not dry:
                report.found(Run.kind)
            return
        tags = self._tags(run, content)
        if here is not None:
            # Found by its own id or by this very tag: an origin is given once, at creation.
            tags.pop(provenance.ORIGIN)
        here_tags = here.tags if here else {}
        here_params = here.params if here else {}
        params = self._to.cut(Run.kind, run.id, "params", run.params, self._to.param_limit)
        new_tags = self._to.changed(Run.kind, run.id, "tags", here_tags, tags)
        new_params = self._new_params(run.id, here_params, params)
        datasets = [e for e in run.inputs.dataset_inputs if not _has_dataset(here, e)]
        if datasets and not self._to.since(2, 4):
            reason = "the server has no datasets (they came with MLflow 2.4)"
            report.lose(Run.kind, run.id, reason, field="inputs.dataset_inputs")
            datasets = []
        model_ids, outputs = self._model_links(run, here, placed)
        update = self._update(run, here, filling)
        artifacts = self._artifacts(run, placed)
        files = artifacts.missing(content.artifacts, fresh=here is None, filling=filling)
        histories = self._new_points(content, placed, here)
        if dry:
            return
        points, values = self._log(run.id, placed.id, new_params, new_tags, histories)
        changes = bool(values or datasets or model_ids or outputs or update)
        if points:
            report.did("metric_point", points)
        if datasets or model_ids:
            self._log_datasets(placed.id, run.info.experiment_id, datasets)
            self._log_model_inputs(placed.id, model_ids)
        if outputs:
            self._to.session.post(
                f"{API}runs/outputs",
                {"run_id": placed.id, "models": msgspec.to_builtins(outputs)},
                what=f"outputs of run {run.id}",
            )
        written = artifacts.write(content.artifacts, files)
        if update:
            self._to.session.post(
                f"{API}runs/update", {"run_id": placed.id, **update}, what=f"run {run.id}"
            )
        if filling or changes or points or written:
            report.did(Run.kind)
        else:
            report.found(Run.kind)

    def finish(self, run_id: str, *, filling: bool, delete: bool) -> None:
        """Mark a run as complete, and delete it when the bundle's is deleted."""
        if filling:
            self._to.session.remove(
                f"{API}runs/delete-tag",
                {"run_id": run_id, "key": provenance.STATE},
                method="POST",
                what=f"run {run_id}",
            )
        if delete:
            self._to.session.post(f"{API}runs/delete", {"run_id": run_id}, what=f"run {run_id}")

    def _artifacts(self, run: Run, placed: Placed) -> ArtifactWriter:
        return ArtifactWriter(
            self._to,
            kind=Run.kind,
            source_id=run.id,
            root=placed.sink_root,
            owner=ArtifactOwner("run", placed.id),
            parent=run.info.experiment_id,
        )

    def _tags(self, run: Run, content: Content) -> dict[str, str]:
        tags = self._to.tags_of(Run.kind, run.tags)
        tags = self._to.cut(Run.kind, run.id, "tags", tags, self._to.tag_limit)
        tags[provenance.ORIGIN] = provenance.origin_of(run.id, run.tags)
        if self._to.is_databricks:
            tags[provenance.SOURCE_USER] = run.tags.get(USER_TAG, run.info.user_id)
        elif not self._to.options.use_src_user_id:
            tags[USER_TAG] = self._to.options.user
            tags[provenance.SOURCE_USER] = run.tags.get(USER_TAG, run.info.user_id)
            self._to.report.adjust(Run.kind, "user_id (--use-src-user-id False)")
        return tags | artifact_tags(content.artifacts, run.info.artifact_uri)

    def _new_params(self, id: str, here: dict[str, str], params: dict[str, str]) -> dict[str, str]:
        new = {}
        for key, value in params.items():
            if key not in here:
                new[key] = value
            elif here[key] != value:
                self._to.report.conflict(
                    Run.kind, id, f"params.{key}", "differs, and MLflow cannot change a param"
                )
        return new

    def _update(self, run: Run, here: Run | None, filling: bool) -> dict[str, Any]:
        """Body of runs/update, empty when nothing has to change."""
        info = run.info
        update: dict[str, Any] = {}
        if here is None or filling:
            if info.status != "RUNNING" or info.end_time is not None:
                update["status"] = info.status
        elif here.info.status != info.status and (
            # The end of a run that was running is news, not a conflict.
            (here.info.end_time is None and info.end_time is not None)
            or self._to.differs(
                Run.kind, run.id, "status", here=here.info.status, bundle=info.status
            )
        ):
            update["status"] = info.status
        here_end = here.info.end_time if here else None
        if (
            info.end_time is not None
            and info.end_time != here_end
            and (
                here_end is None
                or filling
                or self._to.differs(
                    Run.kind, run.id, "end_time", here=here_end, bundle=info.end_time
                )
            )
        ):
            update["end_time"] = info.end_time
            update.setdefault("status", info.status)
        if (
            here is not None
            and info.run_name
            and here.info.run_name != info.run_name
            and (
                filling
                or self._to.differs(
                    Run.kind, run.id, "run_name", here=here.info.run_name, bundle=info.run_name
                )
            )
        ):
            update["run_name"] = info.run_name
        return update

    def _model_links(
        self, run: Run, here: Run | None, placed: Placed
    ) -> tuple[list[str], list[ModelOutput]]:
        """Logged models that the run read and made, those that the server's run lacks."""
        model_ids = [
            self._model_id(entry.model_id, "inputs")
            for entry in run.inputs.model_inputs
            if self._was_made(run, entry.model_id, "inputs")
        ]
        outputs = [
            ModelOutput(model_id=self._model_id(entry.model_id, "outputs"), step=entry.step)
            for entry in run.outputs.model_outputs
            if self._was_made(run, entry.model_id, "outputs")
        ]
        if not self._to.since(3, 0):
            if model_ids or outputs:
                self._to.report.lose(
                    Run.kind, run.id, "the server has no logged models", field="inputs, outputs"
                )
            return [], []
        if here is None or not (model_ids or outputs):
            return model_ids, outputs
        answer: records.RestRunAnswer = self._to.session.get(
            f"{API}runs/get",
            params={"run_id": placed.id},
            type=records.RestRunAnswer,
            what=f"run {placed.id}",
        )
        linked = answer.run.record()
        read = {entry.model_id for entry in linked.inputs.model_inputs}
        made = {entry.model_id for entry in linked.outputs.model_outputs}
        return (
            [model_id for model_id in model_ids if model_id not in read],
            [output for output in outputs if output.model_id not in made],
        )

    def _was_made(self, run: Run, model_id: str, field: str) -> bool:
        """Whether a link can be written: one to a source id could never be taken back."""
        if ("logged_model", model_id) not in self._to.failed:
            return True
        if ("logged_model", model_id) in self._to.unfinished:
            self._to.unfinished.add((Run.kind, run.id))
        self._to.report.lose(
            Run.kind, run.id, f"logged model {model_id} could not be made", field=field
        )
        return False

    def _model_id(self, model_id: str, field: str) -> str:
        placed = self._to.remap.find("logged_model", model_id)
        if placed is None:
            self._to.report.adjust(Run.kind, f"{field} (points outside)")
            return model_id
        return placed.id

    def _dataset_body(self, entry: DatasetInput) -> dict[str, Any]:
        here = rewrite_dataset_source(entry.dataset, self._to.remap, self._to.report)
        dataset = {k: v for k, v in msgspec.to_builtins(here).items() if v is not None}
        return {"dataset": dataset, "tags": msgspec.to_builtins(entry.tags)}

    def _log_datasets(self, run_id: str, experiment_id: str, datasets: list[DatasetInput]) -> None:
        for group in chunked(datasets, _MAX_INPUTS):
            keys = {(experiment_id, entry.dataset.name, entry.dataset.digest) for entry in group}
            # The server looks for a dataset of its experiment and then inserts it: two runs that
            # name the same new one at once make one of the two requests fail.
            with self._datasets_lock if not keys <= self._datasets else nullcontext():
                self._to.session.post(
                    f"{API}runs/log-inputs",
                    {"run_id": run_id, "datasets": [self._dataset_body(e) for e in group]},
                    what=f"datasets of run {run_id}",
                )
                self._datasets |= keys

    def _log_model_inputs(self, run_id: str, model_ids: list[str]) -> None:
        for ids in chunked(model_ids, _MAX_INPUTS):
            self._to.session.post(
                f"{API}runs/log-inputs",
                {"run_id": run_id, "models": [{"model_id": model_id} for model_id in ids]},
                what=f"model inputs of run {run_id}",
            )

    def _new_points(
        self, content: Content, placed: Placed, here: Run | None
    ) -> Iterator[MetricHistory]:
        """Yield the bundle's points that the server lacks."""
        known = set(here.metric_keys) if here is not None else set()
        counted: Counter[Point] = Counter()
        current = ""
        for history in content.histories():
            if history.key not in known:
                yield history
                continue
            if history.key != current:
                current = history.key
                counted = self._points(placed.id, current)
            new = [index for index, point in enumerate(_points(history)) if not counted[point]]
            if new:
                yield MetricHistory(
                    key=history.key,
                    values=[history.values[i] for i in new],
                    timestamps=[history.timestamps[i] for i in new],
                    steps=[history.steps[i] for i in new],
                )

    def _lose_points(self, content: Content, placed: Placed, here: Run) -> None:
        """List the histories that cannot be completed, as their run is deleted already."""
        run = content.entity
        assert isinstance(run, Run)
        for key in dict.fromkeys(new.key for new in self._new_points(content, placed, here)):
            self._to.report.lose(
                Run.kind,
                run.id,
                "deleted at the destination, where points of it are missing; restore it there and "
                "import again",
                field=f'metrics["{key}"]',
                parent=run.info.experiment_id,
            )

    def _points(self, run_id: str, key: str) -> Counter[Point]:
        """Points that the server has; equal ones are one row there."""
        counted: Counter[Point] = Counter()
        for page in self._to.session.iter_pages(
            "GET",
            f"{API}metrics/get-history",
            {"run_id": run_id, "metric_key": key, "max_results": PAGE_ROWS},
            what=f"history of {key!r} of run {run_id}",
        ):
            for point in page.get("metrics", ()):
                value = point.get("value", 0.0)
                comparable = value if isinstance(value, str) else encode_number(float(value))
                counted[int(point["timestamp"]), int(point.get("step", 0)), comparable] = 1
        return counted

    def _log(
        self,
        id: str,
        run_id: str,
        params: dict[str, str],
        tags: dict[str, str],
        histories: Iterator[MetricHistory],
    ) -> _Taken:
        """Write params, tags and points in as few requests as possible; return what was taken.

        Args:
            id: The run at the source, for the report.
            run_id: The run here.
            params: To be written.
            tags: To be written.
            histories: To be written.
        """
        params_left = list(params.items())
        tags_left = list(tags.items())
        metrics: list[dict[str, Any]] = []
        taken = _Taken(0, 0)
        for history in histories:
            for value, timestamp, step in zip(
                history.values, history.timestamps, history.steps, strict=True
            ):
                metrics.append(
                    {
                        "key": history.key,
                        "value": encode_number(value),
                        "timestamp": timestamp,
                        "step": step,
                    }
                )
                if len(metrics) == MAX_METRICS:
                    taken += self._log_batch(id, run_id, metrics, [], [])
                    metrics = []
        while params_left or tags_left or metrics:
            some_params, params_left = params_left[:MAX_PARAMS], params_left[MAX_PARAMS:]
            some_tags, tags_left = tags_left[:MAX_TAGS], tags_left[MAX_TAGS:]
            room = MAX_ITEMS - len(some_params) - len(some_tags)
            some_metrics, metrics = metrics[:room], metrics[room:]
            taken += self._log_batch(id, run_id, some_metrics, some_params, some_tags)
        return taken

    def _log_batch(
        self,
        id: str,
        run_id: str,
        metrics: list[dict[str, Any]],
        params: list[tuple[str, str]],
        tags: list[tuple[str, str]],
    ) -> _Taken:
        try:
            self._send_batch(id, run_id, metrics, params, tags)
        except ServerError as exc:
            _require_answer(exc)
            # One value that the server refuses must not take the others with it.
            return self._log_one_by_one(id, run_id, metrics, params, tags, exc)
        return _Taken(len(metrics), len(params) + len(tags))

    def _send_batch(
        self,
        id: str,
        run_id: str,
        metrics: list[dict[str, Any]],
        params: list[tuple[str, str]],
        tags: list[tuple[str, str]],
    ) -> None:
        body: dict[str, Any] = {"run_id": run_id}
        if metrics:
            body["metrics"] = metrics
        if params:
            body["params"] = records.tag_list(dict(params))
        if tags:
            body["tags"] = records.tag_list(dict(tags))
        self._to.session.post(f"{API}runs/log-batch", body, what=f"data of run {id}")

    def _log_one_by_one(
        self,
        id: str,
        run_id: str,
        metrics: list[dict[str, Any]],
        params: list[tuple[str, str]],
        tags: list[tuple[str, str]],
        cause: ServerError,
    ) -> _Taken:
        if cause.retryable or is_forbidden(cause):
            raise cause
        lost = self._to.report.lose
        values = written = 0
        for key, value in params:
            try:
                self._send_batch(id, run_id, [], [(key, value)], [])
            except ServerError as exc:
                _require_answer(exc)
                lost(Run.kind, id, exc.message, field=f"params.{key}")
            else:
                values += 1
        for key, value in tags:
            try:
                self._send_batch(id, run_id, [], [], [(key, value)])
            except ServerError as exc:
                _require_answer(exc)
                if self._to.is_databricks and is_reserved_tag(exc):
                    self._to.reserved_tags.add(key)
                    self._to.report.adjust(Run.kind, f"tags.{key} (Databricks sets it)")
                else:
                    lost(Run.kind, id, exc.message, field=f"tags.{key}")
            else:
                values += 1
        keys = dict.fromkeys(metric["key"] for metric in metrics)
        for key in keys:
            points = [metric for metric in metrics if metric["key"] == key]
            try:
                self._send_batch(id, run_id, points, [], [])
            except ServerError as exc:
                _require_answer(exc)
                lost(Run.kind, id, exc.message, field=f"metrics.{key}")
            else:
                written += len(points)
        return _Taken(written, values)


def _require_answer(exc: ServerError) -> None:
    if exc.status is None:
        raise exc


def _points(history: MetricHistory) -> Iterator[Point]:
    for value, timestamp, step in zip(
        history.values, history.timestamps, history.steps, strict=True
    ):
        yield timestamp, step, encode_number(bounded(value))


def _has_dataset(here: Run | None, entry: DatasetInput) -> bool:
    return here is not None and any(
        other.dataset.name == entry.dataset.name
        and other.dataset.digest == entry.dataset.digest
        and {tag.key: tag.value for tag in entry.tags}.items()
        <= {tag.key: tag.value for tag in other.tags}.items()
        for other in here.inputs.dataset_inputs
    )
