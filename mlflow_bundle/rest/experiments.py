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
    answer: records.RestExperimentAnswer = session.get(
        f"{API}experiments/get",
        params={"experiment_id": experiment_id},
        type=records.RestExperimentAnswer,
        what=f"experiment {experiment_id}",
    )
    return answer.experiment.record()


def experiment_named(session: Session, name: str) -> Experiment:
    """Return the experiment of that name as it is now.

    Raises:
        ServerError: There is none, or the server refused.
    """
    answer: records.RestExperimentAnswer = session.get(
        f"{API}experiments/get-by-name",
        params={"experiment_name": name},
        type=records.RestExperimentAnswer,
        what=f"experiment {name!r}",
    )
    return answer.experiment.record()
