"""Reads webhooks (MLflow >= 3.3), those that were deleted too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from mlflow_bundle.kinds.webhooks import WEBHOOK, Webhook, WebhookEvent
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Reader, ids_of

_COLUMNS = (
    "webhook_id",
    "name",
    "url",
    "description",
    "status",
    "creation_timestamp",
    "last_updated_timestamp",
    "deleted_timestamp",
)


class WebhookReader(Reader):
    """Reads webhooks."""

    kind = WEBHOOK.name

    def select(self, chosen: Chosen) -> Ids:
        return self._all("webhooks", "webhook_id") if chosen.whole_server else iter(())

    def read(self, wanted: Sequence[Selected]) -> Iterator[Webhook]:
        ids = ids_of(wanted)
        events = self._rows.grouped("webhook_events", "webhook_id", ids, ("entity", "action"))
        secrets = {}
        if self._from.include_secrets:
            secrets = self._rows.grouped("webhooks", "webhook_id", ids, ("secret",))
        for row in self._records("webhooks", "webhook_id", wanted, _COLUMNS):
            id = row["webhook_id"]
            yield Webhook(
                **row,
                events=[
                    WebhookEvent(entity=entity.upper(), action=action.upper())
                    for entity, action in sorted(events.get(id, ()))
                ],
                encrypted_secret=secrets[id][0][0] if id in secrets else UNSET,
            )
