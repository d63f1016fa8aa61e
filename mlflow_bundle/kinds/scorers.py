"""Scorers: judges and rules of an experiment, in numbered versions (MLflow >= 3.4)."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Int64, Number, PlainEntity
from mlflow_bundle.kinds.base import Kind

GATEWAY_MODEL = "gateway:/"
"""What the model of a scorer begins with that asks an endpoint of the gateway."""

_HOLDERS = (
    "instructions_judge_pydantic_data",
    "builtin_scorer_pydantic_data",
    "memory_augmented_judge_data",
    "third_party_scorer_data",
)
"""Where a serialised scorer keeps its model, the first that is there
(mlflow/genai/scorers/scorer_utils.py)."""
_INNER = {"memory_augmented_judge_data": "base_judge"}


def model_holder(scorer: Any) -> dict[str, Any] | None:
    """Return the part of a serialised scorer that has its ``model``, if any."""
    while isinstance(scorer, dict):
        held = ((key, scorer.get(key)) for key in _HOLDERS)
        found = next(((key, part) for key, part in held if isinstance(part, dict) and part), None)
        if found is None:
            return None
        key, part = found
        if key not in _INNER:
            return part
        scorer = part.get(_INNER[key])
    return None


class OnlineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a scorer is applied to new traces (MLflow >= 3.9)."""

    online_scoring_config_id: str
    experiment_id: str
    sample_rate: Number
    filter_string: str | None = None


class Scorer(PlainEntity, frozen=True, kw_only=True):
    """One scorer without its versions; names are unique within an experiment."""

    kind: ClassVar[str] = "scorer"

    experiment_id: str
    name: str
    scorer_id: str | None = None
    """What guardrails and bindings name it by; servers before MLflow 3.9 do not tell."""
    online_configs: list[OnlineConfig] = []

    @property
    def id(self) -> str:
        return self.name


class ScorerVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a scorer.

    ``serialized_scorer`` is MLflow's JSON text. The model of one that asks the gateway is
    ``gateway:/<name of the endpoint>`` over REST and ``gateway:/<its id>`` in MLflow's table.
    """

    version: Int64
    serialized_scorer: str
    creation_time: Int64 | None = None
    stored_scorer: str | UnsetType = UNSET
    """The text of the table, where it is another one."""


SCORER = Kind(
    record=Scorer,
    directory="scorers",
    document="scorer.json",
    scope="experiment",
    item=ScorerVersion,
)
