"""A tree as people edit it, seen as a whole: manifests and summaries are made anew when read.

Someone may have deleted a run's directory or added an artifact. This view over another tree shows
manifests that name exactly what is there and summaries that count it; bare ``NaN`` tokens become
strings. Documents that are right already come through byte for byte, and nothing is kept in memory:
a manifest is made when it is asked for.
"""

from __future__ import annotations

import heapq
import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.archive import order_key, unescape_component
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles import manifests
from mlflow_bundle.bundles.nonfinite import quote_tokens
from mlflow_bundle.bundles.source import created_ns, read_header
from mlflow_bundle.bundles.tree import TreeMember, TreeReader
from mlflow_bundle.bundles.workspaces import prefixes_of
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import VERSION_KIND, Experiment, LoggedModel, Run
from mlflow_bundle.errors import DocumentError, LimitError
from mlflow_bundle.kinds import KINDS
from mlflow_bundle.kinds.workspaces import WORKSPACE

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

_COUNTED = frozenset(
    {
        *(Experiment.kind, Run.kind, LoggedModel.kind, "artifact"),
        *VERSION_KIND,
        *VERSION_KIND.values(),
        *KINDS,
    }
)


class MadeMember:
    """A document that is made when it is read; its size is known by making it."""

    def __init__(self, path: str, mtime_ns: int, make: Callable[[str], bytes]) -> None:
        self.path = path
        self.mtime_ns = mtime_ns
        self._make = make

    @property
    def size(self) -> int:
        return len(self._make(self.path))


