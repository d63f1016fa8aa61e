"""An artifact store that is waited for when it goes away, as a server is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mlflow_bundle.patience import Patience, duration

ResultT = TypeVar("ResultT")

_TRIES = 5
"""How often an operation is begun that meets a store which goes away again and again."""

_AWAY = frozenset(
    {
        "ConnectTimeout",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "MaxRetryError",
        "NewConnectionError",
        "ReadTimeout",
        "ReadTimeoutError",
        "ServiceRequestError",
        "TransportError",
    }
)
"""What clients of stores raise when nobody answers: of botocore, urllib3, requests, Azure, Google.
By name, since few of them are installed."""


class StoreAwayError(Exception):
    """A store that had answered does not answer any more, and was waited for in vain."""


class PatientRepository:
    """One of MLflow's artifact repositories, that of a store which may go away for a while.

    A store that has never answered is not waited for: its address may be of the past.

    Args:
        uri: Root of the repository.
        make: Makes it.
        patience: How long the store may be away.
        answered: Stores that have answered; shared by all repositories of a command.
    """

    def __init__(
        self, uri: str, make: Callable[[], Any], *, patience: Patience, answered: set[str]
    ) -> None:
        parts = urlsplit(uri)
        self._store = f"{parts.scheme}://{parts.hostname or ''}"
        self._make = make
        self._made: Any = None
        self._patience = patience
        self._answered = answered

    def list_artifacts(self, path: str | None) -> Any:
        """As of MLflow's."""
        return self._do(lambda repository: repository.list_artifacts(path))

    def _download_file(self, path: str, local: str) -> None:
        self._do(lambda repository: repository._download_file(path, local))

    def log_artifact(self, local: str, directory: str | None) -> None:
        """As of MLflow's."""
        self._do(lambda repository: repository.log_artifact(local, directory))

    def _repository(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _do(self, operation: Callable[[Any], ResultT]) -> ResultT:
        left = _TRIES
        while True:
            try:
                result = operation(self._repository())
            except Exception as exc:
                left -= 1
                fault = _fault(exc)
                if not fault or self._store not in self._answered or not left:
                    raise
                if not self._patience.outlast(self._store, fault, self._answers):
                    limit = duration(self._patience.limit_s)
                    raise StoreAwayError(
                        f"cannot reach the artifact store {self._store} any more, and waited "
                        f"{limit} for it: {fault}"
                    ) from exc
            else:
                self._answered.add(self._store)
                return result

    def _answers(self) -> bool:
        try:
            self._repository().list_artifacts(None)
        except Exception as exc:
            return not _fault(exc)
        return True


def _fault(exc: BaseException | None) -> str:
    """Return what is said of a store that nobody answers for; empty if it was reached."""
    while exc is not None:
        name = type(exc).__name__
        if name in _AWAY or isinstance(exc, ConnectionError | TimeoutError):
            return name
        exc = exc.__cause__ or exc.__context__
    return ""
