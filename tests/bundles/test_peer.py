"""Directory trees of mlflow-export-import: the one generation that is read, the others refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mlflow_bundle.bundles.opening import open_tree
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.entities import Experiment, RegisteredModel, Run
from mlflow_bundle.errors import (
    DocumentError,
    NotABundleError,
    UnsafePathError,
    UnsupportedVersionError,
)
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from tests.bundles import peers
from tests.bundles.trees import HEADER, edit_json, extracted, packed, read_json, verified


def select_all(path: Path) -> BundleSource:
    source = BundleSource(open_tree(str(path), is_directory=True))
    source.select(Selection.all(), Report())
    return source


def test_tree_is_read_as_a_source(tmp_path: Path) -> None:
    source = select_all(peers.write_g0(tmp_path / "g0"))
    assert source.info.uri == "http://localhost:5127"
    assert source.info.mlflow_version == "1.27.0"
    contents = list(source.iter_contents())
    experiment = next(c.entity for c in contents if isinstance(c.entity, Experiment))
    assert experiment.tags == {"team": "vision"}
    runs = {c.entity.id: c for c in contents if isinstance(c.entity, Run)}
    histories = {h.key: h for h in runs[peers.RUN_ID].histories()}
    assert math.isnan(histories["nanm"].values[0])
    assert histories["infm"].values == [-math.inf]
    assert histories["infm"].steps == [-1]
    run = runs[peers.RUN_ID].entity
    assert isinstance(run, Run)
    assert run.params["solver"] == "NaN"
    files = {file.path: file.size for file in runs[peers.OTHER_RUN_ID].artifacts.files()}
    assert files == {"model/MLmodel": 12, "model/100%: odd?": 3, f"model/{'l' * 250}": 4}
    models = {c.entity.name: c.entity for c in contents if isinstance(c.entity, RegisteredModel)}
    assert set(models) == {"sklearn_iris", "odd:name"}
    iris = models["sklearn_iris"]
    assert iris.creation_timestamp == 1630416728707
    assert iris.tags == {"use": "demo"}
    assert (iris.versions[0].version, iris.versions[0].tags) == (2, {"v": "1"})
    assert iris.versions[0].last_updated_timestamp == 1795453765419


def test_tree_packs_into_a_sound_bundle(tmp_path: Path) -> None:
    bundle = packed(peers.write_g0(tmp_path / "g0"), tmp_path / "b.mlbundle")
    result = verified(bundle)
    assert result.problems == []
    assert result.documents["run"] == 2
    assert result.outside == {}
    tree = extracted(bundle, tmp_path / "tree")
    assert read_json(tree / HEADER)["created"] == "2022-07-23T17:09:27Z"
    assert read_json(tree / "manifest.json")["stages"] == "Production,Staging,Archive,None"
    entry = read_json(tree / "experiments/manifest.json")["experiments"][0]
    assert entry == {
        "id": "1",
        "name": "sklearn_iris",
        "ok_runs": 2,
        "failed_runs": 0,
        "duration": 0.2,
    }
    model = read_json(tree / "models/sklearn_iris/model.json")["registered_model"]
    assert model["peer_key"] == [1]
    assert (tree / "models" / "odd%3Aname" / "model.json").exists()


def test_trees_are_verified_as_they_lie(tmp_path: Path) -> None:
    root = peers.write_g0(tmp_path / "g0")
    peers.write_experiments(tmp_path / "flat")
    assert verified(root).problems == []
    assert verified(tmp_path / "flat").problems == []
    (root / "experiments" / "1" / peers.RUN_ID / "run.json").unlink()
    assert [problem.field for problem in verified(root).problems] == ["export_info.ok_runs"]


def test_experiments_at_the_top_are_read(tmp_path: Path) -> None:
    peers.write_experiments(tmp_path / "flat")
    bundle = packed(tmp_path / "flat", tmp_path / "b.mlbundle")
    result = verified(bundle)
    assert result.problems == []
    assert result.documents["experiment"] == 1
    assert result.artifacts == 3
    tree = extracted(bundle, tmp_path / "tree")
    assert read_json(tree / "manifest.json")["totals"]["run"] == 2
    assert read_json(tree / HEADER)["source"]["uri"] == "http://localhost:5127"


def test_older_clients_types_become_ours(tmp_path: Path) -> None:
    root = peers.write_g0(tmp_path / "g0")
    run = root / "experiments" / "1" / peers.RUN_ID / "run.json"
    info = peers.run_document(peers.RUN_ID)["info"]
    info |= {"start_time": "1630416728707", "end_time": None, "status": 3, "user_id": None}
    edit_json(
        run,
        info=info,
        tags=[{"key": "a", "value": "b"}],
        metrics={"m": [{"value": 1, "timestamp": "1630416728707", "step": "4"}]},
    )
    tree = extracted(packed(root, tmp_path / "b.mlbundle"), tmp_path / "tree")
    document = read_json(tree / "experiments" / "1" / peers.RUN_ID / "run.json")
    assert document["tags"] == {"a": "b"}
    assert document["info"]["start_time"] == 1630416728707
    assert document["info"]["end_time"] is None
    assert document["info"]["status"] == "FINISHED"
    assert document["metrics"]["m"] == [{"value": 1, "timestamp": 1630416728707, "step": 4}]


def test_deleted_run_is_no_fault(tmp_path: Path) -> None:
    root = peers.write_g0(tmp_path / "g0")
    (root / "experiments" / "1" / peers.RUN_ID / "run.json").unlink()
    assert verified(packed(root, tmp_path / "b.mlbundle")).documents["run"] == 1


def test_malformed_document_is_named(tmp_path: Path) -> None:
    root = peers.write_g0(tmp_path / "g0")
    edit_json(root / "experiments" / "1" / peers.RUN_ID / "run.json", params=[1])
    with pytest.raises(DocumentError, match=r"run\.json: params: expected"):
        packed(root, tmp_path / "b.mlbundle")


def test_links_are_refused(tmp_path: Path) -> None:
    root = peers.write_g0(tmp_path / "g0")
    (root / "experiments" / "1" / peers.RUN_ID / "artifacts").symlink_to("/etc")
    with pytest.raises(UnsafePathError, match="symbolic links are not followed"):
        packed(root, tmp_path / "b.mlbundle")
    assert not (tmp_path / "b.mlbundle").exists()


TRIPLE = {"system": {}, "info": {}, "mlflow": {}}


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (
            {
                "experiments/experiments.json": TRIPLE,
                "experiments/1/r1/run.json": {"mlflow": {"info": {}}},
            },
            r"generation 1 \(1\.2\.0",
        ),
        (
            {
                "experiments/experiments.json": TRIPLE,
                "experiments/1/r1/run.json": {"mlflow": {"inputs": []}},
            },
            r"generation 2 \(2023",
        ),
        (
            {
                "experiments/experiments.json": TRIPLE,
                "experiments/1/runs/r1/run.json": {"mlflow": {"inputs": {}}},
            },
            r"generation 3 \(October 2025",
        ),
        ({"experiments.json": TRIPLE, "1/runs/r1/run.json": TRIPLE}, "generation 3"),
        ({"models/models.json": TRIPLE}, "generation 1 to 3"),
        ({"run.json": TRIPLE}, "a single run"),
        ({"model.json": TRIPLE}, "a single model"),
        ({"version.json": TRIPLE, "model.json": TRIPLE}, "a single model version"),
        ({"experiment.json": TRIPLE}, "a single experiment"),
        ({"manifest.json": {"experiment": {}, "export_info": {}}}, "a single experiment"),
    ],
)
def test_other_generations_are_named_and_refused(
    tmp_path: Path, files: dict[str, object], match: str
) -> None:
    for path, document in files.items():
        peers.write(tmp_path / "other" / path, document)
    with pytest.raises(UnsupportedVersionError, match=match) as info:
        open_tree(str(tmp_path / "other"))
    assert "export again" in info.value.hint


def test_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NotABundleError, match="is not the tree of a bundle"):
        open_tree(str(tmp_path))
