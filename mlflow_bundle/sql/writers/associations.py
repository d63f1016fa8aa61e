"""Writes links of entities to others: rows of ``entity_associations``, which refer to nothing."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow_bundle.entities import Association, Experiment, LoggedModel, Run
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target

_KEY = ("source_type", "source_id", "destination_type", "destination_id")
_KINDS = {
    "run": Run.kind,
    "experiment": Experiment.kind,
    "model": LoggedModel.kind,
    "prompt_version": "prompt_version",
    "evaluation_dataset": "dataset",
}
"""Type of an association's end to kind (mlflow/entities/entity_type.py); traces keep their ids."""


class AssociationRows:
    """Writes links.

    Args:
        to: The database.
    """

    def __init__(self, to: Target) -> None:
        self._to = to

    def write(
        self, merge: Merge, type: str, id: str, links: Iterable[Association], *, kept: bool = True
    ) -> None:
        """Write the links of an entity.

        Args:
            merge: The entity's.
            type: Of the entity.
            id: Its id here.
            links: The bundle's.
            kept: Whether the entity has the id that it has in the bundle.
        """
        rows: list[Row] = []
        for link in links:
            kind = _KINDS.get(link.destination_type)
            placed = self._to.remap.find(kind, link.destination_id) if kind else None
            if kind and placed is None:
                self._to.report.adjust(merge.kind, f"{link.destination_type} (points outside)")
                if kind == Experiment.kind:
                    continue  # its number may be that of another experiment here
            there = link.destination_id if placed is None else placed.id
            ends = (type, id, link.destination_type, there)
            same = kept and there == link.destination_id and link.association_id
            rows.append(
                {
                    "association_id": link.association_id if same else self._made_id(ends),
                    **dict(zip(_KEY, ends, strict=True)),
                    "created_time": link.created_time,
                }
            )
        within = {"source_type": type, "source_id": id}
        merge.rows(
            "entity_associations", within, rows, key=_KEY, name="links", named_by="destination_id"
        )

    def _made_id(self, ends: tuple[str, str, str, str]) -> str:
        # ``a-`` and 32 digits, as MLflow has it.
        return f"a-{self._to.made_id('entity_associations', *ends)}"
