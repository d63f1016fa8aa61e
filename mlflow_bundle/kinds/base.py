"""What a plain entity is: one whose place, document and travel follow from its description alone.

Experiments, runs, logged models and the registry have documents of their own
(`bundles/documents`). Every other kind of MLflow's is described once, here, by a record and a
:class:`Kind`; sources, sinks, `verify` and the rest handle them all alike.

Texts that MLflow keeps as JSON (a span, a serialised scorer, a value) are texts in the records too:
they come back byte for byte, and may hold what strict JSON cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from mlflow_bundle.entities import PlainEntity

Scope = Literal["experiment", "server", "bundle"]
"""Where the entities of a kind lie: in an experiment, at the top of a workspace's tree, or (the
workspaces themselves) only at the top of the bundle."""


class NoItem(msgspec.Struct, frozen=True):
    """Item of a kind that has none."""


def is_hidden(item: msgspec.Struct) -> bool:
    """Whether servers show no such item: a deleted version, which MLflow keeps in its database."""
    return bool(getattr(item, "is_deleted", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Everything general that is to know of one kind of plain entity.

    Attributes:
        record: Type of its record.
        directory: Where its entities lie, below their experiment or the root of the tree.
        document: File name of its document.
        scope: Whether its entities belong to an experiment, to the server (of a workspace: to it),
            or to the bundle.
        has_artifacts: Whether files belong to an entity.
        item: Type of what an entity may have many of (spans, records): it travels in parts.
        has_many_items: Whether these are so many that a dry run does without them.
        apart: Whether MLflow keeps the kind in a database apart from everything else, so that it
            travels only where that is named (``--auth-db``).
    """

    record: type[PlainEntity]
    directory: str
    document: str
    scope: Scope
    has_artifacts: bool = False
    item: type[msgspec.Struct] = NoItem
    has_many_items: bool = False
    apart: bool = False

    @property
    def name(self) -> str:
        """Name of the kind, as reports and documents have it."""
        return self.record.kind
