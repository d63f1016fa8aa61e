"""Metric points on their way into a database: millions, of which most share their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

POINT_TABLE = "metrics"
POINT_COLUMNS = ("key", "run_uuid", "value", "timestamp", "step", "is_nan")


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one metric of one run; equal positions are one point."""

    key: str
    run_id: str
    values: Sequence[float]
    """Finite: 0 stands for NaN, the largest float for infinity, as in MLflow's own rows."""
    timestamps: Sequence[int]
    """Milliseconds since 1970."""
    steps: Sequence[int]
    is_nan: Sequence[bool]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield them with the values of :data:`POINT_COLUMNS`."""
        yield from zip(
            repeat(self.key),
            repeat(self.run_id),
            self.values,
            self.timestamps,
            self.steps,
            self.is_nan,
            strict=False,
        )
