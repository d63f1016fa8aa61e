"""A file store, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.filestore.filled import fill


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a file store with everything that one can hold. For reading only."""
    root = tmp_path_factory.mktemp("filestore") / "mlruns"
    fill(root)
    return root


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the file store that may be damaged."""
    shutil.copytree(store, tmp_path / "mlruns")
    return tmp_path / "mlruns"
