"""What an account may not read, as far as a server tells.

MLflow's basic authentication leaves out of listings what an account may not read, without a word.
A request for the object itself tells "forbidden" from "there is none" (of runs not even that), and
from MLflow 3.17 on an account may ask which objects are denied to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

from mlflow_bundle.entities import Experiment, Prompt, RegisteredModel
from mlflow_bundle.errors import ServerError
from mlflow_bundle.report import Report
from mlflow_bundle.rest.session import API, API_3, Session
from mlflow_bundle.selection import Selection


def is_forbidden(error: ServerError) -> bool:
    """Whether an error says that the account may not do this."""
    return error.status == HTTPStatus.FORBIDDEN


def without_refused(
    session: Session,
    selection: Selection,
    *,
    experiments: Collection[Experiment],
    models: Collection[str],
    lose: Callable[[str, str, str], object],
) -> Selection:
    """Return the selection without the names of what exists and may not be read: each is a loss.

    Args:
        session: The server.
        selection: What was asked for.
        experiments: Those that are listed.
        models: Names of the registered models and prompts that are listed.
        lose: Called with kind, name and reason.

    Raises:
        ServerError: The server refused all there is in the selection, or cannot be reached.
    """
    refusals: dict[object, tuple[str, str, ServerError]] = {}
    for pattern in selection.experiments:
        if pattern.kind != "exact" or any(
            pattern.matches(e.name) or pattern.matches_id(e.experiment_id) for e in experiments
        ):
            continue
        questions = [("experiments/get-by-name", {"experiment_name": pattern.text})]
        if pattern.matches_id(pattern.text) and pattern.text.isdecimal():
            questions.append(("experiments/get", {"experiment_id": pattern.text}))
        for endpoint, query in questions:
            error = _refusal(session, endpoint, query, f"experiment {pattern.text!r}")
            if error is not None:
                refusals[pattern] = (Experiment.kind, pattern.text, error)
    for model in selection.models:
        if model.name.kind != "exact" or any(model.matches(name) for name in models):
            continue
        name = model.name.text
        error = _refusal(session, "registered-models/get", {"name": name}, f"model {name!r}")
        if error is not None:
            refusals[model] = (RegisteredModel.kind, name, error)
    if not refusals:
        return selection
    left = dataclasses.replace(
        selection,
        experiments=tuple(p for p in selection.experiments if p not in refusals),
        models=tuple(p for p in selection.models if p not in refusals),
    )
    if left.is_empty:
        raise next(error for _, _, error in refusals.values())
    for kind, id, error in dict.fromkeys(refusals.values()):
        lose(kind, id, error.message)
    return left


def report_hidden(session: Session, selection: Selection, report: Report) -> None:
    """List what is denied to the account, and note that listings are silent about the rest.

    Args:
        session: The server; it is asked only when it is sent credentials.
        selection: What was asked for; only where all there is was asked for, something can lack.
        report: Gets a loss for each object denied by name, and a note.

    Raises:
        ServerError: The server cannot be reached.
    """
    everything = selection.everything
    experiments = everything or any(p.kind != "exact" for p in selection.experiments)
    models = everything or any(p.name.kind != "exact" for p in selection.models)
    if not (session.has_credentials and (experiments or models)):
        return
    answer = _ask(session, f"{API_3}users/current/permissions")
    if answer is None:
        answer = (_ask(session, f"{API}users/current") or {}).get("user") or {}
    if answer.get("is_admin", True):
        return
    report.note("this account is no administrator: what it may not read, listings leave out")
    wanted = {
        Experiment.kind: experiments,
        RegisteredModel.kind: models,
        Prompt.kind: models,
    }
    for grant in answer.get("permissions", ()):
        kind, which = grant.get("resource_type"), grant.get("resource_pattern")
        if grant.get("permission") == "DENY" and (wanted.get(kind, everything)):
            report.lose(kind, "all" if which == "*" else which, "it is denied to this account")


def _ask(session: Session, endpoint: str) -> dict[str, Any] | None:
    """Return an answer; None from a server that does not know the endpoint or refuses it."""
    try:
        answer = session.get(endpoint, what="what this account may do")
    except ServerError as exc:
        if exc.status is None:
            raise
        return None
    return answer if isinstance(answer, dict) else None


def _refusal(
    session: Session, endpoint: str, query: dict[str, str], what: str
) -> ServerError | None:
    try:
        session.get(f"{API}{endpoint}", params=query, what=what)
    except ServerError as exc:
        if exc.status is None:
            raise
        return exc if is_forbidden(exc) else None
    return None
