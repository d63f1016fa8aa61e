"""Writes the gateway: secrets, models, endpoints, guardrails and budgets.

They name each other in an order that is not that of a bundle, and there are few: all are kept until
everything else was written.
"""

from __future__ import annotations

import base64
import binascii
import json
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import mask_json
from mlflow_bundle.entities import Entity, PlainEntity
from mlflow_bundle.errors import ServerError, SinkError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.gateway import (
    GatewayBudget,
    GatewayEndpoint,
    GatewayGuardrail,
    GatewayModelDefinition,
    GatewaySecret,
)
from mlflow_bundle.kinds.scorers import Scorer
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import Writer, known, null_names

_FALLBACK = "FALLBACK"
_ENDPOINT_SCOPE = "ENDPOINT"


class GatewayWriter(Writer):
    """Writes the entities of one kind of the gateway."""

    table: ClassVar[str]
    id_column: ClassVar[str]
    compared: ClassVar[tuple[str, ...]]
    unique: ClassVar[tuple[str, ...]]
    """Columns that tell which is which where the id does not."""

    prefix: ClassVar[str]
    """That MLflow's own ids begin with."""

    def __init__(self, to: Target) -> None:
        super().__init__(to)
        self._waiting: list[PlainEntity] = []
        self._matched: set[str] = set()

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, PlainEntity)
        id = self._find(entity)
        self._to.remap.place(self.kind, entity.id, id)

    def _find(self, entity: PlainEntity) -> str:
        here = self._to.row(self.table, {self.id_column: entity.id}, "workspace")
        if here is not None and here["workspace"] == self._to.workspace:
            return entity.id
        row = self._row(entity, entity.id)
        where = {"workspace": self._to.workspace, **{name: row[name] for name in self.unique}}
        for twin in self._to.rows(self.table, where, (self.id_column,)):
            id = str(twin[self.id_column])
            if id not in self._matched:
                self._matched.add(id)
                return id
        return self._to.free_id(
            self.table, self.id_column, entity.id, within=self._to.workspace, prefix=self.prefix
        )

    def write(self, content: Content, *, dry: bool) -> None:
        entity = content.entity
        assert isinstance(entity, PlainEntity)
        if dry:
            self._write(entity, dry=True)
        else:
            self._waiting.append(entity)

    def finish(self) -> None:
        waiting, self._waiting = self._waiting, []
        for entity in waiting:
            try:
                self._write(entity, dry=False)
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._to.report.lose(self.kind, entity.id, exc.message)
        self._to.batch.commit()

    def _write(self, entity: PlainEntity, *, dry: bool) -> None:
        placed = self._to.remap.find(self.kind, entity.id)
        if placed is None or placed.id == NEW:
            return
        here = self._to.row(self.table, {self.id_column: placed.id}, *self.compared)
        if here is None and dry:
            self._foresee(entity, placed.id)
            return
        with Merge(self._to, self.kind, entity.id, fresh=here is None, dry=dry) as merge:
            row = self._row(entity, placed.id)
            if here is None:
                row = self._complete(entity, row)
            else:
                here = self._shown(here)
            merge.own(self.table, row, here, key=(self.id_column,), compared=self.compared)
            self._write_below(merge, entity, placed.id)
            merge.count()

    def _common(self, entity: Any) -> Row:
        return {
            "workspace": self._to.workspace,
            "created_by": entity.created_by,
            "created_at": entity.created_at or 0,
            "last_updated_by": entity.last_updated_by,
            "last_updated_at": entity.last_updated_at or 0,
        }

    def _id(self, kind: str, id: str) -> str:
        placed = self._to.remap.find(kind, id)
        return id if placed is None else placed.id

    @abstractmethod
    def _row(self, entity: Any, id: str) -> Row:
        """Return an entity's row, with the ids of here."""

    def _complete(self, entity: Any, row: Row) -> Row:
        """Return the row of an entity that is not here.

        Raises:
            SinkError: It cannot be made.
        """
        return row

    def _foresee(self, entity: Any, id: str) -> None:
        """Tell what making an entity that is not here would tell.

        Raises:
            SinkError: It could not be made.
        """

    def _shown(self, here: Row) -> Row:
        """Return a row that is here as a bundle has it."""
        return here

    def _write_below(self, merge: Merge, entity: Any, id: str) -> None:
        """Write what belongs to an entity."""


