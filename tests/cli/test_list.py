"""``list``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_bundle.cli.main import bundle
from mlflow_bundle.report import Report
from tests.bundles.memory import write_bundle


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = Report()
    report.lose("run", "gone\nforged line", "refused", parent="1")
    return write_bundle(tmp_path_factory.mktemp("list") / "server.mlbundle", report=report)


def test_overview_shows_facts_tables_totals_and_losses(sample: Path) -> None:
    result = CliRunner().invoke(bundle, ["list", str(sample)])
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "source: http://localhost:5000 (MLflow 3.17.2)" in lines
    assert "iris 1 2 (1 lost) 1 0 11 1.13 MB" in lines
    assert "sklearn_iris 3 champion models:/m-1" in lines
    assert "sklearn_iris 10 s3://elsewhere/model" in lines
    assert "greeting 1" in lines
    assert any(line.startswith("total: 13 artifacts, 2 experiments, 1 logged") for line in lines)
    assert lines[-2:] == ["lost by the export: 1", "run gone forged line: refused"]
    assert "\x1b" not in result.stdout


def test_json_is_one_object(sample: Path) -> None:
    result = CliRunner().invoke(bundle, ["list", str(sample), "--json"])
    listing = json.loads(result.stdout)
    assert listing["uuid"] == "12345678-1234-5678-1234-567812345678"
    assert listing["size"] == sample.stat().st_size
    assert listing["experiments"][0] == {
        "id": "1",
        "name": "iris",
        "lifecycle_stage": "active",
        "runs": 2,
        "failed_runs": 1,
        "logged_models": 1,
        "traces": 0,
        "artifacts": 11,
        "artifact_bytes": 1125223,
    }
    iris = next(model for model in listing["models"] if model["name"] == "sklearn_iris")
    assert [version["version"] for version in iris["versions"]] == [1, 3, 10]
    assert iris["versions"][2]["artifacts"] == 1
    assert [loss["id"] for loss in listing["losses"]] == ["gone\nforged line"]


def test_path_lists_members_with_sizes(sample: Path) -> None:
    result = CliRunner().invoke(bundle, ["list", str(sample), "experiments/1/logged_models/"])
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["14", "experiments/1/logged_models/m-1/artifacts/MLmodel"],
        ["629", "experiments/1/logged_models/m-1/logged_model.json"],
    ]


def test_options_narrow_the_tables(sample: Path) -> None:
    result = CliRunner().invoke(bundle, ["list", str(sample), "--models", "sk*", "--json"])
    listing = json.loads(result.stdout)
    assert [model["name"] for model in listing["models"]] == ["sklearn_iris"]
    assert listing["experiments"] == listing["prompts"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], 'no such member "nope"'),
        (["--models", "sklearn_iri"], 'no such model "sklearn_iri"; nearest: sklearn_iris'),
        (["--experiments", "irs"], 'no such experiment "irs"; nearest: iris'),
        (["manifest.json", "--models", "x"], "not both"),
    ],
)
def test_what_is_not_there_is_named(sample: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(bundle, ["list", str(sample), *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    result = CliRunner().invoke(bundle, ["list", str(tmp_path / "x")])
    assert result.exit_code == 4
    assert "not a bundle" in result.output
    assert CliRunner().invoke(bundle, ["list", str(tmp_path / "nope")]).exit_code == 1
