"""Writes entities as a bundle: into one file, to standard output, or as a plain directory.

Contents come in path order and are written as they come; manifests follow the entities they count.
Memory holds one document, the ids of one experiment and whatever the writer buffers.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

import msgspec

import mlflow_bundle
from mlflow_bundle import layout
from mlflow_bundle.archive.frames import FORMAT_NAME, FORMAT_VERSION
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles import manifests
from mlflow_bundle.bundles.artifact_paths import member_names, needs_name
from mlflow_bundle.bundles.tree import TreeWriter
from mlflow_bundle.contracts import ArtifactTree, Content, NoArtifacts, Sink, SourceInfo
from mlflow_bundle.credentials import URI_TAGS, mask_uri, mask_uris_in
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    KeyValue,
    LoggedModel,
    MetricHistory,
    RegisteredModel,
    Run,
    RunInputs,
)
from mlflow_bundle.errors import ServerError
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.provenance import carried_tags
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.source_tags import source_tags

_NOTEBOOK_TAG = "mlflow.databricks.notebookPath"

INLINE_POINTS_PER_KEY = 10_000
INLINE_POINTS_PER_RUN = 100_000
POINTS_PER_PART = 50_000

RecordT = TypeVar("RecordT", bound=msgspec.Struct)

WriterFactory = Callable[[bytes, uuid.UUID, int], TreeWriter]
"""Makes the writer from the header's bytes, the bundle's uuid and the default mtime in ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the seed's export options say about documents."""

    export_source_tags: bool = False
    stages: str | None = None
    notebook_formats: str | None = ""


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
    """

    def __init__(
        self,
        open_writer: WriterFactory,
        report: Report,
        *,
        options: ExportOptions = ExportOptions(),
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        bundle_uuid: uuid.UUID | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._open_writer = open_writer
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

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        created = self._now().replace(microsecond=0)
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
            as_of=self._created_ms,
        )
        if not self._report.dry_run:
            self._writer = self._open_writer(
                docs.encode(header), self._uuid, self._created_ms * 1_000_000
            )

    def reserve(self, entity: Entity, *, dry: bool = False) -> None:
        if isinstance(entity, Experiment):
            self._experiment_names[entity.id] = entity.name

    @property
    def _out(self) -> TreeWriter:
        if self._writer is None:
            raise RuntimeError("begin() was not called")
        return self._writer

    def put(self, content: Content) -> None:
        entity = content.entity
        self._enter_section(_SECTION_OF[entity.kind])
        if isinstance(entity, Run):
            self._put_run(entity, content)
        elif isinstance(entity, LoggedModel):
            self._put_logged_model(entity, content)
        elif isinstance(entity, Experiment):
            self._put_experiment(entity)
        else:
            self._put_registered_model(entity, content)
        self._totals[entity.kind] += 1
        self._report.did(entity.kind)
        self._progress.advance(1)

    def _put_run(self, run: Run, content: Content) -> None:
        directory = layout.entity_directory(run)
        mtime_ms = run.info.end_time or run.info.start_time
        artifacts, names = self._write_artifacts(
            f"{directory}/{layout.ARTIFACTS}", content.artifacts, f"run {run.id}", mtime_ms
        )
        metrics, parts = self._write_histories(directory, content.histories())
        if self._options.notebook_formats and _NOTEBOOK_TAG in run.tags:
            self._report.lose(
                Run.kind,
                run.id,
                "this version of mlflow-bundle does not export Databricks notebooks",
                field="notebooks",
                parent=run.info.experiment_id,
            )
        tags = self._tags("run", run.tags)
        if self._options.export_source_tags:
            name = self._experiment_names.get(run.info.experiment_id, "")
            tags |= source_tags(run, self._source, self._created_ms, name)
        document = docs.RunDocument(
            export_info=self._export_info,
            info=_masked(run.info, ("artifact_uri",), self._report, "run"),
            params=run.params,
            metrics=metrics,
            tags=dict(sorted(tags.items())),
            inputs=self._inputs(run.inputs),
            outputs=run.outputs,
            artifacts=artifacts,
            metric_parts=parts,
            names=names,
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
        masked = _masked(model, ("artifact_location",), self._report, "logged_model")
        document = docs.LoggedModelDocument(
            export_info=self._export_info,
            logged_model=_replace(masked, tags=self._tags("logged_model", model.tags)),
            artifacts=artifacts,
            names=names,
        )
        self._add_document(f"{directory}/{layout.LOGGED_MODEL_DOCUMENT}", document)
        self._open_experiment.logged_models.append(model.id)

    def _put_experiment(self, experiment: Experiment) -> None:
        written, self._open_experiment = self._open_experiment, _OpenExperiment()
        failed = [
            loss.id
            for loss in self._report.losses
            if loss.kind == Run.kind and loss.parent == experiment.id and not loss.field
        ]
        masked = _masked(experiment, ("artifact_location",), self._report, "experiment")
        document = docs.ExperimentDocument(
            experiment=_replace(masked, tags=self._tags("experiment", experiment.tags)),
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
        # Directories sort as text: versions/10 comes before versions/2.
        for number in sorted(content.version_artifacts, key=str):
            version = next(v for v in model.versions if v.version == number)
            written[number] = self._write_artifacts(
                layout.version_artifacts_directory(directory, number),
                content.version_artifacts[number],
                f"{VERSION_KIND[model.kind]} {model.name}/{number}",
                version.creation_timestamp,
            )
        versions = []
        for version in model.versions:
            artifacts, names = written.get(version.version, (None, {}))
            masked = _masked(
                version,
                ("source", "storage_location", "run_artifact_uri", "run_link"),
                self._report,
                VERSION_KIND[model.kind],
            )
            masked = _replace(masked, tags=self._tags(VERSION_KIND[model.kind], version.tags))
            versions.append(docs.version_document(masked, artifacts=artifacts, names=names))
        document = docs.RegisteredModelDocument(
            export_info=self._export_info,
            registered_model=docs.RegisteredModelBody(
                name=model.name,
                creation_timestamp=model.creation_timestamp,
                last_updated_timestamp=model.last_updated_timestamp,
                description=model.description,
                tags=[
                    KeyValue(key=key, value=value)
                    for key, value in sorted(self._tags(model.kind, model.tags).items())
                ],
                aliases=[
                    docs.AliasDocument(alias=alias, version=str(version))
                    for alias, version in sorted(model.aliases.items())
                ],
                latest_versions=versions,
            ),
        )
        self._add_document(layout.document_path(model), document)
        self._registry[model.kind].append(model.name)
        self._totals[VERSION_KIND[model.kind]] += len(versions)
        self._report.did(VERSION_KIND[model.kind], len(versions))

    def _inputs(self, inputs: RunInputs) -> RunInputs:
        """Inputs of a run, without credentials in the sources of its datasets."""
        masked = []
        for entry in inputs.dataset_inputs:
            source = mask_uris_in(entry.dataset.source)
            if source != entry.dataset.source:
                self._report.adjust("run", "inputs.source (credentials masked)")
                entry = _replace(entry, dataset=_replace(entry.dataset, source=source))
            masked.append(entry)
        return RunInputs(dataset_inputs=masked, model_inputs=inputs.model_inputs)

    def _tags(self, kind: str, tags: dict[str, str]) -> dict[str, str]:
        """Tags as they are carried: ours that are transient left out, URIs masked."""
        carried = carried_tags(tags)
        for key in URI_TAGS & carried.keys():
            masked = mask_uri(carried[key])
            if masked != carried[key]:
                carried[key] = masked
                self._report.adjust(kind, f"tags.{key} (credentials masked)")
        return carried

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
        for member, file in member_names(files):
            try:
                with (opened := tree.open(file)).stream as stream:
                    self._out.add_stream(
                        f"{directory}/{member}",
                        stream,
                        opened.size,
                        mtime_ns=mtime_ns,
                        content_id=file.content_id,
                    )
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._report.lose("artifact", f"{owner_id}/{file.path}", exc.message)
                continue
            if needs_name(member):
                names[member] = file.path
            count += 1
            total += opened.size
            self._progress.advance(bytes=opened.size)
        if count:
            self._totals["artifact"] += count
        self._artifact_bytes += total
        self._report.did("artifact", count, size=total)
        return docs.ArtifactSummary(mode=tree.mode, files=count, bytes=total), names

    def _write_histories(
        self, directory: str, histories: Iterable[MetricHistory]
    ) -> tuple[dict[str, list[docs.MetricPoint]], dict[str, list[str]]]:
        """Write what is too long for the document; return the rest, and the parts by key.

        Keys come in the order of their escaped form, which is the order of their directories.
        """
        inline: dict[str, list[docs.MetricPoint]] = {}
        parts: dict[str, list[str]] = {}
        inline_points = 0
        for key, points in _by_key(histories):
            budget = min(INLINE_POINTS_PER_KEY, INLINE_POINTS_PER_RUN - inline_points)
            pending: list[docs.MetricPoint] = []
            long = False
            for point_list in points:
                pending += point_list
                long = long or len(pending) > budget
                while long and len(pending) >= POINTS_PER_PART:
                    self._write_part(directory, key, pending[:POINTS_PER_PART], parts)
                    del pending[:POINTS_PER_PART]
            if long:
                if pending:
                    self._write_part(directory, key, pending, parts)
            else:
                inline[key] = pending
                inline_points += len(pending)
        return dict(sorted(inline.items())), parts

    def _write_part(
        self,
        directory: str,
        key: str,
        points: list[docs.MetricPoint],
        parts: dict[str, list[str]],
    ) -> None:
        named = parts.setdefault(key, [])
        member = f"{layout.metric_directory(directory, key)}/{len(named) + 1:06d}.json"
        self._add_document(member, docs.MetricPart(key=key, points=points))
        named.append(member.removeprefix(f"{directory}/"))

    def _add_document(self, path: str, document: object) -> None:
        self._out.add(path, docs.encode(document))  # type: ignore[arg-type]

    def _enter_section(self, section: int) -> None:
        """Write the manifests of the sections that are complete."""
        while self._section < section:
            self._close_section(self._section)
            self._section += 1

    def _close_section(self, section: int) -> None:
        if section == _EXPERIMENTS:
            self._add_document(
                f"{layout.EXPERIMENTS}/{layout.MANIFEST}",
                manifests.experiments_document(self._export_info, self._experiments),
            )
            return
        kind = "registered_model" if section == _MODELS else "prompt"
        document = manifests.registry_document(
            self._export_info,
            names=self._registry[kind],
            failed=[loss.id for loss in self._report.losses if loss.kind == kind],
            stages=self._options.stages,
            notebook_formats=self._options.notebook_formats,
        )
        self._add_document(f"{layout.REGISTRY_DIRECTORY[kind]}/{layout.MANIFEST}", document)

    def finish(self) -> None:
        self._enter_section(_END)
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

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_EXPERIMENTS, _MODELS, _PROMPTS, _END = range(4)
_SECTION_OF = {
    "experiment": _EXPERIMENTS,
    "run": _EXPERIMENTS,
    "logged_model": _EXPERIMENTS,
    "registered_model": _MODELS,
    "prompt": _PROMPTS,
}


def _by_key(
    histories: Iterable[MetricHistory],
) -> Iterable[tuple[str, Iterable[list[docs.MetricPoint]]]]:
    """Group consecutive chunks of one key."""
    for key, chunks in itertools.groupby(histories, key=lambda chunk: chunk.key):
        yield key, (docs.points_of(chunk) for chunk in chunks)


def _fields(record: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


def _replace(record: RecordT, **changes: Any) -> RecordT:
    return msgspec.structs.replace(record, **changes)


def _masked(record: RecordT, fields: tuple[str, ...], report: Report, kind: str) -> RecordT:
    """Return ``record`` without credentials in its URI-valued ``fields``."""
    changes = {}
    for name in fields:
        value = getattr(record, name)
        if value and (masked := mask_uri(value)) != value:
            changes[name] = masked
            report.adjust(kind, f"{name} (credentials masked)")
    return _replace(record, **changes) if changes else record
