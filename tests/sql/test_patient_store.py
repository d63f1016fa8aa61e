"""A bucket that goes away in the middle is waited for; its files are not lost one by one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.buckets import bucket
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import finished, process
from tests.transfer.kills import members_of
from tests.transfer.small import Small

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.s3]

RUNS, FILES = 4, 3
_METHODS = (b"GET ", b"PUT ", b"HEAD ", b"POST ")


class Line:
    """A line to a server that is cut at request number ``after``, for some seconds."""

    def __init__(self, uri: str, *, after: int, lasts_s: float) -> None:
        parts = urlsplit(uri)
        self._address = (parts.hostname, parts.port)
        self._left = after
        self._lasts_s = lasts_s
        self._ends: float | None = None
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def has_been_cut(self) -> bool:
        return self._ends is not None

    @property
    def _is_cut(self) -> bool:
        return self._ends is not None and time.monotonic() < self._ends

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = socket.create_connection(self._address)
                self._open |= {client, server}
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if asks and data.startswith(_METHODS):
                    self._left -= 1
                    if self._left < 0 and self._ends is None:
                        self._ends = time.monotonic() + self._lasts_s
                if self._is_cut:
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listening.close()
        for end in self._open:
            end.close()


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 endpoint with a bucket; the environment that leads to it."""
    with bucket() as environment:
        yield environment | {"AWS_MAX_ATTEMPTS": "1"}


@pytest.fixture
def source(
    s3: dict[str, str], empty_server: LendServer, monkeypatch: pytest.MonkeyPatch
) -> MlflowServer:
    """A server whose runs have their files in the bucket."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    server = empty_server(artifacts="s3://mlflow/source", env=s3, workers=1)
    build = Small(server.uri)
    build.experiment("e", "e")
    for number in range(RUNS):
        run = build.run(f"run {number}", "e")
        files = {f"{i}.txt": f"file {number} {i}".encode() for i in range(FILES)}
        build.put_files(build.artifact_uri(run), files)
    return server


def over(line: Line) -> dict[str, str]:
    return {"MLFLOW_S3_ENDPOINT_URL": line.uri}


def test_an_export_and_an_import_wait_for_it(
    source: MlflowServer, s3: dict[str, str], tmp_path: Path
) -> None:
    database = f"sqlite:///{source.database}"
    export = ("export-all", "--tracking-uri", database, "--jobs", "2", "-o")
    calm = finished(process(*export, tmp_path / "calm"))
    assert calm.exit_code == 0, calm.stderr
    assert "12" in calm.stdout + calm.stderr

    with contextlib.closing(Line(s3["MLFLOW_S3_ENDPOINT_URL"], after=5, lasts_s=3)) as line:
        done = finished(process(*export, tmp_path / "f", env=over(line)))
        assert line.has_been_cut
    assert done.exit_code == 0, done.stderr
    assert "s3://mlflow is away" in done.stderr
    assert "s3://mlflow is back" in done.stderr
    assert members_of(tmp_path / "f") == members_of(tmp_path / "calm")

    there = f"sqlite:///{tmp_path}/new.db"
    with contextlib.closing(Line(s3["MLFLOW_S3_ENDPOINT_URL"], after=8, lasts_s=3)) as line:
        done = finished(
            process(
                *("import-all", tmp_path / "f", "--tracking-uri", there, "--jobs", "2"),
                *("--default-artifact-root", "s3://mlflow/destination"),
                env=over(line),
            )
        )
        assert line.has_been_cut
    assert done.exit_code == 0, done.stderr
    assert "s3://mlflow is back" in done.stderr
    same = finished(process("diff", database, there))
    assert same.exit_code == 0, same.stdout + same.stderr


def test_one_that_stays_away_fails_the_export_which_then_goes_on(
    source: MlflowServer, s3: dict[str, str], tmp_path: Path
) -> None:
    words = ("export-all", "--tracking-uri", f"sqlite:///{source.database}", "--jobs", "1", "-o")
    finished(process(*words, tmp_path / "calm"))
    with contextlib.closing(Line(s3["MLFLOW_S3_ENDPOINT_URL"], after=6, lasts_s=600)) as line:
        done = finished(process(*words, tmp_path / "f", "--retry-for", "2s", env=over(line)))
    assert done.exit_code == 1, done.stderr
    assert "cannot reach the artifact store s3://mlflow any more" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "f").exists()
    done = finished(process(*words, tmp_path / "f"))
    assert done.exit_code == 0, done.stderr
    assert members_of(tmp_path / "f") == members_of(tmp_path / "calm")


def test_one_that_has_never_answered_is_a_loss_at_once(
    source: MlflowServer, tmp_path: Path
) -> None:
    words = ("export-all", "--tracking-uri", f"sqlite:///{source.database}", "-o", tmp_path / "f")
    began = time.monotonic()
    done = finished(process(*words, env={"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}))
    assert done.exit_code == 3, done.stderr
    assert "is away" not in done.stderr
    assert time.monotonic() - began < 60
