"""Verifies a whole bundle: its bytes, its documents, and that they agree with each other.

The bytes are the archive's business. Then every document is decoded once in path order; what one
says of another is compared at the end, with the ids kept on disk. References to what lies outside
the bundle are counted, not problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.archive import ArchiveReader, order_key, validate_path
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.artifact_paths import artifact_path, note_member
from mlflow_bundle.bundles.peer import PeerTreeReader
from mlflow_bundle.bundles.places import check_parts, check_place
from mlflow_bundle.bundles.source import created_ns, read_header
from mlflow_bundle.bundles.tree import TreeMember, TreeReader
from mlflow_bundle.bundles.workspaces import prefixes_of
from mlflow_bundle.entities import VERSION_KIND, Experiment, LoggedModel, Run
from mlflow_bundle.errors import DocumentError, FormatError
from mlflow_bundle.kinds import KINDS
from mlflow_bundle.kinds.workspaces import WORKSPACE
from mlflow_bundle.progress import Progress, SilentProgress
from mlflow_bundle.references import logged_model_id_of
from mlflow_bundle.spool import Selected, Spool

P = ParamSpec("P")
DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

DOCUMENT_TYPES: dict[str, type[msgspec.Struct]] = {
    Experiment.kind: docs.ExperimentDocument,
    Run.kind: docs.RunDocument,
    LoggedModel.kind: docs.LoggedModelDocument,
    **dict.fromkeys(VERSION_KIND, docs.RegisteredModelDocument),
    **{name: docs.plain_document(kind) for name, kind in KINDS.items()},
}
MANIFEST_TYPES: dict[str, type[msgspec.Struct]] = {
    layout.MANIFEST: docs.ManifestDocument,
    f"{layout.EXPERIMENTS}/{layout.MANIFEST}": docs.ExperimentsDocument,
    f"{layout.MODELS}/{layout.MANIFEST}": docs.RegistryDocument,
    f"{layout.PROMPTS}/{layout.MANIFEST}": docs.RegistryDocument,
}
"""By path in the tree of a workspace."""


def decode_member(path: str, data: bytes) -> msgspec.Struct | None:
    """Decode the document at ``path``; None for a member that is no document of this version.

    Raises:
        DocumentError: It is malformed, or the entity that it holds belongs to another path.
    """
    place = layout.place_of(path)
    if place is None or place.role == "artifact":
        return None
    if place.role == "manifest":
        return docs.decode(data, MANIFEST_TYPES[layout.split_workspace(path)[1]], path=path)
    if place.role == "metrics":
        return docs.decode(data, docs.MetricPart, path=path)
    if place.role == "items":
        part: msgspec.Struct = docs.decode(data, docs.item_part(KINDS[place.kind]), path=path)
        return part
    document = docs.decode(data, DOCUMENT_TYPES[place.kind], path=path)
    check_place(document, place.kind, path)
    if isinstance(document, docs.PlainDocument):
        check_parts(document.item_parts, path)
    if isinstance(document, docs.RunDocument):
        for key, points in document.metrics.items():
            if not points:
                raise DocumentError(
                    "expected at least one point", path=path, field_path=f'metrics["{key}"]'
                )
    return document


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong."""

    member: str
    """Path of the member; empty for the file as a whole."""
    field: str = ""
    message: str
    offset: int | None = None

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.member, self.field) if part)
        at = f" (at byte {self.offset})" if self.offset is not None else ""
        return f"{where}: {self.message}" if where else f"{self.message}{at}"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified (``verify --json``)."""

    bundle: str
    ok: bool
    quick: bool = False
    """Whether only trailer, directory and group headers were read, and no content."""
    members: int
    bytes: int
    groups: int
    """Groups of a bundle file whose digests were compared; 0 for a directory."""
    documents: dict[str, int]
    """Documents decoded, by kind."""
    artifacts: int
    references: int
    """References that lead to something in the bundle."""
    outside: dict[str, int]
    """References to something that is not in the bundle, by field."""
    lost_before: int
    """Losses that the bundle's own manifest lists: of its export, or of its recovery."""
    unknown_members: int
    """Members that this version does not know."""
    problems: list[Problem]


