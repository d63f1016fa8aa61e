"""Artifacts come from and go to any store that MLflow knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buckets import bucket
from tests.compare import differences, snapshot
from tests.conftest import LendServer
from tests.transfer.commands import export, import_
from tests.transfer.small import Small, build_small

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.mark.parametrize(
    ("source_store", "sink_store"), [("local", "proxied"), ("proxied", "local")]
)
def test_a_store_on_the_servers_disk(
    empty_server: LendServer, tmp_path: Path, source_store: str, sink_store: str
) -> None:
    source, server = (
        empty_server() if store == "proxied" else empty_server(artifacts=store, workers=1)
        for store in (source_store, sink_store)
    )
    build_small(source.uri)
    done = export(source, tmp_path / "f.mlbundle")
    assert done.report["done"]["artifact"] == 7
    import_(server, tmp_path / "f.mlbundle")
    assert differences(snapshot(source.uri), snapshot(server.uri)) == []
    assert import_(server, tmp_path / "f.mlbundle").report["done"] == {}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 endpoint with a bucket; the environment that leads to it."""
    with bucket() as environment:
        yield environment


@pytest.mark.s3
@pytest.mark.parametrize("how", ["proxied:s3://mlflow", "s3://mlflow"])
def test_a_bucket(
    s3: dict[str, str],
    empty_server: LendServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    name = how.replace("://", "-").replace(":", "-")
    source = empty_server(artifacts=f"{how}/source-{name}", env=s3, workers=1)
    server = empty_server(artifacts=f"{how}/sink-{name}", env=s3, workers=1)
    build = Small(source.uri)
    build.experiment("e", "e")
    run = build.run("run", "e")
    build.put_files(build.artifact_uri(run), {"m/model.pkl": b"pickle", "ü b/%.txt": b"odd"})
    build.logged_model("model", "e", name="m", source_run_id=run, files={"a": b"b"})
    build.model("model")
    build.version("model", f"runs:/{run}/m", run_id=run)
    build.version("model", f"{build.artifact_uri(run)}/m", run_id=run)
    done = export(source, tmp_path / "f.mlbundle")
    assert done.report["done"]["artifact"] == 4
    import_(server, tmp_path / "f.mlbundle")
    assert differences(snapshot(source.uri), snapshot(server.uri)) == []
    assert import_(server, tmp_path / "f.mlbundle").report["done"] == {}


@pytest.mark.s3
def test_a_server_that_lets_nothing_through_itself(
    s3: dict[str, str],
    empty_server: LendServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """One of 3.18 can be told to: files go to and from its store, at URLs that it signs."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    only = {**s3, "MLFLOW_ARTIFACTS_PRESIGNED_ONLY": "true"}
    source, server, last = (
        empty_server(artifacts=f"proxied:s3://mlflow/only-{number}", env=env, workers=1)
        for number, env in enumerate((s3, only, s3))
    )
    build = Small(source.uri)
    build.experiment("e", "e")
    run = build.run("run", "e")
    files = {"m/model.pkl": b"pickle", "empty": b"", "ü b/%.txt": b"odd"}
    build.put_files(build.artifact_uri(run), files)
    build.logged_model("model", "e", name="m", source_run_id=run, files={"a": b"b"})
    for from_, to in ((source, server), (server, last)):
        bundle = tmp_path / f"{to.uri.rpartition(':')[2]}.mlbundle"
        assert export(from_, bundle).report["done"]["artifact"] == 5
        import_(to, bundle)
        assert import_(to, bundle).report["done"] == {}
    assert differences(snapshot(source.uri), snapshot(last.uri)) == []
