"""A bundle holds no credential that a tag of MLflow carries in a URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import URI_TAGS, mask_json, mask_uris_in
from mlflow_bundle.entities import Experiment
from mlflow_bundle.kinds.datasets import DatasetRecord, EvaluationDataset
from mlflow_bundle.kinds.traces import Trace
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


def test_credentials_in_the_metadata_of_a_trace_are_masked(tmp_path: Path) -> None:
    uri = "https://user:SECRET@github.com/a/b"
    metadata = {"mlflow.source.git.repoURL": uri, "mine": uri}
    trace = Trace(trace_id="tr-1", experiment_id="1", request_time=0, metadata=metadata)
    contents = [
        Content(entity=Experiment(experiment_id="1", name="e")),
        Content(entity=trace),
    ]
    report = Report("test")
    tree = memory.write_bundle(tmp_path / "tree", contents, is_directory=True, report=report)
    written = read_json(tree / "experiments/1/traces/tr-1/trace.json")["entity"]["metadata"]
    assert written == {"mlflow.source.git.repoURL": "https://***@github.com/a/b", "mine": uri}
    assert report.adjusted == {"trace.metadata.mlflow.source.git.repoURL (credentials masked)": 1}


def test_credentials_in_the_source_of_a_record_are_masked(tmp_path: Path) -> None:
    source = '{"source_type": "DOCUMENT", "source_data": {"doc_uri": "https://u:SECRET@host/x"}}'
    record = DatasetRecord(dataset_record_id="dr-1", inputs="{}", source=source)
    dataset = EvaluationDataset(dataset_id="d-1", name="d")
    contents = [Content(entity=dataset, items=lambda: [record])]
    report = Report("test")
    tree = memory.write_bundle(tmp_path / "tree", contents, is_directory=True, report=report)
    (written,) = read_json(tree / "datasets/d-1/dataset.json")["items"]
    assert written["source"] == source.replace("u:SECRET", "***")
    assert report.adjusted == {"dataset.items.source (credentials masked)": 1}


@pytest.mark.parametrize(
    ("source", "masked"),
    [
        ('{"url": "http://user:secret@host/x.csv"}', '{"url": "http://***@host/x.csv"}'),
        ('{"uri": "s3://bucket/key"}', '{"uri": "s3://bucket/key"}'),
        ("https://host/x?sig=abc&a=1", "https://host/x?sig=***&a=1"),
        ("http://user:sec/ret@host/x", "http://***@host/x"),
        ("http://user:sec?ret@host/x", "http://***@host/x"),
        ("http://user:sec#ret@host/x", "http://***@host/x"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("ssh://git@host:team/repository@v1", "ssh://git@host:team/repository@v1"),
        ("no uri: a@b", "no uri: a@b"),
    ],
)
def test_credentials_in_the_source_of_a_dataset_are_masked(source: str, masked: str) -> None:
    assert mask_uris_in(source) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"Authorization": "Bearer abc", "x": 1.0}', '{"Authorization": "***", "x": 1.0}'),
        ('{"env": {"OPENAI_API_KEY": "sk-1"}}', '{"env": {"OPENAI_API_KEY": "***"}}'),
        ('[{"name": "MY_KEY", "value": "v"}]', '[{"name": "MY_KEY", "value": "***"}]'),
        (
            '{"name": "A", "isSecret": true, "default": "v"}',
            '{"name": "A", "isSecret": true, "default": "***"}',
        ),
        ('["--token", "t", "--x", "y"]', '["--token", "***", "--x", "y"]'),
        ('["--password=p"]', '["--password=***"]'),
        ('{"url": "https://u:p@host/?api_key=k"}', '{"url": "https://***@host/?api_key=***"}'),
        ("Authorization: Basic dTpw, next", "Authorization: Basic ***, next"),
        (
            '"https://hooks.slack.com/services/T0/B0/x"',
            '"https://hooks.slack.com/services/T0/B0/***"',
        ),
        (
            '{"isSecret": true, "choices": ["v"], "variables": {"a": {"value": "v"}}}',
            '{"isSecret": true, "choices": ["***"], "variables": {"a": {"value": "***"}}}',
        ),
        (
            '{"variables": {"token": {"description": "of the user", "default": "v"}}}',
            '{"variables": {"token": {"description": "of the user", "default": "***"}}}',
        ),
        ('{"valueHint": "api_key", "value": "v"}', '{"valueHint": "api_key", "value": "***"}'),
        (
            '{"credentials": {"user": "u", "more": ["v", 1]}, "password": ["v"]}',
            '{"credentials": {"user": "***", "more": ["***", 1]}, "password": ["***"]}',
        ),
        ('["-e", "API_TOKEN=v", "-eMY_KEY=v"]', '["-e", "API_TOKEN=***", "-eMY_KEY=***"]'),
        ('["--env=API_TOKEN=v", "--x=y"]', '["--env=API_TOKEN=***", "--x=y"]'),
        ("docker run -e API_TOKEN='v' -e A=b", "docker run -e API_TOKEN='***' -e A=b"),
        ('["--header", "X-API-Key: v"]', '["--header", "X-API-Key: ***"]'),
        ('["--header=X-API-Key: v1"]', '["--header=X-API-Key: ***"]'),
        ('["-H", "Authorization: ApiKey v"]', '["-H", "Authorization: ***"]'),
        ("https://host/#access_token=v&state=1", "https://host/#access_token=***&state=1"),
        # What only looks like a credential, or says where one belongs, stays byte for byte.
        ('{"headers":  [{"name": "Authorization", "value": "Bearer {token}"}]}',) * 2,
        ('{"token": "${TOKEN}", "maxTokens": 5, "tokenizer": "t", "key": "name"}',) * 2,
        ('{"properties": {"api_key": {"type": "string"}}, "required": ["api_key"]}',) * 2,
        ('{"token": {"type": "string", "enum": ["BTC"], "description": "which"}}',) * 2,
        ('{"authorization": {"type": "oauth2", "authorizationUrl": "https://host/a"}}',) * 2,
        ('["-e", "API_TOKEN", "--env=API_TOKEN=${API_TOKEN}", "--x", "X-API-Key: {key}"]',) * 2,
        ('{"description": "Set API_TOKEN=<your token>. X-API-Key: the key"}',) * 2,
        ('{"url": "https://host/a#section=3"}',) * 2,
        ('{"description": "uses bearer authentication, see https://host/a?b=c"}',) * 2,
    ],
)
def test_values_that_are_named_as_credentials_are_masked_in_json(text: str, masked: str) -> None:
    assert mask_json(text) == masked
