"""Shows a comparison: a short table and a list for people, one JSON object with ``--json``."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from mlflow_bundle.cli.exit_codes import DONE, LOSSES, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow_bundle.diff import Comparison


MAX_LINES = 20
"""Entries of a list shown without ``--verbose``; ``--json`` always has all. A longer list is shown
by what is alike in it."""

_INDEX = re.compile(r"\[[^\]]*\]")


def code_of(comparison: Comparison) -> int:
    """Return the exit code that a comparison means, and note it in the comparison."""
    comparison.exit_code = DONE if comparison.equal else LOSSES
    return comparison.exit_code


def lines(comparison: Comparison, *, verbose: bool = False) -> list[str]:
    """Return a comparison as lines of text."""
    shown = [f"A: {one_line(comparison.a)}", f"B: {one_line(comparison.b)}"]
    if comparison.kinds:
        width = max(len(kind) for kind in comparison.kinds)
        titles = ["equal", "different", "only in A"]
        titles += [] if comparison.one_sided else ["only in B"]
        shown.append(f"  {'':<{width}}" + "".join(f"  {title:>9}" for title in titles))
        for kind, count in comparison.kinds.items():
            numbers = [count.equal, count.different, count.only_in_a]
            numbers += [] if comparison.one_sided else [count.only_in_b]
            cells = "".join(f"  {number:>9}" for number in numbers)
            shown.append(f"  {kind.replace('_', ' '):<{width}}{cells}")
    left = sum(comparison.not_compared.values())
    if left:
        values = counted(left, "value")
        shown.append(f"not counted: {values} that MLflow's API cannot set or that point outside")
        if verbose:
            shown += [f"  {name}: {count}" for name, count in comparison.not_compared.items()]
    for side, losses in comparison.lost_by_export.items():
        title = f"lost by the export of {side.upper()}, so not in it"
        shown += listed(title, losses, verbose)
    shown += [f"note: {one_line(note)}" for note in comparison.notes]
    shown += listed("could not be read", comparison.unread, verbose)
    total = comparison.differences_total
    shown += listed("differences", comparison.differences, verbose, total=total)
    if comparison.equal:
        shown.append("everything in A is in B" if comparison.one_sided else "equal")
    return shown


def listed(
    title: str, entries: Sequence[object], verbose: bool, *, total: int | None = None
) -> list[str]:
    """Return a list as lines of text, cut short unless ``verbose``; nothing for an empty one.

    Args:
        title: Stands before the number of entries.
        entries: Shown as their texts.
        verbose: Whether all are shown.
        total: How many there are, where ``entries`` itself was cut.
    """
    if not entries:
        return []
    total = len(entries) if total is None else total
    if len(entries) > MAX_LINES and not verbose and (groups := _groups(entries)):
        return [
            f"{title}: {total}",
            *(f"  {one_line(line)}" for line in groups[:MAX_LINES]),
            *[f"  and {len(groups) - MAX_LINES} more kinds of them"] * (len(groups) > MAX_LINES),
            "  --verbose or --json lists them all",
        ]
    shown = entries if verbose else entries[:MAX_LINES]
    lines = [f"{title}: {total}", *(f"  {one_line(str(entry))}" for entry in shown)]
    if len(shown) < total:
        hint = "" if verbose else "; --verbose or --json lists them all"
        lines.append(f"  and {total - len(shown)} more{hint}")
    return lines


def _groups(entries: Sequence[object]) -> list[str]:
    """Say in one line each what is alike, the most frequent first; nothing if all are unlike."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for entry in entries:
        kind, id = str(getattr(entry, "kind", "")), str(getattr(entry, "id", ""))
        field = _INDEX.sub("[…]", str(getattr(entry, "field", "")))
        reason = getattr(entry, "reason", None) or getattr(entry, "change", "")
        group = ": ".join(part for part in (field, str(reason).replace("_", " ")) if part)
        group = f"{kind.replace('_', ' ')}, {group.replace(id, '…') if id else group}"
        counts[group] += 1
        first.setdefault(group, id)
    if len(counts) == len(entries):
        return []
    return [
        f"{count} × {group}" + (f" (first: {first[group]})" if count > 1 else f" ({first[group]})")
        for group, count in counts.most_common()
    ]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 problem``, ``2 problems``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
