"""A reverse proxy in front of a real server that answers wrongly where a test says so."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import requests


class Answer(NamedTuple):
    """Status, content type and content of what a client gets."""

    status: int
    kind: str
    content: bytes
    headers: Mapping[str, str] = {}
    announced: int | None = None
    """Content-Length, if it is not that of the content: then the connection breaks there."""


DROPPED = Answer(0, "", b"")
"""No answer at all: the connection is closed."""

Fault = Callable[[str, str, Answer], Answer]
"""Gets method, path with query and the server's true answer; returns what the client gets."""

Instead = Callable[[str, str], Answer | None]
"""Gets method and path with query; an answer keeps the request from the server."""


@contextlib.contextmanager
def faulty(
    uri: str,
    fault: Fault = lambda method, path, true: true,
    *,
    instead: Instead = lambda method, path: None,
) -> Iterator[str]:
    """Give the URI of a proxy that passes requests on and bends the answers."""
    upstream = requests.Session()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            answer = instead(self.command, self.path)
            if answer is None:
                headers = {
                    k: v for k, v in self.headers.items() if k.lower().startswith("x-mlflow")
                }
                kind = self.headers.get("Content-Type") or "application/octet-stream"
                true = upstream.request(
                    self.command,
                    uri + self.path,
                    data=body,
                    headers={**headers, "Content-Type": kind},
                )
                answer = fault(
                    self.command,
                    self.path,
                    Answer(true.status_code, true.headers.get("Content-Type", ""), true.content),
                )
            if answer is DROPPED:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            size = len(answer.content) if answer.announced is None else answer.announced
            self.send_header("Content-Length", str(size))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)
            self.close_connection = self.close_connection or answer.announced is not None

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


class Weather:
    """Faults at random: some before the server gets the request, some behind it.

    Statuses that say "I did nothing" come only before it, as they are true there.

    Args:
        seed: Which faults come.
        rate: Share of requests that meet one.
    """

    def __init__(self, seed: int, *, rate: float) -> None:
        self._dice = random.Random(seed)
        self._rate = rate
        self._lock = threading.Lock()
        self.met: list[str] = []

    def instead(self, method: str, path: str) -> Answer | None:
        """Drop, delay or refuse a request."""
        kind = self._draw("drop", "delay", "429", "500", "503")
        if kind == "drop":
            return DROPPED
        if kind == "429":
            return Answer(429, "text/plain", b"slowly", {"Retry-After": "0"})
        if kind in ("500", "503"):
            return Answer(int(kind), "text/html", b"<html>oops</html>")
        if kind == "delay":
            time.sleep(0.3)
        return None

    def bend(self, method: str, path: str, true: Answer) -> Answer:
        """Lose an answer, or a part of it."""
        kind = self._draw("lost", "truncated", "500 after", "504 after")
        if kind == "lost":
            return DROPPED
        if kind == "truncated" and len(true.content) > 1:
            half = true.content[: len(true.content) // 2]
            return true._replace(content=half, announced=len(true.content))
        if kind in ("500 after", "504 after"):
            return Answer(int(kind[:3]), "text/html", b"<html>oops</html>")
        return true

    def _draw(self, *kinds: str) -> str:
        with self._lock:
            if self._dice.random() >= self._rate / 2:
                return ""
            kind = self._dice.choice(kinds)
            self.met.append(kind)
            return kind
