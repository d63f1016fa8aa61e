"""Reads webhooks (MLflow >= 3.3); a server never gives their secrets."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.kinds.webhooks import WEBHOOK, Webhook, WebhookEvent
from mlflow_bundle.rest.readers.base import Chosen, Reader
from mlflow_bundle.rest.records import to_int
from mlflow_bundle.rest.session import API, Session

_PER_PAGE = 1000


class RestWebhook(msgspec.Struct, frozen=True):
    """``webhooks``: one webhook."""

    webhook_id: str
    name: str = ""
    url: str = ""
    description: str | None = None
    status: str = "ACTIVE"
    events: list[WebhookEvent] = []
    creation_timestamp: int | str | None = None
    last_updated_timestamp: int | str | None = None

    def record(self) -> Webhook:
        """The record."""
        return Webhook(
            webhook_id=self.webhook_id,
            name=self.name,
            url=self.url,
            description=self.description,
            status=self.status,
            events=sorted(self.events, key=lambda event: (event.entity, event.action)),
            creation_timestamp=to_int(self.creation_timestamp),
            last_updated_timestamp=to_int(self.last_updated_timestamp),
        )


class RestWebhooks(msgspec.Struct, frozen=True):
    """``webhooks``: a page of them."""

    webhooks: list[RestWebhook] = []
    next_page_token: str | None = None


class WebhookReader(Reader):
    """Reads webhooks."""

    kind = WEBHOOK
    first = (3, 3)
    in_files = "perhaps"  # the registry may be in a database

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if chosen.whole_server and self._from.since(*self.first):
            yield from iter_webhooks(self._from.session)


def iter_webhooks(session: Session) -> Iterator[Webhook]:
    """Yield the webhooks of a server.

    Raises:
        ServerError: The server refused.
    """
    for page in session.iter_pages(
        "GET", f"{API}webhooks", {"max_results": _PER_PAGE}, type=RestWebhooks, what="webhooks"
    ):
        for webhook in page.webhooks:
            yield webhook.record()
