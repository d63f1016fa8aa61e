"""Single logged models of a server as records: deleted ones too, which no listing shows."""

from __future__ import annotations

from urllib.parse import quote

from mlflow_bundle.entities import LoggedModel
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest import records
from mlflow_bundle.rest.session import API, Session


def get_logged_model(session: Session, model_id: str) -> LoggedModel | None:
    """Return one logged model, deleted or not; None when the server shows none of that id.

    Raises:
        ServerError: The server refused.
    """
    model = _get(session, model_id, {})
    return get_deleted_model(session, model_id) if model is None else model.record()


def get_deleted_model(session: Session, model_id: str) -> LoggedModel | None:
    """Return one logged model that is known not to be an active one.

    MLflow 3.7 and newer show it to who asks for a deleted one; from older servers comes None.

    Raises:
        ServerError: The server refused.
    """
    model = _get(session, model_id, {"allow_deleted": "true"})
    return None if model is None else model.record("deleted")


def _get(session: Session, model_id: str, params: dict[str, str]) -> records.RestLoggedModel | None:
    try:
        answer: records.RestLoggedModelAnswer = session.get(
            f"{API}logged-models/{quote(model_id, safe='')}",
            params=params,
            type=records.RestLoggedModelAnswer,
            what=f"logged model {model_id}",
        )
    except ServerError as exc:
        if session.is_missing(exc):
            return None
        raise
    return answer.model