class SecretWriter(GatewayWriter):
    """Writes secrets, whose values come encrypted, as placeholders, or not at all."""

    kind = GatewaySecret.kind
    table, id_column, prefix = "secrets", "secret_id", "s-"
    unique = ("secret_name",)
    compared = ("provider", "auth_config", "description")

    def _row(self, entity: GatewaySecret, id: str) -> Row:
        return {
            "secret_id": id,
            "secret_name": entity.secret_name,
            "provider": entity.provider,
            "auth_config": entity.auth_config,
            "description": entity.description,
            **self._common(entity),
        }

    def _foresee(self, entity: GatewaySecret, id: str) -> None:
        self._complete(entity, self._row(entity, id))

    def _shown(self, here: Row) -> Row:
        config = here["auth_config"]
        return {**here, "auth_config": None if config is None else mask_json(config)}

    def _complete(self, entity: GatewaySecret, row: Row) -> Row:
        name, report = entity.secret_name, self._to.report
        if self._to.include_secrets and entity.encrypted is not UNSET:
            secret = entity.encrypted
            if row["secret_id"] != entity.id:
                raise SinkError(
                    f"gateway secret {name!r}: its id is taken, and its values can be read under "
                    "that id only",
                    status=409,
                )
            report.note(
                f"gateway secret {name!r} can be read with the same MLFLOW_CRYPTO_KEK_PASSPHRASE "
                "only"
            )
            try:
                return {
                    **row,
                    "encrypted_value": base64.b64decode(secret.encrypted_value, validate=True),
                    "wrapped_dek": base64.b64decode(secret.wrapped_dek, validate=True),
                    "kek_version": secret.kek_version,
                    "masked_value": secret.masked_value,
                }
            except binascii.Error as exc:
                raise SinkError(
                    f"gateway secret {name!r}: its values are no base64: {exc}", status=400
                ) from exc
        if not self._to.options.placeholder_secrets:
            raise SinkError(
                f"gateway secret {name!r}: its value is not in the bundle, and the destination has "
                "no secret of this name; --placeholder-secrets makes it with a placeholder for the "
                "value",
                status=409,
            )
        report.adjust(self.kind, "value (to be set again)")
        report.note(entity.placeholder_note)
        return {**row, **_placeholder(entity, row["secret_id"])}


def _placeholder(entity: GatewaySecret, id: str) -> Row:
    """Return the columns of a secret whose values are placeholders, encrypted as MLflow does."""
    from mlflow.utils.crypto import KEKManager, _encrypt_secret, _mask_secret_value

    values = entity.placeholders
    encrypted = _encrypt_secret(
        secret_value=json.dumps(values),
        kek_manager=KEKManager(),
        secret_id=id,
        secret_name=entity.secret_name,
    )
    return {
        "encrypted_value": encrypted.encrypted_value,
        "wrapped_dek": encrypted.wrapped_dek,
        "kek_version": encrypted.kek_version,
        "masked_value": json.dumps(_mask_secret_value(values)),
    }


class ModelDefinitionWriter(GatewayWriter):
    """Writes model definitions: one whose secret is not here comes without."""

    kind = GatewayModelDefinition.kind
    table, id_column, prefix = "model_definitions", "model_definition_id", "d-"
    unique = ("name",)
    compared = ("provider", "model_name", "secret_id")

    def _row(self, entity: GatewayModelDefinition, id: str) -> Row:
        return {
            "model_definition_id": id,
            "name": entity.name,
            "secret_id": entity.secret_id and self._id(GatewaySecret.kind, entity.secret_id),
            "provider": entity.provider,
            "model_name": entity.model_name,
            **self._common(entity),
        }

    def _write(self, entity: PlainEntity, *, dry: bool) -> None:
        assert isinstance(entity, GatewayModelDefinition)
        if entity.secret_id is not None:
            id = self._id(GatewaySecret.kind, entity.secret_id)
            comes = dry and self._comes(entity.secret_id)
            if not comes and not self._to.is_here("secrets", "secret_id", id):
                self._to.report.adjust(self.kind, "secret_id (needs a secret)")
                if not dry:
                    what = f"gateway model definition {entity.name!r}"
                    self._to.report.note(f"{what}: set its secret")
                entity = msgspec.structs.replace(entity, secret_id=None)
        super()._write(entity, dry=dry)

    def _comes(self, secret_id: str) -> bool:
        """Whether an import would make a secret of the bundle."""
        makes = self._to.options.placeholder_secrets or self._to.include_secrets
        return makes and self._to.remap.find(GatewaySecret.kind, secret_id) is not None


