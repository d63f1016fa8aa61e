"""Writes label schemas: their names tell which is which."""

from __future__ import annotations

import json
from typing import Any

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import SinkError, UnsupportedEntityError
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.reviews import LabelSchema
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.readers.label_schemas import (
    DEFAULT_NAME,
    SCHEMAS,
    RestLabelSchemaAnswer,
    find_schema,
    iter_schemas,
)
from mlflow_bundle.rest.writers.base import Writer

_KIND = LabelSchema.kind
_UNSETTABLE = ("schema_id", "created_time", "last_update_time")
_UPDATABLE = ("instruction", "enable_comment", "input_config")
_FIXED = ("type", "input_type")


class LabelSchemaWriter(Writer):
    """Writes label schemas. Review queues name them, so they are placed first."""

    kind = _KIND
    hides_in_deleted = True
    reserves = True

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self._matched: dict[str, LabelSchema] = {}
        """Schemas that were here before, by the id of the bundle's."""

    def reserve(self, entity: PlainEntity, *, dry: bool) -> None:
        assert isinstance(entity, LabelSchema)
        if not self._to.since(3, 14):
            raise UnsupportedEntityError(
                f"label schema {entity.name!r}: the server has none (they came with MLflow 3.14)",
                status=404,
            )
        experiment_id = self._experiment(entity).id
        name = DEFAULT_NAME if entity.is_default else entity.name
        here = (
            find_schema(self._to.session, experiment_id, name)
            if self._to.was_here(experiment_id)
            else None
        )
        if here is not None:
            self._matched[entity.id] = here
            id = here.schema_id
        elif dry:
            id = NEW
        else:
            make = self._make_default if entity.is_default else self._create
            id = make(entity, experiment_id)
            for field in _UNSETTABLE:
                self._to.report.adjust(_KIND, field)
            if entity.created_by is not None:
                self._to.report.adjust(_KIND, "created_by")
        self._to.remap.place(_KIND, entity.id, id)

    def _make_default(self, schema: LabelSchema, experiment_id: str) -> str:
        """Let the server make its default schema: listing does."""
        for here in iter_schemas(self._to.session, experiment_id):
            if here.is_default:
                for field in (*_UPDATABLE, *_FIXED):
                    if getattr(here, field) != getattr(schema, field):
                        self._to.report.adjust(_KIND, f"{field} (of the default schema)")
                return here.schema_id
        raise SinkError(
            f"label schema {schema.name!r}: the server makes no default schema", status=409
        )

    def _create(self, schema: LabelSchema, experiment_id: str) -> str:
        body: dict[str, Any] = {
            "experiment_id": experiment_id,
            "name": schema.name,
            "type": schema.type.upper(),
            "enable_comment": schema.enable_comment,
            "input": _input(schema),
        }
        if schema.instruction is not None:
            body["instruction"] = schema.instruction
        answer: RestLabelSchemaAnswer = self._to.session.post(
            f"{SCHEMAS}/create",
            body,
            type=RestLabelSchemaAnswer,
            what=f"label schema {schema.name!r}",
            once=True,
        )
        return answer.label_schema.schema_id

    def examine(self, content: Content) -> None:
        schema = content.entity
        assert isinstance(schema, LabelSchema)
        here = self._matched.get(schema.id)
        if here is not None:
            self._to.report.found(_KIND)
            self._changes(schema, here)

    def put(self, content: Content) -> None:
        schema = content.entity
        assert isinstance(schema, LabelSchema)
        if self._to.remap.find(_KIND, schema.id) is None:
            return
        here = self._matched.get(schema.id)
        changes = self._changes(schema, here) if here is not None else {}
        if here is None:
            self._to.report.did(_KIND)
        elif not changes:
            self._to.report.found(_KIND)
        else:
            self._to.session.call(
                "PATCH",
                f"{SCHEMAS}/update",
                json_body={"schema_id": here.schema_id, **changes},
                what=f"label schema {schema.name!r}",
            )
            self._to.report.did(_KIND)

    def _changes(self, schema: LabelSchema, here: LabelSchema) -> dict[str, Any]:
        """Fields to write, as the server takes them."""
        if here.is_default:
            # Nothing of it can be changed.
            return {}
        changes: dict[str, Any] = {}
        for field in (*_UPDATABLE, *_FIXED):
            ours, theirs = getattr(schema, field), getattr(here, field)
            if field == "input_config" and schema.input_type != here.input_type:
                continue
            if ours == theirs or not self._to.differs(
                _KIND, schema.id, field, here=theirs, bundle=ours
            ):
                continue
            if field in _FIXED or ours is None:
                self._to.report.lose(
                    _KIND,
                    schema.id,
                    "the server never changes it",
                    field=field,
                    parent=schema.experiment_id,
                )
            elif field == "input_config":
                changes["input"] = _input(schema)
            else:
                changes[field] = ours
        return changes


def _input(schema: LabelSchema) -> dict[str, Any]:
    """The input as the server takes it.

    Raises:
        SinkError: The text of a bundle is no JSON object.
    """
    try:
        config = json.loads(schema.input_config)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise SinkError(f"label schema {schema.name!r}: input_config is no JSON object", status=400)
    return {schema.input_type: {key: value for key, value in config.items() if value is not None}}
