"""Reads the AI gateway (MLflow >= 3.8; budgets 3.11, guardrails 3.12); never a secret's value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.kinds.gateway import (
    GATEWAY_BUDGET,
    GATEWAY_ENDPOINT,
    GATEWAY_GUARDRAIL,
    GATEWAY_MODEL_DEFINITION,
    GATEWAY_SECRET,
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
from mlflow_bundle.rest.readers.base import Chosen, Reader
from mlflow_bundle.rest.session import API_3, Session

GATEWAY = f"{API_3}gateway/"
SINCE = (3, 8)
SINCE_BUDGETS = (3, 11)
SINCE_GUARDRAILS = (3, 12)
_PER_PAGE = 1000


class RestSecret(msgspec.Struct, frozen=True):
    """``gateway/secrets``: one secret, its values masked by the server."""

    secret_id: str
    secret_name: str
    masked_values: dict[str, str] = {}
    provider: str | None = None
    auth_config: msgspec.Raw = msgspec.Raw(b"{}")
    created_by: str | None = None
    created_at: int | None = None
    last_updated_by: str | None = None
    last_updated_at: int | None = None

    def record(self) -> GatewaySecret:
        """The record: of the values, which the server masks only in part, the names alone."""
        auth_config = bytes(self.auth_config).decode()
        return GatewaySecret(
            secret_id=self.secret_id,
            secret_name=self.secret_name,
            value_names=sorted(self.masked_values),
            provider=self.provider or None,
            auth_config=None if auth_config in ("{}", "null") else auth_config,
            **_made(self),
        )


class RestSecrets(msgspec.Struct, frozen=True):
    """``gateway/secrets/list``."""

    secrets: list[RestSecret] = []


class RestModelDefinition(msgspec.Struct, frozen=True):
    """``gateway/model-definitions``: one of them."""

    model_definition_id: str
    name: str
    secret_id: str = ""
    provider: str = ""
    model_name: str = ""
    created_by: str | None = None
    created_at: int | None = None
    last_updated_by: str | None = None
    last_updated_at: int | None = None

    def record(self) -> GatewayModelDefinition:
        """The record."""
        return GatewayModelDefinition(
            model_definition_id=self.model_definition_id,
            name=self.name,
            secret_id=self.secret_id or None,
            provider=self.provider,
            model_name=self.model_name,
            **_made(self),
        )


class RestModelDefinitions(msgspec.Struct, frozen=True):
    """``gateway/model-definitions/list``."""

    model_definitions: list[RestModelDefinition] = []


class RestMapping(msgspec.Struct, frozen=True):
    """A model behind an endpoint."""

    model_definition_id: str
    mapping_id: str = ""
    weight: float = 1.0
    linkage_type: str = "PRIMARY"
    fallback_order: int | None = None
    created_by: str | None = None
    created_at: int | None = None


class RestTag(msgspec.Struct, frozen=True):
    """A tag of an endpoint."""

    key: str
    value: str = ""


class RestEndpoint(msgspec.Struct, frozen=True):
    """``gateway/endpoints``: one endpoint."""

    endpoint_id: str
    name: str = ""
    routing_strategy: str | None = None
    fallback_config: GatewayFallbackConfig | None = None
    experiment_id: str | None = None
    usage_tracking: bool = False
    model_mappings: list[RestMapping] = []
    tags: list[RestTag] = []
    created_by: str | None = None
    created_at: int | None = None
    last_updated_by: str | None = None
    last_updated_at: int | None = None

    def record(self, bindings: list[GatewayBinding]) -> GatewayEndpoint:
        """The record."""
        mappings = [
            GatewayModelMapping(
                mapping_id=mapping.mapping_id,
                model_definition_id=mapping.model_definition_id,
                weight=mapping.weight,
                linkage_type=mapping.linkage_type,
                fallback_order=mapping.fallback_order,
                created_by=mapping.created_by or None,
                created_at=mapping.created_at,
            )
            for mapping in self.model_mappings
        ]
        return GatewayEndpoint(
            endpoint_id=self.endpoint_id,
            name=self.name,
            routing_strategy=self.routing_strategy or None,
            fallback_config=self.fallback_config,
            experiment_id=self.experiment_id or None,
            usage_tracking=self.usage_tracking,
            model_mappings=sorted(mappings, key=mapping_order),
            tags={tag.key: tag.value for tag in self.tags},
            bindings=bindings,
            **_made(self),
        )


class RestEndpoints(msgspec.Struct, frozen=True):
    """``gateway/endpoints/list``."""

    endpoints: list[RestEndpoint] = []


class RestBinding(msgspec.Struct, frozen=True):
    """``gateway/endpoints/bindings``: one binding."""

    endpoint_id: str
    resource_type: str
    resource_id: str
    display_name: str | None = None
    created_by: str | None = None
    created_at: int | None = None
    last_updated_by: str | None = None
    last_updated_at: int | None = None

    def record(self) -> GatewayBinding:
        """The record."""
        return GatewayBinding(
            resource_type=self.resource_type,
            resource_id=self.resource_id,
            display_name=self.display_name,
            **_made(self),
        )


class RestBindings(msgspec.Struct, frozen=True):
    """``gateway/endpoints/bindings/list``."""

    bindings: list[RestBinding] = []


class RestScorerOfGuardrail(msgspec.Struct, frozen=True):
    """The scorer of a guardrail."""

    scorer_id: str
    scorer_version: int


class RestGuardrail(msgspec.Struct, frozen=True):
    """``gateway/guardrails``: one guardrail."""

    guardrail_id: str
    name: str
    scorer: RestScorerOfGuardrail
    stage: str = ""
    action: str = ""
    action_endpoint_id: str = ""
    """The endpoint's name: 3.17.2 shows that in the place of its id."""
    created_by: str | None = None
    created_at: int | None = None
    last_updated_by: str | None = None
    last_updated_at: int | None = None

    def record(
        self, endpoint_ids: dict[str, str], uses: list[GatewayGuardrailUse]
    ) -> GatewayGuardrail:
        """The record.

        Args:
            endpoint_ids: Endpoint name to id.
            uses: The endpoints that it guards.
        """
        endpoint = self.action_endpoint_id
        return GatewayGuardrail(
            guardrail_id=self.guardrail_id,
            name=self.name,
            scorer_id=self.scorer.scorer_id,
            scorer_version=self.scorer.scorer_version,
            stage=self.stage,
            action=self.action,
            action_endpoint_id=endpoint_ids.get(endpoint, endpoint) or None,
            endpoints=sorted(uses, key=lambda use: use.endpoint_id),
            **_made(self),
        )


