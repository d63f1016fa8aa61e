"""Requests to one MLflow server, through MLflow's own client layer.

Authentication, TLS settings, request headers and plugins are those of `mlflow.utils.rest_utils`;
this module adds counting, our errors, and plain JSON instead of protobuf, which is several times
faster for long listings.

It also repeats what failed, in the place of MLflow's client: only here is it known whether one
request fails or the server is away (`patience.py`), and whether a request may be made twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, BinaryIO, NoReturn, TypeAlias
from urllib.parse import urlsplit

import mlflow.environment_variables as environment
import msgspec
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils import request_utils
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.databricks_utils import get_databricks_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import is_databricks_uri

from mlflow_bundle.artifacts import is_full, store_failure
from mlflow_bundle.credentials import mask_uri, mask_uris_in
from mlflow_bundle.decoding import prepared
from mlflow_bundle.errors import MAKE_ROOM, ServerError
from mlflow_bundle.patience import Patience, duration
from mlflow_bundle.rest.fast_client import quicken, remember_absent_modules

API = "/api/2.0/mlflow/"
AJAX = "/ajax-api/2.0/mlflow/"
API_3 = "/api/3.0/mlflow/"
WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"

Json = Any
"""A decoded JSON value whose shape the caller checks."""

_Answer: TypeAlias = requests.Response | MlflowException
"""What an attempt brought: an answer, or why there is none."""

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_AWAY = frozenset({502, 503, 504})

_DATABRICKS_HOSTS = (".databricks.com", ".azuredatabricks.net", ".databricks.us")

_ABSENT = frozenset(
    {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
)
_NO_CONNECTION = b"QueuePool limit of size"
"""Said by a server of which all connections to its database are in use, for 30 seconds."""
_NOTHING_DONE = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_CREDENTIALS_S = 60
_MAX_RETRIES = 5
_BACKOFF_FACTOR = 1
_LONGEST_BACKOFF_S = 10.0
_MOST_OF_ERRORS = 2
# MLflow's client repeats a 500 for minutes; most such requests can never succeed.
_PROBE_TIMEOUT_S = 30
_MOST_OF_STRANGERS = 1
# A server that never answered is a wrong URI more often than one that is coming up.


class Session:
    """One MLflow server.

    Args:
        uri: Tracking URI: ``http(s)://…`` or ``databricks…``.
        error: What is raised when the server fails: ``SourceError`` or ``SinkError``.
        jobs: Requests at once, for the connection pool.
        workspace: The workspace that every request speaks of; None leaves it to MLflow's client
            and the server, and is all that a server without workspaces understands.
        patience: How long the server may be away; shared by all sessions of a command.
    """

    def __init__(
        self,
        uri: str,
        *,
        error: type[ServerError],
        jobs: int = 8,
        workspace: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.uri = uri.rstrip("/")
        self.shown_uri = mask_uri(self.uri)
        self.requests = 0
        host = urlsplit(self.uri).hostname or ""
        self.is_databricks = is_databricks_uri(self.uri) or host.endswith(_DATABRICKS_HOSTS)
        """Whether this is a Databricks workspace and not an MLflow server."""
        self.logged_models_per_page = 50 if self.is_databricks else 1000
        """Largest page of a search that the server gives."""
        self.workspace = workspace
        self._error = error
        self._patience = patience or Patience()
        self._has_answered = False
        self._is_direct: bool | None = None
        """Whether files pass the server by; None while nobody has asked."""
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
            quicken(
                request_utils._get_request_session(
                    0,
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
                if self._credentials.token:
                    # Databricks' own client tells neither an error's status nor a text's.
                    self._credentials.use_databricks_sdk = False
            except MlflowException as exc:
                raise self._error(f"{self.shown_uri}: {exc.message}") from exc
            self._credentials_until = now + _CREDENTIALS_S
        return self._credentials

    @property
    def has_credentials(self) -> bool:
        """Whether requests carry credentials (a header that a plugin adds is not seen here)."""
        credentials = self._host_credentials()
        names = ("username", "token", "auth")
        return any(getattr(credentials, name, None) for name in names)

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
        once: bool = False,
        timeout_s: float | None = None,
    ) -> requests.Response:
        """Send one request, again where that may help, and return the answer, whatever its status.

        A server that answered before and is away now is waited for.

        Args:
            method: HTTP method.
            endpoint: Path below the tracking URI, beginning with a slash.
            params: Query parameters.
            body: JSON text.
            data: Raw content to upload; a stream is sent once, for the first attempt reads it.
            stream: Whether the answer's content is left unread; the caller closes it.
            headers: More request headers.
            once: Whether doing it twice would make two of something: then it is repeated only
                when the server did nothing.
            timeout_s: Seconds to wait for a connection or the next bytes.

        Raises:
            ServerError: The server could not be reached, and ``status`` is None; or it is there
                and the connection broke each time.
        """
        sent: dict[str, Any] = {"params": _as_dict(params)} if params is not None else {}
        extra = dict(headers or {})
        if self.workspace is not None:
            # MLflow's client adds the header of MLFLOW_WORKSPACE only where there is none.
            extra[WORKSPACE_HEADER] = self.workspace
        if body is not None:
            sent["data"] = body
            extra["Content-Type"] = "application/json"
        elif data is not None:
            sent["data"] = data
        if stream:
            sent["stream"] = True
        sent |= {"extra_headers": extra, "timeout": timeout_s}
        is_spent = data is not None and not isinstance(data, bytes)
        began = self._patience.clock()
        failures = 0
        while True:
            answer = self._attempt(method, endpoint, sent)
            status = _status(answer)
            if status is not None and status not in _AWAY:
                self._has_answered = True
            elif self._has_answered:
                self._outlast(answer)
            failures += 1
            pause_s = max(self._backoff_s(failures), _retry_after_s(answer))
            if (
                is_spent
                or (once and not _did_nothing(answer))
                or not self._may_repeat(status, failures, self._patience.clock() - began + pause_s)
                or not self._patience.pause(pause_s)
            ):
                break
            if isinstance(answer, requests.Response):
                answer.close()
        if isinstance(answer, MlflowException):
            raise (self.broken(answer) if self._has_answered else self._unreachable(answer))
        return answer

    def _attempt(self, method: str, endpoint: str, sent: Mapping[str, Any]) -> _Answer:
        with self._lock:
            self.requests += 1
        try:
            response: requests.Response = http_request(
                self._host_credentials(),
                endpoint,
                method,
                max_retries=0,
                backoff_factor=self._backoff_factor,
                retry_codes=_RETRIED,
                raise_on_status=False,
                **sent,
            )
        except MlflowException as exc:
            return exc
        if response.status_code == HTTPStatus.BAD_REQUEST and _NO_CONNECTION in response.content:
            response.status_code = HTTPStatus.TOO_MANY_REQUESTS  # what MLflow means
        if response.request.method != method:
            # As browsers do it, 301 and 302 turn what was to be posted into a GET.
            response.close()
            target = mask_uri(response.url.partition("?")[0].removesuffix(endpoint))
            raise self._error(
                f"{self.shown_uri} redirects to {target}, which loses what was sent",
                status=response.history[0].status_code,
                hint="give the address that it redirects to as the tracking URI",
            )
        return response

    def _backoff_s(self, failures: int) -> float:
        return float(min(self._backoff_factor * 2.0 ** (failures - 2), _LONGEST_BACKOFF_S))

    def _may_repeat(self, status: int | None, failures: int, after_s: float) -> bool:
        """Whether a request that failed so often is sent again, so long after it was sent first."""
        if status is not None and status not in _RETRIED:
            return False
        if not self._has_answered:
            return failures <= min(self._max_retries, _MOST_OF_STRANGERS)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            # As long as a server that is away: it asks for patience.
            return after_s <= self._patience.limit_s
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return failures <= min(self._max_retries, _MOST_OF_ERRORS)
        return failures <= self._max_retries

    def _outlast(self, seen: _Answer) -> None:
        """Return when the server answers.

        Raises:
            ServerError: It did not in all the time that it was given.
        """
        if isinstance(seen, MlflowException):
            fault = _fault(seen)
        else:
            fault = f"{seen.status_code} {seen.reason}"
        if not self._patience.outlast(self.shown_uri, fault, self._answers):
            limit_s = self._patience.limit_s
            lasted = f" for {duration(limit_s)}" if limit_s else ""
            raise self._error(
                f"cannot reach the MLflow server {self.shown_uri}{lasted}: {fault}",
                retryable=True,
                hint="when it is back, give the same command again: it goes on where it was; "
                "--retry-for waits longer",
            )

    def _answers(self) -> bool:
        """Whether the server answers, and its database behind it."""
        answer = self._attempt(
            "GET",
            f"{API}experiments/get",
            {"params": {"experiment_id": "0"}, "timeout": _PROBE_TIMEOUT_S},
        )
        return not isinstance(answer, MlflowException) and answer.status_code not in _AWAY

    def in_workspace(self) -> contextlib.AbstractContextManager[object]:
        """Make this workspace the one that MLflow's own client uses, in this thread."""
        if self.workspace is None:
            return contextlib.nullcontext()
        # Not MLflow's WorkspaceContext: that one changes the environment of every thread.
        from mlflow.utils.workspace_context import ServerWorkspaceContext

        context: contextlib.AbstractContextManager[object] = ServerWorkspaceContext(self.workspace)
        return context

    def _unreachable(self, exc: MlflowException) -> ServerError:
        return self._error(
            f"cannot reach the MLflow server {self.shown_uri}: {_fault(exc)}",
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
            once: As of :meth:`request`.

        Raises:
            ServerError: The server refused or could not be reached.
        """
        body = None if json_body is None else msgspec.json.encode(json_body)
        response = self.request(method, endpoint, params=params, body=body, once=once)
        if not response.ok:
            self.refuse(response, what or endpoint)
        return self._decode(response, type, what or endpoint)

    def get(self, endpoint: str, **options: Any) -> Json:
        """``GET`` and decode; see :meth:`call`."""
        return self.call("GET", endpoint, **options)

    def post(self, endpoint: str, json_body: Any, **options: Any) -> Json:
        """``POST`` and decode; see :meth:`call`."""
        return self.call("POST", endpoint, json_body=json_body, **options)

    def upload(
        self, endpoint: str, data: bytes, *, content_type: str, type: Any, what: str
    ) -> Json:
        """``POST`` what is no JSON, once as of :meth:`request`, and decode the answer."""
        headers = {"Content-Type": content_type}
        response = self.request("POST", endpoint, data=data, headers=headers, once=True)
        if not response.ok:
            self.refuse(response, what)
        return self._decode(response, type, what)

    def remove(
        self, endpoint: str, json_body: Any = None, *, method: str = "DELETE", what: str
    ) -> None:
        """Have something deleted; see :meth:`call`.

        What is gone already is no error: an earlier attempt may have done it whose answer got lost.
        """
        try:
            self.call(method, endpoint, json_body=json_body, what=what)
        except ServerError as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _decode(self, response: requests.Response, type: Any, what: str) -> Json:
        content = response.content
        try:
            return msgspec.json.decode(content, type=prepared(type or Any))
        except msgspec.ValidationError as exc:
            raise self._error(
                f"{what}: unexpected answer of {self.shown_uri}: {exc}", status=response.status_code
            ) from exc
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                # Some handlers answer with bare NaN, which strict JSON has not.
                value = json.loads(content)
                return value if type is None else msgspec.convert(value, prepared(type))
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
            error_code = str(answer.get("error_code") or "")
            message = str(answer.get("message") or "")
        except (ValueError, AttributeError):
            message = re.sub(r"<[^>]*>", " ", response.text)[:200]
        status = response.status_code
        response.close()
        hint = ""
        refused = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        is_answer = status == HTTPStatus.INTERNAL_SERVER_ERROR or status not in _RETRIED
        if not error_code and is_answer and not refused:
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
        fault = _fault(exc) if isinstance(exc, MlflowException) else _one_line(str(exc))
        return self._error(
            f"connection to {self.shown_uri} broke: {fault}",
            status=HTTPStatus.BAD_GATEWAY,
            retryable=True,
        )

    def garbled(self, what: str, exc: Exception) -> ServerError:
        """The error for one object whose text is not what it should be."""
        return self._error(
            f"{what}: unexpected answer of {self.shown_uri}: {_one_line(str(exc))}",
            status=HTTPStatus.BAD_GATEWAY,
        )

    def store_failed(self, uri: str, exc: Exception) -> ServerError:
        """The error for an artifact store that refused or could not be reached."""
        if is_full(exc):
            return self._error(store_failure(uri, exc), hint=MAKE_ROOM)
        return self._error(store_failure(uri, exc), status=HTTPStatus.BAD_GATEWAY, retryable=True)

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
        response = self.request("GET", "/version", timeout_s=30)
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

    def server_info(self) -> Mapping[str, Any]:
        """Return what the server says of itself, whatever ``MLFLOW_WORKSPACE`` is (MLflow 3.10).

        Raises:
            ServerError: It refused, or cannot be reached; one that does not know this says nothing.
        """
        try:
            answer = self.get(f"{API_3}server-info", what="server info")
        except ServerError as exc:
            if exc.status is None or not self.is_absent(exc):
                raise
            return {}
        return answer if isinstance(answer, dict) else {}

    def is_direct(self, refusal: ServerError | None = None) -> bool:
        """Whether files pass the server by, at URLs of its store that it signs (MLflow 3.18).

        Args:
            refusal: What it said when it was asked to let one through; without it nothing is
                asked, and the answer is what is known.
        """
        is_refused = refusal is not None and refusal.status == HTTPStatus.FORBIDDEN
        if self._is_direct is None and is_refused:
            self._is_direct = bool(self.server_info().get("artifacts_presigned_only"))
        return bool(self._is_direct)

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


def _as_dict(params: Mapping[str, Any] | list[tuple[str, str]]) -> Mapping[str, Any]:
    """Query parameters with the values of a repeated one as a list, as every client takes them."""
    if not isinstance(params, list):
        return params
    values: dict[str, list[str]] = {}
    for name, value in params:
        values.setdefault(name, []).append(value)
    return values


def _status(answer: _Answer) -> int | None:
    return answer.status_code if isinstance(answer, requests.Response) else None


def _did_nothing(answer: _Answer) -> bool:
    """Whether a server that did not do what it was asked cannot have done it all the same."""
    if isinstance(answer, MlflowException):
        return "Connection refused" in answer.message
    return answer.status_code in _NOTHING_DONE


def _fault(exc: MlflowException) -> str:
    """What an attempt met that got no answer, in a few words."""
    text = exc.message
    if "Connection refused" in text:
        return "connection refused"
    if "Name or service not known" in text or "Failed to resolve" in text:
        return "unknown host"
    if "timed out" in text.lower():
        return "no answer in time"
    if "certificate" in text.lower():
        return "its TLS certificate was not accepted"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "it answers without TLS (http://, not https://)"
    if any(word in text for word in ("RemoteDisconnected", "reset by peer", "Broken pipe")):
        return "connection closed"
    if "IncompleteRead" in text:
        return "the answer ended too early"
    return _one_line(text.rpartition("exception ")[2] or text)


def _retry_after_s(answer: _Answer) -> float:
    """Seconds that an answer asks to wait; 0 when it does not say."""
    if isinstance(answer, MlflowException):
        return 0.0
    if not environment.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get():
        return 0.0
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _one_line(text: str) -> str:
    return mask_uris_in(" ".join(text.split()))[:300]
