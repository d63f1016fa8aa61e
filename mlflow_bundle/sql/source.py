"""Reads entities from MLflow's database itself: everything that it holds, of any version from 2.0.

One consistent snapshot is read for the whole life of a source, and nothing is ever written.
Selecting puts the ids of everything asked for into a spool; handing out follows it in path order
and reads some hundreds of entities at a time, each with its histories and items, which stay in
memory up to a size and on disk past it. Contents therefore stay readable in any order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat, takewhile
from typing import Any, TypeVar

import msgspec
import sqlalchemy

from mlflow_bundle import layout
from mlflow_bundle.archive import order_key
from mlflow_bundle.contracts import (
    MODE_OF_POLICY,
    ArtifactFile,
    ArtifactPolicy,
    ArtifactTree,
    Content,
    FileReading,
    HistoryReading,
    NoArtifacts,
    OpenedArtifact,
    Source,
    SourceInfo,
    Wanted,
    no_histories,
    no_items,
)
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    Prompt,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import ServerError, SourceError
from mlflow_bundle.files_ahead import with_files_ahead
from mlflow_bundle.kinds import ALL_KINDS, KINDS
from mlflow_bundle.kinds.traces import TRACE
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.prefetch import ordered_prefetch
from mlflow_bundle.references import logged_model_id_of, run_id_of
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection, require_matches
from mlflow_bundle.side_process import LostProcessError
from mlflow_bundle.spool import Selected, Spool
from mlflow_bundle.spooled_points import SpooledPoints
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.point_process import PointProcess
from mlflow_bundle.sql.readers import (
    PLAIN_READERS,
    Chosen,
    ExperimentReader,
    Items,
    Listed,
    LoggedModelReader,
    Reader,
    Reading,
    Registry,
    RunPlace,
    RunReader,
)
from mlflow_bundle.sql.readers.points import read_points
from mlflow_bundle.sql.rows import Rows
from mlflow_bundle.sql.versions import is_unknown, version_of
from mlflow_bundle.version_files import lost_holders, own_locations

ResultT = TypeVar("ResultT")

OpenTree = Callable[[str], ArtifactTree]
"""Opens the artifact files at a location of the database."""

_ENTITIES_AT_ONCE = 200
_ENTITIES_FIRST = (100, 50, 50, 100)
"""The first batches are smaller: nothing can be written before they have come. A hundred entities
are asked for before the first is handed out (`files_ahead`)."""
_AHEAD = 8
"""What is read ahead: so many batches of entities, or a quarter of them of runs."""
_RUNS_COST = 4
_POINTS_AHEAD = 4
"""Batches whose points are read ahead of that: they take longest, and other kinds lie between."""
_BATCHES_SEEN = 200
"""How far that looks for them."""
_ROWS_AT_ONCE = 1000

_Key = tuple[str, str, str]
"""Kind, id, experiment."""

_IN_EXPERIMENTS = {
    Run.kind: "runs",
    LoggedModel.kind: "logged_models",
    TRACE.name: "trace_info",
}

_REGISTRY_KINDS = (RegisteredModel.kind, Prompt.kind)


class SqlSource(Source):
    """Source over one database.

    Args:
        uri: As MLflow takes it, e.g. ``sqlite:////srv/mlflow.db``.
        artifacts: Whether artifact files are handed out, or only where they lie.
        open_tree: Opens the artifact files at a location.
        objection: Says why none can be found, if that is known.
        workspace: The only workspace that is read; None for ``default``.
        include_secrets: Whether secrets are read, encrypted as they are.
        shared: The database, if others read the same state of it; it stays open.
        jobs: Artifacts that are read ahead at once.

    Raises:
        SelectionError: The URI cannot be used.
        SourceError: The database cannot be read.
    """

    random_access = True

    def __init__(
        self,
        uri: str,
        *,
        artifacts: ArtifactPolicy = "copy",
        open_tree: OpenTree,
        objection: Callable[[], str] = str,
        workspace: str | None = None,
        include_secrets: bool = False,
        shared: Database | None = None,
        jobs: int = 8,
    ) -> None:
        self._jobs = jobs
        self._held = contextlib.ExitStack()
        self._database = shared or Database(uri, error=SourceError)
        if shared is None:
            self._held.callback(self._database.close)
        try:
            connection = self._database.state
            if not self._database.has("experiments"):
                raise SourceError(
                    f"{self._database.shown_uri} holds nothing of MLflow's",
                    hint="is it the --backend-store-uri of your server?",
                )
        except BaseException:
            self._held.close()
            raise
        self._lock = self._database.reading
        self._policy = artifacts
        self._is_default = workspace in (None, DEFAULT_WORKSPACE)
        self._open_tree = open_tree
        self._objection = objection
        self._seen = _Seen()
        self._rows = Rows(self._database, connection, workspace or DEFAULT_WORKSPACE)
        self._spool = Spool()
        self._held.callback(self._spool.close)
        reading = Reading(
            rows=self._rows,
            lose=lambda *args, **fields: self._report.lose(*args, **fields),
            tree=self._tree,
            open_tree=_LateTree.opener(open_tree, self._seen),
            include_secrets=include_secrets,
        )
        self._runs = RunReader(reading)
        self._logged_models = LoggedModelReader(reading)
        self._plain = [reader(reading) for reader in PLAIN_READERS]
        self._readers: dict[str, Reader] = {
            reader.kind: reader
            for reader in (
                ExperimentReader(reading),
                self._runs,
                self._logged_models,
                *self._plain,
            )
        }
        self._registry = Registry(self._rows)
        self._models: dict[str, Listed] = {}
        self._experiments: dict[str, str] = {}
        """Id to name."""
        self._selection = Selection()
        self._report = Report()
        self._process: PointProcess | None = None
        self._has_points = False
        """Whether some points have been read."""
        self._failure: Exception | None = None
        """What ended the reading."""
        self._stopped = False
        """Whether nobody waits for points any more."""

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(uri=self._database.shown_uri, mlflow_version=version_of(self._database))

    # Selecting

    def select(self, selection: Selection, report: Report) -> None:
        with self._lock:
            self._report, self._selection = report, selection
            if is_unknown(self._database):
                report.lose(
                    "database",
                    self._database.shown_uri,
                    f"its schema (revision {self._database.revision}) is newer than what this "
                    "mlflow-bundle knows: what only its tables and columns hold was left out",
                )
            self._experiments = {
                str(id): name
                for id, name in self._rows.select("experiments", ("experiment_id", "name"))
            }
            self._models = self._registry.list() if self._names_models else {}
            self._require()
            chosen = [
                id
                for id, name in self._experiments.items()
                if selection.matches_experiment(id, name)
            ]
            self._add(Experiment.kind, ((id, "") for id in chosen))
            self._add_runs_of(chosen)
            self._add_named_runs()
            self._add_models()
            asked = self._chosen(chosen)
            for reader in self._plain:
                self._add(reader.kind, reader.select(asked))
            if selection.everything and self._is_default:
                self._lose_orphans()
        for kind in ALL_KINDS:
            count = self._spool.count(kind)
            if count or kind not in KINDS:
                report.plan(kind, count)

    def _lose_orphans(self) -> None:
        """List what is in no experiment: SQLite does not keep anybody from making such rows."""
        ids = sqlalchemy.select(self._rows.table("experiments").c.experiment_id)
        for kind, table in _IN_EXPERIMENTS.items():
            if not self._rows.has(table, "experiment_id"):
                continue
            column = self._rows.table(table).c.experiment_id
            count = sqlalchemy.select(sqlalchemy.func.count()).where(column.not_in(ids))
            ((number,),) = [row for rows in self._rows.stream(count) for row in rows]
            if number:
                self._report.lose(
                    kind, "unknown", f"{number} rows of {table} name an experiment that is gone"
                )

    @property
    def _names_models(self) -> bool:
        return self._selection.everything or bool(self._selection.models)

    def _require(self) -> None:
        require_matches(
            self._selection,
            experiments=list(self._experiments.items()),
            models={
                name: {number: model.aliases_of(number) for number in model.versions}
                for name, model in self._models.items()
            }
            if self._selection.models
            else None,
            where=self._database.shown_uri,
        )

    def _chosen(self, experiment_ids: Iterable[str]) -> Chosen:
        return Chosen(
            experiment_ids=[int(id) for id in experiment_ids],
            whole_server=self._selection.everything,
            selection=self._selection,
        )

    def _add(self, kind: str, ids: Iterable[tuple[str, str]]) -> None:
        rows = (
            Selected(order_key(layout.document_path_of(kind, id, parent)), kind, id, parent, b"")
            for id, parent in ids
        )
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            self._spool.add(some)

    def _add_with_experiments(self, kind: str, ids: Iterable[tuple[str, str]]) -> None:
        """Add entities that lie in any experiment of this workspace, with the experiments."""
        found = [(id, parent) for id, parent in ids if parent in self._experiments]
        self._add(kind, found)
        self._add(Experiment.kind, {(parent, "") for _, parent in found})

    def _add_runs_of(self, experiment_ids: Sequence[str]) -> None:
        """Add the runs of experiments in the window, and the logged models."""
        asked = self._chosen(experiment_ids)
        self._add(Run.kind, self._runs.select(asked))
        if not self._selection.has_window:
            self._add(LoggedModel.kind, self._logged_models.select(asked))
        self._add_linked_models()

    def _add_linked_models(self) -> None:
        """Add the logged models that the selected runs read and made."""
        runs = self._spool.iterate(Run.kind)
        while some := [row.id for row in islice(runs, _ROWS_AT_ONCE)]:
            self._add_logged_models(self._runs.linked_models(some))

    def _add_logged_models(self, model_ids: Iterable[str]) -> None:
        missing = [id for id in dict.fromkeys(model_ids) if not self._has(LoggedModel.kind, id)]
        self._add_with_experiments(LoggedModel.kind, self._logged_models.find(missing))

    def _has(self, kind: str, id: str) -> bool:
        return self._spool.find(kind, id) is not None

    def _add_named_runs(self) -> None:
        """Add the runs that are named by id.

        Raises:
            SelectionError: One does not exist.
        """
        run_ids = list(dict.fromkeys(self._selection.run_ids))
        found = [(id, at) for id, at in self._runs.find(run_ids) if at in self._experiments]
        require_matches(
            Selection(run_ids=() if self._selection.lenient else self._selection.run_ids),
            run_ids=[id for id, _ in found],
            where=self._database.shown_uri,
        )
        self._add_with_experiments(Run.kind, found)
        if found:
            self._add_linked_models()

    def _add_models(self) -> None:
        chosen: dict[str, list[int]] = {}
        for name, model in self._models.items():
            aliases = {number: model.aliases_of(number) for number in model.versions}
            if self._selection.takes_model(name, aliases):
                chosen[name] = [
                    number
                    for number, stage in sorted(model.versions.items())
                    if self._selection.matches_version(
                        name, number, stage=stage, aliases=aliases[number]
                    )
                ]
        self._add_needs(chosen)
        for name, numbers in chosen.items():
            kind = self._models[name].kind
            path = layout.document_path_of(kind, name, "")
            body = msgspec.msgpack.encode(numbers)
            self._spool.add([Selected(order_key(path), kind, name, "", body)])
            self._report.plan(VERSION_KIND[kind], len(numbers))

    def _add_needs(self, chosen: dict[str, list[int]]) -> None:
        """Add what versions depend on."""
        run_ids: set[str] = set()
        model_ids: set[str] = set()
        for run_id, source in self._registry.needs(chosen):
            run_ids.update(id for id in (run_id, run_id_of(source)) if id)
            model_ids.update(id for id in (logged_model_id_of(source),) if id)
        missing = [id for id in sorted(run_ids) if not self._has(Run.kind, id)]
        self._add_with_experiments(Run.kind, self._runs.find(missing))
        self._add_logged_models(sorted(model_ids))
        if missing:
            self._add_linked_models()
        if self._selection.export_all_runs:
            found = {row.parent for id in run_ids if (row := self._spool.find(Run.kind, id))}
            self._add_runs_of(sorted(found))

    # Handing out

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        rows = self._spool.iterate(kind)
        while batch := list(islice(rows, _ENTITIES_AT_ONCE)):
            with self._lock:
                found = self._read(batch)
            for row in batch:
                if (entity := found.get(_key(row))) is not None:
                    yield entity

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        contents = self._iter_contents(files, wanted, histories=histories)
        if files != "ahead":
            yield from contents
            return
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="mlflow-bundle-files") as pool:
            pairs = ((content, None) for content in contents)
            for content, _ in with_files_ahead(pairs, pool, files=files):
                yield content

    def _iter_contents(
        self, files: FileReading, wanted: Wanted | None, *, histories: HistoryReading
    ) -> Iterator[Content]:
        rows = (row for row in self._spool.iterate() if self._is_wanted(row, wanted))
        sizes = chain(_ENTITIES_FIRST, repeat(_ENTITIES_AT_ONCE))
        batches = takewhile(bool, (list(islice(rows, size)) for size in sizes))
        self._stopped, self._failure = False, None
        if histories not in (False, "items"):
            self._start_process(encoded=histories == "encoded")
        with (
            ThreadPoolExecutor(1, thread_name_prefix="mlflow-bundle-points") as points_pool,
            ThreadPoolExecutor(1, thread_name_prefix="mlflow-bundle-read") as pool,
        ):
            # The driver reads one batch while the batch before it is written.
            with_points = ordered_prefetch(
                batches,
                lambda batch: (
                    self._submit(points_pool, self._read_points, batch)
                    if histories not in (False, "items")
                    else None
                ),
                budget=_POINTS_AHEAD,
                cost=lambda batch: int(_has_runs(batch)),
                most=_BATCHES_SEEN,
            )
            readings = ordered_prefetch(
                with_points,
                lambda pair: self._submit(pool, self._read_batch, pair[0], histories),
                budget=_AHEAD,
                cost=lambda pair: _RUNS_COST if _has_runs(pair[0]) else 1,
            )
            try:
                for (batch, reading_points), reading in readings:
                    found, items = reading.result()
                    points = reading_points.result() if reading_points is not None else None
                    for row in batch:
                        if (entity := found.get(_key(row))) is not None:
                            yield self._content(entity, row, points, items, files)
            except BaseException as exc:
                # Nobody waits for what is still being read.
                for each in (points_pool, pool):
                    each.shutdown(wait=False, cancel_futures=True)
                self._stop_process()
                if isinstance(exc, Exception) and self._failure is not None:
                    raise self._failure from None
                raise

    def _is_wanted(self, row: Selected, wanted: Wanted | None) -> bool:
        is_wanted = wanted is None or wanted(row.kind, row.id, row.parent)
        self._seen.everything &= is_wanted
        return is_wanted

    def _submit(
        self, pool: ThreadPoolExecutor, read: Callable[..., ResultT], *args: Any
    ) -> Future[ResultT]:
        """Read something in a pool; what fails first is kept: the rest only follows from it."""

        def noting() -> ResultT:
            try:
                return read(*args)
            except Exception as exc:
                self._failure = self._failure or exc
                raise

        return pool.submit(noting)

    def _read_batch(
        self, batch: Sequence[Selected], histories: HistoryReading
    ) -> tuple[dict[_Key, Entity], dict[str, Items]]:
        """Read entities, and if asked for the items of those that have some."""
        with self._lock:
            return self._read(batch), self._read_items(batch, histories) if histories else {}

    def _read(self, batch: Sequence[Selected]) -> dict[_Key, Entity]:
        """Read entities, whatever their kinds, by kind, id and experiment."""
        entities: list[Entity] = []
        for kind, wanted in _by_kind(batch).items():
            if kind in _REGISTRY_KINDS:
                entities += self._read_models(wanted)
            else:
                entities += self._readers[kind].read(wanted)
        return {(e.kind, e.id, layout.parent_of(e)): e for e in entities}

    def _read_models(self, wanted: Sequence[Selected]) -> Iterator[RegisteredModel]:
        names = [row.id for row in wanted]
        numbers = {row.id: msgspec.msgpack.decode(row.body, type=list[int]) for row in wanted}
        run_ids = {run_id for run_id, _ in self._registry.needs(numbers) if run_id}
        runs = [row for id in sorted(run_ids) if (row := self._spool.find(Run.kind, id))]
        places = {
            id: RunPlace(experiment_id, self._experiments.get(experiment_id), uri)
            for id, experiment_id, uri in self._runs.places(runs)
        }
        kinds = {row.id: row.kind for row in wanted}
        return self._registry.read(names, kinds, self._selection, numbers, places)

    def _read_items(self, batch: Sequence[Selected], histories: HistoryReading) -> dict[str, Items]:
        """Read the items of everything that has some, by kind."""
        found: dict[str, Items] = {}
        for kind, wanted in _by_kind(batch).items():
            is_left_out = histories == "items" and kind in KINDS and KINDS[kind].has_many_items
            if kind not in _REGISTRY_KINDS and not is_left_out:
                items = self._readers[kind].read_items(wanted)
                if items is not None:
                    found[kind] = items
        return found

    def _start_process(self, *, encoded: bool) -> None:
        """Let another process read points where there are many, and the database allows it."""
        if self._process is None and self._spool.count(Run.kind) > _ENTITIES_AT_ONCE:
            with contextlib.suppress(LostProcessError):
                self._process = PointProcess(self._database, encoded=encoded)
                self._held.callback(self._process.close)
        if self._process is None:
            self._database.settle()

    def _stop_process(self) -> None:
        self._stopped = True
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _read_points(self, batch: Sequence[Selected]) -> SpooledPoints | None:
        """Read every point of the runs."""
        run_ids = [row.id for row in batch if row.kind == Run.kind]
        if not run_ids or self._stopped:
            return None
        points = SpooledPoints()
        process = self._process
        is_first, self._has_points = not self._has_points, True
        if is_first and process is not None and not process.is_open():
            process = None  # nothing is written before these have come
        if process is not None:
            try:
                process.read(run_ids, points)
            except LostProcessError:
                if self._stopped:
                    return None
                self._process = process = None
                self._database.settle()
                points = SpooledPoints()
        if process is None:

            def add(*some: Any) -> None:
                if self._stopped:
                    raise CancelledError
                points.add(*some)

            with self._lock:
                read_points(self._rows, run_ids, add)
        return points

    def _content(
        self,
        entity: Entity,
        row: Selected,
        points: SpooledPoints | None,
        items: dict[str, Items],
        files: FileReading,
    ) -> Content:
        tree: ArtifactTree | None = None
        trees: dict[int, ArtifactTree] = {}
        self._seen.models += isinstance(entity, LoggedModel) and entity.status == "READY"
        if isinstance(entity, RegisteredModel):
            if not isinstance(entity, Prompt) and files != "none":
                self._seen.models += len(entity.versions)
                self._report_lost_files(entity)
                trees = {
                    version.version: self._tree(uri)
                    for version, uri in own_locations(entity, self._has)
                }
        else:
            tree = self._readers[entity.kind].tree(entity) if files != "none" else None
        of_kind = items.get(entity.kind)
        return Content(
            entity=entity,
            artifacts=tree or NoArtifacts(),
            histories=no_histories if points is None else partial(points.histories, row.id),
            encoded_histories=None if points is None else partial(points.as_added, row.id),
            items=(lambda: of_kind(row.id, row.parent)) if of_kind else no_items,
            version_artifacts=trees,
        )

    def _tree(self, location: str) -> ArtifactTree:
        if self._policy != "copy" or not location:
            return NoArtifacts(MODE_OF_POLICY[self._policy])
        return _LateTree(self._open_tree, location, self._seen)

    def conclude(self) -> None:
        # A wrong place for artifacts looks like one where nobody has logged any.
        if not (self._seen.trees and self._seen.everything) or self._seen.files:
            return
        reason = "no artifacts at all were found where the database says that they are"
        advice = "--artifacts-destination, or this machine, is not that of the server"
        if objection := self._objection():
            reason = f"{reason}: {objection}"
        elif self._seen.models:
            reason = f"{reason}, and models have some: {advice}"
        else:
            self._report.note(f"{reason}: if there are some, {advice}")
            return
        self._report.lose("database", self._database.shown_uri, reason, field="artifacts")

    def _report_lost_files(self, model: RegisteredModel) -> None:
        """List the versions whose files lay in a run or logged model that is gone."""
        for version_id, kind, id in lost_holders(model, self._has):
            self._report.lose(
                "model_version",
                version_id,
                f"its files belong to {kind.replace('_', ' ')} {id}, which was deleted for good",
                field="artifacts",
            )

    def close(self) -> None:
        self._stop_process()
        self._held.close()


@dataclass(slots=True)
class _Seen:
    """What was found of artifacts."""

    trees: int = 0
    files: int = 0
    models: int = 0
    """Logged models that are ready and model versions: they have files."""
    everything: bool = True
    """Whether all that was selected was looked at."""


class _LateTree(ArtifactTree):
    """A tree that is opened at the first question: one that cannot be is its owner's loss."""

    def __init__(self, open_tree: OpenTree, location: str, seen: _Seen) -> None:
        self._open_tree = open_tree
        self._location = location
        self._seen = seen
        self._tree: ArtifactTree | None = None

    @classmethod
    def opener(cls, open_tree: OpenTree, seen: _Seen) -> OpenTree:
        """Return what opens trees late."""
        return lambda location: cls(open_tree, location, seen)

    @property
    def is_near(self) -> bool:  # type: ignore[override]
        try:
            return self._opened().is_near
        except ServerError:
            return True  # who lists it will be told

    def _opened(self) -> ArtifactTree:
        if self._tree is None:
            self._tree = self._open_tree(self._location)
        return self._tree

    def files(self) -> list[ArtifactFile]:
        files = self._opened().files()
        self._seen.trees += 1
        self._seen.files += len(files)
        return files

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        return self._opened().open(file)


def _has_runs(batch: Sequence[Selected]) -> bool:
    return any(row.kind == Run.kind for row in batch)


def _by_kind(batch: Sequence[Selected]) -> dict[str, list[Selected]]:
    found: dict[str, list[Selected]] = {}
    for row in batch:
        found.setdefault(row.kind, []).append(row)
    return found


def _key(row: Selected) -> _Key:
    return row.kind, row.id, row.parent
