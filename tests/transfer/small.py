"""A small server whose every object a test can name: fast to build, export and import."""

from __future__ import annotations

import random
from typing import Any

from tests.world import HOUR, T0, _Build, _pairs, ml_model_file

DAY = 24 * HOUR
LARGE_BYTES = 3_000_000
ODD_EXPERIMENT = "a,b*c@d"
ODD_MODEL = "m,o*d@el"


class Small(_Build):
    """Ids by label, as in `tests.world.World`, and the calls to change the server further."""

    def model(self, name: str, description: str = "", **tags: str) -> None:
        self.call("registered-models/create", name=name, description=description, tags=_pairs(tags))

    def version(
        self, name: str, source: str, *, tags: dict[str, str] | None = None, **more: Any
    ) -> int:
        answer = self.call(
            "model-versions/create", name=name, source=source, tags=_pairs(tags or {}), **more
        )
        return int(answer["model_version"]["version"])

    def delete_version(self, name: str, number: int) -> None:
        self.call("model-versions/delete", method="DELETE", name=name, version=str(number))

    def alias(self, name: str, alias: str, number: int) -> None:
        self.call("registered-models/alias", name=name, alias=alias, version=str(number))

    def stage(self, name: str, number: int, stage: str) -> None:
        self.call(
            "model-versions/transition-stage",
            name=name,
            version=str(number),
            stage=stage,
            archive_existing_versions=False,
        )


def build_small(uri: str) -> Small:
    """Fill an empty server.

    Experiments ``one`` (runs ``first``, ``second``, ``large``), ``one/two`` (``third``), and one
    with an odd name (``fourth``, which made the logged model ``tree``). Model ``churn`` with
    versions 1 (run ``first``, Production), 2 (``tree``, alias champion), 3 (``first``, by
    location); ``sklearn_iris`` (``third``), ``sklearn_wine`` (``second``, Staging), and one with an
    odd name (``fourth``).
    """
    build = Small(uri)
    build.experiment("one", "one", {"team": "a"})
    build.experiment("one/two", "one/two")
    build.experiment("odd", ODD_EXPERIMENT)
    first = build.run(
        "first",
        "one",
        params={"alpha": "0.1", "beta": "2"},
        tags={"colour": "red", "mlflow.note.content": "first note"},
        metrics={"loss": [(1 / (i + 1), T0 + i, i) for i in range(5)]},
    )
    build.put_files(
        build.artifact_uri(first),
        {
            "model/MLmodel": ml_model_file(first, None, "model", "0" * 32),
            "model/model.pkl": b"pickle",
            "notes.txt": b"notes",
        },
    )
    second = build.run(
        "second",
        "one",
        start_time=T0 + DAY,
        end_time=T0 + DAY + HOUR,
        tags={"mlflow.parentRunId": first},
    )
    build.put_files(build.artifact_uri(second), {"w.txt": b"wine"})
    large = build.run("large", "one", start_time=T0 + 2 * DAY, end_time=None, status="RUNNING")
    noise = random.Random(3).randbytes(LARGE_BYTES)
    build.put_files(build.artifact_uri(large), {"large.bin": noise})
    third = build.run("third", "one/two", params={"only": "here"})
    fourth = build.run("fourth", "odd", user="bo")
    tree = build.logged_model(
        "tree",
        "odd",
        name="tree",
        source_run_id=fourth,
        model_type="sklearn",
        params={"depth": "3"},
        files={"model.pkl": b"tree"},
    )
    build.call("runs/outputs", run_id=fourth, models=[{"model_id": tree, "step": 0}])
    build.model("churn", "who leaves", team="b")
    build.version("churn", f"runs:/{first}/model", run_id=first, description="v1")
    build.version("churn", f"models:/{tree}", run_id=fourth, model_id=tree, tags={"v": "2"})
    build.version("churn", f"{build.artifact_uri(first)}/model", run_id=first)
    build.stage("churn", 1, "Production")
    build.alias("churn", "champion", 2)
    build.model("sklearn_iris")
    build.version("sklearn_iris", f"runs:/{third}/m", run_id=third)
    build.model("sklearn_wine")
    build.version("sklearn_wine", f"runs:/{second}/m", run_id=second)
    build.stage("sklearn_wine", 1, "Staging")
    build.model(ODD_MODEL)
    build.version(ODD_MODEL, f"runs:/{fourth}/m", run_id=fourth)
    return build
