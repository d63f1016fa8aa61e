"""What has to wait for the end of an import, on disk past some size."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from mlflow_bundle.spooled import temporary_file_named

_IN_MEMORY_BYTES = 4 * 1024 * 1024


class Later:
    """A list of JSON values that is written from many threads and read once at the end."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - see close()
        self._lock = threading.Lock()

    def add(self, value: Any) -> None:
        """Add one value."""
        line = msgspec.json.encode(value) + b"\n"
        with self._lock, temporary_file_named():
            self._file.write(line)

    def read(self) -> Iterator[Any]:
        """Yield the values in the order they were added."""
        self._file.seek(0)
        for line in self._file:
            yield msgspec.json.decode(line)

    def close(self) -> None:
        """Forget everything."""
        self._file.close()
