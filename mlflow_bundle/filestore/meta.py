"""The fields of a YAML document of a file store, each checked when it is taken.

What MLflow requires is required, so that a file that was cut is not taken for a whole one: MLflow
writes the fields in the order of their names.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

_INTEGERS = range(-(2**63), 2**63)
"""What an integer column of a database holds."""


class Meta:
    """One document.

    Every method raises KeyError for a field that is missing and required, and ValueError for a
    value that MLflow would not have written.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def require(self, *keys: str) -> None:
        """Refuse a document that has not all of some fields; they may be null."""
        for key in keys:
            if key not in self.fields:
                raise KeyError(key)

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Return a text; None if it is null or missing."""
        value = self._value(key, required)
        if value is None or isinstance(value, str):
            return value
        raise ValueError(f"{key}: expected text, got {shown(value)}")

    def name(self, key: str = "name") -> str:
        """Return a text that is required and not empty."""
        value = self.text(key, required=True)
        if not value:
            raise ValueError(f"{key}: it is empty")
        return value

    def number(self, key: str, *, required: bool = False) -> int | None:
        """Return an integer; None if it is null or missing."""
        value = self._value(key, required)
        return None if value is None else integer(key, value)

    def one_of(
        self,
        key: str,
        words: Collection[str],
        *,
        default: str | None = None,
        numbers: Mapping[int, str] | None = None,
    ) -> str | None:
        """Return one of some words.

        Args:
            key: Of the field.
            words: What it may be.
            default: Taken where the field is missing; if there is one, null is refused.
            numbers: Words that may stand there as a number.
        """
        value = self.fields.get(key, default)
        if type(value) is int and numbers:
            value = numbers.get(value, value)
        if (value is None and default is None) or (isinstance(value, str) and value in words):
            return value
        raise ValueError(f"{key}: unknown value {shown(value)}")

    def mapping(self, key: str) -> dict[Any, Any]:
        """Return a mapping, which is required."""
        value = self.fields[key]
        if not isinstance(value, dict):
            raise ValueError(f"{key}: expected a mapping, got {shown(value)}")
        return value

    def _value(self, key: str, required: bool) -> Any:
        value = self.fields.get(key)
        if value is None and required:
            raise KeyError(key)
        return value


def integer(field: str, value: Any) -> int:
    """Return ``value`` if it is an integer that a database holds.

    Raises:
        ValueError: It is not.
    """
    if type(value) is int and value in _INTEGERS:
        return value
    raise ValueError(f"{field}: expected an integer of 64 bits, got {shown(value)}")


def shown(value: Any) -> str:
    """Return a value as a message shows it: not at any length."""
    return reprlib.repr(value)
