"""What an entity may have many of: the short stands in its document, the long in parts beside it.

Metric histories of runs (FORMAT.md 9.7) and items of plain entities (9.13), written as they come:
memory holds one part.

An interrupted export may have written some parts of an entity whose document it did not come to.
What they hold stays, and what the source has more goes behind it. Where it has something else now,
or a part has no place any more, the caller is told: a loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

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


class _RawPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part whose items stay as they are written."""

    items: list[msgspec.Raw]


class PartsWriter(Protocol):
    """Where parts go, and which are there already."""

    def add_part(self, path: str, part: msgspec.Struct) -> bytes | None:
        """Write a part, unless its place is passed.

        Returns:
            None when it was written, or else what an earlier attempt has written there: nothing
            if it did not have this part.
        """

    def written_parts(self, directory: str) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of what an earlier attempt has written below a directory."""


def write_histories(
    writer: PartsWriter,
    directory: str,
    histories: Iterable[MetricHistory | EncodedHistory],
    *,
    changed: Callable[[str], object],
) -> tuple[dict[str, list[docs.MetricPoint] | msgspec.Raw], dict[str, list[str]]]:
    """Write what is too long for the document of a run; return the rest, and the parts by key.

    Args:
        writer: Takes the parts.
        directory: Of the run.
        histories: In the order of their keys' escaped form, which is that of their directories.
        changed: Told of each metric of which something is not what the source has now.
    """
    inline: dict[str, list[docs.MetricPoint] | msgspec.Raw] = {}
    parts: dict[str, list[str]] = {}
    inline_points = 0
    changed_keys: set[str] = set()

    def write_part(key: str, points: list[docs.MetricPoint]) -> int:
        """Write a part, and return how many of ``points`` are dealt with."""
        named = parts.setdefault(key, [])
        member = f"{layout.metric_directory(directory, key)}/{len(named) + 1:06d}.json"
        points = points[:POINTS_PER_PART]
        there = writer.add_part(member, docs.MetricPart(key=key, points=points))
        if there != b"":
            named.append(member.removeprefix(f"{directory}/"))
        if there is None:
            return len(points)
        if there:
            before = docs.decode(there, docs.MetricPart, path=member).points
            part = docs.MetricPart(key=key, points=points[: len(before)])
            if before and docs.encode(part) == there:
                return len(before)
        changed_keys.add(key)
        return len(points)

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
                del pending[: write_part(key, pending)]
        if long:
            while pending:
                del pending[: write_part(key, pending)]
        elif key not in inline:
            inline[key] = pending
            inline_points += len(pending)
    for member, data in writer.written_parts(f"{directory}/{layout.METRICS}"):
        key = docs.decode(data, docs.MetricPart, path=member).key
        part_name = member.removeprefix(f"{directory}/")
        if part_name not in parts.get(key, ()):
            parts.setdefault(key, []).append(part_name)
            inline.pop(key, None)
            changed_keys.add(key)
    for key in sorted(changed_keys):
        changed(key)
    return dict(sorted(inline.items())), {key: named for key, named in parts.items() if named}


def write_items(
    writer: PartsWriter,
    directory: str,
    items: Iterable[msgspec.Struct],
    *,
    too_long: Callable[[int, int], object],
    changed: Callable[[], object],
) -> tuple[list[msgspec.Raw], list[str]]:
    """Write the items that do not fit into the document of a plain entity.

    Args:
        writer: Takes the parts.
        directory: Of the entity.
        items: In the server's order.
        too_long: Told of an item, by position and size in bytes, that no document can hold.
        changed: Told, once, if something is not what the source has now.

    Returns:
        The items that fit, and the paths of the parts below ``directory``.
    """
    inline: list[msgspec.Raw] = []
    pending: list[msgspec.Raw] = []
    parts: list[str] = []
    size = 0

    is_changed = False

    def write_part(items: list[msgspec.Raw]) -> int:
        """Write a part, and return how many of ``items`` are dealt with."""
        nonlocal is_changed
        path = layout.item_part(directory, len(parts) + 1)
        there = writer.add_part(path, docs.ItemPart(items=items))  # type: ignore[type-var]
        if there != b"":
            parts.append(path.removeprefix(f"{directory}/"))
        if there is None:
            return len(items)
        if there:
            before = len(docs.decode(there, _RawPart, path=path).items)
            part = docs.ItemPart(items=items[:before])  # type: ignore[type-var]
            if before and docs.encode(part) == there:
                return before
        is_changed = True
        return len(items)

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
            del pending[: write_part(pending)]
            size = sum(len(bytes(raw)) for raw in pending)
    while pending:
        del pending[: write_part(pending)]
    for member, _ in writer.written_parts(f"{directory}/{layout.ITEMS}"):
        name = member.removeprefix(f"{directory}/")
        if name not in parts:
            parts.append(name)
            is_changed = True
    if is_changed:
        changed()
    return inline, parts
