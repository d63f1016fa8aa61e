"""``verify``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_bundle.cli.main import bundle
from tests.bundles.memory import write_bundle


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "server.mlbundle")


def test_sound_bundle_tells_what_was_checked(sample: Path) -> None:
    result = CliRunner().invoke(bundle, ["verify", str(sample)])
    assert result.exit_code == 0, result.output
    assert f"{sample}: sound" in result.stdout
    assert "33 members" in result.stdout
    assert "3 run" in result.stdout
    assert "20 inside; outside: 1 model_version.run_id" in result.stdout


def test_damaged_bundle_is_refused_with_a_line_for_each_problem(sample: Path) -> None:
    data = bytearray(sample.read_bytes())
    data[len(data) // 3] ^= 0xFF
    sample.write_bytes(data)
    result = CliRunner().invoke(bundle, ["verify", str(sample), "--json"])
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert "digest" in found["problems"][0]["message"]


def test_cut_bundle_is_refused(sample: Path) -> None:
    sample.write_bytes(sample.read_bytes()[:-1000])
    result = CliRunner().invoke(bundle, ["verify", str(sample)])
    assert result.exit_code == 4
    assert result.output.startswith(f"Error: {sample}: ")


def test_directory_is_checked_as_it_lies(tmp_path: Path) -> None:
    tree = write_bundle(tmp_path / "tree", is_directory=True)
    assert CliRunner().invoke(bundle, ["verify", "--input-dir", str(tree)]).exit_code == 0
    shutil.rmtree(tree / "models" / "sklearn_iris")
    result = CliRunner().invoke(bundle, ["verify", str(tree)])
    assert result.exit_code == 4
    assert (
        "models/manifest.json: ok_models: names models/sklearn_iris/model.json, which is missing"
        in result.stdout
    )
