"""``verify``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_bundle.archive import scan_groups
from mlflow_bundle.cli.differences import lines
from mlflow_bundle.cli.main import bundle
from mlflow_bundle.diff.result import Comparison
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


def test_quick_sees_damage_of_the_directory_and_not_of_content(sample: Path) -> None:
    sound = CliRunner().invoke(bundle, ["verify", str(sample), "--quick"])
    assert sound.exit_code == 0, sound.output
    assert f"{sample}: sound as far as its directory tells" in sound.stdout
    assert "33 members" in sound.stdout
    data = sample.read_bytes()
    with sample.open("rb") as stream:
        group, page = next(iter(scan_groups(stream).iter_groups()))
    in_data = group.preamble.offset + len(page) + 10
    in_trailer = data.rindex(b"MLBT") + 20
    for offset, code in ((in_data, 0), (group.preamble.offset + 80, 4), (in_trailer, 4)):
        damaged = bytearray(data)
        damaged[offset] ^= 0xFF
        sample.write_bytes(damaged)
        result = CliRunner().invoke(bundle, ["verify", str(sample), "--quick"])
        assert result.exit_code == code, (offset, result.output)
    sample.write_bytes(data[: len(data) // 2])
    assert CliRunner().invoke(bundle, ["verify", str(sample), "--quick"]).exit_code == 4


def test_quick_compares_with_no_server(sample: Path) -> None:
    words = ["verify", str(sample), "--quick", "--against", "http://127.0.0.1:1"]
    refused = CliRunner().invoke(bundle, words)
    assert refused.exit_code == 2
    assert "not with --quick" in refused.output


def test_one_value_that_is_not_counted_is_one() -> None:
    comparison = Comparison(
        a="A", b="B", one_sided=False, strict=False, artifacts="skip", not_compared={"run.id": 1}
    )
    assert any(line.startswith("not counted: 1 value that ") for line in lines(comparison))
