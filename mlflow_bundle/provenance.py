"""The tags that tie an imported entity to the one it came from: the destination is the ledger.

Resume and idempotence need no state file: what was imported says so itself.
"""

from __future__ import annotations

from mlflow_bundle.entities import Experiment, ModelVersion

PREFIX = "mlflow_bundle."
"""Every tag of ours begins with this."""

ORIGIN = "mlflow_bundle.origin"
"""The id an entity had at its first home; copied unchanged when it is exported again."""

STATE = "mlflow_bundle.state"
"""``importing`` while an entity is being filled; removed last."""

IMPORTING = "importing"

IMPORTER = "mlflow_bundle.importer"
"""Who imports into an experiment right now, as ``<uuid> <time in ms>``; removed at the end."""

FILLER = "mlflow_bundle.filler"
"""Marks a model version that only holds a number free and is deleted at once."""

SOURCE_USER = "mlflow_bundle.source_user"
"""The user of a run at its source, where Databricks or ``--use-src-user-id False`` gave another."""

SOURCE_VERSION = "mlflow_bundle.source_version"
"""The number of a model version at its source, where ``--renumber`` gave it another."""

SOURCE_ARTIFACTS = "mlflow_bundle.artifact_uri"
"""Where a run's or logged model's artifacts lie, where they were referenced instead of copied."""

DELETED_MODELS = "mlflow_bundle.deleted_models"
"""Of an experiment: JSON, origin to id of the logged models that imports made and deleted, which no
listing shows; what has no room follows in ``mlflow_bundle.deleted_models.2`` and so on. Never
carried."""

TRANSIENT = frozenset({STATE, IMPORTER, FILLER})
"""Tags of ours that describe an import under way and are never carried."""


def origin_of(id: str, tags: dict[str, str]) -> str:
    """Origin of an entity: its tag if it was imported once, else its own id."""
    return tags.get(ORIGIN, id)


def is_same(experiment: Experiment, creation_time: int | None, origin: str | None) -> bool:
    """Whether an experiment at the destination is the bundle's, and not only of its name.

    Args:
        experiment: The bundle's.
        creation_time: Of the one at the destination, in ms.
        origin: Its tag.
    """
    if creation_time == experiment.creation_time is not None:
        return True
    return origin == origin_of(experiment.experiment_id, experiment.tags)


def version_origin(version: ModelVersion) -> str:
    """Origin of a model version.

    The number alone is not unique among servers, so the creation time at its first home is part of
    it.
    """
    id = f"{version.name}/{version.version}"
    if version.creation_timestamp is not None:
        id += f"/{version.creation_timestamp}"
    return origin_of(id, version.tags)


def carried_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return ``tags`` without those that only describe an import under way or its server."""
    return {
        key: value
        for key, value in tags.items()
        if key not in TRANSIENT and not key.startswith(DELETED_MODELS)
    }
