"""What an entity may have many of: the short stands in its document, the long in parts beside it.

Metric histories of runs (FORMAT.md 9.7) and items of plain entities (9.13), written as they come:
memory holds one part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.entities import EncodedHistory, MetricHistory

INLINE_POINTS_PER_KEY = 10_000
INLINE_POINTS_PER_RUN = 100_000
POINTS_PER_PART = 50_000
INLINE_ITEM_BYTES = 1024 * 1024
"""Items of a plain entity up to this size, encoded, stand in its document."""
ITEM_PART_BYTES = 4 * 1024 * 1024
"""A part of items ends with the one that makes it this long."""

_LARGEST_ITEM_BYTES = docs.MAX_DOCUMENT_BYTES // 2

AddDocument = Callable[[str, msgspec.Struct], None]
"""Writes a document at a path."""


def write_histories(
    add: AddDocument, directory: str, histories: Iterable[MetricHistory | EncodedHistory]
) -> tuple[dict[str, list[docs.MetricPoint] | msgspec.Raw], dict[str, list[str]]]:
    """Write what is too long for the document of a run; return the rest, and the parts by key.

    Args:
        add: Writes a part.
        directory: Of the run.
        histories: In the order of their keys' escaped form, which is that of their directories.
    """
    inline: dict[str, list[docs.MetricPoint] | msgspec.Raw] = {}
    parts: dict[str, list[str]] = {}
    inline_points = 0

    def write_part(key: str, points: list[docs.MetricPoint]) -> None:
        named = parts.setdefault(key, [])
        member = f"{layout.metric_directory(directory, key)}/{len(named) + 1:06d}.json"
        add(member, docs.MetricPart(key=key, points=points))
        named.append(member.removeprefix(f"{directory}/"))

    for key, chunks in itertools.groupby(histories, key=lambda chunk: chunk.key):
        budget = min(INLINE_POINTS_PER_KEY, INLINE_POINTS_PER_RUN - inline_points)
        pending: list[docs.MetricPoint] = []
        long = False
        for chunk in chunks:
            if isinstance(chunk, EncodedHistory):
                if chunk.length <= budget:
                    inline[key] = msgspec.Raw(chunk.points)
                    inline_points += chunk.length
                    break  # it is whole
                pending += docs.decode_points(chunk)
            else:
                pending += docs.points_of(chunk)
            long = long or len(pending) > budget
            while long and len(pending) >= POINTS_PER_PART:
                write_part(key, pending[:POINTS_PER_PART])
                del pending[:POINTS_PER_PART]
        if long:
            if pending:
                write_part(key, pending)
        elif key not in inline:
            inline[key] = pending
            inline_points += len(pending)
    return dict(sorted(inline.items())), parts


def write_items(
    add: AddDocument,
    directory: str,
    items: Iterable[msgspec.Struct],
    *,
    too_long: Callable[[int, int], object],
) -> tuple[list[msgspec.Raw], list[str]]:
    """Write the items that do not fit into the document of a plain entity.

    Args:
        add: Writes a part.
        directory: Of the entity.
        items: In the server's order.
        too_long: Told of an item, by position and size in bytes, that no document can hold.

    Returns:
        The items that fit, and the paths of the parts below ``directory``.
    """
    inline: list[msgspec.Raw] = []
    pending: list[msgspec.Raw] = []
    parts: list[str] = []
    size = 0

    def write_part() -> None:
        path = layout.item_part(directory, len(parts) + 1)
        add(path, docs.ItemPart(items=pending))  # type: ignore[type-var]
        parts.append(path.removeprefix(f"{directory}/"))

    for position, item in enumerate(items):
        encoded = msgspec.json.encode(item)
        if len(encoded) > _LARGEST_ITEM_BYTES:
            too_long(position, len(encoded))
            continue
        if not pending and not parts and size + len(encoded) <= INLINE_ITEM_BYTES:
            inline.append(msgspec.Raw(encoded))
            size += len(encoded)
            continue
        if not pending:
            size = 0
        pending.append(msgspec.Raw(encoded))
        size += len(encoded)
        if size >= ITEM_PART_BYTES:
            write_part()
            pending = []
    if pending:
        write_part()
    return inline, parts
