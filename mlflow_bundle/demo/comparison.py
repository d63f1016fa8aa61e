"""Reads a whole server through MLflow's client and tells where two servers differ.

Ids differ between servers by nature. Each id that a server holds is therefore replaced by the
id that the object had at its first home, marked as such, wherever it occurs: in a reference that
was rewritten correctly both servers then say the same, and one that was not rewritten shows.

Not compared: what MLflow's REST API cannot set (ids themselves, creation and last-update times of
everything but runs), where artifacts lie, and the tags that the import and the server write.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import ViewType

from mlflow_bundle import provenance
from mlflow_bundle.references import PROMPT_EXPERIMENTS_TAG

Facts = dict[str, dict[str, Any]]
"""Kind of fact to its label to its value, e.g. ``metric points``."""

_DOWNLOADS = 4
_NOT_COMPARED = (provenance.PREFIX, "mlflow.modelVersions")  # the server keeps the latter itself
_PROMPTS = "tag.`mlflow.prompt.is_prompt` = 'true'"  # a search without it leaves prompts out
_ID = r"\bm-[0-9a-f]{32}\b|\b[0-9a-f]{32}\b"


def read_server(client: MlflowClient, scratch: Path) -> Facts:
    """Return everything that ``client``'s server tells.

    Args:
        client: Client of the server, which must be the one of ``MLFLOW_TRACKING_URI`` too.
        scratch: Empty directory for the artifacts, which are downloaded.
    """
    return _Reader(client, scratch).read()


def differences(ours: Facts, theirs: Facts) -> list[str]:
    """Return one line for every fact that is not the same in both, in order."""
    lines = []
    for kind in sorted({*ours, *theirs}):
        left, right = ours.get(kind, {}), theirs.get(kind, {})
        for label in sorted({*left, *right}):
            if label not in right:
                lines.append(f"{kind}: {label}: missing at the destination")
            elif label not in left:
                lines.append(f"{kind}: {label}: only at the destination")
            elif left[label] != right[label]:
                lines.append(f"{kind}: {label}: {left[label]!r} became {right[label]!r}")
    return lines


class _Reader:
    def __init__(self, client: MlflowClient, scratch: Path) -> None:
        self._client = client
        self._scratch = scratch
        self._experiments: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._roots: dict[str, str] = {}
        self._facts: Facts = defaultdict(dict)

    def read(self) -> Facts:
        experiments = list(_pages(self._client.search_experiments, view_type=ViewType.ALL))
        names = {experiment.experiment_id: experiment.name for experiment in experiments}
        runs = list(_pages(self._client.search_runs, list(names), "", ViewType.ALL))
        models = list(_pages(self._client.search_logged_models, list(names)))
        self._experiments = names
        for run in runs:
            self._name(run.info.run_id, "run", run.data.tags, run.info.artifact_uri)
        for model in models:
            self._name(model.model_id, "logged model", model.tags, model.artifact_location)
        for experiment in experiments:
            self._experiment(experiment)
        for run in runs:
            self._run(run)
        for model in models:
            self._logged_model(model)
        self._registry()
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            list(pool.map(self._artifacts, self._roots))
        return dict(self._facts)

    def _name(self, id: str, kind: str, tags: dict[str, str], root: str) -> None:
        name = f"<{kind} {provenance.origin_of(id, tags)}>"
        if name in self._names.values():
            name += " (made twice)"
        self._names[id] = name
        self._roots[root.rstrip("/")] = name

    def _put(self, kind: str, label: str, value: Any) -> None:
        self._facts[kind][label] = value

    def _named(self, text: str | None) -> str | None:
        """Replace this server's places and ids in ``text`` by names."""
        if text is None:
            return None
        names = self._names | {root: f"<artifacts of {at}>" for root, at in self._roots.items()}
        # In one pass, because the names hold ids themselves.
        pattern = "|".join([*map(re.escape, self._roots), _ID])
        return re.sub(pattern, lambda match: names.get(match[0], match[0]), text)

    def _tags(self, label: str, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if key == PROMPT_EXPERIMENTS_TAG:
                value = ",".join(sorted(self._experiments.get(id, id) for id in value.split(",")))
            if key == provenance.STATE or not key.startswith(_NOT_COMPARED):
                self._put("tags", f"{label} {key}", self._named(value))

    def _experiment(self, experiment: Any) -> None:
        label = f"experiment {experiment.name}"
        self._put("experiments", label, experiment.lifecycle_stage)
        self._tags(label, experiment.tags)

    def _run(self, run: Any) -> None:
        info, label = run.info, self._names[run.info.run_id]
        self._put("runs", f"{label} experiment", self._experiments[info.experiment_id])
        self._put("runs", f"{label} name", info.run_name)
        self._put("runs", f"{label} status", info.status)
        self._put("runs", f"{label} lifecycle stage", info.lifecycle_stage)
        self._put("run times and users", f"{label} start time", info.start_time)
        self._put("run times and users", f"{label} end time", info.end_time)
        self._put("run times and users", f"{label} user", info.user_id)
        self._tags(label, run.data.tags)
        for key, value in run.data.params.items():
            self._put("params", f"{label} {key}", value)
        for key in run.data.metrics:
            history = self._client.get_metric_history(info.run_id, key)
            for index, point in enumerate(history):
                shown = (repr(point.value), point.timestamp, point.step)  # repr: NaN equals NaN
                self._put("metric points", f"{label} {key} [{index}]", shown)
        for given in run.inputs.dataset_inputs:
            dataset = given.dataset.to_dictionary()
            tags = {tag.key: tag.value for tag in given.tags}
            self._put("dataset inputs", f"{label} {given.dataset.name}", (dataset, tags))
        for output in run.outputs.model_outputs if run.outputs else ():
            name = self._names.get(output.model_id, output.model_id)
            self._put("logged models", f"{label} output {name}", output.step)

    def _logged_model(self, model: Any) -> None:
        label = self._names[model.model_id]
        fields = {
            "experiment": self._experiments[model.experiment_id],
            "name": model.name,
            "type": model.model_type,
            "status": str(model.status),
            "source run": self._named(model.source_run_id),
        }
        for name, value in fields.items():
            self._put("logged models", f"{label} {name}", value)
        for key, value in model.params.items():
            self._put("params", f"{label} {key}", value)
        for metric in model.metrics or ():
            shown = (repr(metric.value), metric.timestamp, metric.step, self._named(metric.run_id))
            self._put("metric points", f"{label} {metric.key} {metric.step}", shown)
        self._tags(label, model.tags)

    def _registry(self) -> None:
        search = self._client.search_registered_models
        for kind, filters in (("model versions", ()), ("prompt versions", (_PROMPTS,))):
            for model in _pages(search, *filters):
                label = f"{kind.split()[0]} {model.name}"
                self._put(kind, f"{label} description", model.description)
                for alias, version in model.aliases.items():
                    self._put("aliases", f"{label} {alias}", version)
                self._tags(label, model.tags)
                named = " and ".join((f"name = '{model.name}'", *filters))
                for version in _pages(self._client.search_model_versions, named):
                    self._version(kind, f"{label} version {version.version}", version)

    def _version(self, kind: str, label: str, version: Any) -> None:
        fields = {
            "source": self._named(version.source),
            "run": self._named(version.run_id),
            "stage": version.current_stage,
            "status": version.status,
            "description": version.description,
        }
        for name, value in fields.items():
            self._put(kind, f"{label} {name}", value)
        self._tags(label, version.tags)

    def _artifacts(self, root: str) -> None:
        name = self._roots[root]
        if not mlflow.artifacts.list_artifacts(artifact_uri=root):
            return  # a download would fail
        directory = self._scratch / hashlib.sha256(root.encode()).hexdigest()[:16]
        mlflow.artifacts.download_artifacts(artifact_uri=root, dst_path=str(directory))
        for path in directory.rglob("*"):
            if not path.is_file():
                continue
            content = path.read_bytes()
            if path.name == "MLmodel":  # holds ids, which must be those of its server
                content = (self._named(content.decode()) or "").encode()
            digest = hashlib.sha256(content).hexdigest()
            relative = path.relative_to(directory).as_posix()
            self._put("artifact files", f"{name} {relative}", (len(content), digest))


def _pages(search: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(*arguments, page_token=token, **named)
        yield from page
        token = page.token
        if not token:
            return
