"""Files on this machine's disks have their names when they are whole."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mlflow_bundle.artifacts import LocalTree, put_in_directory
from mlflow_bundle.contracts import OpenedArtifact
from mlflow_bundle.errors import SourceError


class Full(io.BytesIO):
    """Gives some bytes, then fails as a full disk does."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(5)
        if not data:
            raise OSError(28, "No space left on device")
        return data


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        put_in_directory(tmp_path, "a/b.txt", OpenedArtifact(Full(b"0123456789"), 10))
    assert list((tmp_path / "a").iterdir()) == []


def test_what_a_killed_import_left_is_taken_by_the_next(tmp_path: Path) -> None:
    put_in_directory(tmp_path, "b.txt", OpenedArtifact(io.BytesIO(b"old"), 3))
    (tmp_path / "b.txt").unlink()
    names: list[str] = []

    class Looking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            names[:] = [path.name for path in tmp_path.iterdir()]
            return super().read(size)

    put_in_directory(tmp_path, "b.txt", OpenedArtifact(Looking(b"new"), 3))
    (partial,) = names
    (tmp_path / "b.txt").unlink()
    (tmp_path / partial).write_bytes(b"of a killed import, and longer")
    put_in_directory(tmp_path, "b.txt", OpenedArtifact(io.BytesIO(b"new"), 3))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b.txt", b"new")]


def test_of_a_file_that_is_written_to_comes_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"one\ntwo\n")
    tree = LocalTree(tmp_path, error=SourceError)
    (file,) = tree.files()
    with tree.open(file).stream as whole, (opened := tree.open(file)).stream as pieces:
        with path.open("ab") as log:
            log.write(b"three\n")
        assert opened.size == 8
        assert [pieces.read(5), pieces.read(5), pieces.read(5)] == [b"one\nt", b"wo\n", b""]
        assert whole.read() == b"one\ntwo\n"


def test_a_file_that_becomes_shorter_is_the_sources_fault(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"one\ntwo\n")
    tree = LocalTree(tmp_path, error=SourceError)
    (file,) = tree.files()
    with tree.open(file).stream as stream:
        path.write_bytes(b"one")
        with pytest.raises(SourceError, match="it became shorter while it was read"):
            stream.read()
