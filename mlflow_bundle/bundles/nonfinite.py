"""NaN and infinities between strict JSON and the bare tokens of Python's json module.

Bundles hold the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; mlflow-export-import reads
and writes the bare tokens. Both directions work on the text, so that everything else stays as it
was.
"""

from __future__ import annotations

import re

import msgspec

from mlflow_bundle.bundles.documents import decode

_STRING_OR_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|(-?Infinity|NaN)', re.DOTALL)
_QUOTED_VALUE = re.compile(rb'("value"\s*:\s*)"(NaN|-?Infinity)"')
_METRICS = "metrics"


def quote_tokens(data: bytes) -> bytes:
    """Return JSON in which bare ``NaN``, ``Infinity`` and ``-Infinity`` became strings."""
    if b"NaN" not in data and b"Infinity" not in data:
        return data
    return _STRING_OR_TOKEN.sub(_quoted, data)


def _quoted(match: re.Match[bytes]) -> bytes:
    return match[0] if match[1] is None else b'"' + match[1] + b'"'


def bare_tokens(data: bytes, *, path: str) -> bytes:
    """Return a ``run.json`` whose metric values are bare tokens; other strings stay strings.

    Raises:
        DocumentError: It is not a JSON object.
    """
    if _QUOTED_VALUE.search(data) is None:
        return data
    document = decode(data, dict[str, msgspec.Raw], path=path)
    if _METRICS not in document:
        return data
    parts = {key: bytes(value) for key, value in document.items()}
    # A metric's key cannot match: the quotes inside a JSON string have backslashes.
    parts[_METRICS] = _QUOTED_VALUE.sub(rb"\1\2", parts[_METRICS])
    fields = [msgspec.json.encode(key) + b":" + value for key, value in parts.items()]
    return b"{" + b",".join(fields) + b"}\n"
