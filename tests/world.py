"""The world: one MLflow server's worth of everything that can move, odd values included.

`build_world` fills a real server through its REST API alone, so that whatever it holds is
something a server accepts. Times, values and sizes are fixed; ids are the server's. There is one
function per kind of entity, called in order by `build_world`; each leaves the ids that tests ask
for in the `World` under a label.

What MLflow 3.17.2 refuses, and what therefore is not here:

- keys of params, metrics and tags with anything but letters, digits and ``_-. :/`` (letters of any
  script pass, emoji do not), or that are no normal path (``a//b``, ``/a``, ``a/``, ``.``);
- negative metric timestamps; infinities are stored as the largest double; an empty run name is
  replaced by a generated one, and an empty ``mlflow.runName`` tag is ignored;
- registered-model names with ``/`` or ``:``, or ``.`` and ``..``; logged-model names with any of
  ``/ : . % " '``;
- two metrics of one logged model that differ only in their dataset (primary key);
- artifact names with ``#`` (400) or a line break (404). Some names arrive as other ones: ``%41`` as
  ``A``, ``%2F`` as a directory, a leading space, a tab or another control character removed, and
  ``C:x`` is listed as ``c:x`` and can then not be read (404). ``?`` is stored and read when
  quoted, which MLflow's own client does not do.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import tempfile
import threading
import urllib.parse
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import fast_session, tracking_uri

Json = dict[str, Any]
Point = tuple[float, int, int]
"""Value, timestamp, step."""

T0 = 1_700_000_000_000
"""2023-11-14T22:13:20Z, in ms."""
HOUR = 3_600_000

LONG_HISTORY_POINTS = 26_000
"""More than the 25 000 rows at which get-history-bulk cuts without saying so."""
MANY_RUNS = 120
"""More than the 100 runs that get-history-bulk takes."""

ODD_EXPERIMENT_NAME = "Ünï 日本 😀 *,@/\\'\" #%20 ?&=+:;<>|"
ODD_MODEL_NAME = "with space ünï 😀 *,@'\"#%20?&=+"

ARTIFACT_NAMES = (
    "at the root.txt",
    ".hidden",
    "trailing.",
    "CON",
    "nul.txt",
    "run.json",
    "artifacts",
    "manifest.json",
    "UPPER.txt",
    "upper.txt",
    "100%.txt",
    "%",
    "a+b.txt",
    "a&b=c.txt",
    "a?b.txt",
    "a:b;c.txt",
    "a,b@c*.txt",
    "back\\slash.txt",
    "pipe|less<more>.txt",
    "quote'\".txt",
    "[x]{y}$HOME~!.txt",
    "report (1).txt",
    "...",
    "-dash",
    "ünï-日本-😀.txt",
    "cafe\u0301.txt",  # decomposed
    "caf\u00e9.txt",  # composed
    "n" * 230,
    "ü" * 120,  # 240 bytes
    "trailing space ",
    "dir with space/ü/a b.txt",
    "1/2/3/4/5/6/7/8/deep.txt",
    "run.json.d/run.json",
    "experiments/manifest.json",
)


@dataclass(frozen=True, kw_only=True)
class World:
    """What was built, by label; the labels are those given in the functions below."""

    tracking_uri: str
    experiments: Mapping[str, str] = field(default_factory=dict)
    """Label to experiment_id."""
    experiment_names: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)
    """Label to run_id."""
    logged_models: Mapping[str, str] = field(default_factory=dict)
    """Label to model_id."""
    registered_models: Mapping[str, str] = field(default_factory=dict)
    """Label to name."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Label to name."""
    traces: Mapping[str, str] = field(default_factory=dict)
    """Label to trace_id."""
    spans: Mapping[str, str] = field(default_factory=dict)
    """``<trace label>/<span name>`` to span_id, of spans that tests ask for."""
    assessments: Mapping[str, str] = field(default_factory=dict)
    """Label to assessment_id."""
    issues: Mapping[str, str] = field(default_factory=dict)
    """Label to issue_id."""
    label_schemas: Mapping[str, str] = field(default_factory=dict)
    """Label to schema_id."""
    review_queues: Mapping[str, str] = field(default_factory=dict)
    """Label to queue_id."""
    scorers: Mapping[str, str] = field(default_factory=dict)
    """Label to name."""
    datasets: Mapping[str, str] = field(default_factory=dict)
    """Label to dataset_id, of evaluation datasets."""
    mcp_servers: Mapping[str, str] = field(default_factory=dict)
    """Label to name."""
    skills: Mapping[str, str] = field(default_factory=dict)
    """Id to itself; none where the server has no registry of them."""
    webhooks: Mapping[str, str] = field(default_factory=dict)
    """Label to webhook_id."""
    gateway: Mapping[str, str] = field(default_factory=dict)
    """``<kind>/<label>`` to id: secrets, models, endpoints, guardrails, budgets."""

    def at(self, tracking_uri: str) -> World:
        """The same world, served elsewhere."""
        return dataclasses.replace(self, tracking_uri=tracking_uri)


