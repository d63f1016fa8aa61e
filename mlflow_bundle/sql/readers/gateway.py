"""Reads the AI gateway (MLflow >= 3.8); values of secrets only when asked for, encrypted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import UNSET

from mlflow_bundle.kinds.gateway import (
    GATEWAY_BUDGET,
    GATEWAY_ENDPOINT,
    GATEWAY_GUARDRAIL,
    GATEWAY_MODEL_DEFINITION,
    GATEWAY_SECRET,
    EncryptedSecret,
    GatewayBinding,
    GatewayBudget,
    GatewayEndpoint,
    GatewayFallbackConfig,
    GatewayGuardrail,
    GatewayGuardrailUse,
    GatewayModelDefinition,
    GatewayModelMapping,
    GatewaySecret,
    binding_key,
    mapping_order,
)
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Nulls, Reader, ids_of
from mlflow_bundle.sql.rows import Row

_MADE = ("created_by", "created_at", "last_updated_by", "last_updated_at")


class _GatewayReader(Reader):
    """Reads a kind of the whole server."""

    table: str
    id_column: str

    def select(self, chosen: Chosen) -> Ids:
        return self._all(self.table, self.id_column) if chosen.whole_server else iter(())


class SecretReader(_GatewayReader):
    """Reads secrets."""

    kind = GATEWAY_SECRET.name
    table, id_column = "secrets", "secret_id"

    def read(self, wanted: Sequence[Selected]) -> Iterator[GatewaySecret]:
        columns = (
            *("secret_id", "secret_name", "masked_value", "provider", "auth_config"),
            *("description", *_MADE),
        )
        encrypted = {}
        if self._from.include_secrets:
            encrypted = self._rows.grouped(
                self.table,
                self.id_column,
                ids_of(wanted),
                ("encrypted_value", "wrapped_dek", "kek_version"),
            )
        for row in self._records(self.table, self.id_column, wanted, columns):
            id, masked = row["secret_id"], row.pop("masked_value")
            yield GatewaySecret(
                **row,
                value_names=_names(masked),
                encrypted=_encrypted(encrypted[id][0], masked) if id in encrypted else UNSET,
            )


class ModelDefinitionReader(_GatewayReader):
    """Reads model definitions."""

    kind = GATEWAY_MODEL_DEFINITION.name
    table, id_column = "model_definitions", "model_definition_id"

    def read(self, wanted: Sequence[Selected]) -> Iterator[GatewayModelDefinition]:
        columns = GatewayModelDefinition.__struct_fields__
        for row in self._records(self.table, self.id_column, wanted, columns):
            yield GatewayModelDefinition(**row)


class EndpointReader(_GatewayReader):
    """Reads endpoints with their models, tags and bindings."""

    kind = GATEWAY_ENDPOINT.name
    table, id_column = "endpoints", "endpoint_id"

    def read(self, wanted: Sequence[Selected]) -> Iterator[GatewayEndpoint]:
        ids = ids_of(wanted)
        tags = self._tags("endpoint_tags", "endpoint_id", ids)
        names = GatewayModelMapping.__struct_fields__
        mappings = self._rows.grouped("endpoint_model_mappings", "endpoint_id", ids, names)
        binding_names = GatewayBinding.__struct_fields__
        bindings = self._rows.grouped("endpoint_bindings", "endpoint_id", ids, binding_names)
        columns = (
            *("endpoint_id", "name", "routing_strategy", "fallback_config_json"),
            *("experiment_id", "usage_tracking", *_MADE),
        )
        for row in self._records(self.table, self.id_column, wanted, columns):
            id = row["endpoint_id"]
            nulls = Nulls()
            config, fallback_ids = _fallback(row["fallback_config_json"])
            experiment_id = row["experiment_id"]
            yield GatewayEndpoint(
                endpoint_id=id,
                name=nulls.text("name", row["name"]),
                routing_strategy=row["routing_strategy"],
                fallback_config=config,
                experiment_id=None if experiment_id is None else str(experiment_id),
                # Told by servers that know it; before, all usage was tracked.
                usage_tracking=row["usage_tracking"] is None or bool(row["usage_tracking"]),
                model_mappings=sorted(
                    (
                        _mapping(dict(zip(names, values, strict=True)))
                        for values in mappings.get(id, ())
                    ),
                    key=mapping_order,
                ),
                tags=nulls.tags("tags", tags.get(id, ())),
                bindings=sorted(
                    (
                        GatewayBinding(**dict(zip(binding_names, values, strict=True)))
                        for values in bindings.get(id, ())
                    ),
                    key=binding_key,
                ),
                fallback_model_ids=fallback_ids,
                null_fields=nulls.names,
                **{name: row[name] for name in _MADE},
            )


class GuardrailReader(_GatewayReader):
    """Reads guardrails with the endpoints that they guard."""

    kind = GATEWAY_GUARDRAIL.name
    table, id_column = "guardrails", "guardrail_id"

    def read(self, wanted: Sequence[Selected]) -> Iterator[GatewayGuardrail]:
        names = GatewayGuardrailUse.__struct_fields__
        uses = self._rows.grouped(
            "guardrail_configs", "guardrail_id", ids_of(wanted), names, order=("endpoint_id",)
        )
        columns = (
            *("guardrail_id", "name", "scorer_id", "scorer_version", "stage", "action"),
            *("action_endpoint_id", *_MADE),
        )
        for row in self._records(self.table, self.id_column, wanted, columns):
            yield GatewayGuardrail(
                **row,
                endpoints=[
                    GatewayGuardrailUse(**dict(zip(names, values, strict=True)))
                    for values in uses.get(row["guardrail_id"], ())
                ],
            )


class BudgetReader(_GatewayReader):
    """Reads budget policies; what was spent lies in the server's memory."""

    kind = GATEWAY_BUDGET.name
    table, id_column = "budget_policies", "budget_policy_id"

    def read(self, wanted: Sequence[Selected]) -> Iterator[GatewayBudget]:
        columns = GatewayBudget.__struct_fields__
        for row in self._records(self.table, self.id_column, wanted, columns):
            yield GatewayBudget(**row)


def _names(masked: str | None) -> list[str]:
    """Names of the values of a secret, which MLflow keeps masked as JSON."""
    try:
        values = json.loads(masked or "")
    except ValueError:
        return ["value"]  # as servers tell it
    return sorted(values) if isinstance(values, dict) else ["value"]


def _encrypted(row: Row, masked: str) -> EncryptedSecret:
    value, key, version = row
    return EncryptedSecret(
        encrypted_value=base64.b64encode(value).decode(),
        wrapped_dek=base64.b64encode(key).decode(),
        kek_version=version,
        masked_value=masked,
    )


def _mapping(row: dict[str, Any]) -> GatewayModelMapping:
    return GatewayModelMapping(**row | {"linkage_type": row["linkage_type"] or "PRIMARY"})


def _fallback(text: str | None) -> tuple[GatewayFallbackConfig | None, Any]:
    """Return the configuration that a text holds, and the model definitions beside it."""
    try:
        config = json.loads(text or "")
    except ValueError:
        return None, UNSET
    if not isinstance(config, dict):
        return None, UNSET
    return (
        GatewayFallbackConfig(
            strategy=config.get("strategy"), max_attempts=config.get("max_attempts")
        ),
        config.get("model_definition_ids", UNSET),
    )
