"""Writes webhooks, last of all: an import would set off those it has just made.

They have no tags, so name and URL tell which is which. Their secrets never travel: the report names
each webhook whose secret is to be set again.
"""

from __future__ import annotations

import threading
from typing import Any

from msgspec.structs import replace

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import MASK, mask_uri
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError, UnsupportedEntityError
from mlflow_bundle.kinds.webhooks import Webhook, WebhookEvent
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.webhooks import iter_webhooks
from mlflow_bundle.rest.session import API
from mlflow_bundle.rest.writers.base import Writer
from mlflow_bundle.rest.writers.twins import match

_UNSETTABLE = ("webhook_id", "creation_timestamp", "last_updated_timestamp")
_UPDATABLE = ("description", "status", "events")

_SINCE = {"BUDGET_POLICY": (3, 11)}
"""Entities of events that came later than webhooks, and with which MLflow."""

_Key = tuple[str, str]


class WebhookWriter(Writer):
    """Writes webhooks when everything else is there."""

    kind = Webhook.kind
    reserves = True

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._bundle: dict[str, Webhook] = {}
        self._matched: dict[str, Webhook] | None = None
        self._waiting: list[Webhook] = []
        self._lock = threading.Lock()

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        # Nobody refers to webhooks: all are collected, as only together they can be told apart.
        with self._lock:
            webhook = _webhook(entity)
            self._bundle[entity.id] = replace(webhook, events=self._known(webhook))
            self._matched = None

    def examine(self, content: Content) -> None:
        webhook = self._holdable(_webhook(content.entity))
        here = self._here(webhook)
        if here is not None:
            self._to.report.found(Webhook.kind)
            self._changes(webhook, here)

    def put(self, content: Content) -> None:
        with self._lock:
            self._waiting.append(_webhook(content.entity))

    def complete(self) -> None:
        for webhook in sorted(self._waiting, key=lambda waiting: waiting.id):
            try:
                self._write(self._holdable(webhook))
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._to.report.lose(Webhook.kind, webhook.id, exc.message)

    def _known(self, webhook: Webhook) -> list[WebhookEvent]:
        """Events of a webhook that the server knows."""
        return [e for e in webhook.events if self._to.since(*_SINCE.get(e.entity, (3, 3)))]

    def _holdable(self, webhook: Webhook) -> Webhook:
        """Return a webhook with the events that the server knows; the others are losses.

        Raises:
            UnsupportedEntityError: It knows none of them.
        """
        events = self._known(webhook)
        lost = [event for event in webhook.events if event not in events]
        if not lost or not self._to.since(3, 3):
            return webhook
        reason = f"the server does not know the event {_shown(lost)}"
        if not events:
            raise UnsupportedEntityError(f"webhook {webhook.name!r}: {reason}", status=404)
        self._to.report.lose(Webhook.kind, webhook.id, reason, field="events")
        return replace(webhook, events=events)

    def _here(self, webhook: Webhook) -> Webhook | None:
        """Return the webhook here that this one is."""
        if not self._to.since(3, 3):
            raise UnsupportedEntityError(
                f"webhook {webhook.name!r}: the server has no webhooks (they came with MLflow 3.3)",
                status=404,
            )
        with self._lock:
            if self._matched is None:
                self._matched = match(
                    self._bundle.values(),
                    iter_webhooks(self._to.session),
                    key=_key,
                    state=_state,
                )
            return self._matched.get(webhook.id)

    def _write(self, webhook: Webhook) -> None:
        here = self._here(webhook)
        if here is None:
            self._create(webhook)
            self._to.report.did(Webhook.kind)
            return
        changes = self._changes(webhook, here)
        if not changes:
            self._to.report.found(Webhook.kind)
            return
        self._to.session.call(
            "PATCH",
            f"{API}webhooks/{here.webhook_id}",
            json_body=changes,
            what=f"webhook {webhook.name!r}",
        )
        self._to.report.did(Webhook.kind)

    def _create(self, webhook: Webhook) -> None:
        body: dict[str, Any] = {
            "name": webhook.name,
            "url": webhook.url,
            "events": webhook.events,
            "status": webhook.status,
        }
        if webhook.description is not None:
            body["description"] = webhook.description
        self._to.session.post(
            f"{API}webhooks", body, what=f"webhook {webhook.name!r} ({webhook.id})", once=True
        )
        report = self._to.report
        for name in _UNSETTABLE:
            report.adjust(Webhook.kind, name)
        report.adjust(Webhook.kind, "secret (to be set again)")
        report.note(
            f"webhook {webhook.name!r} ({webhook.url}): set its secret again, if it had one"
        )
        if MASK in webhook.url:
            report.note(f"webhook {webhook.name!r} ({webhook.url}): set its URL again")

    def _changes(self, webhook: Webhook, here: Webhook) -> dict[str, Any]:
        """Fields of the bundle's webhook that are to be written."""
        return {
            name: getattr(webhook, name)
            for name in _UPDATABLE
            if getattr(webhook, name) is not None
            and getattr(webhook, name) != getattr(here, name)
            and self._to.differs(
                Webhook.kind,
                webhook.id,
                name,
                here=_shown(getattr(here, name)),
                bundle=_shown(getattr(webhook, name)),
            )
        }


def _webhook(entity: object) -> Webhook:
    assert isinstance(entity, Webhook)
    return entity


def _shown(value: Any) -> object:
    if isinstance(value, list):
        return " ".join(f"{event.entity}.{event.action}" for event in value)
    return value


def _state(webhook: Webhook) -> tuple[object, ...]:
    return tuple(getattr(webhook, name) for name in _UPDATABLE)


def _key(webhook: Webhook) -> _Key:
    # A bundle holds the URL without its credentials.
    return webhook.name, mask_uri(webhook.url)
