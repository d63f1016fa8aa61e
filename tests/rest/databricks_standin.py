"""A Databricks workspace on this machine: its own API, in front of a real MLflow server.

What Databricks has instead of MLflow's or besides it is answered here as its documentation says:
bearer tokens, ``/api/2.0/workspace/export`` and ``mkdirs``, the files API that holds artifacts,
experiments that are named by a path whose directory exists, tags and users that only Databricks
sets, pages of at most 50 logged models, and no ``/version``, ``/graphql`` or ``/ajax-api``. All
else is passed on to the MLflow server, with artifact locations below
``dbfs:/databricks/mlflow-tracking/``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import posixpath
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import requests

USER = "importer@example.org"
TOKEN = "dapi-0123456789"
ROOT = "dbfs:/databricks/mlflow-tracking/"

_PROXY = "/api/2.0/mlflow-artifacts/artifacts"
_FILES = "/WorkspaceInternal/Mlflow/Artifacts/"
_ABSENT = ("/version", "/graphql", "/ajax-api/", "/get-artifact", _PROXY)
_THERE, _HERE = ROOT.encode(), b"mlflow-artifacts:/"
_MODEL_THERE = re.compile(rb"(mlflow-tracking/\d+/)logged_models/(m-[0-9a-f]{32})")
_MODEL_HERE = re.compile(rb"(mlflow-artifacts:/\d+/)models/(m-[0-9a-f]{32})/artifacts")
_EXTENSIONS = {"SOURCE": "py", "HTML": "html", "JUPYTER": "ipynb", "DBC": "dbc"}

Json = dict[str, Any]


@dataclass
class Workspace:
    """The stand-in and what it was asked.

    Attributes:
        uri: Where it listens.
        backend: URI of the MLflow server.
        notebooks: Content by path, revision and format; a str is the error code it answers with.
        refused_tags: Tags that no run can be given.
        directories: Those that exist.
        asked: Method and path of each request.
    """

    uri: str
    backend: str
    notebooks: dict[tuple[str, str, str], bytes | str] = field(default_factory=dict)
    refused_tags: set[str] = field(
        default_factory=lambda: {"mlflow.user", "mlflow.log-model.history", "mlflow.rootRunId"}
    )
    directories: set[str] = field(default_factory=lambda: {"/", "/Users"})
    asked: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """What points MLflow's client here when the tracking URI is ``databricks``."""
        return {"DATABRICKS_HOST": self.uri, "DATABRICKS_TOKEN": TOKEN}


