"""Metric points on their way from one side to the other: packed, and on disk past some size."""

from __future__ import annotations

import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from mlflow_bundle.bundles.documents import decode_points, history_of, history_order
from mlflow_bundle.entities import EncodedHistory, MetricHistory
from mlflow_bundle.spooled import temporary_file_named

_SPILL_BYTES = 16 * 1024 * 1024
"""What one of these holds in memory; several batches wait at once."""
_POINT_BYTES = 24

Columns = tuple["array[float]", "array[int]", "array[int]"]
"""Values, timestamps and steps."""


class _Chunk(NamedTuple):
    """Points of one run and key, packed or encoded: in memory, or at ``offset`` of the file."""

    length: int
    content: Columns | bytes | None
    offset: int
    encoded_bytes: int
    """Bytes in the file, if they are encoded."""


class SpooledPoints:
    """The histories of some runs. Safe from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: dict[str, dict[str, list[_Chunk]]] = {}
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(
        self,
        run_id: str,
        key: str,
        values: Iterable[float],
        timestamps: Iterable[int],
        steps: Iterable[int],
    ) -> None:
        """Append points to the history of one metric."""
        columns = _packed("d", values), _packed("q", timestamps), _packed("q", steps)
        length = len(columns[0])
        self._add(run_id, key, length, columns, _POINT_BYTES * length)

    def add_encoded(self, run_id: str, history: EncodedHistory) -> None:
        """Add the whole history of one metric."""
        points = history.points
        self._add(run_id, history.key, history.length, points, len(points))

    def _add(self, run_id: str, key: str, length: int, content: Columns | bytes, size: int) -> None:
        encoded_bytes = size if isinstance(content, bytes) else 0
        with self._lock:
            self._bytes += size
            if self._bytes > _SPILL_BYTES:
                chunk = _Chunk(length, None, self._spill(content), encoded_bytes)
            else:
                chunk = _Chunk(length, content, 0, encoded_bytes)
            self._chunks.setdefault(run_id, {}).setdefault(key, []).append(chunk)

    def keys(self, run_id: str) -> list[str]:
        """Return the metrics of one run that have points."""
        return list(self._chunks.get(run_id, ()))

    def histories(self, run_id: str) -> Iterator[MetricHistory]:
        """Yield the histories of one run, keys in the order of their escaped form."""
        for history in self.as_added(run_id):
            if isinstance(history, EncodedHistory):
                yield history_of(history.key, decode_points(history))
            else:
                yield history

    def as_added(self, run_id: str) -> Iterator[MetricHistory | EncodedHistory]:
        """Yield the same, those encoded that were added so."""
        by_key = self._chunks.get(run_id, {})
        for key in sorted(by_key, key=history_order):
            for chunk in by_key[key]:
                content = chunk.content if chunk.content is not None else self._read(chunk)
                if isinstance(content, bytes):
                    yield EncodedHistory(key, chunk.length, content)
                    continue
                values, timestamps, steps = content
                yield MetricHistory(
                    key=key,
                    values=values.tolist(),
                    timestamps=timestamps.tolist(),
                    steps=steps.tolist(),
                )

    def close(self) -> None:
        """Free the points."""
        self._chunks.clear()
        if self._file is not None:
            self._file.close()

    def _spill(self, content: Columns | bytes) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            weakref.finalize(self, self._file.close)
        with temporary_file_named():
            offset = self._file.seek(0, 2)
            if isinstance(content, bytes):
                self._file.write(content)
            else:
                for column in content:
                    self._file.write(column.tobytes())
        return offset

    def _read(self, chunk: _Chunk) -> Columns | bytes:
        assert self._file is not None
        columns: Columns = (array("d"), array("q"), array("q"))
        with self._lock:
            self._file.seek(chunk.offset)
            if chunk.encoded_bytes:
                return self._file.read(chunk.encoded_bytes)
            for column in columns:
                column.frombytes(self._file.read(8 * chunk.length))
        return columns


def _packed(code: str, numbers: Iterable[float]) -> array[Any]:
    return numbers if isinstance(numbers, array) else array(code, numbers)