class RestGuardrails(msgspec.Struct, frozen=True):
    """``gateway/guardrails/list``."""

    guardrails: list[RestGuardrail] = []
    next_page_token: str | None = None


class RestGuardrailUse(msgspec.Struct, frozen=True):
    """``gateway/guardrails/list-for-endpoint``: one guardrail there."""

    guardrail_id: str
    endpoint_id: str
    execution_order: int | None = None
    created_by: str | None = None
    created_at: int | None = None


class RestGuardrailUses(msgspec.Struct, frozen=True):
    """``gateway/guardrails/list-for-endpoint``."""

    configs: list[RestGuardrailUse] = []


class RestDuration(msgspec.Struct, frozen=True):
    """How long a budget lasts."""

    unit: str
    value: int


class RestBudget(msgspec.Struct, frozen=True):
    """``gateway/budgets``: one policy."""

    budget_policy_id: str
    budget_unit: str
    budget_amount: float
    duration: RestDuration
    target_scope: str
    budget_action: str
    target_value: str | None = None
    created_by: str | None = None
    created_at: int | None = None
    last_updated_by: str | None = None
    last_updated_at: int | None = None

    def record(self) -> GatewayBudget:
        """The record."""
        return GatewayBudget(
            budget_policy_id=self.budget_policy_id,
            budget_unit=self.budget_unit,
            budget_amount=self.budget_amount,
            duration_unit=self.duration.unit,
            duration_value=self.duration.value,
            target_scope=self.target_scope,
            target_value=self.target_value or None,
            budget_action=self.budget_action,
            **_made(self),
        )


class RestBudgets(msgspec.Struct, frozen=True):
    """``gateway/budgets/list``."""

    budget_policies: list[RestBudget] = []
    next_page_token: str | None = None


class SecretReader(Reader):
    """Reads secrets without their values."""

    kind = GATEWAY_SECRET
    first = SINCE

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if chosen.whole_server and self._from.since(*self.first):
            for secret in list_secrets(self._from.session):
                yield secret.record()