class _RefusedError(Exception):
    def __init__(self, status: int, error_code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = json.dumps({"error_code": error_code, "message": message}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    workspace: Workspace
    backend: requests.Session

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.workspace.asked.append(f"{self.command} {path}")
        try:
            if path == "/.well-known/databricks-config":
                self._json({"oidc_endpoint": f"{self.workspace.uri}/oidc", "workspace_id": "7"})
                return
            if path.startswith(_ABSENT):
                self._answer(404, b"<html>not found</html>", "text/html")
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise _RefusedError(403, "PERMISSION_DENIED", "Invalid access token.")
            if path == "/api/2.0/workspace/export":
                self._json(self._export(self._query(body)))
            elif path == "/api/2.0/workspace/mkdirs":
                self._make_directories(json.loads(body)["path"])
            elif path.startswith("/api/2.0/fs/"):
                self._files(unquote(path), body)
            else:
                self._check(path, body)
                self._pass_on(body)
        except _RefusedError as refused:
            self._answer(refused.status, refused.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do  # noqa: N815

    def _query(self, body: bytes) -> Json:
        """Parameters of a GET: in its address, or as JSON in its body."""
        return dict(parse_qsl(urlsplit(self.path).query)) | (json.loads(body) if body else {})

    def _export(self, query: Json) -> Json | bytes:
        path, format = query.get("path", ""), query.get("format", "SOURCE")
        if not path.startswith("/"):
            raise _RefusedError(400, "BAD_REQUEST", f"Path ({path}) doesn't start with '/'")
        if format not in _EXTENSIONS:
            raise _RefusedError(400, "MALFORMED_REQUEST", f"Invalid format {format}")
        revision = str(query.get("revision", {}).get("revision_timestamp", "latest"))
        content = self.workspace.notebooks.get((path, revision, format))
        if content is None:
            raise _RefusedError(404, "RESOURCE_DOES_NOT_EXIST", f"Path ({path}) doesn't exist.")
        if isinstance(content, str):
            raise _RefusedError(400, content, "The notebook is larger than 10485760 bytes")
        if query.get("direct_download") in (True, "true"):
            return content
        text = base64.b64encode(content).decode()
        return {"content": text, "file_type": _EXTENSIONS[format]}

    def _make_directories(self, path: str) -> None:
        while path not in self.workspace.directories:
            self.workspace.directories.add(path)
            path = posixpath.dirname(path)
        self._json({})

    def _check(self, path: str, body: bytes) -> None:
        """Refuse what Databricks refuses and MLflow does not."""
        sent: Json = json.loads(body) if body else {}
        tags = [tag["key"] for tag in sent.get("tags", ())]
        if path.endswith("runs/set-tag"):
            tags = [sent["key"]]
        for tag in tags:
            if "/runs/" in path and tag in self.workspace.refused_tags:
                message = f"Cannot update tag '{tag}'"
                raise _RefusedError(400, "INVALID_PARAMETER_VALUE", message)
        if path.endswith("experiments/create"):
            name = sent["name"]
            if not name.startswith("/"):
                message = f"Got an invalid experiment name '{name}'. An experiment name must be an "
                raise _RefusedError(400, "INVALID_PARAMETER_VALUE", message + "absolute path")
            if posixpath.dirname(name) not in self.workspace.directories:
                message = f"Parent directory of {name} does not exist."
                raise _RefusedError(404, "RESOURCE_DOES_NOT_EXIST", message)
        if path.endswith("logged-models/search") and sent.get("max_results", 0) > 50:
            message = "Invalid value for parameter 'max_results'; at most 50"
            raise _RefusedError(400, "INVALID_PARAMETER_VALUE", message)

    def _pass_on(self, body: bytes) -> None:
        if body and urlsplit(self.path).path.endswith("runs/create"):
            body = json.dumps(json.loads(body) | {"user_id": USER}).encode()
        answer = self.backend.request(
            self.command,
            self.workspace.backend + self.path,
            data=_MODEL_THERE.sub(rb"\1models/\2/artifacts", body).replace(_THERE, _HERE),
            headers={"Content-Type": self.headers.get("Content-Type", "application/json")},
        )
        content = _MODEL_HERE.sub(rb"\1logged_models/\2", answer.content).replace(_HERE, _THERE)
        self._answer(answer.status_code, content, answer.headers.get("Content-Type", ""))

    def _files(self, path: str, body: bytes) -> None:
        """The files API: ``…/Artifacts/<experiment>/Runs/<run>/artifacts/…``."""
        kind, _, below = path.removeprefix("/api/2.0/fs/").partition(_FILES)
        inside = re.sub(r"/LoggedModels/([^/]+)", r"/models/\1/artifacts", below)
        inside = inside.replace("/Runs/", "/", 1)
        address = f"{self.workspace.backend}{_PROXY}"
        if kind == "directories":
            listing = self.backend.get(address, params={"path": inside}).json().get("files", [])
            if not listing:
                raise _RefusedError(404, "NOT_FOUND", f"The directory {path} does not exist.")
            self._json(
                {
                    "contents": [
                        {
                            "path": f"{_FILES}{below}/{posixpath.basename(entry['path'])}",
                            "is_directory": entry["is_dir"],
                            "file_size": entry.get("file_size"),
                        }
                        for entry in listing
                    ]
                }
            )
            return
        method = "GET" if self.command == "HEAD" else self.command
        answer = self.backend.request(method, f"{address}/{quote(inside)}", data=body)
        if not answer.ok:
            raise _RefusedError(404, "NOT_FOUND", f"The file {path} does not exist.")
        self._answer(200 if method == "GET" else 204, answer.content, "application/octet-stream")

    def _json(self, value: Json | bytes) -> None:
        if isinstance(value, bytes):
            self._answer(200, value, "application/octet-stream")
        else:
            self._answer(200, json.dumps(value).encode())

    def _answer(self, status: int, content: bytes, type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", type)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(content)


@contextlib.contextmanager
def workspace(backend: str) -> Iterator[Workspace]:
    """Stand in for Databricks in front of the MLflow server at ``backend``."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    here = Workspace(f"http://127.0.0.1:{server.server_port}", backend)
    handler.workspace = here  # type: ignore[attr-defined]
    with requests.Session() as handler.backend:  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield here
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
