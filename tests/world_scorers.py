"""Scorers of the world, as MLflow serialises them, and their online configurations.

Decorator scorers are not here: MLflow registers no code unless the server is told to.
"""

from __future__ import annotations

import json
from typing import Any

from tests.world import Json, _Build


def serialized_scorer(name: str, **data: Any) -> str:
    """A scorer as MLflow serialises it, without importing ``mlflow.genai``, which takes seconds."""
    scorer = {
        "name": name,
        "aggregations": None,
        "description": None,
        "is_session_level_scorer": False,
        "mlflow_version": "3.17.2",
        "serialization_version": 1,
        "builtin_scorer_class": None,
        "builtin_scorer_pydantic_data": None,
        "call_source": None,
        "call_signature": None,
        "original_func_name": None,
        "instructions_judge_pydantic_data": None,
        **data,
    }
    return json.dumps(scorer)


def judge(name: str, instructions: str, model: str) -> str:
    """An instructions judge, serialised."""
    return serialized_scorer(
        name,
        instructions_judge_pydantic_data={
            "instructions": instructions,
            "model": model,
            "feedback_value_type": {"type": "string", "enum": ["ja", "nein ünï"]},
        },
    )


def register_scorer(build: _Build, label: str, experiment: str, name: str, text: str) -> Json:
    """Register the next version of a scorer under ``label``."""
    build.scorers[label] = name
    return build.call(
        "scorers/register",
        api="3.0",
        experiment_id=build.experiments[experiment],
        name=name,
        serialized_scorer=text,
    )


def scorers(build: _Build) -> None:
    """Built-in ones and judges; several versions, a gap, and an online configuration.

    Those that ask a gateway's model are made by `tests.world_services.gateway`.
    """
    for i in range(1, 4):
        text = judge("correctness", f"Ist {{{{ outputs }}}} richtig ünï ({i})?", "openai:/gpt-4o")
        register_scorer(build, "judge", "genai", "correctness", text)
    build.call(
        "scorers/delete",
        method="DELETE",
        api="3.0",
        experiment_id=build.experiments["genai"],
        name="correctness",
        version=2,
    )
    guidelines = {"name": "polite", "guidelines": ["Sei höflich 😀", ""], "model": None}
    builtin = serialized_scorer(
        "polite", builtin_scorer_class="Guidelines", builtin_scorer_pydantic_data=guidelines
    )
    register_scorer(build, "builtin", "genai", "polite", builtin)
    register_scorer(build, "elsewhere", "genai_other", "polite", builtin)
    register_scorer(build, "in_deleted", "genai_deleted", "polite", builtin)
    # A rate of zero is taken for any scorer; a larger one only for those with a gateway's model.
    online_config(build, "genai", "polite", 0.0)


def online_config(
    build: _Build, experiment: str, name: str, sample_rate: float, filter_string: str | None = None
) -> None:
    """Set the online scoring of a scorer."""
    more = {} if filter_string is None else {"filter_string": filter_string}
    build.call(
        "scorers/online-config",
        method="PUT",
        api="3.0",
        experiment_id=build.experiments[experiment],
        name=name,
        sample_rate=sample_rate,
        **more,
    )