def verify(
    tree: TreeReader, *, name: str = "", quick: bool = False, progress: Progress | None = None
) -> Verified:
    """Read and check a whole bundle; problems are collected.

    Args:
        tree: The bundle; stays open. A directory is checked as it lies, without renewal.
        name: What the user called it.
        quick: Whether only what leads to the content is checked: trailer, directory and group
            headers with their digests, paths, and the totals of the top manifest. Damage inside
            of content is not seen.
        progress: Told of members and bytes.
    """
    progress = progress or SilentProgress()
    progress.start("verifying")
    verification = _Verification(tree, progress)
    try:
        return verification.look(name) if quick else verification.run(name)
    finally:
        verification.close()
        progress.close()


class _Verification:
    """One run of :func:`verify`."""

    def __init__(self, tree: TreeReader, progress: Progress) -> None:
        self._tree = tree
        self._progress = progress
        self._problems: list[Problem] = []
        self._documents: Counter[str] = Counter()
        self._outside: Counter[str] = Counter()
        self._references = self._lost_before = 0
        self._members = self._bytes = self._artifacts = self._artifact_bytes = self._unknown = 0
        self._versions: Counter[str] = Counter()
        # Every document found; of references only those that point forward are looked up late.
        self._found = Spool()
        self._owner = ""
        self._owner_files: list[TreeMember] = []
        self._owner_versions: Counter[int] = Counter()
        self._owner_version_bytes: Counter[int] = Counter()
        self._owner_parts: set[str] = set()

    def close(self) -> None:
        self._found.close()

    def run(self, name: str) -> Verified:
        groups = 0
        self._try(self._check_header)
        if isinstance(self._tree, ArchiveReader):
            result = self._tree.verify(on_member=lambda member: self._progress.advance(1))
            groups = result.groups
            for error in result.problems:
                self._report(error)
        if not self._problems or not isinstance(self._tree, ArchiveReader):
            self._try(self._check_members)
            self._try(self._check_references)
        return self._verified(name, groups=groups)

    def _verified(self, name: str, *, groups: int = 0, quick: bool = False) -> Verified:
        return Verified(
            bundle=name,
            ok=not self._problems,
            quick=quick,
            members=self._members,
            bytes=self._bytes,
            groups=groups,
            documents=dict(sorted(self._documents.items())),
            artifacts=self._artifacts,
            references=self._references,
            outside=dict(sorted(self._outside.items())),
            lost_before=self._lost_before,
            unknown_members=self._unknown,
            problems=self._problems,
        )

    def look(self, name: str) -> Verified:
        """Check all but the content."""
        self._try(self._check_header)
        self._try(self._count_members)
        return self._verified(name, quick=True)

    def _count_members(self) -> None:
        counted: Counter[str] = Counter(dict.fromkeys(DOCUMENT_TYPES, 0))
        for member in self._tree.iter_members():
            self._members += 1
            self._bytes += member.size
            self._progress.advance(1)
            place = layout.place_of(member.path)
            if place is None:
                self._unknown += 1
            elif place.role == "artifact":
                self._artifacts += 1
                self._artifact_bytes += member.size
            else:
                self._documents[place.kind if place.role == "document" else place.role] += 1
                if place.role == "document":
                    counted[place.kind] += 1
        top = self._decoded(layout.MANIFEST, docs.ManifestDocument)
        if top is not None and top.totals:
            self._compare_totals(top, counted)

    def _try(self, check: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except FormatError as exc:
            self._report(exc)

    def _report(self, error: FormatError) -> None:
        field = error.field_path if isinstance(error, DocumentError) else ""
        message = error.message
        for prefix in (f"{error.path}: ", f"{field}: "):
            message = message.removeprefix(prefix)
        if error.offset is not None:
            message = message.removesuffix(f" (at byte {error.offset})")
        self._problems.append(
            Problem(member=error.path or "", field=field, message=message, offset=error.offset)
        )

    def _problem(self, member: str, field: str, message: str) -> None:
        self._problems.append(Problem(member=member, field=field, message=message))

    def _check_header(self) -> None:
        header = read_header(self._tree)
        created_ns(header)
        self._documents["bundle"] += 1

    # Members, in path order

    def _check_members(self) -> None:
        for member in self._tree.iter_members():
            self._members += 1
            self._bytes += member.size
            if not isinstance(self._tree, ArchiveReader):
                self._try(self._check_readable, member)
                self._progress.advance(1, member.size)
            place = layout.place_of(member.path)
            if place is None:
                self._unknown += 1
                continue
            if place.document != self._owner:
                self._enter(place.document)
            if place.role == "artifact":
                self._artifacts += 1
                self._artifact_bytes += member.size
                if place.version is None:
                    self._owner_files.append(member)
                else:
                    self._owner_versions[place.version] += 1
                    self._owner_version_bytes[place.version] += member.size
            else:
                self._try(self._check_document, member.path, place)

    def _enter(self, document: str) -> None:
        self._owner = document
        self._owner_files = []
        self._owner_versions.clear()
        self._owner_version_bytes.clear()
        self._owner_parts = set()

    def _check_readable(self, member: TreeMember) -> None:
        validate_path(member.path)
        place = layout.place_of(member.path)
        if place is None or place.role == "artifact":
            with self._tree.open_member(member.path) as stream:
                while stream.read(1024 * 1024):
                    pass

    def _check_document(self, path: str, place: layout.Place) -> None:
        data = self._tree.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        if place.role == "document":  # found, even if it turns out to be malformed
            self._found.add([Selected(order_key(path), place.kind, path, "", b"")])
        document = decode_member(path, data)
        self._documents[place.kind if place.role == "document" else place.role] += 1
        if isinstance(document, docs.RunDocument):
            self._check_run(path, document)
        elif isinstance(document, docs.LoggedModelDocument):
            self._check_summary(path, document.artifacts, document.names)
            self._found.add([_place_row("model", document.logged_model.model_id, path)])
        elif isinstance(document, docs.RegisteredModelDocument):
            self._check_model(path, document, place.kind)
        elif isinstance(document, (docs.MetricPart, docs.ItemPart)):
            self._owner_parts.add(path)
        elif isinstance(document, docs.PlainDocument):
            self._check_plain(path, document)

    def _check_run(self, path: str, document: docs.RunDocument) -> None:
        directory = path.rpartition("/")[0]
        self._found.add([_place_row("run", document.info.run_id, path)])
        self._check_summary(path, document.artifacts, document.names)
        named = set()
        for key, parts in document.metric_parts.items():
            for position, part in enumerate(parts):
                member = f"{directory}/{part}"
                named.add(member)
                if member not in self._owner_parts:
                    field = f'metric_parts["{key}"][{position}]'
                    self._problem(path, field, f"{part} is missing or malformed")
        for member in sorted(self._owner_parts - named):
            self._problem(path, "metric_parts", f"does not name {member}")
        for model_id in (
            *(item.model_id for item in document.inputs.model_inputs),
            *(item.model_id for item in document.outputs.model_outputs),
        ):
            self._refer("run.logged_model", "model", model_id)

    def _check_plain(self, path: str, document: docs.PlainDocument[Any, Any]) -> None:
        directory = path.rpartition("/")[0]
        if KINDS[document.kind].has_artifacts:
            self._check_summary(path, document.artifacts, document.names)
        named = [f"{directory}/{part}" for part in document.item_parts]
        for position, member in enumerate(named):
            if member not in self._owner_parts:
                self._problem(path, f"item_parts[{position}]", f"{member} is missing or malformed")
        for member in sorted(self._owner_parts - set(named)):
            self._problem(path, "item_parts", f"does not name {member}")

    def _check_summary(
        self, path: str, summary: docs.ArtifactSummary | None, names: dict[str, str]
    ) -> None:
        directory = f"{path.rpartition('/')[0]}/{layout.ARTIFACTS}"
        files = self._owner_files
        total = sum(member.size for member in files)
        if summary is not None:
            self._compare(path, "artifacts.files", summary.files, len(files))
            self._compare(path, "artifacts.bytes", summary.bytes, total)
            if files and summary.mode != "included":
                self._problem(
                    path, "artifacts.mode", f"is {summary.mode}, but there are {len(files)} files"
                )
        members: dict[str, str] = {}
        for member in files:
            below = member.path.removeprefix(f"{directory}/")
            self._try(_check_artifact_name, below, names, member.path, members, path)
        self._owner_files = []

    def _compare(self, path: str, field: str, stated: int, found: int) -> None:
        if stated != found:
            self._problem(path, field, f"is {stated}, but there are {found}")

    def _check_model(self, path: str, document: docs.RegisteredModelDocument, kind: str) -> None:
        numbers = set()
        body = document.registered_model
        for position, version in enumerate(body.latest_versions):
            field = f"registered_model.latest_versions[{position}]"
            number = int(version.version)
            if number in numbers:
                self._problem(path, f"{field}.version", f"{number} comes twice")
            numbers.add(number)
            files = self._owner_versions.pop(number, 0)
            size = self._owner_version_bytes.pop(number, 0)
            stated = version.artifacts or docs.ArtifactSummary(mode="included")
            self._compare(path, f"{field}.artifacts.files", stated.files, files)
            self._compare(path, f"{field}.artifacts.bytes", stated.bytes, size)
            if version.run_id:
                self._refer(f"{VERSION_KIND[kind]}.run_id", "run", version.run_id)
            for uri in (version.source, version.storage_location or ""):
                model_id = logged_model_id_of(uri)
                if model_id is not None:
                    self._refer(f"{VERSION_KIND[kind]}.source", "model", model_id)
        for number in sorted(self._owner_versions):
            field = "registered_model.latest_versions"
            self._problem(path, field, f"version {number} has artifacts but no entry")
        for position, alias in enumerate(body.aliases):
            if int(alias.version) not in numbers:
                field = f"registered_model.aliases[{position}].version"
                self._problem(path, field, f"there is no version {alias.version}")
        self._versions[VERSION_KIND[kind]] += len(numbers)

    def _refer(self, field: str, kind: str, id: str) -> None:
        """Note a reference; it is looked up when everything was seen."""
        key = f"?{field}\0{kind}\0{id}".encode()
        row = self._found.find(f"?{field}", id)
        count = 1 if row is None else int(row.body) + 1
        self._found.add([Selected(key, f"?{field}", id, kind, str(count).encode())])

    # Manifests against documents

    def _check_references(self) -> None:
        for field in ("run.logged_model", *_REFERENCE_FIELDS):
            for row in self._found.iterate(f"?{field}"):
                count = int(row.body)
                if self._found.find(f"={row.parent}", row.id) is not None:
                    self._references += count
                else:
                    self._outside[field] += count
        for prefix in ["", *prefixes_of(self._tree)]:
            self._check_manifests(prefix)
        top = self._decoded(layout.MANIFEST, docs.ManifestDocument)
        if top is not None and top.totals:
            self._check_totals(top)

    def _check_manifests(self, prefix: str) -> None:
        """Check what the manifests of one workspace say of it."""
        document = f"{prefix}{WORKSPACE.document}"
        if prefix and self._tree.find(document) is None:
            self._problem(document, "", "missing")
        experiments = f"{prefix}{layout.EXPERIMENTS}/{layout.MANIFEST}"
        listed = self._decoded(experiments, docs.ExperimentsDocument)
        if listed is not None:
            self._check_experiments(experiments, prefix, listed)
        for kind, directory in layout.REGISTRY_DIRECTORY.items():
            path = f"{prefix}{directory}/{layout.MANIFEST}"
            registry = self._decoded(path, docs.RegistryDocument)
            if registry is not None:
                paths = [
                    f"{prefix}{layout.registry_directory(kind, name)}"
                    f"/{layout.REGISTRY_DOCUMENT[kind]}"
                    for name in registry.ok_models
                ]
                self._check_named(path, "ok_models", kind, paths, workspace=prefix)
                self._compare(path, "info.ok_models", registry.info.ok_models, len(paths))

    def _decoded(self, path: str, type: type[DocumentT]) -> DocumentT | None:
        """A manifest; None when it is malformed, which was reported before."""
        if self._tree.find(path) is None:
            # Peers wrote none for what they did not know; a peer's flat tree has one only.
            if not isinstance(self._tree, PeerTreeReader):
                self._problem(path, "", "missing")
            return None
        data = self._tree.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)
        try:
            return docs.decode(data, type, path=path)
        except DocumentError:
            return None

    def _check_experiments(
        self, path: str, prefix: str, document: docs.ExperimentsDocument
    ) -> None:
        named = []
        for position, entry in enumerate(document.experiments):
            directory = f"{prefix}{layout.experiment_directory(entry.id)}"
            manifest = f"{directory}/{layout.MANIFEST}"
            named.append(manifest)
            if self._tree.find(manifest) is None:
                continue  # reported with the others that are missing
            experiment = self._decoded(manifest, docs.ExperimentDocument)
            if experiment is None:
                continue
            field = f"experiments[{position}]"
            if experiment.experiment.name != entry.name:
                self._problem(path, f"{field}.name", f"is not the name in {manifest}")
            info = experiment.export_info
            self._compare(path, f"{field}.ok_runs", entry.ok_runs, len(info.ok_runs))
            self._check_named(
                manifest,
                "export_info.ok_runs",
                Run.kind,
                [
                    f"{prefix}{layout.run_directory(entry.id, run_id)}/{layout.RUN_DOCUMENT}"
                    for run_id in info.ok_runs
                ],
                below=f"{directory}/",
            )
            self._check_named(
                manifest,
                "export_info.ok_logged_models",
                LoggedModel.kind,
                [
                    f"{prefix}{layout.logged_model_directory(entry.id, model_id)}"
                    f"/{layout.LOGGED_MODEL_DOCUMENT}"
                    for model_id in info.ok_logged_models
                ],
                below=f"{directory}/",
            )
        self._check_named(path, "experiments", Experiment.kind, named, workspace=prefix)

    def _check_named(
        self,
        manifest: str,
        field: str,
        kind: str,
        named: Iterable[str],
        *,
        below: str = "",
        workspace: str = "",
    ) -> None:
        """Compare what a manifest names with the documents that are there, both ways.

        Args:
            manifest: Path of the manifest.
            field: Where it names them.
            kind: Kind of what it names.
            named: Paths of their documents.
            below: Directory of the experiment, with a slash, of kinds that lie in one.
            workspace: Prefix of the workspace, for the other kinds.
        """
        wanted = set(named)
        there = 0
        for path in sorted(wanted):
            if self._found.contains(order_key(path)):
                there += 1
                self._references += 1
            else:
                self._problem(manifest, field, f"names {path}, which is missing")
        count = sum(1 for _ in self._iter_documents(kind, below, workspace))
        if count != there:
            for path in self._iter_documents(kind, below, workspace):
                if path not in wanted:
                    self._problem(manifest, field, f"does not name {path}")

    def _iter_documents(self, kind: str, below: str, workspace: str) -> Iterable[str]:
        if not below:
            return (
                row.id
                for row in self._found.iterate(kind)
                if layout.split_workspace(row.id)[0] == workspace
            )
        if kind == LoggedModel.kind:
            parent, name = f"{below}{layout.LOGGED_MODELS}", layout.LOGGED_MODEL_DOCUMENT
        else:
            parent, name = below.rstrip("/"), layout.RUN_DOCUMENT
        paths = (
            f"{parent}/{component}/{name}"
            for component, is_directory in self._tree.iter_directory(parent)
            if is_directory
        )
        return (path for path in paths if self._found.contains(order_key(path)))

    def _check_totals(self, top: docs.ManifestDocument) -> None:
        counted = Counter(self._versions)
        for kind in DOCUMENT_TYPES:
            counted[kind] = self._found.count(kind)
        self._compare_totals(top, counted)

    def _compare_totals(self, top: docs.ManifestDocument, counted: Counter[str]) -> None:
        self._lost_before = len(top.losses)
        counted["artifact"] = self._artifacts
        for kind, count in counted.items():
            self._compare(layout.MANIFEST, f"totals.{kind}", top.totals.get(kind, 0), count)
        self._compare(layout.MANIFEST, "artifact_bytes", top.artifact_bytes, self._artifact_bytes)


_REFERENCE_FIELDS = tuple(
    f"{kind}.{field}" for kind in VERSION_KIND.values() for field in ("run_id", "source")
)


def _place_row(kind: str, id: str, path: str) -> Selected:
    return Selected(f"={kind}\0{id}".encode(), f"={kind}", id, "", path.encode())


def _check_artifact_name(
    below: str, names: dict[str, str], path: str, members: dict[str, str], document: str
) -> None:
    note_member(members, artifact_path(below, names, path=path), path, document=document)
