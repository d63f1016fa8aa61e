"""Writes the gateway's guardrails and budgets: neither has a name that is unique."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from msgspec.structs import replace

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError, SinkError
from mlflow_bundle.kinds.gateway import (
    GatewayBudget,
    GatewayEndpoint,
    GatewayGuardrail,
    GatewayGuardrailUse,
)
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.gateway import (
    GATEWAY,
    SINCE_BUDGETS,
    SINCE_GUARDRAILS,
    list_budgets,
    list_guardrails,
)
from mlflow_bundle.rest.writers.base import Writer
from mlflow_bundle.rest.writers.gateway import require_gateway
from mlflow_bundle.rest.writers.twins import match

EntityT = TypeVar("EntityT", GatewayGuardrail, GatewayBudget)

_SCORER = "scorer"


class _PolicyWriter(Writer, Generic[EntityT]):
    """Writes entities that only together can be told apart: all are collected before any is put."""

    reserves = True
    since: ClassVar[tuple[int, int]]

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._bundle: dict[str, EntityT] = {}
        self._matched: dict[str, EntityT] | None = None
        self._lock = threading.Lock()

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        with self._lock:
            self._bundle[entity.id] = entity  # type: ignore[assignment]
            # What a dry look matched was without the ids of what is made now.
            self._matched = None

    def _here(self, entity: EntityT) -> EntityT | None:
        """Return what the entity is here."""
        require_gateway(self._to, self._what(entity), self.since)
        with self._lock:
            if self._matched is None:
                self._matched = match(
                    [self._moved(entity) for entity in self._bundle.values()],
                    self._list(),
                    key=self._key,
                    state=self._state,
                )
            return self._matched.get(entity.id)

    def _list(self) -> Iterable[EntityT]:
        raise NotImplementedError

    def _moved(self, entity: EntityT) -> EntityT:
        """Return the bundle's entity with ids of this server; those of what is missing stay."""
        raise NotImplementedError

    def _key(self, entity: EntityT) -> Hashable:
        raise NotImplementedError

    def _state(self, entity: EntityT) -> object:
        raise NotImplementedError

    def _what(self, entity: EntityT) -> str:
        raise NotImplementedError

    def _id(self, kind: str, id: str, entity: EntityT) -> str:
        """Return the id here of something that the entity cannot be without."""
        placed = self._to.remap.find(kind, id)
        if placed is None:
            raise SinkError(
                f"{self._what(entity)}: {kind.replace('_', ' ')} {id} could not be made", status=409
            )
        return placed.id

    def _moved_id(self, kind: str, id: str) -> str:
        placed = self._to.remap.find(kind, id)
        return id if placed is None else placed.id

    def _send(self, method: str, path: str, body: dict[str, Any], what: str) -> Any:
        return self._to.session.call(
            method, f"{GATEWAY}{path}", json_body=body, what=what, once=method == "POST"
        )


class BudgetWriter(_PolicyWriter[GatewayBudget]):
    """Writes budget policies."""

    kind = GatewayBudget.kind
    since = SINCE_BUDGETS

    _UNSETTABLE = ("budget_policy_id", "created_at", "last_updated_at", "last_updated_by")
    _UPDATABLE = ("budget_amount", "budget_action")

    def examine(self, content: Content) -> None:
        budget = _budget(content.entity)
        here = self._here(budget)
        if here is not None:
            self._to.report.found(self.kind)
            self._changes(budget, here)

    def put(self, content: Content) -> None:
        budget = _budget(content.entity)
        here = self._here(budget)
        if here is None:
            self._create(budget)
        elif changes := self._changes(budget, here):
            body = {"budget_policy_id": here.id, **changes}
            self._send("POST", "budgets/update", body, self._what(budget))
        else:
            self._to.report.found(self.kind)
            return
        self._to.report.did(self.kind)

    def _create(self, budget: GatewayBudget) -> None:
        body: dict[str, Any] = {
            "budget_unit": budget.budget_unit,
            "budget_amount": budget.budget_amount,
            "duration": {"unit": budget.duration_unit, "value": budget.duration_value},
            "target_scope": budget.target_scope,
            "budget_action": budget.budget_action,
        }
        if budget.target_value is not None:
            if budget.target_scope == "ENDPOINT":
                self._id(GatewayEndpoint.kind, budget.target_value, budget)
            body["target_value"] = self._moved(budget).target_value
        if budget.created_by is not None:
            body["created_by"] = budget.created_by
        self._send("POST", "budgets/create", body, self._what(budget))
        for name in self._UNSETTABLE:
            self._to.report.adjust(self.kind, name)

    def _changes(self, budget: GatewayBudget, here: GatewayBudget) -> dict[str, Any]:
        return {
            name: getattr(budget, name)
            for name in self._UPDATABLE
            if getattr(budget, name) != getattr(here, name)
            and self._to.differs(
                self.kind, budget.id, name, here=getattr(here, name), bundle=getattr(budget, name)
            )
        }

    def _list(self) -> Iterable[GatewayBudget]:
        return list_budgets(self._to.session)

    def _moved(self, entity: GatewayBudget) -> GatewayBudget:
        target = entity.target_value
        if target is not None and entity.target_scope == "ENDPOINT":
            target = self._moved_id(GatewayEndpoint.kind, target)
        return replace(entity, target_value=target)

    def _key(self, entity: GatewayBudget) -> Hashable:
        return (
            entity.target_scope,
            entity.target_value,
            entity.budget_unit,
            entity.duration_unit,
            entity.duration_value,
        )

    def _state(self, entity: GatewayBudget) -> object:
        return tuple(getattr(entity, name) for name in self._UPDATABLE)

    def _what(self, entity: GatewayBudget) -> str:
        return f"gateway budget {entity.id}"


