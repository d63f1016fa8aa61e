"""A file store, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.filestore.filled import fill


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a file store with everything that one can hold. For reading only."""
    root = tmp_path_factory.mktemp("filestore") / "mlruns"
    fill(root)
    return root
