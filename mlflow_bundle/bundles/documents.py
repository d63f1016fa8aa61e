"""The JSON documents of a bundle: their exact names and types, and what record each one holds.

The shapes are those of the mid-2022 export directories of mlflow-export-import, whose importer can
therefore read an extracted bundle, with more keys for what that generation lost (FORMAT.md,
documents). Encoding is strict JSON: NaN and infinities are the strings ``"NaN"``, ``"Infinity"``
and ``"-Infinity"``. Decoding refuses a wrong type with the path of the field and ignores unknown
keys, which :func:`unknown_keys` counts.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.archive import escape_component
from mlflow_bundle.contracts import ArtifactMode
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import (
    EncodedHistory,
    Experiment,
    Int64,
    KeyValue,
    LoggedModel,
    MetricHistory,
    ModelVersion,
    Number,
    Prompt,
    RegisteredModel,
    Run,
    RunInfo,
    RunInputs,
    RunOutputs,
    decode_number,
    encode_number,
)
from mlflow_bundle.errors import DocumentError, LimitError
from mlflow_bundle.kinds import Kind, PlainEntity
from mlflow_bundle.report import Loss

DOCUMENTS_VERSION = 1
"""``documents`` in bundle.json: changes within a version only add."""

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Largest document that is read into memory."""

VERSION_NUMBER = re.compile(r"[0-9]{1,18}")
"""``version`` of model versions and aliases: a number in a string, as the peer wrote it."""

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=PlainEntity)
ItemT = TypeVar("ItemT", bound=msgspec.Struct)


class BundleHeader(msgspec.Struct, frozen=True, kw_only=True):
    """``.mlbundle/bundle.json``: what this bundle is and where it came from."""

    format: str
    format_version: str
    uuid: str
    writer: str
    created: str
    documents: Int64
    source: HeaderSource
    selection: dict[str, Any] = {}
    options: dict[str, Any] = {}
    as_of: Int64
    require: list[str] = []
    prerequisites: list[dict[str, Any]] = []


class HeaderSource(msgspec.Struct, frozen=True, kw_only=True):
    """The server a bundle was exported from."""

    uri: str
    mlflow_version: str = ""


class ExportInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who exported a document; the same in every document of a bundle."""

    mlflow_version: str = ""
    mlflow_tracking_uri: str = ""
    export_time: str = ""


class ArtifactSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the bundle holds of an entity's artifacts: "none" and "not exported" differ."""

    mode: ArtifactMode
    files: Int64 = 0
    bytes: Int64 = 0


class MetricPoint(msgspec.Struct, frozen=True, gc=False):
    """One logged point of a metric."""

    value: Number
    timestamp: Int64
    step: Int64


class RunDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``run.json``."""

    export_info: ExportInfo = ExportInfo()
    info: RunInfo
    params: dict[str, str] = {}
    metrics: dict[str, list[MetricPoint]] = {}
    """Short histories; what is written may have some encoded already (``msgspec.Raw``)."""
    tags: dict[str, str] = {}
    inputs: RunInputs = RunInputs()
    outputs: RunOutputs = RunOutputs()
    artifacts: ArtifactSummary | None = None
    metric_parts: dict[str, list[str]] = {}
    """Long histories: key to part files below the run's directory, in order."""
    names: dict[str, str] = {}
    """Artifact paths whose escaped form does not tell them: member path below ``artifacts/`` to
    the original path."""
    losses: list[Loss] = []
    """What should be here and is not; the top manifest has it too."""

    def entity(self) -> Run:
        """The record that this document holds."""
        return Run(
            info=self.info,
            params=self.params,
            tags=self.tags,
            inputs=self.inputs,
            outputs=self.outputs,
            metric_keys=sorted({*self.metrics, *self.metric_parts}),
        )


class RunHead(msgspec.Struct, frozen=True, kw_only=True):
    """``run.json`` without its points: what the first pass of an import needs."""

    info: RunInfo
    tags: dict[str, str] = {}
    inputs: RunInputs = RunInputs()
    outputs: RunOutputs = RunOutputs()
    artifacts: ArtifactSummary | None = None

    def entity(self) -> Run:
        """The record, without params and metric keys."""
        return Run(info=self.info, tags=self.tags, inputs=self.inputs, outputs=self.outputs)


