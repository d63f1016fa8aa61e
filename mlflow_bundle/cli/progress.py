"""Progress on stderr: bars on a terminal, a quiet line now and then otherwise."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from mlflow_bundle.cli.exit_codes import one_line
from mlflow_bundle.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    import rich.progress

LINE_INTERVAL_S = 15.0


def make_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Return the progress that suits ``stream`` (stderr): bars, lines or, if ``quiet``, nothing."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return SilentProgress()
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def format_bytes(count: int) -> str:
    """Return ``count`` with three figures and a decimal unit, e.g. ``1.25 GB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5 or unit == "PB":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


class LineProgress:
    """One line at the start of a phase, one every 15 s, one at its end.

    Args:
        stream: Where the lines go; flushed after each.
        clock: Seconds, monotonic.
        interval_s: Least time between two lines of one phase.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = LINE_INTERVAL_S,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._description: str | None = None
        self._total_objects: int | None = None
        self._total_bytes: int | None = None
        self._objects = self._bytes = 0
        self._started = self._last = 0.0

    def start(
        self, description: str, total_objects: int | None = None, total_bytes: int | None = None
    ) -> None:
        with self._lock:
            self._finish()
            self._description = description
            self._total_objects, self._total_bytes = total_objects, total_bytes
            self._objects = self._bytes = 0
            self._started = self._last = self._clock()
            expected = _amount(total_objects or 0, total_bytes or 0)
            self._write(description + (f": {expected}" if total_objects or total_bytes else ""))

    def advance(self, objects: int = 0, bytes: int = 0) -> None:
        with self._lock:
            self._objects += objects
            self._bytes += bytes
            now = self._clock()
            if self._description is not None and now - self._last >= self._interval_s:
                self._last = now
                self._write(f"{self._description}: {self._done()}")

    def message(self, text: str) -> None:
        with self._lock:
            self._write(text)

    def close(self) -> None:
        with self._lock:
            self._finish()

    def _finish(self) -> None:
        if self._description is not None:
            seconds = self._clock() - self._started
            if self._total_objects and self._objects < self._total_objects:
                self._write(f"{self._description}: {self._done()} after {seconds:.1f} s")
            elif self._objects or self._bytes:
                done = _amount(self._objects, self._bytes)
                self._write(f"{self._description}: done, {done} in {seconds:.1f} s")
            self._description = None

    def _done(self) -> str:
        parts = []
        if self._objects or self._total_objects:
            of = f" of {self._total_objects:,}" if self._total_objects else ""
            parts.append(f"{self._objects:,}{of} objects")
        if self._bytes or self._total_bytes:
            of = f" of {format_bytes(self._total_bytes)}" if self._total_bytes else ""
            parts.append(f"{format_bytes(self._bytes)}{of}")
        return ", ".join(parts) or "nothing yet"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(one_line(text) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads stderr any more: the work goes on
            return


def _amount(objects: int, size: int) -> str:
    return f"{objects:,} objects" + (f", {format_bytes(size)}" if size else "")


class BarProgress:
    """Two bars, objects and bytes, redrawn in place by rich.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(file=stream)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._lock = threading.Lock()
        self._running = False
        self._objects: rich.progress.TaskID | None = None
        self._bytes: rich.progress.TaskID | None = None
        self._counts = [0, 0]
        self._totals: list[int | None] = [None, None]

    def start(
        self, description: str, total_objects: int | None = None, total_bytes: int | None = None
    ) -> None:
        with self._lock:
            self._clear()
            self._counts, self._totals = [0, 0], [total_objects, total_bytes]
            self._objects = self._bars.add_task(one_line(description), total=total_objects, done="")
            if total_bytes:
                self._bytes = self._bars.add_task("", total=total_bytes, done="")
            if not self._running:
                self._running = True
                self._bars.start()

    def advance(self, objects: int = 0, bytes: int = 0) -> None:
        with self._lock:
            self._counts[0] += objects
            self._counts[1] += bytes
            if self._objects is not None and objects:
                self._bars.update(
                    self._objects, completed=self._counts[0], done=self._show_objects()
                )
            if self._objects is not None and self._bytes is None and bytes:
                self._bytes = self._bars.add_task("", total=None, done="")
            if self._bytes is not None and bytes:
                self._bars.update(self._bytes, completed=self._counts[1], done=self._show_bytes())

    def message(self, text: str) -> None:
        with self._lock:
            self._console.print(one_line(text), markup=False, highlight=False)

    def close(self) -> None:
        with self._lock:
            self._clear()
            if self._running:
                self._running = False
                self._bars.stop()

    def _clear(self) -> None:
        if self._running:
            self._bars.refresh()  # the last counts, which the ten redraws a second may have missed
        for task in (self._objects, self._bytes):
            if task is not None:
                self._bars.remove_task(task)
        self._objects = self._bytes = None

    def _show_objects(self) -> str:
        total = self._totals[0]
        return f"{self._counts[0]:,}" + (f"/{total:,}" if total else "") + " objects"

    def _show_bytes(self) -> str:
        total = self._totals[1]
        return format_bytes(self._counts[1]) + (f"/{format_bytes(total)}" if total else "")
