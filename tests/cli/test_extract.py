"""``extract``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_bundle.cli.main import bundle
from tests.bundles.memory import write_bundle
from tests.bundles.trees import read_json, snapshot, verified


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("extract") / "server.mlbundle")


def extract(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(bundle, ["extract", *map(str, arguments)])
    return result.exit_code, result.output


def test_whole_bundle_and_force(sample: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    code, output = extract(sample, "-o", tree)
    assert code == 0, output
    assert "33 members" in output
    before = snapshot(tree)
    code, output = extract(sample, "-o", tree)
    assert (code, "exists already" in output) == (1, True)
    assert extract(sample, "-o", tree, "--force")[0] == 0
    assert snapshot(tree) == before


def test_selection_and_peer_json(sample: Path, tmp_path: Path) -> None:
    tree = tmp_path / "part"
    code, output = extract(sample, "-o", tree, "--run-ids", "a" * 32, "--peer-json")
    assert code == 0, output
    with pytest.raises(ValueError, match="bare token"):
        read_json(tree / "experiments" / "1" / ("a" * 32) / "run.json")
    assert [path.name for path in (tree / "experiments").iterdir() if path.is_dir()] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--models", "nope"], 2, 'no such model "nope"'),
        (["--run-ids", "c" * 32], 2, "no such run"),
    ],
)
def test_bad_selection_leaves_nothing(
    sample: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    found, output = extract(sample, "-o", tmp_path / "tree", *arguments)
    assert (found, message in output) == (code, True), output
    assert list(tmp_path.iterdir()) == []


def test_cut_bundle_is_refused(sample: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mlbundle"
    cut.write_bytes(sample.read_bytes()[:3000])
    code, output = extract(cut, "-o", tmp_path / "tree")
    assert code == 4
    assert output.startswith(f"Error: {cut}: ")
    assert not (tmp_path / "tree").exists()


def test_extracted_tree_is_sound(sample: Path, tmp_path: Path) -> None:
    assert extract(sample, "-o", tmp_path / "t", "--experiments", "iris", "--quiet")[0] == 0
    assert verified(tmp_path / "t").problems == []
