"""Every soft reference among entities, and how it is rewritten when ids change: one table.

A soft reference is an id inside a text that MLflow does not check: a tag, a URI, a line of a
model's ``MLmodel`` file. A sink that gives new ids rewrites each through this module; what points
to something that was not moved stays as it is and is counted as an adjustment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec

from mlflow_bundle.entities import Dataset, ModelVersion
from mlflow_bundle.kinds.auth import ANY, Permission
from mlflow_bundle.kinds.traces import (
    ASSESSING_RUN,
    LINKED_PROMPTS,
    SOURCE_RUN,
    TRACED_MODEL,
    Assessment,
)
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report

PROMPT_EXPERIMENTS_TAG = "_mlflow_experiment_ids"
"""``,1,2,``: the experiments that a prompt belongs to; a set, not a value."""

MODEL_VERSIONS_TAG = "mlflow.modelVersions"
"""Of a logged model: the versions that were made of it; a set, not a value."""

SCORER_NAME = "scorer_name"
"""Kind in a `Remap` of scorers as permissions call them (`kinds.auth.scorer_pattern`)."""

Rewrite = Callable[[str, "Ids"], str]

_EVALUATION_DATASET = "mlflow_evaluation_dataset"

_LOGGED_MODEL_URI = re.compile(r"models:/(m-[0-9a-f]{32})(?:/.*)?")
_LOGGED_MODEL_ROOT = re.compile(
    # The second form is that of Databricks.
    r".*/(?:models/(?=m-[0-9a-f]{32}/artifacts)|logged_models/)(m-[0-9a-f]{32})(?:/.*)?"
)
_RUN_URI = re.compile(r"runs:/([^/]+)(/.*)?", re.DOTALL)
_VERSION_URI = re.compile(r"models:/([^/]+)/(\d+)")
_GATEWAY_ENDPOINT_ID = re.compile(r"e-[0-9a-f]{32}")
_MLMODEL_LINE = re.compile(
    rb"^(run_id|model_id|model_uuid|artifact_path):[ \t]*(['\"]?)([^\s'\"]+)\2[ \t]*$", re.MULTILINE
)

_TRACE_EXPERIMENT = re.compile(rb'("mlflow\.experimentId":[ \t]{0,20}"\\")(\d{1,40})(\\"")')
_LONGEST_TRACE_EXPERIMENT = 100
"""No less than the bytes that it can match."""

_CHUNK_BYTES = 1024 * 1024

DETECTION_SCHEDULE = "mlflow.issueDetection.schedule"
"""When a server looks for issues in an experiment, and whom it asks (MLflow 3.18)."""

MLMODEL = "MLmodel"
"""File name of a model's metadata; it names the run and the logged model."""


class Ids:
    """Looks up ids for one entity's references and counts those that point outside."""

    def __init__(self, remap: Remap) -> None:
        self._remap = remap
        self.outside = 0

    def get(self, kind: str, id: str) -> str:
        """Return the id in the sink, or ``id`` itself when it was not moved."""
        placed = self._remap.find(kind, id)
        if placed is None:
            self.outside += 1
            return id
        return placed.id

    def knows(self, kind: str, id: str) -> bool:
        """Whether something was moved."""
        return self._remap.find(kind, id) is not None

    def if_moved(self, kind: str, id: str) -> str:
        """Return the id in the sink of what may be an id, or else ``id`` itself."""
        placed = self._remap.find(kind, id)
        return id if placed is None else placed.id


class Reference(NamedTuple):
    """A value of one kind of entity that holds ids."""

    kind: str
    """``assessment`` and ``span`` belong to traces; ``issue_assessment`` are those of type issue;
    ``permission`` belongs to users and roles, and its keys are types of resources.
    """
    key: str
    rewrite: Rewrite
    field: str = "tags"
    """Which of the entity's maps holds ``key``; ``fields`` for a field of its own."""


def _run_id(value: str, ids: Ids) -> str:
    return ids.get("run", value)


def _run_id_if_one(value: str, ids: Ids) -> str:
    """A run id, or anything else."""
    return ids.if_moved("run", value)


def _logged_model_id(value: str, ids: Ids) -> str:
    return ids.get("logged_model", value)


def _issue_id(value: str, ids: Ids) -> str:
    return ids.get("issue", value)


