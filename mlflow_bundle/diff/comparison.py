"""Compares two sources: bundles, directories, servers, in any pairing.

First both sides are listed and twins are found; then the contents of A's twins are read and put
down as facts, and B's are read against them. Metric histories are compared by digest; the few that
differ are read again, point by point. Nothing that has no twin is read. Everything is kept on disk,
so memory is bounded whatever the sides hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from mlflow_bundle.contracts import FileReading, Source
from mlflow_bundle.diff.exemptions import exemption_of
from mlflow_bundle.diff.expected import AS_IT_IS, Expected
from mlflow_bundle.diff.facts import (
    ASKED,
    DATABASE,
    HISTORY,
    OUTSIDE,
    OWN,
    UNREAD,
    FileComparison,
    Reader,
)
from mlflow_bundle.diff.ledger import Ledger, Points, Thing, Unequal
from mlflow_bundle.diff.names import HOLDER, Names
from mlflow_bundle.diff.result import Change, Comparison, Difference, KindCount, Side, Unread
from mlflow_bundle.entities import (
    VERSION_KIND,
    LoggedModel,
    PlainEntity,
    RegisteredModel,
    Run,
    held_value,
)
from mlflow_bundle.errors import SelectionError
from mlflow_bundle.kinds import ALL_KINDS, KINDS
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import ModelPattern, NamePattern, Selection

MAX_LISTED = 100_000
"""Differences in the list of a result; the rest are counted only."""

_FILES: dict[FileComparison, FileReading] = {"digest": "open", "size": "list", "skip": "none"}
_REASON_OF_FLAG = {
    OUTSIDE: "points outside",
    OWN: "its files were copied into a run",
    ASKED: "as asked",
}


def compare(
    a: Source,
    b: Source,
    selection: Selection,
    *,
    expected: Expected = AS_IT_IS,
    one_sided: bool = False,
    strict: bool = False,
    artifacts: FileComparison = "digest",
    lost_by_export: dict[Side, list[Loss]] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Return where ``a`` and ``b`` differ. Both stay open and are only read.

    Args:
        a: The first side.
        b: The second side.
        selection: What to compare. With renames, or run ids, only what A has of it is looked for.
        expected: Names, users and tags that B has in place of A's.
        one_sided: Whether only A's contents are looked for in B: what B has besides does not count.
        strict: Whether values count that MLflow's REST API cannot set.
        artifacts: How files are compared.
        lost_by_export: What the bundle of a side says that it lacks.
        progress: Told of objects and bytes.

    Raises:
        SelectionError: Nothing matches the selection.
        ServerError: A server cannot be reached.
        FormatError: A bundle is damaged.
    """
    follows = not selection.everything and (expected.renames or bool(selection.run_ids))
    result = Comparison(
        a=a.info.uri,
        b=b.info.uri,
        one_sided=one_sided or follows,
        strict=strict,
        artifacts=artifacts,
        lost_by_export=lost_by_export or {},
    )
    if follows and not one_sided:
        result.notes.append("only what A has of the selection was looked for in B")
    ledger = Ledger()
    progress = progress or SilentProgress()
    try:
        _Comparing(ledger, a, b, expected, result, progress).run(selection)
    finally:
        progress.close()
        ledger.close()
    return result


