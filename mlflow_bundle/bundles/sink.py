"""Writes entities as a bundle: into one file, to standard output, or as a plain directory.

Contents come in path order and are written as they come; manifests follow the entities they count.
Memory holds one document, the ids of one experiment and whatever the writer buffers.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar, cast

import msgspec
from msgspec import UNSET

import mlflow_bundle
from mlflow_bundle import layout
from mlflow_bundle.archive.frames import FORMAT_NAME, FORMAT_VERSION
from mlflow_bundle.archive.unfinished import WrittenMembers
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles import manifests
from mlflow_bundle.bundles.artifact_paths import member_names, needs_name
from mlflow_bundle.bundles.cleaning import Cleaner
from mlflow_bundle.bundles.parts import write_histories, write_items
from mlflow_bundle.bundles.resume import (
    Progressed,
    Restored,
    Unfinished,
    is_changed,
    made_at_ms,
    restore,
)
from mlflow_bundle.bundles.source import created_ns
from mlflow_bundle.bundles.tree import TreeWriter
from mlflow_bundle.contracts import (
    ArtifactFile,
    ArtifactPolicy,
    ArtifactTree,
    Content,
    NoArtifacts,
    Sink,
    SourceInfo,
)
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    KeyValue,
    LoggedModel,
    PlainEntity,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import BundleError, ServerError, SinkError
from mlflow_bundle.kinds import ALL_KINDS, KINDS
from mlflow_bundle.kinds.workspaces import WORKSPACE, Workspace
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.source_tags import source_tags

EntityT = TypeVar("EntityT", bound=Entity)

WriterFactory = Callable[[bytes, uuid.UUID, int], TreeWriter]
"""Makes the writer from the header's bytes, the bundle's uuid and the default mtime in ns."""


_LARGEST_ENTITY_BYTES = docs.MAX_DOCUMENT_BYTES // 2

_MODELS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What export options say about documents."""

    export_source_tags: bool = False
    stages: str | None = None
    notebook_formats: str | None = ""
    artifacts: ArtifactPolicy = "copy"
    auth_db: bool = False
    """Whether users and roles were read."""
    include_secrets: bool = False
    """Whether encrypted secrets, and hashes of passwords, are in it."""

    def to_json(self) -> dict[str, Any]:
        """Return the options that differ from the default."""
        return {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if getattr(self, option.name) != option.default
        }


@dataclass(slots=True)
class _OpenExperiment:
    """Ids written below the experiment whose manifest comes next."""

    runs: list[str] = field(default_factory=list)
    logged_models: list[str] = field(default_factory=list)


