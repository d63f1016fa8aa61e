"""Bundles of the sample as file and as directory, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles.memory import write_bundle


@pytest.fixture(scope="session")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a bundle file; never altered."""
    return write_bundle(tmp_path_factory.mktemp("sample") / "sample.mlbundle")


@pytest.fixture(scope="session")
def sample_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as ``--output-dir`` writes it; never altered."""
    return write_bundle(tmp_path_factory.mktemp("sample") / "tree", is_directory=True)
