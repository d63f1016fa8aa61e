"""Reads entities from an MLflow server over REST, of any version from 2.0 on.

Selecting lists everything asked for into a spool, in few requests; handing out follows the spool
in path order and fetches histories, artifact listings and small artifacts ahead in parallel.
Nothing is fetched twice and nothing is ever written to the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from mlflow_bundle import layout, provenance
from mlflow_bundle.archive import order_key
from mlflow_bundle.contracts import (
    MODE_OF_POLICY,
    ArtifactFile,
    ArtifactPolicy,
    ArtifactTree,
    Content,
    NoArtifacts,
    OpenedArtifact,
    Source,
    SourceInfo,
    no_histories,
)
from mlflow_bundle.entities import (
    RECORDS,
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    ModelInput,
    ModelVersion,
    Prompt,
    RegisteredModel,
    Run,
    RunInputs,
)
from mlflow_bundle.errors import ServerError, SourceError
from mlflow_bundle.prefetch import ordered_prefetch
from mlflow_bundle.references import is_below, logged_model_id_of, model_version_of, run_id_of
from mlflow_bundle.report import Report
from mlflow_bundle.rest import records
from mlflow_bundle.rest.artifacts import SMALL_BYTES, ArtifactOwner, ProxyRoots, open_tree
from mlflow_bundle.rest.experiments import iter_experiments
from mlflow_bundle.rest.histories import HistoryBatch, HistoryRequest
from mlflow_bundle.rest.registry import list_registry
from mlflow_bundle.rest.session import API, Session, since
from mlflow_bundle.rest.uncarried import report_uncarried
from mlflow_bundle.selection import Selection, require_matches
from mlflow_bundle.spool import Selected, Spool

ItemT = TypeVar("ItemT")

_EXPERIMENTS_PER_SEARCH = 20
_RUNS_PER_PAGE = 1000
_MODELS_PER_PAGE = 1000
_RUNS_PER_BATCH = 100
_ALIASES_PER_QUERY = 10
"""GraphQL root fields per query (mlflow/server/graphql)."""

_FILES_AHEAD_BYTES = 64 * 1024 * 1024
_FILES_AHEAD = 64
_LISTINGS_AHEAD = 32
_BATCHES_AHEAD = 2


class RestSource(Source):
    """Source over one MLflow server.

    Args:
        uri: Tracking URI.
        jobs: Requests at once.
        artifacts: Whether artifact files are handed out, or only where they lie.

    Raises:
        SourceError: The server cannot be reached.
    """

    def __init__(self, uri: str, *, jobs: int = 8, artifacts: ArtifactPolicy = "copy") -> None:
        self._session = Session(uri, error=SourceError, jobs=jobs)
        self._version = self._session.probe()
        self._jobs = jobs
        self._policy = artifacts
        self._spool = Spool()
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="mlflow-bundle-read")
        self._roots = ProxyRoots(self._session)
        self._lock = threading.Lock()
        self._linked_models: dict[str, str] = {}
        self._experiments: dict[str, Experiment] = {}
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
        self._experiments = {e.experiment_id: e for e in iter_experiments(self._session)}
        models = (
            list_registry(self._session, self._version, self._pool)
            if selection.everything or selection.models
            else {}
        )
        self._require(selection, models)
        chosen = [
            e
            for e in self._experiments.values()
            if selection.matches_experiment(e.experiment_id, e.name)
        ]
        self._add_experiments(chosen)
        self._add_runs_of(chosen, selection)
        self._add_single_runs(selection.run_ids, [])
        self._add_models(models, selection)
        report_uncarried(
            self._session,
            self._version,
            chosen,
            self._pool,
            report,
            whole_server=selection.everything,
        )
        for kind in RECORDS:
            report.plan(kind, self._spool.count(kind))

    def _require(self, selection: Selection, models: dict[str, RegisteredModel]) -> None:
        require_matches(
            selection,
            experiments=[(e.experiment_id, e.name) for e in self._experiments.values()],
            models={
                name: {
                    version.version: [a for a, n in model.aliases.items() if n == version.version]
                    for version in model.versions
                }
                for name, model in models.items()
            }
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
                self._add_run_rows(self._with_model_inputs(runs))

        list(self._pool.map(search, groups))
        if not selection.has_window:
            list(self._pool.map(self._search_logged_models, groups))
        self._add_logged_models_of_runs()

    def _add_run_rows(self, runs: Iterable[tuple[Run, dict[str, int]]]) -> None:
        rows = []
        for run, estimates in runs:
            rows.append(_row(run, run.info.experiment_id, estimates=estimates))
            with self._lock:
                self._linked_models.update(dict.fromkeys(_model_ids([run]), run.info.experiment_id))
        self._spool.add(rows)

    def _with_model_inputs(
        self, runs: list[tuple[Run, dict[str, int]]]
    ) -> Iterator[tuple[Run, dict[str, int]]]:
        """Add the logged models that runs read: searching does not tell them."""
        if not since(self._version, 3, 0):
            yield from runs
            return
        for start in range(0, len(runs), _ALIASES_PER_QUERY):
            group = runs[start : start + _ALIASES_PER_QUERY]
            inputs = self._model_inputs([run.id for run, _ in group])
            for run, estimates in group:
                found = inputs.get(run.id, [])
                yield (_with_inputs(run, found) if found else run), estimates

    def _model_inputs(self, run_ids: list[str]) -> dict[str, list[str]]:
        fields = " ".join(
            f'r{i}: mlflowGetRun(input: {{runId: "{run_id}"}})'
            " { run { inputs { modelInputs { modelId } } } }"
            for i, run_id in enumerate(run_ids)
        )
        try:
            answer = self._session.post(
                "/graphql",
                {"query": f"{{ {fields} }}"},
                what="model inputs of runs",
            )
            data = answer["data"]
            return {
                run_id: [
                    entry["modelId"]
                    for entry in (data[f"r{i}"]["run"]["inputs"] or {}).get("modelInputs") or []
                ]
                for i, run_id in enumerate(run_ids)
            }
        except (ServerError, KeyError, TypeError) as exc:
            if isinstance(exc, ServerError) and exc.status is None:
                raise
        return {
            run_id: [entry.model_id for entry in run.inputs.model_inputs]
            for run_id in run_ids
            if (run := self._get_run(run_id)) is not None
        }

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

        Raises:
            SelectionError: One of ``run_ids`` does not exist.
        """
        wanted = list(dict.fromkeys([*run_ids, *optional]))
        missing = [id for id in wanted if self._spool.find(Run.kind, id) is None]
        fetched = dict(zip(missing, self._pool.map(self._get_run, missing), strict=True))
        found = [id for id in wanted if fetched.get(id) is not None or id not in fetched]
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
            if self._spool.find(LoggedModel.kind, model_id) is None:
                self._report.lose(
                    LoggedModel.kind,
                    model_id,
                    "a run names it and the server does not show it: it was deleted there",
                    parent=experiment_id,
                )

    def _search_logged_models(self, experiment_ids: list[str]) -> None:
        if not since(self._version, 3, 0):
            return
        query = {
            "experiment_ids": experiment_ids,
            "max_results": _MODELS_PER_PAGE,
            "order_by": [{"field_name": "creation_timestamp", "ascending": True}],
        }
        pages = self._session.iter_pages(
            "POST",
            f"{API}logged-models/search",
            query,
            type=records.RestLoggedModels,
            what="logged models",
        )
        try:
            for page in pages:
                models = [model.record() for model in page.models]
                self._spool.add(_row(model, model.experiment_id) for model in models)
        except ServerError as exc:
            if not self._session.is_absent(exc):
                raise

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
            answer: records.RestLoggedModelAnswer = self._session.get(
                f"{API}logged-models/{model_id}",
                type=records.RestLoggedModelAnswer,
                what=f"logged model {model_id}",
            )
        except ServerError as exc:
            if self._session.is_missing(exc):
                return None
            if exc.status is None:
                raise
            self._report.lose(LoggedModel.kind, model_id, exc.message)
            return None
        return answer.model.record()

    # The registry

    def _add_models(self, models: dict[str, RegisteredModel], selection: Selection) -> None:
        chosen: list[RegisteredModel] = []
        for model in models.values():
            if not selection.matches_model(model.name):
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
                    aliases=[a for a, n in model.aliases.items() if n == version.version],
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

    def iter_contents(self, *, listing_only: bool = False) -> Iterator[Content]:
        batches = ordered_prefetch(
            self._batches(),
            (lambda batch: None) if listing_only else self._start_batch,
            budget=_BATCHES_AHEAD,
        )
        listed = ordered_prefetch(self._units(batches), self._start_listing, budget=_LISTINGS_AHEAD)
        files = ordered_prefetch(
            self._files(listed),
            (lambda step: None) if listing_only else self._start_file,
            budget=_FILES_AHEAD_BYTES,
            cost=lambda step: step.cost,
            most=_FILES_AHEAD,
        )
        for step, _ in files:
            if step.file is not None:
                continue
            unit = step.unit
            yield Content(
                entity=unit.entity,
                artifacts=_PrefetchedTree(unit.trees[0], files) if unit.trees else NoArtifacts(),
                histories=unit.histories,
                version_artifacts={
                    number: _PrefetchedTree(tree, files)
                    for number, tree in unit.version_trees.items()
                },
            )
            if unit.last_of is not None:
                unit.last_of.close()

    def _batches(self) -> Iterator[list[Selected]]:
        """Consecutive runs of one experiment together, everything else alone."""
        batch: list[Selected] = []
        for row in self._spool.iterate():
            if batch and (
                row.kind != Run.kind
                or batch[0].kind != Run.kind
                or row.parent != batch[0].parent
                or len(batch) == _RUNS_PER_BATCH
            ):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _start_batch(self, batch: list[Selected]) -> HistoryBatch | None:
        if batch[0].kind != Run.kind:
            return None
        wanted = []
        for row in batch:
            run, estimates = _decode_run(row)
            wanted += [HistoryRequest(run.id, key, estimates[key]) for key in run.metric_keys]
        bulk_runs = 100 if since(self._version, 2, 11) else 20 if since(self._version, 2, 2) else 0
        return HistoryBatch(self._session, self._pool, wanted, bulk_runs=bulk_runs)

    def _units(
        self, batches: Iterable[tuple[list[Selected], HistoryBatch | None]]
    ) -> Iterator[_Unit]:
        for batch, histories in batches:
            if histories is not None:
                histories.wait()
            for row in batch:
                unit = self._unit(_decode(row), histories)
                if row is batch[-1]:
                    unit.last_of = histories
                yield unit

    def _unit(self, entity: Entity, batch: HistoryBatch | None) -> _Unit:
        unit = _Unit(entity=entity)
        if isinstance(entity, Run):
            run = entity
            if batch is not None:
                unit.histories = lambda: batch.histories(run.id)
                for key, reason in batch.failures(run.id):
                    self._report.lose(
                        Run.kind,
                        run.id,
                        reason,
                        field=f'metrics["{key}"]',
                        parent=run.info.experiment_id,
                    )
            unit.trees = [self._tree(run.info.artifact_uri, ArtifactOwner("run", run.id))]
        elif isinstance(entity, LoggedModel):
            owner = ArtifactOwner("logged_model", entity.id)
            unit.trees = [self._tree(entity.artifact_location, owner)]
        elif isinstance(entity, RegisteredModel) and not isinstance(entity, Prompt):
            self._report_lost_files(entity)
            unit.version_trees = {
                version.version: self._tree(
                    uri,
                    ArtifactOwner("model_version", f"{version.name}/{version.version}"),
                )
                # Directories sort as text: versions/10 comes before versions/2.
                for version in sorted(entity.versions, key=lambda v: str(v.version))
                if (uri := self._own_files(version)) is not None
            }
        return unit

    def _tree(self, uri: str, owner: ArtifactOwner) -> ArtifactTree:
        if self._policy != "copy" or not uri:
            return NoArtifacts(MODE_OF_POLICY[self._policy])
        return open_tree(self._session, uri, owner, self._roots)

    def _own_files(self, version: ModelVersion) -> str | None:
        """Where a version's files lie, unless a run or logged model that is moved holds them."""
        uri = version.storage_location or version.source
        if run_id_of(uri) is not None or uri.startswith("models:/") or not uri:
            return None
        model_id = logged_model_id_of(uri)
        if model_id is not None and self._spool.find(LoggedModel.kind, model_id) is not None:
            return None
        if version.run_artifact_uri and is_below(uri, version.run_artifact_uri):
            return None
        return uri

    def _report_lost_files(self, model: RegisteredModel) -> None:
        """List the versions whose files lay in a run or logged model that is gone."""
        for version in model.versions:
            model_id, run_id = logged_model_id_of(version.source), run_id_of(version.source)
            for kind, id in ((LoggedModel.kind, model_id), (Run.kind, run_id)):
                if id is not None and self._spool.find(kind, id) is None:
                    self._report.lose(
                        "model_version",
                        f"{version.name}/{version.version}",
                        f"its files belong to {kind.replace('_', ' ')} {id}, which was deleted",
                        field="artifacts",
                    )

    def _start_listing(self, unit: _Unit) -> None:
        unit.listings = [
            self._pool.submit(tree.files) for tree in [*unit.trees, *unit.version_trees.values()]
        ]

    def _files(self, listed: Iterable[tuple[_Unit, None]]) -> Iterator[_Step]:
        for unit, _ in listed:
            yield _Step(unit)
            for tree, listing in zip(
                [*unit.trees, *unit.version_trees.values()], unit.listings, strict=True
            ):
                if listing.exception() is None:
                    for file in listing.result():
                        yield _Step(unit, tree, file)

    def _start_file(self, step: _Step) -> None:
        if step.file is not None and step.is_small:
            step.data = self._pool.submit(_read_small, step)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._spool.close()


