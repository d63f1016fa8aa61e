"""Which logged models runs read and made: what a search for runs does not tell.

No search tells what was read; what was made is told from MLflow 3.6 on. GraphQL tells both for ten
runs in one request; a server without it is asked for each run.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mlflow_bundle.entities import ModelInput, ModelOutput, Run, RunInputs, RunOutputs
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.session import Session

RUNS_PER_QUERY = 10
"""GraphQL root fields per query (mlflow/server/graphql)."""


def with_model_links(
    session: Session, runs: list[Run], get_run: Callable[[str], Run | None]
) -> list[Run]:
    """Return the runs with the logged models that they read and made.

    Args:
        session: A server that has logged models (MLflow >= 3.0).
        runs: At most ``RUNS_PER_QUERY``.
        get_run: Asks for one run; None when it is not to be had.

    Raises:
        ServerError: The server cannot be reached.
    """
    try:
        return _ask_together(session, runs)
    except (ServerError, KeyError, TypeError) as exc:
        if isinstance(exc, ServerError) and exc.status is None:
            raise
    linked = []
    for run in runs:
        found = get_run(run.id)
        if found is None:
            linked.append(run)
        else:
            linked.append(_linked(run, found.inputs.model_inputs, found.outputs.model_outputs))
    return linked


def _ask_together(session: Session, runs: list[Run]) -> list[Run]:
    fields = " ".join(
        f'r{i}: mlflowGetRun(input: {{runId: "{run.id}"}}) {{ run {{'
        " inputs { modelInputs { modelId } } outputs { modelOutputs { modelId step } } } }"
        for i, run in enumerate(runs)
    )
    data = session.post("/graphql", {"query": f"{{ {fields} }}"}, what="logged models of runs")[
        "data"
    ]
    linked = []
    for i, run in enumerate(runs):
        found = data[f"r{i}"]["run"]
        inputs = (found["inputs"] or {}).get("modelInputs") or []
        outputs = (found["outputs"] or {}).get("modelOutputs") or []
        linked.append(
            _linked(
                run,
                [ModelInput(model_id=entry["modelId"]) for entry in inputs],
                [
                    ModelOutput(model_id=entry["modelId"], step=int(entry["step"] or 0))
                    for entry in outputs
                ],
            )
        )
    return linked


def _linked(run: Run, inputs: list[ModelInput], outputs: list[ModelOutput]) -> Run:
    return msgspec.structs.replace(
        run,
        inputs=RunInputs(dataset_inputs=run.inputs.dataset_inputs, model_inputs=inputs),
        outputs=RunOutputs(model_outputs=run.outputs.model_outputs or outputs),
    )
