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
    workspaces/<workspace>/{experiments/..., models/..., workspace.json}
    manifest.json

Each workspace but ``default`` has the same tree as the top, without a ``manifest.json`` of its own;
every function here but :func:`place_of` speaks of paths within one such tree.

Every other kind lies as `kinds` says, in its experiment or at the top, in one form::

    <directory of the kind>/<id>/artifacts/...
    <directory of the kind>/<id>/items/<nnnnnn>.json
    <directory of the kind>/<id>/<document>

Every name that a server gave is escaped (FORMAT.md, escaping), so that any legal MLflow name fits
and no name can collide with a fixed one. An entity's members lie in its own directory, its document
last, so the whole tree sorts by ``order_key`` into one stream.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mlflow_bundle.archive import escape_component
from mlflow_bundle.entities import (
    Entity,
    Experiment,
    LoggedModel,
    PlainEntity,
    Run,
)
from mlflow_bundle.kinds import KINDS, Kind, Scope
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE

MANIFEST = "manifest.json"
EXPERIMENTS = "experiments"
MODELS = "models"
PROMPTS = "prompts"
LOGGED_MODELS = "logged_models"
ARTIFACTS = "artifacts"
METRICS = "metrics"
VERSIONS = "versions"
ITEMS = "items"

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
    "roles",
    "skills",
    "users",
    "webhooks",
    WORKSPACE.directory,
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


def kind_directory(kind: Kind, experiment_id: str) -> str:
    """Directory of the entities of a kind; ``experiment_id`` counts where they lie in one."""
    if kind.scope != "experiment":
        return kind.directory
    return f"{experiment_directory(experiment_id)}/{kind.directory}"


def plain_directory(kind: Kind, experiment_id: str, id: str) -> str:
    """Directory of one entity of a kind."""
    return f"{kind_directory(kind, experiment_id)}/{escape_component(id)}"


def item_part(directory: str, number: int) -> str:
    """Path of part ``number``, from 1, of the items of the entity in ``directory``."""
    return f"{directory}/{ITEMS}/{number:06d}.json"


DOCUMENT = {
    Experiment.kind: MANIFEST,
    Run.kind: RUN_DOCUMENT,
    LoggedModel.kind: LOGGED_MODEL_DOCUMENT,
    **REGISTRY_DOCUMENT,
    **{name: kind.document for name, kind in KINDS.items()},
}
"""Kind to the file name of an entity's document inside its directory."""


def directory_of(kind: str, id: str, experiment_id: str) -> str:
    """Directory that holds everything of an entity.

    Args:
        kind: Its kind.
        id: Its id.
        experiment_id: The experiment it lies in; of no meaning for kinds that lie in none.
    """
    if kind in KINDS:
        return plain_directory(KINDS[kind], experiment_id, id)
    if kind == Experiment.kind:
        return experiment_directory(id)
    if kind == Run.kind:
        return run_directory(experiment_id, id)
    if kind == LoggedModel.kind:
        return logged_model_directory(experiment_id, id)
    return registry_directory(kind, id)


def entity_directory(entity: Entity) -> str:
    """Directory that holds everything of ``entity``."""
    return directory_of(entity.kind, entity.id, parent_of(entity))


def parent_of(entity: Entity) -> str:
    """Id of the experiment that an entity lies in; empty for kinds that lie in none."""
    if isinstance(entity, PlainEntity):
        return entity.parent
    if isinstance(entity, Run):
        return entity.info.experiment_id
    return entity.experiment_id if isinstance(entity, LoggedModel) else ""


def document_path(entity: Entity) -> str:
    """Member path of the entity's document."""
    return f"{entity_directory(entity)}/{DOCUMENT[entity.kind]}"


def document_path_of(kind: str, id: str, experiment_id: str) -> str:
    """Member path of the document of an entity; arguments as of :func:`directory_of`."""
    return f"{directory_of(kind, id, experiment_id)}/{DOCUMENT[kind]}"


class Place(NamedTuple):
    """What a member is, told by its path alone."""

    role: Literal["document", "artifact", "metrics", "items", "manifest"]
    kind: str
    """Kind of the entity it belongs to; empty for the manifests of more than one entity."""
    document: str
    """Path of that entity's document, or of the manifest itself."""
    version: int | None = None
    """Number of the model version whose artifact it is."""


WORKSPACE_MANIFESTS = (
    f"{EXPERIMENTS}/{MANIFEST}",
    f"{MODELS}/{MANIFEST}",
    f"{PROMPTS}/{MANIFEST}",
)
"""Documents that only count what others hold, in the tree of each workspace."""

MANIFESTS = {*WORKSPACE_MANIFESTS, MANIFEST}
"""Those at the top of a bundle."""

_REGISTRY_KIND = {directory: kind for kind, directory in REGISTRY_DIRECTORY.items()}
_PLAIN = {
    scope: {
        tuple(kind.directory.split("/")): kind for kind in KINDS.values() if kind.scope == scope
    }
    for scope in ("experiment", "server")
}


def workspace_prefix(name: str) -> str:
    """What stands before the paths of a workspace's tree: nothing for ``default``."""
    if name == DEFAULT_WORKSPACE:
        return ""
    return f"{plain_directory(WORKSPACE, '', name)}/"


def split_workspace(path: str) -> tuple[str, str]:
    """Return the prefix of the workspace that a member lies in, and its path behind that.

    The prefix is empty at the top. The document of a workspace lies in no workspace.
    """
    top, _, rest = path.partition("/")
    component, _, below = rest.partition("/")
    if top != WORKSPACE.directory or not below or below == WORKSPACE.document:
        return "", path
    return f"{top}/{component}/", below


def place_of(path: str) -> Place | None:
    """Return what the member at ``path`` is; None for what this version does not know."""
    prefix, below = split_workspace(path)
    if not prefix:
        return _place_in_workspace(path)
    if below == MANIFEST or prefix == f"{WORKSPACE.directory}/{DEFAULT_WORKSPACE}/":
        return None
    place = _place_in_workspace(below)
    if place is None or place.kind == WORKSPACE.name:
        return None
    return place._replace(document=f"{prefix}{place.document}")


def _place_in_workspace(path: str) -> Place | None:
    if path in MANIFESTS:
        return Place("manifest", "", path)
    top, *rest = path.split("/")
    if (plain := _plain_place("server", "", path.split("/"))) is not None:
        return plain
    if top == WORKSPACE.directory and rest[1:] == [WORKSPACE.document]:
        return Place("document", WORKSPACE.name, path)
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
    if (plain := _plain_place("experiment", f"{directory}/", rest)) is not None:
        return plain
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


def _plain_place(scope: Scope, above: str, parts: list[str]) -> Place | None:
    """What the member ``parts`` below ``above`` is, if it belongs to a plain entity."""
    for directory, kind in _PLAIN[scope].items():
        depth = len(directory)
        rest = parts[depth + 1 :]
        if tuple(parts[:depth]) != directory or not rest:
            continue
        document = f"{above}{'/'.join(parts[: depth + 1])}/{kind.document}"
        if rest == [kind.document]:
            return Place("document", kind.name, document)
        if rest[0] == ARTIFACTS and len(rest) > 1 and kind.has_artifacts:
            return Place("artifact", kind.name, document)
        if rest[0] == ITEMS and len(rest) == 2:
            return Place("items", kind.name, document)
    return None
