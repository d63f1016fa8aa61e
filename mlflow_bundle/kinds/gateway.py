"""The AI gateway: secrets without their values, models, endpoints, budgets (MLflow >= 3.8)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind

_PLACEHOLDER = "placeholder-set-this-secret-again"
_USUAL_VALUE = "api_key"


class EncryptedSecret(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a secret as MLflow keeps them: useless without the passphrase of the server."""

    encrypted_value: str
    """Base64; bound to id and name of the secret."""
    wrapped_dek: str
    """Base64: the key of the values, encrypted with the passphrase."""
    kek_version: Int64
    masked_value: str
    """JSON text: the values as MLflow shows them."""


class GatewaySecret(PlainEntity, frozen=True, kw_only=True):
    """A secret that models are asked with: everything but its values, unless asked for."""

    kind: ClassVar[str] = "gateway_secret"
    json_fields: ClassVar[tuple[str, ...]] = ("auth_config",)

    secret_id: str
    secret_name: str
    value_names: list[str] = []
    """Names of its values, e.g. ``api_key``; sorted."""
    provider: str | None = None
    auth_config: str | None = None
    """JSON text: what else the provider needs, e.g. a region."""
    description: str | None = None
    """Not shown over REST."""
    created_by: str | None = None
    created_at: Int64 | None = None
    last_updated_by: str | None = None
    last_updated_at: Int64 | None = None
    encrypted: EncryptedSecret | UnsetType = UNSET

    @property
    def id(self) -> str:
        return self.secret_id

    @property
    def placeholders(self) -> dict[str, str]:
        """What stands for the values of one that is made without them."""
        return dict.fromkeys(self.value_names or [_USUAL_VALUE], _PLACEHOLDER)

    @property
    def placeholder_note(self) -> str:
        """What the user is told of it then."""
        return f"gateway secret {self.secret_name!r} holds a placeholder: set its value again"


class GatewayModelDefinition(PlainEntity, frozen=True, kw_only=True):
    """A provider's model, with the secret that it is asked with."""

    kind: ClassVar[str] = "gateway_model_definition"

    model_definition_id: str
    name: str
    secret_id: str | None = None
    """Null once its secret was deleted."""
    provider: str = ""
    model_name: str = ""
    created_by: str | None = None
    created_at: Int64 | None = None
    last_updated_by: str | None = None
    last_updated_at: Int64 | None = None

    @property
    def id(self) -> str:
        return self.model_definition_id


class GatewayModelMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind an endpoint."""

    mapping_id: str = ""
    model_definition_id: str
    weight: float = 1.0
    linkage_type: str = "PRIMARY"
    fallback_order: Int64 | None = None
    created_by: str | None = None
    created_at: Int64 | None = None


class GatewayFallbackConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint does when a model fails."""

    strategy: str | None = None
    max_attempts: Int64 | None = None


class GatewayBinding(msgspec.Struct, frozen=True, kw_only=True):
    """What asks an endpoint, e.g. a scorer by its id."""

    resource_type: str
    resource_id: str
    display_name: str | None = None
    created_by: str | None = None
    created_at: Int64 | None = None
    last_updated_by: str | None = None
    last_updated_at: Int64 | None = None


class GatewayEndpoint(PlainEntity, frozen=True, kw_only=True):
    """An endpoint with its models, tags and bindings."""

    kind: ClassVar[str] = "gateway_endpoint"

    endpoint_id: str
    name: str
    routing_strategy: str | None = None
    fallback_config: GatewayFallbackConfig | None = None
    experiment_id: str | None = None
    """Where its traces go."""
    usage_tracking: bool = True
    model_mappings: list[GatewayModelMapping] = []
    tags: dict[str, str] = {}
    bindings: list[GatewayBinding] = []
    created_by: str | None = None
    created_at: Int64 | None = None
    last_updated_by: str | None = None
    last_updated_at: Int64 | None = None
    fallback_model_ids: list[str] | UnsetType = UNSET
    """Model definitions that MLflow's table lists beside ``fallback_config``."""
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""

    @property
    def id(self) -> str:
        return self.endpoint_id

    @property
    def parent(self) -> str:
        """It lies in no experiment, though it names one."""
        return ""


class GatewayGuardrailUse(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that a guardrail guards."""

    endpoint_id: str
    execution_order: Int64 | None = None
    created_by: str | None = None
    created_at: Int64 | None = None


class GatewayGuardrail(PlainEntity, frozen=True, kw_only=True):
    """A scorer that judges requests or answers of endpoints."""

    kind: ClassVar[str] = "gateway_guardrail"

    guardrail_id: str
    name: str
    scorer_id: str
    scorer_version: Int64
    stage: str = ""
    action: str = ""
    action_endpoint_id: str | None = None
    endpoints: list[GatewayGuardrailUse] = []
    created_by: str | None = None
    created_at: Int64 | None = None
    last_updated_by: str | None = None
    last_updated_at: Int64 | None = None

    @property
    def id(self) -> str:
        return self.guardrail_id


class GatewayBudget(PlainEntity, frozen=True, kw_only=True):
    """A limit of spending."""

    kind: ClassVar[str] = "gateway_budget"

    budget_policy_id: str
    budget_unit: str
    budget_amount: float
    duration_unit: str
    duration_value: Int64
    target_scope: str
    target_value: str | None = None
    """Endpoint id where the scope is ``ENDPOINT``, user where it is ``USER``."""
    budget_action: str
    created_by: str | None = None
    created_at: Int64 | None = None
    last_updated_by: str | None = None
    last_updated_at: Int64 | None = None

    @property
    def id(self) -> str:
        return self.budget_policy_id


def mapping_order(mapping: GatewayModelMapping) -> tuple[bool, int, str]:
    """Sort key: primary models first, then the others as they are tried."""
    return (
        mapping.linkage_type != "PRIMARY",
        mapping.fallback_order or 0,
        mapping.model_definition_id,
    )


def binding_key(binding: GatewayBinding) -> tuple[str, str]:
    """What tells the bindings of an endpoint apart."""
    return binding.resource_type, binding.resource_id


GATEWAY_SECRET = Kind(
    record=GatewaySecret, directory="gateway/secrets", document="secret.json", scope="server"
)
GATEWAY_MODEL_DEFINITION = Kind(
    record=GatewayModelDefinition,
    directory="gateway/model_definitions",
    document="model_definition.json",
    scope="server",
)
GATEWAY_ENDPOINT = Kind(
    record=GatewayEndpoint, directory="gateway/endpoints", document="endpoint.json", scope="server"
)
GATEWAY_GUARDRAIL = Kind(
    record=GatewayGuardrail,
    directory="gateway/guardrails",
    document="guardrail.json",
    scope="server",
)
GATEWAY_BUDGET = Kind(
    record=GatewayBudget, directory="gateway/budgets", document="budget.json", scope="server"
)

GATEWAY_KINDS = (
    GATEWAY_SECRET,
    GATEWAY_MODEL_DEFINITION,
    GATEWAY_ENDPOINT,
    GATEWAY_GUARDRAIL,
    GATEWAY_BUDGET,
)
"""In the order in which they refer to each other."""
