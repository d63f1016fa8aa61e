"""Readers of the kinds of plain entities: one module for each family."""

from __future__ import annotations

from mlflow_bundle.rest.readers.base import Chosen, Fetched, Reader, Reading
from mlflow_bundle.rest.readers.datasets import DatasetReader
from mlflow_bundle.rest.readers.gateway import (
    BudgetReader,
    EndpointReader,
    GuardrailReader,
    ModelDefinitionReader,
    SecretReader,
)
from mlflow_bundle.rest.readers.issues import IssueReader
from mlflow_bundle.rest.readers.label_schemas import LabelSchemaReader
from mlflow_bundle.rest.readers.mcp_servers import McpServerReader
from mlflow_bundle.rest.readers.review_queues import ReviewQueueReader
from mlflow_bundle.rest.readers.scorers import ScorerReader
from mlflow_bundle.rest.readers.skills import SkillReader
from mlflow_bundle.rest.readers.traces import TraceReader
from mlflow_bundle.rest.readers.webhooks import WebhookReader

__all__ = ["Chosen", "Fetched", "Reader", "Reading", "make_readers"]

_READERS: tuple[type[Reader], ...] = (
    SecretReader,
    ModelDefinitionReader,
    EndpointReader,
    GuardrailReader,
    BudgetReader,
    IssueReader,
    ScorerReader,
    LabelSchemaReader,
    ReviewQueueReader,
    DatasetReader,
    McpServerReader,
    SkillReader,
    TraceReader,
    WebhookReader,
)


def make_readers(reading: Reading) -> dict[str, Reader]:
    """Return a reader for each kind that can be read over REST, by the kind's name."""
    return {reader.kind.name: reader(reading) for reader in _READERS}
