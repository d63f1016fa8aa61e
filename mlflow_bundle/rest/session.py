"""Requests to one MLflow server, through MLflow's own client layer.

Authentication, TLS settings, request headers and plugins are those of `mlflow.utils.rest_utils`;
this module adds counting, our errors, and plain JSON instead of protobuf, which is several times
faster for long listings.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO, NoReturn

import mlflow.environment_variables as environment
import msgspec
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils import request_utils
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.databricks_utils import get_databricks_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import is_databricks_uri

from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.fast_client import quicken, remember_absent_modules

API = "/api/2.0/mlflow/"
AJAX = "/ajax-api/2.0/mlflow/"
API_3 = "/api/3.0/mlflow/"

Json = Any
"""A decoded JSON value whose shape the caller checks."""

_RETRIED = frozenset({408, 429, 502, 503, 504})
# MLflow's client retries 500 as well: for minutes, on requests that can never succeed.

_ABSENT = frozenset(
    {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
)
_NOTHING_DONE = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_ONCE_PAUSES_S = (0.5, 1, 2, 4)
_CREDENTIALS_S = 60
_MAX_RETRIES = 5
_BACKOFF_FACTOR = 1


class Session:
    """One MLflow server.

    Args:
        uri: Tracking URI: ``http(s)://…`` or ``databricks…``.
        error: What is raised when the server fails: ``SourceError`` or ``SinkError``.
        jobs: Requests at once, for the connection pool.
    """

    def __init__(self, uri: str, *, error: type[ServerError], jobs: int = 8) -> None:
        self.uri = uri.rstrip("/")
        self.shown_uri = mask_uri(self.uri)
        self.requests = 0
        self._error = error
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._credentials_until = 0.0
        # More connections than the pool holds would be closed after each request.
        os.environ.setdefault("MLFLOW_HTTP_POOL_MAXSIZE", str(4 * jobs))
        retries = environment.MLFLOW_HTTP_REQUEST_MAX_RETRIES
        factor = environment.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR
        self._max_retries = retries.get() if retries.is_set() else _MAX_RETRIES
        self._backoff_factor = factor.get() if factor.is_set() else _BACKOFF_FACTOR
        self._quicken()

    def _quicken(self) -> None:
        """Prepare the session that MLflow's client will use for these very settings."""
        remember_absent_modules()
        try:
            for max_retries in (self._max_retries, 0):
                quicken(
                    request_utils._get_request_session(
                        max_retries,
                        self._backoff_factor,
                        environment.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get(),
                        _RETRIED,
                        False,
                        environment.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get(),
                    )
                )
        except (AttributeError, TypeError):
            # Another MLflow arranges its sessions in another way: only slower.
            return

    def _host_credentials(self) -> Any:
        now = time.monotonic()
        if now >= self._credentials_until:
            make = (
                get_databricks_host_creds if is_databricks_uri(self.uri) else get_default_host_creds
            )
            try:
                self._credentials = make(self.uri)
            except MlflowException as exc:
                raise self._error(f"{self.shown_uri}: {exc.message}") from exc
            self._credentials_until = now + _CREDENTIALS_S
        return self._credentials

    def request(
        self,
        method: str,
        endpoint: str,
        *,
        params: Mapping[str, Any] | list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        data: BinaryIO | bytes | None = None,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        max_retries: int | None = None,
        timeout_s: float | None = None,
    ) -> requests.Response:
        """Send one request and return the answer, whatever its status.

        Args:
            method: HTTP method.
            endpoint: Path below the tracking URI, beginning with a slash.
            params: Query parameters.
            body: JSON text.
            data: Raw content to upload.
            stream: Whether the answer's content is left unread; the caller closes it.
            headers: More request headers.
            max_retries: Retries after connection failures and statuses that say "later".
            timeout_s: Seconds to wait for a connection or the next bytes.

        Raises:
            ServerError: The server could not be reached: ``status`` is None.
        """
        with self._lock:
            self.requests += 1
        sent: dict[str, Any] = {"params": params} if params is not None else {}
        extra = dict(headers or {})
        if body is not None:
            sent["data"] = body
            extra["Content-Type"] = "application/json"
        elif data is not None:
            sent["data"] = data
        if stream:
            sent["stream"] = True
        try:
            response: requests.Response = http_request(
                self._host_credentials(),
                endpoint,
                method,
                max_retries=self._max_retries if max_retries is None else max_retries,
                backoff_factor=self._backoff_factor,
                retry_codes=_RETRIED,
                raise_on_status=False,
                extra_headers=extra,
                timeout=timeout_s,
                **sent,
            )
        except MlflowException as exc:
            raise self._unreachable(exc) from exc
        return response

    def _unreachable(self, exc: MlflowException) -> ServerError:
        text = exc.message
        if "Connection refused" in text:
            reason = "connection refused"
        elif "Name or service not known" in text or "Failed to resolve" in text:
            reason = "unknown host"
        elif "timed out" in text.lower():
            reason = "no answer in time"
        elif "certificate" in text.lower():
            reason = "its TLS certificate was not accepted"
        else:
            reason = text.rpartition("exception ")[2] or text
        return self._error(
            f"cannot reach the MLflow server {self.shown_uri}: {_one_line(reason)}",
            retryable=True,
            hint="is it running? --tracking-uri or MLFLOW_TRACKING_URI names it",
        )

    def call(
        self,
        method: str,
        endpoint: str,
        *,
        params: Mapping[str, Any] | list[tuple[str, str]] | None = None,
        json_body: Any = None,
        type: Any = None,
        what: str = "",
        once: bool = False,
    ) -> Json:
        """Send one request and return its decoded JSON.

        Args:
            method: HTTP method.
            endpoint: Path below the tracking URI.
            params: Query parameters.
            json_body: Sent as JSON.
            type: A msgspec type to decode to; plain Python values otherwise.
            what: The object the request is about, for the error.
            once: Whether doing it twice would make two of something: then it is repeated only
                when the server says that it did nothing.

        Raises:
            ServerError: The server refused or could not be reached.
        """
        body = None if json_body is None else msgspec.json.encode(json_body)
        pauses_s = list(_ONCE_PAUSES_S) if once else []
        while True:
            response = self.request(
                method, endpoint, params=params, body=body, max_retries=0 if once else None
            )
            if response.status_code not in _NOTHING_DONE or not pauses_s:
                break
            response.close()
            time.sleep(pauses_s.pop(0))
        if not response.ok:
            self.refuse(response, what or endpoint)
        return self._decode(response, type, what or endpoint)

    def get(self, endpoint: str, **options: Any) -> Json:
        """``GET`` and decode; see :meth:`call`."""
        return self.call("GET", endpoint, **options)

    def post(self, endpoint: str, json_body: Any, **options: Any) -> Json:
        """``POST`` and decode; see :meth:`call`."""
        return self.call("POST", endpoint, json_body=json_body, **options)

    def _decode(self, response: requests.Response, type: Any, what: str) -> Json:
        content = response.content
        try:
            return msgspec.json.decode(content, type=type or Any)
        except msgspec.ValidationError as exc:
            raise self._error(f"{what}: unexpected answer of {self.shown_uri}: {exc}") from exc
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                # Some handlers answer with bare NaN, which strict JSON has not.
                value = json.loads(content)
                return value if type is None else msgspec.convert(value, type)
            except (ValueError, msgspec.ValidationError) as exc:
                raise self._error(
                    f"{self.shown_uri} does not answer like an MLflow server ({what})",
                    status=response.status_code,
                    hint="check the tracking URI",
                ) from exc

    def refuse(self, response: requests.Response, what: str) -> NoReturn:
        """Raise the error that an answer stands for."""
        error_code, message = "", ""
        try:
            answer = response.json()
            error_code = str(answer.get("error_code", ""))
            message = str(answer.get("message", ""))
        except (ValueError, AttributeError):
            message = re.sub(r"<[^>]*>", " ", response.text)[:200]
        status = response.status_code
        response.close()
        hint = ""
        if not error_code and status not in _RETRIED:
            # Not in MLflow's words: perhaps no MLflow server answers there.
            what, hint = f"{self.shown_uri}: {what}", "check the tracking URI"
        if status == HTTPStatus.UNAUTHORIZED:
            hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token"
        elif status == HTTPStatus.FORBIDDEN:
            hint = "ask for the permission, or leave the object out of the selection"
        raise self._error(
            f"{what}: {status} {error_code or response.reason}: {_one_line(message)}".rstrip(": "),
            status=status,
            error_code=error_code,
            retryable=status in _RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR,
            hint=hint,
        )

    def broken(self, exc: Exception) -> ServerError:
        """The error for a connection that broke while content was read."""
        return self._error(
            f"connection to {self.shown_uri} broke: {_one_line(str(exc))}",
            status=HTTPStatus.BAD_GATEWAY,
            retryable=True,
        )

    def store_failed(self, uri: str, exc: Exception) -> ServerError:
        """The error for an artifact store that refused or could not be reached."""
        if isinstance(exc, ModuleNotFoundError):
            message = f"reading it needs the Python package {exc.name!r}"
        elif isinstance(exc, MlflowException):
            message = exc.message
        else:
            message = f"{type(exc).__name__}: {exc}"
        return self._error(
            f"{mask_uri(uri)}: {_one_line(message)}", status=HTTPStatus.BAD_GATEWAY, retryable=True
        )

    def iter_pages(
        self,
        method: str,
        endpoint: str,
        query: dict[str, Any],
        *,
        type: Any = None,
        what: str = "",
    ) -> Iterator[Json]:
        """Yield the pages of a listing, following ``page_token``.

        Raises:
            ServerError: A page could not be read, or a token comes twice.
        """
        token: str | None = None
        seen: set[str] = set()
        while True:
            asked = dict(query) if token is None else {**query, "page_token": token}
            if method == "GET":
                page = self.call("GET", endpoint, params=asked, type=type, what=what)
            else:
                page = self.call(method, endpoint, json_body=asked, type=type, what=what)
            yield page
            token = page.next_page_token if type is not None else page.get("next_page_token")
            if not token:
                return
            if token in seen:
                raise self._error(f"{what or endpoint}: the server gives the same page again")
            seen.add(token)

    def probe(self) -> tuple[int, ...]:
        """Return the server's version, e.g. ``(3, 17, 2)``; empty when it does not tell.

        MLflow 2.0 has no ``/version``; hosted servers may hide it and have everything all the same.

        Raises:
            ServerError: The server cannot be reached.
        """
        response = self.request("GET", "/version", max_retries=1, timeout_s=30)
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", response.text) if response.ok else None
        if match:
            return tuple(int(part or 0) for part in match.groups())
        if response.status_code == HTTPStatus.NOT_FOUND and not self._knows_logged_models():
            return (2, 0, 0)
        return ()

    def _knows_logged_models(self) -> bool:
        try:
            self.post(f"{API}logged-models/search", {"experiment_ids": ["0"], "max_results": 1})
        except ServerError as exc:
            if exc.status is None:
                raise
            return not self.is_absent(exc)
        return True

    @staticmethod
    def is_missing(error: ServerError) -> bool:
        """Whether an error says that the server has no such object."""
        return error.status == HTTPStatus.NOT_FOUND or error.error_code == "RESOURCE_DOES_NOT_EXIST"

    @staticmethod
    def is_absent(error: ServerError) -> bool:
        """Whether an error says that the server does not know the endpoint (not the object)."""
        return error.status in _ABSENT and error.error_code in ("", "ENDPOINT_NOT_FOUND")


def since(version: tuple[int, ...], *first: int) -> bool:
    """Whether a server has what came with version ``first``; one that does not tell has it all."""
    return not version or version >= first


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
