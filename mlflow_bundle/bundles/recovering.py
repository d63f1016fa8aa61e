"""A new, sound bundle of what is whole in a damaged or cut one, and a list of what is not.

The archive copies the members whose digests hold (`archive.recover`). What remains may still
contradict itself: manifests name runs that are gone, a run names a part of its history that is
gone, the document of an experiment that stood behind the cut is missing. :class:`MendedTree` shows
such a tree as one that is right, every change of it a loss in the report; manifests are then made
anew as for an edited directory.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.archive import ArchiveReader, order_key, recover, unescape_component
from mlflow_bundle.archive.frames import FORMAT_NAME, FORMAT_VERSION
from mlflow_bundle.bundles import copying
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.renewed import MadeMember, RenewedTree
from mlflow_bundle.bundles.sink import WriterFactory
from mlflow_bundle.bundles.source import created_ns, read_header
from mlflow_bundle.bundles.tree import TreeMember, TreeReader
from mlflow_bundle.bundles.workspaces import prefixes_of
from mlflow_bundle.entities import Experiment, LoggedModel, Run
from mlflow_bundle.errors import FormatError, TruncatedError
from mlflow_bundle.kinds import KINDS
from mlflow_bundle.kinds.workspaces import WORKSPACE, Workspace
from mlflow_bundle.progress import Progress
from mlflow_bundle.report import Loss, Report

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

_UNKNOWN = "unknown: the first frame of the damaged bundle was lost"


def recover_bundle(
    stream: BinaryIO,
    open_writer: WriterFactory,
    report: Report,
    *,
    scratch: Path,
    progress: Progress | None = None,
) -> None:
    """Write what is whole in ``stream`` as a new bundle; what is not is a loss in ``report``.

    Args:
        stream: The damaged bundle, seekable; stays open.
        open_writer: Makes the new bundle.
        report: Gets what was kept, per kind, and every loss.
        scratch: A file that may be overwritten: holds the members meanwhile.
        progress: Told of members and bytes.

    Raises:
        FormatError: It is no bundle, or nothing in it is whole.
    """
    with scratch.open("w+b") as saved:
        problems = _save_members(stream, saved)
        saved.seek(0)
        with ArchiveReader(saved) as archive:
            mended = MendedTree(archive, report)
            for problem in problems:
                mended.lose_damaged(problem)
            mended.examine()
            tree = RenewedTree(mended)
            new_uuid = uuid.uuid4()
            header = copying.new_header(tree.header, new_uuid)
            writer = open_writer(header, new_uuid, created_ns(read_header(tree)))
            copying.copy(tree, writer, progress=progress)
            top = docs.decode(tree.read(layout.MANIFEST), docs.ManifestDocument, path="")
            for kind, count in top.totals.items():
                report.did(kind, count, size=top.artifact_bytes if kind == "artifact" else 0)


def _save_members(stream: BinaryIO, saved: BinaryIO) -> list[FormatError]:
    try:
        return recover(stream, saved).problems
    except FormatError as exc:
        first = exc
    header = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION}
    saved.seek(0)
    saved.truncate()
    stream.seek(0)
    try:
        problems = recover(stream, saved, header=json.dumps(header).encode()).problems
    except FormatError:
        raise first from None
    return problems


class _MetricParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the document of a run says of its parts."""

    metric_parts: dict[str, list[str]] = {}


