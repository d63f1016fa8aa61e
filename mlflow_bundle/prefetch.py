"""Fetch ahead in parallel, hand out in order, within a budget.

A bundle is written front to back, while requests finish in any order. Items are started in order
and only while the budget lasts; the first one is always started. Later results can therefore never
fill the memory that the next one in order needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")
HandleT = TypeVar("HandleT")


def ordered_prefetch(
    items: Iterable[ItemT],
    start: Callable[[ItemT], HandleT],
    *,
    budget: int,
    cost: Callable[[ItemT], int] = lambda item: 1,
    most: int = 1000,
) -> Iterator[tuple[ItemT, HandleT]]:
    """Yield each item with its handle, in order, while later ones are already started.

    Args:
        items: What to fetch; pulled lazily.
        start: Starts the fetch of an item without waiting, e.g. ``pool.submit``.
        budget: Largest sum of costs of started items that were not handed out yet.
        cost: Cost of one item, e.g. its bytes.
        most: Largest number of such items.
    """
    window: deque[tuple[ItemT, HandleT, int]] = deque()
    used = 0
    source = iter(items)
    waiting: list[tuple[ItemT, int]] = []
    exhausted = False
    while True:
        while not exhausted and len(window) < most:
            if not waiting:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                    break
                waiting.append((item, cost(item)))
            item, price = waiting[0]
            if window and used + price > budget:
                break
            waiting.clear()
            window.append((item, start(item), price))
            used += price
        if not window:
            return
        item, handle, price = window.popleft()
        used -= price
        yield item, handle
