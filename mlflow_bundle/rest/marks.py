"""Marks on experiments that keep a second import away while one is under way.

A mark is a tag ``<uuid> <time in ms> <host>:<pid>`` that is renewed while the import lives. A fresh
mark of another import refuses this one; that of a process of this machine that is gone does not.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from mlflow_bundle import provenance
from mlflow_bundle.errors import ConflictError, ServerError
from mlflow_bundle.rest.experiments import get_experiment
from mlflow_bundle.rest.refusals import is_forbidden
from mlflow_bundle.rest.session import API, Session, since

FRESH_MS = 300_000
RENEW_S = 60.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One import's claim on an experiment."""

    importer: str
    time_ms: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.importer} {self.time_ms} {self.host}:{self.pid}"

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """Read a tag's value; None when it is none of ours."""
        parts = text.split()
        if len(parts) != 3 or not parts[1].isdigit():
            return None
        host, _, pid = parts[2].rpartition(":")
        return cls(parts[0], int(parts[1]), host, int(pid) if pid.isdigit() else 0)

    def is_alive(self, now_ms: int) -> bool:
        """Whether the import may still be under way."""
        if now_ms - self.time_ms >= FRESH_MS:
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class Marks:
    """The marks of this import.

    Args:
        session: The server.
        version: Its version.
        steal: Whether fresh marks of other imports are ignored.
        now_ms: Clock.
    """

    def __init__(
        self,
        session: Session,
        version: tuple[int, ...],
        *,
        steal: bool = False,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._session = session
        self._version = version
        self._steal = steal
        self._now_ms = now_ms
        self._id = str(uuid.uuid4())
        self._marked: dict[str, None] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def new(self) -> Mark:
        """A mark of this import, as of now."""
        return Mark(self._id, self._now_ms(), socket.gethostname(), os.getpid())

    def check(self, name: str, tags: dict[str, str]) -> None:
        """Refuse an experiment that another import is working on.

        Raises:
            ConflictError: Its mark is fresh.
        """
        mark = Mark.parse(tags.get(provenance.IMPORTER, ""))
        if mark is None or mark.importer == self._id or self._steal:
            return
        if mark.is_alive(self._now_ms()):
            raise ConflictError(
                f"another import is writing to experiment {name!r} "
                f"(process {mark.pid} on {mark.host})",
                hint="wait for it; --steal if it is gone",
            )

    def mark(self, experiment_id: str, *, written: bool = False) -> None:
        """Claim an experiment; ``written`` says that the tag was given at its creation."""
        if not written:
            self._set(experiment_id, str(self.new()))
        with self._lock:
            self._marked[experiment_id] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, daemon=True)
                self._thread.start()

    def clear(self) -> None:
        """Stop renewing and take the marks away; an unreachable server keeps them until stale."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for experiment_id in list(self._marked):
            self.release(experiment_id)

    def release(self, experiment_id: str) -> None:
        """Take one mark away."""
        with self._lock:
            if experiment_id not in self._marked:
                return
            del self._marked[experiment_id]
        if not self._is_ours(experiment_id):
            return
        if not self._delete(experiment_id):
            self._set(experiment_id, "done")

    def _delete(self, experiment_id: str) -> bool:
        """Delete the tag; return whether this could be done (from MLflow 3.2 on)."""
        if not since(self._version, 3, 2):
            return False
        try:
            self._session.post(
                f"{API}experiments/delete-experiment-tag",
                {"experiment_id": experiment_id, "key": provenance.IMPORTER},
                what=f"experiment {experiment_id}",
            )
        except ServerError as exc:
            if is_forbidden(exc) or self._session.is_absent(exc):
                return False
            # An import that stole the mark has taken it away already.
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        return True

    def _is_ours(self, experiment_id: str) -> bool:
        """Whether the mark is still this import's: another one may have taken its place."""
        return self.is_own(get_experiment(self._session, experiment_id).tags)

    def is_own(self, tags: dict[str, str]) -> bool:
        """Whether an experiment with these tags carries this import's mark."""
        mark = Mark.parse(tags.get(provenance.IMPORTER, ""))
        return mark is not None and mark.importer == self._id

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            with self._lock:
                marked = list(self._marked)
            for experiment_id in marked:
                try:
                    self._set(experiment_id, str(self.new()))
                except ServerError:
                    # The transfer itself meets the same server and says what is wrong.
                    break

    def _set(self, experiment_id: str, value: str) -> None:
        self._session.post(
            f"{API}experiments/set-experiment-tag",
            {"experiment_id": experiment_id, "key": provenance.IMPORTER, "value": value},
            what=f"experiment {experiment_id}",
        )
