"""Read a whole MLflow server, and tell in which fields two servers differ.

`snapshot` reads through the server's REST API alone, and shares no code with the package. It takes
the plain way on purpose: one history per request, one directory per request, every file's bytes.

`differences` gives both snapshots names that do not depend on the server: an experiment is its
name, a run and a logged model are their origin (the tag ``mlflow_bundle.origin``, or else their own
id), a version is its number. Where a field refers to another object (`_Names`), an id that the
same server holds is replaced by that object's name, and any other id is left as it stands. A
reference that was not rewritten, or points to the wrong object, therefore shows.

What is not compared is listed, with its reason, in `EXEMPT`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from tests.servers import fast_session

Json = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")

KINDS = ("experiments", "runs", "logged_models", "registered_models", "prompts")
ORIGIN = "mlflow_bundle.origin"
HISTORY_PAGE = 25_000


@dataclass(frozen=True)
class Exemption:
    """A field that is not compared, and why."""

    path: tuple[str, ...]
    """Kind, field, and below; each part is a shell pattern. Covers what lies below it too."""
    reason: str
    unless: str = "\0"
    """The last part when it is this is compared nevertheless."""

    def covers(self, path: tuple[str, ...]) -> bool:
        return (
            len(path) >= len(self.path)
            and all(fnmatchcase(part, pattern) for part, pattern in zip(path, self.path))  # noqa: B905  (path may be longer)
            and path[-1] != self.unless
        )


_MADE = "the server sets it when the object is made"
_CHANGED = "the server sets it when the object is changed"
_OURS = "written by the import"
_PLACE = "follows from the server and its ids; the files themselves are compared"

EXEMPT: tuple[Exemption, ...] = (
    Exemption(("experiments", "experiment_id"), _MADE),
    Exemption(("experiments", "creation_time"), _MADE),
    Exemption(("experiments", "last_update_time"), _CHANGED),
    Exemption(("experiments", "artifact_location"), _PLACE),
    Exemption(("experiments", "tags", "mlflow_bundle.*"), _OURS, unless="mlflow_bundle.state"),
    Exemption(("runs", "run_id"), _MADE),
    Exemption(("runs", "artifact_uri"), _PLACE),
    Exemption(("runs", "tags", "mlflow_bundle.*"), _OURS, unless="mlflow_bundle.state"),
    Exemption(("logged_models", "model_id"), _MADE),
    Exemption(("logged_models", "creation_timestamp_ms"), _MADE),
    Exemption(("logged_models", "last_updated_timestamp_ms"), _CHANGED),
    Exemption(("logged_models", "status_message"), "no endpoint sets it"),
    Exemption(("logged_models", "artifact_uri"), _PLACE),
    Exemption(("logged_models", "tags", "mlflow_bundle.*"), _OURS, unless="mlflow_bundle.state"),
    Exemption(
        ("logged_models", "metrics", "* NaN"),
        "a logged model's NaN is stored as 0: writing that 0 would add a false point to the run",
    ),
    *(
        exemption
        for kind in ("registered_models", "prompts")
        for exemption in (
            Exemption((kind, "creation_timestamp"), _MADE),
            Exemption((kind, "last_updated_timestamp"), _CHANGED),
            Exemption((kind, "tags", "mlflow_bundle.*"), _OURS, unless="mlflow_bundle.state"),
            Exemption((kind, "versions", "*", "creation_timestamp"), _MADE),
            Exemption((kind, "versions", "*", "last_updated_timestamp"), _CHANGED),
            Exemption((kind, "versions", "*", "user_id"), _MADE),
            Exemption((kind, "versions", "*", "status_message"), "no endpoint sets it"),
            Exemption(
                (kind, "versions", "*", "tags", "mlflow_bundle.*"),
                _OURS,
                unless="mlflow_bundle.state",
            ),
        )
    ),
)


@dataclass(frozen=True)
class Snapshot:
    """All that a server tells about its objects; JSON values only."""

    tracking_uri: str
    data: dict[str, dict[str, Json]]
    """Kind to id (registered models and prompts: name) to fields."""

    def counts(self) -> dict[str, int]:
        return {kind: len(self.data[kind]) for kind in KINDS}

    def only(
        self,
        *,
        experiments: Collection[str] = (),
        runs: Collection[str] = (),
        logged_models: Collection[str] = (),
        registered_models: Collection[str] = (),
        prompts: Collection[str] = (),
    ) -> Snapshot:
        """A part of it, by id or name, to compare with a server that was sent a selection."""
        wanted = {
            "experiments": experiments,
            "runs": runs,
            "logged_models": logged_models,
            "registered_models": registered_models,
            "prompts": prompts,
        }
        part = {
            kind: {key: value for key, value in self.data[kind].items() if key in keys}
            for kind, keys in wanted.items()
        }
        return Snapshot(self.tracking_uri, part)


# ------------------------------------------------------------------------------------- reading


def snapshot(
    tracking_uri: str,
    *,
    histories: bool = True,
    artifacts: bool | Path = True,
    jobs: int = 8,
) -> Snapshot:
    """Read everything.

    Args:
        tracking_uri: An http(s) URI.
        histories: Whether to read metric histories; latest values are read in any case.
        artifacts: Whether to read artifacts of runs and logged models; or the directory to which
            the server relays them, where they are then read (old servers cannot send all names).
        jobs: Requests at once.
    """
    with ThreadPoolExecutor(jobs) as threads:
        reader = _Reader(tracking_uri, threads, jobs)
        found = {
            "experiments": reader.experiments(),
            **reader.registered(),
        }
        experiment_ids = list(found["experiments"])
        found["runs"] = reader.runs(experiment_ids, histories)
        found["logged_models"] = reader.logged_models(
            experiment_ids, found["runs"], found["registered_models"]
        )
        if isinstance(artifacts, Path):
            add_artifacts_on_disk(found, artifacts)
        elif artifacts:
            reader.add_artifacts(found)
    return Snapshot(tracking_uri, {kind: found[kind] for kind in KINDS})


class _Reader:
    def __init__(self, tracking_uri: str, threads: ThreadPoolExecutor, jobs: int) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._threads = threads
        self._session = fast_session(jobs)

    def _call(self, method: str, path: str, **options: Any) -> Json:
        reply = self._session.request(method, f"{self._uri}/api/2.0/{path}", **options)
        if reply.status_code != 200:
            raise RuntimeError(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
        answer: Json = reply.json()
        return answer

    def _get(self, path: str, **parameters: Any) -> Json:
        return self._call("GET", f"mlflow/{path}", params=parameters)

    def _pages(self, method: str, path: str, field: str, **request: Any) -> Iterator[Json]:
        token = ""
        while True:
            extra = {"page_token": token} if token else {}
            where = "params" if method == "GET" else "json"
            answer = self._call(method, f"mlflow/{path}", **{where: {**request, **extra}})
            yield from answer.get(field, [])
            token = answer.get("next_page_token", "")
            if not token:
                return

    def _each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return list(self._threads.map(function, items))

    def experiments(self) -> dict[str, Json]:
        rows = self._pages(
            "POST", "experiments/search", "experiments", view_type="ALL", max_results=1000
        )
        return {row["experiment_id"]: {**row, "tags": _values(row.get("tags"))} for row in rows}

    def runs(self, experiment_ids: list[str], histories: bool) -> dict[str, Json]:
        listed = self._pages(
            "POST",
            "runs/search",
            "runs",
            experiment_ids=experiment_ids,
            run_view_type="ALL",
            max_results=1000,
            order_by=["attributes.run_id ASC"],
        )
        run_ids = [row["info"]["run_id"] for row in listed]
        # One by one: a search does not return model inputs.
        found = dict(zip(run_ids, self._each(self._run, run_ids), strict=True))
        if histories:
            wanted = [(run_id, key) for run_id in run_ids for key in found[run_id]["metrics"]]
            for (run_id, key), points in zip(
                wanted, self._each(self._history, wanted), strict=True
            ):
                found[run_id].setdefault("histories", {})[key] = points
        return found

    def _run(self, run_id: str) -> Json:
        run = self._get("runs/get", run_id=run_id)["run"]
        info, data = run["info"], run.get("data", {})
        outputs = run.get("outputs", {}).get("model_outputs", [])
        return {
            "run_id": info["run_id"],
            "experiment_id": info["experiment_id"],
            "run_name": info.get("run_name", ""),
            "user_id": info.get("user_id", ""),
            "status": info["status"],
            "start_time": info.get("start_time"),
            "end_time": info.get("end_time"),
            "lifecycle_stage": info["lifecycle_stage"],
            "artifact_uri": info["artifact_uri"],
            "params": _values(data.get("params")),
            "tags": _values(data.get("tags")),
            "metrics": {row["key"]: _point(row) for row in data.get("metrics", [])},
            "dataset_inputs": {
                f"{row['dataset']['name']} {row['dataset']['digest']}": {
                    **row["dataset"],
                    "tags": _values(row.get("tags")),
                }
                for row in run.get("inputs", {}).get("dataset_inputs", [])
            },
            "model_inputs": [r["model_id"] for r in run.get("inputs", {}).get("model_inputs", [])],
            "model_outputs": [[row["model_id"], int(row.get("step", 0))] for row in outputs],
        }

    def _history(self, wanted: tuple[str, str]) -> list[list[Any]]:
        # max_results always: without it servers 3.1-3.13 answer nothing, for ever.
        run_id, key = wanted
        request = {"run_id": run_id, "metric_key": key, "max_results": HISTORY_PAGE}
        return [_point(r) for r in self._pages("GET", "metrics/get-history", "metrics", **request)]

    def logged_models(
        self, experiment_ids: list[str], runs: dict[str, Json], registered: dict[str, Json]
    ) -> dict[str, Json]:
        rows = list(
            self._pages(
                "POST",
                "logged-models/search",
                "models",
                experiment_ids=experiment_ids,
                max_results=1000,
            )
            if self._knows_logged_models()
            else ()
        )
        found = {row["info"]["model_id"]: _logged_model(row, deleted=False) for row in rows}
        # Deleted ones are not listed, but runs and versions still name them.
        named = {model_id for run in runs.values() for model_id, _ in run["model_outputs"]}
        named |= {model_id for run in runs.values() for model_id in run["model_inputs"]}
        named |= {
            match[1]
            for model in registered.values()
            for version in model["versions"].values()
            if (match := re.fullmatch(r"models:/(m-\w+)", version["source"]))
        }
        for model_id in sorted(named - found.keys()):
            with contextlib.suppress(RuntimeError):  # left dangling
                row = self._get(f"logged-models/{model_id}", allow_deleted="true")["model"]
                found[model_id] = _logged_model(row, deleted=True)
        return found

    def _knows_logged_models(self) -> bool:
        """MLflow before 3.0 does not; before 2.1 it does not tell its version either."""
        reply = self._session.get(f"{self._uri}/version")
        return reply.status_code == 200 and not reply.text.startswith("2.")

    def registered(self) -> dict[str, dict[str, Json]]:
        """Registered models and prompts: for the server one kind, told apart by a tag."""
        found: dict[str, dict[str, Json]] = {"registered_models": {}, "prompts": {}}
        for kind, only in (
            ("registered_models", {}),
            ("prompts", {"filter": "tag.`mlflow.prompt.is_prompt` = 'true'"}),
        ):
            models = found[kind]
            for row in self._pages(
                "GET", "registered-models/search", "registered_models", max_results=1000, **only
            ):
                # Servers before 2.21 know no prompts, and list them among the others.
                if not only and _values(row.get("tags")).get("mlflow.prompt.is_prompt") == "true":
                    continue
                models[row["name"]] = {
                    "name": row["name"],
                    "description": row.get("description", ""),
                    "creation_timestamp": row.get("creation_timestamp"),
                    "last_updated_timestamp": row.get("last_updated_timestamp"),
                    "tags": _values(row.get("tags")),
                    "aliases": {a["alias"]: str(a["version"]) for a in row.get("aliases", [])},
                    "versions": {},
                }
            versions = [
                row
                for row in self._pages(
                    "GET", "model-versions/search", "model_versions", max_results=10_000, **only
                )
                if row["name"] in models
            ]
            for row, place in zip(versions, self._each(self._download_uri, versions), strict=True):
                models[row["name"]]["versions"][str(row["version"])] = {
                    "description": row.get("description", ""),
                    "current_stage": row.get("current_stage", ""),
                    "source": row.get("source", ""),
                    "download_uri": place,
                    "run_id": row.get("run_id", ""),
                    "run_link": row.get("run_link", ""),
                    "status": row.get("status", ""),
                    "status_message": row.get("status_message", ""),
                    "user_id": row.get("user_id", ""),
                    "creation_timestamp": row.get("creation_timestamp"),
                    "last_updated_timestamp": row.get("last_updated_timestamp"),
                    "tags": _values(row.get("tags")),
                }
        return found

    def _download_uri(self, row: Json) -> str:
        answer = self._get(
            "model-versions/get-download-uri", name=row["name"], version=str(row["version"])
        )
        return str(answer.get("artifact_uri", ""))

    def add_artifacts(self, found: Mapping[str, dict[str, Json]]) -> None:
        """Add to each run and logged model ``artifacts``: path to size and digest (or text)."""
        experiments = found["experiments"]
        # A directory exists only where something was logged: one listing of the experiment's
        # location spares one for each of its runs.
        places = [row["artifact_location"] for row in experiments.values()]
        present = dict(zip(places, self._each(self._names_below, places), strict=True))
        owners: list[Json] = []
        for owner in [*found["runs"].values(), *found["logged_models"].values()]:
            owner["artifacts"] = {}
            place = experiments[owner["experiment_id"]]["artifact_location"]
            below = owner["artifact_uri"].removeprefix(place).strip("/")
            if below == owner["artifact_uri"] or below.split("/")[0] in present[place]:
                owners.append(owner)
        files: list[tuple[Json, str]] = []
        directories = [(owner, "") for owner in owners]
        while directories:  # one level at a time
            listings = self._each(
                lambda item: self._list(item[0]["artifact_uri"], item[1]), directories
            )
            above, directories = directories, []
            for (owner, _), entries in zip(above, listings, strict=True):
                for path, is_dir in entries:
                    (directories if is_dir else files).append((owner, path))
        contents = self._each(lambda item: self._file(item[0]["artifact_uri"], item[1]), files)
        for (owner, path), content in zip(files, contents, strict=True):
            owner["artifacts"][path] = content

    def _names_below(self, uri: str) -> set[str]:
        return {path for path, _ in self._list(uri)}

    def _list(self, uri: str, path: str = "") -> list[tuple[str, bool]]:
        """Paths below ``uri``, one level, and whether each is a directory."""
        if not uri.startswith("mlflow-artifacts:"):
            infos = _repository(uri).list_artifacts(path or None)
            return [(info.path, info.is_dir) for info in infos]
        full = f"{_proxied(uri)}/{path}" if path else _proxied(uri)
        answer = self._call("GET", "mlflow-artifacts/artifacts", params={"path": full})
        prefix = f"{path}/" if path else ""
        return [(prefix + row["path"], bool(row.get("is_dir"))) for row in answer.get("files", [])]

    def _file(self, uri: str, path: str) -> Json:
        digest, size, start = hashlib.sha256(), 0, b""
        keep = path.rpartition("/")[2] == "MLmodel"
        for piece in self._pieces(uri, path):
            digest.update(piece)
            size += len(piece)
            if keep:
                start += piece
        if keep:
            return {"size": size, "text": start.decode("utf-8", "replace")}
        return {"size": size, "sha256": digest.hexdigest()}

    def _pieces(self, uri: str, path: str) -> Iterator[bytes]:
        if not uri.startswith("mlflow-artifacts:"):
            with tempfile.TemporaryDirectory() as scratch:
                local = Path(scratch, "file")
                _repository(uri)._download_file(path, str(local))
                with local.open("rb") as stream:
                    while piece := stream.read(1 << 20):
                        yield piece
            return
        # As MLflow's repository does, but with the name quoted: it cannot read "a?b".
        quoted = urllib.parse.quote(f"{_proxied(uri)}/{path}")
        url = f"{self._uri}/api/2.0/mlflow-artifacts/artifacts/{quoted}"
        with self._session.get(url, stream=True) as reply:
            if reply.status_code != 200:
                raise RuntimeError(f"GET {path!r} below {uri}: {reply.status_code}")
            yield from reply.iter_content(1 << 20)


def add_artifacts_on_disk(found: Mapping[str, dict[str, Json]], directory: Path) -> None:
    """As `_Reader.add_artifacts`, for a server that relays to a local directory."""
    for owner in [*found["runs"].values(), *found["logged_models"].values()]:
        root = directory / _proxied(owner["artifact_uri"])
        owner["artifacts"] = {
            path.relative_to(root).as_posix(): _content(path)
            for path in root.rglob("*")
            if path.is_file()
        }


def _content(path: Path) -> Json:
    data = path.read_bytes()
    if path.name == "MLmodel":
        return {"size": len(data), "text": data.decode("utf-8", "replace")}
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _repository(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)


def _proxied(uri: str) -> str:
    return urllib.parse.urlsplit(uri).path.strip("/")


def _values(pairs: list[dict[str, str]] | None) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in pairs or []}


def _point(row: Json) -> list[Any]:
    """Timestamp, step, value; the value as text, so that NaN equals NaN and -0.0 is not 0.0."""
    return [int(row.get("timestamp", 0)), int(row.get("step", 0)), repr(float(row["value"]))]


def _logged_model(row: Json, *, deleted: bool) -> Json:
    info, data = row["info"], row.get("data", {})
    return {
        "model_id": info["model_id"],
        "experiment_id": info["experiment_id"],
        "name": info.get("name", ""),
        "model_type": info.get("model_type", ""),
        "status": info.get("status"),
        "status_message": info.get("status_message", ""),
        "source_run_id": info.get("source_run_id", ""),
        "artifact_uri": info["artifact_uri"],
        "creation_timestamp_ms": info.get("creation_timestamp_ms"),
        "last_updated_timestamp_ms": info.get("last_updated_timestamp_ms"),
        "deleted": deleted,
        "tags": _values(info.get("tags")),
        "params": _values(data.get("params")),
        "metrics": [
            {
                "key": metric["key"],
                "point": _point(metric),
                "run_id": metric.get("run_id", ""),
                "dataset": [metric.get("dataset_name", ""), metric.get("dataset_digest", "")],
            }
            for metric in data.get("metrics", [])
        ],
    }


# ----------------------------------------------------------------------------------- comparing


def differences(
    a: Snapshot,
    b: Snapshot,
    *,
    exempt: Iterable[Exemption] = EXEMPT,
    subset: bool = False,
    experiment_name: Callable[[str], str] = lambda name: name,
) -> list[str]:
    """Tell every difference, one line for each field; no line means equal.

    A new server's experiment ``Default``, without tags and runs, is not missed in ``a``.

    Args:
        a: The source.
        b: The destination.
        exempt: What is not compared.
        subset: Whether ``b`` may hold objects that ``a`` has not.
        experiment_name: The name that an experiment of ``a`` has in ``b``.
    """
    exempt = tuple(exempt)
    lines: list[str] = []
    left, right = _Names(a, experiment_name), _Names(b)
    for names in (left, right):
        lines += names.duplicates
    for kind in KINDS:
        ours, theirs = left.objects(kind), right.objects(kind)
        for key in sorted(ours.keys() | theirs.keys()):
            label = f"{kind}[{key}]"
            if key not in theirs:
                lines.append(f"{label}: only in the first")
            elif key not in ours:
                if not subset and not _untouched_default(kind, theirs[key], b):
                    lines.append(f"{label}: only in the second")
            else:
                lines += _field_differences(
                    kind, label, ours[key], theirs[key], exempt, subset=subset
                )
    return lines


class _Names:
    """The objects of one server under names that another server gives to the same objects."""

    def __init__(
        self, taken: Snapshot, experiment_name: Callable[[str], str] = lambda name: name
    ) -> None:
        data = taken.data
        self._data = data
        self.duplicates: list[str] = []
        self._experiments = {
            key: experiment_name(row["name"]) for key, row in data["experiments"].items()
        }
        self._runs = self._origins("runs", taken.tracking_uri)
        self._models = self._origins("logged_models", taken.tracking_uri)
        roots = {
            row["artifact_uri"].rstrip("/"): f"<artifacts of run {self._runs[key]}>"
            for key, row in data["runs"].items()
        }
        roots |= {
            row["artifact_uri"].rstrip("/"): f"<artifacts of model {self._models[key]}>"
            for key, row in data["logged_models"].items()
        }
        self._roots = roots

    def _origins(self, kind: str, server: str) -> dict[str, str]:
        origins = {key: row["tags"].get(ORIGIN, key) for key, row in self._data[kind].items()}
        seen: dict[str, str] = {}
        for key, origin in origins.items():
            if origin in seen:
                self.duplicates.append(
                    f"{kind}[{origin}]: twice on {server}: {seen[origin]} and {key}"
                )
            seen[origin] = key
        return origins

    def objects(self, kind: str) -> dict[str, Json]:
        make: Callable[[str, Json], tuple[str, Json]] = getattr(self, f"_{kind}_object")
        return dict(make(key, copy.deepcopy(row)) for key, row in self._data[kind].items())

    def _experiments_object(self, key: str, row: Json) -> tuple[str, Json]:
        row["name"] = self._experiments[key]
        return row["name"], row

    def _runs_object(self, key: str, row: Json) -> tuple[str, Json]:
        row["experiment"] = self._experiment(row.pop("experiment_id"))
        tags = row["tags"]
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = self._run(tags["mlflow.parentRunId"])
        if "mlflow.log-model.history" in tags:
            tags["mlflow.log-model.history"] = self._model_history(tags["mlflow.log-model.history"])
        row["model_inputs"] = sorted(self._model(model_id) for model_id in row["model_inputs"])
        row["model_outputs"] = sorted(
            [self._model(model_id), step] for model_id, step in row["model_outputs"]
        )
        self._name_model_files(row)
        return self._runs[key], row

    def _logged_models_object(self, key: str, row: Json) -> tuple[str, Json]:
        row["experiment"] = self._experiment(row.pop("experiment_id"))
        row["source_run_id"] = self._run(row["source_run_id"])
        if "mlflow.modelVersions" in row["tags"]:  # a set, written by the server
            versions = json.loads(row["tags"]["mlflow.modelVersions"])
            row["tags"]["mlflow.modelVersions"] = sorted(
                [v["name"], v["version"]] for v in versions
            )
        metrics = {}
        for metric in row["metrics"]:
            timestamp, step, value = metric["point"]
            name = f"{metric['key']} at {timestamp} step {step} of {self._run(metric['run_id'])}"
            if value == "0.0" and self._is_nan(metric):
                name += " NaN"
            metrics[name] = {"value": value, "dataset": metric["dataset"]}
        row["metrics"] = metrics
        self._name_model_files(row)
        return self._models[key], row

    def _registered_models_object(self, key: str, row: Json) -> tuple[str, Json]:
        for version in row["versions"].values():
            version["run_id"] = self._run(version["run_id"])
            version["source"] = self._location(version["source"])
            version["download_uri"] = self._location(version["download_uri"])
        return key, row

    def _prompts_object(self, key: str, row: Json) -> tuple[str, Json]:
        self._registered_models_object(key, row)
        ids = row["tags"].get("_mlflow_experiment_ids")
        if ids is not None:
            row["tags"]["_mlflow_experiment_ids"] = sorted(map(self._experiment, ids.split(",")))
        for version in row["versions"].values():
            runs = version["tags"].get("mlflow.prompt.associatedRunIds")
            if runs is not None:
                version["tags"]["mlflow.prompt.associatedRunIds"] = [
                    self._run(run_id) for run_id in runs.split(",")
                ]
        return key, row

    def _experiment(self, experiment_id: str) -> str:
        name = self._experiments.get(experiment_id)
        return experiment_id if name is None else f"<experiment {name}>"

    def _run(self, run_id: str) -> str:
        origin = self._runs.get(run_id)
        return run_id if origin is None else f"<run {origin}>"

    def _model(self, model_id: str) -> str:
        origin = self._models.get(model_id)
        return model_id if origin is None else f"<model {origin}>"

    def _location(self, uri: str) -> str:
        """A version's source, or any other address of artifacts."""
        scheme, _, rest = uri.partition(":/")
        if scheme in ("runs", "models"):
            head, slash, tail = rest.lstrip("/").partition("/")
            named = self._run(head) if scheme == "runs" else self._model(head)
            return f"{scheme}:/{named}{slash}{tail}"
        place = uri.rstrip("/")
        while "/" in place:
            if place in self._roots:
                return self._roots[place] + uri[len(place) :]
            place = place.rpartition("/")[0]
        return uri

    def _model_history(self, text: str) -> Any:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            return [
                {
                    **entry,
                    "run_id": self._run(entry.get("run_id", "")),
                    "model_uuid": self._model(entry.get("model_uuid", "")),
                    "artifact_path": self._location(entry.get("artifact_path", "")),
                }
                for entry in json.loads(text)
            ]
        return text

    def _is_nan(self, metric: Json) -> bool:
        history = self._data["runs"].get(metric["run_id"], {}).get("histories", {})
        timestamp, step, _ = metric["point"]
        return [timestamp, step, "nan"] in history.get(metric["key"], [])

    def _name_model_files(self, row: Json) -> None:
        """In files called MLmodel the ids must be those of this server; name what they mean."""
        for content in row.get("artifacts", {}).values():
            if "text" in content:
                content["text"] = _MODEL_FILE_IDS.sub(self._model_file_line, content["text"])
                content["size"] = len(content["text"].encode())

    def _model_file_line(self, line: re.Match[str]) -> str:
        key, value = line["key"], line["value"].strip("'\"")
        name = {"run_id": self._run, "artifact_path": self._location}.get(key, self._model)
        return f"{key}: {name(value)}"


