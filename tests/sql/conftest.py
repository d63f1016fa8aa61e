"""Bundles of whole servers, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import MlflowServer
from tests.transfer.commands import export
from tests.world import World


@pytest.fixture(scope="session")
def full_bundle(
    full_server: MlflowServer, full_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``export-all`` of the full world over REST; what lies in buckets is lost."""
    path = tmp_path_factory.mktemp("sql") / "full.mlbundle"
    export(full_server, path, expect=None)
    return path


@pytest.fixture(scope="session")
def genai_bundle(
    genai_server: MlflowServer, genai_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``export-all`` of the small world of MLflow 3's kinds over REST."""
    path = tmp_path_factory.mktemp("sql") / "genai.mlbundle"
    export(genai_server, path, expect=None)
    return path
