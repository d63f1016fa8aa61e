"""Writes webhooks; their secrets only where they were asked for, as they are."""

from __future__ import annotations

from msgspec import UNSET

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import MASK, mask_uri
from mlflow_bundle.kinds.webhooks import Webhook
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import Writer, known

_TABLE = "webhooks"
_COMPARED = ("name", "description", "url", "status", "deleted_timestamp")


class WebhookWriter(Writer):
    """Writes webhooks: they have no tags, so name and URL tell which is which."""

    kind = Webhook.kind

    def __init__(self, to: Target) -> None:
        super().__init__(to)
        self._matched: set[str] = set()

    def _find(self, webhook: Webhook) -> str | None:
        """Return the id of the webhook that is here."""
        workspace = self._to.workspace
        other = self._to.other_id(_TABLE, webhook.id, within=workspace, short=False)
        for own in (webhook.id, other):
            here = self._to.row(_TABLE, {"webhook_id": own}, "workspace")
            if here is not None and here["workspace"] == workspace:
                return own
        where = {"workspace": workspace, "name": webhook.name}
        for row in self._to.rows(_TABLE, where, ("webhook_id", "url", "deleted_timestamp")):
            id = str(row["webhook_id"])
            # One that was deleted is not the one that took its place.
            is_alive = row["deleted_timestamp"] is None and not known(webhook.deleted_timestamp)
            same = is_alive and mask_uri(row["url"]) == webhook.url
            if same and id not in self._matched:
                self._matched.add(id)
                return id
        return None

    def write(self, content: Content, *, dry: bool) -> None:
        webhook = content.entity
        assert isinstance(webhook, Webhook)
        id = self._find(webhook)
        if id is None and dry:
            return
        here = None
        if id is not None:
            here = self._to.row(_TABLE, {"webhook_id": id}, *_COMPARED)
            if here is not None and mask_uri(here["url"]) == mask_uri(webhook.url):
                here = {**here, "url": webhook.url}
        else:
            id = self._to.free_id(
                _TABLE, "webhook_id", webhook.id, within=self._to.workspace, short=False
            )
            self._note(webhook)
        with Merge(self._to, self.kind, webhook.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                "workspace": self._to.workspace,
                "webhook_id": id,
                "name": webhook.name,
                "description": webhook.description,
                "url": webhook.url,
                "status": webhook.status,
                "secret": known(webhook.encrypted_secret) if self._to.include_secrets else None,
                "creation_timestamp": webhook.creation_timestamp,
                "last_updated_timestamp": webhook.last_updated_timestamp,
                "deleted_timestamp": known(webhook.deleted_timestamp),
            }
            merge.own(_TABLE, row, here, key=("webhook_id",), compared=_COMPARED)
            if here is not None and here["url"] != webhook.url and self._takes_masked(webhook):
                self._note_url(webhook)
            events: list[Row] = [
                {
                    "webhook_id": id,
                    # REST has the names, the table the values of the same enumerations.
                    "entity": event.entity.lower(),
                    "action": event.action.lower(),
                }
                for event in webhook.events
            ]
            merge.rows(
                "webhook_events",
                {"webhook_id": id},
                events,
                key=("entity", "action"),
                name="events",
            )
            merge.count()

    def _note(self, webhook: Webhook) -> None:
        report = self._to.report
        what = f"webhook {webhook.name!r} ({webhook.url})"
        if not self._to.include_secrets or webhook.encrypted_secret is UNSET:
            report.adjust(self.kind, "secret (to be set again)")
            report.note(f"{what}: set its secret again, if it had one")
        elif webhook.encrypted_secret is not None:
            report.note(
                f"{what}: its secret can be read with the same "
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY only"
            )
        if MASK in webhook.url:
            self._note_url(webhook)

    def _takes_masked(self, webhook: Webhook) -> bool:
        """Whether a URL that the bundle has masked goes where another one is."""
        return MASK in webhook.url and self._to.options.on_conflict == "update"

    def _note_url(self, webhook: Webhook) -> None:
        self._to.report.note(f"webhook {webhook.name!r} ({webhook.url}): set its URL again")
