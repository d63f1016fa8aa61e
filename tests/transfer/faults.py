"""A reverse proxy in front of a real server that answers wrongly where a test says so."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import requests


class Answer(NamedTuple):
    """Status, content type and content of what a client gets."""

    status: int
    kind: str
    content: bytes


Fault = Callable[[str, str, Answer], Answer]
"""Gets method, path with query and the server's true answer; returns what the client gets."""


@contextlib.contextmanager
def faulty(uri: str, fault: Fault) -> Iterator[str]:
    """Give the URI of a proxy that passes every request on and bends the answers."""
    upstream = requests.Session()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            kind = self.headers.get("Content-Type") or "application/octet-stream"
            true = upstream.request(
                self.command, uri + self.path, data=body, headers={"Content-Type": kind}
            )
            answer = fault(
                self.command,
                self.path,
                Answer(true.status_code, true.headers.get("Content-Type", ""), true.content),
            )
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - as the base has it

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        upstream.close()
