"""Reads entities from a bundle: a file or a plain directory in the documented layout.

A selection reads only what it needs: the manifests, the documents of what is selected and of what
it depends on, and their artifacts. Dependencies go downward: a version needs its run, its logged
model and their experiments' documents; a run needs its logged models; nothing needs what lies above
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.archive import HEADER_PATH, ArchiveReader, order_key, unescape_component
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.artifact_paths import artifact_path, note_member
from mlflow_bundle.bundles.places import check_parts, check_place
from mlflow_bundle.bundles.tree import TreeReader
from mlflow_bundle.bundles.workspaces import read_workspaces, workspace_view
from mlflow_bundle.contracts import (
    ArtifactFile,
    ArtifactTree,
    Content,
    FileReading,
    HeldMember,
    HistoryReading,
    NoArtifacts,
    OpenedArtifact,
    Source,
    SourceInfo,
    Wanted,
    no_items,
)
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    MetricHistory,
    ModelVersion,
    PlainEntity,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import DocumentError, SelectionError, UnsupportedVersionError
from mlflow_bundle.kinds import ALL_KINDS, KINDS, Kind, kinds_of
from mlflow_bundle.kinds.workspaces import Workspace
from mlflow_bundle.references import logged_model_id_of
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import (
    Matches,
    Selection,
    names_selection,
    parse_time_ms,
    require_distinct,
)
from mlflow_bundle.spool import Selected, Spool

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

_EXPERIMENT_KIND = {kind.directory: kind for kind in kinds_of("experiment")}


class BundleSource(Source):
    """Source over any :class:`TreeReader`.

    Args:
        tree: The bundle; closed with the source.
        name: What the user called it.
        with_earlier_versions: Whether a selected version brings those of lower numbers.
        matches: Told what of a selection is here; then the caller refuses what is nowhere.

    Raises:
        NotABundleError: There is no ``.mlbundle/bundle.json``.
        DocumentError: It is malformed.
        UnsupportedVersionError: Its documents are of a later version.
    """

    random_access = True

    def __init__(
        self,
        tree: TreeReader,
        *,
        name: str = "",
        with_earlier_versions: bool = False,
        matches: Matches | None = None,
    ) -> None:
        self._tree = tree
        self._matches = matches
        self._name = name
        self._with_earlier_versions = with_earlier_versions
        self._spool = Spool()
        self._report = Report()
        self._versions: dict[tuple[str, str], set[int]] = {}
        self._experiment_ids: list[str] = []
        self.header = read_header(tree)

    @property
    def info(self) -> SourceInfo:
        source = self.header.source
        return SourceInfo(uri=source.uri, mlflow_version=source.mlflow_version)

    def shows(self, kind: str) -> bool:
        return super().shows(kind) or bool(self.header.options.get("auth_db"))

    def read_losses(self) -> list[Loss]:
        """Return what the export that made the bundle lost, as its manifest says."""
        if self._tree.find(layout.MANIFEST) is None:
            return []
        return self._read(layout.MANIFEST, docs.ManifestDocument).losses

    def workspaces(self) -> dict[str, Workspace]:
        """Return the workspaces by name: this one, and those with trees of their own beside it."""
        return {workspace.name: workspace for workspace in read_workspaces(self._tree).values()}

    def workspace(self, name: str) -> BundleSource:
        """Return a source over another one of :meth:`workspaces`; this one stays open meanwhile."""
        prefixes = {w.name: prefix for prefix, w in read_workspaces(self._tree).items()}
        return BundleSource(workspace_view(self._tree, prefixes[name]), name=self._name)

    def check_renames(
        self,
        experiments: Mapping[str, str],
        models: Mapping[str, str],
        matches: Matches | None = None,
    ) -> None:
        """Refuse renames of what the bundle does not hold, and those that make two things one.

        Args:
            experiments: New names by old ones.
            models: The same of registered models and prompts.
            matches: Told the names that are here; then the caller refuses what is nowhere.

        Raises:
            SelectionError: Each unknown name, with the nearest ones; or a name that two would have.
        """
        if not experiments and not models:
            return
        entries = list(self._experiment_entries())
        names = [name for kind in layout.REGISTRY_DIRECTORY for name in self._names(kind)]
        held = matches or Matches()
        held.add(
            experiments=[(entry.id, entry.name) for entry in entries],
            models={name: {} for name in names},
        )
        if matches is None:
            held.require(names_selection(experiments, models), where=self._name)
        require_distinct("experiment", [entry.name for entry in entries], experiments)
        require_distinct("model", names, models)

    # Selecting

    def select(self, selection: Selection, report: Report) -> None:
        self._report = report
        experiments = list(self._experiment_entries())
        self._experiment_ids = [entry.id for entry in experiments]
        registry = {
            (kind, name): None for kind in layout.REGISTRY_DIRECTORY for name in self._names(kind)
        }
        if selection.everything and not selection.is_partial:
            for entry in experiments:
                self._add_experiment(entry.id, with_runs=True)
            for kind, name in registry:
                self._add_registered_model(kind, name)
            for plain in kinds_of("server"):
                self._spool.add(self._plain_rows(plain, plain.directory, ""))
        else:
            self._select_part(selection, experiments, list(registry))
        for kind in ALL_KINDS:
            count = self._spool.count(kind)
            if count or kind not in KINDS:
                report.plan(kind, count)
        for kind in layout.REGISTRY_DIRECTORY:
            for entity in self.iter_entities(kind):
                if isinstance(entity, RegisteredModel):
                    report.plan(VERSION_KIND[kind], len(entity.versions))

    def _select_part(
        self,
        selection: Selection,
        experiments: list[docs.ExperimentEntry],
        registry: list[tuple[str, str]],
    ) -> None:
        models = {
            (kind, name): self._registered_model(kind, name)
            for kind, name in registry
            if selection.matches_model(name)
        }
        by_name: dict[str, dict[int, list[str]]] = {name: {} for _, name in registry}
        for (_, name), model in models.items():
            by_name[name] = model.version_aliases
        places = {run_id: self._find_run(run_id, experiments) for run_id in selection.run_ids}
        matches = self._matches or Matches()
        matches.add(
            experiments=[(entry.id, entry.name) for entry in experiments],
            models=by_name,
            run_ids=[run_id for run_id, place in places.items() if place is not None],
        )
        if self._matches is None:
            matches.require(selection, where=self._name)
        chosen = [e for e in experiments if selection.matches_experiment(e.id, e.name)]
        for entry in chosen:
            self._add_experiment(entry.id, with_runs=True, selection=selection)
        self._add_associated({entry.id for entry in chosen}, whole=selection.everything)
        for run_id, place in places.items():
            if place is not None:
                self._add_run(place, run_id)
        for (kind, name), model in models.items():
            if not selection.takes_model(name, by_name[name]):
                continue
            wanted = {
                version.version
                for version in model.versions
                if selection.matches_version(
                    name,
                    version.version,
                    stage=version.current_stage,
                    aliases=by_name[name][version.version],
                )
            }
            if self._with_earlier_versions and wanted:
                wanted |= {v.version for v in model.versions if v.version < max(wanted)}
            self._versions[kind, name] = wanted
            self._add_registered_model(kind, name)
            for version in model.versions:
                if version.version in wanted:
                    self._add_version_needs(version, selection)

    def _add_associated(self, experiment_ids: set[str], *, whole: bool) -> None:
        """Add what lies at the top and belongs to one of these experiments, or everything."""
        for kind in kinds_of("server"):
            if not whole and "experiment_ids" not in kind.record.__struct_fields__:
                continue
            for row in self._plain_rows(kind, kind.directory, ""):
                entity = self._plain_head(kind, row.body.decode())
                if whole or experiment_ids & {*getattr(entity, "experiment_ids", ())}:
                    self._spool.add([row])

    def _add_version_needs(self, version: ModelVersion, selection: Selection) -> None:
        if version.run_id:
            place = version.experiment_id
            if place is None or self._find_run(version.run_id, [place]) is None:
                place = self._find_run(version.run_id, self._experiment_ids)
            if place is not None:
                self._add_run(place, version.run_id)
                if selection.export_all_runs:
                    self._add_experiment(place, with_runs=True, selection=selection)
        for uri in (version.source, version.storage_location or ""):
            model_id = logged_model_id_of(uri)
            if model_id is not None:
                self._add_logged_model(model_id)

    def _find_run(
        self, run_id: str, experiments: Iterable[docs.ExperimentEntry | str]
    ) -> str | None:
        """Return the experiment that holds a run."""
        for entry in experiments:
            experiment_id = entry if isinstance(entry, str) else entry.id
            directory = layout.run_directory(experiment_id, run_id)
            if self._tree.find(f"{directory}/{layout.RUN_DOCUMENT}") is not None:
                return experiment_id
        return None

    def _add_experiment(
        self, experiment_id: str, *, with_runs: bool = False, selection: Selection | None = None
    ) -> None:
        directory = layout.experiment_directory(experiment_id)
        self._add(Experiment.kind, f"{directory}/{layout.MANIFEST}", experiment_id, experiment_id)
        if with_runs:
            every = selection is None or not selection.has_window
            if every and (selection is None or selection.everything):
                self._spool.add(self._rows_below(experiment_id, directory))
            else:
                self._add_runs_one_by_one(experiment_id, directory, selection)

    def _rows_below(self, experiment_id: str, directory: str) -> Iterator[Selected]:
        for component, is_directory in self._tree.iter_directory(directory):
            if not is_directory:
                continue
            if component == layout.LOGGED_MODELS:
                yield from self._logged_model_rows(experiment_id, directory)
            elif component in _EXPERIMENT_KIND:
                kind = _EXPERIMENT_KIND[component]
                yield from self._plain_rows(kind, f"{directory}/{component}", experiment_id)
            elif component not in layout.EXPERIMENT_DIRECTORIES:
                path = f"{directory}/{component}/{layout.RUN_DOCUMENT}"
                if self._tree.find(path) is not None:
                    run_id = unescape_component(component) or self._run_head(path).id
                    yield _row(Run.kind, path, run_id, experiment_id)

    def _logged_model_rows(self, experiment_id: str, directory: str) -> Iterator[Selected]:
        below = f"{directory}/{layout.LOGGED_MODELS}"
        for component, is_directory in self._tree.iter_directory(below):
            if is_directory:
                path = f"{below}/{component}/{layout.LOGGED_MODEL_DOCUMENT}"
                model_id = unescape_component(component) or component
                yield _row(LoggedModel.kind, path, model_id, experiment_id)

    def _plain_rows(self, kind: Kind, directory: str, parent: str) -> Iterator[Selected]:
        """Rows of the entities of a kind that lie in ``directory``."""
        for component, is_directory in self._tree.iter_directory(directory):
            path = f"{directory}/{component}/{kind.document}"
            if is_directory and self._tree.find(path) is not None:
                id = unescape_component(component)
                if id is None:
                    id = self._plain_head(kind, path).id
                yield _row(kind.name, path, id, parent)

    def _plain_head(self, kind: Kind, path: str) -> PlainEntity:
        entity: PlainEntity = self._read(path, docs.plain_head(kind)).entity
        return entity

    def _add_runs_one_by_one(
        self, experiment_id: str, directory: str, selection: Selection | None
    ) -> None:
        for row in list(self._rows_below(experiment_id, directory)):
            if row.kind in KINDS:
                entity = self._plain_head(KINDS[row.kind], row.body.decode())
                if selection is None or selection.matches_plain(entity):
                    self._spool.add([row])
                continue
            if row.kind != Run.kind:
                if selection is None or not selection.has_window:
                    self._spool.add([row])
                continue
            head = self._run_head(row.body.decode())
            if selection is None or selection.matches_window(head.info.start_time):
                self._add_run_row(row, head)

    def _add_run(self, experiment_id: str, run_id: str) -> None:
        path = f"{layout.run_directory(experiment_id, run_id)}/{layout.RUN_DOCUMENT}"
        self._add_experiment(experiment_id)
        self._add_run_row(_row(Run.kind, path, run_id, experiment_id), self._run_head(path))

    def _add_run_row(self, row: Selected, head: Run) -> None:
        self._spool.add([row])
        for model_id in {
            *(output.model_id for output in head.outputs.model_outputs),
            *(read.model_id for read in head.inputs.model_inputs),
        }:
            self._add_logged_model(model_id, near=row.parent)

    def _add_logged_model(self, model_id: str, *, near: str | None = None) -> None:
        if self._spool.find(LoggedModel.kind, model_id) is not None:
            return
        for experiment_id in [near, *self._experiment_ids] if near else self._experiment_ids:
            directory = layout.logged_model_directory(experiment_id, model_id)
            path = f"{directory}/{layout.LOGGED_MODEL_DOCUMENT}"
            if self._tree.find(path) is not None:
                self._add_experiment(experiment_id)
                self._add(LoggedModel.kind, path, model_id, experiment_id)
                return

    def _add_registered_model(self, kind: str, name: str) -> None:
        path = layout.document_path_of(kind, name, "")
        self._add(kind, path, name, "")

    def _add(self, kind: str, path: str, id: str, parent: str) -> None:
        self._spool.add([_row(kind, path, id, parent)])

    def _experiment_entries(self) -> Iterator[docs.ExperimentEntry]:
        path = f"{layout.EXPERIMENTS}/{layout.MANIFEST}"
        if self._tree.find(path) is not None:
            yield from self._read(path, docs.ExperimentsDocument).experiments

    def _names(self, kind: str) -> list[str]:
        path = f"{layout.REGISTRY_DIRECTORY[kind]}/{layout.MANIFEST}"
        if self._tree.find(path) is None:
            return []
        return self._read(path, docs.RegistryDocument).ok_models

    def iter_selected(self) -> Iterator[Selected]:
        """Yield a row for each selected entity, in path order; its body is the document's path."""
        return self._spool.iterate()

    def is_selected(self, kind: str, id: str) -> bool:
        """Whether an entity is selected, by itself or because another one needs it."""
        return self._spool.find(kind, id) is not None

    def selects_document(self, path: str) -> bool:
        """Whether the entity with the document at ``path`` is selected."""
        return self._spool.contains(order_key(path))

    def selected_versions(self, kind: str, name: str) -> set[int] | None:
        """Numbers of the selected versions of a registered model or prompt; None for all."""
        return self._versions.get((kind, name))

    # Handing out

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        for row in self._spool.iterate(kind):
            path = row.body.decode()
            if kind == Run.kind:
                yield self._run_head(path)
            elif kind == LoggedModel.kind:
                yield self._read(path, docs.LoggedModelDocument).entity()
            elif kind == Experiment.kind:
                yield self._read(path, docs.ExperimentDocument).entity()
            elif kind in KINDS:
                yield self._plain_head(KINDS[kind], path)
            else:
                yield self._restricted(self._registered_model(kind, row.id))

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: HistoryReading = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        for row in self._spool.iterate():
            if wanted is not None and not wanted(row.kind, row.id, row.parent):
                continue
            content = self._content(row)
            if files == "none":
                content = replace(content, artifacts=NoArtifacts(), version_artifacts={})
            yield content

    def _content(self, row: Selected) -> Content:
        path = row.body.decode()
        directory = path.rpartition("/")[0]
        artifacts = f"{directory}/{layout.ARTIFACTS}"
        if row.kind == Run.kind:
            run = self._read(path, docs.RunDocument, count_unknown=True)
            return Content(
                entity=run.entity(),
                artifacts=self._artifacts(artifacts, run.artifacts, run.names, path),
                histories=_Histories(self, directory, run),
            )
        if row.kind == LoggedModel.kind:
            model = self._read(path, docs.LoggedModelDocument, count_unknown=True)
            return Content(
                entity=model.entity(),
                artifacts=self._artifacts(artifacts, model.artifacts, model.names, path),
            )
        if row.kind == Experiment.kind:
            experiment = self._read(path, docs.ExperimentDocument, count_unknown=True)
            return Content(entity=experiment.entity())
        if row.kind in KINDS:
            return self._plain_content(KINDS[row.kind], path, directory)
        return self._registered_model_content(row, path, directory)

    def _plain_content(self, kind: Kind, path: str, directory: str) -> Content:
        document = self._read(path, docs.plain_document(kind), count_unknown=True)
        artifacts: ArtifactTree = NoArtifacts()
        if kind.has_artifacts:
            below = f"{directory}/{layout.ARTIFACTS}"
            artifacts = self._artifacts(below, document.artifacts, document.names, path)
        items = no_items
        check_parts(document.item_parts, path)
        if document.items or document.item_parts:
            items = _Items(self, kind, directory, document)
        return Content(entity=document.entity, artifacts=artifacts, items=items)

    def _registered_model_content(self, row: Selected, path: str, directory: str) -> Content:
        document = self._read(path, docs.RegisteredModelDocument, count_unknown=True)
        model = self._restricted(self._parse_registered_model(document, row.kind, path))
        kept = {version.version for version in model.versions}
        trees = {}
        for position, version in enumerate(document.registered_model.latest_versions):
            number = int(version.version)
            if number in kept and version.artifacts is not None:
                below = layout.version_artifacts_directory(directory, number)
                trees[number] = self._artifacts(
                    below,
                    version.artifacts,
                    version.names,
                    path,
                    field=f"registered_model.latest_versions[{position}].artifacts",
                )
        return Content(entity=model, version_artifacts=trees)

    def _restricted(self, model: RegisteredModel) -> RegisteredModel:
        """Leave out the versions that were not selected."""
        wanted = self._versions.get((model.kind, model.name))
        if wanted is None:
            return model
        return msgspec.structs.replace(
            model,
            versions=[v for v in model.versions if v.version in wanted],
            aliases={alias: v for alias, v in model.aliases.items() if v in wanted},
            left_out=[v.version for v in model.versions if v.version not in wanted],
        )

    def _artifacts(
        self,
        directory: str,
        summary: docs.ArtifactSummary | None,
        names: dict[str, str],
        document: str,
        *,
        field: str = "artifacts",
    ) -> ArtifactTree:
        if summary is not None and summary.mode != "included":
            if next(iter(self._tree.iter_members(directory)), None) is not None:
                raise DocumentError(
                    f"is {summary.mode}, but there are files",
                    path=document,
                    field_path=f"{field}.mode",
                )
            return NoArtifacts(summary.mode)
        return MemberArtifacts(self._tree, directory, names, summary, document, field)

    def _registered_model(self, kind: str, name: str) -> RegisteredModel:
        path = layout.document_path_of(kind, name, "")
        document = self._read(path, docs.RegisteredModelDocument)
        return self._parse_registered_model(document, kind, path)

    @staticmethod
    def _parse_registered_model(
        document: docs.RegisteredModelDocument, kind: str, path: str
    ) -> RegisteredModel:
        # Before it is restricted: an alias of a version that was not selected is right.
        model = document.entity(kind)
        numbers = {version.version for version in model.versions}
        for position, alias in enumerate(document.registered_model.aliases):
            if int(alias.version) not in numbers:
                raise DocumentError(
                    f"there is no version {alias.version}",
                    path=path,
                    field_path=f"registered_model.aliases[{position}].version",
                )
        return model

    def _run_head(self, path: str) -> Run:
        return self._read(path, docs.RunHead).entity()

    def _read(self, path: str, type: type[DocumentT], *, count_unknown: bool = False) -> DocumentT:
        data = self.read_document(path)
        document = docs.decode(data, type, path=path)
        place = layout.place_of(path)
        if place is not None and place.role == "document":
            check_place(document, place.kind, path)
        if count_unknown and (unknown := docs.unknown_keys(data, type)):
            self._report.note(f"unknown keys ignored in {_generic(path)}: {', '.join(unknown)}")
        return document

    def read_document(self, path: str) -> bytes:
        """Return the bytes of a document that other documents promise.

        Raises:
            DocumentError: It is not there.
        """
        if self._tree.find(path) is None:
            raise DocumentError("missing, although a manifest names it", path=path)
        return self._tree.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)

    def close(self) -> None:
        self._spool.close()
        self._tree.close()


