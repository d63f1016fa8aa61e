"""Bundle to directory and back: members are copied byte for byte, one after the other.

A whole bundle is extracted as it is, header and manifests included, and is then what stock ``tar``
extracts. A part of it gets a header and manifests of its own, so that the extracted tree is whole
in itself; so does what is packed, because people edit directories.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

import mlflow_bundle
from mlflow_bundle import layout
from mlflow_bundle.archive import HEADER_PATH, order_key
from mlflow_bundle.archive.paths import Directories
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.nonfinite import bare_tokens
from mlflow_bundle.bundles.renewed import MadeMember, RenewedTree
from mlflow_bundle.bundles.sink import WriterFactory
from mlflow_bundle.bundles.source import BundleSource, created_ns, read_header
from mlflow_bundle.bundles.tree import TreeMember, TreeReader, TreeWriter
from mlflow_bundle.bundles.verify import decode_member
from mlflow_bundle.bundles.workspaces import (
    JoinedTree,
    naming,
    read_workspaces,
    workspace_view,
)
from mlflow_bundle.entities import VERSION_KIND, Experiment
from mlflow_bundle.errors import DocumentError
from mlflow_bundle.kinds import KINDS
from mlflow_bundle.kinds.workspaces import WORKSPACE
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.report import Loss, Report
from mlflow_bundle.selection import Matches, Selection, require_workspaces

_PLAIN_DOCUMENTS = tuple(kind.document for kind in KINDS.values())

SMALL_BYTES = 1024 * 1024
"""Members up to this size are read at once."""

Transform = Callable[[str, bytes], bytes]
"""Makes of a document's path and bytes what is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What was copied."""

    members: int
    bytes: int
    runs_with_parts: int = 0
    """Runs whose long histories lie beside ``run.json``, where a peer does not look."""


def extract(
    tree: TreeReader,
    open_writer: WriterFactory,
    *,
    selection: Selection | None = None,
    peer_json: bool = False,
    name: str = "",
    progress: Progress | None = None,
) -> Copied:
    """Copy a bundle, or a part of it with what it depends on, into a directory.

    Args:
        tree: The bundle; stays open.
        open_writer: Makes the directory.
        selection: The part; None for everything, kinds that this version does not know included.
        peer_json: Whether NaN and infinities in ``run.json`` are written as the bare tokens that
            mlflow-export-import reads.
        name: What the user called the bundle.
        progress: Told of members and bytes.

    Raises:
        SelectionError: A part of the selection matches nothing.
        FormatError: The bundle is damaged.
    """
    transform = (lambda path, data: bare_tokens(data, path=path)) if peer_json else None
    header = read_header(tree)
    if selection is None:
        return copy(
            tree,
            open_writer(tree.header, _uuid_of(header), created_ns(header)),
            transform=transform,
            progress=progress,
        )
    part = RenewedTree(_selected(tree, selection, name))
    new_uuid = uuid.uuid4()
    writer = open_writer(new_header(part.header, new_uuid, selection), new_uuid, created_ns(header))
    return copy(part, writer, transform=transform, progress=progress)


def _uuid_of(header: docs.BundleHeader) -> uuid.UUID:
    try:
        return uuid.UUID(header.uuid)
    except ValueError as exc:  # of a directory; in a file it is that of the pages
        raise DocumentError(
            f"expected a uuid, got {header.uuid!r}", path=HEADER_PATH, field_path="uuid"
        ) from exc


def _selected(tree: TreeReader, selection: Selection, name: str) -> TreeReader:
    """Return what is selected of each workspace, as one tree."""
    matches = Matches()
    parts: dict[str, SelectedTree] = {}
    documents = set()
    workspaces = read_workspaces(tree)
    require_workspaces(selection.workspaces, [w.name for w in workspaces.values()], where=name)
    for prefix, workspace in workspaces.items():
        is_asked = not selection.workspaces or workspace.name in selection.workspaces
        if prefix and not is_asked:
            continue
        view = workspace_view(tree, prefix)
        source = BundleSource(view, name=name, matches=matches if is_asked else Matches())
        report = Report()
        asked = selection if is_asked else Selection()  # the top has its manifests in any case
        with naming(prefix):
            source.select(asked, report)
        if prefix and not asked.everything and not any(report.planned.values()):
            continue
        document = layout.document_path(workspace)
        if is_asked and (prefix or asked.everything) and tree.find(document) is not None:
            documents.add(document)
        parts[prefix] = SelectedTree(
            view, source, asked, workspace=workspace.name if prefix else ""
        )
    matches.require(selection, where=name)
    top = parts.pop("")
    top.join(parts.values(), documents)
    return JoinedTree({"": top, **parts})


def pack(
    tree: TreeReader, open_writer: WriterFactory, *, progress: Progress | None = None
) -> Copied:
    """Copy a directory into a bundle; every document must decode.

    Args:
        tree: The directory, its manifests made anew (:class:`RenewedTree`); stays open.
        open_writer: Makes the bundle.
        progress: Told of members and bytes.

    Raises:
        DocumentError: A document is malformed, or lies where another entity belongs.
        UnsafePathError: A name that no bundle may hold.
    """

    def check(path: str, data: bytes) -> bytes:
        decode_member(path, data)
        return data

    header = read_header(tree)
    new_uuid = uuid.uuid4()
    writer = open_writer(new_header(tree.header, new_uuid), new_uuid, created_ns(header))
    return copy(tree, writer, transform=check, every_document=True, progress=progress)


