"""What every writer of a REST import shares: the server, and what every import has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from mlflow_bundle.importing import Importing
from mlflow_bundle.rest.session import Session, since

T = TypeVar("T")

IN_DELETED = "its experiment is deleted at the destination; restore it there and import again"
"""Why something is not made: servers take nothing into what is deleted."""


@dataclass(slots=True, kw_only=True)
class Destination(Importing):
    """One server that is written to."""

    session: Session
    version: tuple[int, ...]
    is_databricks: bool = False
    """Whether the server is a Databricks workspace."""
    deleted_experiments: set[str] = field(default_factory=set)
    """Ids here of experiments that were deleted here before this import: servers take nothing
    into them."""
    deleted_models: set[str] = field(default_factory=set)
    """Ids here of logged models that were deleted here before this import."""
    awaited_models: dict[str, str] = field(default_factory=dict)
    """Source ids of logged models, each with a model version that needs it and could not be made
    this time: they cannot be deleted yet."""
    to_delete: set[tuple[str, str]] = field(default_factory=set)
    """Kind and id here of the runs and experiments that this import deletes at its end."""

    def since(self, *version: int) -> bool:
        """Whether the server has what came with MLflow ``version``."""
        return since(self.version, *version)

    @property
    def param_limit(self) -> int:
        """Characters of a param's value that the server keeps (it cuts silently)."""
        return 6000 if self.since(2, 8) else 500

    @property
    def tag_limit(self) -> int:
        """Characters of a run tag's value that the server keeps (it cuts silently)."""
        return 8000 if self.since(2, 17) else 5000

    def cut(
        self, kind: str, id: str, name: str, values: dict[str, str], limit: int
    ) -> dict[str, str]:
        """Return ``values`` no longer than the server keeps; each cut is a loss."""
        for key, value in values.items():
            if len(value) > limit:
                self.report.lose(
                    kind,
                    id,
                    f"{len(value)} characters; the server keeps {limit}",
                    field=f"{name}.{key}",
                )
        return {key: value[:limit] for key, value in values.items()}


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` items."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
