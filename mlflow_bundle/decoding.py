"""Lets many threads decode records.

msgspec collects what it has to know of a record type when that is first decoded, and without a
lock: when two threads begin with one type at the same time, one of them may meet it half-known,
and the interpreter crashes (msgspec 0.22, in about one of a hundred exports of a small server).
"""

from __future__ import annotations

import threading
from typing import TypeVar

import msgspec

TypeT = TypeVar("TypeT")

_lock = threading.Lock()
_known: set[object] = set()


def prepared(type: TypeT) -> TypeT:
    """Return ``type``, which any number of threads may decode to from now on."""
    if type not in _known:
        with _lock:
            # What is learnt lies with the record types, for JSON and for `convert` as well.
            msgspec.msgpack.Decoder(type)
            _known.add(type)
    return type
