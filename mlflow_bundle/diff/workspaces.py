"""Compares two places workspace by workspace: names are unique within one only."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from mlflow_bundle.contracts import Source
from mlflow_bundle.diff.comparison import compare
from mlflow_bundle.diff.expected import AS_IT_IS, Expected
from mlflow_bundle.diff.facts import FileComparison
from mlflow_bundle.diff.result import Change, Comparison, Difference, KindCount, joined
from mlflow_bundle.diff.values import text_of
from mlflow_bundle.errors import SelectionError
from mlflow_bundle.host import LOCATIONS, iter_settings
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE, Workspace
from mlflow_bundle.progress import Progress
from mlflow_bundle.report import Loss
from mlflow_bundle.selection import Selection, require_workspaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bundle, a directory or a server.

    Attributes:
        source: Its workspace ``default``, or everything where there are none.
        others: Names of its other workspaces.
        settings: Its workspaces by name with what was set of each, as far as it tells.
        open: Opens one of them; the caller closes it.
        losses: What a bundle says that its own export lost.
    """

    source: Source
    others: list[str]
    settings: Mapping[str, Workspace]
    open: Callable[[str], Source]
    losses: list[Loss]

    @property
    def workspaces(self) -> list[str]:
        """Names of all workspaces."""
        return [DEFAULT_WORKSPACE, *sorted(self.others)]

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Source]:
        """Open one of :attr:`workspaces` for a time."""
        if name == DEFAULT_WORKSPACE:
            yield self.source
            return
        source = self.open(name)
        try:
            yield source
        finally:
            source.close()


def compare_places(
    a: Place,
    b: Place,
    selection: Selection,
    *,
    mapping: Mapping[str, str] | None = None,
    expected: Expected = AS_IT_IS,
    one_sided: bool = False,
    strict: bool = False,
    artifacts: FileComparison = "digest",
    progress: Progress | None = None,
) -> Comparison:
    """Return where two places differ; other arguments and errors as of :func:`compare`.

    A workspace that only one of them has is one difference. The settings of one are compared with
    those of the same name; those of ``default`` are no part of a selection.

    Args:
        a: The first place.
        b: The second place.
        selection: What to compare; its ``workspaces`` are names in ``a``, or in ``b`` if only
            that has them.
        mapping: Name in ``a`` to name in ``b`` of workspaces that have another one there.
        expected: Names, users and tags that ``b`` has in place of ``a``'s.
        one_sided: Whether what only ``b`` has does not count.
        strict: Whether values count that MLflow's REST API cannot set.
        artifacts: How files are compared.
        progress: Told of objects and bytes.

    Raises:
        SelectionError: Neither has a workspace that is named, or nothing matches in any.
    """
    mapping, asked = mapping or {}, selection.workspaces
    require_workspaces(mapping, a.workspaces, where=a.source.info.uri)
    require_workspaces(asked, {*a.workspaces, *b.workspaces}, where=a.source.info.uri)
    pairs = {name: mapping.get(name, name) for name in a.workspaces if not asked or name in asked}
    result: Comparison | None = None
    unmatched: SelectionError | None = None
    targets = Counter(pairs.values())
    for name, other in pairs.items():
        if other not in b.workspaces:
            continue
        with a.opened(name) as first, b.opened(other) as second:
            try:
                part = compare(
                    first,
                    second,
                    selection,
                    expected=expected,
                    # What another workspace brought there is no difference.
                    one_sided=one_sided or targets[other] > 1,
                    strict=strict,
                    artifacts=artifacts,
                    lost_by_export={"a": a.losses, "b": b.losses},
                    progress=progress,
                )
            except SelectionError as exc:
                # Perhaps what was named lies in another workspace.
                unmatched = unmatched or exc
                continue
        part = _located(part, name)
        if name == other and (selection.everything or name != DEFAULT_WORKSPACE):
            _add_settings(part, a.settings.get(name), b.settings.get(name))
        result = part if result is None else joined(result, part)
    if result is None:
        if unmatched is not None:
            raise unmatched
        result = Comparison(
            a=a.source.info.uri,
            b=b.source.info.uri,
            one_sided=one_sided,
            strict=strict,
            artifacts=artifacts,
        )
    result.lost_by_export = {"a": a.losses, "b": b.losses}
    for name, other in pairs.items():
        if other not in b.workspaces:
            _add_lonely(result, name, in_a=True)
    for name in b.workspaces:
        if not one_sided and name not in targets and (not asked or name in asked):
            _add_lonely(result, name, in_a=False)
    return result


def _located(part: Comparison, workspace: str) -> Comparison:
    """Return a part with what it tells put into its workspace."""
    if workspace == DEFAULT_WORKSPACE:
        return part
    return msgspec.structs.replace(
        part,
        differences=[
            msgspec.structs.replace(difference, workspace=workspace)
            for difference in part.differences
        ],
        unread=[msgspec.structs.replace(entry, workspace=workspace) for entry in part.unread],
    )


def _add_settings(result: Comparison, in_a: Workspace | None, in_b: Workspace | None) -> None:
    if in_a is None or in_b is None:
        return
    kind, values = WORKSPACE.name, (dict(iter_settings(in_a)), dict(iter_settings(in_b)))
    if in_a.name == DEFAULT_WORKSPACE and not any(values):
        return
    differences: list[Difference] = []
    for field in sorted({*values[0], *values[1]}):
        here, there = (each.get(field) for each in values)
        if here == there or (result.one_sided and here is None):
            continue
        if field in LOCATIONS and not result.strict:
            left = f"{kind}.{field}"
            result.not_compared[left] = result.not_compared.get(left, 0) + 1
            continue
        change: Change = (
            "only_in_a" if there is None else "only_in_b" if here is None else "different"
        )
        a, b = (None if value is None else text_of(value) for value in (here, there))
        differences.append(
            Difference(kind=kind, id=in_a.name, field=field, change=change, a=a, b=b)
        )
    count = result.kinds.setdefault(kind, KindCount())
    if differences:
        count.different += 1
        result.differences += differences
        result.differences_total += len(differences)
        result.equal = False
    else:
        count.equal += 1


def _add_lonely(result: Comparison, name: str, *, in_a: bool) -> None:
    count = result.kinds.setdefault(WORKSPACE.name, KindCount())
    change: Change = "only_in_a" if in_a else "only_in_b"
    setattr(count, change, getattr(count, change) + 1)
    result.differences.append(Difference(kind=WORKSPACE.name, id=name, change=change))
    result.differences_total += 1
    result.equal = False
