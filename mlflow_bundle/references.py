"""Every soft reference among entities, and how it is rewritten when ids change: one table.

A soft reference is an id inside a text that MLflow does not check: a tag, a URI, a line of a
model's ``MLmodel`` file. A sink that gives new ids rewrites each through this module; what points
to something that was not moved stays as it is and is counted as an adjustment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from mlflow_bundle.entities import ModelVersion
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report

PROMPT_EXPERIMENTS_TAG = "_mlflow_experiment_ids"
"""``,1,2,``: the experiments that a prompt belongs to; a set, not a value."""

Rewrite = Callable[[str, "Ids"], str]

_LOGGED_MODEL_URI = re.compile(r"models:/(m-[0-9a-f]{32})(?:/.*)?")
_LOGGED_MODEL_ROOT = re.compile(r".*/models/(m-[0-9a-f]{32})/artifacts(?:/.*)?")
_RUN_URI = re.compile(r"runs:/([^/]+)(/.*)?", re.DOTALL)
_VERSION_URI = re.compile(r"models:/([^/@]+)/(\d+)")
_MLMODEL_LINE = re.compile(
    rb"^(run_id|model_id|model_uuid|artifact_path):[ \t]*(['\"]?)([^\s'\"]+)\2[ \t]*$", re.MULTILINE
)

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


class Reference(NamedTuple):
    """A tag of one kind of entity whose value holds ids."""

    kind: str
    tag: str
    rewrite: Rewrite


def _run_id(value: str, ids: Ids) -> str:
    return ids.get("run", value)


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


REFERENCES = (
    Reference("run", "mlflow.parentRunId", _run_id),
    Reference("run", "mlflow.rootRunId", _run_id),
    Reference("run", "mlflow.log-model.history", _log_model_history),
    Reference("prompt", PROMPT_EXPERIMENTS_TAG, _experiment_id_list),
    Reference("prompt_version", "mlflow.prompt.associatedRunIds", _run_id_list),
)
"""Tags that hold ids."""

SERVER_MADE_TAGS = {"logged_model": frozenset({"mlflow.modelVersions"})}
"""Tags that the server writes by itself when other entities are created."""


def rewrite_tags(kind: str, tags: dict[str, str], remap: Remap, report: Report) -> dict[str, str]:
    """Return ``tags`` with every id in them replaced, without what the server writes itself."""
    made = SERVER_MADE_TAGS.get(kind, frozenset())
    rewritten = {key: value for key, value in tags.items() if key not in made}
    for key in made & tags.keys():
        report.adjust(kind, f"tags.{key} (the server writes it)")
    for reference in REFERENCES:
        if reference.kind == kind and reference.tag in rewritten:
            ids = Ids(remap)
            rewritten[reference.tag] = reference.rewrite(rewritten[reference.tag], ids)
            if ids.outside:
                report.adjust(kind, f"tags.{reference.tag} (points outside)", ids.outside)
    return rewritten


def join_experiments(here: str, bundle: str) -> str:
    """Return the experiments of both values of a prompt's tag, those ``here`` first."""
    ids = dict.fromkeys(id for id in (*here.split(","), *bundle.split(",")) if id)
    return f",{','.join(ids)}," if ids else here


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
        if placed is not None:
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
            return SinkSource(source, placed.id, "", True)
        if run is not None and is_below(uri, run.source_root):
            source = run.sink_root + uri[len(run.source_root.rstrip("/")) :]
            return SinkSource(source, run.id, "", True)
    return SinkSource(version.source, run_id, "", False)
