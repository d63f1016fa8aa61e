"""Which fields hold the place of an entity's files, and where that is elsewhere.

``--rewrite-location OLD=NEW`` is for files that travel by themselves, such as a bucket that was
copied: what lay below OLD is now below NEW. It is told of artifact locations only. What a run says
of the data it read (the sources of its datasets) is a record of what happened and stays.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mlflow_bundle.entities import (
    Entity,
    Experiment,
    LoggedModel,
    ModelVersion,
    RegisteredModel,
    Run,
)
from mlflow_bundle.kinds.traces import ARCHIVE_LOCATION, ARTIFACT_LOCATION, Trace
from mlflow_bundle.references import is_below

_TRACE_TAGS = (ARTIFACT_LOCATION, ARCHIVE_LOCATION)


class Locations:
    """Where files are now.

    Args:
        moved: New root by old root. Of those that a location lies below the longest counts.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self._moved = dict(sorted(moved.items(), key=lambda item: -len(item[0])))
        self.unused = dict.fromkeys(self._moved)
        """Old roots that no location began with so far."""

    def __bool__(self) -> bool:
        return bool(self._moved)

    def of(self, location: str) -> str:
        """Return where a location is now."""
        for old, new in self._moved.items():
            if is_below(location, old):
                self.unused.pop(old, None)
                rest = location[len(old.rstrip("/")) :].lstrip("/")
                if not rest:
                    return new
                return new + rest if new.endswith("/") else f"{new}/{rest}"
        return location

    def map(self, entity: Entity) -> Entity:
        """Return an entity with the locations that it has now."""
        if isinstance(entity, Experiment | LoggedModel):
            location = self.of(entity.artifact_location)
            return msgspec.structs.replace(entity, artifact_location=location)
        if isinstance(entity, Run):
            uri = self.of(entity.info.artifact_uri)
            info = msgspec.structs.replace(entity.info, artifact_uri=uri)
            return msgspec.structs.replace(entity, info=info)
        if isinstance(entity, RegisteredModel):
            return self._model(entity)
        if isinstance(entity, Trace):
            places = {key: self.of(entity.tags[key]) for key in _TRACE_TAGS if key in entity.tags}
            return msgspec.structs.replace(entity, tags=entity.tags | places)
        return entity

    def _model(self, model: RegisteredModel) -> RegisteredModel:
        deleted = model.deleted_versions
        if isinstance(deleted, list):
            deleted = [self._version(version) for version in deleted]
        return msgspec.structs.replace(
            model,
            versions=[self._version(version) for version in model.versions],
            deleted_versions=deleted,
        )

    def _version(self, version: ModelVersion) -> ModelVersion:
        stored = version.storage_location
        return msgspec.structs.replace(
            version,
            source=self.of(version.source),
            storage_location=None if stored is None else self.of(stored),
        )