def new_header(old: bytes, new_uuid: uuid.UUID, selection: Selection | None = None) -> bytes:
    """Return a header for another bundle of the same export; unknown keys stay."""
    header: dict[str, Any] = docs.decode(old, dict[str, msgspec.Raw], path=HEADER_PATH)
    header["uuid"] = str(new_uuid)
    header["writer"] = f"mlflow-bundle {mlflow_bundle.__version__}"
    if selection is not None:
        header["selection"] = selection.to_json()
    return msgspec.json.encode(header) + b"\n"


def copy(
    tree: TreeReader,
    writer: TreeWriter,
    *,
    transform: Transform | None = None,
    every_document: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Copy every member; ``transform`` gets the ``run.json`` alone, or every document.

    Raises:
        CorruptFrameError: A member lies below another one, or below a document that is made anew.
    """
    progress = progress or SilentProgress()
    members = total = with_parts = 0
    previous = ""
    directories = Directories()
    try:
        progress.start("copying")
        for member in tree.iter_members():
            path = member.path
            directories.demand_file(path)
            place = layout.place_of(path)
            is_document = place is not None and place.role != "artifact"
            if place is not None and place.role == "metrics" and place.document != previous:
                with_parts += 1
                previous = place.document
            if transform is not None and is_document:
                data = tree.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)
                if every_document or path.endswith(f"/{layout.RUN_DOCUMENT}"):
                    data = transform(path, data)
                writer.add(path, data, mtime_ns=member.mtime_ns)
                size = len(data)
            else:
                size = member.size
                _copy_member(tree, writer, member, size)
            directories.add(path)
            members += 1
            total += size
            progress.advance(1, size)
        writer.finish()
    finally:
        writer.close()
        progress.close()
    return Copied(members=members, bytes=total, runs_with_parts=with_parts)


def _copy_member(tree: TreeReader, writer: TreeWriter, member: TreeMember, size: int) -> None:
    if size <= SMALL_BYTES:
        data = tree.read(member.path, limit_bytes=SMALL_BYTES)
        writer.add(member.path, data, mtime_ns=member.mtime_ns)
        return
    with tree.open_member(member.path) as stream:
        writer.add_stream(member.path, stream, size, mtime_ns=member.mtime_ns)


class SelectedTree:
    """The members of what a source selected, as a tree; manifests are those of the whole.

    Args:
        tree: The whole.
        source: Over ``tree``, after its ``select``.
        selection: What was selected.
        workspace: Name of the workspace, as losses have it.
    """

    def __init__(
        self,
        tree: TreeReader,
        source: BundleSource,
        selection: Selection,
        *,
        workspace: str = "",
    ) -> None:
        self._tree = tree
        self._source = source
        self._selection = selection
        self._workspace = workspace
        self._others: list[SelectedTree] = []
        self._workspace_documents: list[str] = []
        self._last_versions: tuple[str, set[int] | None] | None = None

    def join(self, others: Iterable[SelectedTree], documents: Iterable[str]) -> None:
        """Make this the top of a tree with other workspaces.

        Args:
            others: What is selected of them: the top manifest lists their losses too.
            documents: Paths of the workspaces' documents, which lie at the top.
        """
        self._others = list(others)
        self._workspace_documents = sorted(documents, key=order_key)

    @property
    def header(self) -> bytes:
        return self._tree.header

    def close(self) -> None:
        """Nothing is held open; the whole stays open."""

    def _holds(self, path: str) -> bool:
        place = layout.place_of(path)
        if place is None:
            return self._holds_beside_document(path)
        if place.kind == WORKSPACE.name:
            return path in self._workspace_documents
        if place.role == "manifest":
            return True
        if not self._source.selects_document(place.document):
            return False
        if place.version is None:
            return True
        versions = self._versions(place.document, place.kind)
        return versions is None or place.version in versions

    def _holds_beside_document(self, path: str) -> bool:
        """Whether an unknown file lies in the directory of a selected run or logged model."""
        directory = path
        while directory:
            directory = directory.rpartition("/")[0]
            for name in (layout.RUN_DOCUMENT, layout.LOGGED_MODEL_DOCUMENT, *_PLAIN_DOCUMENTS):
                place = layout.place_of(f"{directory}/{name}")
                if (
                    place is not None
                    and place.role == "document"
                    and self._source.selects_document(place.document)
                ):
                    return True
        return False

    def _versions(self, document: str, kind: str) -> set[int] | None:
        last = self._last_versions
        if last is None or last[0] != document:
            versions = self._source.selected_versions(kind, self._name_of(document))
            self._last_versions = last = document, versions
        return last[1]

    def _name_of(self, document: str) -> str:
        data = self._tree.read(document, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        body = docs.decode(data, docs.RegisteredModelDocument, path=document)
        return body.registered_model.name

    def find(self, path: str) -> TreeMember | None:
        member = self._tree.find(path) if self._holds(path) else None
        return None if member is None else self._restricted_member(member)

    def _restricted_member(self, member: TreeMember) -> TreeMember:
        if not _is_restricted(member.path):
            return member
        return MadeMember(member.path, member.mtime_ns, self.read)

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        if prefix:
            for member in self._tree.iter_members(prefix):
                if self._holds(member.path):
                    yield self._restricted_member(member)
            return
        for row in self._source.iter_selected():
            document = row.body.decode()
            if row.kind == Experiment.kind:
                manifest = self._tree.find(document)
                if manifest is not None:
                    yield manifest
            elif row.kind in VERSION_KIND:
                yield from self.iter_members(document.rpartition("/")[0])
            else:
                yield from self._tree.iter_members(document.rpartition("/")[0])
        for document in self._workspace_documents:
            described = self._tree.find(document)
            if described is not None:
                yield described

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        for component, is_directory in self._tree.iter_directory(path):
            child = f"{path}/{component}" if path else component
            if not is_directory:
                if self._holds(child):
                    yield component, False
            elif self._holds_below(child):
                yield component, True

    def _holds_below(self, directory: str) -> bool:
        """Whether a directory may hold something: one of an entity holds its document."""
        for name in (
            layout.MANIFEST,
            layout.RUN_DOCUMENT,
            layout.LOGGED_MODEL_DOCUMENT,
            *layout.REGISTRY_DOCUMENT.values(),
            *_PLAIN_DOCUMENTS,
        ):
            place = layout.place_of(f"{directory}/{name}")
            if place is not None and place.role == "document":
                if self._source.selects_document(place.document):
                    return True
                if self._tree.find(place.document) is not None:
                    return False
        return True

    def read(self, member: str, *, limit_bytes: int = docs.MAX_DOCUMENT_BYTES) -> bytes:
        if not self._holds(member):
            raise KeyError(member)
        data = self._tree.read(member, limit_bytes=limit_bytes)
        return self._restricted(member, data) if _is_restricted(member) else data

    def open_member(self, member: str) -> BinaryIO:
        if _is_restricted(member):
            return io.BytesIO(self.read(member))
        if not self._holds(member):
            raise KeyError(member)
        return self._tree.open_member(member)

    def _restricted(self, path: str, data: bytes) -> bytes:
        """Take out of a document what is not selected."""
        place = layout.place_of(path)
        if place is not None and place.kind in VERSION_KIND:
            return self._restricted_model(path, data, place.kind)
        document: dict[str, Any] = docs.decode(data, dict[str, msgspec.Raw], path=path)
        if path == layout.MANIFEST:
            top = docs.decode(data, docs.ManifestDocument, path=path)
            parts = (self, *self._others)
            losses = [loss for loss in top.losses if any(part._concerns(loss) for part in parts)]
            # Adjustments are counted per kind: those of a part cannot be told.
            document |= {"losses": msgspec.to_builtins(losses), "adjustments": {}}
        else:
            registry = docs.decode(data, docs.RegistryDocument, path=path)
            document["failed_models"] = [
                name for name in registry.failed_models if self._selection.matches_model(name)
            ]
        return msgspec.json.encode(document) + b"\n"

    def _restricted_model(self, path: str, data: bytes, kind: str) -> bytes:
        model = docs.decode(data, docs.RegisteredModelDocument, path=path).registered_model
        wanted = self._source.selected_versions(kind, model.name)
        numbers = {version.version for version in model.latest_versions}
        if wanted is None or numbers <= {str(number) for number in wanted}:
            return data
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        body: dict[str, Any] = msgspec.json.decode(
            document["registered_model"], type=dict[str, msgspec.Raw]
        )
        kept = {str(number) for number in wanted}
        for key in ("latest_versions", "aliases"):
            if key in body:
                entries = zip(
                    msgspec.json.decode(body[key], type=list[msgspec.Raw]),
                    getattr(model, key),
                    strict=True,
                )
                body[key] = [raw for raw, entry in entries if entry.version in kept]
        document["registered_model"] = body
        return msgspec.json.encode(document) + b"\n"

    def _concerns(self, loss: Loss) -> bool:
        """Whether a loss of the export concerns what is selected here."""
        if loss.workspace != self._workspace:
            return False
        source = self._source
        owner = loss.id.partition("/")[0]
        return (
            source.is_selected(loss.kind, loss.id)
            or (bool(loss.parent) and source.is_selected(Experiment.kind, loss.parent))
            or any(source.is_selected(kind, owner) for kind in ("run", "logged_model"))
            or any(source.is_selected(kind, loss.id.rpartition("/")[0]) for kind in VERSION_KIND)
            or (loss.kind in VERSION_KIND and self._selection.matches_model(loss.id))
        )


def _is_restricted(path: str) -> bool:
    place = layout.place_of(path)
    if place is None or place.role == "artifact":
        return False
    return place.kind in VERSION_KIND or (
        place.role == "manifest" and not path.startswith(f"{layout.EXPERIMENTS}/")
    )
