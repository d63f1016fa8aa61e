"""What a server holds that this version does not carry yet: each kind found is a loss.

Only reads that leave the server as it is are made: listing label schemas would write.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlflow_bundle.entities import Experiment
from mlflow_bundle.errors import ServerError
from mlflow_bundle.report import Report
from mlflow_bundle.rest.session import API, API_3, Session

_REASON = "this version of mlflow-bundle does not carry them"


class _Probe(NamedTuple):
    kind: str
    method: str
    endpoint: str
    query: dict[str, Any]
    field: str


_PROBES = (
    _Probe("dataset", "POST", f"{API_3}datasets/search", {"max_results": 1}, "datasets"),
    _Probe("issue", "POST", f"{API_3}issues/search", {"max_results": 1}, "issues"),
    _Probe("mcp_server", "GET", f"{API_3}mcp-servers", {"max_results": 1}, "mcp_servers"),
    _Probe("webhook", "GET", f"{API}webhooks", {"max_results": 1}, "webhooks"),
    _Probe("gateway_endpoint", "GET", f"{API_3}gateway/endpoints/list", {}, "endpoints"),
)


def report_uncarried(session: Session, experiments: list[Experiment], report: Report) -> None:
    """List each kind of entity that exists at the server and is not carried.

    Args:
        session: The server.
        experiments: All of its experiments.
        report: Gets one loss for each kind found.
    """
    for probe in _PROBES:
        if _any(session, probe):
            report.lose(probe.kind, "all", _REASON)
    with_traces = [e for e in experiments if _has_traces(session, e)]
    if with_traces:
        names = ", ".join(repr(e.name) for e in with_traces[:5])
        more = f" and {len(with_traces) - 5} more" if len(with_traces) > 5 else ""
        report.lose("trace", "all", f"{_REASON} (experiments {names}{more})")
    active = [e for e in experiments if e.lifecycle_stage == "active"]
    for kind, endpoint, field in (
        ("scorer", f"{API_3}scorers/list", "scorers"),
        ("review_queue", f"{API_3}review-queues/list", "review_queues"),
    ):
        for experiment in active:
            query = {"experiment_id": experiment.experiment_id}
            found, known = _ask(session, _Probe(kind, "GET", endpoint, query, field))
            if found:
                report.lose(kind, "all", _REASON)
            if found or not known:
                break


def _has_traces(session: Session, experiment: Experiment) -> bool:
    location = {
        "type": "MLFLOW_EXPERIMENT",
        "mlflow_experiment": {"experiment_id": experiment.experiment_id},
    }
    query = {"locations": [location], "max_results": 1}
    return _any(session, _Probe("trace", "POST", f"{API_3}traces/search", query, "traces"))


def _any(session: Session, probe: _Probe) -> bool:
    return _ask(session, probe)[0]


def _ask(session: Session, probe: _Probe) -> tuple[bool, bool]:
    """Return whether the kind was found, and whether the server knows it at all."""
    try:
        if probe.method == "GET":
            answer = session.get(probe.endpoint, params=probe.query, what=probe.kind)
        else:
            answer = session.post(probe.endpoint, probe.query, what=probe.kind)
    except ServerError as exc:
        if exc.status is None:
            raise
        return False, False
    return bool(isinstance(answer, dict) and answer.get(probe.field)), True
