"""Tells where two places differ, whatever each is: a bundle, a directory or a server."""

from __future__ import annotations

from mlflow_bundle.diff.comparison import compare
from mlflow_bundle.diff.expected import Expected
from mlflow_bundle.diff.result import Comparison, Difference, KindCount, Unread
from mlflow_bundle.diff.workspaces import Place, compare_places

__all__ = [
    "Comparison",
    "Difference",
    "Expected",
    "KindCount",
    "Place",
    "Unread",
    "compare",
    "compare_places",
]