_MODEL_FILE_IDS = re.compile(
    r"^(?P<key>run_id|model_id|model_uuid|artifact_path): (?P<value>.+)$", re.MULTILINE
)


def _untouched_default(kind: str, row: Json, server: Snapshot) -> bool:
    return (
        kind == "experiments"
        and row["experiment_id"] == "0"
        and not row["tags"]
        and not any(run["experiment_id"] == "0" for run in server.data["runs"].values())
    )


def _field_differences(
    kind: str, label: str, a: Json, b: Json, exempt: tuple[Exemption, ...], *, subset: bool
) -> list[str]:
    lines = []
    ours, theirs = dict(_leaves(a)), dict(_leaves(b))
    for path in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(path, _ABSENT), theirs.get(path, _ABSENT)
        if left == right or any(exemption.covers((kind, *path)) for exemption in exempt):
            continue
        # More versions, and aliases and tags that point nowhere else, make it a larger model.
        if subset and left is _ABSENT and path[0] == "versions" and path[1] not in a["versions"]:
            continue
        lines.append(f"{label} {'/'.join(path)}: {_contrast(left, right)}")
    return lines


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, (*path, key))
    else:
        yield path, value


def _contrast(left: Any, right: Any) -> str:
    if isinstance(left, list) and isinstance(right, list) and len(left) + len(right) > 6:
        pairs = list(zip(left, right, strict=False))
        first = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
        return (
            f"{len(left)} against {len(right)} entries, first difference at index {first}:"
            f" {_short(left[first : first + 1])} != {_short(right[first : first + 1])}"
        )
    if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) > 200:
        first = next(
            (i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y),
            min(len(left), len(right)),
        )
        start = max(0, first - 20)
        return (
            f"{len(left)} against {len(right)} characters, first difference at {first}:"
            f" …{_short(left[start:])} != …{_short(right[start:])}"
        )
    return f"{_short(left)} != {_short(right)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


# ---------------------------------------------------------------------------------------- rows


def row_dump(database: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of a SQLite file, sorted, to prove that nothing changed."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)
            for (name,) in tables
        }