def _experiment_id_text(value: str, ids: Ids) -> str:
    """The JSON text of an experiment id."""
    try:
        id = json.loads(value)
    except ValueError:
        return value
    return json.dumps(ids.get("experiment", id)) if isinstance(id, str) else value


def _linked_prompts(value: str, ids: Ids) -> str:
    """``mlflow.linkedPrompts``: a JSON list of prompt versions by name and number."""
    try:
        links = json.loads(value)
    except ValueError:
        return value
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        return value
    here = [_version(link, ids, "prompt_version", "prompt") for link in links]
    return value if here == links else json.dumps(here)


def _model_versions(value: str, ids: Ids) -> str:
    """``mlflow.modelVersions``: a JSON list of the versions made of a logged model."""
    try:
        versions = json.loads(value)
    except ValueError:
        return value
    if not isinstance(versions, list):
        return value
    here = [
        _version(version, ids, "model_version", "registered_model")
        if isinstance(version, dict)
        else version
        for version in versions
    ]
    return value if here == versions else json.dumps(here)


def _version(link: dict[str, Any], ids: Ids, kind: str, of: str) -> dict[str, Any]:
    """Return a name and a number as they are in the sink.

    Args:
        link: ``name`` and ``version``.
        ids: Of the sink.
        kind: Of versions.
        of: Kind of what they are versions of.
    """
    name, number = link.get("name"), link.get("version")
    if not isinstance(name, str):
        return link
    # Numbers are known before what names them where they change (``--renumber``).
    source_id = f"{name}/{number}"
    placed = ids.if_moved(kind, source_id)
    if placed == source_id:
        return {**link, "name": ids.get(of, name)}
    name, _, text = placed.rpartition("/")
    is_number = isinstance(number, int) and text.isdecimal()
    return {**link, "name": name, "version": int(text) if is_number else text}


def _log_model_history(value: str, ids: Ids) -> str:
    """``mlflow.log-model.history``: a JSON list of logged models with their run ids."""
    try:
        history = json.loads(value)
    except ValueError:
        return value
    if not isinstance(history, list):
        return value
    # Text substitution keeps every other byte of the value.
    for entry in history:
        for field, kind in (("run_id", "run"), ("model_id", "logged_model")):
            id = entry.get(field) if isinstance(entry, dict) else None
            if isinstance(id, str) and id:
                value = value.replace(json.dumps(id), json.dumps(ids.get(kind, id)))
    return value


def _run_id_list(value: str, ids: Ids) -> str:
    """A comma separated list of run ids."""
    return ",".join(ids.get("run", id) if id else id for id in value.split(","))


def _experiment_id_list(value: str, ids: Ids) -> str:
    """``,1,2,``: experiments that a prompt belongs to."""
    return ",".join(ids.get("experiment", id) if id else id for id in value.split(","))


