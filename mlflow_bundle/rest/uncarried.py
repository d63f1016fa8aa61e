"""What a server holds that this version does not carry yet: each kind found is a loss.

Only reads that leave the server as it is are made: listing label schemas would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

from mlflow_bundle.entities import Experiment
from mlflow_bundle.errors import ServerError
from mlflow_bundle.report import Report
from mlflow_bundle.rest.session import API, API_3, Session, since

_REASON = "there are some, and this version of mlflow-bundle does not carry them"
_LOCATIONS_PER_SEARCH = 100


class _Probe(NamedTuple):
    kind: str
    method: str
    endpoint: str
    query: dict[str, Any]
    field: str


def report_uncarried(
    session: Session,
    version: tuple[int, ...],
    experiments: list[Experiment],
    pool: Executor,
    report: Report,
    *,
    whole_server: bool,
) -> None:
    """List each kind of entity that exists at the server and is not carried.

    Args:
        session: The server.
        version: Its version.
        experiments: Those that are exported as a whole.
        pool: Runs the requests.
        report: Gets one loss for each kind found.
        whole_server: Whether kinds that lie in no experiment are looked for too.
    """
    probes = list(_experiment_probes(experiments))
    if whole_server:
        probes += _server_probes()
    found = list(pool.map(lambda probe: _holds(session, probe), probes))
    reasons = {probe.kind: reason for probe, reason in zip(probes, found, strict=True) if reason}
    for kind, reason in reasons.items():
        report.lose(kind, "all", reason)
    if not whole_server:
        return
    if since(version, 3, 10) and _has_workspaces(session):
        report.lose("workspace", "all but the one in use", _REASON)
    if since(version, 3, 14):
        report.note(
            "label schemas are not carried, and not looked for: a server makes one when asked"
        )


def _server_probes() -> Iterator[_Probe]:
    one = {"max_results": 1}
    yield _Probe("dataset", "POST", f"{API_3}datasets/search", one, "datasets")
    yield _Probe("issue", "POST", f"{API_3}issues/search", one, "issues")
    yield _Probe("mcp_server", "GET", f"{API_3}mcp-servers", one, "mcp_servers")
    yield _Probe("webhook", "GET", f"{API}webhooks", one, "webhooks")
    for kind, path, field in (
        ("gateway_endpoint", "endpoints", "endpoints"),
        ("gateway_model_definition", "model-definitions", "model_definitions"),
        ("gateway_secret", "secrets", "secrets"),
        ("gateway_budget", "budgets", "budget_policies"),
        ("gateway_guardrail", "guardrails", "guardrails"),
    ):
        yield _Probe(kind, "GET", f"{API_3}gateway/{path}/list", {}, field)


def _experiment_probes(experiments: list[Experiment]) -> Iterator[_Probe]:
    ids = [experiment.experiment_id for experiment in experiments]
    for start in range(0, len(ids), _LOCATIONS_PER_SEARCH):
        locations = [
            {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": id}}
            for id in ids[start : start + _LOCATIONS_PER_SEARCH]
        ]
        query = {"locations": locations, "max_results": 1}
        yield _Probe("trace", "POST", f"{API_3}traces/search", query, "traces")
    for experiment in experiments:
        if experiment.lifecycle_stage == "active":
            query = {"experiment_id": experiment.experiment_id}
            yield _Probe("scorer", "GET", f"{API_3}scorers/list", query, "scorers")
            yield _Probe(
                "review_queue", "GET", f"{API_3}review-queues/list", query, "review_queues"
            )


def _has_workspaces(session: Session) -> bool:
    try:
        answer = session.get(f"{API_3}server-info", what="server info")
    except ServerError as exc:
        if exc.status is None or not session.is_absent(exc):
            raise
        return False
    return bool(isinstance(answer, dict) and answer.get("workspaces_enabled"))


def _holds(session: Session, probe: _Probe) -> str:
    """Return why entities of a kind are lost, or nothing when there are none."""
    try:
        if probe.method == "GET":
            answer = session.get(probe.endpoint, params=probe.query, what=probe.kind)
        else:
            answer = session.post(probe.endpoint, probe.query, what=probe.kind)
    except ServerError as exc:
        if exc.status is None:
            raise
        # A kind that the server does not know cannot be lost.
        return "" if session.is_absent(exc) else f"could not be looked for: {exc.message}"
    return _REASON if isinstance(answer, dict) and answer.get(probe.field) else ""