class _Histories:
    """Opens the metric histories of one run: long keys come part by part."""

    def __init__(self, source: BundleSource, directory: str, run: docs.RunDocument) -> None:
        self._source = source
        self._directory = directory
        self._run = run

    def __call__(self) -> Iterator[MetricHistory]:
        for key in sorted({*self._run.metrics, *self._run.metric_parts}, key=docs.history_order):
            if points := self._run.metrics.get(key):
                yield docs.history_of(key, points)
            for part in self._run.metric_parts.get(key, ()):
                path = f"{self._directory}/{part}"
                document = docs.decode(self._source.read_document(path), docs.MetricPart, path=path)
                if document.points:
                    yield docs.history_of(key, document.points)


class _Items:
    """Opens the items of one plain entity: those of its document, then part by part."""

    def __init__(
        self,
        source: BundleSource,
        kind: Kind,
        directory: str,
        document: docs.PlainDocument[PlainEntity, msgspec.Struct],
    ) -> None:
        self._source = source
        self._kind = kind
        self._directory = directory
        self._document = document

    def __call__(self) -> Iterator[msgspec.Struct]:
        yield from self._document.items
        for part in self._document.item_parts:
            path = f"{self._directory}/{part}"
            data = self._source.read_document(path)
            yield from docs.decode(data, docs.item_part(self._kind), path=path).items


