"""What a comparison found, as one documented JSON object (``--json``)."""

from __future__ import annotations

from typing import Literal

import msgspec

from mlflow_bundle.report import Loss

Side = Literal["a", "b"]

Change = Literal["only_in_a", "only_in_b", "different"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that exists on one side only, or that the sides do not say alike."""

    kind: str
    id: str
    """Id, or name, at A; at B where A has none."""
    id_in_b: str = ""
    """Id at B where it is another one."""
    experiment: str = ""
    """Name, at B, of the experiment it lies in, if any."""
    field: str = ""
    """Path of the field; empty for the entity as a whole."""
    change: Change
    a: str | None = None
    """What A says, as JSON text, shortened when long; None where it says nothing."""
    b: str | None = None
    workspace: str = ""
    """The workspace that it lies in; empty for the default one."""

    def __str__(self) -> str:
        where = f"{self.kind.replace('_', ' ')} {self.id}"
        if self.experiment:
            where += f" of {self.experiment!r}"
        if self.workspace:
            where += f" in workspace {self.workspace}"
        if self.change == "different":
            return f"{where}: {self.field}: {self.a} in A, {self.b} in B"
        side, value = ("A", self.a) if self.change == "only_in_a" else ("B", self.b)
        if not self.field:
            return f"{where}: only in {side}"
        return f"{where}: {self.field}: only in {side}: {value}"


class KindCount(msgspec.Struct, kw_only=True):
    """How many entities of one kind are what."""

    equal: int = 0
    different: int = 0
    only_in_a: int = 0
    only_in_b: int = 0


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """Something that could not be read and so not be compared."""

    side: Side
    kind: str
    id: str
    field: str = ""
    reason: str
    workspace: str = ""

    def __str__(self) -> str:
        where = f"{self.kind.replace('_', ' ')} {self.id}" + (f", {self.field}" * bool(self.field))
        if self.workspace:
            where += f" of workspace {self.workspace}"
        return f"{where} in {self.side.upper()}: {self.reason}"


class Comparison(msgspec.Struct, kw_only=True):
    """The outcome of one comparison."""

    a: str
    b: str
    one_sided: bool
    """Whether what only B has was left aside."""
    strict: bool
    artifacts: Literal["digest", "size", "skip"]
    """How files were compared."""
    equal: bool = True
    kinds: dict[str, KindCount] = {}
    differences: list[Difference] = []
    differences_total: int = 0
    """All of them; the list ends at a limit (`comparison.MAX_LISTED`)."""
    not_compared: dict[str, int] = {}
    """``kind.field`` to the number of values that differ and do not count, e.g. creation times."""
    unread: list[Unread] = []
    lost_by_export: dict[Side, list[Loss]] = {}
    """What the bundle of a side says its own export lost."""
    notes: list[str] = []
    exit_code: int = 0


def joined(first: Comparison, second: Comparison) -> Comparison:
    """Return two comparisons of parts of the same sides as one."""
    kinds = {name: msgspec.structs.replace(count) for name, count in first.kinds.items()}
    for name, count in second.kinds.items():
        sums = kinds.setdefault(name, KindCount())
        for field in KindCount.__struct_fields__:
            setattr(sums, field, getattr(sums, field) + getattr(count, field))
    not_compared = dict(first.not_compared)
    for name, number in second.not_compared.items():
        not_compared[name] = not_compared.get(name, 0) + number
    lost = {side: list(losses) for side, losses in first.lost_by_export.items()}
    for side, losses in second.lost_by_export.items():
        lost.setdefault(side, []).extend(losses)
    return msgspec.structs.replace(
        first,
        equal=first.equal and second.equal,
        kinds=kinds,
        differences=[*first.differences, *second.differences],
        differences_total=first.differences_total + second.differences_total,
        not_compared=not_compared,
        unread=[*first.unread, *second.unread],
        lost_by_export=lost,
        notes=[*first.notes, *(note for note in second.notes if note not in first.notes)],
        exit_code=first.exit_code or second.exit_code,
    )
