"""Which MLflow the tests run with."""

from __future__ import annotations

from importlib.metadata import version

VERSION = tuple(int(part) for part in version("mlflow").split(".")[:2])


def has(*since: int) -> bool:
    """Whether the installed MLflow has what came with a minor version."""
    return since <= VERSION
