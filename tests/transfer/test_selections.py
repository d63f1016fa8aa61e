"""What is selected arrives with what it depends on, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.compare import Snapshot, differences, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command, export, import_
from tests.transfer.small import DAY, LARGE_BYTES, ODD_EXPERIMENT, ODD_MODEL, Small
from tests.world import T0

pytestmark = pytest.mark.server

TAIL_BYTES = 65_536
OUTSIDE = re.compile(
    r"aliases/\w+: \(absent\)"  # of a version that was left out
    r"|tags/mlflow\.modelVersions: "  # as many as were imported
    r"|tags/mlflow\.parentRunId: '\w+' != '<run \w+>'"  # a parent that was left out
    r"|^experiments\[Default\]"
)
ALL_RUNS = ("first", "second", "large", "third", "fourth")
ONE = ("first", "second", "large")


def held(bundle: Path, small: Small) -> dict[str, set[str]]:
    """Labels and names of what a bundle holds."""
    from mlflow_bundle.bundles.opening import open_tree
    from mlflow_bundle.bundles.source import BundleSource
    from mlflow_bundle.report import Report
    from mlflow_bundle.selection import Selection

    source = BundleSource(open_tree(str(bundle)))
    try:
        source.select(Selection.all(), Report())
        labels = {id: label for label, id in small.runs.items()}
        models = {id: label for label, id in small.logged_models.items()}
        versions = {
            f"{m.name}/{v.version}"
            for m in source.iter_entities("registered_model")
            for v in m.versions
        }
        return {
            "experiments": {e.name for e in source.iter_entities("experiment")},
            "runs": {labels[r.id] for r in source.iter_entities("run")},
            "logged_models": {models[m.id] for m in source.iter_entities("logged_model")},
            "versions": versions,
        }
    finally:
        source.close()


def expected(
    experiments: tuple[str, ...],
    runs: tuple[str, ...],
    logged_models: tuple[str, ...] = (),
    versions: tuple[str, ...] = (),
) -> dict[str, set[str]]:
    return {
        "experiments": set(experiments),
        "runs": set(runs),
        "logged_models": set(logged_models),
        "versions": set(versions),
    }


CHURN = ("churn/1", "churn/2", "churn/3")
BOTH = ("one", "one/two")
EVERY = (*BOTH, ODD_EXPERIMENT)


@pytest.mark.parametrize(
    ("name", "words", "holds"),
    [
        ("export-experiments", ["--experiments", "one"], expected(("one",), ONE)),
        ("export-experiments", ["--experiments", "one*"], expected(BOTH, (*ONE, "third"))),
        ("export-experiments", ["--experiments", "<one/two>"], expected(("one/two",), ("third",))),
        (
            "export-experiments",
            ["--experiments", "one/two", "--experiments", r"a\,b\*c@d"],
            expected(("one/two", ODD_EXPERIMENT), ("third", "fourth"), ("tree",)),
        ),
        (
            "export-experiments",
            ["--experiments", "all"],
            expected(("Default", *EVERY), ALL_RUNS, ("tree",)),
        ),
        (
            "export-experiments",
            ["--experiments", "one", "--since", "2023-11-15T00:00:00Z"],
            expected(("one",), ("second", "large")),
        ),
        (
            "export-models",
            ["--models", "sklearn*,churn"],
            expected(
                EVERY,
                ("first", "second", "third", "fourth"),
                ("tree",),
                (*CHURN, "sklearn_iris/1", "sklearn_wine/1"),
            ),
        ),
        (
            "export-models",
            ["--models", r"m\,o\*d\@el"],
            expected((ODD_EXPERIMENT,), ("fourth",), ("tree",), (f"{ODD_MODEL}/1",)),
        ),
        (
            "export-models",
            ["--models", "churn,sklearn*", "--stages", "Production,Staging"],
            expected(("one",), ("first", "second"), (), ("churn/1", "sklearn_wine/1")),
        ),
        (
            "export-models",
            ["--models", "sklearn_wine", "--export-all-runs"],
            expected(("one",), ONE, (), ("sklearn_wine/1",)),
        ),
        (
            "export",
            ["--run-ids", "<second>,<fourth>"],
            expected(("one", ODD_EXPERIMENT), ("second", "fourth"), ("tree",)),
        ),
        (
            "export",
            ["--since", str(T0 + DAY), "--until", str(T0 + 2 * DAY)],
            expected(("Default", *EVERY), ("second",)),
        ),
        (
            "export",
            ["--models", "churn/3", "--experiments", "one/two"],
            expected(BOTH, ("first", "third"), (), ("churn/3",)),
        ),
        (
            "export",
            ["--models", "churn@champion"],
            expected((ODD_EXPERIMENT,), ("fourth",), ("tree",), ("churn/2",)),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_export_takes_what_is_named_and_what_that_needs(
    small_server: MlflowServer,
    small: Small,
    tmp_path: Path,
    name: str,
    words: list[str],
    holds: dict[str, set[str]],
) -> None:
    ids = {**small.experiments, **small.runs}
    for label, id in ids.items():
        words = [word.replace(f"<{label}>", id) for word in words]
    export(small_server, tmp_path / "part.mlbundle", *words, name=name)
    assert held(tmp_path / "part.mlbundle", small) == holds


@pytest.mark.parametrize("models", ["*@champion", "*/3"])
def test_a_model_without_the_version_that_is_named_stays_behind(
    small_server: MlflowServer,
    small_bundle: Path,
    empty_server: LendServer,
    tmp_path: Path,
    models: str,
) -> None:
    database = ("--tracking-uri", f"sqlite:///{small_server.database}", "--artifacts", "skip")
    empty = ("--tracking-uri", empty_server().uri, "--renumber")
    for words in (
        ("export-models", "-o", tmp_path / "f", "--tracking-uri", small_server.uri),
        ("export-models", "-o", tmp_path / "f", *database),
        ("import", small_bundle, *empty),
    ):
        done = command(*words, "--models", models, "--dry-run", "--json")
        planned = done.report["planned"]
        assert (planned["registered_model"], planned["model_version"]) == (1, 1), words


@pytest.mark.parametrize(
    ("words", "runs", "versions"),
    [
        (["--models", "sklearn_iris"], {"third"}, {"sklearn_iris/1"}),
        (["--models", "churn"], {"first", "fourth"}, set(CHURN)),
        (["--models", "churn/1"], {"first"}, {"churn/1"}),
        (
            ["--models", "churn@champion", "--with-earlier-versions"],
            {"first", "fourth"},
            {"churn/1", "churn/2"},
        ),
        (["--models", r"m\,o\*d\@el"], {"fourth"}, {f"{ODD_MODEL}/1"}),
        (["--experiments", "one*"], {*ONE, "third"}, set()),
        (["--experiments", r"a\,b\*c@d"], {"fourth"}, set()),
        (
            ["--run-ids", "<second>", "--models", "sklearn_iris"],
            {"second", "third"},
            {"sklearn_iris/1"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_import_takes_a_part_with_what_it_needs(
    small_bundle: Path,
    small: Small,
    small_snapshot: Snapshot,
    empty_server: LendServer,
    words: list[str],
    runs: set[str],
    versions: set[str],
) -> None:
    for label, id in small.runs.items():
        words = [word.replace(f"<{label}>", id) for word in words]
    server = empty_server()
    import_(server, small_bundle, *words, name="import")
    found = snapshot(server.uri)
    labels = {id: label for label, id in small.runs.items()}
    assert {
        labels[run["tags"]["mlflow_bundle.origin"]] for run in found.data["runs"].values()
    } == runs
    assert {
        f"{name}/{number}"
        for name, model in found.data["registered_models"].items()
        for number in model["versions"]
    } == versions
    lines = differences(found, small_snapshot, subset=True)
    assert [line for line in lines if not OUTSIDE.search(line)] == []


class Counted:
    """Counts the bytes that are read from a file."""

    def __init__(self, stream: object) -> None:
        self.stream = stream
        self.bytes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def fileno(self) -> int:
        raise OSError("read through read()")

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(size)  # type: ignore[attr-defined]
        self.bytes += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        count: int = self.stream.readinto(buffer)  # type: ignore[attr-defined]
        self.bytes += count
        return count


@pytest.mark.parametrize(
    ("words", "reads_large"),
    [
        (["import", "--models", "churn"], False),
        (["import", "--models", "churn/1"], False),
        (["import", "--models", "churn@champion", "--renumber"], False),
        (["import", "--run-ids", "<second>"], False),
        (["import-experiments", "--experiments", "one/two"], False),
        (["import-experiments", "--experiments", "one"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_import_of_a_part_reads_only_its_bytes(
    small_bundle: Path,
    small: Small,
    empty_server: LendServer,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    reads_large: bool,
) -> None:
    from mlflow_bundle.bundles import opening

    counted: list[Counted] = []
    original = opening._open_stream

    def watched(stream: object, name: str) -> object:
        counted.append(Counted(stream))
        return original(counted[-1], name)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "_open_stream", watched)
    words = [word.replace("<second>", small.runs["second"]) for word in words]
    import_(empty_server(), small_bundle, *words[1:], name=words[0])
    size = small_bundle.stat().st_size
    assert size > LARGE_BYTES
    read = sum(stream.bytes for stream in counted)
    assert read > 1000
    if reads_large:
        assert read > LARGE_BYTES
    else:
        # The end of the file is read in one piece, in the hope that the index lies there.
        assert read < TAIL_BYTES + (size - LARGE_BYTES) * 2 < size / 10


def test_import_experiments_under_a_prefix_makes_second_copies(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer
) -> None:
    server = empty_server()
    import_(server, small_bundle, name="import-experiments")
    prefix = ["--experiment-name-prefix", "imported_"]
    done = import_(server, small_bundle, *prefix, name="import-experiments")
    assert done.report["done"]["run"] == 5
    found = snapshot(server.uri)
    names = {row["name"] for row in found.data["experiments"].values()}
    assert {f"imported_{name}" for name in EVERY} < names
    copies = Snapshot(
        server.uri,
        {
            kind: {
                key: row
                for key, row in rows.items()
                if kind in ("experiments", "runs", "logged_models")
                and found.data["experiments"][row["experiment_id"]]["name"].startswith("imported_")
            }
            for kind, rows in found.data.items()
        },
    )
    source = small_snapshot.only(
        experiments=small_snapshot.data["experiments"],
        runs=small_snapshot.data["runs"],
        logged_models=small_snapshot.data["logged_models"],
    )
    lines = differences(source, copies, experiment_name=lambda name: f"imported_{name}")
    # Which versions a logged model has is written by the registry, and models were not imported.
    assert [line for line in lines if "tags/mlflow.modelVersions" not in line] == []
    again = import_(server, small_bundle, *prefix, name="import-experiments")
    assert again.report["done"] == {}


def test_import_models_deletes_the_model_first_when_asked(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer
) -> None:
    server = empty_server()
    there = Small(server.uri)
    there.model("churn", "another one", other="tag")
    there.version("churn", "s3://elsewhere/churn")
    there.model("kept")
    kept = import_(server, small_bundle, "--models", "churn", name="import-models", expect=3)
    assert ("model_version", "churn/1", "") in kept.losses
    import_(server, small_bundle, "--models", "churn", "--delete-model", name="import-models")
    found = snapshot(server.uri)
    assert found.data["registered_models"].keys() == {"churn", "kept"}
    only = {"registered_models": ["churn"]}
    churn = [
        line
        for line in differences(small_snapshot.only(**only), found.only(**only))
        if "run_id" not in line and "source" not in line and "download_uri" not in line
    ]
    assert churn == []


@pytest.mark.parametrize("form", [["--delete-model"], ["--delete-model", "True"]])
def test_a_bare_boolean_does_not_take_the_bundle_for_its_value(
    small_bundle: Path, empty_server: LendServer, form: list[str]
) -> None:
    server = empty_server()
    done = command(
        "import-models",
        *form,
        small_bundle,
        "--tracking-uri",
        server.uri,
        "--models",
        "sklearn_iris",
        "--json",
        "--quiet",
    )
    assert done.report["done"]["model_version"] == 1


def test_a_prompt_alone_belongs_to_no_experiment_of_the_destination(
    empty_server: LendServer, tmp_path: Path
) -> None:
    """Experiments have small numbers: those of the source are others at the destination."""
    source, destination = empty_server(), empty_server()
    build, there = Small(source.uri), Small(destination.uri)
    ids = [build.experiment(name, name) for name in ("one", "two")]
    marks = {"mlflow.prompt.is_prompt": "true"}
    build.model("greeting", **marks, _mlflow_experiment_ids=f",{','.join(ids)},")
    build.version("greeting", "dummy-source", tags={**marks, "mlflow.prompt.text": "Hello"})
    for name in ("another", "a third", "a fourth"):
        there.experiment(name, name)
    bundle = tmp_path / "a.mlbundle"
    export(source, bundle)

    def experiments() -> set[str]:
        model = there.get("registered-models/get", name="greeting")["registered_model"]
        tags = {tag["key"]: tag["value"] for tag in model["tags"]}
        ids = tags.get("_mlflow_experiment_ids", "").strip(",")
        return {
            there.get("experiments/get", experiment_id=id)["experiment"]["name"]
            for id in ids.split(",")
            if id
        }

    for words, expected in (
        (("--models", "greeting"), set()),
        (("--models", "greeting", "--experiments", "two"), {"two"}),
        (("--models", "greeting", "--experiments", "one"), {"one", "two"}),
    ):
        import_(destination, bundle, *words, "--verify", name="import")
        assert experiments() == expected
