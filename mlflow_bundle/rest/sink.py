"""Writes entities to an MLflow server over REST, of any version from 2.0 on.

The server is the ledger: what was imported carries its origin, what is being filled says so, and a
second import of the same bundle finds everything there. Experiments are matched by name; runs and
logged models by own id or origin inside the experiment they are mapped to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content, Sink, SourceInfo
from mlflow_bundle.entities import (
    Entity,
    Experiment,
    LoggedModel,
    ModelVersion,
    PlainEntity,
    Prompt,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import ConflictError, ServerError, SinkError
from mlflow_bundle.importing import NEW, Importing, ImportOptions
from mlflow_bundle.kinds.webhooks import Webhook
from mlflow_bundle.layout import parent_of
from mlflow_bundle.patience import Patience
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.references import LATE_TAGS, model_version_of
from mlflow_bundle.remap import Placed, Remap
from mlflow_bundle.report import Report
from mlflow_bundle.rest import records
from mlflow_bundle.rest.database_only import (
    adjust_database_fields,
    as_over_rest,
    without_database_fields,
)
from mlflow_bundle.rest.databricks import SET_BY_DATABRICKS, make_parent
from mlflow_bundle.rest.deleted_models import DeletedModels
from mlflow_bundle.rest.destination import IN_DELETED, Destination
from mlflow_bundle.rest.experiments import experiment_named, get_experiment, iter_experiments
from mlflow_bundle.rest.logged_model_writer import LoggedModelWriter, is_deleted_by
from mlflow_bundle.rest.marks import Marks
from mlflow_bundle.rest.present import Present
from mlflow_bundle.rest.refusals import is_forbidden
from mlflow_bundle.rest.registry import list_registry
from mlflow_bundle.rest.registry_writer import RegistryWriter
from mlflow_bundle.rest.run_writer import RunWriter
from mlflow_bundle.rest.session import API, Session
from mlflow_bundle.rest.writers import RESERVED, make_writers
from mlflow_bundle.selection import Selection
from mlflow_bundle.users import map_users

_UNSETTABLE_OF_EXPERIMENT = (
    "experiment_id",
    "artifact_location",
    "creation_time",
    "last_update_time",
)
_CONFIRM_S = 0.5
"""Longer than another import needs between looking for a mark and setting its own."""


class _RunToFinish(NamedTuple):
    """A run to be deleted when its logged models have logged through it."""

    run: Run
    run_id: str
    filling: bool


class RestSink(Sink):
    """Sink over one MLflow server.

    Args:
        uri: Tracking URI.
        report: Counts what is written.
        options: What the user asked of the import.
        jobs: Requests at once.
        progress: Told of objects and bytes.
        workspace: The workspace that is written to; None at a server without workspaces.
        patience: How long the server may be away.

    Raises:
        SinkError: The server cannot be reached.
    """

    reserved_kinds = ("registered_model", "prompt", "experiment", "run", "logged_model", *RESERVED)
    concurrent = True

    def __init__(
        self,
        uri: str,
        report: Report,
        *,
        options: ImportOptions,
        jobs: int = 8,
        progress: Progress | None = None,
        workspace: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        session = Session(uri, error=SinkError, jobs=jobs, workspace=workspace, patience=patience)
        self._to = Destination(
            session=session,
            version=session.probe(),
            report=report,
            remap=Remap(),
            options=options,
            progress=progress or SilentProgress(),
            files=ThreadPoolExecutor(jobs, thread_name_prefix="mlflow-bundle-upload"),
            is_databricks=session.is_databricks,
            reserved_tags=set(SET_BY_DATABRICKS) if session.is_databricks else set(),
        )
        self.takes_files = options.artifacts == "copy"
        self._present = Present(session, self._to.version)
        self._marks = Marks(session, self._to.version, steal=options.steal)
        self._runs = RunWriter(self._to)
        self._logged_models = LoggedModelWriter(self._to)
        self._deleted_models = DeletedModels(self._to)
        self._writers = make_writers(self._to)
        self._registry: RegistryWriter | None = None
        self._by_name: dict[str, Experiment] = {}
        self._made: dict[str, dict[str, str]] = {}
        self._listed: set[str] = set()
        self._lock = threading.Lock()
        self._to_confirm: list[str] = []
        self._confirming = threading.Lock()
        self._expected: set[str] = set()
        self._deferred: list[Content] = []
        self._to_finish: list[_RunToFinish] = []
        self._to_delete: list[tuple[Experiment, str]] = []

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._to.session.requests

    @property
    def shown_uri(self) -> str:
        """The server's URI without credentials."""
        return self._to.session.shown_uri

    @property
    def importing(self) -> Importing:
        """This import, with the new ids."""
        return self._to

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        for experiment in iter_experiments(self._to.session):
            self._by_name[experiment.name] = experiment
        registry = list_registry(self._to.session, self._to.version, self._to.files)
        self._registry = RegistryWriter(self._to, registry)
        for writer in self._writers.values():
            writer.begin()

    @property
    def _models(self) -> RegistryWriter:
        if self._registry is None:
            raise RuntimeError("begin() was not called")
        return self._registry

    # Places

    def reserve(self, entity: Entity, *, dry: bool = False) -> None:
        try:
            self._reserve(entity, dry=dry)
        except ServerError as exc:
            self._to.failed.add((entity.kind, entity.id))
            self._may_come(entity, exc)
            raise

    def _may_come(self, entity: Entity, error: ServerError) -> None:
        """Note what cannot be deleted before a later import has brought an entity."""
        self._to.may_come(error, entity.kind, entity.id, parent_of(entity))
        if isinstance(entity, LoggedModel):
            # Its metrics are logged through runs, and runs name it.
            for run_id in {entity.source_run_id, *(metric.run_id for metric in entity.metrics)}:
                if run_id:
                    self._to.may_come(error, Run.kind, run_id)

    def _reserve(self, entity: Entity, *, dry: bool) -> None:
        if _is_deleted(entity):
            return
        entity = without_database_fields(entity)
        if isinstance(entity, Experiment):
            self._reserve_experiment(entity, dry=dry)
        elif isinstance(entity, Run):
            self._reserve_run(entity, dry=dry)
        elif isinstance(entity, LoggedModel):
            self._reserve_logged_model(entity, dry=dry)
        elif isinstance(entity, PlainEntity):
            self._confirm()
            entity = map_users(entity, self._to.options.users)
            self._writers[entity.kind].reserve(entity, dry=dry)
        else:
            self._models.check(entity)
            if isinstance(entity, Prompt) and self._to.options.renumber:
                self._models.number(entity, dry=dry)
            name = self._to.options.rename_models.get(entity.name, entity.name)
            self._to.remap.place(entity.kind, entity.id, name)
            self._expected.add(entity.name)

    def _reserve_experiment(self, experiment: Experiment, *, dry: bool) -> None:
        name = self._name_here(experiment)
        here = self._by_name.get(name)
        if here is None and dry:
            id, location = NEW, ""
        elif here is None:
            id, location = self._create_experiment(experiment, name)
        else:
            id, location = here.experiment_id, here.artifact_location
            if here.lifecycle_stage == "deleted":
                if experiment.lifecycle_stage != "deleted":
                    raise ConflictError(
                        f"experiment {name!r} is deleted at the destination",
                        status=409,
                        hint="restore it there, or give it another name with --rename-experiment",
                    )
                self._to.deleted_experiments.add(id)
            elif not dry:
                self._claim(id)
            if id not in self._listed:
                self._present.list_experiment(id)
                with self._lock:
                    self._listed.add(id)
        if experiment.lifecycle_stage == "deleted":
            self._to.to_delete.add((Experiment.kind, id))
        self._to.remap.place(
            Experiment.kind,
            experiment.id,
            id,
            source_root=experiment.artifact_location,
            sink_root=location,
        )

    def _claim(self, experiment_id: str) -> None:
        """Mark an experiment that existed; :meth:`_confirm` sees whether the mark has stayed."""
        self._check_mark(experiment_id)
        try:
            self._marks.mark(experiment_id)
        except ServerError as exc:
            if not is_forbidden(exc):
                raise
            # Whoever may not write to it needs no mark; what it lacks will be refused one by one.
            return
        with self._lock:
            self._to_confirm.append(experiment_id)

    def _check_mark(self, experiment_id: str) -> None:
        here = get_experiment(self._to.session, experiment_id)
        self._marks.check(here.name, here.tags)

    def _confirm(self) -> None:
        """Look again at the marks, once: of two imports that began together one gives way."""
        with self._confirming:
            claimed, self._to_confirm = self._to_confirm, []
            if claimed:
                time.sleep(_CONFIRM_S)
                list(self._to.files.map(self._check_mark, claimed))

    def _create_experiment(self, experiment: Experiment, name: str) -> tuple[str, str]:
        if self._to.is_databricks:
            make_parent(self._to.session, name)
        # Adjustments are counted when everything has its place.
        tags = self._to.tags_of(Experiment.kind, experiment.tags, report=Report())
        tags[provenance.ORIGIN] = provenance.origin_of(experiment.id, experiment.tags)
        tags[provenance.IMPORTER] = str(self._marks.new())
        try:
            answer = self._to.session.post(
                f"{API}experiments/create",
                {"name": name, "tags": records.tag_list(tags)},
                what=f"experiment {name!r}",
                once=True,
            )
            id = str(answer["experiment_id"])
        except ServerError as exc:
            made = self._made_after_all(name, exc)
            if made is None:
                raise
            id = made
        self._marks.mark(id, written=True)
        with self._lock:
            self._made[experiment.id] = _late(tags)
            self._to.new_experiments.add(id)
        for field in _UNSETTABLE_OF_EXPERIMENT:
            self._to.report.adjust(Experiment.kind, field)
        if name != experiment.name:
            self._to.report.adjust(Experiment.kind, "name (as asked)")
        return id, ""

    def _made_after_all(self, name: str, error: ServerError) -> str | None:
        """Return the experiment that a request made although its answer said otherwise."""
        if error.status is None:
            return None
        try:
            here = experiment_named(self._to.session, name)
        except ServerError:
            return None
        return here.experiment_id if self._marks.is_own(here.tags) else None

    def _reserve_run(self, run: Run, *, dry: bool) -> None:
        self._confirm()
        place = self._experiment_of(run.info.experiment_id, Run.kind, run.id)
        here = self._present.run(place.id, _origins(run.id, run.tags))
        if here is not None:
            id, root = here.id, here.info.artifact_uri
        elif place.id in self._to.deleted_experiments:
            raise SinkError(f"run {run.id}: {IN_DELETED}", status=409)
        elif dry:
            id, root = NEW, ""
        else:
            info = self._runs.create(run, place.id)
            id, root = info.run_id, info.artifact_uri
        if run.info.lifecycle_stage == "deleted":
            self._to.to_delete.add((Run.kind, id))
        self._to.remap.place(
            Run.kind, run.id, id, source_root=run.info.artifact_uri, sink_root=root
        )

    def _reserve_logged_model(self, model: LoggedModel, *, dry: bool) -> None:
        self._confirm()
        place = self._experiment_of(model.experiment_id, LoggedModel.kind, model.id)
        origins = _origins(model.id, model.tags)
        here = self._present.logged_model(place.id, origins)
        if here is None:
            here = self._deleted_models.find(place.id, model, origins)
        if here is not None:
            id, root = here.id, here.artifact_location
        elif place.id in self._to.deleted_experiments:
            raise SinkError(f"logged model {model.id}: {IN_DELETED}", status=409)
        elif (Run.kind, model.source_run_id) in self._to.failed:
            # Its source run cannot be set later.
            raise SinkError(
                f"logged model {model.id}: its run could not be made; import again",
                retryable=(Run.kind, model.source_run_id) in self._to.unfinished,
                status=409,
            )
        elif dry:
            id, root = NEW, ""
        else:
            info = self._logged_models.create(model, place.id)
            id, root = info.model_id, info.artifact_uri
        self._to.remap.place(
            LoggedModel.kind, model.id, id, source_root=model.artifact_location, sink_root=root
        )

    def _experiment_of(self, experiment_id: str, kind: str, id: str) -> Placed:
        place = self._to.remap.find(Experiment.kind, experiment_id)
        if place is None:
            raise SinkError(
                f"{kind} {id}: its experiment {experiment_id} could not be made",
                retryable=(Experiment.kind, experiment_id) in self._to.unfinished,
                status=409,
            )
        return place

    # Contents

    def examine(self, content: Content) -> None:
        if _is_deleted(content.entity):
            return
        content = as_over_rest(content)
        entity = content.entity
        if isinstance(entity, Run | LoggedModel):
            placed = self._to.remap.find(entity.kind, entity.id)
            here = self._here(entity)
            if placed is None or here is None:
                return
            self._to.report.found(entity.kind)
            if isinstance(here, Run):
                self._runs.examine(content, placed, here)
            else:
                self._logged_models.examine(content, placed, here)
        elif isinstance(entity, RegisteredModel):
            self._models.examine(content)
        elif isinstance(entity, PlainEntity):
            self._writers[entity.kind].examine(self._with_users(content, entity))
        elif self._experiment_here(entity) is not None:
            self._to.report.found(Experiment.kind)
            self._new_experiment_tags(entity)
            if entity.lifecycle_stage == "deleted":
                self._may_delete(entity)

    def put(self, content: Content) -> None:
        try:
            self._put(content)
        except ServerError as exc:
            self._may_come(content.entity, exc)
            raise

    def _put(self, content: Content) -> None:
        self._confirm()
        adjust_database_fields(content.entity, self._to.report)
        if _is_deleted(content.entity):
            self._to.report.adjust(content.entity.kind, "deleted_timestamp (left out)")
            return
        content = as_over_rest(content)
        entity = content.entity
        if isinstance(entity, Experiment):
            self._put_experiment(entity)
        elif isinstance(entity, RegisteredModel):
            self._put_registered_model(content, entity)
            return
        elif isinstance(entity, PlainEntity):
            self._writers[entity.kind].put(self._with_users(content, entity))
        else:
            placed = self._to.remap.find(entity.kind, entity.id)
            if placed is not None:
                self._put_in_experiment(content, placed)
        self._to.progress.advance(1)

    def _with_users(self, content: Content, entity: PlainEntity) -> Content:
        """Return a plain entity and its items with the users that they have here."""
        users = self._to.options.users
        return replace(
            content,
            entity=map_users(entity, users),
            items=lambda: (map_users(item, users) for item in content.items()),
        )

    def _put_registered_model(self, content: Content, model: RegisteredModel) -> None:
        """Write a model, or put it off while models that it copies versions of are not there."""
        with self._lock:
            if self._needs(model) & self._expected:
                self._deferred.append(content)
                return
        try:
            self._models.write(content)
        except ServerError:
            self._await_models_of(model)
            raise
        finally:
            with self._lock:
                self._expected.discard(model.name)
            self._to.progress.advance(1)

    def _await_models_of(self, model: RegisteredModel) -> None:
        for version in model.versions:
            self._models.await_model_of(version)

    @staticmethod
    def _needs(model: RegisteredModel) -> set[str]:
        sources = (model_version_of(version.source) for version in model.versions)
        return {source[0] for source in sources if source is not None} - {model.name}

    def _put_deferred(self) -> None:
        """Write the models that wait: a version when the one that it copies is there.

        A whole model would not do: models may copy versions of each other.
        """
        waiting, self._deferred = self._deferred, []
        unwritten = {
            (version.name, version.version)
            for content in waiting
            if isinstance(content.entity, RegisteredModel)
            for version in content.entity.versions
        }
        steps = [self._steps(content, unwritten) for content in waiting]
        while steps:
            left = len(unwritten), len(steps)
            steps = [step for step in steps if next(step, None) is not None]
            if (len(unwritten), len(steps)) == left:
                # Versions that are copies of each other: one of them has to be first.
                unwritten.clear()

    def _steps(self, content: Content, unwritten: set[tuple[str, int]]) -> Iterator[ModelVersion]:
        """Write a model; yield a version as long as the one that it copies is unwritten."""
        model = content.entity
        assert isinstance(model, RegisteredModel)
        before: tuple[str, int] | None = None
        try:
            for version in self._models.steps(content):
                if before is not None:
                    unwritten.discard(before)
                before = version.name, version.version
                copied = model_version_of(version.source)
                while copied in unwritten and copied != before:
                    yield version
        except ServerError as exc:
            if exc.status is None:
                raise
            self._await_models_of(model)
            self._to.report.lose(model.kind, model.id, exc.message)
        finally:
            unwritten.difference_update((v.name, v.version) for v in model.versions)
            self._to.progress.advance(1)

    def _put_in_experiment(self, content: Content, placed: Placed) -> None:
        entity = content.entity
        here = self._here(entity)
        if isinstance(entity, Run):
            run_here = here if isinstance(here, Run) else None
            self._runs.write(content, placed, run_here)
            if run_here is not None and run_here.info.lifecycle_stage == "deleted":
                return
            filling = (
                run_here is None or run_here.tags.get(provenance.STATE) == provenance.IMPORTING
            )
            delete = entity.info.lifecycle_stage == "deleted"
            if delete:
                # Its logged models still have metrics to log through it.
                with self._lock:
                    self._to_finish.append(_RunToFinish(entity, placed.id, filling))
            else:
                self._runs.finish(placed.id, filling=filling, delete=False)
        elif isinstance(entity, LoggedModel):
            model_here = here if isinstance(here, LoggedModel) else None
            self._logged_models.write(content, placed, model_here)
            if is_deleted_by(entity, model_here):
                place = self._experiment_of(entity.experiment_id, entity.kind, entity.id)
                self._deleted_models.delete_later(place.id, entity, placed.id)

    def _here(self, entity: Entity) -> Run | LoggedModel | None:
        """The entity at the server before this import."""
        if isinstance(entity, Run):
            place = self._to.remap.find(Experiment.kind, entity.info.experiment_id)
            return place and self._present.run(place.id, _origins(entity.id, entity.tags))
        if isinstance(entity, LoggedModel):
            place = self._to.remap.find(Experiment.kind, entity.experiment_id)
            origins = _origins(entity.id, entity.tags)
            active = place and self._present.logged_model(place.id, origins)
            return active or self._deleted_models.found(entity)
        return None

    def _put_experiment(self, experiment: Experiment) -> None:
        place = self._to.remap.find(Experiment.kind, experiment.id)
        if place is None:
            return
        made = self._made.get(experiment.id)
        if made is not None:
            late = _late(self._to.tags_of(Experiment.kind, experiment.tags))
            changed = {key: value for key, value in late.items() if value != made.get(key)}
            self._set_experiment_tags(experiment, place.id, changed)
            self._to.report.did(Experiment.kind)
        elif place.id in self._to.deleted_experiments:
            self._to.report.found(Experiment.kind)
            return
        else:
            self._update_experiment(experiment, place.id)
        if experiment.lifecycle_stage == "deleted" and self._may_delete(experiment):
            with self._lock:
                self._to_delete.append((experiment, place.id))

    def _may_delete(self, experiment: Experiment) -> bool:
        """Whether an experiment is the bundle's, and not only of its name; else a conflict."""
        here = self._experiment_here(experiment)
        if here is None or here.lifecycle_stage == "deleted":
            return True
        if provenance.is_same(experiment, here.creation_time, here.tags.get(provenance.ORIGIN)):
            return True
        return self._to.differs(
            Experiment.kind,
            experiment.id,
            "lifecycle_stage",
            here=here.lifecycle_stage,
            bundle=experiment.lifecycle_stage,
        )

    def _update_experiment(self, experiment: Experiment, id: str) -> None:
        new_tags = self._new_experiment_tags(experiment)
        self._set_experiment_tags(experiment, id, new_tags)
        if new_tags:
            self._to.report.did(Experiment.kind)
        else:
            self._to.report.found(Experiment.kind)

    def _set_experiment_tags(self, experiment: Experiment, id: str, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self._to.session.post(
                f"{API}experiments/set-experiment-tag",
                {"experiment_id": id, "key": key, "value": value},
                what=f"experiment {experiment.name!r}",
            )

    def _experiment_here(self, experiment: Experiment) -> Experiment | None:
        """The experiment at the server before this import."""
        return self._by_name.get(self._name_here(experiment))

    def _name_here(self, experiment: Experiment) -> str:
        options = self._to.options
        name = options.rename_experiments.get(experiment.name, experiment.name)
        return options.experiment_name_prefix + name

    def _new_experiment_tags(self, experiment: Experiment) -> dict[str, str]:
        here = self._experiment_here(experiment)
        if here is None:
            return {}
        tags = self._to.tags_of(Experiment.kind, experiment.tags)
        tags.pop(provenance.ORIGIN, None)
        return self._to.changed(Experiment.kind, experiment.name, "tags", here.tags, tags)

    def finish(self) -> None:
        self._put_deferred()
        for writer in self._writers.values():
            writer.finish()

        list(self._to.files.map(self._delete_run, self._to_finish))
        # Nothing names or fills them any more: a deleted one takes no model version.
        self._deleted_models.delete()
        for experiment, experiment_id in self._to_delete:
            if (Experiment.kind, experiment.id) in self._to.unfinished:
                self._not_yet_deleted(experiment)
                continue
            self._marks.release(experiment_id)
            self._delete_experiment(experiment, experiment_id)
        for writer in self._writers.values():
            writer.complete()
        self._marks.clear()

    def _not_yet_deleted(self, entity: Experiment | Run) -> None:
        """List a deletion that waits: a server takes nothing into what is deleted."""
        self._to.report.lose(
            entity.kind,
            entity.id,
            "not deleted yet: not all of it has arrived; import again",
            field="lifecycle_stage",
            parent=parent_of(entity),
        )

    def _delete_run(self, job: _RunToFinish) -> None:
        if (Run.kind, job.run.id) in self._to.unfinished:
            self._to.unfinished.add((Experiment.kind, job.run.info.experiment_id))
            self._not_yet_deleted(job.run)
            return
        try:
            self._runs.finish(job.run_id, filling=job.filling, delete=True)
        except ServerError as exc:
            if exc.status is None:
                raise
            self._may_come(job.run, exc)
            self._to.report.lose(
                Run.kind,
                job.run.id,
                f"it could not be deleted: {exc.message}",
                field="lifecycle_stage",
                parent=job.run.info.experiment_id,
            )

    def _delete_experiment(self, experiment: Experiment, experiment_id: str) -> None:
        try:
            self._to.session.remove(
                f"{API}experiments/delete",
                {"experiment_id": experiment_id},
                method="POST",
                what=f"experiment {experiment_id}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            self._to.report.lose(
                Experiment.kind,
                experiment.id,
                f"it could not be deleted: {exc.message}",
                field="lifecycle_stage",
            )

    def abort(self) -> None:
        try:
            self._marks.clear()
        except ServerError:
            # The server is away: its marks become stale by themselves.
            return

    def close(self) -> None:
        self._to.files.shutdown(wait=True, cancel_futures=True)
        for writer in self._writers.values():
            writer.close()
        self._present.close()
        self._to.remap.close()


def _late(tags: dict[str, str]) -> dict[str, str]:
    """Tags of an experiment that name what is placed after it."""
    return {key: value for key, value in tags.items() if key in LATE_TAGS[Experiment.kind]}


def _origins(id: str, tags: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((provenance.origin_of(id, tags), id)))


def _is_deleted(entity: Entity) -> bool:
    """Whether it is the row of a webhook that was deleted, which servers never show."""
    return isinstance(entity, Webhook) and bool(entity.deleted_timestamp)