class MemberArtifacts(ArtifactTree):
    """Artifacts that are members of a tree below one directory: those that the document counts.

    Raises:
        DocumentError: From ``files``: the summary counts others, or two members are one artifact.
    """

    random_access = True

    def __init__(
        self,
        tree: TreeReader,
        directory: str,
        names: dict[str, str],
        summary: docs.ArtifactSummary | None,
        document: str,
        field: str,
    ) -> None:
        self._tree = tree
        self._directory = directory
        self._names = names
        self._summary = summary
        self._document = document
        self._field = field
        self._members: dict[str, str] = {}
        self._files: list[ArtifactFile] | None = None

    def files(self) -> list[ArtifactFile]:
        if self._files is None:
            files = []
            for member in self._tree.iter_members(self._directory):
                below = member.path.removeprefix(f"{self._directory}/")
                path = artifact_path(below, self._names, path=member.path)
                note_member(self._members, path, member.path, document=self._document)
                files.append(ArtifactFile(path, member.size))
            self._check_summary(files)
            self._files = files
        return self._files

    def _check_summary(self, files: list[ArtifactFile]) -> None:
        if self._summary is None:
            return
        for name, stated, found in (
            ("files", self._summary.files, len(files)),
            ("bytes", self._summary.bytes, sum(file.size or 0 for file in files)),
        ):
            if stated != found:
                raise DocumentError(
                    f"is {stated}, but there are {found}",
                    path=self._document,
                    field_path=f"{self._field}.{name}",
                )

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        self.files()
        return OpenedArtifact(self._tree.open_member(self._members[file.path]), file.size or 0)

    def held(self, file: ArtifactFile) -> HeldMember | None:
        archive = self._tree if isinstance(self._tree, ArchiveReader) else None
        if archive is None or archive.descriptor is None:
            return None
        self.files()
        return HeldMember(archive.descriptor, self._members[file.path])


def read_header(tree: TreeReader) -> docs.BundleHeader:
    """Read and check ``.mlbundle/bundle.json``.

    Raises:
        NotABundleError: It is missing.
        DocumentError: It is malformed.
        UnsupportedVersionError: The documents are of a later version than this reader's.
    """
    header = docs.decode(tree.header, docs.BundleHeader, path=HEADER_PATH)
    if header.documents > docs.DOCUMENTS_VERSION:
        raise UnsupportedVersionError(
            f"documents of version {header.documents}, this reader knows {docs.DOCUMENTS_VERSION}",
            path=HEADER_PATH,
            hint="upgrade mlflow-bundle",
        )
    return header


def created_ns(header: docs.BundleHeader) -> int:
    """Return when the bundle was made, in ns since the epoch: the modification time of documents.

    Raises:
        DocumentError: ``created`` is no time.
    """
    try:
        return parse_time_ms(header.created) * 1_000_000
    except SelectionError as exc:
        raise DocumentError(exc.message, path=HEADER_PATH, field_path="created") from exc


def _row(kind: str, path: str, id: str, parent: str) -> Selected:
    return Selected(order_key(path), kind, id, parent, path.encode())


def _generic(path: str) -> str:
    return path.rpartition("/")[2]
