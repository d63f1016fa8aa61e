"""Writers of the kinds of plain entities: one module for each family."""

from __future__ import annotations

from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.writers.base import Writer
from mlflow_bundle.rest.writers.datasets import DatasetWriter
from mlflow_bundle.rest.writers.gateway import (
    EndpointWriter,
    ModelDefinitionWriter,
    SecretWriter,
)
from mlflow_bundle.rest.writers.gateway_policies import BudgetWriter, GuardrailWriter
from mlflow_bundle.rest.writers.issues import IssueWriter
from mlflow_bundle.rest.writers.label_schemas import LabelSchemaWriter
from mlflow_bundle.rest.writers.mcp_servers import McpServerWriter
from mlflow_bundle.rest.writers.review_queues import ReviewQueueWriter
from mlflow_bundle.rest.writers.scorers import ScorerWriter
from mlflow_bundle.rest.writers.skills import SkillWriter
from mlflow_bundle.rest.writers.traces import TraceWriter
from mlflow_bundle.rest.writers.webhooks import WebhookWriter

__all__ = ["RESERVED", "Writer", "make_writers"]

_WRITERS: tuple[type[Writer], ...] = (
    SecretWriter,
    ModelDefinitionWriter,
    EndpointWriter,
    GuardrailWriter,
    BudgetWriter,
    IssueWriter,
    ScorerWriter,
    LabelSchemaWriter,
    DatasetWriter,
    McpServerWriter,
    SkillWriter,
    TraceWriter,
    WebhookWriter,
    # Finishes when everything else has: its items are traces.
    ReviewQueueWriter,
)

RESERVED = tuple(writer.kind for writer in _WRITERS if writer.reserves)
"""Kinds that are placed before anything is put, in this order."""


def make_writers(destination: Destination) -> dict[str, Writer]:
    """Return a writer for each kind that can be written over REST, by the kind's name."""
    return {writer.kind: writer(destination) for writer in _WRITERS}
