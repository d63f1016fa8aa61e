"""``show``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_bundle.cli.main import bundle
from tests.bundles.memory import write_bundle


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("show") / "server.mlbundle")


def test_artifact_is_written_byte_for_byte(sample: Path) -> None:
    path = f"experiments/1/{'a' * 32}/artifacts/model/model.pkl"
    result = CliRunner().invoke(bundle, ["show", str(sample), path])
    assert result.exit_code == 0
    assert result.stdout_bytes == bytes(range(256)) * 20


def test_document_and_header_are_exact(sample: Path) -> None:
    result = CliRunner().invoke(bundle, ["show", str(sample), "models/manifest.json"])
    assert result.stdout_bytes.count(b"\n") == 1
    assert json.loads(result.stdout_bytes)["info"]["ok_models"] == 9
    result = CliRunner().invoke(bundle, ["show", str(sample), ".mlbundle/bundle.json"])
    assert json.loads(result.stdout_bytes)["format"] == "mlbundle"


def test_nothing_outside_a_directory_is_shown(tmp_path: Path) -> None:
    tree = write_bundle(tmp_path / "tree", is_directory=True)
    (tmp_path / "secret").write_text("secret")
    for path in ("../secret", "experiments/../../secret"):
        result = CliRunner().invoke(bundle, ["show", str(tree), path])
        assert result.exit_code == 2
        assert "there is experiments/, models/" in result.output


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("experiments/1/manifst.json", "there is experiments/1/manifest.json"),
        ("experiments/1", "there is experiments/1/"),
        ("nope/deep/below", "there is experiments/, models/, prompts/, manifest.json"),
        ("../etc/passwd", "there is "),
    ],
)
def test_unknown_path_names_what_is_near(sample: Path, path: str, hint: str) -> None:
    result = CliRunner().invoke(bundle, ["show", str(sample), path])
    assert result.exit_code == 2, result.output
    assert f'no such member "{path}"' in result.output
    assert hint in result.output