class EndpointWriter(GatewayWriter):
    """Writes endpoints with their models, tags and bindings."""

    kind = GatewayEndpoint.kind
    table, id_column, prefix = "endpoints", "endpoint_id", "e-"
    unique = ("name",)
    compared = ("routing_strategy", "fallback_config_json", "experiment_id", "usage_tracking")

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        super().reserve(entity, dry=dry)
        assert isinstance(entity, GatewayEndpoint)
        placed = self._to.remap.find(self.kind, entity.id)
        if placed is not None:
            # Scorers name endpoints over REST.
            self._to.remap.place(f"{self.kind}_name", entity.name, placed.id)

    def _row(self, entity: GatewayEndpoint, id: str) -> Row:
        experiment: int | None = None
        if entity.experiment_id is not None:
            place = self._to.remap.find("experiment", entity.experiment_id)
            if place is not None and place.id != NEW:
                experiment = int(place.id)
        return {
            "endpoint_id": id,
            "name": entity.name,
            "routing_strategy": entity.routing_strategy,
            "fallback_config_json": self._fallback(entity),
            "experiment_id": experiment,
            "usage_tracking": entity.usage_tracking,
            **self._common(entity),
        }

    def _complete(self, entity: GatewayEndpoint, row: Row) -> Row:
        if entity.experiment_id is not None and row["experiment_id"] is None:
            self._to.report.adjust(self.kind, "experiment_id (points outside)")
        return row

    def _fallback(self, entity: GatewayEndpoint) -> str | None:
        config = entity.fallback_config
        ids: Iterable[str] = known(entity.fallback_model_ids) or [
            mapping.model_definition_id
            for mapping in entity.model_mappings
            if mapping.linkage_type == _FALLBACK
        ]
        here = [self._id(GatewayModelDefinition.kind, id) for id in ids]
        if config is None and not here:
            return None
        return json.dumps(
            {
                "strategy": config and config.strategy,
                "max_attempts": config and config.max_attempts,
                "model_definition_ids": here,
            }
        )

    def _write_below(self, merge: Merge, entity: GatewayEndpoint, id: str) -> None:
        within = {"endpoint_id": id}
        self._write_mappings(merge, entity, within)
        tags = self._to.tags_of(self.kind, entity.tags)
        merge.map("endpoint_tags", within, tags, name="tags", nulls=null_names(entity.null_fields))
        bindings: list[Row] = []
        for binding in entity.bindings:
            kind = Scorer.kind if binding.resource_type == Scorer.kind else ""
            placed = self._to.remap.find(kind, binding.resource_id) if kind else None
            if kind and placed is None:
                self._to.report.adjust(self.kind, "bindings (points outside)")
            bindings.append(
                {
                    **within,
                    "resource_type": binding.resource_type,
                    "resource_id": binding.resource_id if placed is None else placed.id,
                    "display_name": binding.display_name,
                    "created_by": binding.created_by,
                    "created_at": binding.created_at or 0,
                    "last_updated_by": binding.last_updated_by,
                    "last_updated_at": binding.last_updated_at or 0,
                }
            )
        key = ("resource_type", "resource_id")
        merge.rows("endpoint_bindings", within, bindings, key=key, name="bindings", named_by=key[1])

    def _write_mappings(self, merge: Merge, entity: GatewayEndpoint, within: Row) -> None:
        rows: list[Row] = []
        for mapping in entity.model_mappings:
            model = self._id(GatewayModelDefinition.kind, mapping.model_definition_id)
            if not self._to.is_here("model_definitions", "model_definition_id", model):
                reason = f"model definition {mapping.model_definition_id} could not be made"
                self._to.report.lose(self.kind, entity.id, reason, field="model_mappings")
                continue
            place = f"{model}/{mapping.linkage_type}/{mapping.fallback_order}"
            made = f"m-{self._to.made_id('endpoint_model_mappings', within['endpoint_id'], place)}"
            kept = mapping.mapping_id and within["endpoint_id"] == entity.id
            rows.append(
                {
                    "mapping_id": mapping.mapping_id if kept else made,
                    **within,
                    "model_definition_id": model,
                    "weight": mapping.weight,
                    "linkage_type": mapping.linkage_type,
                    "fallback_order": mapping.fallback_order,
                    "created_by": mapping.created_by,
                    "created_at": mapping.created_at or 0,
                }
            )
        merge.rows(
            "endpoint_model_mappings",
            within,
            rows,
            key=("model_definition_id", "linkage_type"),
            name="model_mappings",
            compared=("weight", "fallback_order"),
        )


