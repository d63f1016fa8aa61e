"""Evaluation datasets: records of inputs, outputs and expectations (MLflow >= 3.4)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mlflow_bundle.entities import Association, Int64, PlainEntity
from mlflow_bundle.kinds.base import Kind

OUTPUTS_KEY = "mlflow_wrapped"
"""Key of a record's outputs in MLflow's table (mlflow/entities/dataset_record.py)."""


class EvaluationDataset(PlainEntity, frozen=True, kw_only=True):
    """One evaluation dataset without its records; names are not unique."""

    kind: ClassVar[str] = "dataset"

    dataset_id: str
    name: str
    tags: dict[str, str] = {}
    schema: str | None = None
    """JSON text; the server derives it from the records, as it does ``profile``."""
    profile: str | None = None
    digest: str | None = None
    created_time: Int64 | None = None
    last_update_time: Int64 | None = None
    created_by: str | None = None
    last_updated_by: str | None = None
    experiment_ids: list[str] = []
    """Experiments it is linked to: by these it belongs to a part of a server."""
    associations: list[Association] | UnsetType = UNSET
    """All its links, those of ``experiment_ids`` among them."""
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""

    @property
    def id(self) -> str:
        return self.dataset_id


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record; ``inputs`` are unique within a dataset.

    Values are JSON texts; None where MLflow keeps nothing, which differs from ``{}``. ``outputs``
    is the value itself, without the ``OUTPUTS_KEY`` of MLflow's table.
    """

    text_fields: ClassVar[tuple[str, ...]] = ("source",)

    dataset_record_id: str
    inputs: str
    outputs: str | None = None
    expectations: str | None = None
    tags: str | None = None
    source: str | None = None
    source_id: str | None = None
    source_type: str | None = None
    created_time: Int64 | None = None
    last_update_time: Int64 | None = None
    created_by: str | None = None
    last_updated_by: str | None = None
    null_fields: list[str] | UnsetType = UNSET
    """Values that are null in MLflow's table and not, as usual, the JSON text ``null``."""


DATASET = Kind(
    record=EvaluationDataset,
    directory="datasets",
    document="dataset.json",
    scope="server",
    item=DatasetRecord,
    has_many_items=True,
)
