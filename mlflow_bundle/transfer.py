"""Moves what a selection names from any source to any sink: the one verb of this package.

The source fixes what will move; the sink is told of everything that others refer to, so that it
knows every new id; then each entity goes over with its content, in path order where the sink needs
it and side by side where it can. An entity that the sink refuses is a loss and never stops its
siblings; a server that is away stops everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from mlflow_bundle.contracts import Content, Sink, Source
from mlflow_bundle.entities import Entity, RegisteredModel
from mlflow_bundle.errors import ConflictError, ServerError
from mlflow_bundle.kinds import ALL_KINDS
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection

ItemT = TypeVar("ItemT")


def transfer(
    source: Source,
    sink: Sink,
    selection: Selection,
    report: Report,
    *,
    jobs: int = 8,
    progress: Progress | None = None,
    inside: Callable[[], None] | None = None,
) -> None:
    """Move ``selection`` from ``source`` to ``sink``; ``report`` tells what happened.

    Args:
        source: Where entities come from; stays open.
        sink: Where they go; finished on success, aborted on failure, stays open.
        selection: What to move.
        report: Filled while the transfer runs; ``report.dry_run`` changes nothing at the sink.
        jobs: Entities at once, where the sink allows it.
        progress: Told of objects and bytes.
        inside: Called when everything of ``source`` is in ``sink``, before that is finished: moves
            what else lies inside it, the workspaces of a bundle.

    Raises:
        SelectionError: Something asked for does not exist.
        ServerError: A server could not be reached.
        FormatError: A bundle is damaged.
    """
    progress = progress or SilentProgress()
    try:
        progress.start("listing")
        source.select(selection, report)
        carry(
            source,
            sink,
            selection,
            report,
            jobs=jobs,
            progress=progress,
            inside=inside,
        )
    except BaseException:
        sink.abort()
        raise
    finally:
        progress.close()


def carry(
    source: Source,
    sink: Sink,
    selection: Selection,
    report: Report,
    *,
    jobs: int,
    progress: Progress,
    inside: Callable[[], None] | None = None,
) -> None:
    """Move what ``source`` has selected; arguments and errors as of :func:`transfer`."""
    report.source = source.info.uri
    planned = report.planned
    if selection.stages and planned[RegisteredModel.kind] and not planned["model_version"]:
        stages = " or ".join(selection.stages)
        report.note(f"no version of the selected models is in stage {stages}: they come empty")
    sink.begin(source.info, selection)
    if report.dry_run:
        _examine_all(source, sink, report, jobs)
    else:
        _reserve_all(source, sink, report, jobs)
        progress.start("moving", sum(report.planned[kind] for kind in ALL_KINDS), None)
        at_once = _at_once(source, sink, jobs)
        contents = source.iter_contents(
            files="ahead" if sink.in_order else "open",
            histories="encoded" if sink.takes_encoded_histories else True,
            wanted=sink.wants,
        )
        _each(contents, lambda content: _put(sink, content, report), at_once)
    source.conclude()
    if inside is not None:
        inside()
    if not report.dry_run:
        sink.finish()


def examine(source: Source, sink: Sink, selection: Selection, report: Report, *, jobs: int) -> None:
    """Tell ``report`` what of the selected is in ``sink`` already, and every conflict.

    Nothing is written. The sink is of no other use afterwards.
    """
    report.source = source.info.uri
    sink.begin(source.info, selection)
    _examine_all(source, sink, report, jobs)


def refuse_conflicts(report: Report) -> None:
    """Refuse to write when there is a conflict.

    Raises:
        ConflictError: There is.
    """
    if report.conflicts:
        raise ConflictError(
            f"{len(report.conflicts)} conflicts, nothing was written; the first: "
            f"{report.conflicts[0]}",
            hint="--dry-run lists them all; --on-conflict skip or update goes on",
        )


def _at_once(source: Source, sink: Sink, jobs: int) -> int:
    return jobs if sink.concurrent and source.random_access else 1


def _examine_all(source: Source, sink: Sink, report: Report, jobs: int) -> None:
    _reserve_all(source, sink, report, jobs, dry=True)
    contents = source.iter_contents(files="list", histories="items")
    at_once = _at_once(source, sink, jobs)
    _each(contents, lambda content: _examine(sink, content, report), at_once)


def _reserve_all(
    source: Source, sink: Sink, report: Report, jobs: int, *, dry: bool = False
) -> None:
    for kind in sink.reserved_kinds:
        _each(
            source.iter_entities(kind),
            lambda entity: _reserve(sink, entity, report, dry=dry),
            jobs if sink.concurrent else 1,
        )


def _reserve(sink: Sink, entity: Entity, report: Report, *, dry: bool) -> None:
    try:
        sink.reserve(entity, dry=dry)
    except ConflictError:
        raise
    except ServerError as exc:
        if exc.status is None:
            raise
        report.lose(entity.kind, entity.id, exc.message)


def _examine(sink: Sink, content: Content, report: Report) -> None:
    try:
        files = [
            file
            for tree in (content.artifacts, *content.version_artifacts.values())
            for file in tree.files()
        ]
        sink.examine(content)
    except ServerError as exc:
        if exc.status is None:
            raise
        report.lose(content.entity.kind, content.entity.id, exc.message)
        return
    if report.dry_run and sink.takes_files:
        report.plan("artifact", len(files), size=sum(file.size or 0 for file in files))


def _put(sink: Sink, content: Content, report: Report) -> None:
    try:
        sink.put(content)
    except ServerError as exc:
        if exc.status is None:
            raise
        report.lose(content.entity.kind, content.entity.id, exc.message)


def _each(items: Iterable[ItemT], action: Callable[[ItemT], None], jobs: int) -> None:
    """Apply ``action`` to every item, ``jobs`` at once; the first failure stops the rest."""
    if jobs == 1:
        for item in items:
            action(item)
        return
    stop = threading.Event()

    def guarded(item: ItemT) -> None:
        if stop.is_set():
            return
        try:
            action(item)
        except BaseException:
            stop.set()  # at once: the result may be looked at much later
            raise

    pending: set[Future[None]] = set()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="mlflow-bundle-write")
    try:
        for item in items:
            pending.add(pool.submit(guarded, item))
            if len(pending) >= 2 * jobs:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in pending:
            future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
