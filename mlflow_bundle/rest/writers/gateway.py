"""Writes the gateway's secrets, model definitions and endpoints: each has a name of its own.

They are placed before anything else that is no run or model, as scorers and traces name them. What
is here under the same name is used. A secret that is not here can only be made with a placeholder
for its value (``--placeholder-secrets``): without it the secret and what needs it are losses.
"""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from typing import Any, ClassVar

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import mask_json
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError, SinkError, UnsupportedEntityError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.gateway import (
    GatewayBinding,
    GatewayEndpoint,
    GatewayModelDefinition,
    GatewayModelMapping,
    GatewaySecret,
    binding_key,
    mapping_order,
)
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.gateway import (
    GATEWAY,
    SINCE,
    list_endpoints,
    list_model_definitions,
    list_secrets,
)
from mlflow_bundle.rest.writers.base import Writer

_MASKED_PLACEHOLDER = "pla...gain"
"""How a server shows `GatewaySecret.placeholders`
(mlflow/store/tracking/gateway/sqlalchemy_mixin.py)."""

_UNSETTABLE = ("created_at", "last_updated_at", "last_updated_by")
_FLAG = "--placeholder-secrets makes it with a placeholder for the value"
_SCORER = "scorer"


class _NamedWriter(Writer):
    """Writes entities of the gateway that have a unique name."""

    reserves = True
    noun: ClassVar[str]

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._here: dict[str, Any] | None = None
        self._found: dict[str, Any] = {}
        """What was here before, by the id of the bundle's."""
        self._lock = threading.Lock()

    @abstractmethod
    def _list(self) -> dict[str, Any]:
        """Return what is here, by name."""

    @abstractmethod
    def _create(self, entity: Any) -> str:
        """Make an entity; return its id."""

    @abstractmethod
    def _check(self, entity: Any) -> None:
        """Raise SinkError where an entity cannot be made."""

    @abstractmethod
    def _changes(self, entity: Any, here: Any) -> dict[str, Any]:
        """Return the fields that are to be written of an entity that was here."""

    @abstractmethod
    def _update(self, id: str, entity: Any, changes: dict[str, Any]) -> None:
        """Write them."""

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        require_gateway(self._to, self._what(entity), SINCE)
        with self._lock:
            if self._here is None:
                self._here = self._list()
            here = self._here.get(_name(entity))
        if here is not None:
            self._found[entity.id] = here
            self._to.remap.place(self.kind, entity.id, here.id)
            return
        self._check(entity)
        id = NEW if dry else self._create(entity)
        self._to.remap.place(self.kind, entity.id, id)

    def examine(self, content: Content) -> None:
        entity = content.entity
        assert isinstance(entity, PlainEntity)
        here = self._found.get(entity.id)
        if here is not None:
            self._to.report.found(self.kind)
            self._changes(entity, here)

    def put(self, content: Content) -> None:
        entity = content.entity
        assert isinstance(entity, PlainEntity)
        placed = self._to.remap.find(self.kind, entity.id)
        if placed is None:
            return
        here = self._found.get(entity.id)
        changes = self._changes(entity, here) if here is not None else {}
        if changes:
            self._update(placed.id, entity, changes)
        if here is None or changes:
            self._to.report.did(self.kind)
        else:
            self._to.report.found(self.kind)

    def _post(self, endpoint: str, body: dict[str, Any], what: str, *, once: bool = False) -> Any:
        return self._to.session.post(f"{GATEWAY}{endpoint}", body, what=what, once=once)

    def _made_by(self, entity: Any) -> dict[str, str]:
        for name in (f"{self.noun}_id", *_UNSETTABLE):
            self._to.report.adjust(self.kind, name)
        if entity.created_by is None:
            return {}
        return {"created_by": entity.created_by}

    def _differs(self, entity: Any, field: str, here: object, bundle: object) -> bool:
        return self._to.differs(self.kind, _name(entity), field, here=here, bundle=bundle)

    def _what(self, entity: Any) -> str:
        return f"gateway {self.noun.replace('_', ' ')} {_name(entity)!r}"


