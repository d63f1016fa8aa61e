"""Spares 40 ms on nearly every request to an MLflow server with several workers.

uvicorn with more than one worker (MLflow's default is four) and without uvloop leaves Nagle's
algorithm on and writes an answer in two pieces: the second waits until the client acknowledges the
first, which Linux delays by 40 ms on a connection in use. Asking for an immediate acknowledgement
before each answer is read ends that: 4 ms instead of 50 for a small GET (MLflow 3.17.2, uvicorn
0.54). The requests themselves stay those of MLflow's client; elsewhere than on Linux nothing
changes.
"""

from __future__ import annotations

import socket
from typing import Any

import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


def _acknowledge_at_once(connection: Any) -> None:
    # Not a lasting option: the kernel leaves this mode by itself.
    if connection.sock is not None and hasattr(socket, "TCP_QUICKACK"):
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class _Connection(HTTPConnection):
    def getresponse(self) -> Any:
        _acknowledge_at_once(self)
        return super().getresponse()


class _SecureConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        _acknowledge_at_once(self)
        return super().getresponse()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def quicken(session: requests.Session) -> None:
    """Make a session's new connections acknowledge at once."""
    for adapter in session.adapters.values():
        manager = getattr(adapter, "poolmanager", None)
        if manager is not None:
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