class _Comparing:
    """One comparison under way."""

    def __init__(
        self,
        ledger: Ledger,
        a: Source,
        b: Source,
        expected: Expected,
        result: Comparison,
        progress: Progress,
    ) -> None:
        self._ledger = ledger
        self._sources: dict[Side, Source] = {"a": a, "b": b}
        self._reports: dict[Side, Report] = {"a": Report(), "b": Report()}
        self._readers: dict[Side, Reader] = {
            side: Reader(
                side=side,
                ledger=ledger,
                names=Names(ledger, side),
                expected=expected if side == "a" else AS_IT_IS,
                files=result.artifacts,
                report=self._reports[side],
                progress=progress,
            )
            for side in self._sources
        }
        self._result = result
        self._progress = progress
        self._not_compared: Counter[str] = Counter()
        self._kinds = [kind for kind in ALL_KINDS if a.shows(kind) and b.shows(kind)]

    def run(self, selection: Selection) -> None:
        """Fill the result."""
        self._list("a", selection if self._result.one_sided else _lenient(selection))
        self._list("b", self._selection_of_b(selection))
        self._note_one_sided_kinds(selection)
        if not selection.everything and not self._holds_anything():
            raise SelectionError("nothing matches the selection on either side")
        self._ledger.match()
        self._progress.start("reading A", self._count_pairs())
        self._read_a()
        self._progress.start("reading B", self._count_pairs())
        self._read_b()
        self._compare_points()
        self._conclude()

    # Listing

    def _list(self, side: Side, selection: Selection) -> None:
        self._progress.start(f"listing {side.upper()}")
        source, reader = self._sources[side], self._readers[side]
        source.select(selection, self._reports[side])
        for kind in self._kinds:
            for entity in source.iter_entities(kind):
                self._ledger.add(side, reader.entries(entity))

    def _note_one_sided_kinds(self, selection: Selection) -> None:
        """Tell of kinds that one side would have shown, had they been compared."""
        showing = [
            side
            for side, source in self._sources.items()
            if any(source.shows(kind) and kind not in self._kinds for kind in ALL_KINDS)
        ]
        if showing and selection.everything:
            self._result.notes.append(
                f"users and roles were not compared: only {showing[0].upper()} shows them "
                "(of a server the database that --auth-db names)"
            )

    def _selection_of_b(self, selection: Selection) -> Selection:
        """What of B may hold a twin, or counts because A lacks it."""
        if not self._result.one_sided:
            return _lenient(selection)
        if any(
            self._ledger.names("a", kind.name) for kind in KINDS.values() if kind.scope == "server"
        ):
            return Selection.all()
        return Selection(
            experiments=tuple(
                NamePattern(text=name, literal=True)
                for name in self._ledger.names("a", "experiment")
            ),
            models=tuple(
                ModelPattern(name=NamePattern(text=name, literal=True))
                for kind in VERSION_KIND
                for name in self._ledger.names("a", kind)
            ),
            lenient=True,
        )

    def _holds_anything(self) -> bool:
        return any(self._ledger.names(side, kind) for side in self._sources for kind in ALL_KINDS)

    def _count_pairs(self) -> int:
        return sum(sum(counts) for _, *counts in self._ledger.count_pairs())

    # Reading

    def _is_wanted(self, side: Side, kind: str, id: str, parent: str) -> bool:
        """Whether the content of an entity has something to be compared with."""
        if kind == Run.kind and (holder := self._ledger.find(side, HOLDER, id)) is not None:
            version = self._ledger.find_origin(side, "model_version", holder.origin or "")
            return version is not None and version.twin is not None
        thing = self._ledger.find(side, kind, id, parent if kind in KINDS else None)
        return thing is not None and thing.twin is not None

    def _read_a(self) -> None:
        for content in self._sources["a"].iter_contents(
            files=_FILES[self._result.artifacts],
            wanted=lambda kind, id, parent: self._is_wanted("a", kind, id, parent),
        ):
            self._ledger.put("a", self._readers["a"].facts(content))
            self._progress.advance(objects=1)

    def _read_b(self) -> None:
        for content in self._sources["b"].iter_contents(
            files=_FILES[self._result.artifacts],
            wanted=lambda kind, id, parent: self._is_wanted("b", kind, id, parent),
        ):
            entity = content.entity
            self._ledger.put("b", self._readers["b"].facts(content))
            parent = entity.parent if isinstance(entity, PlainEntity) else None
            self._compare("b", entity.kind, entity.id, parent)
            if isinstance(entity, RegisteredModel):
                for version in entity.versions:
                    id = f"{entity.name}/{version.version}"
                    self._compare("b", VERSION_KIND[entity.kind], id, None)
            self._progress.advance(objects=1)

    def _compare(self, side: Side, kind: str, id: str, parent: str | None) -> None:
        thing = self._ledger.find(side, kind, id, parent)
        if thing is None or (pair := thing.pair) is None:
            return
        files_unread = False
        for unequal in self._ledger.iter_unequal(pair):
            # Sorted before every "artifacts/": one of the sides has no files to compare.
            files_unread = files_unread or unequal.field == "artifacts"
            if files_unread and unequal.field.startswith("artifacts"):
                self._leave(kind, "artifacts", "not held or not readable on one side")
                continue
            is_history = kind == Run.kind and unequal.field.startswith(HISTORY)
            if is_history and unequal.a is not None and unequal.b is not None:
                self._ledger.suspect(pair, _key_of(unequal.field))
                continue
            if self._counts(kind, unequal):
                self._differ(pair, unequal)
        self._ledger.mark(pair, equal=True)
        self._ledger.forget(pair)

    def _counts(self, kind: str, unequal: Unequal) -> bool:
        """Whether two values that are not the same are a difference."""
        if self._result.one_sided and unequal.a is None:
            return False
        present = [fact for fact in (unequal.a, unequal.b) if fact is not None]
        flags = [fact.flag for fact in present]
        if UNREAD in flags or flags == [DATABASE]:
            return False
        field = _generic(unequal.field)
        if self._result.strict:
            return True
        if ASKED in flags or (OUTSIDE in flags and len(present) == 1) or (flags == [OWN, OWN]):
            flag = next(flag for flag in flags if flag)
            self._leave(kind, field, _REASON_OF_FLAG[flag])
            return False
        if exemption_of(kind, field, is_empty=len(present) == 1) is not None:
            self._leave(kind, field, "")
            return False
        return True

    def _leave(self, kind: str, field: str, reason: str) -> None:
        self._not_compared[f"{kind}.{field}" + (f" ({reason})" if reason else "")] += 1

    # Histories that are not the same

    def _compare_points(self) -> None:
        if not any(True for _ in self._ledger.iter_points()):
            return
        for side in self._sources:
            self._progress.start(f"reading histories of {side.upper()} again")
            self._read_points(side)
        for points in self._ledger.iter_points():
            if points.only_in_a or (points.only_in_b and not self._result.one_sided):
                self._differ_in_points(points)

    def _read_points(self, side: Side) -> None:
        def is_wanted(kind: str, id: str, parent: str) -> bool:
            thing = self._ledger.find(side, kind, id) if kind == Run.kind else None
            pair = thing.pair if thing is not None else None
            return pair is not None and bool(self._ledger.suspects(pair))

        for content in self._sources[side].iter_contents(files="none", wanted=is_wanted):
            thing = self._ledger.find(side, Run.kind, content.entity.id)
            pair = thing.pair if thing is not None else None
            if pair is None:
                continue
            keys = self._ledger.suspects(pair)
            for chunk in content.histories():
                if chunk.key in keys:
                    values = (repr(held_value(value)) for value in chunk.values)
                    points = zip(chunk.timestamps, chunk.steps, values, strict=True)
                    self._ledger.add_points(pair, side, chunk.key, points)

    def _differ_in_points(self, points: Points) -> None:
        def told(only: int, all: int) -> str:
            return f"{only} point{'s' * (only != 1)} of {all} only here"

        thing = self._ledger.get(points.pair)
        self._list_difference(
            thing,
            f'{HISTORY}{points.key}"]',
            "different",
            told(points.only_in_a, points.in_a),
            told(points.only_in_b, points.in_b),
        )
        self._ledger.mark(points.pair, equal=False)

    # The outcome

    def _differ(self, pair: int, unequal: Unequal) -> None:
        change: Change = "different"
        if unequal.b is None:
            change = "only_in_a"
        elif unequal.a is None:
            change = "only_in_b"
        self._list_difference(
            self._ledger.get(pair),
            unequal.field,
            change,
            unequal.a.value if unequal.a else None,
            unequal.b.value if unequal.b else None,
        )
        self._ledger.mark(pair, equal=False)

    def _list_difference(
        self, thing: Thing, field: str, change: Change, a: str | None, b: str | None
    ) -> None:
        self._result.differences_total += 1
        if len(self._result.differences) >= MAX_LISTED:
            return
        other = self._ledger.get(thing.twin).id if thing.twin is not None else thing.id
        self._result.differences.append(
            Difference(
                kind=thing.kind,
                id=thing.id,
                id_in_b=other if other != thing.id else "",
                experiment=thing.scope if thing.parent else "",
                field=field,
                change=change,
                a=a,
                b=b,
            )
        )

    def _conclude(self) -> None:
        result = self._result
        kinds: dict[str, KindCount] = {}
        for kind, equal, different, missed in self._ledger.count_pairs():
            if kind == HOLDER:
                continue
            kinds[kind] = KindCount(equal=equal, different=different)
            if missed:
                reason = f"the contents of {missed} did not come"
                result.unread.append(Unread(side="b", kind=kind, id="some", reason=reason))
        for thing in self._alone():
            count = kinds.setdefault(thing.kind, KindCount())
            if thing.side == "a":
                count.only_in_a += 1
                self._list_difference(thing, "", "only_in_a", None, None)
            else:
                count.only_in_b += 1
                self._list_difference(thing, "", "only_in_b", None, None)
        order = [*ALL_KINDS, *VERSION_KIND.values()]
        result.kinds = {kind: kinds[kind] for kind in order if kind in kinds}
        absent = self._absent_from_both()
        for side, report in self._reports.items():
            result.unread += [
                Unread(side=side, kind=loss.kind, id=loss.id, field=loss.field, reason=loss.reason)
                for loss in report.losses
                if (loss.kind, loss.id) not in absent and self._concerns(side, loss)
            ]
            result.notes += [note for note in report.notes if note not in result.notes]
        for kind, id in sorted(absent):
            result.notes.append(f"neither side shows {kind.replace('_', ' ')} {id}")
        result.not_compared = dict(sorted(self._not_compared.items()))
        result.equal = not (result.differences_total or result.unread)

    def _absent_from_both(self) -> set[tuple[str, str]]:
        """Logged models that both sides name and neither shows: they were deleted at the source."""
        missing_a, missing_b = (
            {
                (loss.kind, loss.id)
                for loss in (*report.losses, *self._result.lost_by_export.get(side, ()))
                if loss.kind == LoggedModel.kind and not loss.field
            }
            for side, report in self._reports.items()
        )
        return missing_a & missing_b

    def _alone(self) -> Iterator[Thing]:
        for side in self._sources:
            if side == "b" and self._result.one_sided:
                continue
            for thing in self._ledger.iter_alone(side):
                if thing.kind != HOLDER:
                    yield thing

    def _concerns(self, side: Side, loss: Loss) -> bool:
        """Whether what a side could not read would have been compared."""
        if side == "a" or not self._result.one_sided:
            return True
        thing = self._ledger.find("b", loss.kind, loss.id)
        if thing is not None:
            return thing.twin is not None
        # A whole kind or experiment of B: of interest where A has something that was not found.
        return loss.kind in ALL_KINDS and any(
            alone.kind == loss.kind for alone in self._ledger.iter_alone("a")
        )


def _lenient(selection: Selection) -> Selection:
    return replace(selection, lenient=True)


def _key_of(field: str) -> str:
    return field.removeprefix(HISTORY).removesuffix('"]')


def _generic(field: str) -> str:
    """Return the path of a field without the key of an item: as the exemptions have it."""
    if "[" not in field or field.startswith(("tags.", "params.", "artifacts/", "metrics")):
        return field
    before, _, rest = field.partition("[")
    return f"{before}[]{rest.rpartition(']')[2]}"