class SecretWriter(_NamedWriter):
    """Writes secrets, with a placeholder for their values."""

    kind = GatewaySecret.kind
    noun = "secret"

    def _list(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for secret in list_secrets(self._to.session):
            found[secret.secret_name] = record = secret.record()
            if _MASKED_PLACEHOLDER in secret.masked_values.values():
                # Of an earlier import, whose report may be lost.
                self._to.report.note(record.placeholder_note)
        return found

    def _check(self, entity: GatewaySecret) -> None:
        if not self._to.options.placeholder_secrets:
            raise SinkError(
                f"{self._what(entity)}: its value is in no bundle, and the destination has no "
                f"secret of this name; {_FLAG}",
                status=409,
            )

    def _create(self, entity: GatewaySecret) -> str:
        body: dict[str, Any] = {
            "secret_name": entity.secret_name,
            "secret_value": entity.placeholders,
            **self._made_by(entity),
        }
        if entity.provider is not None:
            body["provider"] = entity.provider
        if entity.auth_config is not None:
            body["auth_config"] = json.loads(entity.auth_config)
        answer = self._post("secrets/create", body, self._what(entity), once=True)
        self._to.report.adjust(self.kind, "value (to be set again)")
        if entity.description is not None:
            self._to.report.adjust(self.kind, "description")
        self._to.report.note(entity.placeholder_note)
        return str(answer["secret"]["secret_id"])

    def _changes(self, entity: GatewaySecret, here: GatewaySecret) -> dict[str, Any]:
        if entity.provider != here.provider:
            reason = f"the destination has {here.provider!r}, which cannot be changed"
            self._to.report.conflict(self.kind, entity.secret_name, "provider", reason)
        theirs, ours = _config(here.auth_config), _config(entity.auth_config)
        if ours is None or theirs == ours:
            return {}
        if theirs is not None and not self._differs(entity, "auth_config", theirs, ours):
            return {}
        return {"auth_config": ours}

    def _update(self, id: str, entity: GatewaySecret, changes: dict[str, Any]) -> None:
        self._post("secrets/update", {"secret_id": id, **changes}, self._what(entity))


class ModelDefinitionWriter(_NamedWriter):
    """Writes model definitions."""

    kind = GatewayModelDefinition.kind
    noun = "model_definition"

    def _list(self) -> dict[str, Any]:
        return {row.name: row for row in list_model_definitions(self._to.session)}

    def _check(self, entity: GatewayModelDefinition) -> None:
        if entity.secret_id is None:
            reason = "its secret was deleted, and none can be made without one"
        elif self._secret(entity) is None:
            reason = f"its secret {entity.secret_id} could not be made; {_FLAG}"
        else:
            return
        raise SinkError(f"{self._what(entity)}: {reason}", status=409)

    def _secret(self, entity: GatewayModelDefinition) -> str | None:
        if entity.secret_id is None:
            return None
        placed = self._to.remap.find(GatewaySecret.kind, entity.secret_id)
        return None if placed is None else placed.id

    def _create(self, entity: GatewayModelDefinition) -> str:
        body = {
            "name": entity.name,
            "secret_id": self._secret(entity),
            "provider": entity.provider,
            "model_name": entity.model_name,
            **self._made_by(entity),
        }
        answer = self._post("model-definitions/create", body, self._what(entity), once=True)
        return str(answer["model_definition"]["model_definition_id"])

    def _changes(
        self, entity: GatewayModelDefinition, here: GatewayModelDefinition
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {
            name: getattr(entity, name)
            for name in ("provider", "model_name")
            if getattr(entity, name) != getattr(here, name)
            and self._differs(entity, name, getattr(here, name), getattr(entity, name))
        }
        secret = self._secret(entity)
        if secret is not None and secret != here.secret_id:
            lost = here.secret_id is None
            if lost or self._differs(entity, "secret_id", here.secret_id, secret):
                changes["secret_id"] = secret
        return changes

    def _update(self, id: str, entity: GatewayModelDefinition, changes: dict[str, Any]) -> None:
        body = {"model_definition_id": id, **changes}
        self._post("model-definitions/update", body, self._what(entity))


class EndpointWriter(_NamedWriter):
    """Writes endpoints; what is bound to them when everything else is there."""

    kind = GatewayEndpoint.kind
    noun = "endpoint"

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._bound: list[GatewayEndpoint] = []

    def _list(self) -> dict[str, Any]:
        return {row.name: row for row in list_endpoints(self._to.session)}

    def _check(self, entity: GatewayEndpoint) -> None:
        if self._mappings(entity) is None:
            raise SinkError(
                f"{self._what(entity)}: a model behind it could not be made; where its secret is "
                f"missing, {_FLAG}",
                status=409,
            )

    def _mappings(self, entity: GatewayEndpoint) -> list[dict[str, Any]] | None:
        """The models behind an endpoint with their ids here; None when one is missing."""
        mappings = []
        for mapping in sorted(entity.model_mappings, key=mapping_order):
            placed = self._to.remap.find(GatewayModelDefinition.kind, mapping.model_definition_id)
            if placed is None:
                return None
            mappings.append(_model_config(mapping, placed.id))
        return mappings

    def _experiment_here(self, entity: GatewayEndpoint) -> str | None:
        if entity.experiment_id is None:
            return None
        placed = self._to.remap.find("experiment", entity.experiment_id)
        return None if placed is None else placed.id

    def _create(self, entity: GatewayEndpoint) -> str:
        body: dict[str, Any] = {
            "name": entity.name,
            "model_configs": self._mappings(entity),
            "usage_tracking": entity.usage_tracking,
            **self._made_by(entity),
        }
        if entity.routing_strategy is not None:
            body["routing_strategy"] = entity.routing_strategy
        if entity.fallback_config is not None:
            body["fallback_config"] = _fallback(entity)
        experiment_id = self._experiment_here(entity)
        if experiment_id is not None:
            body["experiment_id"] = experiment_id
        elif entity.experiment_id is not None:
            self._to.report.adjust(self.kind, "experiment_id (points outside)")
        answer = self._post("endpoints/create", body, self._what(entity), once=True)
        id = str(answer["endpoint"]["endpoint_id"])
        self._set_tags(id, entity, self._to.tags_of(self.kind, entity.tags))
        return id

    def _set_tags(self, id: str, entity: GatewayEndpoint, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            body = {"endpoint_id": id, "key": key, "value": value}
            self._post("endpoints/set-tag", body, self._what(entity))

    def _changes(self, entity: GatewayEndpoint, here: GatewayEndpoint) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        wanted = {
            "routing_strategy": entity.routing_strategy,
            # One that says nothing is none: replacing the models leaves such a one.
            "fallback_config": _fallback(entity) or None,
            "usage_tracking": entity.usage_tracking,
            "experiment_id": self._experiment_here(entity),
            "model_configs": self._mappings(entity),
        }
        present = {
            "routing_strategy": here.routing_strategy,
            "fallback_config": _fallback(here) or None,
            "usage_tracking": here.usage_tracking,
            "experiment_id": here.experiment_id,
            "model_configs": [
                _model_config(mapping, mapping.model_definition_id)
                for mapping in here.model_mappings
            ],
        }
        for name, value in wanted.items():
            other = present[name]
            if value is None or _unordered(value) == _unordered(other):
                continue
            if self._differs(entity, name, other, value):
                changes[name] = value
        tags = self._to.tags_of(self.kind, entity.tags)
        if new := self._to.changed(self.kind, entity.name, "tags", here.tags, tags):
            changes["tags"] = new
        return changes

    def _update(self, id: str, entity: GatewayEndpoint, changes: dict[str, Any]) -> None:
        tags = changes.pop("tags", {})
        if changes:
            if "model_configs" in changes and entity.fallback_config is not None:
                # Replacing the models forgets the fallback where it is not given again.
                changes["fallback_config"] = _fallback(entity)
            self._post("endpoints/update", {"endpoint_id": id, **changes}, self._what(entity))
        self._set_tags(id, entity, tags)

    def put(self, content: Content) -> None:
        super().put(content)
        endpoint = content.entity
        assert isinstance(endpoint, GatewayEndpoint)
        if endpoint.bindings and self._to.remap.find(self.kind, endpoint.id) is not None:
            with self._lock:
                self._bound.append(endpoint)

    def finish(self) -> None:
        if not self._bound:
            return
        here = {endpoint.id: endpoint for endpoint in list_endpoints(self._to.session)}
        for endpoint in self._bound:
            placed = self._to.remap.find(self.kind, endpoint.id)
            if placed is None or placed.id not in here:
                continue
            present = {binding_key(binding) for binding in here[placed.id].bindings}
            for binding in endpoint.bindings:
                self._bind(endpoint, placed.id, binding, present)

    def _bind(
        self,
        endpoint: GatewayEndpoint,
        id: str,
        binding: GatewayBinding,
        present: set[tuple[str, str]],
    ) -> None:
        resource_id = binding.resource_id
        if binding.resource_type == _SCORER:
            scorer = self._to.remap.find(_SCORER, resource_id)
            if scorer is None:
                self._to.report.lose(
                    self.kind,
                    endpoint.id,
                    f"scorer {resource_id} could not be made",
                    field=f"bindings[{_SCORER}/{resource_id}]",
                )
                return
            resource_id = scorer.id
        if (binding.resource_type, resource_id) in present:
            return
        body = {
            "endpoint_id": id,
            "resource_type": binding.resource_type,
            "resource_id": resource_id,
        }
        if binding.created_by is not None:
            body["created_by"] = binding.created_by
        try:
            self._post("endpoints/bindings/create", body, self._what(endpoint), once=True)
        except ServerError as exc:
            if exc.status is None:
                raise
            field = f"bindings[{binding.resource_type}/{binding.resource_id}]"
            self._to.report.lose(self.kind, endpoint.id, exc.message, field=field)


def require_gateway(destination: Destination, what: str, since: tuple[int, int]) -> None:
    """Raise UnsupportedEntityError where the server is older than MLflow ``since``."""
    if not destination.since(*since):
        version = ".".join(map(str, since))
        raise UnsupportedEntityError(
            f"{what}: the server has none of these (they came with MLflow {version})", status=404
        )


def _name(entity: Any) -> str:
    return str(entity.secret_name if isinstance(entity, GatewaySecret) else entity.name)


def _config(text: str | None) -> Any:
    """A provider's settings, in which a bundle has credentials masked."""
    return None if text is None else json.loads(mask_json(text))


def _model_config(mapping: GatewayModelMapping, id: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_definition_id": id,
        "linkage_type": mapping.linkage_type,
        "weight": mapping.weight,
    }
    if mapping.fallback_order is not None:
        config["fallback_order"] = mapping.fallback_order
    return config


def _fallback(endpoint: GatewayEndpoint) -> dict[str, Any] | None:
    config = endpoint.fallback_config
    if config is None:
        return None
    values = {"strategy": config.strategy, "max_attempts": config.max_attempts}
    return {name: value for name, value in values.items() if value is not None}


def _unordered(value: Any) -> Any:
    return sorted(value, key=repr) if isinstance(value, list) else value
