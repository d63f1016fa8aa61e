"""The kinds of plain entities: one module for each family, one table of all.

``KINDS`` is what sources, sinks, the layout and `verify` go by: a kind that stands here lies in
bundles, is listed, checked, extracted and packed. How a server is read and written is
`rest/readers` and `rest/writers`.
"""

from __future__ import annotations

from mlflow_bundle.entities import RECORDS as _CORE_RECORDS
from mlflow_bundle.entities import Entity, PlainEntity
from mlflow_bundle.kinds.auth import AUTH_KINDS
from mlflow_bundle.kinds.base import Kind, NoItem, Scope, is_hidden
from mlflow_bundle.kinds.datasets import DATASET
from mlflow_bundle.kinds.gateway import GATEWAY_KINDS
from mlflow_bundle.kinds.issues import ISSUE
from mlflow_bundle.kinds.mcp_servers import MCP_SERVER
from mlflow_bundle.kinds.reviews import LABEL_SCHEMA, REVIEW_QUEUE
from mlflow_bundle.kinds.scorers import SCORER
from mlflow_bundle.kinds.skills import SKILL
from mlflow_bundle.kinds.traces import TRACE
from mlflow_bundle.kinds.webhooks import WEBHOOK
from mlflow_bundle.kinds.workspaces import WORKSPACE

__all__ = [
    "ALL_KINDS",
    "APART",
    "KINDS",
    "NEWEST_MLFLOW",
    "RECORDS",
    "SCOPES",
    "Kind",
    "NoItem",
    "PlainEntity",
    "Scope",
    "is_hidden",
    "kinds_of",
]

NEWEST_MLFLOW = (3, 18)
"""Newest minor version of MLflow all of whose kinds are here."""

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *GATEWAY_KINDS,
        ISSUE,
        SCORER,
        LABEL_SCHEMA,
        REVIEW_QUEUE,
        DATASET,
        MCP_SERVER,
        SKILL,
        TRACE,
        WEBHOOK,
        *AUTH_KINDS,
        WORKSPACE,
    )
}
"""Name to description of every kind of plain entity."""

RECORDS: dict[str, type[Entity]] = {
    **_CORE_RECORDS,
    **{name: kind.record for name, kind in KINDS.items()},
}
"""Name to record type of every kind."""

ALL_KINDS = tuple(RECORDS)

APART = frozenset(name for name, kind in KINDS.items() if kind.apart)
"""Kinds that a source shows, and a sink takes, only where ``--auth-db`` was given."""

SCOPES: tuple[Scope, ...] = ("experiment", "server", "bundle")


def kinds_of(scope: Scope) -> list[Kind]:
    """Return the kinds whose entities lie where ``scope`` says."""
    return [kind for kind in KINDS.values() if kind.scope == scope]
