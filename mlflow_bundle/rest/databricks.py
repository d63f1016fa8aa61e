"""What a Databricks workspace does in another way than an MLflow server, for imports."""

from __future__ import annotations

import posixpath

from mlflow_bundle.errors import ServerError, SinkError
from mlflow_bundle.rest.session import Session

SET_BY_DATABRICKS = frozenset(
    {
        "mlflow.experiment.sourceId",
        "mlflow.experiment.sourceType",
        "mlflow.log-model.history",
        "mlflow.rootRunId",
        "mlflow.user",
    }
)
"""Tags that nobody can set there, or that name objects of another workspace: an experiment whose
source is a notebook that is not there cannot be made. Those that mlflow-export-import leaves out.
"""

_MKDIRS = "/api/2.0/workspace/mkdirs"


def is_reserved_tag(error: ServerError) -> bool:
    """Whether an error says that one more tag can be set by Databricks alone."""
    return "Cannot update tag" in error.message


def make_parent(session: Session, name: str) -> None:
    """Make the workspace directory in which an experiment is to be.

    Raises:
        ServerError: The name is no path of a workspace, or the directory cannot be made.
    """
    if not name.startswith("/"):
        raise SinkError(
            f"experiment {name!r}: Databricks names experiments by their path in the workspace; "
            "--experiment-name-prefix /Users/you@example.org/ makes it one",
            status=400,
        )
    parent = posixpath.dirname(name)
    if parent != "/":
        session.post(_MKDIRS, {"path": parent}, what=f"directory {parent}")