def rewrite_dataset_source(dataset: Dataset, remap: Remap, report: Report) -> Dataset:
    """Return a run's dataset with the evaluation dataset that it names replaced, if it names one.

    ``mlflow.genai.evaluate`` logs ``{"dataset_id": "d-…"}`` as source (mlflow/data,
    ``EvaluationDatasetSource``).
    """
    if dataset.source_type != _EVALUATION_DATASET:
        return dataset
    try:
        id = json.loads(dataset.source)["dataset_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return dataset
    if not isinstance(id, str) or not id:
        return dataset
    placed = remap.find("dataset", id)
    if placed is None:
        report.adjust("run", "inputs.dataset_inputs.source (points outside)")
        return dataset
    source = dataset.source.replace(json.dumps(id), json.dumps(placed.id))
    return msgspec.structs.replace(dataset, source=source)


def _gateway_endpoint_id(value: str, ids: Ids) -> str:
    """An endpoint of the gateway; experiments name other things that they were made for too."""
    return ids.get("gateway_endpoint", value) if _GATEWAY_ENDPOINT_ID.fullmatch(value) else value


def _detection_schedule(value: str, ids: Ids) -> str:
    """``mlflow.issueDetection.schedule``: JSON, which may name the secret that a model asks for."""
    try:
        id = json.loads(value)["model"]["secretId"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return value
    if not isinstance(id, str) or not id:
        return value
    return value.replace(json.dumps(id), json.dumps(ids.get("gateway_secret", id)))


def _model_name(value: str, ids: Ids) -> str:
    """A registered model, or a prompt: MLflow made these a type of their own later."""
    is_prompt = not ids.knows("registered_model", value) and ids.knows("prompt", value)
    return ids.get("prompt" if is_prompt else "registered_model", value)


def _scorer_of_experiment(value: str, ids: Ids) -> str:
    """``<experiment id>/<quoted name>`` of a scorer that was moved."""
    ids.get(SCORER_NAME, value)
    experiment_id, slash, name = value.partition("/")
    return f"{ids.get('experiment', experiment_id)}{slash}{name}"


def _id_of(kind: str) -> Rewrite:
    return lambda value, ids: ids.get(kind, value)


REFERENCES = (
    Reference("experiment", "mlflow.experiment.sourceId", _gateway_endpoint_id),
    Reference("experiment", DETECTION_SCHEDULE, _detection_schedule),
    Reference("run", "mlflow.parentRunId", _run_id),
    Reference("run", "mlflow.rootRunId", _run_id),
    Reference("run", "mlflow.log-model.history", _log_model_history),
    Reference("run", LINKED_PROMPTS, _linked_prompts),
    Reference("logged_model", LINKED_PROMPTS, _linked_prompts),
    Reference("logged_model", MODEL_VERSIONS_TAG, _model_versions),
    Reference("permission", "registered_model", _model_name, "resource_pattern"),
    Reference("permission", "scorer", _scorer_of_experiment, "resource_pattern"),
    *(
        Reference("permission", kind, _id_of(kind), "resource_pattern")
        for kind in (
            *("experiment", "prompt", "mcp_server", "skill"),
            *("gateway_secret", "gateway_model_definition", "gateway_endpoint"),
        )
    ),
    Reference("prompt", PROMPT_EXPERIMENTS_TAG, _experiment_id_list),
    Reference("prompt_version", "mlflow.prompt.associatedRunIds", _run_id_list),
    Reference("trace", LINKED_PROMPTS, _linked_prompts),
    Reference("trace", SOURCE_RUN, _run_id, "metadata"),
    Reference("trace", TRACED_MODEL, _logged_model_id, "metadata"),
    Reference("trace", "mlflow.gateway.endpointId", _gateway_endpoint_id, "metadata"),
    Reference("assessment", ASSESSING_RUN, _run_id, "metadata"),
    Reference("issue_assessment", "name", _issue_id, "fields"),
    Reference("issue_assessment", "source_id", _run_id_if_one, "fields"),
    Reference("span", "mlflow.experimentId", _experiment_id_text, "attributes"),
    Reference("span", LINKED_PROMPTS, _linked_prompts, "attributes"),
)
"""Values that hold ids."""

_REFERENCES_OF: dict[tuple[str, str], list[Reference]] = {}
for _reference in REFERENCES:
    _REFERENCES_OF.setdefault((_reference.kind, _reference.field), []).append(_reference)

NAMED_BY_PERMISSIONS = frozenset(
    reference.key for reference in _REFERENCES_OF["permission", "resource_pattern"]
)
"""Types of resources that a permission may name one of."""

LATE_TAGS = {"experiment": frozenset({"mlflow.experiment.sourceId", DETECTION_SCHEDULE})}
"""Tags that hold ids of what is placed after the entity itself is made."""

SERVER_MADE_TAGS = {"logged_model": frozenset({MODEL_VERSIONS_TAG})}
"""Tags that the server writes by itself when other entities are created."""


def rewrite_tags(
    kind: str, tags: dict[str, str], remap: Remap, report: Report, *, server_writes: bool = True
) -> dict[str, str]:
    """Return ``tags`` with every id in them replaced.

    Args:
        kind: Kind of the entity.
        tags: Of the source.
        remap: The new ids.
        report: Counts what points outside.
        server_writes: Whether a server writes some (`SERVER_MADE_TAGS`): they are left out.
    """
    made = SERVER_MADE_TAGS.get(kind, frozenset()) if server_writes else frozenset()
    rewritten = {key: value for key, value in tags.items() if key not in made}
    for key in made & tags.keys():
        report.adjust(kind, f"tags.{key} (the server writes it)")
    return rewrite_values(kind, "tags", rewritten, remap, report)


def rewrite_values(
    kind: str, field: str, values: dict[str, str], remap: Remap, report: Report
) -> dict[str, str]:
    """Return one map of an entity (`Reference.field`) with every id in it replaced."""
    rewritten = dict(values)
    for reference in _REFERENCES_OF.get((kind, field), ()):
        if reference.key in rewritten:
            ids = Ids(remap)
            rewritten[reference.key] = reference.rewrite(rewritten[reference.key], ids)
            if ids.outside:
                report.adjust(kind, f"{field}.{reference.key} (points outside)", ids.outside)
    return rewritten


def rewrite_assessment(assessment: Assessment, remap: Remap, report: Report) -> Assessment:
    """Return an assessment of a trace with every id in it replaced but for its ``run_id``."""
    fields = {"name": assessment.name}
    if assessment.source_id is not None:
        fields["source_id"] = assessment.source_id
    if assessment.type == "issue":
        fields = rewrite_values("issue_assessment", "fields", fields, remap, report)
    metadata = rewrite_values("assessment", "metadata", assessment.metadata, remap, report)
    return msgspec.structs.replace(assessment, metadata=metadata, **fields)


def rewrite_permission(permission: Permission, remap: Remap) -> Permission | None:
    """Return a permission with the id or name in it replaced.

    None for one about something that was not moved: its id may be another thing's in the sink,
    which nobody was given.
    """
    pattern = permission.resource_pattern
    for reference in _REFERENCES_OF[("permission", "resource_pattern")]:
        if reference.key == permission.resource_type and pattern != ANY:
            ids = Ids(remap)
            pattern = reference.rewrite(pattern, ids)
            if ids.outside:
                return None
    return msgspec.structs.replace(permission, resource_pattern=pattern)


def join_experiments(here: str, bundle: str) -> str:
    """Return the experiments of both values of a prompt's tag, those ``here`` first."""
    ids = dict.fromkeys(id for id in (*here.split(","), *bundle.split(",")) if id)
    return f",{','.join(ids)}," if ids else here


def moved_experiments(value: str, remap: Remap) -> str:
    """Return the new ids of those experiments of a prompt's tag that were moved; empty if none was.

    A number that was not replaced would be that of another experiment of the sink.
    """
    placed = [remap.find("experiment", id) for id in value.split(",") if id]
    return join_experiments("", ",".join(place.id for place in placed if place is not None))


def rewrite_mlmodel(data: bytes, remap: Remap) -> bytes:
    """Return an ``MLmodel`` file with the run and the logged model it names replaced.

    A logged model stands there three times: as ``model_id``, as ``model_uuid``, and in the
    ``artifact_path`` where it lies. Every other byte stays.
    """

    def substitute(match: re.Match[bytes]) -> bytes:
        new = _in_mlmodel(match[1].decode(), match[3].decode("utf-8", "surrogateescape"), remap)
        if new is None:
            return match[0]
        start, end = match.start(3) - match.start(), match.end(3) - match.start()
        return match[0][:start] + new.encode("utf-8", "surrogateescape") + match[0][end:]

    return _MLMODEL_LINE.sub(substitute, data)


def rewrite_trace_data(stream: BinaryIO, remap: Remap) -> Iterator[bytes]:
    """Yield a ``traces.json`` file of any size with the experiment that its spans name replaced.

    Every other byte stays.
    """

    def substitute(match: re.Match[bytes]) -> bytes:
        placed = remap.find("experiment", match[2].decode())
        return match[0] if placed is None else match[1] + placed.id.encode() + match[3]

    pending = b""
    while chunk := stream.read(_CHUNK_BYTES):
        pending += chunk
        # One that begins nearer to the end may not be here as a whole.
        safe = len(pending) - _LONGEST_TRACE_EXPERIMENT
        for match in _TRACE_EXPERIMENT.finditer(pending, max(safe - _LONGEST_TRACE_EXPERIMENT, 0)):
            safe = max(safe, match.end())
        if safe > 0:
            yield _TRACE_EXPERIMENT.sub(substitute, pending[:safe])
            pending = pending[safe:]
    if pending:
        yield _TRACE_EXPERIMENT.sub(substitute, pending)


def _in_mlmodel(field: str, value: str, remap: Remap) -> str | None:
    if field == "artifact_path":
        id = logged_model_id_of(value)
        placed = remap.find("logged_model", id) if id else None
        if placed is None or not is_below(value, placed.source_root):
            return None
        return placed.sink_root.rstrip("/") + value[len(placed.source_root.rstrip("/")) :]
    placed = remap.find("run" if field == "run_id" else "logged_model", value)
    return None if placed is None else placed.id


def logged_model_id_of(uri: str) -> str | None:
    """Return the logged model that a model version's source names or lies in, if any."""
    match = _LOGGED_MODEL_URI.fullmatch(uri) or _LOGGED_MODEL_ROOT.fullmatch(uri)
    return match[1] if match else None


def run_id_of(uri: str) -> str | None:
    """Return the run that a ``runs:/`` URI names."""
    match = _RUN_URI.fullmatch(uri)
    return match[1] if match else None


def model_version_of(uri: str) -> tuple[str, int] | None:
    """Return name and number of the model version that a ``models:/name/3`` URI names."""
    match = _VERSION_URI.fullmatch(uri)
    return (match[1], int(match[2])) if match else None


def _comparable(location: str) -> str:
    """Return what is equal for locations of the same files; empty for a version's name."""
    if model_version_of(location) is not None:
        return ""
    model_id = logged_model_id_of(location)
    return location.rstrip("/") if model_id is None else f"models:/{model_id}"


def files_of(version: ModelVersion) -> str:
    """Return where the files of a version lie at the source, or what tells it."""
    return version.storage_location or version.source


def _are_same_files(one: str, other: str) -> bool:
    """Whether two locations may be one.

    Those of a version and of the one that it names are not, where that model was renamed since and
    its name is another one's.
    """
    places = {_comparable(one), _comparable(other)} - {""}
    return len(places) < 2


def is_below(uri: str, root: str) -> bool:
    """Whether ``uri`` is ``root`` or lies below it."""
    return bool(root) and (uri == root or uri.startswith(root.rstrip("/") + "/"))


class SinkSource(NamedTuple):
    """What a model version is created from in the sink."""

    source: str
    run_id: str
    model_id: str
    moved: bool
    """Whether the files it names were moved; False when the source stays as it was."""


def rewrite_version_source(version: ModelVersion, remap: Remap) -> SinkSource:
    """Return source, run and logged model of ``version`` in the sink.

    ``runs:/`` and ``models:/m-`` URIs get the new ids; a location inside a run's or logged model's
    artifacts is moved into the new one's; ``models:/name/3`` follows that version when it was moved
    and else its files. Anything else stays as it is.
    """
    run = remap.find("run", version.run_id) if version.run_id else None
    run_id = run.id if run else version.run_id
    if (other := model_version_of(version.source)) is not None:
        placed = remap.find("model_version", f"{other[0]}/{other[1]}")
        if placed is not None and _are_same_files(files_of(version), placed.source_root):
            return SinkSource(f"models:/{placed.id}", run_id, "", True)
    for uri in dict.fromkeys((version.source, version.storage_location or "")):
        if not uri:
            continue
        if (model_id := logged_model_id_of(uri)) is not None:
            model = remap.find("logged_model", model_id)
            if model is not None and uri.startswith("models:/"):
                return SinkSource(uri.replace(model_id, model.id, 1), run_id, model.id, True)
            if model is not None and is_below(uri, model.source_root):
                source = model.sink_root + uri[len(model.source_root.rstrip("/")) :]
                return SinkSource(source, run_id, model.id, True)
        if (uri_run := run_id_of(uri)) is not None and (placed := remap.find("run", uri_run)):
            source = uri.replace(uri_run, placed.id, 1)
            return SinkSource(source, run_id, "", True)
        if run is not None and is_below(uri, run.source_root):
            source = run.sink_root + uri[len(run.source_root.rstrip("/")) :]
            return SinkSource(source, run_id, "", True)
    return SinkSource(version.source, run_id, "", False)


def rewrite_version_storage(version: ModelVersion, remap: Remap) -> str | None:
    """Return where the files of ``version`` lie in the sink, as its ``storage_location`` has it."""
    location = version.storage_location
    if not location:
        return location
    kinds = (("logged_model", logged_model_id_of(location)), ("run", version.run_id))
    for kind, id in kinds:
        placed = remap.find(kind, id) if id else None
        if placed is not None and is_below(location, placed.source_root):
            return placed.sink_root + location[len(placed.source_root.rstrip("/")) :]
    if not location.startswith(("models:/", "runs:/")):
        return location
    moved = rewrite_version_source(
        msgspec.structs.replace(version, source=location, storage_location=None), remap
    )
    return moved.source