class _ItemParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the document of a plain entity says of its parts."""

    item_parts: list[str] = []


class MendedTree:
    """A :class:`~mlflow_bundle.bundles.tree.TreeReader` over what was saved, made consistent.

    Args:
        base: The saved members; closed by its owner.
        report: Gets every loss.
    """

    def __init__(self, base: TreeReader, report: Report) -> None:
        self._base = base
        self._report = report
        self._made: dict[str, bytes] = {}
        self._header = self._complete_header()

    @property
    def header(self) -> bytes:
        return self._header

    def close(self) -> None:
        """Nothing is held open."""

    def _complete_header(self) -> bytes:
        with suppress(FormatError):
            read_header(self._base)
            return self._base.header
        now = datetime.now(timezone.utc).replace(microsecond=0)
        header = docs.BundleHeader(
            format=FORMAT_NAME,
            format_version=FORMAT_VERSION,
            uuid=str(uuid.uuid4()),
            writer="",
            created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            documents=docs.DOCUMENTS_VERSION,
            source=docs.HeaderSource(uri=_UNKNOWN),
            as_of=int(now.timestamp() * 1000),
        )
        self._lose("bundle", "bundle.json", "it is damaged: source and selection are unknown")
        return docs.encode(header)

    # What is lost

    def _lose(self, kind: str, id: str, reason: str, *, below: str = "", **fields: str) -> None:
        """List a loss that lies in the workspace of the path or prefix ``below``."""
        self._report.lose(kind, id, reason, workspace=_workspace_of(below), **fields)

    def lose_damaged(self, problem: FormatError) -> None:
        """List a member that is not whole, or a gap whose members nobody knows."""
        if problem.path is None:
            # The first frame and the end speak for themselves: their documents are missing.
            if problem.offset and not isinstance(problem, TruncatedError):
                self._lose("bundle", "part", f"{problem}: what stood there is not known")
            return
        place = layout.place_of(problem.path)
        kind = "member" if place is None else "artifact" if place.role == "artifact" else place.kind
        self._lose(kind or "manifest", problem.path, "damaged or cut off", below=problem.path)

    def examine(self) -> None:
        """List what documents name and nobody has, and make the documents that are missing."""
        for prefix in ["", *prefixes_of(self._base)]:
            self._examine_workspace(prefix)
            self._examine_experiments(prefix)
            self._examine_registry(prefix)
        orphans: dict[str, int] = {}
        for member in self._base.iter_members():
            place = layout.place_of(member.path)
            if place is None or place.role == "manifest":
                continue
            if place.role == "document":
                self._examine_document(member.path, place)
            elif self.find(place.document) is None:
                orphans[place.document] = orphans.get(place.document, 0) + 1
        for document, count in orphans.items():
            place = layout.place_of(document)
            if place is not None:
                reason = f"its document is lost; {count} files of it are kept"
                self._lose(place.kind, document, reason, below=document)
        self._add_losses()

    def _examine_workspace(self, prefix: str) -> None:
        """Stand in for the document of a workspace of which something is here."""
        document = f"{prefix}{WORKSPACE.document}"
        if not prefix or self._base.find(document) is not None:
            return
        name = _workspace_of(prefix)
        self._lose(WORKSPACE.name, name, "its settings are lost", field=WORKSPACE.document)
        made: docs.PlainDocument[Any, Any] = docs.PlainDocument(
            kind=WORKSPACE.name, entity=Workspace(name=name)
        )
        self._made[document] = docs.encode(made)

    def _examine_experiments(self, prefix: str) -> None:
        path = f"{prefix}{layout.EXPERIMENTS}/{layout.MANIFEST}"
        named = self._read(path, docs.ExperimentsDocument)
        names = {entry.id: entry.name for entry in named.experiments} if named else {}
        for component, is_directory in self._base.iter_directory(f"{prefix}{layout.EXPERIMENTS}"):
            document = f"{prefix}{layout.EXPERIMENTS}/{component}/{layout.MANIFEST}"
            if is_directory and self._base.find(document) is None:
                self._make_experiment(component, document, names)
        for id, name in names.items():
            document = f"{prefix}{layout.experiment_directory(id)}/{layout.MANIFEST}"
            experiment = self._read(document, docs.ExperimentDocument)
            if experiment is None:
                if document not in self._made:
                    reason = f"{name!r} and everything in it are lost"
                    self._lose(Experiment.kind, id, reason, below=prefix)
                continue
            info = experiment.export_info
            for run_id in info.ok_runs:
                run = f"{prefix}{layout.run_directory(id, run_id)}/{layout.RUN_DOCUMENT}"
                if self._base.find(run) is None:
                    self._lose(Run.kind, run_id, "lost", parent=id, below=prefix)
            for model_id in info.ok_logged_models:
                directory = f"{prefix}{layout.logged_model_directory(id, model_id)}"
                if self._base.find(f"{directory}/{layout.LOGGED_MODEL_DOCUMENT}") is None:
                    self._lose(LoggedModel.kind, model_id, "lost", parent=id, below=prefix)

    def _make_experiment(self, component: str, document: str, names: dict[str, str]) -> None:
        """Stand in for the document of an experiment whose runs are here."""
        id = unescape_component(component) or component
        name = names.get(id, f"recovered experiment {id}")
        what = "its tags" if id in names else "its name and tags"
        self._lose(Experiment.kind, id, f"{what} are lost", field=layout.MANIFEST, below=document)
        made = docs.ExperimentDocument(experiment=Experiment(experiment_id=id, name=name))
        self._made[document] = docs.encode(made)

    def _examine_registry(self, prefix: str) -> None:
        for kind, top in layout.REGISTRY_DIRECTORY.items():
            manifest = self._read(f"{prefix}{top}/{layout.MANIFEST}", docs.RegistryDocument)
            for name in manifest.ok_models if manifest else ():
                directory = f"{prefix}{layout.registry_directory(kind, name)}"
                if self._base.find(f"{directory}/{layout.REGISTRY_DOCUMENT[kind]}") is None:
                    self._lose(kind, name, "lost", below=prefix)

    def _examine_document(self, path: str, place: layout.Place) -> None:
        """Take out of a document the parts that are gone."""
        directory = path.rpartition("/")[0]
        if place.kind == Run.kind:
            self._mend_parts(path, directory, place.kind, _MetricParts)
        elif place.kind in KINDS:
            self._mend_parts(path, directory, place.kind, _ItemParts)

    def _mend_parts(
        self, path: str, directory: str, kind: str, type: type[_MetricParts | _ItemParts]
    ) -> None:
        data = self._base.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        document: dict[str, Any] = docs.decode(data, dict[str, msgspec.Raw], path=path)
        (field,) = type.__struct_fields__
        parts = getattr(docs.decode(data, type, path=path), field)
        lists: dict[str, list[str]] = {"": parts} if isinstance(parts, list) else parts
        kept: dict[str, list[str]] = {}
        for key, members in lists.items():
            there = [m for m in members if self._base.find(f"{directory}/{m}") is not None]
            for member in members:
                if member not in there:
                    self._lose(kind, path, f"{member} is lost", field=field, below=path)
            if there or isinstance(parts, list):
                kept[key] = there
        if kept != lists:
            document[field] = kept[""] if isinstance(parts, list) else kept
            self._made[path] = msgspec.json.encode(document) + b"\n"

    def _add_losses(self) -> None:
        """Put what was lost now into the top manifest, behind what the export had lost."""
        old = self._read(layout.MANIFEST, docs.ManifestDocument)
        if old is None:
            reason = "the end of the bundle is lost: what else it held is not known"
            self._lose("bundle", layout.MANIFEST, reason)
        losses: list[Loss] = [*(old.losses if old else ()), *self._report.losses]
        document: dict[str, Any] = {}
        if old is not None:
            data = self._base.read(layout.MANIFEST, limit_bytes=docs.MAX_DOCUMENT_BYTES)
            document = docs.decode(data, dict[str, msgspec.Raw], path=layout.MANIFEST)
        document["losses"] = msgspec.to_builtins(losses)
        self._made[layout.MANIFEST] = msgspec.json.encode(document) + b"\n"

    def _read(self, path: str, type: type[DocumentT]) -> DocumentT | None:
        if self._base.find(path) is None:
            return None
        data = self._base.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        return docs.decode(data, type, path=path)

    # The tree

    def _made_member(self, path: str) -> TreeMember:
        mtime_ns = created_ns(read_header(self))
        return MadeMember(path, mtime_ns, lambda path: self._made[path])

    def find(self, path: str) -> TreeMember | None:
        return self._made_member(path) if path in self._made else self._base.find(path)

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        prefix = prefix.rstrip("/")
        made = sorted(
            (p for p in self._made if not prefix or p == prefix or p.startswith(f"{prefix}/")),
            key=order_key,
        )
        for member in self._base.iter_members(prefix):
            while made and order_key(made[0]) <= order_key(member.path):
                path = made.pop(0)
                if path != member.path:
                    yield self._made_member(path)
            yield self._made_member(member.path) if member.path in self._made else member
        for path in made:
            yield self._made_member(path)

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        children = dict(self._base.iter_directory(path))
        for made in self._made:
            directory, _, name = made.rpartition("/")
            if directory == path:
                children[name] = False
        yield from sorted(children.items(), key=lambda item: (not item[1], item[0].encode()))

    def read(self, member: str, *, limit_bytes: int = docs.MAX_DOCUMENT_BYTES) -> bytes:
        if member in self._made:
            return self._made[member]
        return self._base.read(member, limit_bytes=limit_bytes)

    def open_member(self, member: str) -> BinaryIO:
        if member in self._made:
            return io.BytesIO(self._made[member])
        return self._base.open_member(member)


def _workspace_of(path: str) -> str:
    """Name of the workspace that a path lies in, or that has a prefix; empty for ``default``."""
    prefix = path if path.endswith("/") else layout.split_workspace(path)[0]
    if not prefix:
        return ""
    component = prefix.split("/")[1]
    return unescape_component(component) or component