class GuardrailWriter(_PolicyWriter[GatewayGuardrail]):
    """Writes guardrails when the scorers are there that judge for them."""

    kind = GatewayGuardrail.kind
    since = SINCE_GUARDRAILS

    _UNSETTABLE = (
        "guardrail_id",
        "created_by",
        "created_at",
        "last_updated_by",
        "last_updated_at",
        "endpoints.created_by",
        "endpoints.created_at",
    )

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._waiting: list[GatewayGuardrail] = []

    def examine(self, content: Content) -> None:
        guardrail = _guardrail(content.entity)
        here = self._here(guardrail)
        if here is not None:
            self._to.report.found(self.kind)
            self._uses(guardrail, here)

    def put(self, content: Content) -> None:
        with self._lock:
            self._waiting.append(_guardrail(content.entity))

    def finish(self) -> None:
        for guardrail in sorted(self._waiting, key=lambda waiting: waiting.id):
            try:
                self._write(guardrail)
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._to.report.lose(self.kind, guardrail.id, exc.message)

    def _write(self, guardrail: GatewayGuardrail) -> None:
        here = self._here(guardrail)
        id = self._create(guardrail) if here is None else here.id
        uses = self._uses(guardrail, here)
        for use, present in uses:
            body: dict[str, Any] = {"endpoint_id": use.endpoint_id, "guardrail_id": id}
            if use.execution_order is not None:
                body["execution_order"] = use.execution_order
            method, path = ("PATCH", "update-config") if present else ("POST", "add-to-endpoint")
            try:
                self._send(method, f"guardrails/{path}", body, self._what(guardrail))
            except ServerError as exc:
                if exc.status is None:
                    raise
                field = f"endpoints[{use.endpoint_id}]"
                self._to.report.lose(self.kind, guardrail.id, exc.message, field=field)
        if here is None or uses:
            self._to.report.did(self.kind)
        else:
            self._to.report.found(self.kind)

    def _create(self, guardrail: GatewayGuardrail) -> str:
        body: dict[str, Any] = {
            "name": guardrail.name,
            "scorer_id": self._id(_SCORER, guardrail.scorer_id, guardrail),
            "scorer_version": guardrail.scorer_version,
            "stage": guardrail.stage,
            "action": guardrail.action,
        }
        if guardrail.action_endpoint_id is not None:
            body["action_endpoint_id"] = self._id(
                GatewayEndpoint.kind, guardrail.action_endpoint_id, guardrail
            )
        answer = self._send("POST", "guardrails/create", body, self._what(guardrail))
        for name in self._UNSETTABLE:
            self._to.report.adjust(self.kind, name)
        return str(answer["guardrail"]["guardrail_id"])

    def _uses(
        self, guardrail: GatewayGuardrail, here: GatewayGuardrail | None
    ) -> list[tuple[GatewayGuardrailUse, bool]]:
        """Return the endpoints that are to be told of it, and whether they have it already."""
        present = {use.endpoint_id: use for use in here.endpoints} if here is not None else {}
        uses = []
        for use in guardrail.endpoints:
            placed = self._to.remap.find(GatewayEndpoint.kind, use.endpoint_id)
            if placed is None:
                reason = f"endpoint {use.endpoint_id} could not be made"
                field = f"endpoints[{use.endpoint_id}]"
                self._to.report.lose(self.kind, guardrail.id, reason, field=field)
                continue
            moved = GatewayGuardrailUse(endpoint_id=placed.id, execution_order=use.execution_order)
            other = present.get(placed.id)
            if other is None:
                uses.append((moved, False))
            elif other.execution_order != use.execution_order and self._to.differs(
                self.kind,
                guardrail.id,
                f"endpoints[{use.endpoint_id}].execution_order",
                here=other.execution_order,
                bundle=use.execution_order,
            ):
                uses.append((moved, True))
        return uses

    def _list(self) -> Iterable[GatewayGuardrail]:
        return list_guardrails(self._to.session)

    def _moved(self, entity: GatewayGuardrail) -> GatewayGuardrail:
        endpoint = entity.action_endpoint_id
        return replace(
            entity,
            scorer_id=self._moved_id(_SCORER, entity.scorer_id),
            action_endpoint_id=endpoint and self._moved_id(GatewayEndpoint.kind, endpoint),
            endpoints=[
                replace(use, endpoint_id=self._moved_id(GatewayEndpoint.kind, use.endpoint_id))
                for use in entity.endpoints
            ],
        )

    def _key(self, entity: GatewayGuardrail) -> Hashable:
        # All that no request can change.
        return (
            entity.name,
            entity.scorer_id,
            entity.scorer_version,
            entity.stage,
            entity.action,
            entity.action_endpoint_id,
        )

    def _state(self, entity: GatewayGuardrail) -> object:
        return {(use.endpoint_id, use.execution_order) for use in entity.endpoints}

    def _what(self, entity: GatewayGuardrail) -> str:
        return f"gateway guardrail {entity.name!r}"


def _budget(entity: object) -> GatewayBudget:
    assert isinstance(entity, GatewayBudget)
    return entity


def _guardrail(entity: object) -> GatewayGuardrail:
    assert isinstance(entity, GatewayGuardrail)
    return entity
