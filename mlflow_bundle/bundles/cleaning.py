"""Records as they are written: without credentials in URIs and without tags of an import under way.

Each value that is changed is an adjustment in the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from mlflow_bundle.credentials import URI_TAGS, mask_record, mask_uri, mask_uris_in
from mlflow_bundle.entities import (
    VERSION_KIND,
    Dataset,
    Entity,
    Experiment,
    LoggedModel,
    ModelVersion,
    PlainEntity,
    RegisteredModel,
    Run,
    RunInputs,
)
from mlflow_bundle.kinds import KINDS
from mlflow_bundle.provenance import carried_tags
from mlflow_bundle.report import Report

EntityT = TypeVar("EntityT", bound=Entity)
RecordT = TypeVar("RecordT", bound=msgspec.Struct)

_VERSION_URIS = ("source", "storage_location", "run_artifact_uri", "run_link")


class Cleaner:
    """Cleans records.

    Args:
        report: Counts what is masked.
    """

    def __init__(self, report: Report) -> None:
        self._report = report

    def clean(self, entity: EntityT) -> EntityT:
        """Return ``entity`` as it is written."""
        cleaned: Any = entity
        if isinstance(entity, Run):
            cleaned = _replace(
                entity,
                info=self._masked(Run.kind, entity.info, ("artifact_uri",)),
                tags=dict(sorted(self._tags(Run.kind, entity.tags).items())),
                inputs=self._inputs(entity.inputs),
            )
        elif isinstance(entity, Experiment | LoggedModel):
            cleaned = self._masked(entity.kind, entity, ("artifact_location",))
            cleaned = _replace(cleaned, tags=self._tags(entity.kind, entity.tags))
            if isinstance(entity, Experiment) and entity.datasets:
                datasets = [self._dataset(Experiment.kind, dataset) for dataset in entity.datasets]
                cleaned = _replace(cleaned, datasets=datasets)
        elif isinstance(entity, RegisteredModel):
            cleaned = self._registered_model(entity)
        elif isinstance(entity, PlainEntity):
            cleaned = self._plain(entity)
        result: EntityT = cleaned
        return result

    def clean_items(
        self, entity: PlainEntity, items: Iterable[msgspec.Struct]
    ) -> Iterable[msgspec.Struct]:
        """Return the items of an entity as they are written."""
        item = KINDS[entity.kind].item
        if not any(hasattr(item, f"{what}_fields") for what in ("uri", "text", "json")):
            return items
        adjust = self._report.adjust
        return (
            mask_record(item, lambda field: adjust(entity.kind, f"items.{field}")) for item in items
        )

    def _registered_model(self, model: RegisteredModel) -> RegisteredModel:
        kind = VERSION_KIND[model.kind]
        cleaned = _replace(
            model,
            tags=self._tags(model.kind, model.tags),
            versions=[self._version(kind, version) for version in model.versions],
        )
        if not model.deleted_versions:
            return cleaned
        deleted = [self._version(kind, version) for version in model.deleted_versions]
        return _replace(cleaned, deleted_versions=deleted)

    def _version(self, kind: str, version: ModelVersion) -> ModelVersion:
        masked = self._masked(kind, version, _VERSION_URIS)
        return _replace(masked, tags=self._tags(kind, version.tags))

    def _plain(self, entity: PlainEntity) -> PlainEntity:
        masked = mask_record(entity, lambda field: self._report.adjust(entity.kind, field))
        tags = getattr(entity, "tags", None)
        if tags:
            masked = _replace(masked, tags=self._tags(entity.kind, tags))
        metadata = getattr(entity, "metadata", None)
        if isinstance(metadata, dict):
            masked = _replace(masked, metadata=self._uris(entity.kind, "metadata", metadata))
        return masked

    def _inputs(self, inputs: RunInputs) -> RunInputs:
        """Inputs of a run, without credentials in the sources of its datasets."""
        masked = [
            _replace(entry, dataset=self._dataset(Run.kind, entry.dataset))
            for entry in inputs.dataset_inputs
        ]
        return RunInputs(dataset_inputs=masked, model_inputs=inputs.model_inputs)

    def _dataset(self, kind: str, dataset: Dataset) -> Dataset:
        source = mask_uris_in(dataset.source)
        if source == dataset.source:
            return dataset
        self._report.adjust(kind, "inputs.source (credentials masked)")
        return _replace(dataset, source=source)

    def _tags(self, kind: str, tags: dict[str, str]) -> dict[str, str]:
        """Tags as they are carried: ours that are transient left out, URIs masked."""
        return self._uris(kind, "tags", carried_tags(tags))

    def _uris(self, kind: str, name: str, values: dict[str, str]) -> dict[str, str]:
        """Tags or metadata with the URIs among them masked."""
        masked = dict(values)
        for key in URI_TAGS & values.keys():
            masked[key] = mask_uri(values[key])
            if masked[key] != values[key]:
                self._report.adjust(kind, f"{name}.{key} (credentials masked)")
        return masked

    def _masked(self, kind: str, record: RecordT, fields: tuple[str, ...]) -> RecordT:
        """Return ``record`` without credentials in its URI-valued ``fields``."""
        changes = {}
        for name in fields:
            value = getattr(record, name)
            if value and (masked := mask_uri(value)) != value:
                changes[name] = masked
                self._report.adjust(kind, f"{name} (credentials masked)")
        return _replace(record, **changes) if changes else record


def _replace(record: RecordT, **changes: Any) -> RecordT:
    return msgspec.structs.replace(record, **changes)
