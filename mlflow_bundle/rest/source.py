"""Reads entities from an MLflow server over REST, of any version from 2.0 on.

Selecting lists everything asked for into a spool, in few requests; handing out follows the spool
in path order and fetches histories, artifact listings and small artifacts ahead in parallel.
Nothing is fetched twice and nothing is written to the server, except what the user permits with
``list_label_schemas``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from mlflow_bundle import layout, provenance
from mlflow_bundle.archive import order_key
from mlflow_bundle.contracts import (
    MODE_OF_POLICY,
    ArtifactPolicy,
    ArtifactTree,
    Content,
    FileReading,
    HistoryReading,
    NoArtifacts,
    Source,
    SourceInfo,
    Wanted,
    no_histories,
    no_items,
)
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    MetricHistory,
    ModelVersion,
    PlainEntity,
    Prompt,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import ServerError, SourceError
from mlflow_bundle.files_ahead import with_files_ahead
from mlflow_bundle.kinds import ALL_KINDS, KINDS, NEWEST_MLFLOW, RECORDS
from mlflow_bundle.kinds.traces import TRACED_MODEL, Trace
from mlflow_bundle.patience import Patience
from mlflow_bundle.prefetch import ordered_prefetch
from mlflow_bundle.references import logged_model_id_of, model_version_of, run_id_of
from mlflow_bundle.report import Report
from mlflow_bundle.rest import records
from mlflow_bundle.rest.artifacts import ArtifactOwner, ProxyRoots, open_tree
from mlflow_bundle.rest.experiments import iter_experiments
from mlflow_bundle.rest.histories import HistoryBatch, HistoryRequest
from mlflow_bundle.rest.logged_models import get_logged_model
from mlflow_bundle.rest.model_links import RUNS_PER_QUERY, with_model_links
from mlflow_bundle.rest.notebooks import Notebooks
from mlflow_bundle.rest.readers import Chosen, Fetched, Reading, make_readers
from mlflow_bundle.rest.refusals import is_forbidden, report_hidden, without_refused
from mlflow_bundle.rest.registry import list_registry
from mlflow_bundle.rest.session import API, Session, since
from mlflow_bundle.selection import Selection, require_matches
from mlflow_bundle.spool import Selected, Spool
from mlflow_bundle.version_files import lost_holders, own_locations

ItemT = TypeVar("ItemT")

_EXPERIMENTS_PER_SEARCH = 20
_RUNS_PER_PAGE = 1000
_RUNS_PER_BATCH = 100

_BATCHES_AHEAD = 2
_ROWS_AT_ONCE = 500


class RestSource(Source):
    """Source over one MLflow server.

    Args:
        uri: Tracking URI.
        jobs: Requests at once.
        artifacts: Whether artifact files are handed out, or only where they lie.
        notebook_formats: Formats in which Databricks notebooks join the artifacts of their runs.
        workspace: The only workspace that is read; None at a server without workspaces.
        list_label_schemas: Whether label schemas are listed even where that makes the server add
            its default one; nothing else is ever written.
        patience: How long the server may be away.

    Raises:
        SourceError: The server cannot be reached.
    """

    def __init__(
        self,
        uri: str,
        *,
        jobs: int = 8,
        artifacts: ArtifactPolicy = "copy",
        notebook_formats: tuple[str, ...] = (),
        workspace: str | None = None,
        list_label_schemas: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self._session = Session(
            uri, error=SourceError, jobs=jobs, workspace=workspace, patience=patience
        )
        self._version = self._session.probe()
        self._jobs = jobs
        self._policy = artifacts
        self._spool = Spool()
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="mlflow-bundle-read")
        self._roots = ProxyRoots(self._session)
        self._readers = make_readers(
            Reading(
                session=self._session,
                version=self._version,
                pool=self._pool,
                lose=lambda *args, **fields: self._report.lose(*args, **fields),
                note=lambda text: self._report.note(text),
                tree=self._tree,
                list_label_schemas=list_label_schemas,
            )
        )
        self._notebooks = Notebooks(self._session, notebook_formats)
        self._lock = threading.Lock()
        self._linked_models: dict[str, str] = {}
        self._unknown: list[str] = []
        """Kinds that a server which does not tell its version does not know."""
        self._experiments: dict[str, Experiment] = {}
        self._refused: dict[tuple[str, str], ServerError] = {}
        """Runs and logged models, by kind and id, that the server did not give and that exist."""
        self._report = Report()

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(
            uri=self._session.shown_uri, mlflow_version=".".join(map(str, self._version))
        )

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._session.requests

    # Selecting

    def select(self, selection: Selection, report: Report) -> None:
        self._report = report
        if self._version[:2] > NEWEST_MLFLOW:
            report.note(
                f"the server runs MLflow {self.info.mlflow_version}, which is newer than this "
                "mlflow-bundle knows: what MLflow keeps since then is not looked for"
            )
        self._experiments = {e.experiment_id: e for e in iter_experiments(self._session)}
        models = self._list_models(selection)
        selection = without_refused(
            self._session,
            selection,
            experiments=self._experiments.values(),
            models=models,
            lose=report.lose,
        )
        self._require(selection, models)
        report_hidden(self._session, selection, report)
        chosen = [
            e
            for e in self._experiments.values()
            if selection.matches_experiment(e.experiment_id, e.name)
        ]
        self._add_experiments(chosen)
        self._add_runs_of(chosen, selection)
        needed = () if selection.lenient else selection.run_ids
        self._add_single_runs(needed, selection.run_ids)
        self._add_models(models, selection)
        prompts = [
            f"{model.name}/{version.version}"
            for model in models.values()
            if isinstance(model, Prompt) and selection.matches_model(model.name)
            for version in model.versions
        ]
        self._add_plain_entities(chosen, prompts, selection)
        for kind in ALL_KINDS:
            count = self._spool.count(kind)
            if count or kind not in KINDS:
                report.plan(kind, count)

    def _list_models(self, selection: Selection) -> dict[str, RegisteredModel]:
        if not (selection.everything or selection.models):
            return {}
        try:
            return list_registry(self._session, self._version, self._pool)
        except ServerError as exc:
            if not (is_forbidden(exc) and selection.everything):
                raise
            for kind in VERSION_KIND:  # one listing has both
                self._report.lose(kind, "all", exc.message)
            return {}

    def _require(self, selection: Selection, models: dict[str, RegisteredModel]) -> None:
        require_matches(
            selection,
            experiments=[(e.experiment_id, e.name) for e in self._experiments.values()],
            models={name: model.version_aliases for name, model in models.items()}
            if selection.models
            else None,
            where=self._session.shown_uri,
        )

    def _add_experiments(self, experiments: Iterable[Experiment]) -> None:
        self._spool.add(_row(experiment, "") for experiment in experiments)

    def _add_runs_of(self, experiments: list[Experiment], selection: Selection) -> None:
        ids = [experiment.experiment_id for experiment in experiments]
        groups = [
            ids[start : start + _EXPERIMENTS_PER_SEARCH]
            for start in range(0, len(ids), _EXPERIMENTS_PER_SEARCH)
        ]
        conditions = []
        if selection.since_ms is not None:
            conditions.append(f"attributes.start_time >= {selection.since_ms}")
        if selection.until_ms is not None:
            conditions.append(f"attributes.start_time < {selection.until_ms}")

        def search(group: list[str]) -> None:
            query: dict[str, Any] = {
                "experiment_ids": group,
                "run_view_type": "ALL",
                "max_results": _RUNS_PER_PAGE,
                "order_by": ["attributes.run_id ASC"],
            }
            if conditions:
                query["filter"] = " AND ".join(conditions)
            pages = self._session.iter_pages(
                "POST", f"{API}runs/search", query, type=records.RestRuns, what="runs"
            )
            for page in pages:
                runs = [(run.record(), run.estimates()) for run in page.runs]
                self._add_run_rows(self._with_model_links(runs))

        self._search_groups(search, groups, Run.kind)
        if not selection.has_window:
            try:
                self._search_groups(self._search_logged_models, groups, LoggedModel.kind)
            except ServerError as exc:
                if not self._session.is_absent(exc):
                    raise
                self._lose_kind(LoggedModel.kind, (3, 0), exc)
        self._add_logged_models_of_runs()

    def _search_groups(
        self, search: Callable[[list[str]], None], groups: list[list[str]], kind: str
    ) -> None:
        """Search groups of experiments side by side; one that may not be read loses its own."""

        def guarded(group: list[str]) -> None:
            try:
                search(group)
            except ServerError as exc:
                if not is_forbidden(exc):
                    raise
                if len(group) > 1:
                    for experiment_id in group:
                        guarded([experiment_id])
                else:
                    self._report.lose(kind, "all", exc.message, parent=group[0])

        list(self._pool.map(guarded, groups))

    def _add_run_rows(self, runs: Iterable[tuple[Run, dict[str, int]]]) -> None:
        rows = []
        for run, estimates in runs:
            rows.append(_row(run, run.info.experiment_id, estimates=estimates))
            with self._lock:
                self._linked_models.update(dict.fromkeys(_model_ids([run]), run.info.experiment_id))
        self._spool.add(rows)

    def _with_model_links(
        self, runs: list[tuple[Run, dict[str, int]]]
    ) -> Iterator[tuple[Run, dict[str, int]]]:
        """Add the logged models that runs read and made."""
        if not since(self._version, 3, 0):
            yield from runs
            return
        for start in range(0, len(runs), RUNS_PER_QUERY):
            group = runs[start : start + RUNS_PER_QUERY]
            linked = with_model_links(self._session, [run for run, _ in group], self._link_of)
            yield from zip(linked, [estimates for _, estimates in group], strict=True)

    def _link_of(self, run_id: str) -> Run | None:
        """One run with its logged models; a loss when it cannot be had."""
        try:
            run = self._get_run(run_id)
        except ServerError as exc:
            if exc.status is None:
                raise
            self._report.lose(Run.kind, run_id, exc.message, field="inputs, outputs")
            return None
        return run.record() if run is not None else None

    def _get_run_or_lose(self, run_id: str) -> records.RestRun | None:
        """As `_get_run`; one that may not be read is a loss and one of `_refused`."""
        try:
            return self._get_run(run_id)
        except ServerError as exc:
            if not is_forbidden(exc):
                raise
            self._lose_refused(Run.kind, run_id, exc)
            return None

    def _lose_refused(self, kind: str, id: str, exc: ServerError) -> None:
        with self._lock:
            if (kind, id) in self._refused:
                return
            self._refused[kind, id] = exc
        self._report.lose(kind, id, exc.message)

    def _get_run(self, run_id: str) -> records.RestRun | None:
        """Return one run, or None when there is none of that id."""
        try:
            answer: records.RestRunAnswer = self._session.get(
                f"{API}runs/get",
                params={"run_id": run_id},
                type=records.RestRunAnswer,
                what=f"run {run_id}",
            )
        except ServerError as exc:
            if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return answer.run

    def _add_single_runs(self, run_ids: Iterable[str], optional: Iterable[str]) -> list[str]:
        """Add runs by id with their experiments and logged models; return the ids found.

        One that may not be read is a loss.

        Raises:
            SelectionError: One of ``run_ids`` does not exist.
        """
        wanted = list(dict.fromkeys([*run_ids, *optional]))
        missing = [id for id in wanted if self._spool.find(Run.kind, id) is None]
        fetched = dict(zip(missing, self._pool.map(self._get_run_or_lose, missing), strict=True))
        found = [
            id
            for id in wanted
            if fetched.get(id) is not None or id not in fetched or (Run.kind, id) in self._refused
        ]
        require_matches(
            Selection(run_ids=tuple(run_ids)), run_ids=found, where=self._session.shown_uri
        )
        runs = [(run.record(), run.estimates()) for run in fetched.values() if run is not None]
        self._add_run_rows(runs)
        self._add_experiments(
            self._experiments[run.info.experiment_id]
            for run, _ in runs
            if run.info.experiment_id in self._experiments
        )
        self._add_logged_models_of_runs()
        return found

    def _add_logged_models_of_runs(self) -> None:
        """Add the logged models that runs read and made and that no listing gave."""
        with self._lock:
            linked, self._linked_models = self._linked_models, {}
        self._add_single_logged_models(linked)
        for model_id, experiment_id in linked.items():
            if (
                self._spool.find(LoggedModel.kind, model_id) is None
                and (LoggedModel.kind, model_id) not in self._refused
            ):
                self._report.lose(
                    LoggedModel.kind,
                    model_id,
                    "a run names it and the server does not show it: it was deleted there "
                    "(MLflow 3.7 and newer show it all the same, unless it is gone for good)",
                    parent=experiment_id,
                )

    def _search_logged_models(self, experiment_ids: list[str]) -> None:
        if not since(self._version, 3, 0):
            return
        query = {
            "experiment_ids": experiment_ids,
            "max_results": self._session.logged_models_per_page,
            "order_by": [{"field_name": "creation_timestamp", "ascending": True}],
        }
        pages = self._session.iter_pages(
            "POST",
            f"{API}logged-models/search",
            query,
            type=records.RestLoggedModels,
            what="logged models",
        )
        for page in pages:
            models = [model.record() for model in page.models]
            self._spool.add(_row(model, model.experiment_id) for model in models)

    def _add_single_logged_models(self, model_ids: Iterable[str]) -> None:
        missing = [
            id for id in dict.fromkeys(model_ids) if self._spool.find(LoggedModel.kind, id) is None
        ]
        found = [model for model in self._pool.map(self._get_logged_model, missing) if model]
        self._spool.add(_row(model, model.experiment_id) for model in found)
        self._add_experiments(
            self._experiments[model.experiment_id]
            for model in found
            if model.experiment_id in self._experiments
        )

    def _get_logged_model(self, model_id: str) -> LoggedModel | None:
        try:
            return get_logged_model(self._session, model_id)
        except ServerError as exc:
            if exc.status is None:
                raise
            self._lose_refused(LoggedModel.kind, model_id, exc)
            return None

    # The registry

    def _add_models(self, models: dict[str, RegisteredModel], selection: Selection) -> None:
        chosen: list[RegisteredModel] = []
        for model in models.values():
            aliases = model.version_aliases
            if not selection.takes_model(model.name, aliases):
                continue
            versions = [
                version
                for version in model.versions
                # What a killed import left behind to hold a number is no version.
                if provenance.FILLER not in version.tags
                and selection.matches_version(
                    model.name,
                    version.version,
                    stage=version.current_stage,
                    aliases=aliases[version.version],
                )
            ]
            numbers = {version.version for version in versions}
            chosen.append(
                msgspec.structs.replace(
                    model,
                    versions=versions,
                    aliases={a: n for a, n in model.aliases.items() if n in numbers},
                )
            )
        versions = [version for model in chosen for version in model.versions]
        self._add_version_needs(versions, selection)
        located = dict(
            zip(
                [(v.name, v.version) for v in versions],
                self._pool.map(self._located, versions),
                strict=True,
            )
        )
        for model in chosen:
            model = msgspec.structs.replace(
                model, versions=[located[v.name, v.version] for v in model.versions]
            )
            self._spool.add([_row(model, "")])
            self._report.plan(VERSION_KIND[model.kind], len(model.versions))

    def _add_plain_entities(
        self, experiments: list[Experiment], prompts: list[str], selection: Selection
    ) -> None:
        chosen = Chosen(
            experiments=tuple(experiments),
            whole_server=selection.everything,
            runs=lambda: (_decode_run(row)[0] for row in self._spool.iterate(Run.kind)),
            prompt_versions=tuple(prompts),
        )
        named: set[str] = set()
        unheld: list[str] = []
        on_files = False
        for reader in self._readers.values():
            if on_files and reader.in_files == "never":
                unheld.append(reader.kind.name)
                continue
            rows = (
                self._plain_row(entity, named)
                for entity in reader.select(chosen)
                if selection.matches_plain(entity)
            )
            try:
                # Not all at once: a reader may look at the spool meanwhile.
                while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                    self._spool.add(some)
            except ServerError as exc:
                if exc.status is None:
                    raise
                may_lack = reader.in_files != "always" and exc.status >= 500
                on_files = on_files or (may_lack and self._keeps_files())
                if on_files and may_lack:
                    unheld.append(reader.kind.name)
                else:
                    self._lose_kind(reader.kind.name, reader.first, exc)
        if unheld:
            self._report.note(
                "the server keeps its data in files, not in a database: what MLflow has in "
                f"databases only was not looked for ({', '.join(unheld)})"
            )
        if self._unknown:
            self._report.note(
                "the server does not tell its version, and does not answer for what came with "
                f"later ones: whether there are any is not known ({', '.join(self._unknown)})"
            )
        if not selection.has_window:
            self._add_deleted_models(named, {e.experiment_id for e in experiments})

    def _keeps_files(self) -> bool:
        """Whether the server keeps its data in files, as far as it tells."""
        try:
            return bool(self._session.server_info().get("store_type") == "FileStore")
        except ServerError:
            return False

    def _lose_kind(self, kind: str, first: tuple[int, int], error: ServerError) -> None:
        """List that the server refused a kind, which came with MLflow ``first``.

        One that it does not know cannot be lost, but a proxy may answer in its place.
        """
        if not self._session.is_absent(error):
            self._report.lose(kind, "all", error.message)
        elif self._version and since(self._version, *first):
            self._report.lose(
                kind,
                "all",
                f"{error.message} (MLflow {self.info.mlflow_version} knows this: "
                "what stands before the server does not let it through)",
            )
        elif not self._version and not self._session.is_databricks:
            self._unknown.append(kind)

    def _plain_row(self, entity: PlainEntity, named: set[str]) -> Selected:
        """The row of an entity; a logged model it names that no listing gave joins ``named``."""
        if isinstance(entity, Trace):
            id = logged_model_id_of(f"models:/{entity.metadata.get(TRACED_MODEL)}")
            if id is not None and self._spool.find(LoggedModel.kind, id) is None:
                named.add(id)
        return _row(entity, entity.parent)

    def _add_deleted_models(self, named: set[str], experiment_ids: set[str]) -> None:
        """Add the deleted logged models of the chosen experiments among those that traces name."""
        found = self._pool.map(self._get_logged_model, sorted(named))
        self._spool.add(
            _row(model, model.experiment_id)
            for model in found
            if model is not None
            and model.lifecycle_stage == "deleted"
            and model.experiment_id in experiment_ids
        )

    def _add_version_needs(self, versions: list[ModelVersion], selection: Selection) -> None:
        run_ids = [v.run_id for v in versions if v.run_id]
        run_ids += [id for v in versions if (id := run_id_of(v.source)) is not None]
        self._add_single_runs([], run_ids)
        self._add_single_logged_models(
            id for v in versions if (id := logged_model_id_of(v.source)) is not None
        )
        if selection.export_all_runs:
            ids = {row.parent for id in run_ids if (row := self._spool.find(Run.kind, id))}
            self._add_runs_of([self._experiments[id] for id in ids], selection)

    def _located(self, version: ModelVersion) -> ModelVersion:
        """Add to a version what the server tells of its run and files."""
        changes: dict[str, Any] = {}
        row = self._spool.find(Run.kind, version.run_id) if version.run_id else None
        if row is not None:
            run, _ = _decode_run(row)
            experiment = self._experiments.get(run.info.experiment_id)
            changes["experiment_id"] = run.info.experiment_id
            changes["experiment_name"] = experiment.name if experiment else None
            changes["run_artifact_uri"] = run.info.artifact_uri
        if model_version_of(version.source) is not None:
            try:
                changes["storage_location"] = self._session.get(
                    f"{API}model-versions/get-download-uri",
                    params={"name": version.name, "version": str(version.version)},
                    what=f"model version {version.name}/{version.version}",
                ).get("artifact_uri")
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._report.lose(
                    "model_version",
                    f"{version.name}/{version.version}",
                    exc.message,
                    field="storage_location",
                )
        return msgspec.structs.replace(version, **changes)

    # Handing out

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        for row in self._spool.iterate(kind):
            yield _decode(row)

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        batches = ordered_prefetch(
            self._batches(wanted),
            lambda batch: self._start_batch(batch) if _is_read(batch, histories) else None,
            budget=_BATCHES_AHEAD,
        )
        contents = self._contents(batches)
        for content, last_of in with_files_ahead(contents, self._pool, files=files):
            yield content
            if last_of is not None:
                last_of.close()

    def _batches(self, wanted: Wanted | None) -> Iterator[list[Selected]]:
        """Consecutive entities of one kind and experiment, as many as are fetched together."""
        batch: list[Selected] = []
        for row in self._spool.iterate():
            if wanted is not None and not wanted(row.kind, row.id, row.parent):
                continue
            if batch and (
                (row.kind, row.parent) != (batch[0].kind, batch[0].parent)
                or len(batch) == self._batch_size(row.kind)
            ):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _batch_size(self, kind: str) -> int:
        if kind == Run.kind:
            return _RUNS_PER_BATCH
        reader = self._readers.get(kind)
        return reader.batch_size if reader is not None else 1

    def _start_batch(self, batch: list[Selected]) -> HistoryBatch | Fetched | None:
        reader = self._readers.get(batch[0].kind)
        if reader is not None:
            return reader.start([_decode_plain(row) for row in batch])
        if batch[0].kind != Run.kind:
            return None
        wanted = []
        for row in batch:
            run, estimates = _decode_run(row)
            wanted += [HistoryRequest(run.id, key, estimates[key]) for key in run.metric_keys]
        bulk_runs = 100 if since(self._version, 2, 11) else 20 if since(self._version, 2, 2) else 0
        return HistoryBatch(self._session, self._pool, wanted, bulk_runs=bulk_runs)

    def _contents(
        self, batches: Iterable[tuple[list[Selected], HistoryBatch | Fetched | None]]
    ) -> Iterator[tuple[Content, HistoryBatch | Fetched | None]]:
        """Yield contents, the last of a batch with what nobody needs after it."""
        for batch, fetched in batches:
            if fetched is not None:
                fetched.wait()
            for row in batch:
                if isinstance(fetched, Fetched) or row.kind in self._readers:
                    content = self._plain_content(_decode_plain(row), fetched)
                else:
                    content = self._content(_decode(row), fetched)
                yield content, fetched if row is batch[-1] else None

    def _plain_content(
        self, entity: PlainEntity, fetched: HistoryBatch | Fetched | None
    ) -> Content:
        items: Callable[[], Iterable[msgspec.Struct]] = no_items
        if isinstance(fetched, Fetched):
            id = entity.id
            entity = fetched.entity(entity)
            items = partial(fetched.items, id)
            for field_name, reason in fetched.failures(id):
                self._report.lose(entity.kind, id, reason, field=field_name, parent=entity.parent)
        tree = self._readers[entity.kind].tree(entity)
        return Content(entity=entity, artifacts=tree or NoArtifacts(), items=items)

    def _content(self, entity: Entity, batch: HistoryBatch | Fetched | None) -> Content:
        if isinstance(entity, Run):
            return self._run_content(entity, batch)
        if isinstance(entity, LoggedModel):
            owner = ArtifactOwner("logged_model", entity.id)
            return Content(entity=entity, artifacts=self._tree(entity.artifact_location, owner))
        if isinstance(entity, RegisteredModel) and not isinstance(entity, Prompt):
            self._report_lost_files(entity)
            trees = {
                version.version: self._tree(
                    uri, ArtifactOwner("model_version", f"{version.name}/{version.version}")
                )
                for version, uri in own_locations(entity, self._is_selected)
            }
            return Content(entity=entity, version_artifacts=trees)
        return Content(entity=entity)

    def _run_content(self, run: Run, batch: HistoryBatch | Fetched | None) -> Content:
        histories: Callable[[], Iterable[MetricHistory]] = no_histories
        if isinstance(batch, HistoryBatch):
            histories = partial(batch.histories, run.id)
            for key, reason in batch.failures(run.id):
                self._report.lose(
                    Run.kind,
                    run.id,
                    reason,
                    field=f'metrics["{key}"]',
                    parent=run.info.experiment_id,
                )
        tree = self._tree(run.info.artifact_uri, ArtifactOwner("run", run.id))
        return Content(entity=run, artifacts=self._notebooks.join(run, tree), histories=histories)

    def _tree(self, uri: str, owner: ArtifactOwner) -> ArtifactTree:
        if self._policy != "copy" or not uri:
            return NoArtifacts(MODE_OF_POLICY[self._policy])
        return open_tree(self._session, uri, owner, self._roots)

    def _is_selected(self, kind: str, id: str) -> bool:
        return self._spool.find(kind, id) is not None

    def _report_lost_files(self, model: RegisteredModel) -> None:
        """List the versions whose files lay in a run or logged model that is gone."""
        for version_id, kind, id in lost_holders(model, self._is_selected):
            why = "may not be read" if (kind, id) in self._refused else "was deleted"
            self._report.lose(
                "model_version",
                version_id,
                f"its files belong to {kind.replace('_', ' ')} {id}, which {why}",
                field="artifacts",
            )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._spool.close()


def _row(entity: Entity, parent: str, *, estimates: dict[str, int] | None = None) -> Selected:
    body = msgspec.msgpack.encode((entity, estimates or {}))
    path = layout.document_path(entity)
    return Selected(order_key(path), entity.kind, entity.id, parent, body)


def _is_read(batch: list[Selected], histories: HistoryReading) -> bool:
    """Whether histories or items of a batch will be read."""
    if histories == "items":
        kind = KINDS.get(batch[0].kind)
        return kind is not None and not kind.has_many_items
    return bool(histories)


def _decode(row: Selected) -> Entity:
    record: Any = RECORDS[row.kind]
    type = prepared(tuple[record, dict[str, int]])
    entity: Entity = msgspec.msgpack.decode(row.body, type=type)[0]
    return entity


def _decode_plain(row: Selected) -> PlainEntity:
    entity = _decode(row)
    assert isinstance(entity, PlainEntity)
    return entity


def _decode_run(row: Selected) -> tuple[Run, dict[str, int]]:
    return msgspec.msgpack.decode(row.body, type=prepared(tuple[Run, dict[str, int]]))


def _model_ids(runs: Iterable[Run]) -> list[str]:
    return [
        model_id
        for run in runs
        for model_id in (
            *(output.model_id for output in run.outputs.model_outputs),
            *(read.model_id for read in run.inputs.model_inputs),
        )
    ]
