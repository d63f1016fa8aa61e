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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from mlflow_bundle.errors import BundleError


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Something that should have been carried and was not."""

    kind: str
    id: str
    field: str = ""
    parent: str = ""
    """Id of the experiment it belongs to, if any."""
    workspace: str = ""
    """Workspace it lies in; empty for ``default``."""
    reason: str

    def __str__(self) -> str:
        return f"{_where(self)}: {self.reason}"


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A value at the destination that differs from the bundle's."""

    kind: str
    id: str
    field: str
    workspace: str = ""
    """Workspace of the bundle that it lies in; empty for ``default``."""
    reason: str

    def __str__(self) -> str:
        return f"{_where(self)}: {self.reason}"


def _where(entry: Loss | Conflict) -> str:
    workspace = f" in workspace {entry.workspace}" if entry.workspace else ""
    return f"{entry.kind} {entry.id}{workspace}" + (f", {entry.field}" if entry.field else "")


EntryT = TypeVar("EntryT", Loss, Conflict)


class LossError(BundleError):
    """A loss ends the transfer, as the user asked (``--fail-fast``)."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"lost: {loss}", hint="give the same command again to try it once more")
        self.loss = loss


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
    stopped: bool
    """Whether it ended at its first loss (``--fail-fast``), with more to do."""
    exit_code: int


class Report:
    """Thread-safe collector of what a transfer does.

    Args:
        command: Name of the command, e.g. ``export-all``.
        dry_run: Whether nothing is changed.
        fail_fast: Whether the first loss ends the transfer.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        command: str = "",
        *,
        dry_run: bool = False,
        fail_fast: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command = command
        self.source = ""
        self.destination = ""
        self.dry_run = dry_run
        self.stopped = False
        self._fail_fast = fail_fast
        self.planned: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.present: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self.losses: list[Loss] = []
        self._losses_of: dict[tuple[str, str], list[Loss]] = {}
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
        """Count objects of ``kind`` moved, with their bytes.

        Args:
            kind: What they are.
            count: How many; negative, where some were counted that were not moved after all.
            size: Their bytes.
        """
        if count:
            with self._lock:
                self.done[kind] += count
                self.bytes += size
                if not self.done[kind]:
                    del self.done[kind]

    def found(self, kind: str, count: int = 1, *, size: int = 0) -> None:
        """Count objects of ``kind`` that the destination had already.

        Args:
            kind: What they are.
            count: How many.
            size: Their bytes, which were planned and will not be moved.
        """
        if count:
            with self._lock:
                self.present[kind] += count
                self.bytes -= size

    def adjust(self, kind: str, field: str, count: int = 1) -> None:
        """Count values of ``field`` that MLflow's API cannot set or that point outside."""
        with self._lock:
            self.adjusted[f"{kind}.{field}"] += count

    def lose(
        self,
        kind: str,
        id: str,
        reason: str,
        *,
        field: str = "",
        parent: str = "",
        workspace: str = "",
    ) -> Loss:
        """List something that was not carried, and return it as it is listed.

        Raises:
            LossError: The first loss ends the transfer.
        """
        # Messages of servers name the object, which the loss does already.
        reason = reason.removeprefix(f"{kind.replace('_', ' ')} {id}: ")
        loss = Loss(
            kind=kind, id=id, field=field, parent=parent, workspace=workspace, reason=reason
        )
        with self._lock:
            self.losses.append(loss)
            self._losses_of.setdefault((kind, id), []).append(loss)
        if self._fail_fast:
            raise LossError(loss)
        return loss

    @contextmanager
    def until_a_loss(self) -> Iterator[None]:
        """End the block at a :class:`LossError`, which is told like any other end."""
        try:
            yield
        except LossError as exc:
            self.stopped = True
            if not self.losses:  # it lies in a part that was not absorbed
                self.losses.append(exc.loss)

    def lose_again(self, loss: Loss) -> None:
        """List what an earlier attempt lost, unless this one has lost it already."""
        if loss not in self.losses_of(loss.kind, loss.id):
            self.lose(loss.kind, loss.id, loss.reason, field=loss.field, parent=loss.parent)

    def losses_of(self, kind: str, id: str) -> list[Loss]:
        """Return the losses that one object has."""
        with self._lock:
            return list(self._losses_of.get((kind, id), ()))

    def conflict(self, kind: str, id: str, field: str, reason: str) -> None:
        """List a value of the destination that differs."""
        with self._lock:
            self.conflicts.append(Conflict(kind=kind, id=id, field=field, reason=reason))

    def child(self) -> Report:
        """Return an empty report for a part of the same command; see :meth:`absorb`."""
        return Report(
            self.command, dry_run=self.dry_run, fail_fast=self._fail_fast, clock=self._clock
        )

    def absorb(self, part: Report, *, workspace: str = "") -> None:
        """Add what a part of the command did.

        Args:
            part: From :meth:`child`.
            workspace: The workspace that its losses, conflicts and notes are about.
        """
        with self._lock:
            for mine, other in (
                (self.planned, part.planned),
                (self.done, part.done),
                (self.present, part.present),
                (self.adjusted, part.adjusted),
            ):
                mine.update(other)
            self.losses += [_placed(loss, workspace) for loss in part.losses]
            self.conflicts += [_placed(conflict, workspace) for conflict in part.conflicts]
            self.bytes += part.bytes
            self.requests += part.requests
        for text in part.notes:
            self.note(f"in workspace {workspace}: {text}" if workspace else text)

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
                stopped=self.stopped,
                exit_code=exit_code,
            )


def _placed(entry: EntryT, workspace: str) -> EntryT:
    return msgspec.structs.replace(entry, workspace=entry.workspace or workspace)