class GuardrailWriter(GatewayWriter):
    """Writes guardrails, and which endpoints they guard."""

    kind = GatewayGuardrail.kind
    table, id_column, prefix = "guardrails", "guardrail_id", "gr-"
    unique = ("name", "scorer_id", "scorer_version", "stage", "action")
    compared = ("name", "action_endpoint_id")

    def _row(self, entity: GatewayGuardrail, id: str) -> Row:
        endpoint = entity.action_endpoint_id
        return {
            "guardrail_id": id,
            "name": entity.name,
            "scorer_id": self._id(Scorer.kind, entity.scorer_id),
            "scorer_version": entity.scorer_version,
            "stage": entity.stage,
            "action": entity.action,
            "action_endpoint_id": endpoint and self._id(GatewayEndpoint.kind, endpoint),
            **self._common(entity),
        }

    def _complete(self, entity: GatewayGuardrail, row: Row) -> Row:
        where = {"scorer_id": row["scorer_id"], "scorer_version": row["scorer_version"]}
        if self._to.row("scorer_versions", where, "scorer_id") is None:
            raise SinkError(
                f"gateway guardrail {entity.name!r}: version {entity.scorer_version} of scorer "
                f"{entity.scorer_id} is not here",
                status=409,
            )
        endpoint = row["action_endpoint_id"]
        if endpoint and not self._to.is_here("endpoints", "endpoint_id", endpoint):
            self._to.report.adjust(self.kind, "action_endpoint_id (points outside)")
            return {**row, "action_endpoint_id": None}
        return row

    def _write_below(self, merge: Merge, entity: GatewayGuardrail, id: str) -> None:
        rows: list[Row] = []
        for use in entity.endpoints:
            endpoint = self._id(GatewayEndpoint.kind, use.endpoint_id)
            if not self._to.is_here("endpoints", "endpoint_id", endpoint):
                reason = f"endpoint {use.endpoint_id} could not be made"
                field = f"endpoints[{use.endpoint_id}]"
                self._to.report.lose(self.kind, entity.id, reason, field=field)
                continue
            rows.append(
                {
                    "endpoint_id": endpoint,
                    "guardrail_id": id,
                    "execution_order": use.execution_order,
                    "created_by": use.created_by,
                    "created_at": use.created_at or 0,
                    "workspace": self._to.workspace,
                }
            )
        merge.rows(
            "guardrail_configs",
            {"guardrail_id": id},
            rows,
            key=("endpoint_id", "guardrail_id"),
            name="endpoints",
            compared=("execution_order",),
        )


class BudgetWriter(GatewayWriter):
    """Writes budget policies."""

    kind = GatewayBudget.kind
    table, id_column, prefix = "budget_policies", "budget_policy_id", "bp-"
    unique = ("target_scope", "target_value", "budget_unit", "duration_unit", "duration_value")
    compared = (
        "budget_unit",
        "budget_amount",
        "duration_unit",
        "duration_value",
        "target_scope",
        "target_value",
        "budget_action",
    )

    def _row(self, entity: GatewayBudget, id: str) -> Row:
        target = entity.target_value
        if target is not None and entity.target_scope == _ENDPOINT_SCOPE:
            target = self._id(GatewayEndpoint.kind, target)
        return {
            "budget_policy_id": id,
            "budget_unit": entity.budget_unit,
            "budget_amount": entity.budget_amount,
            "duration_unit": entity.duration_unit,
            "duration_value": entity.duration_value,
            "target_scope": entity.target_scope,
            "target_value": target,
            "budget_action": entity.budget_action,
            **self._common(entity),
        }

    def _write_below(self, merge: Merge, entity: GatewayBudget, id: str) -> None:
        """Let the target go with a scope that has none, where the bundle's values are taken."""
        if merge.fresh or entity.target_value is not None:
            return
        here = self._to.row(self.table, {self.id_column: id}, "target_value")
        if here is None or here["target_value"] is None:
            return
        if self._to.options.on_conflict == "update":
            merge.replace(self.table, {self.id_column: id}, {"target_value": None})