def build_world(tracking_uri: str) -> World:
    """Fill an empty server at ``tracking_uri``; takes well under a minute."""
    build = _Build(tracking_uri)
    experiments(build)
    # The long history is one connection waiting for the server: let the rest go on beside it.
    with ThreadPoolExecutor(1) as beside:
        long = beside.submit(long_history, build)
        runs(build)
        histories(build)
        many_runs(build)
        inputs(build)
        nesting(build)
        artifacts(build)
        logged_models(build)
        pyfunc_model(build)
        long.result()
    deleted_runs(build)
    registered_models(build)
    prompts(build)
    deleted_experiment(build)
    return build.world()


_MAPS = {f.name for f in dataclasses.fields(World)} - {"tracking_uri"}


class _Build:
    """The REST calls, and what has been made so far."""

    def __init__(self, tracking_uri: str, workspace: str | None = None) -> None:
        self.uri = tracking_uri.rstrip("/")
        self.experiments: dict[str, str] = {}
        self.experiment_names: dict[str, str] = {}
        self.runs: dict[str, str] = {}
        self.logged_models: dict[str, str] = {}
        self.registered_models: dict[str, str] = {}
        self.prompts: dict[str, str] = {}
        self.traces: dict[str, str] = {}
        self.assessments: dict[str, str] = {}
        self.issues: dict[str, str] = {}
        self.label_schemas: dict[str, str] = {}
        self.review_queues: dict[str, str] = {}
        self.scorers: dict[str, str] = {}
        self.datasets: dict[str, str] = {}
        self.mcp_servers: dict[str, str] = {}
        self.skills: dict[str, str] = {}
        self.webhooks: dict[str, str] = {}
        self.gateway: dict[str, str] = {}
        self.spans: dict[str, str] = {}
        self._session = fast_session()
        if workspace is not None:
            self._session.headers["X-MLFLOW-WORKSPACE"] = workspace

    @classmethod
    def of(cls, world: World) -> _Build:
        """Go on where ``world`` ended."""
        build = cls(world.tracking_uri)
        for name in _MAPS:
            getattr(build, name).update(getattr(world, name))
        return build

    def world(self) -> World:
        """All that has been made so far."""
        made = {name: getattr(self, name) for name in _MAPS}
        return World(tracking_uri=self.uri, **made)

    def call(self, path: str, *, method: str = "POST", api: str = "2.0", **body: Any) -> Json:
        """Send ``body`` as JSON; ``api="3.0"`` for kinds that came with MLflow 3."""
        return self.send(method, f"api/{api}/mlflow/{path}", json=body)

    def send(self, method: str, path: str, **options: Any) -> Json:
        """Make any request; the answer is JSON, or nothing."""
        reply = self._session.request(method, f"{self.uri}/{path}", **options)
        if reply.status_code not in (200, 201):
            raise RuntimeError(f"{method} {path}: {reply.status_code} {reply.text[:500]}")
        if "json" not in reply.headers.get("Content-Type", ""):
            return {}
        answer: Json = reply.json()
        return answer

    def get(self, path: str, **parameters: str) -> Json:
        reply = self._session.get(f"{self.uri}/api/2.0/mlflow/{path}", params=parameters)
        reply.raise_for_status()
        answer: Json = reply.json()
        return answer

    def experiment(self, label: str, name: str, tags: Mapping[str, str] | None = None) -> str:
        answer = self.call("experiments/create", name=name, tags=_pairs(tags or {}))
        self.experiments[label] = answer["experiment_id"]
        self.experiment_names[label] = name
        return self.experiments[label]

    def run(
        self,
        label: str,
        experiment: str,
        *,
        name: str | None = None,
        status: str = "FINISHED",
        start_time: int = T0,
        end_time: int | None = T0 + HOUR,
        user: str = "ana",
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, Iterable[Point]] | None = None,
    ) -> str:
        """Create a run under ``label`` in the experiment of that label; return its id."""
        created = self.call(
            "runs/create",
            experiment_id=self.experiments[experiment],
            run_name=label if name is None else name,
            user_id=user,
            start_time=start_time,
            tags=_pairs(tags or {}),
        )
        run_id = str(created["run"]["info"]["run_id"])
        self.runs[label] = run_id
        pairs = _pairs(params or {})
        for start in range(0, len(pairs), 100):  # MAX_PARAMS_TAGS_PER_BATCH
            self.call("runs/log-batch", run_id=run_id, params=pairs[start : start + 100])
        self.log_metrics(run_id, metrics or {})
        if status != "RUNNING" or end_time is not None:
            end: Json = {} if end_time is None else {"end_time": end_time}
            self.call("runs/update", run_id=run_id, status=status, **end)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, Iterable[Point]], **more: str) -> None:
        rows = [
            {"key": key, "value": _number(value), "timestamp": timestamp, "step": step, **more}
            for key, points in metrics.items()
            for value, timestamp, step in points
        ]
        for start in range(0, len(rows), 1000):  # MAX_METRICS_PER_BATCH
            self.call("runs/log-batch", run_id=run_id, metrics=rows[start : start + 1000])

    def artifact_uri(self, run_id: str) -> str:
        return str(self.get("runs/get", run_id=run_id)["run"]["info"]["artifact_uri"])

    def put_files(self, artifact_uri: str, files: Mapping[str, bytes]) -> None:
        """Store files through the server's proxy, or through MLflow where it does not relay."""
        if not artifact_uri.startswith("mlflow-artifacts:"):
            _log_through_mlflow(artifact_uri, files)
            return
        root = artifact_uri.removeprefix("mlflow-artifacts:").strip("/")
        base = f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/{root}"

        def put(item: tuple[str, bytes]) -> None:
            reply = self._session.put(f"{base}/{urllib.parse.quote(item[0])}", data=item[1])
            if reply.status_code != 200:
                raise RuntimeError(f"PUT {item[0]!r}: {reply.status_code} {reply.text[:300]}")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(put, files.items()))

    def logged_model(
        self,
        label: str,
        experiment: str,
        *,
        name: str,
        status: str = "LOGGED_MODEL_READY",
        source_run_id: str | None = None,
        model_type: str = "",
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> str:
        source = {} if source_run_id is None else {"source_run_id": source_run_id}
        info = self.call(
            "logged-models",
            experiment_id=self.experiments[experiment],
            name=name,
            model_type=model_type,
            params=_pairs(params or {}),
            tags=_pairs(tags or {}),
            **source,
        )["model"]["info"]
        model_id = str(info["model_id"])
        self.logged_models[label] = model_id
        model_file = ml_model_file(source_run_id, model_id, info["artifact_uri"])
        if files is not None:
            self.put_files(info["artifact_uri"], {"MLmodel": model_file, **files})
        if status != "LOGGED_MODEL_PENDING":
            self.call(f"logged-models/{model_id}", method="PATCH", model_id=model_id, status=status)
        return model_id


def experiments(build: _Build) -> None:
    build.experiments["default"] = "0"
    build.experiment_names["default"] = "Default"
    build.call("experiments/set-experiment-tag", experiment_id="0", key="on default", value="yes")
    # First, so that it does not get the id 7: the name must not be taken for the id.
    build.experiment("number", "7", {"named": "like an id"})
    build.experiment(
        "classic",
        "iris classifiers",
        {
            "mlflow.note.content": "# Iris\n\nAll classifiers, *ours* and theirs.\n",
            "mlflow.experimentKind": "custom_model_development",
            "team": "Blumen & Söhne",
            "empty": "",
            "ü/b c.d-e:f": "odd key",
        },
    )
    build.experiment("odd_name", ODD_EXPERIMENT_NAME)
    build.experiment("long_name", "n" * 499 + "ü")
    build.experiment(
        "long_tag", "long tag", {"k" * 250: "v" * 20_000, "lines": "a\nb\r\n\tc\u2028d"}
    )
    build.experiment("manifest", "manifest.json")
    build.experiment("dots", "..")
    build.experiment("spaces", " leading and trailing ")
    build.experiment("empty", "no runs")
    build.experiment("many", "many runs")
    build.experiment("prefix", "team a")
    build.experiment("prefixed", "team a/b")
    build.experiment("deleted", "deleted, with runs", {"fate": "deleted"})
    build.experiment("deleted_empty", "deleted, empty")


def runs(build: _Build) -> None:
    """Every status, times that are set, missing or absurd, and values at their limits."""
    build.run("running", "classic", status="RUNNING", end_time=None)
    build.run("scheduled", "classic", status="SCHEDULED", end_time=None, start_time=T0 + 1)
    build.run("finished", "classic", status="FINISHED", end_time=T0 + HOUR, user="bo")
    build.run("failed", "classic", status="FAILED", end_time=T0 + 1)
    build.run("killed", "classic", status="KILLED", end_time=T0 + 2, user="")
    build.run("ended_before_start", "classic", start_time=T0, end_time=T0 - HOUR)
    build.run("before_1970", "classic", start_time=-5, end_time=-1)
    build.run("finished_without_end", "classic", status="FINISHED", end_time=None)
    build.run("twin_1", "classic", name="same name", params={"twin": "1"})
    build.run("twin_2", "classic", name="same name", params={"twin": "2"})
    # Neither name nor user nor start: the server invents a name and answers start_time 0.
    bare = build.call("runs/create", experiment_id=build.experiments["classic"])
    build.runs["bare"] = bare["run"]["info"]["run_id"]
    build.run(
        "unicode",
        "odd_name",
        name="Lauf „ünï“ 日本 😀 / * , @ \\ ' \"",
        user="Jürgen Ö. <j@example.org>",
        params={
            "ü日/a b.c-d:e": "Wert 😀",
            "lines": "a\nb\r\n\tc\u2028d",
            "empty": "",
            "nan": "NaN",
        },
        tags={
            "mlflow.note.content": "Notes\n\n- ünï\n- 😀\n",
            "mlflow.source.name": "train.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": "0" * 40,
            "mlflow.user": "Jürgen",
            "ü日/a b.c-d:e": "tag 😀",
            "empty": "",
            "json": '{"a": [1, null, "\\u00fc"]}',
        },
    )
    build.run("one_param", "classic", params={"alpha": "0.1"})
    build.run(
        "many_params",
        "classic",
        params={f"param_{i:03}": str(i) for i in range(150)},
        tags={f"tag_{i:03}": str(i) for i in range(150)},
    )
    build.run(
        "long_values",
        "classic",
        name="n" * 250,
        params={"k" * 250: "p" * 6000, "ü": "ü" * 6000},
        tags={"k" * 250: "t" * 8000, "ü": "😀" * 4000},
        metrics={"k" * 250: [(1.0, T0, 0)]},
    )
    build.run("default_1", "default", params={"a": "1"}, metrics={"m": [(1.5, T0, 0)]})
    build.run("default_2", "default", status="FAILED")
    for label in ("number", "long_name", "long_tag", "manifest", "dots", "spaces"):
        build.run(f"in_{label}", label, params={"where": label}, metrics={"m": [(2.0, T0, 1)]})
    build.run("in_prefix", "prefix")
    build.run("in_prefixed", "prefixed")


def histories(build: _Build) -> None:
    """Points that are hard to carry: see `odd_history` and the extremes below."""
    extremes = [
        (5e-324, T0, 0),
        (-0.0, T0, 1),
        (0.1 + 0.2, T0, 2),
        (1.7976931348623157e308, T0, 3),
        (1e22, T0, 2**62),
        (1 / 3, 0, -(2**62)),
        (float(2**53 + 2), 2**53 + 1, 4),
    ]
    build.run(
        "histories",
        "classic",
        metrics={
            "odd": odd_history(),
            "extremes": extremes,
            "only nan": [(math.nan, T0, 0)],
            "val/loss": [(1 / (i + 1), T0 + i, i) for i in range(50)],
            "a b": [(1.0, T0, 0)],
            "a.b-c_d:e": [(2.0, T0, 0)],
            "ünï日": [(3.0, T0, 0)],
            # The newest point is not the last logged, nor the largest timestamp.
            "latest by step": [(1.0, T0 + 9, 1), (2.0, T0, 5), (3.0, T0 + 5, 3)],
        },
    )


def odd_history(points: int = 3000) -> list[Point]:
    """NaN, infinities, equal timestamps, negative and repeated steps, logged out of order."""
    dice = random.Random(7)
    history: list[Point] = []
    for i in range(points):
        value = dice.gauss(0, 1)
        if i % 97 == 0:
            value = math.nan
        elif i % 101 == 0:
            value = math.inf
        elif i % 103 == 0:
            value = -math.inf
        timestamp = T0 + (i // 10) * 1000  # ten points share a timestamp
        step = -50 if i % 50 == 0 else i // 3 - 100
        history.append((value, timestamp, step))
    dice.shuffle(history)
    return history


def long_history(build: _Build) -> None:
    """A key with more points than one answer of get-history-bulk can hold."""
    points = [(math.sin(i / 100), T0 + i, i) for i in range(LONG_HISTORY_POINTS)]
    build.run("long_history", "many", metrics={"long": points, "short": [(1.0, T0, 0)]})


def many_runs(build: _Build) -> None:
    """More runs with the same key than one request may name; some share the long run's key."""

    def make(i: int) -> None:
        metrics = {"shared": [(i + step / 10, T0 + i, step) for step in range(3)]}
        if i % 10 == 0:
            metrics["long"] = [(float(step), T0 + step, step) for step in range(10)]
        build.run(
            f"many_{i:03}",
            "many",
            start_time=T0 + i,
            status="RUNNING" if i % 2 else "FINISHED",
            end_time=None if i % 2 else T0 + i + HOUR,
            tags={"index": str(i)},
            metrics=metrics,
        )

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(make, range(MANY_RUNS)))


def inputs(build: _Build) -> None:
    """Datasets: several of a run, one in several runs and experiments, long and missing fields."""
    columns = [{"name": f"column {i}", "type": "double", "required": True} for i in range(900)]
    iris = {
        "name": "iris",
        "digest": "1a2b3c4d",
        "source_type": "http",
        "source": json.dumps({"url": "https://example.org/iris.csv?x=1&y=ü"}),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps({"num_rows": 150, "note": "ü" * 60_000}),
    }
    iris_v2 = {**iris, "digest": "5e6f7a8b", "schema": "", "profile": ""}
    odd = {"name": "Daten „ünï“ 😀/a b", "digest": "0", "source_type": "local", "source": "{}"}
    context = "mlflow.data.context"

    def log(run_id: str, *datasets: tuple[Json, dict[str, str]]) -> None:
        build.call(
            "runs/log-inputs",
            run_id=run_id,
            datasets=[{"dataset": d, "tags": _pairs(tags)} for d, tags in datasets],
        )

    log(
        build.run("datasets", "classic"),
        (iris, {context: "training", "ü b": "v" * 500}),
        (iris_v2, {context: "validation"}),
        (odd, {}),
    )
    log(build.run("datasets_shared", "classic"), (iris, {context: "test"}))
    log(build.run("datasets_elsewhere", "number"), (iris, {context: "training"}))


def nesting(build: _Build) -> None:
    """Runs below runs; a child may have the smaller id, another experiment, or no parent left."""
    root = build.run("root", "classic")
    child = build.run("child", "classic", tags={"mlflow.parentRunId": root})
    build.run("grandchild", "classic", tags={"mlflow.parentRunId": child})
    build.run("child_elsewhere", "number", tags={"mlflow.parentRunId": root})
    build.run("orphan", "classic", tags={"mlflow.parentRunId": "0" * 32})
    for parent_label, child_label, pick in (
        ("parent_with_larger_id", "child_with_smaller_id", max),
        ("parent_with_smaller_id", "child_with_larger_id", min),
    ):
        pair = {build.run("pair", "classic", name=f"{parent_label} {i}") for i in range(2)}
        parent = pick(pair)
        (other,) = pair - {parent}
        build.call("runs/set-tag", run_id=other, key="mlflow.parentRunId", value=parent)
        build.runs |= {parent_label: parent, child_label: other}
    del build.runs["pair"]


def artifacts(build: _Build) -> None:
    """Names, sizes and depths; the same content in several runs; many files in one directory."""
    dice = random.Random(11)
    noise = dice.randbytes(5 * 2**20)
    repeats = (b"The quick brown fox jumps over the lazy dog.\n" * 120_000)[: 5 * 2**20]
    odd = build.run("artifacts", "classic")
    files = {name: f"content of {name}\n".encode() for name in ARTIFACT_NAMES}
    files |= {"empty.bin": b"", "noise.bin": noise, "repeats.txt": repeats}
    build.put_files(build.artifact_uri(odd), files)
    same = build.run("same_artifacts", "number")
    build.put_files(build.artifact_uri(same), {"elsewhere/noise.bin": noise, "e": b""})
    many = build.run("many_files", "classic")
    build.put_files(
        build.artifact_uri(many), {f"small/{i:03}.json": b'{"i": %d}' % i for i in range(300)}
    )
    build.put_files(build.artifact_uri(build.runs["default_1"]), {"in default.txt": b"0"})
    # A model of the generation before logged models: files in the run, ids in a tag and a file.
    old = build.run("old_style_model", "classic")
    uri = build.artifact_uri(old)
    model_uuid = "00112233445566778899aabbccddeeff"
    files = {
        "model/MLmodel": ml_model_file(old, None, "model", model_uuid),
        "model/model.pkl": b"\x80\x05N.",
        "model/requirements.txt": b"scikit-learn==1.7.0\n",
    }
    build.put_files(uri, files)
    entry = {"run_id": old, "artifact_path": "model", "model_uuid": model_uuid, "flavors": {}}
    build.call(
        "runs/set-tag", run_id=old, key="mlflow.log-model.history", value=json.dumps([entry])
    )


def ml_model_file(
    run_id: str | None, model_id: str | None, artifact_path: str, model_uuid: str | None = None
) -> bytes:
    """An MLmodel file with its keys in MLflow's order (alphabetical)."""
    lines = [
        f"artifact_path: {artifact_path}",
        "flavors:",
        "  python_function:",
        "    loader_module: mlflow.sklearn",
        "    model_path: model.pkl",
        "    python_version: 3.11.7",
        "mlflow_version: 3.17.2",
    ]
    lines += [f"model_id: {model_id}"] if model_id else []
    lines += ["model_size_bytes: 1024"]
    lines += [f"model_uuid: {model_uuid or model_id}"]
    lines += ["prompts: null"] if model_id else []
    lines += [f"run_id: {run_id}"] if run_id else []
    lines += ["utc_time_created: '2023-11-14 22:13:20.000000'"]
    return "\n".join([*lines, ""]).encode()


def logged_models(build: _Build) -> None:
    """Statuses, sources, metrics with datasets, a deleted one; runs that made and used them."""
    trainer = build.run("trainer", "classic")
    evaluator = build.run("evaluator", "classic")
    ready = build.logged_model(
        "ready",
        "classic",
        name="iris model",
        source_run_id=trainer,
        model_type="sklearn",
        params={**{f"param_{i:03}": str(i) for i in range(150)}, "long": "p" * 6000, "empty": ""},
        tags={"mlflow.note.content": "ünï 😀", "a/b c": "tag", "long": "t" * 8000},
        files={"model.pkl": b"\x80\x05N.", "sub dir/ü.json": b"{}", "conda.yaml": b"name: x\n"},
    )
    failed = build.logged_model(
        "failed", "classic", name="failed", status="LOGGED_MODEL_UPLOAD_FAILED", files={}
    )
    build.logged_model("pending", "classic", name="pending", status="LOGGED_MODEL_PENDING")
    build.logged_model(
        "no_source", "number", name="ohne Lauf ünï 😀", files={"data.bin": b"\0" * 99}
    )
    build.logged_model("twin", "classic", name="iris model", files={"model.pkl": b"\x80\x05N."})
    elsewhere = build.logged_model(
        "elsewhere", "number", name="source elsewhere", source_run_id=trainer, files={}
    )
    gone = build.logged_model("deleted", "classic", name="deleted", source_run_id=trainer, files={})
    dataset = {"dataset_name": "iris", "dataset_digest": "1a2b3c4d"}
    points = [(i / 10, T0 + i, i) for i in range(20)]
    build.log_metrics(evaluator, {"accuracy": points}, model_id=ready, **dataset)
    build.log_metrics(evaluator, {"f1": [(0.5, T0, 0)]}, model_id=ready)
    # Stored as NaN for the run but as 0 for the model.
    build.log_metrics(evaluator, {"undefined": [(math.nan, T0, 0)]}, model_id=ready)
    build.log_metrics(trainer, {"accuracy": [(0.25, T0, -1)]}, model_id=ready)
    build.log_metrics(trainer, {"accuracy": [(0.75, T0, 3)]}, model_id=failed, **dataset)

    def edge(model_id: str, step: int) -> Json:
        return {"model_id": model_id, "step": step}

    outputs = [edge(ready, 0), edge(failed, 5), edge(gone, 7)]
    build.call("runs/outputs", run_id=trainer, models=outputs)
    build.call("runs/outputs", run_id=evaluator, models=[edge(elsewhere, -1)])
    used = [{"model_id": model_id} for model_id in (ready, elsewhere)]
    build.call("runs/log-inputs", run_id=evaluator, models=used)
    build.call(f"logged-models/{gone}", method="DELETE")
    build.logged_model("in_deleted", "deleted", name="in deleted", files={"a": b"a"})


def pyfunc_model(build: _Build) -> None:
    """One model as MLflow itself logs it."""
    import mlflow

    with (
        tracking_uri(build.uri),
        mlflow.start_run(experiment_id=build.experiments["prefix"], run_name="pyfunc") as run,
    ):
        info = mlflow.pyfunc.log_model(
            name="doubler", python_model=_double, pip_requirements=[], input_example=None
        )
    build.runs["pyfunc"] = run.info.run_id
    build.logged_models["pyfunc"] = info.model_id


def _double(model_input: list[float]) -> list[float]:
    return [2 * value for value in model_input]


def deleted_runs(build: _Build) -> None:
    """Deleted runs keep their data and files; nothing can be written to them afterwards."""
    deleted = build.run(
        "deleted",
        "classic",
        params={"p": "1"},
        tags={"mlflow.parentRunId": build.runs["root"]},
        metrics={"m": [(1.0, T0, 0), (2.0, T0 + 1, 1)]},
    )
    build.put_files(build.artifact_uri(deleted), {"kept.txt": b"still here"})
    for label in ("in_deleted_1", "in_deleted_2"):
        run_id = build.run(label, "deleted", metrics={"m": [(1.0, T0, 0)]}, params={"p": label})
        build.put_files(build.artifact_uri(run_id), {"a/b.txt": label.encode()})


def registered_models(build: _Build) -> None:
    """Versions of every source and stage, with gaps; names that are hard to store."""
    trainer, old = build.runs["trainer"], build.runs["old_style_model"]

    def model(label: str, name: str, description: str = "", **tags: str) -> str:
        build.registered_models[label] = name
        build.call(
            "registered-models/create", name=name, description=description, tags=_pairs(tags)
        )
        return name

    def version(name: str, source: str, **more: Any) -> str:
        answer = build.call("model-versions/create", name=name, source=source, **more)
        return str(answer["model_version"]["version"])

    def stage(name: str, number: str, stage: str) -> None:
        build.call(
            "model-versions/transition-stage",
            name=name,
            version=number,
            stage=stage,
            archive_existing_versions=False,
        )

    def alias(name: str, alias: str, number: str) -> None:
        build.call("registered-models/alias", name=name, alias=alias, version=number)

    def delete(name: str, number: str) -> None:
        build.call("model-versions/delete", method="DELETE", name=name, version=number)

    iris = model("iris", "sklearn_iris", "Classifies *Iris*.\n\nünï 😀", team="Blumen", empty="")
    build.call("registered-models/set-tag", name=iris, key="ü/b c", value="v" * 50_000)
    in_run = f"runs:/{old}/model"
    version(
        iris,
        in_run,
        run_id=old,
        run_link="https://example.org/run?x=1",
        description="first\nünï",
        tags=_pairs({"validated": "yes", "long": "v" * 50_000, "empty": ""}),
    )
    version(iris, "s3://bucket/deleted/2")
    ready = build.logged_models["ready"]
    version(iris, f"models:/{ready}", run_id=trainer, model_id=ready)
    version(iris, f"{build.artifact_uri(old)}/model", run_id=old, description="by location")
    version(iris, "s3://bucket/a path/ü%20/model")
    version(iris, f"models:/{iris}/1")
    no_source = build.logged_models["no_source"]
    version(iris, f"models:/{no_source}", model_id=no_source)
    version(iris, "s3://bucket/foreign", run_id="f" * 32)  # a run that never was here
    version(iris, f"runs:/{old}", run_id=old)
    version(iris, "s3://bucket/deleted/10")
    version(iris, "s3://bucket/deleted/11")
    for number, name in (("1", "Archived"), ("3", "Staging"), ("4", "Production")):
        stage(iris, number, name)
    stage(iris, "5", "Staging")  # two versions in one stage
    for name, number in (("champion", "3"), ("best", "3"), ("challenger", "4"), ("A_b-1", "1")):
        alias(iris, name, number)
    for number in ("2", "10", "11"):  # a gap inside, and the last ones
        delete(iris, number)

    twelve = model("twelve", "twelve versions")
    for i in range(1, 13):
        version(twelve, f"s3://bucket/{i}", tags=_pairs({"i": str(i)}), description=f"v{i}")
    alias(twelve, "two", "2")
    alias(twelve, "ten", "10")

    gap = model("gap_first", "first versions deleted")
    for i in range(1, 5):
        version(gap, f"s3://bucket/gap/{i}")
    for number in ("1", "2"):
        delete(gap, number)
    emptied = model("emptied", "all versions deleted")
    version(emptied, "s3://bucket/emptied")
    delete(emptied, "1")
    model("empty", "no versions", "nothing yet")

    odd = model("odd_name", ODD_MODEL_NAME, "odd name")
    version(odd, in_run, run_id=old)
    alias(odd, "odd", "1")
    for label, name in (
        ("manifest", "manifest.json"),
        ("con", "con"),
        ("backslash", "a\\b"),
        ("number", "7"),
        ("upper", "SKLEARN_IRIS"),
        ("trailing", "trailing."),
        ("percent", "%2e"),
        ("prefixed", "sklearn_iris_2"),
        ("long", "ü" * 250),
    ):
        version(model(label, name), "s3://bucket/x", tags=_pairs({"of": label}))
    # A version of another model's version, and one of a deleted run.
    copy = model("copy", "copy of iris")
    version(copy, f"models:/{iris}/4")
    deleted = build.runs["deleted"]
    version(copy, f"runs:/{deleted}/kept.txt", run_id=deleted)
    build.call("runs/delete", run_id=deleted)
    pyfunc = model("pyfunc", "doubler")
    model_id = build.logged_models["pyfunc"]
    version(pyfunc, f"models:/{model_id}", run_id=build.runs["pyfunc"], model_id=model_id)


def prompts(build: _Build) -> None:
    """Text and chat prompts with more than ten versions, a gap, links to runs and experiments."""
    from mlflow import MlflowClient

    client = MlflowClient(build.uri, build.uri)
    text, chat = "greeting", "assistant-chat"
    build.prompts |= {"text": text, "chat": chat, "dotted": "v1.2-Prompt_x", "single": "single"}
    build.prompts["odd_name"] = "prompt ünï 😀"
    for i in range(1, 13):
        client.register_prompt(
            name=text,
            template=f"Hello {{{{name}}}}, version {i}.\n\n{{% if formal %}}Sir{{% endif %}} 😀",
            commit_message=f"Version {i}: ünï",
            tags={"author": "ana", "i": str(i)},
        )
    build.call("model-versions/delete", method="DELETE", name=text, version="5")
    for alias, number in (("production", 11), ("staging", 12), ("also", 11)):
        client.set_prompt_alias(text, alias, number)
    client.set_prompt_tag(text, "task", "greeting ünï")
    wait_for_prompt_links()
    ids = f",{build.experiments['classic']},{build.experiments['number']},"
    build.call("registered-models/set-tag", name=text, key="_mlflow_experiment_ids", value=ids)
    build.call(
        "model-versions/set-tag",
        name=text,
        version="12",
        key="mlflow.prompt.associatedRunIds",
        value=f"{build.runs['trainer']},{build.runs['evaluator']}",
    )
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    for i in range(1, 12):
        client.register_prompt(
            name=chat,
            template=[
                {"role": "system", "content": f"You are {{{{style}}}} ({i})."},
                {"role": "user", "content": "{{question}}\n"},
            ],
            response_format=schema,
            model_config={"model_name": "none", "temperature": 0.5, "max_tokens": 10 + i},
        )
    client.register_prompt(name=build.prompts["dotted"], template="x" * 99_000)
    # MLflow's client refuses such a name for a prompt; its server does not.
    marks = {"mlflow.prompt.is_prompt": "true"}
    odd = build.prompts["odd_name"]
    build.call("registered-models/create", name=odd, description="ünï", tags=_pairs(marks))
    build.call(
        "model-versions/create",
        name=odd,
        source="dummy-source",
        tags=_pairs({**marks, "mlflow.prompt.text": "{{a}} ünï 😀", "_mlflow_prompt_type": "text"}),
    )
    client.register_prompt(name=build.prompts["single"], template="{{a}}", tags={"only": "one"})
    wait_for_prompt_links()


def wait_for_prompt_links() -> None:
    """Wait until MLflow's client has told the server which experiment each new prompt is of.

    ``register_prompt`` leaves that to a thread, which would still be asking a stopped server.
    """
    for thread in threading.enumerate():
        if thread.name.startswith("link_prompt_to_experiment_thread"):
            thread.join(60)


def deleted_experiment(build: _Build) -> None:
    """Last: nothing can be added to a deleted experiment."""
    build.call("runs/delete", run_id=build.runs["in_deleted_2"])
    for label in ("deleted", "deleted_empty"):
        build.call("experiments/delete", experiment_id=build.experiments[label])


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _number(value: float) -> float | str:
    """JSON has no NaN or infinity; protobuf's JSON has these words."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _log_through_mlflow(artifact_uri: str, files: Mapping[str, bytes]) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(artifact_uri)
    with tempfile.TemporaryDirectory() as scratch:
        for path, content in files.items():
            local = Path(scratch, *path.split("/"))
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
        repository.log_artifacts(scratch)
