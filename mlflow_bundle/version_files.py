"""Where the files of a model version lie: in a run or logged model, or in a place of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlflow_bundle.entities import LoggedModel, ModelVersion, RegisteredModel, Run
from mlflow_bundle.references import is_below, logged_model_id_of, run_id_of

HOLDER_DIRECTORY = "model"
"""Where the files of a version lie in a run that an import over REST has made for them."""

HELD_DIRECTORY = "model_versions"
"""Where an import puts those of several into a run of theirs; name and number come below."""

IsMoved = Callable[[str, str], bool]
"""Whether a run or logged model travels: kind, id."""


def own_location(version: ModelVersion, is_moved: IsMoved) -> str | None:
    """Return where a version's files lie, unless a run or logged model that is moved holds them."""
    uri = version.storage_location or version.source
    if run_id_of(uri) is not None or uri.startswith("models:/") or not uri:
        return None
    model_id = logged_model_id_of(uri)
    if model_id is not None and is_moved(LoggedModel.kind, model_id):
        return None
    if version.run_artifact_uri and is_below(uri, version.run_artifact_uri):
        return None
    return uri


def own_locations(model: RegisteredModel, is_moved: IsMoved) -> Iterator[tuple[ModelVersion, str]]:
    """Yield the versions with files of their own, and where those lie, in path order."""
    # Directories sort as text: versions/10 comes before versions/2.
    for version in sorted(model.versions, key=lambda v: str(v.version)):
        uri = own_location(version, is_moved)
        if uri is not None:
            yield version, uri


def lost_holders(model: RegisteredModel, is_moved: IsMoved) -> Iterator[tuple[str, str, str]]:
    """Yield what held the files of a version and does not travel: version's id, kind, id."""
    for version in model.versions:
        model_id, run_id = logged_model_id_of(version.source), run_id_of(version.source)
        for kind, id in ((LoggedModel.kind, model_id), (Run.kind, run_id)):
            if id is not None and not is_moved(kind, id):
                yield f"{version.name}/{version.version}", kind, id
