"""What a user can name as input and output."""

from __future__ import annotations

import functools
import http.server
import io
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_bundle.bundles.opening import check_output, open_tree, open_writer
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.errors import BundleError, NotABundleError, SelectionError, TruncatedError
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from tests.bundles.trees import snapshot


def paths_of(name: str, *, is_directory: bool = False) -> list[str]:
    tree = open_tree(name, is_directory=is_directory)
    try:
        return [member.path for member in tree.iter_members()]
    finally:
        tree.close()


class _RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files with range requests, as object stores do."""

    ranges = True
    served = 0

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        stated = self.headers.get("Range")
        if not stated or not self.ranges:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = stated.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1]
        type(self).served += len(part)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def end_headers(self) -> None:
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture(params=[True, False], ids=["ranges", "whole"])
def server(request: pytest.FixtureRequest, sample_file: Path) -> Iterator[str]:
    handler = type("Handler", (_RangeHandler,), {"ranges": request.param})
    bound = functools.partial(handler, directory=str(sample_file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), bound) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_file_directory_and_url_show_the_same_members(
    sample_file: Path, sample_directory: Path
) -> None:
    expected = paths_of(str(sample_file))
    assert len(expected) > 20
    assert paths_of(str(sample_directory)) == expected
    assert paths_of(str(sample_directory), is_directory=True) == expected
    assert paths_of(sample_file.as_uri()) == expected


def test_bundle_is_read_over_http(server: str, sample_file: Path) -> None:
    pytest.importorskip("aiohttp")
    assert paths_of(f"{server}/{sample_file.name}") == paths_of(str(sample_file))


def test_missing_url_is_named(server: str) -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(BundleError, match="no such file: http://127"):
        open_tree(f"{server}/nope.mlbundle")


def test_unreachable_server_is_told_apart_from_a_missing_file() -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(BundleError, match=r"cannot read http://127\.0\.0\.1:9/x: cannot connect"):
        open_tree("http://127.0.0.1:9/x")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BundleError, match="cannot read s3://bucket/x") as info:
        open_tree("s3://bucket/x.mlbundle")
    assert info.value.hint == "pip install s3fs"


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(BundleError, match="cannot read nope://x: protocol not known"):
        open_tree("nope://x")


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"", NotABundleError, "x: not a bundle"),
        (b"PK\x03\x04 something else entirely", NotABundleError, "x: not a bundle"),
        (None, TruncatedError, "x: "),
    ],
)
def test_file_that_is_no_whole_bundle_is_named(
    sample_file: Path,
    tmp_path: Path,
    content: bytes | None,
    error: type[BundleError],
    match: str,
) -> None:
    path = tmp_path / "x"
    path.write_bytes(sample_file.read_bytes()[:-200] if content is None else content)
    with pytest.raises(error, match=match):
        open_tree(str(path))


def test_missing_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file: "):
        open_tree(str(tmp_path / "nope"))
    with pytest.raises(BundleError, match="no such directory: "):
        open_tree(str(tmp_path / "nope"), is_directory=True)


class _Stdin(io.TextIOWrapper):
    """Standard input that gives bytes piecemeal and cannot seek."""

    def isatty(self) -> bool:
        return False


def test_standard_input_is_spooled(sample_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", _Stdin(io.BytesIO(sample_file.read_bytes())))
    assert paths_of("-") == paths_of(str(sample_file))


def test_directory_is_a_source_as_it_was_edited(sample_directory: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    shutil.rmtree(tree / "experiments" / "1" / ("a" * 32))
    source = BundleSource(open_tree(str(tree), is_directory=True))
    report = Report()
    source.select(Selection.all(), report)
    assert report.planned["run"] == 2
    assert len(list(source.iter_contents())) == sum(
        report.planned[kind]
        for kind in ("run", "experiment", "logged_model", "registered_model", "prompt")
    )


_WRITE = """
import os, sys
from tests.bundles.memory import write_bundle
from pathlib import Path
from mlflow_bundle.bundles import sink
original = sink.BundleSink.put
def noisy(self, content):
    print("a library prints")
    os.system("echo a child prints")
    original(self, content)
sink.BundleSink.put = noisy
write_bundle(Path("-"))
print("", end="")
"""


def test_standard_output_gets_nothing_but_the_bundle(sample_file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WRITE], capture_output=True, check=True)
    assert done.stdout == sample_file.read_bytes()
    assert b"a library prints" in done.stderr
    assert b"a child prints" in done.stderr


def test_existing_outputs_are_refused(sample_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists already"):
        check_output(str(tmp_path / "file"))
    with pytest.raises(BundleError, match="is a directory"):
        check_output(str(tmp_path / "mine"), force=True)
    with pytest.raises(BundleError, match="exists already and is no directory"):
        check_output(str(tmp_path / "file"), is_directory=True, force=True)
    with pytest.raises(BundleError, match="exists already"):
        check_output(str(sample_directory), is_directory=True)
    with pytest.raises(BundleError, match="is not replaced"):
        check_output(str(tmp_path / "mine"), is_directory=True, force=True)
    with pytest.raises(BundleError, match="no such directory"):
        check_output(str(tmp_path / "a" / "b"), is_directory=True)
    check_output(str(sample_directory), is_directory=True, force=True)


def test_force_replaces_a_tree_only_when_the_new_one_is_complete(
    sample_directory: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    make = open_writer(str(tree), is_directory=True, force=True)
    before = snapshot(tree)
    writer = make(b"{}", uuid.uuid4(), 0)
    writer.add("experiments/x", b"x")
    writer.close()
    assert snapshot(tree) == before
    writer = make(b"{}", uuid.uuid4(), 0)
    writer.finish()
    assert list(snapshot(tree)) == [".mlbundle/bundle.json"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


def test_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(SelectionError, match="not written to a terminal"):
        check_output("-")
