"""Where each entity lies in a bundle: the documented directory tree, in one place.

::

    .mlbundle/bundle.json
    experiments/<experiment_id>/<run_id>/artifacts/...
    experiments/<experiment_id>/<run_id>/metrics/<key>/<nnnnnn>.json
    experiments/<experiment_id>/<run_id>/run.json
    experiments/<experiment_id>/logged_models/<model_id>/{artifacts/..., logged_model.json}
    experiments/<experiment_id>/manifest.json
    experiments/manifest.json
    models/<name>/versions/<n>/artifacts/...
    models/<name>/model.json
    models/manifest.json
    prompts/<name>/prompt.json
    prompts/manifest.json
    manifest.json

Every name that a server gave is escaped (FORMAT.md, escaping), so that any legal MLflow name fits
and no name can collide with a fixed one. An entity's members lie in its own directory, its document
last, so the whole tree sorts by ``order_key`` into one stream.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mlflow_bundle.archive import escape_component
from mlflow_bundle.entities import Entity, Experiment, LoggedModel, RegisteredModel, Run

MANIFEST = "manifest.json"
EXPERIMENTS = "experiments"
MODELS = "models"
PROMPTS = "prompts"
LOGGED_MODELS = "logged_models"
ARTIFACTS = "artifacts"
METRICS = "metrics"
VERSIONS = "versions"

RUN_DOCUMENT = "run.json"
LOGGED_MODEL_DOCUMENT = "logged_model.json"
MODEL_DOCUMENT = "model.json"
PROMPT_DOCUMENT = "prompt.json"

EXPERIMENT_DIRECTORIES = frozenset(
    {LOGGED_MODELS, "traces", "scorers", "issues", "label_schemas", "review_queues"}
)
"""Directories of an experiment that are not runs; a run of such a name is escaped."""

_RESERVED_IN_EXPERIMENT = EXPERIMENT_DIRECTORIES | {MANIFEST}
_RESERVED_MANIFEST = frozenset({MANIFEST})

ROOT_DIRECTORIES = (
    "datasets",
    EXPERIMENTS,
    "gateway",
    "mcp_servers",
    MODELS,
    PROMPTS,
    "webhooks",
    "workspaces",
)
"""Directories at the top of a bundle; some are kept for entity kinds that later writers add."""

REGISTRY_DIRECTORY = {"registered_model": MODELS, "prompt": PROMPTS}
REGISTRY_DOCUMENT = {"registered_model": MODEL_DOCUMENT, "prompt": PROMPT_DOCUMENT}


def experiment_directory(experiment_id: str) -> str:
    """Directory of an experiment, its runs and its logged models."""
    return f"{EXPERIMENTS}/{escape_component(experiment_id, reserved=_RESERVED_MANIFEST)}"


def run_directory(experiment_id: str, run_id: str) -> str:
    """Directory of a run."""
    component = escape_component(run_id, reserved=_RESERVED_IN_EXPERIMENT)
    return f"{experiment_directory(experiment_id)}/{component}"


def logged_model_directory(experiment_id: str, model_id: str) -> str:
    """Directory of a logged model."""
    return f"{experiment_directory(experiment_id)}/{LOGGED_MODELS}/{escape_component(model_id)}"


def registry_directory(kind: str, name: str) -> str:
    """Directory of a registered model or prompt."""
    component = escape_component(name, reserved=_RESERVED_MANIFEST)
    return f"{REGISTRY_DIRECTORY[kind]}/{component}"


def metric_directory(directory: str, key: str) -> str:
    """Directory of the parts of one long metric history of the run in ``directory``."""
    return f"{directory}/{METRICS}/{escape_component(key)}"


def version_artifacts_directory(directory: str, version: int) -> str:
    """Directory of the files of one model version that lie outside every run."""
    return f"{directory}/{VERSIONS}/{version}/{ARTIFACTS}"


def entity_directory(entity: Entity) -> str:
    """Directory that holds everything of ``entity``."""
    if isinstance(entity, Experiment):
        return experiment_directory(entity.experiment_id)
    if isinstance(entity, Run):
        return run_directory(entity.info.experiment_id, entity.info.run_id)
    if isinstance(entity, LoggedModel):
        return logged_model_directory(entity.experiment_id, entity.model_id)
    return registry_directory(entity.kind, entity.name)


def document_name(entity: Entity) -> str:
    """File name of the entity's document inside its directory."""
    if isinstance(entity, RegisteredModel):
        return REGISTRY_DOCUMENT[entity.kind]
    return {
        Experiment.kind: MANIFEST,
        Run.kind: RUN_DOCUMENT,
        LoggedModel.kind: LOGGED_MODEL_DOCUMENT,
    }[entity.kind]


def document_path(entity: Entity) -> str:
    """Member path of the entity's document."""
    return f"{entity_directory(entity)}/{document_name(entity)}"


class Place(NamedTuple):
    """What a member is, told by its path alone."""

    role: Literal["document", "artifact", "metrics", "manifest"]
    kind: str
    """Kind of the entity it belongs to; empty for the manifests of more than one entity."""
    document: str
    """Path of that entity's document, or of the manifest itself."""
    version: int | None = None
    """Number of the model version whose artifact it is."""


MANIFESTS = {
    f"{EXPERIMENTS}/{MANIFEST}",
    f"{MODELS}/{MANIFEST}",
    f"{PROMPTS}/{MANIFEST}",
    MANIFEST,
}
"""Documents that only count what others hold."""

_REGISTRY_KIND = {directory: kind for kind, directory in REGISTRY_DIRECTORY.items()}


def place_of(path: str) -> Place | None:
    """Return what the member at ``path`` is; None for what this version does not know."""
    if path in MANIFESTS:
        return Place("manifest", "", path)
    top, *rest = path.split("/")
    if top == EXPERIMENTS and len(rest) >= 2:
        return _place_in_experiment(f"{top}/{rest[0]}", rest[1:])
    kind = _REGISTRY_KIND.get(top)
    if kind is None or len(rest) < 2:
        return None
    document = f"{top}/{rest[0]}/{REGISTRY_DOCUMENT[kind]}"
    if rest[1:] == [REGISTRY_DOCUMENT[kind]]:
        return Place("document", kind, document)
    if len(rest) > 4 and rest[1] == VERSIONS and rest[3] == ARTIFACTS and rest[2].isdecimal():
        return Place("artifact", kind, document, int(rest[2]))
    return None


def _place_in_experiment(directory: str, rest: list[str]) -> Place | None:
    if rest == [MANIFEST]:
        return Place("document", Experiment.kind, f"{directory}/{MANIFEST}")
    kind, name = Run.kind, RUN_DOCUMENT
    if rest[0] == LOGGED_MODELS:
        kind, name = LoggedModel.kind, LOGGED_MODEL_DOCUMENT
        directory, rest = f"{directory}/{LOGGED_MODELS}", rest[1:]
    elif rest[0] in EXPERIMENT_DIRECTORIES:
        return None
    if len(rest) < 2:
        return None
    document = f"{directory}/{rest[0]}/{name}"
    if rest[1:] == [name]:
        return Place("document", kind, document)
    if rest[1] == ARTIFACTS and len(rest) > 2:
        return Place("artifact", kind, document)
    if rest[1] == METRICS and len(rest) == 4 and kind == Run.kind:
        return Place("metrics", kind, document)
    return None
