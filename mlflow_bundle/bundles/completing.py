"""An export that lost something, made whole: the old bundle and its source, read as one source.

What is whole in the old bundle is copied from it. Only what its manifest lists as lost is fetched:
an entity of which nothing but files is lost keeps its document and its other files. With what was
lost comes what only it tells of: logged models that a run names, the links of traces to it. A loss
that the source does not mend stays a loss. What appeared at the source since, and never was lost,
is not fetched: that is for a new export.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from mlflow_bundle import layout
from mlflow_bundle.archive import escape_path, order_key
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.opening import open_tree
from mlflow_bundle.bundles.resume import require_same_export
from mlflow_bundle.bundles.sink import ExportOptions
from mlflow_bundle.bundles.source import BundleSource, read_header
from mlflow_bundle.bundles.workspaces import read_workspaces, workspace_view
from mlflow_bundle.contracts import (
    ArtifactFile,
    ArtifactTree,
    Content,
    FileReading,
    HistoryReading,
    NoArtifacts,
    OpenedArtifact,
    Source,
    SourceInfo,
    Wanted,
)
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    Prompt,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import SelectionError, ServerError, SourceError
from mlflow_bundle.kinds import ALL_KINDS
from mlflow_bundle.kinds.skills import SKILL, whole_id
from mlflow_bundle.kinds.traces import TRACED_MODEL, Trace
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE
from mlflow_bundle.references import logged_model_id_of, run_id_of
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import Selection

_ALL = ("all", "unknown")
"""Ids of losses that name no single entity."""
_REGISTRY_OF_VERSION = {version: kind for kind, version in VERSION_KIND.items()}
_LATER = (Run.kind, Trace.kind, LoggedModel.kind, Experiment.kind)
"""Kinds that are looked at last, in this order: earlier ones name them, or lie in them."""
_ORDER = (*(kind for kind in ALL_KINDS if kind not in _LATER), *_LATER)
_VERSION_FILE = re.compile(r"(.+?)/[0-9]+/.", re.DOTALL)

_ItemT = TypeVar("_ItemT")
_Key = tuple[str, str]
"""Kind and id."""


class OldExport:
    """A bundle whose losses are to be mended.

    Args:
        path: As of :func:`open_tree`.

    Raises:
        BundleError: It cannot be read.
        FormatError: It is damaged.
        SelectionError: It lists no losses.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._tree = open_tree(path)
        self._header = read_header(self._tree)
        data = self._tree.read(layout.MANIFEST, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        manifest = docs.decode(data, docs.ManifestDocument, path=layout.MANIFEST)
        self._adjustments = manifest.adjustments
        self._losses: dict[str, list[Loss]] = defaultdict(list)
        for loss in manifest.losses:
            self._losses[loss.workspace or DEFAULT_WORKSPACE].append(loss)
        self._prefixes = {w.name: p for p, w in read_workspaces(self._tree).items()}
        if not self._losses:
            self.close()
            raise SelectionError(f"{path} lists no losses: there is nothing to complete")

    def require_same(self, uri: str, selection: Selection, options: ExportOptions) -> None:
        """Refuse another source, another selection or other options.

        Raises:
            SelectionError: They are not those of the old export.
        """
        require_same_export(
            f"{self._path} is an export",
            self._header,
            uri=mask_uri(uri),
            selection=selection.to_json(),
            options=options.to_json(),
            hint="--complete needs the server, selection and options of the old export",
        )

    def choose(self, names: tuple[str, ...], report: Report) -> tuple[str, ...]:
        """Leave out workspaces that the old export neither holds nor lost.

        Args:
            names: Those that there are.
            report: Told of those that stay lost.

        Raises:
            SelectionError: The old export holds one that is not among ``names``.
        """
        gone = [name for name in self._prefixes if name not in names and name != DEFAULT_WORKSPACE]
        if gone:
            raise SelectionError(
                f"{self._path} holds workspace {gone[0]!r}, which the server no longer shows"
            )
        losses = [loss for loss in self._losses[DEFAULT_WORKSPACE] if loss.kind == WORKSPACE.name]
        for loss in losses:
            if loss.id not in names:
                report.lose_again(loss)
        lost = {loss.id for loss in losses}
        return tuple(name for name in names if name in self._prefixes or name in lost)

    def source(self, workspace: str | None, fresh: Source) -> Source:
        """Return what completes a workspace.

        Args:
            workspace: Its name; None for a server without workspaces.
            fresh: The server's; closed with the result. A workspace that was lost as a whole is
                this one alone.
        """
        name = workspace or DEFAULT_WORKSPACE
        prefix = self._prefixes.get(name)
        if prefix is None:
            return fresh
        old = BundleSource(workspace_view(self._tree, prefix), name=self._path)
        losses = [loss for loss in self._losses[name] if loss.kind != WORKSPACE.name]
        return CompletedSource(old, fresh, losses)

    def report_adjustments(self, report: Report) -> None:
        """Count the adjustments of the old export, which nothing in its documents tells."""
        for name, count in self._adjustments.items():
            kind, _, field = name.partition(".")
            report.adjust(kind, field, count)

    def close(self) -> None:
        """Close the bundle."""
        self._tree.close()


class CompletedSource(Source):
    """What an old export holds, and what it lost and its source has.

    Args:
        old: Everything of it is handed out; closed with this.
        fresh: Its source, of which only losses are fetched; closed with this.
        losses: Those of the old export.
    """

    def __init__(self, old: BundleSource, fresh: Source, losses: list[Loss]) -> None:
        self._old = old
        self._fresh = fresh
        self._lost: dict[_Key, list[Loss]] = defaultdict(list)
        self._lost_kinds: dict[str, bool] = {}
        self._losses = losses
        for loss in losses:
            if loss.id in _ALL:
                # Of those that are there a part may be missing, if the loss names a field.
                is_of_field = bool(loss.field) or self._lost_kinds.get(loss.kind, False)
                self._lost_kinds[loss.kind] = is_of_field
            for key in _owners(loss):
                self._lost[key].append(loss)
        self._fetched: set[_Key] = set()
        self._relinks = False
        """Whether traces may be linked to something that was lost."""

    @property
    def info(self) -> SourceInfo:
        return self._fresh.info

    @property
    def requests(self) -> int:
        return self._fresh.requests

    def select(self, selection: Selection, report: Report) -> None:
        self._old.select(Selection.all(), report)
        unseen = _OfLosses(report, self)
        self._fresh.select(selection, unseen)
        parents: set[str] = set()
        named: set[_Key] = set()
        for kind in _ORDER:
            for entity in self._fresh.iter_entities(kind):
                key, parent = (kind, entity.id), layout.parent_of(entity)
                # Not by its id: scorers of several experiments may have one name.
                is_new = not self._old.selects_document(layout.document_path(entity))
                is_parent = kind == Experiment.kind and entity.id in parents
                needed = is_new and (is_parent or key in named)
                if needed or self._is_lost(key, parent, is_new=is_new):
                    self._fetched.add(key)
                    parents.add(parent)
                    report.plan(kind, int(is_new))
                    if not self._takes_old_document(key):
                        named.update(_named_by(entity))
                        self._relinks |= kind == Prompt.kind or (kind == Run.kind and is_new)
        for loss in self._losses:
            if loss.id not in _ALL and not self._fetched & set(_owners(loss)):
                report.lose_again(loss)
        for loss in unseen.losses:
            key = (loss.kind, loss.id)
            is_of_links = self._relinks and loss.kind == Trace.kind and loss.id in _ALL
            if is_of_links or (key in named and not self._old.is_selected(*key)):
                report.lose_again(loss)

    def _is_lost(self, key: _Key, parent: str, *, is_new: bool) -> bool:
        kind, _ = key
        if key in self._lost or self._lost_kinds.get(kind) or self._is_relinked(key):
            return True
        is_lost = kind in self._lost_kinds or any(
            not loss.field for loss in self._lost.get((Experiment.kind, parent), ())
        )
        return is_lost and is_new

    def _is_relinked(self, key: _Key) -> bool:
        """Whether an old trace is read again because of what it may be linked to."""
        return self._relinks and key[0] == Trace.kind and self._old.is_selected(*key)

    def is_of_losses(self, kind: str, id: str) -> bool:
        """Whether a loss that the source has now concerns what was lost before."""
        if kind in _REGISTRY_OF_VERSION:
            kind, id = _REGISTRY_OF_VERSION[kind], id.rpartition("/")[0]
        elif kind == SKILL.name:
            id = whole_id(id)
        if id in _ALL:
            return kind in self._lost_kinds or (kind == Trace.kind and self._relinks)
        return (kind, id) in self._fetched or self._is_lost(
            (kind, id), "", is_new=not self._old.is_selected(kind, id)
        )

    def _takes_old_document(self, key: _Key) -> bool:
        if not self._old.is_selected(*key) or self._lost_kinds.get(key[0]):
            return False
        if self._is_relinked(key):
            return False
        return all(loss.kind == "artifact" or loss.field == "artifacts" for loss in self._lost[key])

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        fresh = (e for e in self._fresh.iter_entities(kind) if (kind, e.id) in self._fetched)
        for old, new in _paired(self._old.iter_entities(kind), fresh, layout.document_path):
            if old is not None and (new is None or self._takes_old_document((kind, old.id))):
                yield old
            elif new is not None:
                yield new

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        old_contents = self._old.iter_contents(files=files, histories=histories, wanted=wanted)
        only_files = all(self._takes_old_document(key) for key in self._fetched)
        fresh_contents = self._fresh.iter_contents(
            # Few of the listed files are opened.
            files="none" if files == "none" else "list",
            histories=histories and not only_files,
            wanted=lambda kind, id, parent: (
                (kind, id) in self._fetched and (wanted is None or wanted(kind, id, parent))
            ),
        )
        for old, new in _paired(old_contents, fresh_contents, _path_of):
            if old is not None and new is not None:
                yield self._joined(old, new)
            elif old is not None:
                yield old
            elif new is not None:
                yield new

    def _joined(self, old: Content, new: Content) -> Content:
        """Content of which a part was lost."""
        key = (old.entity.kind, old.entity.id)
        numbers = {**old.version_artifacts, **new.version_artifacts}
        return replace(
            old if self._takes_old_document(key) else new,
            artifacts=self._completed(old.artifacts, new.artifacts, key, ""),
            version_artifacts={
                number: self._completed(
                    old.version_artifacts.get(number, NoArtifacts("unreadable")),
                    new.version_artifacts.get(number, NoArtifacts()),
                    key,
                    f"{number}/",
                )
                for number in numbers
            },
        )

    def _completed(
        self, old: ArtifactTree, new: ArtifactTree, key: _Key, version: str
    ) -> ArtifactTree:
        above = f"{key[1]}/{version}"
        lost = {
            loss.id.removeprefix(above): loss.reason
            for loss in self._lost[key]
            if loss.kind == "artifact" and loss.id.startswith(above)
        }
        versions = {
            f"{loss.id.removeprefix(above)}/"
            for loss in self._lost[key]
            if loss.kind == SKILL.name and loss.id.startswith(above)
        }
        return _CompletedTree(old, new, lost, tuple(versions))

    def close(self) -> None:
        self._old.close()
        self._fresh.close()


def _owners(loss: Loss) -> list[_Key]:
    """Entities that a loss may be of; those that do not exist do no harm."""
    if loss.kind in _REGISTRY_OF_VERSION:
        return [(_REGISTRY_OF_VERSION[loss.kind], loss.id.rpartition("/")[0])]
    if loss.kind == SKILL.name:
        return [(loss.kind, whole_id(loss.id))]
    if loss.kind != "artifact":
        return [(loss.kind, loss.id)]
    version_file = _VERSION_FILE.match(loss.id)
    names = [(kind, version_file[1]) for kind in VERSION_KIND] if version_file else []
    owner = loss.id.partition("/")[0]
    names.append((SKILL.name, whole_id(loss.id)))
    return [*names, *((kind, owner) for kind in ALL_KINDS if kind not in VERSION_KIND)]


def _named_by(entity: Entity) -> Iterator[_Key]:
    """Runs and logged models that come along with an entity."""
    if isinstance(entity, Run):
        for output in entity.outputs.model_outputs:
            yield LoggedModel.kind, output.model_id
        for read in entity.inputs.model_inputs:
            yield LoggedModel.kind, read.model_id
    elif isinstance(entity, RegisteredModel):
        for version in entity.versions:
            for run_id in (version.run_id, run_id_of(version.source)):
                if run_id:
                    yield Run.kind, run_id
            model_id = logged_model_id_of(version.source)
            if model_id is not None:
                yield LoggedModel.kind, model_id
    elif isinstance(entity, Trace):
        model_id = logged_model_id_of(f"models:/{entity.metadata.get(TRACED_MODEL)}")
        if model_id is not None:
            yield LoggedModel.kind, model_id


class _OfLosses(Report):
    """Passes on what a source says of losses, and forgets what it says of all else."""

    def __init__(self, report: Report, completed: CompletedSource) -> None:
        super().__init__(report.command, dry_run=report.dry_run)
        self._passed_on = report
        self._completed = completed

    def lose(self, kind: str, id: str, reason: str, **fields: str) -> Loss:
        if self._completed.is_of_losses(kind, id):
            return self._passed_on.lose(kind, id, reason, **fields)
        return super().lose(kind, id, reason, **fields)

    def note(self, text: str) -> None:
        self._passed_on.note(text)


class _CompletedTree(ArtifactTree):
    """Files of an old export, and those that it lost from its source.

    Args:
        old: Files that are whole; ``unreadable`` when none could be listed.
        fresh: The source's.
        lost: Reasons by path.
        lost_below: Directories that were lost as a whole.
    """

    def __init__(
        self,
        old: ArtifactTree,
        fresh: ArtifactTree,
        lost: Mapping[str, str],
        lost_below: tuple[str, ...] = (),
    ) -> None:
        self._old = old
        self._fresh = fresh
        self._lost = lost
        self._lost_below = lost_below
        self._from: dict[str, ArtifactTree] = {}
        self._files: list[ArtifactFile] | None = None
        self.mode = old.mode if old.mode != "unreadable" else fresh.mode

    def files(self) -> list[ArtifactFile]:
        if self._files is None:
            files = {file.path: file for file in self._old.files()}
            self._from = dict.fromkeys(files, self._old)
            for file in self._fresh_files():
                is_lost = file.path in self._lost or file.path.startswith(self._lost_below)
                if file.path not in files and (is_lost or self._lost_whole):
                    files[file.path] = file
                    self._from[file.path] = self._fresh
            for path in self._lost:
                # The sink opens it and lists it as lost, as before.
                files.setdefault(path, ArtifactFile(path, None))
            self._files = sorted(files.values(), key=lambda file: order_key(escape_path(file.path)))
        return self._files

    @property
    def _lost_whole(self) -> bool:
        return self._old.mode == "unreadable"

    def _fresh_files(self) -> list[ArtifactFile]:
        try:
            return self._fresh.files()
        except ServerError as exc:
            if exc.status is None or self._lost_whole:
                raise
            return []  # what the old export has is not given up for what it has not

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        tree = self._from.get(file.path)
        if tree is None:
            raise SourceError(self._lost[file.path], status=404)
        return tree.open(file)


def _path_of(content: Content) -> str:
    return layout.document_path(content.entity)


def _paired(
    first: Iterator[_ItemT], second: Iterator[_ItemT], path_of: Callable[[_ItemT], str]
) -> Iterator[tuple[_ItemT | None, _ItemT | None]]:
    """Yield the items of two iterators in path order, those of one path together.

    Nothing is asked for before what was yielded has been used: streams may hang on it.
    """
    old, new = next(first, None), next(second, None)
    while old is not None or new is not None:
        keys = [order_key(path_of(item)) for item in (old, new) if item is not None]
        takes_old = old is not None and order_key(path_of(old)) == min(keys)
        takes_new = new is not None and order_key(path_of(new)) == min(keys)
        yield old if takes_old else None, new if takes_new else None
        if takes_old:
            old = next(first, None)
        if takes_new:
            new = next(second, None)
