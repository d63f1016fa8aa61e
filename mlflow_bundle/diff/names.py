"""Names that do not depend on a side, for everything that references may point to.

Ids differ between servers by nature. Each id is replaced by ``<kind label>``, where the label is
the id that the entity had at its first home, an experiment's name, a version's name and number. A
reference that was rewritten correctly then reads the same on both sides. One that should have been
rewritten and was not reads ``<stale …>``: the side holds that entity under another id. What is
outside of a side is named by the id that the reference has.

:class:`Names` stands in for a `Remap`: `references.py` rewrites a side's contents to names as it
rewrites a bundle's to a server's ids, so what it knows of references is known here too.
"""

from __future__ import annotations

from urllib.parse import unquote

from mlflow_bundle.diff.ledger import Ledger, Thing
from mlflow_bundle.diff.result import Side
from mlflow_bundle.entities import VERSION_KIND
from mlflow_bundle.kinds.auth import scorer_pattern
from mlflow_bundle.kinds.scorers import Scorer
from mlflow_bundle.references import SCORER_NAME
from mlflow_bundle.remap import Placed, Remap

HOLDER = "holder"
"""Kind here of a run that an import made only to hold the files of a model version."""

_NAMED = frozenset({"experiment", *VERSION_KIND, *VERSION_KIND.values()})
"""Kinds whose label is a name: an id that looks like one means nothing."""


class Names(Remap):
    """Ids of one side to names.

    Args:
        ledger: Holds what the side has; stays open.
        side: Which side.
    """

    def __init__(self, ledger: Ledger, side: Side) -> None:
        self._ledger = ledger
        self._side: Side = side

    def place(
        self, kind: str, source_id: str, id: str, *, source_root: str = "", sink_root: str = ""
    ) -> None:
        raise TypeError("names follow from what a side holds")

    def find(self, kind: str, source_id: str) -> Placed | None:
        thing = self._thing(kind, source_id)
        if thing is not None:
            return Placed(
                f"<{kind} {thing.label}>", thing.root, f"<artifacts of {kind} {thing.label}>"
            )
        if kind in VERSION_KIND.values():
            return None
        if kind not in _NAMED and self._ledger.find_label(self._side, kind, source_id):
            return Placed(f"<stale {kind} {source_id}>", "", "")
        return Placed(f"<{kind} {source_id}>", "", "")

    def name(self, kind: str, id: str) -> str:
        """Return the name for an id; empty for none and for a run that only holds files."""
        if not id or (kind == "run" and self._ledger.find(self._side, HOLDER, id)):
            return ""
        placed = self.find(kind, id)
        return placed.id if placed is not None else f"<{kind} {id}>"

    def knows(self, kind: str, id: str) -> bool:
        """Whether the side holds that entity."""
        return self._thing(kind, id) is not None

    def _thing(self, kind: str, id: str) -> Thing | None:
        if kind != SCORER_NAME:
            return self._ledger.find(self._side, kind, id)
        experiment_id, _, quoted = id.partition("/")
        name = unquote(quoted)
        if scorer_pattern(experiment_id, name) != id:
            return None
        return self._ledger.find(self._side, Scorer.kind, name, experiment_id)

    def close(self) -> None:
        """Nothing is held."""


class Held(Names):
    """Names for what a side holds, and for nothing else."""

    def __init__(self, names: Names) -> None:
        super().__init__(names._ledger, names._side)

    def find(self, kind: str, source_id: str) -> Placed | None:
        return super().find(kind, source_id) if self.knows(kind, source_id) else None
