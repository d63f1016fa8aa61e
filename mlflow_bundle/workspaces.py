"""Moves several workspaces in one command: which of them go, to where, each on a way of its own.

A source and a sink know one workspace only. An export writes each of them inside the one bundle; an
import brings each to the workspace of its name, or to the one that a map says. Two of them never
come together unless the user named both.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from mlflow_bundle import layout
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.sink import BundleSink
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.bundles.tree import TreeReader
from mlflow_bundle.bundles.workspaces import naming, read_workspaces, workspace_view
from mlflow_bundle.contracts import (
    Content,
    FileReading,
    HistoryReading,
    Sink,
    Source,
    SourceInfo,
    Wanted,
)
from mlflow_bundle.entities import Entity, Experiment
from mlflow_bundle.errors import ConflictError, FormatError, SelectionError, ServerError
from mlflow_bundle.host import WorkspaceHost, iter_settings
from mlflow_bundle.importing import OnConflict
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE, Workspace
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import (
    Matches,
    Selection,
    names_selection,
    require_distinct,
    require_workspaces,
)
from mlflow_bundle.transfer import carry, examine, refuse_conflicts

OpenSource = Callable[[str | None], Source]
"""Opens a workspace of the source by name; None for a server without workspaces."""

OpenSink = Callable[[str | None, Report], Sink]
"""Opens a workspace of the destination, likewise."""


Afterwards = Callable[[Source, list[Loss], str | None], None]
"""Gets the source of a workspace, what its export lost, and its name at the destination."""


class EmptySource(Source):
    """Hands out nothing: stands for a workspace that is not exported."""

    def __init__(self, info: SourceInfo) -> None:
        self._info = info

    @property
    def info(self) -> SourceInfo:
        return self._info

    def select(self, selection: Selection, report: Report) -> None:
        """There is nothing to select."""

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        return iter(())

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        return iter(())


class _NothingThere(Sink):
    """Stands for a workspace that an import would make: nothing is in it."""

    reserved_kinds = ()

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        """Nothing is written."""

    def put(self, content: Content) -> None:
        raise NotImplementedError("only looked at")

    def finish(self) -> None:
        """Nothing was written."""


# Export


def choose(server: WorkspaceHost, selection: Selection) -> tuple[str, ...]:
    """Return the names of the workspaces that an export reads.

    Args:
        server: The source.
        selection: Its ``workspaces`` if it names some; else all for an export of everything, and
            ``default`` for any other.

    Raises:
        SelectionError: One does not exist.
    """
    asked = selection.workspaces
    if not server.enabled:
        if any(name != DEFAULT_WORKSPACE for name in asked):
            raise _no_workspaces(server)
        return (DEFAULT_WORKSPACE,)
    require_workspaces(asked, server.visible, where=server.shown_uri)
    if asked:
        return asked
    return tuple(server.visible) if selection.everything else (DEFAULT_WORKSPACE,)


def _no_workspaces(server: WorkspaceHost) -> SelectionError:
    return SelectionError(
        f"{server.shown_uri} has no workspaces",
        hint="leave out --workspace and unset MLFLOW_WORKSPACE",
    )


def export_workspaces(
    server: WorkspaceHost,
    names: Collection[str],
    sink: BundleSink,
    open_source: OpenSource,
    selection: Selection,
    report: Report,
    *,
    jobs: int,
    progress: Progress | None = None,
) -> None:
    """Write what is selected of each workspace but ``default`` into the bundle of ``sink``.

    A workspace that cannot be listed is a loss.

    Args:
        server: The source.
        names: As :func:`choose` returned.
        sink: Has everything of ``default``; is not finished.
        open_source: Opens a workspace; closed here.
        selection: What of each.
        report: Gets what is told of all.
        jobs: Entities at once.
        progress: Told of objects and bytes.

    Raises:
        ServerError: The server is away.
    """
    progress = progress or SilentProgress()
    for workspace in server.visible.values():
        if workspace.name not in names:
            continue
        if workspace.name == DEFAULT_WORKSPACE:
            if selection.everything and iter_settings(workspace):
                report.plan(WORKSPACE.name)
                if not report.dry_run:
                    sink.put(Content(entity=workspace))
            continue
        part = report.child()
        source = open_source(workspace.name)
        try:
            progress.start(f"listing workspace {workspace.name}")
            try:
                source.select(selection, part)
            except ServerError as exc:
                if exc.status is None:
                    raise
                report.lose(WORKSPACE.name, workspace.name, exc.message)
                continue
            report.plan(WORKSPACE.name)
            inner = sink.workspace(workspace, part)
            try:
                carry(source, inner, selection, part, jobs=jobs, progress=progress)
            finally:
                report.absorb(part, workspace=workspace.name)
        finally:
            source.close()


# Import


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Where the workspaces of a bundle go.

    Attributes:
        mapping: Name in the bundle to name at the destination (``--workspace-map``).
        in_use: ``MLFLOW_WORKSPACE``: where ``default`` goes if the mapping does not say.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    in_use: str = ""

    def of(self, name: str) -> str:
        """Return where a workspace goes."""
        return self.mapping.get(name) or (name == DEFAULT_WORKSPACE and self.in_use) or name

    def require_apart(self, names: Collection[str]) -> None:
        """Refuse workspaces that would come together although the mapping does not name them all.

        Raises:
            SelectionError: Two do.
        """
        sources: dict[str, list[str]] = {}
        for name in names:
            sources.setdefault(self.of(name), []).append(name)
        for target, together in sources.items():
            if len(together) > 1 and not all(name in self.mapping for name in together):
                said = " ".join(f"--workspace-map {name}={target}" for name in together)
                raise SelectionError(
                    f"workspaces {' and '.join(together)} would be imported into one, {target}",
                    hint=f"{said} says so; --workspace imports one of them; --workspace-map gives "
                    "each a place of its own",
                )


@dataclass(slots=True, kw_only=True)
class _Passage:
    """One workspace on its way into the destination."""

    workspace: Workspace
    source: Source
    report: Report
    prefix: str = ""
    """Where it lies in the bundle it comes from."""

    @property
    def name(self) -> str:
        return self.workspace.name

    @property
    def planned(self) -> Counter[str]:
        """Entities to come by kind, without what is not there."""
        return +self.report.planned


class _Arrival:
    """Brings workspaces to a destination, each to its place.

    Args:
        server: The destination.
        open_sink: Opens a workspace of the destination; closed here.
        report: Gets what is told of all.
        targets: Where workspaces go.
        on_conflict: As of an import; ``fail`` looks at every workspace before one is written.
    """

    def __init__(
        self,
        server: WorkspaceHost,
        open_sink: OpenSink,
        report: Report,
        *,
        targets: Targets = Targets(),
        on_conflict: OnConflict = "skip",
    ) -> None:
        self._server = server
        self._open_sink = open_sink
        self._report = report
        self._targets = targets
        self._on_conflict: OnConflict = on_conflict

    def _bring_all(
        self,
        passages: list[_Passage],
        selection: Selection,
        rename_experiments: Mapping[str, str],
        jobs: int,
        progress: Progress,
    ) -> list[_Passage]:
        """Bring what each source has selected; return those that went."""
        going = self._with_a_place(self._worth_going(passages, selection))
        self._require_not_deleted(going, rename_experiments)
        if self._on_conflict == "fail" and not self._report.dry_run:
            self._look(going, selection, jobs)
        for passage in going:
            self._bring(passage, selection, jobs, progress)
        return going

    @staticmethod
    def _worth_going(passages: list[_Passage], selection: Selection) -> list[_Passage]:
        """Leave out workspaces of which nothing is selected: none is made for nothing."""
        chosen = [
            passage
            for passage in passages
            if passage.planned
            or (
                selection.everything
                and (passage.name != DEFAULT_WORKSPACE or iter_settings(passage.workspace))
            )
        ]
        return chosen or passages[:1]

    def _with_a_place(self, passages: list[_Passage]) -> list[_Passage]:
        """Leave out, as losses, the workspaces that the destination has no place for."""
        if self._targets.in_use and not self._server.enabled:
            raise _no_workspaces(self._server)
        self._targets.require_apart([passage.name for passage in passages])
        if self._server.enabled:
            return passages
        going = []
        for passage in passages:
            if self._targets.of(passage.name) == DEFAULT_WORKSPACE:
                going.append(passage)
                continue
            content = ", ".join(
                f"{count} {kind.replace('_', ' ')}" + "s" * (count != 1)
                for kind, count in passage.planned.items()
            )
            self._report.plan(WORKSPACE.name)
            self._report.absorb(passage.report, workspace=passage.name)
            self._report.lose(
                WORKSPACE.name,
                passage.name,
                f"the destination has no workspaces, and {content or 'nothing'} lies in it; "
                f"--workspace-map {passage.name}={DEFAULT_WORKSPACE} would bring it into the one "
                "that there is",
            )
        return going

    def _require_not_deleted(self, passages: list[_Passage], renames: Mapping[str, str]) -> None:
        """Refuse an experiment that another workspace would have brought before it, as deleted.

        Raises:
            ConflictError: There is one.
        """
        targets = Counter(self._targets.of(passage.name) for passage in passages)
        first: dict[tuple[str, str], tuple[str, bool]] = {}
        for passage in passages:
            target = self._targets.of(passage.name)
            if targets[target] == 1:
                continue
            with naming(passage.prefix):
                for entity in passage.source.iter_entities(Experiment.kind):
                    assert isinstance(entity, Experiment)
                    name = renames.get(entity.name, entity.name)
                    is_deleted = entity.lifecycle_stage == "deleted"
                    before, was_deleted = first.setdefault(
                        (target, name), (passage.name, is_deleted)
                    )
                    if was_deleted and not is_deleted:
                        raise ConflictError(
                            f"experiment {name!r} of workspace {passage.name} would come into "
                            f"{target} after that of workspace {before}, which is deleted",
                            hint=f"bring {passage.name} before {before}, in a command of its "
                            f"own (--workspace {passage.name}), or give its experiments other "
                            "names there (--experiment-name-prefix)",
                        )

    def _look(self, passages: list[_Passage], selection: Selection, jobs: int) -> None:
        """Find every conflict before anything is written, with sinks that are of no other use.

        What two workspaces that come together have in common shows only when it is written.
        """
        found = self._report.child()
        for passage in passages:
            part = found.child()
            self._place(passage, selection, part, dry=True)
            with self._sink(passage, part) as sink, naming(passage.prefix):
                examine(passage.source, sink, selection, part, jobs=jobs)
            found.absorb(part, workspace=_shown(passage.name))
        refuse_conflicts(found)

    def _bring(
        self, passage: _Passage, selection: Selection, jobs: int, progress: Progress
    ) -> None:
        try:
            self._place(passage, selection, self._report, dry=self._report.dry_run)
        except ServerError as exc:
            if exc.status is None:
                raise
            self._report.lose(WORKSPACE.name, passage.name, exc.message)
            return
        part = passage.report
        try:
            with self._sink(passage, part) as sink, naming(passage.prefix):
                try:
                    carry(passage.source, sink, selection, part, jobs=jobs, progress=progress)
                except BaseException:
                    sink.abort()
                    raise
        finally:
            self._report.absorb(part, workspace=_shown(passage.name))

    def _place(self, passage: _Passage, selection: Selection, report: Report, *, dry: bool) -> None:
        """Make the workspace at the destination, or compare the one that is there."""
        workspace, target = passage.workspace, self._targets.of(passage.name)
        is_default = workspace.name == DEFAULT_WORKSPACE
        settings = iter_settings(workspace) if selection.everything or not is_default else []
        if not self._server.enabled:
            for field_name, _ in settings:
                self._without_settings(field_name, is_default, report)
            return
        if is_default and not settings and target in self._server.visible:
            return
        report.plan(WORKSPACE.name)
        self._server.place(workspace, target, report, on_conflict=self._on_conflict, dry=dry)

    @staticmethod
    def _without_settings(field_name: str, is_default: bool, report: Report) -> None:
        """Report a setting of a workspace at a server that has none."""
        if is_default:
            reason = "the destination has no workspaces"
            report.lose(WORKSPACE.name, DEFAULT_WORKSPACE, reason, field=field_name)
        else:
            report.adjust(WORKSPACE.name, f"{field_name} (mapped)")

    @contextlib.contextmanager
    def _sink(self, passage: _Passage, report: Report) -> Iterator[Sink]:
        target = self._targets.of(passage.name)
        if self._server.enabled and target not in self._server.visible:
            yield _NothingThere()  # it will be made
            return
        with contextlib.closing(
            self._open_sink(target if self._server.enabled else None, report)
        ) as sink:
            yield sink


class BundleImport(_Arrival):
    """An import of the workspaces of one bundle.

    Args:
        tree: The bundle; stays open.
        server: The destination.
        open_sink: Opens a workspace of the destination; closed here.
        report: Gets what is told of all.
        targets: Where workspaces go.
        name: What the user called the bundle.
        with_earlier_versions: As of :class:`BundleSource`.
        on_conflict: As of an import; ``fail`` looks at every workspace before one is written.
    """

    def __init__(
        self,
        tree: TreeReader,
        server: WorkspaceHost,
        open_sink: OpenSink,
        report: Report,
        *,
        targets: Targets = Targets(),
        name: str = "",
        with_earlier_versions: bool = False,
        on_conflict: OnConflict = "skip",
    ) -> None:
        super().__init__(server, open_sink, report, targets=targets, on_conflict=on_conflict)
        self._tree = tree
        self._name = name
        self._with_earlier_versions = with_earlier_versions

    def run(
        self,
        selection: Selection,
        *,
        rename_experiments: Mapping[str, str] = {},
        rename_models: Mapping[str, str] = {},
        then: Afterwards | None = None,
        jobs: int = 8,
        progress: Progress | None = None,
    ) -> None:
        """Bring what is selected of each workspace; names count in all of them.

        Args:
            selection: What to bring.
            rename_experiments: New names by old ones, which must exist in some workspace.
            rename_models: The same of registered models and prompts.
            then: Called for each workspace when all have arrived.
            jobs: Entities at once.
            progress: Told of objects and bytes.

        Raises:
            SelectionError: Something asked for is in no workspace, or two would come together.
            ConflictError: As of :func:`transfer`.
            ServerError: The destination could not be reached.
            FormatError: The bundle is damaged.
        """
        progress = progress or SilentProgress()
        passages: list[_Passage] = []
        try:
            progress.start("listing")
            self._select(selection, passages, rename_experiments, rename_models)
            self._tell_what_the_export_lost()
            going = self._bring_all(list(passages), selection, rename_experiments, jobs, progress)
            if then is not None:
                losses = self._losses_of_the_export
                for passage in going:
                    lost = [loss for loss in losses if loss.workspace == _shown(passage.name)]
                    target = self._targets.of(passage.name) if self._server.enabled else None
                    with naming(passage.prefix):
                        then(passage.source, lost, target)
        finally:
            progress.close()
            for passage in passages:
                passage.source.close()

    def _tell_what_the_export_lost(self) -> None:
        try:
            count = len(self._losses_of_the_export)
        except FormatError:
            return  # nothing that is brought depends on it
        if count:
            self._report.note(
                f"the export that made {self._name or 'the bundle'} lost {count}"
                f" thing{'s' * (count != 1)}, which cannot come from it: `mlflow bundle list` names"
                " what"
            )

    @cached_property
    def _losses_of_the_export(self) -> list[Loss]:
        if self._tree.find(layout.MANIFEST) is None:
            return []
        data = self._tree.read(layout.MANIFEST, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        return docs.decode(data, docs.ManifestDocument, path=layout.MANIFEST).losses

    def _select(
        self,
        selection: Selection,
        passages: list[_Passage],
        rename_experiments: Mapping[str, str],
        rename_models: Mapping[str, str],
    ) -> None:
        workspaces = read_workspaces(self._tree)
        names = [workspace.name for workspace in workspaces.values()]
        require_workspaces([*selection.workspaces, *self._targets.mapping], names, where=self._name)
        matches, all_names = Matches(), Matches()
        for prefix, workspace in workspaces.items():
            if selection.workspaces and workspace.name not in selection.workspaces:
                continue
            source = BundleSource(
                workspace_view(self._tree, prefix),
                name=self._name,
                with_earlier_versions=self._with_earlier_versions,
                matches=matches,
            )
            passage = _Passage(
                workspace=workspace, prefix=prefix, source=source, report=self._report.child()
            )
            passages.append(passage)
            with naming(prefix):
                source.check_renames(rename_experiments, rename_models, all_names)
                source.select(selection, passage.report)
        self._report.source = passages[0].source.info.uri
        renamed = names_selection(rename_experiments, rename_models)
        all_names.require(renamed, where=self._name)
        matches.require(selection, where=self._name)


class Copy(_Arrival):
    """Moves workspaces from one server or database to another, without a bundle between.

    Args:
        origin: Where they come from.
        open_source: Opens a workspace of it; closed here.
        server: The destination.
        open_sink: Opens a workspace of the destination; closed here.
        report: Gets what is told of all.
        targets: Where workspaces go.
        on_conflict: As of an import; ``fail`` looks at every workspace before one is written.
    """

    def __init__(
        self,
        origin: WorkspaceHost,
        open_source: OpenSource,
        server: WorkspaceHost,
        open_sink: OpenSink,
        report: Report,
        *,
        targets: Targets = Targets(),
        on_conflict: OnConflict = "skip",
    ) -> None:
        super().__init__(server, open_sink, report, targets=targets, on_conflict=on_conflict)
        self._origin = origin
        self._open_source = open_source

    def run(
        self,
        names: Collection[str],
        selection: Selection,
        *,
        rename_experiments: Mapping[str, str] = {},
        rename_models: Mapping[str, str] = {},
        jobs: int = 8,
        progress: Progress | None = None,
    ) -> None:
        """Bring what is selected of each workspace.

        Args:
            names: Those that are copied, as :func:`choose` returned them.
            selection: What to bring of each.
            rename_experiments: New names by old ones.
            rename_models: The same of registered models and prompts.
            jobs: Entities at once.
            progress: Told of objects and bytes.

        Raises:
            SelectionError: Something asked for does not exist, or two would come together.
            ConflictError: As of :func:`transfer`.
            ServerError: One of the two could not be reached.
        """
        progress = progress or SilentProgress()
        passages: list[_Passage] = []
        renamed = Matches()
        try:
            for workspace in self._workspaces(names):
                progress.start(f"listing workspace {workspace.name}")
                source = self._open_source(workspace.name if self._origin.enabled else None)
                passage = _Passage(workspace=workspace, source=source, report=self._report.child())
                passages.append(passage)
                source.select(selection, passage.report)
                _check_renames(source, rename_experiments, rename_models, renamed)
            self._report.source = self._origin.shown_uri
            renamed.require(
                names_selection(rename_experiments, rename_models), where=self._origin.shown_uri
            )
            self._bring_all(passages, selection, rename_experiments, jobs, progress)
        finally:
            progress.close()
            for passage in passages:
                passage.source.close()

    def _workspaces(self, names: Collection[str]) -> list[Workspace]:
        if not self._origin.enabled:
            return [Workspace(name=DEFAULT_WORKSPACE)]
        return [workspace for name, workspace in self._origin.visible.items() if name in names]


def _check_renames(
    source: Source, experiments: Mapping[str, str], models: Mapping[str, str], renamed: Matches
) -> None:
    """Tell ``renamed`` what is selected; refuse new names that make two things one."""
    if not experiments and not models:
        return
    held = [(e.id, e.name) for e in source.iter_entities("experiment") if isinstance(e, Experiment)]
    names = [
        entity.id for kind in layout.REGISTRY_DIRECTORY for entity in source.iter_entities(kind)
    ]
    renamed.add(experiments=held, models={name: {} for name in names})
    require_distinct("experiment", [name for _, name in held], experiments)
    require_distinct("model", names, models)


def _shown(name: str) -> str:
    """Name of a workspace as reports have it."""
    return "" if name == DEFAULT_WORKSPACE else name
