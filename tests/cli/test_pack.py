"""``pack``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_bundle.cli.main import bundle
from tests.bundles import peers
from tests.bundles.memory import write_bundle
from tests.bundles.trees import edit_json, verified


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tree", is_directory=True)


def pack(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(bundle, ["pack", *map(str, arguments)])
    return result.exit_code, result.output


def test_directory_becomes_a_bundle(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.mlbundle"
    code, text = pack(tree, "-o", output, "--level", "19")
    assert code == 0, text
    assert "33 members" in text
    assert verified(output).ok
    assert pack(tree, "-o", output)[0] == 1
    assert pack(tree, "-o", output, "--force")[0] == 0


def test_bundle_goes_to_standard_output(tree: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(bundle, ["pack", str(tree), "-o", "-"])
    assert result.exit_code == 0
    (tmp_path / "b.mlbundle").write_bytes(result.stdout_bytes)
    assert verified(tmp_path / "b.mlbundle").ok


def test_peers_tree_becomes_a_bundle(tmp_path: Path) -> None:
    code, text = pack(peers.write_g0(tmp_path / "g0"), "-o", tmp_path / "b.mlbundle")
    assert code == 0, text
    assert verified(tmp_path / "b.mlbundle").ok


def test_malformed_document_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    edit_json(tree / "experiments/2/manifest.json", experiment={"experiment_id": 2})
    code, text = pack(tree, "-o", tmp_path / "b.mlbundle", "--quiet")
    assert code == 4
    assert text.startswith("Error: experiments/2/manifest.json: experiment.experiment_id: expected")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


def test_other_generation_is_named(tmp_path: Path) -> None:
    peers.write(tmp_path / "g3/experiments/experiments.json", {"mlflow": {}})
    peers.write(tmp_path / "g3/experiments/1/runs/r/run.json", {"mlflow": {}})
    code, text = pack(tmp_path / "g3", "-o", tmp_path / "b.mlbundle")
    assert code == 4
    assert "generation 3" in text
    assert "Hint: export again" in text


def test_output_inside_the_directory_is_refused(tree: Path) -> None:
    code, text = pack(tree, "-o", tree / "b.mlbundle")
    assert (code, "lies inside" in text) == (2, True)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    code, text = pack(tmp_path / "nope", "-o", tmp_path / "b.mlbundle")
    assert (code, "no such directory" in text) == (1, True)
