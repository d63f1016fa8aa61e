"""Sends many things in one request, and finds those for which the server refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlflow_bundle.errors import ServerError

ItemT = TypeVar("ItemT")


def send_in_halves(
    items: list[ItemT], send: Callable[[list[ItemT]], None]
) -> list[tuple[ItemT, ServerError]]:
    """Send ``items``; when the server refuses, send each half, down to the single ones.

    Args:
        items: What is sent; ``send`` may get the same item again.
        send: One request.

    Returns:
        The items that were refused, each with its reason.

    Raises:
        ServerError: The server cannot be reached.
    """
    if not items:
        return []
    try:
        send(items)
    except ServerError as exc:
        if exc.status is None:
            raise
        if len(items) == 1:
            return [(items[0], exc)]
        middle = len(items) // 2
        return send_in_halves(items[:middle], send) + send_in_halves(items[middle:], send)
    return []
