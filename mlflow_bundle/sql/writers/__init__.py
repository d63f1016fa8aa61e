"""Writers of the kinds of entities into a database: one module for each family."""

from __future__ import annotations

from mlflow_bundle.entities import Prompt, RegisteredModel
from mlflow_bundle.sql.rollups import RollupQueue
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.associations import AssociationRows
from mlflow_bundle.sql.writers.base import Writer
from mlflow_bundle.sql.writers.datasets import DatasetWriter
from mlflow_bundle.sql.writers.experiments import ExperimentWriter
from mlflow_bundle.sql.writers.gateway import (
    BudgetWriter,
    EndpointWriter,
    GuardrailWriter,
    ModelDefinitionWriter,
    SecretWriter,
)
from mlflow_bundle.sql.writers.inputs import DatasetRows, InputRows
from mlflow_bundle.sql.writers.issues import IssueWriter
from mlflow_bundle.sql.writers.logged_models import LoggedModelWriter
from mlflow_bundle.sql.writers.mcp_servers import McpServerWriter
from mlflow_bundle.sql.writers.registry import RegistryWriter
from mlflow_bundle.sql.writers.reviews import LabelSchemaWriter, ReviewQueueWriter
from mlflow_bundle.sql.writers.runs import RunWriter
from mlflow_bundle.sql.writers.scorers import ScorerWriter
from mlflow_bundle.sql.writers.skills import SkillWriter
from mlflow_bundle.sql.writers.traces import TraceWriter
from mlflow_bundle.sql.writers.webhooks import WebhookWriter

__all__ = ["RESERVED", "Writer", "make_writers"]

RESERVED = (
    "experiment",
    "registered_model",
    "prompt",
    "run",
    "logged_model",
    "gateway_secret",
    "gateway_model_definition",
    "gateway_endpoint",
    "scorer",
    "gateway_guardrail",
    "gateway_budget",
    "issue",
    "label_schema",
    "dataset",
)
"""Kinds that others name by their ids, in the order in which they are placed."""


def make_writers(to: Target, rollups: RollupQueue) -> dict[str, Writer]:
    """Return a writer for each kind; what waits for the end is finished in this order."""
    datasets, links = DatasetRows(to), AssociationRows(to)
    writers: tuple[Writer, ...] = (
        ExperimentWriter(to, datasets),
        RunWriter(to, InputRows(to, datasets)),
        LoggedModelWriter(to),
        RegistryWriter(to, RegisteredModel.kind),
        RegistryWriter(to, Prompt.kind),
        SecretWriter(to),
        ModelDefinitionWriter(to),
        EndpointWriter(to),
        ScorerWriter(to),
        GuardrailWriter(to),
        BudgetWriter(to),
        IssueWriter(to),
        LabelSchemaWriter(to),
        DatasetWriter(to, links),
        McpServerWriter(to),
        SkillWriter(to),
        TraceWriter(to, links, rollups),
        ReviewQueueWriter(to),
        WebhookWriter(to),
    )
    return {writer.kind: writer for writer in writers}