class ModelDefinitionReader(Reader):
    """Reads model definitions."""

    kind = GATEWAY_MODEL_DEFINITION
    first = SINCE

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if chosen.whole_server and self._from.since(*self.first):
            yield from list_model_definitions(self._from.session)


class EndpointReader(Reader):
    """Reads endpoints; one without any model is not shown."""

    kind = GATEWAY_ENDPOINT
    first = SINCE

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if chosen.whole_server and self._from.since(*self.first):
            yield from list_endpoints(self._from.session)


class GuardrailReader(Reader):
    """Reads guardrails with the endpoints that they guard."""

    kind = GATEWAY_GUARDRAIL
    first = SINCE_GUARDRAILS

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if chosen.whole_server and self._from.since(*self.first):
            yield from list_guardrails(self._from.session)


class BudgetReader(Reader):
    """Reads budget policies; what was spent lies in the server's memory."""

    kind = GATEWAY_BUDGET
    first = SINCE_BUDGETS

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if chosen.whole_server and self._from.since(*self.first):
            yield from list_budgets(self._from.session)


def list_secrets(session: Session) -> list[RestSecret]:
    """Return the secrets as the server shows them."""
    answer: RestSecrets = session.get(
        f"{GATEWAY}secrets/list", type=RestSecrets, what="gateway secrets"
    )
    return answer.secrets


def list_model_definitions(session: Session) -> list[GatewayModelDefinition]:
    """Return the model definitions."""
    answer: RestModelDefinitions = session.get(
        f"{GATEWAY}model-definitions/list",
        type=RestModelDefinitions,
        what="gateway model definitions",
    )
    return [definition.record() for definition in answer.model_definitions]


def list_endpoints(session: Session) -> list[GatewayEndpoint]:
    """Return the endpoints with their bindings."""
    answer: RestEndpoints = session.get(
        f"{GATEWAY}endpoints/list", type=RestEndpoints, what="gateway endpoints"
    )
    if not answer.endpoints:
        return []
    bound: RestBindings = session.get(
        f"{GATEWAY}endpoints/bindings/list", type=RestBindings, what="gateway bindings"
    )
    bindings: dict[str, list[GatewayBinding]] = {}
    for binding in bound.bindings:
        bindings.setdefault(binding.endpoint_id, []).append(binding.record())
    return [
        endpoint.record(sorted(bindings.get(endpoint.endpoint_id, []), key=binding_key))
        for endpoint in answer.endpoints
    ]


def list_guardrails(session: Session) -> list[GatewayGuardrail]:
    """Return the guardrails with the endpoints that they guard."""
    query = {"max_results": _PER_PAGE}
    pages = session.iter_pages(
        "GET", f"{GATEWAY}guardrails/list", query, type=RestGuardrails, what="gateway guardrails"
    )
    found: list[RestGuardrail] = [guardrail for page in pages for guardrail in page.guardrails]
    if not found:
        return []
    endpoint_ids: dict[str, str] = {}
    uses: dict[str, list[GatewayGuardrailUse]] = {}
    for endpoint in list_endpoints(session):
        endpoint_ids[endpoint.name] = endpoint.id
        answer: RestGuardrailUses = session.get(
            f"{GATEWAY}guardrails/list-for-endpoint",
            params={"endpoint_id": endpoint.id},
            type=RestGuardrailUses,
            what=f"guardrails of gateway endpoint {endpoint.name!r}",
        )
        for config in answer.configs:
            use = GatewayGuardrailUse(
                endpoint_id=config.endpoint_id,
                execution_order=config.execution_order,
                created_by=config.created_by or None,
                created_at=config.created_at,
            )
            uses.setdefault(config.guardrail_id, []).append(use)
    return [
        guardrail.record(endpoint_ids, uses.get(guardrail.guardrail_id, [])) for guardrail in found
    ]


def list_budgets(session: Session) -> list[GatewayBudget]:
    """Return the budget policies."""
    query = {"max_results": _PER_PAGE}
    pages = session.iter_pages(
        "GET", f"{GATEWAY}budgets/list", query, type=RestBudgets, what="gateway budgets"
    )
    return [budget.record() for page in pages for budget in page.budget_policies]


def _made(row: Any) -> dict[str, Any]:
    """Who made an object and when; nobody is null, though some servers say the empty name."""
    return {
        "created_by": row.created_by or None,
        "created_at": row.created_at,
        "last_updated_by": row.last_updated_by or None,
        "last_updated_at": row.last_updated_at,
    }
