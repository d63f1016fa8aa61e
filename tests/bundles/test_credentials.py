"""A bundle holds no credential that a tag of MLflow carries in a URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import URI_TAGS, mask_uris_in
from mlflow_bundle.entities import Experiment
from mlflow_bundle.report import Report
from tests.bundles import memory
from tests.bundles.trees import read_json


@pytest.mark.parametrize("tag", sorted(URI_TAGS))
def test_credentials_in_tags_of_mlflow_are_masked(tag: str, tmp_path: Path) -> None:
    tags = {tag: "https://user:SECRET@github.com/a/b#sub", "mine": "https://user:MINE@host/"}
    contents = [
        Content(entity=Experiment(experiment_id="1", name="e")),
        memory.run("a" * 32, tags=tags),
    ]
    report = Report("test")
    tree = memory.write_bundle(tmp_path / "tree", contents, is_directory=True, report=report)
    assert read_json(tree / f"experiments/1/{'a' * 32}/run.json")["tags"] == {
        tag: "https://***@github.com/a/b#sub",
        "mine": "https://user:MINE@host/",
    }
    assert report.adjusted == {f"run.tags.{tag} (credentials masked)": 1}


def test_a_name_that_is_no_uri_stays(tmp_path: Path) -> None:
    tags = {"mlflow.source.name": "/home/me@work/train.py", "mlflow.project.env": "conda"}
    contents = [
        Content(entity=Experiment(experiment_id="1", name="e")),
        memory.run("a" * 32, tags=tags),
    ]
    tree = memory.write_bundle(tmp_path / "tree", contents, is_directory=True)
    assert read_json(tree / f"experiments/1/{'a' * 32}/run.json")["tags"] == tags


@pytest.mark.parametrize(
    ("source", "masked"),
    [
        ('{"url": "http://user:secret@host/x.csv"}', '{"url": "http://***@host/x.csv"}'),
        ('{"uri": "s3://bucket/key"}', '{"uri": "s3://bucket/key"}'),
        ("https://host/x?sig=abc&a=1", "https://host/x?sig=***&a=1"),
        ("no uri: a@b", "no uri: a@b"),
    ],
)
def test_credentials_in_the_source_of_a_dataset_are_masked(source: str, masked: str) -> None:
    assert mask_uris_in(source) == masked