@dataclass(slots=True)
class _Unit:
    """One entity on its way through the pipeline."""

    entity: Entity
    trees: list[ArtifactTree] = field(default_factory=list)
    version_trees: dict[int, ArtifactTree] = field(default_factory=dict)
    histories: Callable[[], Iterable[Any]] = no_histories
    listings: list[Future[list[ArtifactFile]]] = field(default_factory=list)
    last_of: HistoryBatch | None = None
    """Histories that nobody needs after this unit."""


@dataclass(slots=True)
class _Step:
    """A unit, or one of its files, on its way through the pipeline."""

    unit: _Unit
    tree: ArtifactTree | None = None
    file: ArtifactFile | None = None
    data: Future[OpenedArtifact] | None = None

    @property
    def is_small(self) -> bool:
        return self.file is not None and (self.file.size is None or self.file.size <= SMALL_BYTES)

    @property
    def cost(self) -> int:
        if self.file is None or not self.is_small:
            return 0
        return self.file.size if self.file.size is not None else SMALL_BYTES


class _PrefetchedTree(ArtifactTree):
    """A tree whose small files are already on their way, in the order they are asked for."""

    def __init__(self, tree: ArtifactTree, steps: Iterator[tuple[_Step, None]]) -> None:
        self.mode = tree.mode
        self._tree = tree
        self._steps = steps

    def files(self) -> list[ArtifactFile]:
        return self._tree.files()

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        for step, _ in self._steps:
            if step.tree is self._tree and step.file == file:
                opened = step.data.result() if step.data is not None else self._tree.open(file)
                if file.size is not None and opened.size != file.size:
                    opened.stream.close()
                    raise SourceError(
                        f"{opened.size} bytes came, the server's listing says {file.size}",
                        status=502,
                    )
                return opened
        raise RuntimeError(f"artifact {file.path} was not asked for in path order")


