"""Files on this machine's disks have their names when they are whole."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mlflow_bundle.artifacts import put_in_directory
from mlflow_bundle.contracts import OpenedArtifact


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
