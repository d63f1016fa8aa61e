"""What a transfer planned, did, found already there, adjusted and lost.

One collector for every command; `cli/` renders it, ``--json`` prints it. An *adjustment* is a
value that MLflow's REST API can never set, a secret to enter again, or a reference to something
outside the selection: counted per kind and field. A *loss* is everything else that did not arrive:
listed with its reason.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Something that should have been carried and was not."""

    kind: str
    id: str
    field: str = ""
    parent: str = ""
    """Id of the experiment it belongs to, if any."""
    reason: str

    def __str__(self) -> str:
        where = f"{self.kind} {self.id}" + (f", {self.field}" if self.field else "")
        return f"{where}: {self.reason}"


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A value at the destination that differs from the bundle's."""

    kind: str
    id: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}, {self.field}: {self.reason}"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A finished report as one documented JSON object (``--json``)."""

    command: str
    source: str
    destination: str
    dry_run: bool
    planned: dict[str, int]
    done: dict[str, int]
    present: dict[str, int]
    adjusted: dict[str, int]
    lost: list[Loss]
    conflicts: list[Conflict]
    notes: list[str]
    bytes: int
    requests: int
    duration_s: float
    exit_code: int


class Report:
    """Thread-safe collector of what a transfer does.

    Args:
        command: Name of the command, e.g. ``export-all``.
        dry_run: Whether nothing is changed.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        command: str = "",
        *,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command = command
        self.source = ""
        self.destination = ""
        self.dry_run = dry_run
        self.planned: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.present: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self.losses: list[Loss] = []
        self.conflicts: list[Conflict] = []
        self.notes: list[str] = []
        self.bytes = 0
        self.requests = 0
        self._lock = threading.Lock()
        self._clock = clock
        self._started = clock()

    def plan(self, kind: str, count: int = 1, *, size: int = 0) -> None:
        """Count objects of ``kind`` that the transfer is about to move, with their bytes."""
        with self._lock:
            self.planned[kind] += count
            self.bytes += size

    def did(self, kind: str, count: int = 1, *, size: int = 0) -> None:
        """Count objects of ``kind`` moved, with their bytes."""
        if count:
            with self._lock:
                self.done[kind] += count
                self.bytes += size

    def found(self, kind: str, count: int = 1) -> None:
        """Count objects of ``kind`` that the destination had already."""
        with self._lock:
            self.present[kind] += count

    def adjust(self, kind: str, field: str, count: int = 1) -> None:
        """Count values of ``field`` that MLflow's API cannot set or that point outside."""
        with self._lock:
            self.adjusted[f"{kind}.{field}"] += count

    def lose(self, kind: str, id: str, reason: str, *, field: str = "", parent: str = "") -> None:
        """List something that was not carried."""
        loss = Loss(kind=kind, id=id, field=field, parent=parent, reason=reason)
        with self._lock:
            self.losses.append(loss)

    def conflict(self, kind: str, id: str, field: str, reason: str) -> None:
        """List a value of the destination that differs."""
        with self._lock:
            self.conflicts.append(Conflict(kind=kind, id=id, field=field, reason=reason))

    def start_over(self, losses: list[Loss]) -> None:
        """Forget what a look at the destination found, before the transfer itself.

        Args:
            losses: Those known before the look.
        """
        with self._lock:
            self.adjusted.clear()
            self.present.clear()
            self.losses[:] = losses

    def note(self, text: str) -> None:
        """Add a line for the reader that is neither an adjustment nor a loss."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def summary(self, *, exit_code: int = 0) -> Summary:
        """Return the report as one JSON-ready object.

        Args:
            exit_code: How the command ends.
        """
        with self._lock:
            return Summary(
                command=self.command,
                source=self.source,
                destination=self.destination,
                dry_run=self.dry_run,
                planned=dict(sorted(self.planned.items())),
                done=dict(sorted(self.done.items())),
                present=dict(sorted(self.present.items())),
                adjusted=dict(sorted(self.adjusted.items())),
                lost=list(self.losses),
                conflicts=list(self.conflicts),
                notes=list(self.notes),
                bytes=self.bytes,
                requests=self.requests,
                duration_s=round(self._clock() - self._started, 3),
                exit_code=exit_code,
            )