def _read_small(step: _Step) -> OpenedArtifact:
    assert step.tree is not None
    assert step.file is not None
    return step.tree.open(step.file)


def _row(entity: Entity, parent: str, *, estimates: dict[str, int] | None = None) -> Selected:
    body = msgspec.msgpack.encode((entity, estimates or {}))
    path = layout.document_path(entity)
    return Selected(order_key(path), entity.kind, entity.id, parent, body)


def _decode(row: Selected) -> Entity:
    record: Any = RECORDS[row.kind]
    entity: Entity = msgspec.msgpack.decode(row.body, type=tuple[record, dict[str, int]])[0]
    return entity


def _decode_run(row: Selected) -> tuple[Run, dict[str, int]]:
    return msgspec.msgpack.decode(row.body, type=tuple[Run, dict[str, int]])


def _model_ids(runs: Iterable[Run]) -> list[str]:
    return [
        model_id
        for run in runs
        for model_id in (
            *(output.model_id for output in run.outputs.model_outputs),
            *(read.model_id for read in run.inputs.model_inputs),
        )
    ]


def _with_inputs(run: Run, model_ids: list[str]) -> Run:
    inputs = RunInputs(
        dataset_inputs=run.inputs.dataset_inputs,
        model_inputs=[ModelInput(model_id=model_id) for model_id in model_ids],
    )
    return msgspec.structs.replace(run, inputs=inputs)
