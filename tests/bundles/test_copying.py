"""Bundle to directory and back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlflow_bundle import layout
from mlflow_bundle.bundles import copying
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.opening import open_tree, open_writer
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Experiment, LoggedModel, Prompt, RegisteredModel
from mlflow_bundle.errors import CorruptFrameError, DocumentError, SelectionError, UnsafePathError
from mlflow_bundle.report import Report
from mlflow_bundle.selection import (
    Selection,
    parse_experiments,
    parse_models,
    parse_run_ids,
)
from tests.bundles import memory
from tests.bundles.trees import (
    HEADER,
    edit_json,
    extracted,
    packed,
    read_json,
    snapshot,
    verified,
    without_header,
)

RUN = f"experiments/1/{'a' * 32}"
_REGISTRY = (RegisteredModel, Prompt)


def test_extract_gives_what_stock_tar_gives(sample_file: Path, tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    stock.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", str(sample_file), "-C", str(stock)], check=True)
    assert snapshot(extracted(sample_file, tmp_path / "ours")) == snapshot(stock)


def test_extract_gives_what_an_export_to_a_directory_gives(
    sample_file: Path, sample_directory: Path, tmp_path: Path
) -> None:
    assert snapshot(extracted(sample_file, tmp_path / "tree")) == snapshot(sample_directory)


def test_extract_pack_extract_gives_the_same_tree(sample_file: Path, tmp_path: Path) -> None:
    first = extracted(sample_file, tmp_path / "first")
    again = extracted(packed(first, tmp_path / "p.mlbundle"), tmp_path / "again")
    assert without_header(again) == without_header(first)
    old, new = read_json(first / HEADER), read_json(again / HEADER)
    assert old.pop("uuid") != new.pop("uuid")
    assert old == new


def test_peer_json_writes_bare_tokens_and_pack_takes_them_back(
    sample_file: Path, tmp_path: Path
) -> None:
    tree = extracted(sample_file, tmp_path / "peer", peer_json=True)
    document = json.loads((tree / RUN / "run.json").read_text())
    assert [point["value"] for point in document["metrics"]["value"]] == [
        float("inf"),
        float("-inf"),
        0.25,
    ]
    assert document["metrics"]["loss"][2]["value"] != document["metrics"]["loss"][2]["value"]
    assert document["params"]["value"] == "NaN"
    again = extracted(packed(tree, tmp_path / "p.mlbundle"), tmp_path / "again")
    plain = extracted(sample_file, tmp_path / "plain")
    assert without_header(again) == without_header(plain)


def test_part_of_a_bundle_is_whole_in_itself(sample_file: Path, tmp_path: Path) -> None:
    part = extracted(
        sample_file,
        tmp_path / "part",
        Selection(models=parse_models(["sklearn_iris@champion"])),
    )
    result = verified(part)
    assert result.problems == []
    assert result.documents == {
        "bundle": 1,
        "experiment": 1,
        "logged_model": 1,
        "manifest": 4,
        "registered_model": 1,
        "run": 1,
    }
    whole = extracted(sample_file, tmp_path / "whole")
    made_anew = {
        HEADER,
        "manifest.json",
        "experiments/manifest.json",
        "experiments/1/manifest.json",
        "models/manifest.json",
        "models/sklearn_iris/model.json",
        "prompts/manifest.json",
    }
    for path, found in snapshot(part).items():
        if path not in made_anew:
            assert found == snapshot(whole)[path], path
    model = read_json(part / "models/sklearn_iris/model.json")["registered_model"]
    assert [version["version"] for version in model["latest_versions"]] == ["3"]
    assert model["aliases"] == [{"alias": "champion", "version": "3"}]
    assert read_json(part / HEADER)["selection"] == {"models": ["sklearn_iris@champion"]}
    assert read_json(part / "manifest.json")["totals"]["run"] == 1


@pytest.mark.parametrize(
    ("selection", "runs", "models"),
    [
        (Selection(experiments=parse_experiments(["2"])), ["%6Cogged_models"], []),
        (Selection(run_ids=parse_run_ids(["b" * 32])), ["b" * 32], []),
        (Selection(models=parse_models(["sklearn_iris/10"])), [], ["sklearn_iris"]),
        (
            Selection(models=parse_models(["manifest.json"])),
            [],
            ["%6Danifest.json"],
        ),
    ],
)
def test_part_holds_what_is_selected_with_its_needs(
    sample_file: Path, tmp_path: Path, selection: Selection, runs: list[str], models: list[str]
) -> None:
    part = extracted(sample_file, tmp_path / "part", selection)
    assert [path.parent.name for path in part.glob("experiments/*/*/run.json")] == runs
    assert [path.parent.name for path in part.glob("models/*/model.json")] == models
    assert verified(part).problems == []


def test_part_keeps_unknown_keys_of_manifests(sample_directory: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    for path in (
        HEADER,
        "manifest.json",
        "experiments/manifest.json",
        "experiments/1/manifest.json",
        "models/manifest.json",
        f"{RUN}/run.json",
        "models/sklearn_iris/model.json",
    ):
        edit_json(tree / path, later={"key": [1]})
    part = extracted(
        packed(tree, tmp_path / "p.mlbundle"),
        tmp_path / "part",
        Selection(models=parse_models(["sklearn_iris/3"])),
    )
    for path in snapshot(part):
        if path.endswith(".json") and "logged_models" not in path and "prompts" not in path:
            assert read_json(part / path)["later"] == {"key": [1]}, path


def test_losses_of_a_part_are_those_that_concern_it(tmp_path: Path) -> None:
    report = Report()
    report.lose("run", "gone", "refused", parent="1")
    report.lose("run", "elsewhere", "refused", parent="2")
    report.lose("registered_model", "churn", "refused")
    bundle = memory.write_bundle(tmp_path / "b.mlbundle", report=report)
    part = extracted(bundle, tmp_path / "part", Selection(experiments=parse_experiments(["iris"])))
    assert [loss["id"] for loss in read_json(part / "manifest.json")["losses"]] == ["gone"]
    assert read_json(part / "models/manifest.json")["failed_models"] == []
    assert read_json(part / "experiments/1/manifest.json")["export_info"]["failed_runs"] == ["gone"]


def test_selection_that_matches_nothing_leaves_nothing(sample_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="no such model"):
        extracted(sample_file, tmp_path / "part", Selection(models=parse_models(["nope"])))
    assert list(tmp_path.iterdir()) == []


def test_deleted_run_and_model_pack_fine(sample_directory: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    shutil.rmtree(tree / RUN)
    shutil.rmtree(tree / "models" / "sklearn_iris")
    shutil.rmtree(tree / "experiments" / "2")
    assert verified(tree).ok is False
    bundle = packed(tree, tmp_path / "p.mlbundle")
    result = verified(bundle)
    assert result.problems == []
    assert result.documents["run"] == 1
    assert result.documents["registered_model"] == len(memory.ODD_NAMES)


def test_models_named_as_directories_of_an_experiment_pack_fine(tmp_path: Path) -> None:
    names = sorted({*layout.EXPERIMENT_DIRECTORIES, "versions", "experiments", "metrics"})
    contents = [Content(entity=record(name=name)) for record in _REGISTRY for name in names]
    contents += [Content(entity=Experiment(experiment_id="1", name="e"))]
    contents += [
        Content(entity=LoggedModel(model_id=name, experiment_id="1", name="m")) for name in names
    ]
    tree = memory.write_bundle(tmp_path / "tree", contents, is_directory=True)
    assert verified(tree).problems == []
    result = verified(packed(tree, tmp_path / "p.mlbundle"))
    assert result.problems == []
    again = extracted(tmp_path / "p.mlbundle", tmp_path / "again")
    for kind in ("models", "prompts"):
        assert read_json(again / kind / "manifest.json")["ok_models"] == names
    info = read_json(again / "experiments/1/manifest.json")["export_info"]
    assert info["ok_logged_models"] == names


def test_added_and_deleted_artifacts_are_counted_anew(
    sample_directory: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    (tree / RUN / "artifacts" / "big.bin").unlink()
    (tree / RUN / "artifacts" / "added.txt").write_bytes(b"added")
    (tree / "models/sklearn_iris/versions/10/artifacts/more").write_bytes(b"more")
    again = extracted(packed(tree, tmp_path / "p.mlbundle"), tmp_path / "again")
    assert verified(again).problems == []
    assert read_json(again / RUN / "run.json")["artifacts"]["files"] == 9


def test_tree_without_header_and_manifests_packs(sample_directory: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    shutil.rmtree(tree / ".mlbundle")
    (tree / "models" / "manifest.json").unlink()
    again = extracted(packed(tree, tmp_path / "p.mlbundle"), tmp_path / "again")
    assert verified(again).problems == []
    assert set(without_header(again)) == set(without_header(sample_directory))
    assert read_json(again / HEADER)["created"] == "2024-05-06T07:08:09Z"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"timestamp":', '"timestamp":1' + "0" * 400, r'metrics\["acc"\]\[0\].timestamp'),
        ('"timestamp":', '"timestamp":9223372036854775808', r'metrics\["acc"\]\[0\].timestamp'),
        ('"timestamp":', '"timestamp":-9223372036854775809', r'metrics\["acc"\]\[0\].timestamp'),
        ('"step":', '"step":18446744073709551615', r'metrics\["acc"\]\[0\].step'),
        ('"value":', '"value":1' + "0" * 400, r'metrics\["acc"\]\[0\].value'),
        ('"start_time":', '"start_time":1' + "0" * 30, "info.start_time"),
    ],
    ids=lambda text: text[:30],
)
def test_numbers_beyond_their_type_are_refused(old: str, new: str, field: str) -> None:
    text = (
        '{"info":{"run_id":"a","experiment_id":"1","start_time":9223372036854775807},'
        '"metrics":{"acc":[{"value":1,"timestamp":-9223372036854775808,"step":-1}]}}'
    )
    docs.decode(text.encode(), docs.RunDocument, path="run.json")
    text = re.sub(f"{old}[-0-9]+", new, text)
    with pytest.raises(DocumentError, match=f"^run.json: {field}: "):
        docs.decode(text.encode(), docs.RunDocument, path="run.json")


@pytest.mark.parametrize(
    ("path", "changes", "match"),
    [
        (f"{RUN}/run.json", {"params": {"C": 1}}, r'params\["C"\]: expected'),
        (f"{RUN}/run.json", {"info": {}}, "info: "),
        (
            f"{RUN}/run.json",
            {"info": {"run_id": "c" * 32, "experiment_id": "1"}},
            "info.run_id: belongs to experiments/1/c",
        ),
        ("experiments/1/manifest.json", {"experiment": {"experiment_id": "1"}}, "name"),
        (
            "models/sklearn_iris/model.json",
            {"registered_model": {"name": "sklearn_iris", "aliases": [{"alias": "a"}]}},
            "aliases",
        ),
    ],
)
def test_pack_refuses_a_malformed_document(
    sample_directory: Path, tmp_path: Path, path: str, changes: dict[str, object], match: str
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    edit_json(tree / path, **changes)
    with pytest.raises(DocumentError, match=match) as info:
        packed(tree, tmp_path / "p.mlbundle")
    assert info.value.path == path
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


def test_pack_refuses_what_is_not_json(sample_directory: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    (tree / RUN / "run.json").write_bytes(b"{nope")
    with pytest.raises(DocumentError, match="not JSON"):
        packed(tree, tmp_path / "p.mlbundle")


def test_pack_refuses_links(sample_directory: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    (tree / RUN / "artifacts" / "link").symlink_to("/etc/hostname")
    with pytest.raises(UnsafePathError, match="symbolic links are not followed"):
        packed(tree, tmp_path / "p.mlbundle")


def test_pack_names_the_experiment_document_that_is_missing(
    sample_directory: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    (tree / "experiments" / "1" / "manifest.json").unlink()
    with pytest.raises(DocumentError, match=r"experiments/1/manifest\.json: missing"):
        packed(tree, tmp_path / "p.mlbundle")


def test_extract_of_a_damaged_bundle_leaves_nothing(sample_file: Path, tmp_path: Path) -> None:
    data = bytearray(sample_file.read_bytes())
    data[len(data) // 3] ^= 0xFF
    damaged = tmp_path / "damaged.mlbundle"
    damaged.write_bytes(data)
    with pytest.raises(CorruptFrameError, match="digest"):
        extracted(damaged, tmp_path / "tree")
    assert [entry.name for entry in tmp_path.iterdir()] == ["damaged.mlbundle"]


def test_runs_with_long_histories_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_bundle.bundles.parts.INLINE_POINTS_PER_KEY", 2)
    bundle = memory.write_bundle(tmp_path / "b.mlbundle")
    tree = open_tree(str(bundle))
    copied = copying.extract(tree, open_writer(str(tmp_path / "t"), is_directory=True))
    tree.close()
    assert copied.runs_with_parts == 1
    assert verified(bundle).problems == []
    (tmp_path / "t" / RUN / "metrics" / "loss" / "000001.json").unlink()
    problems = [str(problem) for problem in verified(tmp_path / "t").problems]
    assert problems == [
        f'{RUN}/run.json: metric_parts["loss"][0]: metrics/loss/000001.json is missing or malformed'
    ]


def test_a_directory_whose_uuid_is_none_is_not_copied(
    sample_directory: Path, tmp_path: Path
) -> None:
    tree = shutil.copytree(sample_directory, tmp_path / "tree")
    edit_json(tree / HEADER, uuid="x")
    with pytest.raises(DocumentError, match=r"bundle\.json: uuid: expected a uuid, got 'x'"):
        extracted(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_in_the_place_of_a_manifest_is_not_packed(
    sample_directory: Path, tmp_path: Path
) -> None:
    tree = shutil.copytree(sample_directory, tmp_path / "tree")
    (tree / "prompts/manifest.json").unlink()
    (tree / "prompts/manifest.json").mkdir()
    (tree / "prompts/manifest.json/file").write_bytes(b"1")
    with pytest.raises(CorruptFrameError, match=r"^prompts/manifest\.json: is both a file and a"):
        packed(tree, tmp_path / "out.mlbundle")
    assert not (tmp_path / "out.mlbundle").exists()