class MetricPart(msgspec.Struct, frozen=True, kw_only=True):
    """``metrics/<key>/<nnnnnn>.json``: a chunk of a long history."""

    key: str
    points: list[MetricPoint]


class LoggedModelDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``logged_model.json``."""

    export_info: ExportInfo = ExportInfo()
    logged_model: LoggedModel
    artifacts: ArtifactSummary | None = None
    names: dict[str, str] = {}
    losses: list[Loss] = []

    def entity(self) -> LoggedModel:
        """The record that this document holds."""
        return self.logged_model


class ExperimentExportInfo(ExportInfo, frozen=True, kw_only=True):
    """``export_info`` of an experiment's manifest."""

    num_total_runs: Int64 = 0
    num_ok_runs: Int64 = 0
    ok_runs: list[str] = []
    num_failed_runs: Int64 = 0
    failed_runs: list[str] = []
    ok_logged_models: list[str] = []


class ExperimentDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``experiments/<id>/manifest.json``."""

    experiment: Experiment
    export_info: ExperimentExportInfo = ExperimentExportInfo()

    def entity(self) -> Experiment:
        """The record that this document holds."""
        return self.experiment


class ExperimentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``experiments/manifest.json``."""

    id: str
    name: str
    ok_runs: Int64 = 0
    failed_runs: Int64 = 0
    duration: float = 0.0


class ExperimentsInfo(ExportInfo, frozen=True, kw_only=True):
    """``info`` of ``experiments/manifest.json``."""

    duration: float = 0.0
    experiments: Int64 = 0
    total_runs: Int64 = 0
    ok_runs: Int64 = 0
    failed_runs: Int64 = 0


class ExperimentsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``experiments/manifest.json``."""

    info: ExperimentsInfo = ExperimentsInfo()
    experiments: list[ExperimentEntry] = []


class VersionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``latest_versions``; ``version`` is a string, as the peer wrote it."""

    name: str
    version: str
    creation_timestamp: Int64 | None = None
    current_stage: str = "None"
    description: str = ""
    last_updated_timestamp: Int64 | None = None
    run_id: str = ""
    run_link: str = ""
    source: str = ""
    status: str = "READY"
    status_message: str = ""
    tags: dict[str, str] = {}
    user_id: str = ""
    run_artifact_uri: str | None = msgspec.field(name="_run_artifact_uri", default=None)
    experiment_name: str | None = msgspec.field(name="_experiment_name", default=None)
    experiment_id: str | None = msgspec.field(name="_experiment_id", default=None)
    storage_location: str | None = msgspec.field(name="_storage_location", default=None)
    artifacts: ArtifactSummary | None = None
    names: dict[str, str] = {}
    null_fields: list[str] | UnsetType = UNSET

    def entity(self) -> ModelVersion:
        """The record that this entry holds."""
        return ModelVersion(
            version=int(self.version),
            **{name: getattr(self, name) for name in _VERSION_FIELDS},
        )


_VERSION_FIELDS = tuple(name for name in ModelVersion.__struct_fields__ if name != "version")


class AliasDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One alias; ``version`` is a string, as MLflow's REST API has it."""

    alias: str
    version: str


class RegisteredModelBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``registered_model`` of ``model.json``: absent means empty, as in MLflow's REST bodies."""

    name: str
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    description: str = ""
    tags: list[KeyValue] = []
    aliases: list[AliasDocument] = []
    latest_versions: list[VersionDocument] = []
    """All versions that were exported, by number; the name is the peer's."""
    deleted_versions: list[VersionDocument] | UnsetType = UNSET
    null_fields: list[str] | UnsetType = UNSET


class RegisteredModelDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``model.json`` and ``prompt.json``."""

    export_info: ExportInfo = ExportInfo()
    registered_model: RegisteredModelBody
    losses: list[Loss] = []

    def entity(self, kind: str) -> RegisteredModel:
        """The record that this document holds.

        Args:
            kind: ``registered_model`` or ``prompt``.
        """
        body = self.registered_model
        record = Prompt if kind == Prompt.kind else RegisteredModel
        return record(
            name=body.name,
            description=body.description,
            tags={tag.key: tag.value for tag in body.tags},
            aliases={entry.alias: int(entry.version) for entry in body.aliases},
            creation_timestamp=body.creation_timestamp,
            last_updated_timestamp=body.last_updated_timestamp,
            versions=sorted((v.entity() for v in body.latest_versions), key=lambda v: v.version),
            deleted_versions=UNSET
            if body.deleted_versions is UNSET
            else [version.entity() for version in body.deleted_versions],
            null_fields=body.null_fields,
        )


class RegistryInfo(ExportInfo, frozen=True, kw_only=True):
    """``info`` of ``models/manifest.json`` and ``prompts/manifest.json``."""

    total_models: Int64 = 0
    ok_models: Int64 = 0
    failed_models: Int64 = 0
    duration: float = 0.0


class RegistryDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``models/manifest.json`` and ``prompts/manifest.json``."""

    info: RegistryInfo = RegistryInfo()
    stages: str | None = None
    notebook_formats: str | None = ""
    ok_models: list[str] = []
    failed_models: list[str] = []


class ManifestInfo(ExportInfo, frozen=True, kw_only=True):
    """``info`` of the top ``manifest.json``."""

    duration: float = 0.0


class ManifestDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The top ``manifest.json``: totals per kind, losses, adjustments."""

    info: ManifestInfo = ManifestInfo()
    stages: str | None = None
    notebook_formats: str | None = ""
    totals: dict[str, Int64] = {}
    artifact_bytes: Int64 = 0
    losses: list[Loss] = []
    adjustments: dict[str, Int64] = {}


class PlainDocument(msgspec.Struct, Generic[RecordT, ItemT], frozen=True, kw_only=True):
    """The document of a plain entity (`kinds`): ``trace.json``, ``issue.json`` and so on."""

    export_info: ExportInfo = ExportInfo()
    kind: str
    entity: RecordT
    artifacts: ArtifactSummary | None = None
    """Only of kinds that have artifacts."""
    items: list[ItemT] = []
    item_parts: list[str] = []
    """What is too long for ``items``: part files below the entity's directory, in order, that
    continue them."""
    names: dict[str, str] = {}
    losses: list[Loss] = []


class PlainHead(msgspec.Struct, Generic[RecordT], frozen=True, kw_only=True):
    """The document of a plain entity without its items."""

    kind: str
    entity: RecordT


class ItemPart(msgspec.Struct, Generic[ItemT], frozen=True, kw_only=True):
    """``items/<nnnnnn>.json``: more items of a plain entity."""

    items: list[ItemT]


@functools.cache
def plain_document(kind: Kind) -> Any:
    """Type of the document of a kind: ``PlainDocument[record, item]``."""
    return PlainDocument[kind.record, kind.item]  # type: ignore[name-defined]


@functools.cache
def plain_head(kind: Kind) -> Any:
    """Type of the document of a kind without its items: ``PlainHead[record]``."""
    return PlainHead[kind.record]  # type: ignore[name-defined]


@functools.cache
def item_part(kind: Kind) -> Any:
    """Type of a part of the items of a kind: ``ItemPart[item]``."""
    return ItemPart[kind.item]  # type: ignore[name-defined]


def version_document(
    version: ModelVersion, *, artifacts: ArtifactSummary | None = None, names: dict[str, str]
) -> VersionDocument:
    """Return ``version`` as its entry in ``model.json``."""
    return VersionDocument(
        version=str(version.version),
        artifacts=artifacts,
        names=names,
        **{name: getattr(version, name) for name in _VERSION_FIELDS},
    )


def points_of(history: MetricHistory) -> list[MetricPoint]:
    """Return a history as points, non-finite values as strings."""
    return _points(history.values, history.timestamps, history.steps)


def encode_history(
    key: str, values: Sequence[float], timestamps: Sequence[int], steps: Sequence[int]
) -> EncodedHistory:
    """Return a whole history encoded."""
    points = msgspec.json.encode(_points(values, timestamps, steps))
    return EncodedHistory(key, len(values), points)


def _points(
    values: Sequence[float], timestamps: Sequence[int], steps: Sequence[int]
) -> list[MetricPoint]:
    # There are millions: no loop of Python's own where there need be none.
    numbers: Sequence[Any] = values
    if not all(map(math.isfinite, values)):
        numbers = [encode_number(value) for value in values]
    return list(itertools.starmap(MetricPoint, zip(numbers, timestamps, steps, strict=True)))


def decode_points(history: EncodedHistory) -> list[MetricPoint]:
    """Return the points of a history that was encoded."""
    return msgspec.json.decode(history.points, type=prepared(list[MetricPoint]))


@functools.lru_cache(4096)  # many runs have the same metrics
def history_order(key: str) -> bytes:
    """Sort key that puts metric keys in the order of their directories."""
    return escape_component(key).encode()


def history_of(key: str, points: list[MetricPoint]) -> MetricHistory:
    """Inverse of :func:`points_of`."""
    values: list[Any] = [point.value for point in points]
    if set(map(type, values)) != {float}:
        values = [decode_number(value) for value in values]
    return MetricHistory(
        key=key,
        values=values,
        timestamps=[point.timestamp for point in points],
        steps=[point.step for point in points],
    )


def encode(document: msgspec.Struct) -> bytes:
    """Return the document as strict JSON in UTF-8 with a final newline."""
    return msgspec.json.encode(document) + b"\n"


def decode(data: bytes, type: type[T], *, path: str) -> T:
    """Decode one document.

    Args:
        data: The document's bytes.
        type: One of this module's document types.
        path: Member path, for the error.

    Raises:
        DocumentError: Not JSON, or a field is missing or of a wrong type; ``field_path`` names it.
        LimitError: Larger than ``MAX_DOCUMENT_BYTES``.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise LimitError(f"document of {len(data)} bytes, at most {MAX_DOCUMENT_BYTES}", path=path)
    try:
        if not data.isascii():
            data.decode()  # msgspec passes over unknown keys and their values without looking
        return msgspec.json.decode(data, type=prepared(type))
    except msgspec.ValidationError as exc:
        message, _, where = str(exc).partition(" - at `$")
        raise DocumentError(
            message[:1].lower() + message[1:],
            path=path,
            field_path=_resolve_field_path(data, type, where.rstrip("`").lstrip(".")),
        ) from exc
    except msgspec.DecodeError as exc:
        raise DocumentError(f"not JSON: {exc}", path=path) from exc
    except (UnicodeDecodeError, RecursionError) as exc:
        raise DocumentError(f"not JSON: {exc}", path=path) from exc


