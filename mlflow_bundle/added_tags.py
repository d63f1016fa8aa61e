"""``--tag KEY=VALUE``: tags that an import gives to everything it brings."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from mlflow_bundle.errors import SelectionError

RESERVED = ("mlflow_bundle.", "mlflow.", "_mlflow")
"""Beginnings of keys that mean something to this package or to MLflow itself."""

MAX_KEY = 250
"""Characters, for every kind (mlflow/utils/validation.py)."""

MAX_VALUE = 5000
"""Characters that every kind keeps on every server (mlflow/utils/validation.py)."""

_KEY = re.compile(r"[/\w.\- :]+")


def parse_tags(values: Iterable[str]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` values; all after the first ``=`` is the value.

    Raises:
        SelectionError: A value has no ``=`` or an empty side, a key is reserved, given twice or not
            one that MLflow takes, or a value is too long.
    """
    tags: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise SelectionError(
                f"{text!r} is not of the form KEY=VALUE", hint="neither side may be empty"
            )
        _check_key(key)
        if len(value) > MAX_VALUE:
            raise SelectionError(
                f"the value of tag {key!r} has {len(value)} characters, more than {MAX_VALUE}",
                hint="not every kind of object keeps more",
            )
        if tags.setdefault(key, value) != value:
            raise SelectionError(f"tag {key!r} is given twice: {tags[key]!r} and {value!r}")
    return tags


def _check_key(key: str) -> None:
    for reserved in RESERVED:
        if key.startswith(reserved):
            raise SelectionError(
                f"tag {key!r} is reserved: keys beginning with {reserved!r} have a meaning of "
                "their own",
                hint="give it another key",
            )
    if not _KEY.fullmatch(key) or posixpath.normpath(key) != key or key.startswith(("/", "..")):
        raise SelectionError(
            f"MLflow takes no tag {key!r}",
            hint="a key is letters, digits, _ - . : / and spaces, and reads as a relative path",
        )
    if len(key) > MAX_KEY:
        raise SelectionError(f"tag {key[:20]!r}... has {len(key)} characters, more than {MAX_KEY}")
