"""Writes entities into MLflow's database itself: ids, times, users and numbers are kept.

The database must have the schema of the installed MLflow, whose server will read it; one that holds
nothing gets it. An entity's files are written first, then its rows in one transaction with those of
others (`sql/batch.py`): after a crash each entity is there as a whole or not at all, and a
repetition adds what is missing. An entity is found by its id; where that is taken by another one,
by the tag ``mlflow_bundle.origin`` that comes with a new id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.schema import sort_tables

from mlflow_bundle.contracts import Content, Sink, SourceInfo
from mlflow_bundle.entities import Entity, Experiment, PlainEntity
from mlflow_bundle.errors import ConflictError, ServerError
from mlflow_bundle.importing import Importing, ImportOptions
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.locations import Locations
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.batch import Batch, Owner
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.file_process import FileProcess
from mlflow_bundle.sql.preparing import writable
from mlflow_bundle.sql.rollups import RollupQueue
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.versions import is_unknown
from mlflow_bundle.sql.writers import RESERVED, make_writers
from mlflow_bundle.sql.writers.experiments import ExperimentWriter
from mlflow_bundle.users import map_users

_LARGE_TABLES = ("datasets", "logged_models", "registered_models", "runs", "trace_info")
"""Tables that are not searched when they held nothing before."""

_LEAVES = (
    "metrics",
    "params",
    "span_metrics",  # refers to spans
    "spans",
    "tags",
    "trace_request_metadata",
    "trace_tags",
)
"""The longest tables, to which no others refer."""


class SqlSink(Sink):
    """Sink over one database of MLflow's.

    Args:
        uri: Tracking URI.
        report: Counts what is written.
        options: What the user asked of the import.
        artifact_store: Where files go.
        workspace: The workspace that is written to; None for the default one.
        jobs: Files of an entity at once.
        progress: Told of objects and bytes.
        include_secrets: Whether secrets come as the source has encrypted them.

    Raises:
        SelectionError: The URI or the artifact store cannot be used.
        SinkError: The database cannot be reached, is of another MLflow, or is being imported into.
    """

    reserved_kinds = RESERVED

    def __init__(
        self,
        uri: str,
        report: Report,
        *,
        options: ImportOptions,
        artifact_store: ArtifactStore,
        workspace: str | None = None,
        jobs: int = 8,
        progress: Progress | None = None,
        include_secrets: bool = False,
    ) -> None:
        self.takes_files = options.artifacts == "copy"
        if self.takes_files:
            artifact_store.require_writable()
        self._locations = Locations(options.rewrite_locations)
        with contextlib.ExitStack() as opened:
            database = opened.enter_context(writable(uri, dry=report.dry_run))
            connection = opened.enter_context(_connected(database))
            files = ThreadPoolExecutor(jobs, thread_name_prefix="mlflow-bundle-upload")
            opened.callback(files.shutdown, wait=True, cancel_futures=True)
            beside = FileProcess(jobs)
            opened.callback(beside.close)
            remap = Remap()
            opened.callback(remap.close)

            def lose(owner: Owner, field: str, reason: str) -> None:
                report.lose(owner.kind, owner.id, reason, field=field)

            def uncount(kind: str, count: int) -> None:
                report.did(kind, -count)

            batch = Batch(
                connection,
                database.dialect,
                sort_tables(database.tables.values()),
                lose=lose,
                uncount=uncount,
                failed=database.failure,
            )
            opened.callback(batch.close)
            self._to = Target(
                report=report,
                remap=remap,
                options=options,
                progress=progress or SilentProgress(),
                files=files,
                write_beside=beside.write,
                database=database,
                batch=batch,
                store=artifact_store,
                workspace=workspace or DEFAULT_WORKSPACE,
                include_secrets=include_secrets,
            )
            self._rollups = RollupQueue()
            self._writers = make_writers(self._to, self._rollups)
            for writer in self._writers.values():
                opened.callback(writer.close)
            self._opened = opened.pop_all()
        self._settled = True
        self._restore: Callable[[], None] = _nothing

    @property
    def shown_uri(self) -> str:
        """The database's URI without credentials."""
        return self._to.database.shown_uri

    @property
    def _experiments(self) -> ExperimentWriter:
        writer = self._writers[Experiment.kind]
        assert isinstance(writer, ExperimentWriter)
        return writer

    @property
    def importing(self) -> Importing:
        """This import, with the new ids."""
        return self._to

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        database = self._to.database
        if is_unknown(database):
            self._to.report.note(
                f"{database.shown_uri} has a schema (revision {database.revision}) that is newer "
                "than this mlflow-bundle knows: tables and columns that came with it stay empty"
            )
        with database.errors():
            for name in _LARGE_TABLES:
                one = sqlalchemy.select(sqlalchemy.literal(1)).select_from(self._to.table(name))
                if self._to.connection.execute(one.limit(1)).first() is None:
                    self._to.empty.add(name)
            self._unindex()

    def _unindex(self) -> None:
        """Leave indexes for the end where everything is new: then it is one transaction."""
        dialect = self._to.database.dialect
        is_new = self._to.empty.issuperset(_LARGE_TABLES)
        if self._to.report.dry_run or not (is_new and dialect.rolls_back_tables):
            return
        self._to.batch.hold()
        tables = [self._to.table(name) for name in _LEAVES]
        self._restore = dialect.unindexed(self._to.connection, tables)

    def _complete(self) -> None:
        """Commit what is whole, with its indexes."""
        self._restore()
        self._restore = _nothing
        self._to.batch.release()
        self._to.batch.commit()

    # Places

    def reserve(self, entity: Entity, *, dry: bool = False) -> None:
        if isinstance(entity, Experiment):
            self._settled = False
        else:
            self._settle()
        with self._to.database.errors():
            try:
                self._writers[entity.kind].reserve(self._mapped(entity), dry=dry)
            except ConflictError:
                raise
            except ServerError:
                self._to.failed.add((entity.kind, entity.id))
                raise

    def _settle(self) -> None:
        """Give ids to the experiments that have to wait for them."""
        if not self._settled:
            self._settled = True
            with self._to.database.errors():
                self._experiments.settle()

    def _mapped(self, entity: Entity) -> Entity:
        """Return an entity with the users and the locations that it has here."""
        if isinstance(entity, PlainEntity):
            entity = map_users(entity, self._to.options.users)
        return self._locations.map(entity) if self._locations else entity

    # Contents

    def examine(self, content: Content) -> None:
        self._settle()
        with self._to.database.errors():
            self._writers[content.entity.kind].write(self._as_here(content), dry=True)

    def put(self, content: Content) -> None:
        self._settle()
        with self._to.database.errors():
            self._writers[content.entity.kind].write(self._as_here(content), dry=False)
        self._to.progress.advance(1)

    def _as_here(self, content: Content) -> Content:
        """Return an entity and its items with the users and the locations that they have here."""
        users = self._to.options.users
        if users and isinstance(content.entity, PlainEntity):
            items = content.items
            content = replace(content, items=lambda: (map_users(item, users) for item in items()))
        entity = self._mapped(content.entity)
        return content if entity is content.entity else replace(content, entity=entity)

    def finish(self) -> None:
        self._settle()
        with self._to.database.errors():
            self._to.batch.commit()
            for writer in self._writers.values():
                writer.finish()
            self._experiments.make_default()
            self._complete()
            table = self._to.table("experiments")
            self._to.database.dialect.set_sequences(self._to.connection, [table])
        self._rollups.enqueue(self._to.database)
        for old in self._locations.unused:
            self._to.report.note(f"--rewrite-location: no location begins with {old}")

    def abort(self) -> None:
        # What is whole is kept: it need not be brought again.
        with contextlib.suppress(ServerError), self._to.database.errors():
            self._to.batch.give_up()
            self._complete()

    def close(self) -> None:
        self._opened.close()


def _nothing() -> None:
    """Restores nothing."""


@contextlib.contextmanager
def _connected(database: Database) -> Iterator[Connection]:
    """Open the connection that is written through; transactions are the batch's own."""
    with database.errors(), database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        database.dialect.prepare(connection, database.tables.values())
        yield connection