def unknown_keys(data: bytes, type: type[msgspec.Struct]) -> list[str]:
    """Return the keys of the document's first two levels that this version does not know."""
    return sorted(_unknown(data, type, prefix="", depth=2))


@functools.cache
def _types_of_fields(document: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the types of a record's fields by the key that each has in a document."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(document)}


def _unknown(data: bytes, type: type[msgspec.Struct], *, prefix: str, depth: int) -> Iterator[str]:
    fields = _types_of_fields(type)
    for key, raw in msgspec.json.decode(data, type=dict[str, msgspec.Raw]).items():
        if key not in fields:
            yield prefix + key
        elif depth > 1 and isinstance(fields[key], _StructMeta) and bytes(raw)[:1] == b"{":
            yield from _unknown(bytes(raw), fields[key], prefix=f"{key}.", depth=depth - 1)


_StructMeta = type(msgspec.Struct)


def _resolve_field_path(data: bytes, type: type[Any], where: str) -> str:
    """Replace the ``[...]`` that stands for a mapping's key by the key at fault.

    The first level of a mapping is enough: no document nests mappings.
    """
    name, placeholder, rest = where.partition("[...]")
    if not placeholder or not re.fullmatch(r"\w+(\.\w+)*", name):
        return where
    target: Any = type
    value: Any = data
    try:
        for step in name.split("."):
            target = _types_of_fields(target)[step]
            value = msgspec.json.decode(value, type=dict[str, msgspec.Raw])[step]
        items = msgspec.json.decode(value, type=dict[str, msgspec.Raw]).items()
    except (msgspec.DecodeError, RecursionError, KeyError):
        return where  # the field comes twice, or what follows it is no JSON
    for key, raw in items:
        try:
            msgspec.json.decode(raw, type=prepared(target.__args__[1]))
        except msgspec.ValidationError:
            return f'{name}["{key}"]{rest}'
    return where
