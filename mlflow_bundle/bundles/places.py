"""What a document says of its own place: the ids in it and the paths around it agree."""

from __future__ import annotations

import re

from mlflow_bundle import layout
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.errors import DocumentError

_PART = re.compile(rf"{layout.ITEMS}/[0-9]{{6,}}\.json")


def check_place(document: object, kind: str, path: str) -> None:
    """Refuse the document at ``path`` if the entity that it holds belongs elsewhere.

    Raises:
        DocumentError: It does, or a version of a model is no number.
    """
    prefix, below = layout.split_workspace(path)
    there, field = _place_of(document, kind, path, below) or (below, "")
    if there != below:
        raise DocumentError(f"belongs to {prefix}{there}", path=path, field_path=field)


def _place_of(document: object, kind: str, path: str, below: str) -> tuple[str, str] | None:
    """Where a document belongs in its workspace's tree, and the field that says so."""
    if isinstance(document, (docs.RunDocument, docs.RunHead)):
        # The record sorts its metrics: not needed here, and long.
        info = document.info
        there = f"{layout.run_directory(info.experiment_id, info.run_id)}/{layout.RUN_DOCUMENT}"
        field = f"info.{_wrong_id(info.experiment_id, below, 'run_id')}"
    elif isinstance(document, docs.LoggedModelDocument):
        there = layout.document_path(document.logged_model)
        model = document.logged_model
        field = f"logged_model.{_wrong_id(model.experiment_id, below, 'model_id')}"
    elif isinstance(document, docs.ExperimentDocument):
        there = layout.document_path(document.experiment)
        field = "experiment.experiment_id"
    elif isinstance(document, docs.RegisteredModelDocument):
        there, field = _place_of_model(document, kind, path)
    elif isinstance(document, (docs.PlainDocument, docs.PlainHead)):
        if document.kind != kind:
            raise DocumentError(
                f"expected {kind!r}, got {document.kind!r}", path=path, field_path="kind"
            )
        there, field = layout.document_path(document.entity), "entity"
    else:
        return None
    return there, field


def check_parts(parts: list[str], path: str) -> None:
    """Refuse ``item_parts`` of the document at ``path`` that are no parts, or come twice.

    Raises:
        DocumentError: One does.
    """
    for position, part in enumerate(parts):
        if not _PART.fullmatch(part) or part in parts[:position]:
            raise DocumentError(
                f"expected another part such as items/000001.json, got {part!r}",
                path=path,
                field_path=f"item_parts[{position}]",
            )


def _place_of_model(
    document: docs.RegisteredModelDocument, kind: str, path: str
) -> tuple[str, str]:
    body = document.registered_model
    for position, version in enumerate(body.latest_versions):
        where = f"registered_model.latest_versions[{position}]"
        if not docs.VERSION_NUMBER.fullmatch(version.version):
            raise DocumentError(
                f"expected a number, got {version.version!r}",
                path=path,
                field_path=f"{where}.version",
            )
    for position, alias in enumerate(body.aliases):
        if not docs.VERSION_NUMBER.fullmatch(alias.version):
            raise DocumentError(
                f"expected a number, got {alias.version!r}",
                path=path,
                field_path=f"registered_model.aliases[{position}].version",
            )
    name = layout.REGISTRY_DOCUMENT[kind]
    return f"{layout.registry_directory(kind, body.name)}/{name}", "registered_model.name"


def _wrong_id(experiment_id: str, path: str, id_field: str) -> str:
    """Name of the id that contradicts ``path``, if one does."""
    below = f"{layout.experiment_directory(experiment_id)}/"
    return id_field if path.startswith(below) else "experiment_id"
