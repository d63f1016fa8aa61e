"""What an older server holds at most: every kind of thing that its version knows, hard cases too.

Built through the server's own REST API, except one history of more points than any answer holds,
which goes into the database in one statement.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from dataclasses import dataclass, field

from tests.servers import MlflowServer
from tests.transfer.small import Small
from tests.world import ODD_MODEL_NAME, T0, _pairs, ml_model_file, odd_history

LONG_POINTS = 25_500
"""More than the 25 000 rows at which get-history-bulk cuts without saying so."""
SHARED_RUNS = 25
"""More than the 20 runs that get-history-bulk of MLflow 2.2 to 2.10 takes."""

IRIS = "sklearn_iris"

Version = tuple[int, ...]


@dataclass
class Contents:
    """What a server was filled with, by label."""

    version: Version
    runs: dict[str, str] = field(default_factory=dict)
    logged_models: dict[str, str] = field(default_factory=dict)
    traces: dict[str, str] = field(default_factory=dict)


def parsed(version: str) -> Version:
    return tuple(map(int, version.split(".")))


def fill(server: MlflowServer, version: str, *, long_history: bool = True) -> Contents:
    """Fill an empty server of MLflow ``version``."""
    since = parsed(version)
    build = Small(server.uri)
    _experiments(build)
    _runs(build, since)
    _files(build)
    if since >= (2, 4):
        _datasets(build)
    if since >= (3, 0):
        _logged_models(build)
    _registry(build, since)
    if since >= (2, 21):
        _prompts(build)
    if long_history:
        _long_history(server, build.runs["long"])
    for run in ("deleted", "in_deleted"):
        build.call("runs/delete", run_id=build.runs[run])
    build.call("experiments/delete", experiment_id=build.experiments["deleted"])
    return Contents(since, build.runs, build.logged_models)


def _experiments(build: Small) -> None:
    build.experiments["default"] = "0"
    build.call("experiments/set-experiment-tag", experiment_id="0", key="on default", value="yes")
    tags = {"mlflow.note.content": "# Iris\n\nünï 😀\n", "empty": "", "long": "v" * 5000}
    build.experiment("classic", "iris classifiers", tags)
    build.experiment("odd", "Ünï 日本 😀 *,@/\\'\" #%20 ?&=+")
    build.experiment("empty", "no runs")
    build.experiment("deleted", "deleted, with a run", {"fate": "deleted"})


def _runs(build: Small, since: Version) -> None:
    param = 6000 if since >= (2, 8) else 500
    build.run("in_default", "default", params={"a": "1"}, metrics={"m": [(1.5, T0, 0)]})
    build.run("running", "classic", status="RUNNING", end_time=None)
    for status in ("SCHEDULED", "FAILED", "KILLED"):
        build.run(status.lower(), "classic", status=status, user="bo", end_time=T0 + 1)
    build.run(
        "values",
        "odd",
        name="Lauf „ünï“ 日本 😀",
        user="Jürgen Ö.",
        params={
            "k" * 250: "key",
            "long": "p" * param,
            "lines": "a\nb\r\n\tc",
            **_numbered("param", 150),
        },
        tags={
            "mlflow.note.content": "Notes 😀\n",
            "mlflow.source.git.commit": "0" * 40,
            "long": "t" * 5000,
            "empty": "",
            **_numbered("tag", 150),
        },
    )
    extremes = [
        (5e-324, T0, 0),
        (-0.0, T0, 1),
        (0.1 + 0.2, T0, 2),
        (1.7976931348623157e308, T0, 3),
        (1 / 3, 0, -(2**62)),
    ]
    build.run(
        "histories",
        "classic",
        metrics={
            "odd": odd_history(),
            "extremes": extremes,
            "only nan": [(math.nan, T0, 0)],
            "val/loss": [(1 / (i + 1), T0 + i, i) for i in range(50)],
            "latest by step": [(1.0, T0 + 9, 1), (2.0, T0, 5), (3.0, T0 + 5, 3)],
        },
    )
    build.run("long", "classic", metrics={"beside": [(1.0, T0, 0)]})
    for i in range(SHARED_RUNS):
        points = [(i + step / 10, T0 + i, step) for step in range(3)]
        build.run(f"shared_{i:02}", "empty" if i == 0 else "classic", metrics={"shared": points})
    if since >= (3, 0):
        # What earlier servers refuse or cut, each beside something that they take.
        build.run(
            "limits",
            "classic",
            params={"beside": "1", "a:b": "name", "long": "p" * 6000},
            tags={"beside": "1", "a:b": "name", "longer": "t" * 8000},
            metrics={"beside": [(1.0, T0, 0)], "a:b": [(2.0, T0, 0)]},
        )
    root = build.run("root", "classic")
    child = build.run("child", "classic", tags={"mlflow.parentRunId": root})
    build.run("grandchild", "odd", tags={"mlflow.parentRunId": child})
    build.run("deleted", "classic", params={"p": "1"}, metrics={"m": [(1.0, T0, 0)]})
    build.run("in_deleted", "deleted", metrics={"m": [(1.0, T0, 0), (2.0, T0 + 1, 1)]})


def _numbered(word: str, count: int) -> dict[str, str]:
    return {f"{word}_{i:03}": str(i) for i in range(count)}


def _files(build: Small) -> None:
    run = build.runs["histories"]
    build.put_files(
        build.artifact_uri(run),
        {
            "model/MLmodel": ml_model_file(run, None, "model", "0" * 32),
            "model/model.pkl": b"\x80\x05N.",
            "100%.txt": b"%",
            "dir with space/ü/a b.txt": "ü".encode(),
            "日本/日本 😀.txt": "日".encode(),
            "empty.bin": b"",
            "large.bin": bytes(range(256)) * 20_000,
        },
    )
    entry = {"run_id": run, "artifact_path": "model", "model_uuid": "0" * 32, "flavors": {}}
    history = json.dumps([entry])
    build.call("runs/set-tag", run_id=run, key="mlflow.log-model.history", value=history)
    build.put_files(build.artifact_uri(build.runs["in_deleted"]), {"kept.txt": b"still here"})


def _datasets(build: Small) -> None:
    iris = {
        "name": "iris",
        "digest": "1a2b3c4d",
        "source_type": "http",
        "source": json.dumps({"url": "https://example.org/iris.csv?x=ü"}),
        "schema": json.dumps({"mlflow_colspec": [{"name": "a", "type": "double"}] * 300}),
        "profile": json.dumps({"num_rows": 150}),
    }
    for run, context in (("histories", "training"), ("root", "test")):
        tags = _pairs({"mlflow.data.context": context})
        build.call(
            "runs/log-inputs", run_id=build.runs[run], datasets=[{"dataset": iris, "tags": tags}]
        )


def _logged_models(build: Small) -> None:
    source = build.run("trainer", "classic")
    tree = build.logged_model(
        "tree",
        "classic",
        name="tree",
        source_run_id=source,
        model_type="sklearn",
        params={"depth": "3", "long": "p" * 5000},
        tags={"team": "Blumen"},
        files={"model.pkl": b"tree", "a/b.txt": b"c", "Ελλάδα.txt": b"g"},
    )
    build.logged_model("pending", "odd", name="pending", status="LOGGED_MODEL_PENDING")
    build.call("runs/outputs", run_id=source, models=[{"model_id": tree, "step": 3}])
    build.log_metrics(source, {"acc": [(0.5, T0, 0), (0.75, T0 + 1, 1)]}, model_id=tree)
    reader = build.run("reader", "odd")
    build.call("runs/log-inputs", run_id=reader, datasets=[], models=[{"model_id": tree}])


def _registry(build: Small, since: Version) -> None:
    run = build.runs["histories"]
    build.model(IRIS, "Classifies *Iris*.\n\nünï 😀", team="Blumen", empty="")
    source = f"runs:/{run}/model"
    tags = {"validated": "yes", "long": "v" * 5000}
    build.version(IRIS, source, run_id=run, description="first\nünï", tags=tags)
    build.version(IRIS, "s3://bucket/deleted/2")
    build.version(IRIS, f"{build.artifact_uri(run)}/model", run_id=run)
    build.version(IRIS, source, run_id=run, run_link="https://example.org/run?x=1")
    build.delete_version(IRIS, 2)
    if since >= (3, 0):
        tree, trainer = build.logged_models["tree"], build.runs["trainer"]
        build.version(IRIS, f"models:/{tree}", run_id=trainer, model_id=tree)
        longer = {"beside": "1", "longer": "v" * 50_000}
        build.version(IRIS, source, run_id=run, tags=longer)
        build.model("longer", "a tag that was too long once", **longer)
        build.version("longer", source, run_id=run)
    for number, stage in ((1, "Archived"), (3, "Production"), (4, "Staging")):
        build.stage(IRIS, number, stage)
    if since >= (2, 3):
        build.alias(IRIS, "champion", 3)
        build.alias(IRIS, "best", 3)
    build.model(ODD_MODEL_NAME)
    build.version(ODD_MODEL_NAME, source, run_id=run)
    build.model("empty", "no versions")


def _prompts(build: Small) -> None:
    marks = {"mlflow.prompt.is_prompt": "true"}
    build.call("registered-models/create", name="greeting", tags=_pairs({**marks, "task": "ü"}))
    for i in range(1, 4):
        text = {"mlflow.prompt.text": f"Hello {{{{name}}}} {i} 😀"}
        build.version("greeting", "dummy-source", tags={**marks, **text}, description=f"v{i}")
    build.alias("greeting", "production", 2)


def _long_history(server: MlflowServer, run_id: str) -> None:
    points = [(math.sin(i / 100), T0 + i, i) for i in range(LONG_POINTS)]
    value, timestamp, step = points[-1]
    with contextlib.closing(sqlite3.connect(server.database, timeout=60)) as connection:
        connection.executemany(
            "INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)"
            f" VALUES ('{run_id}', 'long', ?, ?, ?, 0)",
            points,
        )
        connection.execute(
            "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)"
            " VALUES (?, 'long', ?, ?, ?, 0)",
            (run_id, value, timestamp, step),
        )
        connection.commit()