class BundleSink(Sink):
    """Sink over any :class:`TreeWriter`.

    Args:
        open_writer: Called once the header is known.
        report: Counts what is written.
        options: The export options.
        now: Clock for ``created``.
        bundle_uuid: Identity of the new bundle.
        progress: Told of objects and bytes.
        unfinished: An interrupted export to go on with; ``open_writer`` is not called then.
    """

    takes_encoded_histories = True
    in_order = True

    def __init__(
        self,
        open_writer: WriterFactory,
        report: Report,
        *,
        options: ExportOptions = ExportOptions(),
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        bundle_uuid: uuid.UUID | None = None,
        progress: Progress | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        self._open_writer = open_writer
        self._unfinished = unfinished
        self._written: WrittenMembers | None = None
        self._before: Progressed | None = None
        self._restored = Restored()
        self._cleaner = Cleaner(report)
        self._report = report
        self._options = options
        self._now = now
        self._uuid = bundle_uuid or uuid.uuid4()
        self._progress = progress or SilentProgress()
        self._writer: TreeWriter | None = None
        self._open_experiment = _OpenExperiment()
        self._experiment_names: dict[str, str] = {}
        self._experiments: list[docs.ExperimentEntry] = []
        self._registry: dict[str, list[str]] = {"registered_model": [], "prompt": []}
        self._section = 0
        self._totals: Counter[str] = Counter()
        self._artifact_bytes = 0
        self._lost_artifacts: list[Loss] = []
        self._bare: list[str] = []
        """Models that are said to have files and have none."""

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        created = self._now().replace(microsecond=0)
        if self._unfinished is not None:
            self._uuid = uuid.UUID(self._unfinished.header.uuid)
            created_s = created_ns(self._unfinished.header) // 10**9
            created = datetime.fromtimestamp(created_s, timezone.utc)
        self._created_ms = int(created.timestamp() * 1000)
        self._source = SourceInfo(uri=mask_uri(source.uri), mlflow_version=source.mlflow_version)
        self._export_info = docs.ExportInfo(
            mlflow_version=source.mlflow_version,
            mlflow_tracking_uri=self._source.uri,
            export_time=created.strftime("%Y-%m-%d %H:%M:%S"),
        )
        header = docs.BundleHeader(
            format=FORMAT_NAME,
            format_version=FORMAT_VERSION,
            uuid=str(self._uuid),
            writer=f"mlflow-bundle {mlflow_bundle.__version__}",
            created=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            documents=docs.DOCUMENTS_VERSION,
            source=docs.HeaderSource(uri=self._source.uri, mlflow_version=source.mlflow_version),
            selection=selection.to_json(),
            options=self._options.to_json(),
            as_of=self._created_ms,
        )
        if self._unfinished is not None:
            self._unfinished.require_same(header)
            self._writer, self._written = self._unfinished.resume()
            self._resume(Progressed(self._written))
        elif not self._report.dry_run:
            self._writer = self._open_writer(
                docs.encode(header), self._uuid, self._created_ms * 1_000_000
            )

    def workspace(self, workspace: Workspace, report: Report) -> BundleSink:
        """Return a sink for the tree of one more workspace of the same bundle.

        What lies outside of workspaces is put before; workspaces come in path order, each finished
        before the next one begins and before this sink is finished.

        Args:
            workspace: Not ``default``.
            report: Counts what is written to it.
        """
        return _WorkspaceSink(self, workspace, report)

    def _resume(self, before: Progressed) -> None:
        """Take over what was written of this tree, as if it had been put just now."""
        self._before = before
        # Everything that the source has now is compared with what was written.
        self.reserved_kinds = ALL_KINDS
        self._restored = restored = restore(before)
        self._open_experiment = _OpenExperiment(restored.runs, restored.logged_models)
        self._experiments = restored.experiments
        self._registry = restored.registry
        self._totals = restored.totals
        self._artifact_bytes = restored.artifact_bytes
        for kind, count in restored.totals.items():
            self._report.found(kind, count)
        for loss in restored.losses:
            self._report.lose_again(loss)

    def reserve(self, entity: Entity, *, dry: bool = False) -> None:
        if isinstance(entity, Experiment):
            self._experiment_names[entity.id] = entity.name
        if self._before is not None:
            self._compare(entity, self._before)

    def _compare(self, entity: Entity, before: Progressed) -> None:
        """See what became of an entity since the first attempt, if that has passed its place."""
        path = layout.document_path(entity)
        if before.find(path) is not None:
            before.see(path)
            # Cleaning counts the adjustments, as when it was put.
            if is_changed(before.read(path), path, self._cleaned(entity)):
                before.changed.append(f"{entity.kind} {entity.id}")
        elif before.reaches(path):
            made_ms = made_at_ms(entity)
            if made_ms is not None and made_ms >= self._created_ms:
                before.appeared.append(f"{entity.kind} {entity.id}")
            else:
                reason = "it was not there, or could not be read, before the export was interrupted"
                self._report.lose(entity.kind, entity.id, reason, parent=layout.parent_of(entity))

    def wants(self, kind: str, id: str, parent: str) -> bool:
        if self._before is None:
            return True
        return not self._before.reaches(layout.document_path_of(kind, id, parent))

    def _cleaned(self, entity: EntityT) -> EntityT:
        """``entity`` as it is written, with the tags of ``--export-source-tags``."""
        cleaned: Any = self._cleaner.clean(entity)
        if self._options.export_source_tags and isinstance(entity, Run):
            name = self._experiment_names.get(entity.info.experiment_id, "")
            tags = cleaned.tags | source_tags(entity, self._source, self._created_ms, name)
            cleaned = msgspec.structs.replace(cleaned, tags=dict(sorted(tags.items())))
        result: EntityT = cleaned
        return result

    @property
    def _out(self) -> TreeWriter:
        if self._writer is None:
            raise RuntimeError("begin() was not called")
        return self._writer

    def put(self, content: Content) -> None:
        entity = content.entity
        self._require_open_experiment()
        _require_size(entity)
        self._restored.unfinished.pop(layout.document_path(entity), None)
        self._enter_section(_section_of(entity))
        if isinstance(entity, Run):
            self._put_run(entity, content)
        elif isinstance(entity, LoggedModel):
            self._put_logged_model(entity, content)
        elif isinstance(entity, Experiment):
            self._put_experiment(entity)
        elif isinstance(entity, PlainEntity):
            self._put_plain(entity, content)
        else:
            self._put_registered_model(entity, content)
        self._totals[entity.kind] += 1
        self._report.did(entity.kind)
        self._progress.advance(1)

    def _require_open_experiment(self) -> None:
        """Refuse to go on behind runs whose experiment is not there any more.

        Raises:
            BundleError: Its name is in no document, and the source does not have it either.
        """
        directory, self._restored.open_directory = self._restored.open_directory, ""
        if directory and directory not in map(layout.experiment_directory, self._experiment_names):
            raise _cannot_go_on(directory)

    def _put_run(self, run: Run, content: Content) -> None:
        directory = layout.entity_directory(run)
        mtime_ms = run.info.end_time or run.info.start_time
        artifacts, names = self._write_artifacts(
            f"{directory}/{layout.ARTIFACTS}", content.artifacts, f"run {run.id}", mtime_ms
        )
        histories = content.encoded_histories or content.histories
        metrics, parts = write_histories(
            self,
            directory,
            histories(),
            changed=lambda key: self._lose_changed(run, f"metrics.{key}"),
        )
        cleaned = self._cleaned(run)
        document = docs.RunDocument(
            export_info=self._export_info,
            info=cleaned.info,
            params=run.params,
            metrics=cast(Any, metrics),  # some encoded already
            tags=cleaned.tags,
            inputs=cleaned.inputs,
            outputs=run.outputs,
            artifacts=artifacts,
            metric_parts=parts,
            names=names,
            losses=self._losses_of(run),
        )
        self._add_document(f"{directory}/{layout.RUN_DOCUMENT}", document)
        self._open_experiment.runs.append(run.id)

    def _put_logged_model(self, model: LoggedModel, content: Content) -> None:
        directory = layout.entity_directory(model)
        artifacts, names = self._write_artifacts(
            f"{directory}/{layout.ARTIFACTS}",
            content.artifacts,
            f"logged_model {model.id}",
            model.creation_time,
        )
        if model.status == "READY":
            self._expect_files(f"logged model {model.id}", content.artifacts, artifacts)
        document = docs.LoggedModelDocument(
            export_info=self._export_info,
            logged_model=self._cleaned(model),
            artifacts=artifacts,
            names=names,
            losses=self._losses_of(model),
        )
        self._add_document(f"{directory}/{layout.LOGGED_MODEL_DOCUMENT}", document)
        self._open_experiment.logged_models.append(model.id)

    def _put_plain(self, entity: PlainEntity, content: Content) -> None:
        directory = layout.entity_directory(entity)
        kind = KINDS[entity.kind]
        artifacts: docs.ArtifactSummary | None = None
        names: dict[str, str] = {}
        if kind.has_artifacts:
            artifacts, names = self._write_artifacts(
                f"{directory}/{layout.ARTIFACTS}",
                content.artifacts,
                f"{entity.kind} {entity.id}",
                entity.time_ms,
            )
        items, parts = write_items(
            self,
            directory,
            self._cleaner.clean_items(entity, content.items()),
            too_long=lambda position, size: self._lose_item(entity, position, size),
            changed=lambda: self._lose_changed(entity, "items"),
        )
        document: docs.PlainDocument[PlainEntity, Any] = docs.PlainDocument(
            export_info=self._export_info,
            kind=entity.kind,
            entity=self._cleaned(entity),
            artifacts=artifacts,
            items=items,
            item_parts=parts,
            names=names,
            losses=self._losses_of(entity),
        )
        self._add_document(f"{directory}/{kind.document}", document)

    def _put_experiment(self, experiment: Experiment) -> None:
        written, self._open_experiment = self._open_experiment, _OpenExperiment()
        failed = [
            loss.id
            for loss in self._report.losses
            if loss.kind == Run.kind and loss.parent == experiment.id and not loss.field
        ]
        document = docs.ExperimentDocument(
            experiment=self._cleaned(experiment),
            export_info=manifests.experiment_info(
                self._export_info,
                runs=written.runs,
                failed=failed,
                logged_models=written.logged_models,
            ),
        )
        self._add_document(layout.document_path(experiment), document)
        self._experiments.append(
            docs.ExperimentEntry(
                id=experiment.id,
                name=experiment.name,
                ok_runs=len(written.runs),
                failed_runs=len(failed),
            )
        )

    def _put_registered_model(self, model: RegisteredModel, content: Content) -> None:
        directory = layout.entity_directory(model)
        written: dict[int, tuple[docs.ArtifactSummary, dict[str, str]]] = {}
        self._require_versions_of_files(directory, content)
        # Directories sort as text: versions/10 comes before versions/2.
        for number in sorted(content.version_artifacts, key=str):
            version = next(v for v in model.versions if v.version == number)
            written[number] = self._write_artifacts(
                layout.version_artifacts_directory(directory, number),
                content.version_artifacts[number],
                f"{VERSION_KIND[model.kind]} {model.name}/{number}",
                version.creation_timestamp,
            )
            summary, _ = written[number]
            name = f"model version {model.name}/{number}"
            self._expect_files(name, content.version_artifacts[number], summary)
        cleaned = self._cleaned(model)
        versions = []
        for version in cleaned.versions:
            artifacts, names = written.get(version.version, (None, {}))
            versions.append(docs.version_document(version, artifacts=artifacts, names=names))
        document = docs.RegisteredModelDocument(
            export_info=self._export_info,
            registered_model=docs.RegisteredModelBody(
                name=model.name,
                creation_timestamp=model.creation_timestamp,
                last_updated_timestamp=model.last_updated_timestamp,
                description=model.description,
                tags=[
                    KeyValue(key=key, value=value) for key, value in sorted(cleaned.tags.items())
                ],
                aliases=[
                    docs.AliasDocument(alias=alias, version=str(version))
                    for alias, version in sorted(model.aliases.items())
                ],
                latest_versions=versions,
                deleted_versions=UNSET
                if cleaned.deleted_versions is UNSET
                else [docs.version_document(v, names={}) for v in cleaned.deleted_versions],
                null_fields=model.null_fields,
            ),
            losses=self._losses_of(model),
        )
        self._add_document(layout.document_path(model), document)
        self._registry[model.kind].append(model.name)
        self._totals[VERSION_KIND[model.kind]] += len(versions)
        self._report.did(VERSION_KIND[model.kind], len(versions))

    def _require_versions_of_files(self, directory: str, content: Content) -> None:
        """Refuse to go on behind files of a version that is not there any more.

        Raises:
            BundleError: No entry could name them.
        """
        if self._before is None:
            return
        numbers = {str(number) for number in content.version_artifacts}
        versions = f"{directory}/{layout.VERSIONS}"
        for path, _ in self._before.iter_below(versions):
            number = path.removeprefix(f"{versions}/").partition("/")[0]
            if number not in numbers:
                raise _cannot_go_on(f"{versions}/{number}")

    def _write_artifacts(
        self, directory: str, tree: ArtifactTree, owner: str, mtime_ms: int | None
    ) -> tuple[docs.ArtifactSummary, dict[str, str]]:
        kind, _, owner_id = owner.partition(" ")
        mtime_ns = None if mtime_ms is None else mtime_ms * 1_000_000
        try:
            files = tree.files()
        except ServerError as exc:
            if exc.status is None:
                raise
            self._report.lose(kind, owner_id, exc.message, field="artifacts")
            tree, files = NoArtifacts("unreadable"), []
        names: dict[str, str] = {}
        count = total = 0
        written = {} if self._before is None else dict(self._before.iter_below(directory))
        for member, file in member_names(files):
            path = f"{directory}/{member}"
            if self._before is not None and self._before.reaches(path):
                size = written.pop(path, None)
                if size is None:
                    self._lose_artifact(
                        owner_id, file, "it was not there before the export was interrupted"
                    )
                else:
                    names |= {member: file.path} if needs_name(member) else {}
                    count += 1
                    total += size
                    if file.size is not None and file.size != size:
                        self._before.changed.append(f"artifact {owner_id}/{file.path}")
                continue
            try:
                with (opened := tree.open(file)).stream as stream:
                    self._out.add_stream(
                        path,
                        stream,
                        opened.size,
                        mtime_ns=mtime_ns,
                        content_id=file.content_id,
                    )
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._lose_artifact(owner_id, file, exc.message)
                continue
            if needs_name(member):
                names[member] = file.path
            count += 1
            total += opened.size
            self._progress.advance(bytes=opened.size)
        for path, size in written.items():  # the source no longer has them
            member = path.removeprefix(f"{directory}/")
            names |= {member: member} if needs_name(member) else {}
            count += 1
            total += size
            if self._before is not None:
                self._before.vanished_files.append(f"artifact {owner_id}/{member}")
        if count:
            self._totals["artifact"] += count
        self._artifact_bytes += total
        self._report.did("artifact", count, size=total)
        return docs.ArtifactSummary(mode=tree.mode, files=count, bytes=total), names

    def _expect_files(self, name: str, tree: ArtifactTree, summary: docs.ArtifactSummary) -> None:
        """Remember a model that has no files: `_add_notes` tells of it."""
        if summary.mode == "included" and not tree.files():
            self._bare.append(name)

    def _lose_artifact(self, owner_id: str, file: ArtifactFile, reason: str) -> None:
        loss = self._report.lose("artifact", f"{owner_id}/{file.path}", reason)
        self._lost_artifacts.append(loss)

    def _lose_item(self, entity: PlainEntity, position: int, size: int) -> None:
        reason = f"{size} bytes; a document holds {docs.MAX_DOCUMENT_BYTES}"
        self._report.lose(
            entity.kind, entity.id, reason, field=f"items[{position}]", parent=entity.parent
        )

    def _lose_changed(self, entity: Entity, field: str) -> None:
        reason = (
            "it changed at the source while the export was interrupted in the middle of it: what"
            " was written before is here, and not all of what came since"
        )
        self._report.lose(
            entity.kind, entity.id, reason, field=field, parent=layout.parent_of(entity)
        )

    def _losses_of(self, entity: Entity) -> list[Loss]:
        """What is lost of the entity that is being put."""
        lost, self._lost_artifacts = self._lost_artifacts, []
        lost = [*self._report.losses_of(entity.kind, entity.id), *lost]
        if isinstance(entity, RegisteredModel):
            for version in entity.versions:
                id = f"{entity.name}/{version.version}"
                lost += self._report.losses_of(VERSION_KIND[entity.kind], id)
        return lost

    def _add_document(self, path: str, document: object) -> None:
        if self._before is not None and self._before.reaches(path):
            return  # a manifest of an earlier attempt
        self._out.add(path, docs.encode(document))  # type: ignore[arg-type]

    def add_part(self, path: str, part: msgspec.Struct) -> bytes | None:
        """See `PartsWriter`."""
        if self._before is None or not self._before.reaches(path):
            self._out.add(path, docs.encode(part))
            return None
        return b"" if self._before.find(path) is None else self._before.read(path)

    def written_parts(self, directory: str) -> Iterator[tuple[str, bytes]]:
        """See `PartsWriter`."""
        if self._before is not None:
            for path, _ in self._before.iter_below(directory):
                yield path, self._before.read(path)

    def _enter_section(self, section: int) -> None:
        """Write the manifests of the sections that are complete."""
        while self._section < section:
            self._close_section(_SECTIONS[self._section])
            self._section += 1

    def _close_section(self, section: str) -> None:
        if section == layout.EXPERIMENTS:
            self._add_document(
                f"{layout.EXPERIMENTS}/{layout.MANIFEST}",
                manifests.experiments_document(self._export_info, self._experiments),
            )
            return
        kind = _REGISTRY_KIND.get(section)
        if kind is None:
            return
        document = manifests.registry_document(
            self._export_info,
            names=self._registry[kind],
            failed=[loss.id for loss in self._report.losses if loss.kind == kind],
            stages=self._options.stages,
            notebook_formats=self._options.notebook_formats,
        )
        self._add_document(f"{section}/{layout.MANIFEST}", document)

    def finish(self) -> None:
        self._complete()
        self._add_document(
            layout.MANIFEST,
            docs.ManifestDocument(
                info=docs.ManifestInfo(**_fields(self._export_info)),
                stages=self._options.stages,
                notebook_formats=self._options.notebook_formats,
                totals=dict(sorted(self._totals.items())),
                artifact_bytes=self._artifact_bytes,
                losses=self._report.losses,
                adjustments=dict(sorted(self._report.adjusted.items())),
            ),
        )
        self._out.finish()

    def _complete(self) -> None:
        """Write and tell what comes behind everything that was put."""
        self._require_open_experiment()
        self._enter_section(len(_SECTIONS))
        for document, (place, files, size) in self._restored.unfinished.items():
            self._totals["artifact"] += files
            self._artifact_bytes += size
            reason = (
                f"interrupted in the middle of it, and then the source did not give it any more;"
                f" {files} files of it are here"
            )
            self._report.lose(place.kind, document, reason)
        self._add_notes()

    def _add_notes(self) -> None:
        """Tell what changed since an interrupted export began, and which models have no files."""
        if self._before is not None:
            for note in self._before.notes():
                self._report.note(note)
        if self._bare:
            shown = ", ".join(self._bare[:_MODELS_SHOWN])
            self._report.note(
                f"{len(self._bare)} logged models and model versions have no files where the source"
                f" says that they are: {shown}{', …' if self._bare[_MODELS_SHOWN:] else ''}"
            )

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._written is not None:
            self._written.close()
        if self._unfinished is not None:
            self._unfinished.close()


class _WorkspaceSink(BundleSink):
    """Writes one workspace of the bundle that another sink writes."""

    def __init__(self, whole: BundleSink, workspace: Workspace, report: Report) -> None:
        super().__init__(
            whole._open_writer,
            report,
            options=whole._options,
            now=whole._now,
            bundle_uuid=whole._uuid,
            progress=whole._progress,
        )
        self._whole = whole
        self._workspace = workspace

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        self._created_ms = self._whole._created_ms
        self._source = self._whole._source
        self._export_info = self._whole._export_info
        if not self._report.dry_run:
            self._whole._enter_section(_SECTIONS.index(WORKSPACE.directory))
            prefix = layout.workspace_prefix(self._workspace.name)
            self._writer = _PrefixedWriter(self._whole._out, prefix)
            if self._whole._written is not None:
                self._resume(Progressed(self._whole._written, prefix))

    def finish(self) -> None:
        self._complete()
        self._whole._totals.update(self._totals)
        self._whole._artifact_bytes += self._artifact_bytes
        self._whole.put(Content(entity=self._workspace))

    def close(self) -> None:
        """The writer belongs to the whole."""


class _PrefixedWriter:
    """A :class:`TreeWriter` that writes below a prefix of another one."""

    def __init__(self, writer: TreeWriter, prefix: str) -> None:
        self._writer = writer
        self._prefix = prefix

    def add(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> object:
        return self._writer.add(f"{self._prefix}{path}", data, mtime_ns=mtime_ns)

    def add_stream(
        self,
        path: str,
        stream: BinaryIO,
        size: int,
        *,
        mtime_ns: int | None = None,
        content_id: Hashable | None = None,
    ) -> object:
        return self._writer.add_stream(
            f"{self._prefix}{path}", stream, size, mtime_ns=mtime_ns, content_id=content_id
        )

    def finish(self) -> object:
        """The whole is finished by who made it."""
        return None

    def close(self) -> None:
        """The whole is closed by who made it."""


_SECTIONS = layout.ROOT_DIRECTORIES
"""Directories at the top in path order; some end with a manifest of what they hold."""
_REGISTRY_KIND = {directory: kind for kind, directory in layout.REGISTRY_DIRECTORY.items()}


def _cannot_go_on(directory: str) -> BundleError:
    return BundleError(
        f"this export was interrupted in the middle of {directory}, which the source does not give"
        " any more: it cannot go on",
        hint="`mlflow bundle recover` saves what the .partial file holds; --restart deletes it and"
        " begins anew",
    )


def _require_size(entity: Entity) -> None:
    """Refuse an entity whose document no reader would take, before anything of it is written.

    Raises:
        SinkError: It is too large.
    """
    if isinstance(entity, Run):
        texts = (*entity.params.values(), *entity.tags.values())
        size = sum(map(len, texts))
    elif isinstance(entity, RegisteredModel | LoggedModel):
        size = len(msgspec.msgpack.encode(entity))
    else:
        return
    if size > _LARGEST_ENTITY_BYTES:
        raise SinkError(
            f"its params, tags and texts have {size} bytes; a bundle holds "
            f"{_LARGEST_ENTITY_BYTES} of one {entity.kind.replace('_', ' ')}",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )


def _section_of(entity: Entity) -> int:
    return _SECTIONS.index(layout.entity_directory(entity).partition("/")[0])


def _fields(record: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(record)
