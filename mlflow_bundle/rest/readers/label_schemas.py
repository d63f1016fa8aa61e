"""Reads label schemas (MLflow >= 3.14) without writing.

Listing the schemas of an experiment makes its default schema where there is none yet. Whether there
is one can be read by its name; where there is none, only the schemas that review queues name are
read, by id, unless the user permits that one write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from mlflow_bundle.entities import Experiment, PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.reviews import LABEL_SCHEMA, LabelSchema
from mlflow_bundle.rest.readers.base import Chosen, Reader
from mlflow_bundle.rest.readers.review_queues import listed_queues
from mlflow_bundle.rest.records import to_int
from mlflow_bundle.rest.session import API_3, Session

SCHEMAS = f"{API_3}label-schemas"

DEFAULT_NAME = "Feedback"
"""Name of the default schema (mlflow/genai/label_schemas/validation.py)."""

_PER_PAGE = 1000
_CONFIG: dict[str, dict[str, Any]] = {
    "pass_fail": {"positive_label": "", "negative_label": ""},
    "categorical": {"options": [], "multi_select": False},
    "numeric": {"min_value": None, "max_value": None},
    "text": {"max_length": None},
}
"""Keys of each input in the order of MLflow's table (`_input_to_dict`), with what absence means."""


class RestLabelSchema(msgspec.Struct, frozen=True):
    """``label-schemas/list``: one schema."""

    schema_id: str
    experiment_id: str
    name: str = ""
    type: str = "FEEDBACK"
    instruction: str | None = None
    enable_comment: bool = False
    input: dict[str, Any] = {}
    created_by: str | None = None
    created_at: int | str | None = None
    last_updated_at: int | str | None = None
    is_default: bool = False

    def record(self) -> LabelSchema:
        """The record, with the words of MLflow's table."""
        input_type, config = next(iter(self.input.items()), ("", {}))
        return LabelSchema(
            schema_id=self.schema_id,
            experiment_id=self.experiment_id,
            name=self.name,
            type=self.type.lower(),
            instruction=self.instruction,
            enable_comment=self.enable_comment,
            input_type=input_type,
            input_config=json.dumps(_CONFIG.get(input_type, {}) | config),
            created_by=self.created_by,
            created_time=to_int(self.created_at),
            last_update_time=to_int(self.last_updated_at),
            is_default=self.is_default,
        )


class RestLabelSchemas(msgspec.Struct, frozen=True):
    """``label-schemas/list``."""

    label_schemas: list[RestLabelSchema] = []
    next_page_token: str | None = None


class RestLabelSchemaAnswer(msgspec.Struct, frozen=True):
    """``label-schemas/get``, ``create``."""

    label_schema: RestLabelSchema


class LabelSchemaReader(Reader):
    """Reads label schemas; the server shows none of deleted experiments."""

    kind = LABEL_SCHEMA
    first = (3, 14)

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        experiments = self._visible(chosen)
        unlisted = 0
        for schemas, listed in self._from.pool.map(self._read, experiments):
            unlisted += not listed
            yield from schemas
        if unlisted:
            self._from.note(
                f"label schemas were read only as far as review queues name them, in {unlisted} "
                f"experiment{'' if unlisted == 1 else 's'}: listing them would make the server add "
                "its default one (an export permits that with --list-label-schemas)"
            )

    def _read(self, experiment: Experiment) -> tuple[list[LabelSchema], bool]:
        """Return the schemas of one experiment, and whether they are all."""
        session, id = self._from.session, experiment.experiment_id
        try:
            if self._from.list_label_schemas or find_schema(session, id, DEFAULT_NAME):
                return list(iter_schemas(session, id)), True
            queues = listed_queues(self._from, id)
            named = {other for queue in queues for other in queue.schema_ids}
            return list(self._named(id, sorted(named))), False
        except ServerError as exc:
            self._lose_all(exc, id)
            return [], True

    def _named(self, experiment_id: str, schema_ids: list[str]) -> Iterator[LabelSchema]:
        for schema_id in schema_ids:
            try:
                answer: RestLabelSchemaAnswer = self._from.session.get(
                    f"{SCHEMAS}/get",
                    params={"schema_id": schema_id},
                    type=RestLabelSchemaAnswer,
                    what=f"label schema {schema_id}",
                )
            except ServerError as exc:
                if exc.status is None:
                    raise
                # A queue may name a schema that was deleted.
                if not self._from.session.is_missing(exc):
                    self._from.lose(LABEL_SCHEMA.name, schema_id, exc.message, parent=experiment_id)
                continue
            yield answer.label_schema.record()


def find_schema(session: Session, experiment_id: str, name: str) -> LabelSchema | None:
    """Return the schema of that name; only reads.

    Raises:
        ServerError: The server refused, or does not know label schemas.
    """
    try:
        answer: RestLabelSchemaAnswer = session.get(
            f"{SCHEMAS}/get-by-name",
            params={"experiment_id": experiment_id, "name": name},
            type=RestLabelSchemaAnswer,
            what=f"label schema {name!r} of experiment {experiment_id}",
        )
    except ServerError as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return answer.label_schema.record()


def iter_schemas(session: Session, experiment_id: str) -> Iterator[LabelSchema]:
    """Yield the schemas of an experiment; makes its default schema where there is none.

    Raises:
        ServerError: The server refused.
    """
    for page in session.iter_pages(
        "GET",
        f"{SCHEMAS}/list",
        {"experiment_id": experiment_id, "max_results": _PER_PAGE},
        type=RestLabelSchemas,
        what=f"label schemas of experiment {experiment_id}",
    ):
        for schema in page.label_schemas:
            yield schema.record()
