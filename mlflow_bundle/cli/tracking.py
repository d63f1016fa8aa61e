"""Which MLflow server a command talks to, and as whom."""

from __future__ import annotations

import getpass

from mlflow_bundle.errors import SelectionError

_REST_SCHEMES = ("http://", "https://", "databricks")


def tracking_uri(given: str | None) -> str:
    """Return the tracking URI: the one given, else MLflow's own.

    Raises:
        SelectionError: It is no server that can be reached over HTTP.
    """
    import mlflow

    uri = given if given is not None else mlflow.get_tracking_uri()
    if not uri.startswith(_REST_SCHEMES):
        from mlflow_bundle.credentials import mask_uri

        raise SelectionError(
            f"the tracking URI {mask_uri(uri)!r} is no MLflow server (http:// or https://)",
            hint="give --tracking-uri or set MLFLOW_TRACKING_URI, e.g. http://localhost:5000",
        )
    return uri


def importing_user() -> str:
    """Return the name that MLflow would give a run of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
