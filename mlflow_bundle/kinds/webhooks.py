"""Webhooks: whom a server tells of events in its registry (MLflow >= 3.3)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind


class WebhookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event that a webhook is told of, e.g. ``MODEL_VERSION`` and ``CREATED``."""

    entity: str
    action: str


class Webhook(PlainEntity, frozen=True, kw_only=True):
    """One webhook; its secret only as MLflow's database has it, and only when asked for."""

    kind: ClassVar[str] = "webhook"
    uri_fields: ClassVar[tuple[str, ...]] = ("url",)

    webhook_id: str
    name: str
    url: str
    description: str | None = None
    status: str = "ACTIVE"
    events: list[WebhookEvent] = []
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    deleted_timestamp: Int64 | UnsetType | None = UNSET
    """When it was deleted: MLflow keeps the row."""
    encrypted_secret: str | UnsetType | None = UNSET
    """Useless without the key of the server (``MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY``)."""

    @property
    def id(self) -> str:
        return self.webhook_id


WEBHOOK = Kind(record=Webhook, directory="webhooks", document="webhook.json", scope="server")
