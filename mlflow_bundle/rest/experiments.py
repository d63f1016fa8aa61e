"""Experiments of a server as records."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_bundle.entities import Experiment
from mlflow_bundle.rest import records
from mlflow_bundle.rest.session import API, Session

_PER_PAGE = 1000


def iter_experiments(session: Session) -> Iterator[Experiment]:
    """Yield every experiment, deleted ones too.

    Raises:
        ServerError: The server refused.
    """
    for page in session.iter_pages(
        "POST",
        f"{API}experiments/search",
        {"view_type": "ALL", "max_results": _PER_PAGE},
        type=records.RestExperiments,
        what="experiments",
    ):
        for experiment in page.experiments:
            yield experiment.record()


def get_experiment(session: Session, experiment_id: str) -> Experiment:
    """Return one experiment as it is now.

    Raises:
        ServerError: There is none of that id, or the server refused.
    """
    which = {"experiment_id": experiment_id}
    return _one(session, "experiments/get", which, f"experiment {experiment_id}")


def experiment_named(session: Session, name: str) -> Experiment:
    """Return the experiment of that name as it is now.

    Raises:
        ServerError: There is none, or the server refused.
    """
    which = {"experiment_name": name}
    return _one(session, "experiments/get-by-name", which, f"experiment {name!r}")


def _one(session: Session, endpoint: str, which: dict[str, str], what: str) -> Experiment:
    answer: records.RestExperimentAnswer = session.get(
        f"{API}{endpoint}", params=which, type=records.RestExperimentAnswer, what=what
    )
    return answer.experiment.record()