class RenewedTree:
    """A :class:`~mlflow_bundle.bundles.tree.TreeReader` over another one.

    Args:
        base: The tree as it lies; closed with this one.

    Raises:
        FormatError: Its header is missing or malformed.
    """

    def __init__(self, base: TreeReader) -> None:
        self._base = base
        self._created_ns = created_ns(read_header(base))
        self._last: tuple[str, bytes] | None = None
        self._workspaces: list[str] | None = None

    @property
    def header(self) -> bytes:
        return self._base.header

    def close(self) -> None:
        self._base.close()

    # Members

    def find(self, path: str) -> TreeMember | None:
        if self._is_manifest(path):
            return MadeMember(path, self._created_ns, self.read)
        member = self._base.find(path)
        return None if member is None else self._renewed_member(member)

    def _is_manifest(self, path: str) -> bool:
        """Whether ``path`` is made of what is there: a manifest at the top or of a workspace."""
        prefix, below = layout.split_workspace(path)
        if not prefix:
            return path in layout.MANIFESTS
        return below in layout.WORKSPACE_MANIFESTS and prefix in self._prefixes()

    def _prefixes(self) -> list[str]:
        """Prefixes of the workspaces that have a tree of their own."""
        if self._workspaces is None:
            self._workspaces = prefixes_of(self._base)
        return self._workspaces

    def _iter_manifests(self) -> Iterator[str]:
        yield from layout.MANIFESTS
        for prefix in self._prefixes():
            yield from (f"{prefix}{manifest}" for manifest in layout.WORKSPACE_MANIFESTS)

    def _renewed_member(self, member: TreeMember) -> TreeMember:
        if not _is_document(member.path):
            return member
        return MadeMember(member.path, self._created_ns, self.read)

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        prefix = prefix.rstrip("/")
        made = [
            path
            for path in self._iter_manifests()
            if not prefix or path == prefix or path.startswith(f"{prefix}/")
        ]
        members: Iterator[TreeMember] = (
            self._renewed_member(member)
            for member in self._base.iter_members(prefix)
            if not self._is_manifest(member.path)
        )
        manifest_members: list[TreeMember] = [
            MadeMember(path, self._created_ns, self.read) for path in sorted(made, key=order_key)
        ]
        yield from heapq.merge(members, manifest_members, key=lambda member: order_key(member.path))

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        children = dict(self._base.iter_directory(path))
        above = f"{path}/" if path else ""
        for manifest in self._iter_manifests():
            if manifest.startswith(above):
                name, slash, _ = manifest.removeprefix(above).partition("/")
                children[name] = bool(slash)
        yield from sorted(children.items(), key=lambda item: (not item[1], item[0].encode()))

    def read(self, member: str, *, limit_bytes: int = docs.MAX_DOCUMENT_BYTES) -> bytes:
        if not self._is_manifest(member) and not _is_document(member):
            return self._base.read(member, limit_bytes=limit_bytes)
        last = self._last
        if last is None or last[0] != member:
            # Kept once: whoever asks for the size reads the document next.
            self._last = last = member, self._made(member)
        if len(last[1]) > limit_bytes:
            raise LimitError(f"larger than {limit_bytes} bytes", path=member)
        return last[1]

    def open_member(self, member: str) -> BinaryIO:
        if self._is_manifest(member) or _is_document(member):
            return io.BytesIO(self.read(member))
        return self._base.open_member(member)

    # Documents

    def _made(self, path: str) -> bytes:
        if path == layout.MANIFEST:
            return self._top_manifest()
        if self._is_manifest(path):
            directory = path.rpartition("/")[0]
            if layout.split_workspace(path)[1].startswith(f"{layout.EXPERIMENTS}/"):
                return self._experiments_manifest(path, directory)
            return self._registry_manifest(path, directory)
        data = self._strict(path)
        place = layout.place_of(path)
        if place is None or place.role != "document":
            return data
        if place.kind == Experiment.kind:
            return self._experiment(path, data)
        if place.kind in VERSION_KIND:
            return self._registered_model(path, data)
        if place.kind in KINDS and not KINDS[place.kind].has_artifacts:
            return data
        return self._summarized(path, data)

    def _strict(self, path: str) -> bytes:
        return quote_tokens(self._base.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES))

    def _old(self, path: str, type: type[DocumentT]) -> tuple[bytes | None, DocumentT]:
        """The manifest as it lies, or an empty one: another tool's may be of another shape."""
        if self._base.find(path) is None:
            return None, type()
        data = self._strict(path)
        try:
            return data, docs.decode(data, type, path=path)
        except DocumentError:
            return None, type()

    def _summarized(self, path: str, data: bytes) -> bytes:
        """Count the artifacts of a run or logged model."""
        document = docs.decode(data, dict[str, msgspec.Raw], path=path)
        directory = path.rpartition("/")[0]
        raw = document.get("artifacts")
        old = None if raw is None else _summary(bytes(raw), path, "artifacts")
        new = self._summary(f"{directory}/{layout.ARTIFACTS}", old)
        if new == old:
            return data
        document["artifacts"] = msgspec.Raw(msgspec.json.encode(new))
        return msgspec.json.encode(document) + b"\n"

    def _summary(self, directory: str, old: docs.ArtifactSummary | None) -> docs.ArtifactSummary:
        files = total = 0
        for member in self._base.iter_members(directory):
            files += 1
            total += member.size
        mode = "included" if files or old is None else old.mode
        return docs.ArtifactSummary(mode=mode, files=files, bytes=total)

    def _registered_model(self, path: str, data: bytes) -> bytes:
        """Count the artifacts of each version that has some of its own."""
        document = docs.decode(data, docs.RegisteredModelDocument, path=path)
        directory = path.rpartition("/")[0]
        changed: dict[int, docs.ArtifactSummary] = {}
        for position, version in enumerate(document.registered_model.latest_versions):
            if not docs.VERSION_NUMBER.fullmatch(version.version):
                continue  # whoever decodes the entity says so
            below = layout.version_artifacts_directory(directory, int(version.version))
            new = self._summary(below, version.artifacts)
            if new != version.artifacts and (version.artifacts is not None or new.files):
                changed[position] = new
        if not changed:
            return data
        whole: dict[str, Any] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        body: dict[str, Any] = msgspec.json.decode(
            whole["registered_model"], type=dict[str, msgspec.Raw]
        )
        versions: list[dict[str, Any]] = msgspec.json.decode(
            body["latest_versions"], type=list[dict[str, msgspec.Raw]]
        )
        for position, summary in changed.items():
            versions[position]["artifacts"] = summary
        body["latest_versions"] = versions
        whole["registered_model"] = body
        return msgspec.json.encode(whole) + b"\n"

    def _experiment(self, path: str, data: bytes) -> bytes:
        document = docs.decode(data, docs.ExperimentDocument, path=path)
        directory = path.rpartition("/")[0]
        runs = list(self._iter_ids(directory, layout.RUN_DOCUMENT))
        models = list(
            self._iter_ids(f"{directory}/{layout.LOGGED_MODELS}", layout.LOGGED_MODEL_DOCUMENT)
        )
        there = set(runs)
        failed = [run_id for run_id in document.export_info.failed_runs if run_id not in there]
        info = manifests.experiment_info(
            document.export_info, runs=runs, failed=failed, logged_models=models
        )
        if info == document.export_info:
            return data
        return manifests.merged(data, msgspec.structs.replace(document, export_info=info))

    def _iter_ids(self, directory: str, document: str) -> Iterator[str]:
        """Yield the ids of the entities that lie in ``directory``, in path order."""
        # Only beside runs are there other directories: a model may be called "traces".
        others = layout.EXPERIMENT_DIRECTORIES if document == layout.RUN_DOCUMENT else frozenset()
        for component, is_directory in self._base.iter_directory(directory):
            if not is_directory or component in others:
                continue
            path = f"{directory}/{component}/{document}"
            if self._base.find(path) is None:
                continue
            entity_id = unescape_component(component)
            if entity_id is None:
                entity_id = self._id_in(path, document)
            yield entity_id

    def _id_in(self, path: str, document: str) -> str:
        data = self._strict(path)
        if document == layout.RUN_DOCUMENT:
            return docs.decode(data, docs.RunHead, path=path).info.run_id
        if document == layout.LOGGED_MODEL_DOCUMENT:
            return docs.decode(data, docs.LoggedModelDocument, path=path).logged_model.model_id
        return docs.decode(data, docs.RegisteredModelDocument, path=path).registered_model.name

    # Manifests

    def _experiments_manifest(self, path: str, experiments: str) -> bytes:
        prefix, _ = layout.split_workspace(path)
        if prefix and self._base.find(f"{prefix}{WORKSPACE.document}") is None:
            raise DocumentError(
                "missing: it describes the workspace that this directory holds",
                path=f"{prefix}{WORKSPACE.document}",
                hint="put it back, or delete the directory",
            )
        data, old = self._old(path, docs.ExperimentsDocument)
        durations = {entry.id: entry.duration for entry in old.experiments}
        entries = []
        for component, is_directory in self._base.iter_directory(experiments):
            directory = f"{experiments}/{component}"
            if not is_directory or next(iter(self._base.iter_members(directory)), None) is None:
                continue
            document_path = f"{directory}/{layout.MANIFEST}"
            if self._base.find(document_path) is None:
                raise DocumentError(
                    "missing: it names the experiment that this directory holds",
                    path=document_path,
                    hint="put it back, or delete the directory",
                )
            document = docs.decode(
                self._strict(document_path), docs.ExperimentDocument, path=document_path
            )
            runs = set(self._iter_ids(directory, layout.RUN_DOCUMENT))
            experiment = document.experiment
            entries.append(
                docs.ExperimentEntry(
                    id=experiment.id,
                    name=experiment.name,
                    ok_runs=len(runs),
                    failed_runs=len(set(document.export_info.failed_runs) - runs),
                    duration=durations.get(experiment.id, 0.0),
                )
            )
        new = manifests.experiments_document(
            self._export_info(old.info), entries, duration=old.info.duration
        )
        return manifests.merged(data, new)

    def _registry_manifest(self, path: str, directory: str) -> bytes:
        data, old = self._old(path, docs.RegistryDocument)
        top = directory.rpartition("/")[2]
        kind = next(k for k, value in layout.REGISTRY_DIRECTORY.items() if value == top)
        names = list(self._iter_ids(directory, layout.REGISTRY_DOCUMENT[kind]))
        there = set(names)
        new = manifests.registry_document(
            self._export_info(old.info),
            names=names,
            failed=[name for name in old.failed_models if name not in there],
            stages=old.stages,
            notebook_formats=old.notebook_formats,
            duration=old.info.duration,
        )
        return manifests.merged(data, new)

    def _top_manifest(self) -> bytes:
        data, old = self._old(layout.MANIFEST, docs.ManifestDocument)
        totals: Counter[str] = Counter()
        artifact_bytes = 0
        for member in self._base.iter_members():
            place = layout.place_of(member.path)
            if place is None:
                continue
            if place.role == "artifact":
                totals["artifact"] += 1
                artifact_bytes += member.size
            elif place.role == "document":
                totals[place.kind] += 1
                if place.kind in VERSION_KIND:
                    document = docs.decode(
                        self._strict(member.path), docs.RegisteredModelDocument, path=member.path
                    )
                    versions = len(document.registered_model.latest_versions)
                    totals[VERSION_KIND[place.kind]] += versions
        kept = {kind: 0 if kind in _COUNTED else count for kind, count in old.totals.items()}
        new = msgspec.structs.replace(
            old,
            info=docs.ManifestInfo(
                **msgspec.structs.asdict(self._export_info(old.info)), duration=old.info.duration
            ),
            totals=dict(sorted((kept | totals).items())),
            artifact_bytes=artifact_bytes,
        )
        if data is None:
            return docs.encode(new)
        # `totals` and `adjustments` are counters, not objects with unknown keys.
        stripped = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        for counter in ("totals", "adjustments", "losses"):
            stripped.pop(counter, None)
        return manifests.merged(msgspec.json.encode(stripped), new)

    def _export_info(self, info: docs.ExportInfo) -> docs.ExportInfo:
        """What the old manifest says of the export, or else the header."""
        if info.export_time or info.mlflow_version or info.mlflow_tracking_uri:
            return docs.ExportInfo(
                mlflow_version=info.mlflow_version,
                mlflow_tracking_uri=info.mlflow_tracking_uri,
                export_time=info.export_time,
            )
        header = read_header(self._base)
        return docs.ExportInfo(
            mlflow_version=header.source.mlflow_version,
            mlflow_tracking_uri=header.source.uri,
            export_time=header.created.replace("T", " ").rstrip("Z"),
        )


def _is_document(path: str) -> bool:
    place = layout.place_of(path)
    return place is not None and place.role in ("document", "metrics", "items")


def _summary(raw: bytes, path: str, field: str) -> docs.ArtifactSummary | None:
    try:
        return msgspec.json.decode(raw, type=prepared(docs.ArtifactSummary | None))
    except msgspec.ValidationError as exc:
        raise DocumentError(str(exc), path=path, field_path=field) from exc
