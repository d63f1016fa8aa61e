"""An export that was interrupted: what its ``.partial`` file holds, and how it goes on.

The bundle itself is the record (FORMAT.md 10.1). A resumed export asks the source afresh, leaves
alone what is written, and writes on behind it with the uuid and the times of the first attempt, so
that for an unchanged source nothing tells the two apart. What changed at the source meanwhile,
behind the point that was reached, stays as it was when the export began, and is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.archive import HEADER_PATH, order_key, scan_groups
from mlflow_bundle.archive.unfinished import WrittenMember, WrittenMembers
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.output import BundleFileWriter, PartialFile, partial_path
from mlflow_bundle.bundles.tree import TreeWriter
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import FormatError, SelectionError
from mlflow_bundle.kinds import KINDS
from mlflow_bundle.report import Loss

_SHOWN = 10


class Unfinished:
    """What an interrupted export has left.

    Args:
        partial: Its file, locked; closed with this or with the writer.
        header: Its ``bundle.json``.
        level: zstd level.
        jobs: Compression threads.
    """

    def __init__(
        self, partial: PartialFile, header: docs.BundleHeader, *, level: int = 3, jobs: int = 2
    ) -> None:
        self._partial = partial
        self._level = level
        self._jobs = jobs
        self.header = header

    def require_same(self, asked: docs.BundleHeader) -> None:
        """Refuse to go on with an export of something else.

        Raises:
            SelectionError: Source, selection or options are others than those that were given.
        """
        require_same_export(
            f"{self._partial.path} is an unfinished export",
            self.header,
            uri=asked.source.uri,
            selection=asked.selection,
            options=asked.options,
            hint="--restart deletes it and begins anew; another -o FILE keeps it",
        )

    def resume(self) -> tuple[TreeWriter, WrittenMembers]:
        """Return what writes on, and what is written already: the latter is the caller's to close.

        What the interruption left half-written is cut off.

        Raises:
            FormatError: The file is damaged.
        """
        writer = BundleFileWriter.resume(self._partial, level=self._level, jobs=self._jobs)
        # Of its own: whoever reads moves the position at which the writer goes on.
        return writer, WrittenMembers(self._partial.path.open("rb"))

    def close(self) -> None:
        """Leave the file as it is."""
        self._partial.close()


def require_same_export(
    what: str, header: docs.BundleHeader, *, uri: str, selection: Any, options: Any, hint: str
) -> None:
    """Refuse to go on from an export of something else.

    Args:
        what: What it is, for the message.
        header: Its header.
        uri: The source that is asked for, without credentials.
        selection: The selection, as headers have it.
        options: The options, likewise.
        hint: The next step.

    Raises:
        SelectionError: Source, selection or options are others than those that were given.
    """
    for fault, old, new in (
        ("of another server", header.source.uri, uri),
        ("of another selection", header.selection, selection),
        ("with other options", header.options, options),
    ):
        if old != new:
            raise SelectionError(f"{what} {fault}: {_shown(old)}, not {_shown(new)}", hint=hint)


def find_unfinished(
    path: str, *, force: bool = False, level: int = 3, jobs: int = 2
) -> Unfinished | None:
    """Return what an interrupted export to the file ``path`` has left, or None.

    Args:
        path: The bundle to be.
        force: Whether an existing bundle is replaced.
        level: zstd level.
        jobs: Compression threads.

    Raises:
        BundleError: The bundle exists already, or another process is writing it.
    """
    if not partial_path(path).exists():
        return None
    partial = PartialFile(path, force=force)
    try:
        scan = scan_groups(partial.stream)
        header = docs.decode(scan.header, docs.BundleHeader, path=HEADER_PATH)
        if scan.groups:
            return Unfinished(partial, header, level=level, jobs=jobs)
    except FormatError:
        pass  # nothing that could be gone on with
    except BaseException:
        partial.close()
        raise
    partial.close()
    return None


class Progressed:
    """Compares what the source has now with what was written of one tree.

    Args:
        members: What was written.
        prefix: Of the tree's workspace; empty for the top.
    """

    def __init__(self, members: WrittenMembers, prefix: str = "") -> None:
        self._members = members
        self._prefix = prefix
        self._seen: set[bytes] = set()
        self.changed: list[str] = []
        self.appeared: list[str] = []
        self.vanished_files: list[str] = []

    def find(self, path: str) -> WrittenMember | None:
        """Return what was written at ``path`` of this tree."""
        return self._members.find(self._prefix + path)

    def reaches(self, path: str) -> bool:
        """Whether nothing can be added at ``path`` any more."""
        return self._members.reaches(self._prefix + path)

    def read(self, path: str) -> bytes:
        """Return a document that was written."""
        return self._members.read(self._prefix + path, limit_bytes=docs.MAX_DOCUMENT_BYTES)

    def iter_written(self) -> Iterator[tuple[str, int, layout.Place]]:
        """Yield path, size and place of each member of this tree, in path order."""
        for member in self._members.iter_members():
            prefix, below = layout.split_workspace(member.path)
            if prefix == self._prefix:
                place = layout.place_of(below)
                if place is not None:
                    yield below, member.size, place

    def iter_below(self, directory: str) -> Iterator[tuple[str, int]]:
        """Yield path and size of each member below a directory, in path order."""
        for member in self._members.iter_below(self._prefix + directory):
            yield member.path.removeprefix(self._prefix), member.size

    def see(self, path: str) -> None:
        """Note that the source still has the entity of the document at ``path``."""
        self._seen.add(order_key(path))

    def vanished(self) -> list[str]:
        """Documents written of entities that the source no longer has."""
        return [
            path
            for path, _, place in self.iter_written()
            if place.role == "document" and order_key(path) not in self._seen
        ]

    def notes(self) -> list[str]:
        """What changed at the source since the export began, as lines for the reader."""
        return [
            f"{len(paths)} {what} since this export began: {', '.join(paths[:_SHOWN])}"
            + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
            for what, paths in (
                ("changed at the source, and are here as they were,", self.changed),
                ("appeared at the source, and are not here,", self.appeared),
                (
                    "vanished from the source, and are here as they were,",
                    self.vanished() + self.vanished_files,
                ),
            )
            if paths
        ]


@dataclass(slots=True, kw_only=True)
class Restored:
    """What a sink would know if it had written, just now, what was written before."""

    runs: list[str] = field(default_factory=list)
    """Of the experiment whose document comes next."""
    logged_models: list[str] = field(default_factory=list)
    experiments: list[docs.ExperimentEntry] = field(default_factory=list)
    registry: dict[str, list[str]] = field(
        default_factory=lambda: {kind: [] for kind in layout.REGISTRY_DIRECTORY}
    )
    totals: Counter[str] = field(default_factory=Counter)
    artifact_bytes: int = 0
    losses: list[Loss] = field(default_factory=list)
    unfinished: dict[str, tuple[layout.Place, int, int]] = field(default_factory=dict)
    """Of documents that are not written: what lies beside them, how many files, how many bytes."""
    open_directory: str = ""
    """Of the experiment that something was written of, and not its document."""


def restore(before: Progressed) -> Restored:
    """Return what was written of one tree.

    Raises:
        FormatError: A document is damaged.
    """
    restored = Restored()
    for path, size, place in before.iter_written():
        if place.role == "artifact":
            # They count with their document; those of an unfinished entity come again.
            _, files, total = restored.unfinished.get(place.document, (place, 0, 0))
            restored.unfinished[place.document] = place, files + 1, total + size
        elif place.role == "document":
            _, files, total = restored.unfinished.pop(place.document, (place, 0, 0))
            if files:
                restored.totals["artifact"] += files
                restored.artifact_bytes += total
            _restore_document(restored, path, place.kind, before.read(path))
        top, _, below = path.partition("/")
        if top == layout.EXPERIMENTS and "/" in below and place.kind != Experiment.kind:
            restored.open_directory = f"{top}/{below.partition('/')[0]}"
        else:
            restored.open_directory = ""
    return restored


def _restore_document(restored: Restored, path: str, kind: str, data: bytes) -> None:
    restored.totals[kind] += 1
    if kind == Run.kind:
        run = docs.decode(data, docs.RunDocument, path=path)
        restored.runs.append(run.info.run_id)
        restored.losses += run.losses
    elif kind == LoggedModel.kind:
        model = docs.decode(data, docs.LoggedModelDocument, path=path)
        restored.logged_models.append(model.logged_model.model_id)
        restored.losses += model.losses
    elif kind == Experiment.kind:
        experiment = docs.decode(data, docs.ExperimentDocument, path=path)
        info = experiment.export_info
        restored.experiments.append(
            docs.ExperimentEntry(
                id=experiment.experiment.experiment_id,
                name=experiment.experiment.name,
                ok_runs=len(info.ok_runs),
                failed_runs=len(info.failed_runs),
            )
        )
        restored.runs, restored.logged_models = [], []
    elif kind in VERSION_KIND:
        registered = docs.decode(data, docs.RegisteredModelDocument, path=path)
        body = registered.registered_model
        restored.registry[kind].append(body.name)
        restored.totals[VERSION_KIND[kind]] += len(body.latest_versions)
        restored.losses += registered.losses
    else:
        plain = docs.decode(data, docs.plain_document(KINDS[kind]), path=path)
        restored.losses += plain.losses


def made_at_ms(entity: Entity) -> int | None:
    """When an entity was made at the source, in ms since the epoch; None when nothing tells."""
    if isinstance(entity, Run):
        return entity.info.start_time
    if isinstance(entity, Experiment | LoggedModel):
        return entity.creation_time
    if isinstance(entity, RegisteredModel):
        return entity.creation_timestamp
    return entity.time_ms


def is_changed(data: bytes, path: str, entity: Entity) -> bool:
    """Whether an entity is another one now than its document says.

    A field that is empty now says nothing: some are fetched with an entity's content only.

    Args:
        data: The document.
        path: Its path, for messages.
        entity: The entity as it would be written now, without content.

    Raises:
        FormatError: The document is damaged.
    """
    written: msgspec.Struct
    if isinstance(entity, Run):
        written = docs.decode(data, docs.RunDocument, path=path).entity()
    elif isinstance(entity, LoggedModel):
        written = docs.decode(data, docs.LoggedModelDocument, path=path).logged_model
    elif isinstance(entity, Experiment):
        written = docs.decode(data, docs.ExperimentDocument, path=path).experiment
    elif isinstance(entity, RegisteredModel):
        written = docs.decode(data, docs.RegisteredModelDocument, path=path).entity(entity.kind)
    else:
        written = docs.decode(data, docs.plain_head(KINDS[entity.kind]), path=path).entity
    return any(
        value and value != getattr(written, name)
        for name, value in msgspec.structs.asdict(entity).items()
        if name != "left_out"
    )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 120 else f"{text[:117]}..."
