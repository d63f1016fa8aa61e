"""A process beside an export that reads metric points of the same state of a database.

Points are most of what a server holds, and a thread that reads them would keep the one that writes
waiting for the interpreter: a process has an interpreter of its own. It can see the same state
where the database lets two connections share one (`Dialect.share`).

It opens the state; then, again and again, it gets a list of run ids and answers with the points of
these runs and with ``None`` behind the last. Points are a list of run id, key and either values,
timestamps and steps as bytes, or their number and their JSON: a history that is short enough for
the document of its run can come as it stands there, which is no small part of the work.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from array import array
from collections.abc import Sequence
from typing import Any

from mlflow_bundle.bundles.documents import encode_history
from mlflow_bundle.bundles.parts import INLINE_POINTS_PER_KEY
from mlflow_bundle.entities import EncodedHistory
from mlflow_bundle.errors import SourceError
from mlflow_bundle.side_process import LostProcessError, Questions, SideProcess
from mlflow_bundle.spooled_points import SpooledPoints
from mlflow_bundle.sql.database import Database
from mlflow_bundle.sql.readers.points import read_points
from mlflow_bundle.sql.rows import Rows

_TYPES = ("d", "q", "q")
"""Of values, timestamps and steps, as `array` names them."""


class PointProcess(SideProcess):
    """The process, as who asks it sees it. Safe from many threads.

    Args:
        database: Whose :attr:`~Database.state` it shares.
        encoded: Whether short histories come encoded.

    Raises:
        LostProcessError: There can be none.
    """

    def __init__(self, database: Database, *, encoded: bool) -> None:
        with database.reading:
            token = database.share()
        if token is None:
            raise LostProcessError
        self._lock = threading.Lock()
        self._answered = False
        self._database = database
        super().__init__(__name__, {"uri": database.uri, "token": token, "encoded": encoded})

    def is_open(self) -> bool:
        """Whether it answers at once; until then its owner is faster."""
        return self._answered or self.has_answered()

    def read(self, run_ids: Sequence[str], points: SpooledPoints) -> None:
        """Read every point of some runs, as :func:`read_points` does.

        Raises:
            LostProcessError: It has ended; some points may have been added.
        """
        with self._lock:
            self._wait_until_open()
            self.send(list(run_ids))
            while (found := self.receive()) is not None:
                try:
                    run_id, key, *content = found
                    columns = list(map(array, _TYPES, content)) if len(content) == 3 else None
                except (TypeError, ValueError) as exc:
                    raise LostProcessError from exc
                if columns is None:
                    points.add_encoded(run_id, EncodedHistory(key, *content))
                else:
                    points.add(run_id, key, *columns)

    def _wait_until_open(self) -> None:
        if not self._answered:
            self.wait_until_open()
            self._answered = True
            self._database.settle()


def serve() -> None:
    """Be the process."""
    gc.disable()  # points are in no cycles, and looking for some takes a tenth of the time
    questions = Questions()
    opening = next(questions)
    database = Database(
        opening["uri"], error=SourceError, token=opening["token"], only=("metrics",)
    )

    most = INLINE_POINTS_PER_KEY if opening["encoded"] else 0
    last: tuple[str, str] | None = None

    def add(
        run_id: str,
        key: str,
        values: Sequence[float],
        timestamps: Sequence[int],
        steps: Sequence[int],
    ) -> None:
        nonlocal last
        content: tuple[Any, ...]
        # What is long comes in several pieces, the last of which may be short.
        if len(values) <= most and (run_id, key) != last:
            history = encode_history(key, values, timestamps, steps)
            content = (history.length, history.points)
        else:
            columns = map(array, _TYPES, (values, timestamps, steps))
            content = tuple(column.tobytes() for column in columns)
        last = (run_id, key)
        questions.answer((run_id, key, *content), flush=False)

    with contextlib.closing(database), contextlib.suppress(BrokenPipeError):
        rows = Rows(database, database.state, "")
        questions.answer(True)
        for run_ids in questions:
            read_points(rows, run_ids, add)
            questions.answer(None)
