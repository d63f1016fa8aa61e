"""Readers of the tables of a database: one module for each family of kinds."""

from __future__ import annotations

from mlflow_bundle.sql.readers.base import Chosen, Items, Reader, Reading
from mlflow_bundle.sql.readers.datasets import DatasetReader
from mlflow_bundle.sql.readers.experiments import ExperimentReader
from mlflow_bundle.sql.readers.gateway import (
    BudgetReader,
    EndpointReader,
    GuardrailReader,
    ModelDefinitionReader,
    SecretReader,
)
from mlflow_bundle.sql.readers.issues import IssueReader
from mlflow_bundle.sql.readers.label_schemas import LabelSchemaReader
from mlflow_bundle.sql.readers.logged_models import LoggedModelReader
from mlflow_bundle.sql.readers.mcp_servers import McpServerReader
from mlflow_bundle.sql.readers.registry import Listed, Registry, RunPlace
from mlflow_bundle.sql.readers.review_queues import ReviewQueueReader
from mlflow_bundle.sql.readers.runs import RunReader
from mlflow_bundle.sql.readers.scorers import ScorerReader
from mlflow_bundle.sql.readers.skills import SkillReader
from mlflow_bundle.sql.readers.traces import TraceReader
from mlflow_bundle.sql.readers.webhooks import WebhookReader

__all__ = [
    "PLAIN_READERS",
    "Chosen",
    "ExperimentReader",
    "Items",
    "Listed",
    "LoggedModelReader",
    "Reader",
    "Reading",
    "Registry",
    "RunPlace",
    "RunReader",
]

PLAIN_READERS: tuple[type[Reader], ...] = (
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
"""Readers of the kinds of plain entities."""
