"""Reads the directory trees of mlflow-export-import as it was from June to December 2022.

That generation wrote ``manifest.json`` at every level, and its layout is the one of bundles, but
for what this view changes: names on disk are raw (here they are escaped), NaN and infinities are
bare tokens, old clients left timestamps as strings and tags now as lists and now as mappings, and
there is no header. Its ``export-experiments`` put the experiments at the top. Other generations are
told apart by their file names and refused by name.
"""

from __future__ import annotations

import io
import os
import types
import typing
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

import mlflow_bundle
from mlflow_bundle import layout
from mlflow_bundle.archive import HEADER_PATH, escape_component, validate_path
from mlflow_bundle.archive.frames import FORMAT_NAME, FORMAT_VERSION
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.artifact_paths import needs_name
from mlflow_bundle.bundles.nonfinite import quote_tokens
from mlflow_bundle.bundles.tree import (
    DirectoryMember,
    DirectoryReader,
    TreeMember,
    TreeReader,
    scan_directory,
)
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.decoding import prepared
from mlflow_bundle.entities import Int64, KeyValue
from mlflow_bundle.errors import (
    LimitError,
    NotABundleError,
    UnsafePathError,
    UnsupportedVersionError,
)
from mlflow_bundle.selection import Selection

_CACHED_DIRECTORIES = 16
_WHAT_CAN_BE_DONE = (
    "export again with `mlflow bundle export-all`, or import the directory with the version of "
    "mlflow-export-import that wrote it and export that server"
)

RUN_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
"""Numbers of ``RunStatus`` in MLflow's protocol, which old clients wrote."""


def open_directory(root: str) -> TreeReader:
    """Open a plain directory: the tree of a bundle, with its header or without, or a peer's tree.

    Raises:
        UnsupportedVersionError: A tree of another generation of mlflow-export-import.
        NotABundleError: Something else.
    """
    path = Path(root)
    reader = DirectoryReader(path)
    if reader.find(HEADER_PATH) is not None:
        return reader
    names = {entry.name: is_directory for entry, is_directory in scan_directory(path, "")}
    _refuse_other_generations(path, names)
    top = _top_manifest(path) if names.get(layout.MANIFEST) is False else {}
    if "totals" in top:  # ours, without .mlbundle/
        return DirectoryReader(path, header=synthesized_header(_export_info(top.get("info"))))
    if "experiment" in top:
        raise _refusal(path, "the export of a single experiment (export-experiment)")
    is_flat = "experiments" in top and not names.get(layout.EXPERIMENTS)
    if not is_flat and not (names.get(layout.EXPERIMENTS) or names.get(layout.MODELS)):
        raise NotABundleError(
            f"{root} is not the tree of a bundle: it has neither {HEADER_PATH} nor "
            f"{layout.EXPERIMENTS}/ or {layout.MODELS}/",
            hint="name the directory that an export or `mlflow bundle extract` wrote",
        )
    info = _export_info(top.get("info"))
    if not info.export_time and not is_flat:
        nested = path / layout.EXPERIMENTS
        info = _export_info(_top_manifest(nested).get("info"))
    return PeerTreeReader(path, header=synthesized_header(info), is_flat=is_flat)


def _refuse_other_generations(path: Path, names: dict[str, bool]) -> None:
    """Refuse what file names show to be of another generation (or a single entity)."""
    if names.get("run.json") is False:
        raise _refusal(path, "the export of a single run (export-run)")
    if names.get("version.json") is False:
        raise _refusal(path, "the export of a single model version (export-model-version)")
    if names.get("model.json") is False:
        raise _refusal(path, "the export of a single model (export-model)")
    if names.get("experiment.json") is False:
        raise _refusal(path, "the export of a single experiment (export-experiment)")
    experiments = path / layout.EXPERIMENTS if names.get(layout.EXPERIMENTS) else path
    is_later = (experiments / "experiments.json").is_file()
    if not is_later and not (path / layout.MODELS / "models.json").is_file():
        return
    raise _refusal(path, f"a tree of {_generation(experiments)}")


def _generation(experiments: Path) -> str:
    """Name the generation of a tree with ``experiments.json`` (or ``models.json``)."""
    for entry, is_directory in scan_directory(experiments, ""):
        if not is_directory:
            continue
        for child, child_is_directory in scan_directory(experiments, entry.name):
            if child_is_directory and child.name == "runs":
                return "generation 3 (October 2025 and later)"
            run = Path(child.path) / layout.RUN_DOCUMENT
            if child_is_directory and run.is_file():
                data = _read_object(run)
                body = data.get("mlflow")
                if isinstance(body, dict) and "inputs" in body:
                    return "generation 2 (2023 to October 2025)"
                return "generation 1 (1.2.0, February 2023)"
    return "generation 1 to 3 (after December 2022)"


def _refusal(path: Path, what: str) -> UnsupportedVersionError:
    return UnsupportedVersionError(
        f"{path} is {what} of mlflow-export-import; only its bulk exports of June to December "
        "2022 are read",
        hint=_WHAT_CAN_BE_DONE,
    )


def _top_manifest(directory: Path) -> dict[str, Any]:
    path = directory / layout.MANIFEST
    return _read_object(path) if path.is_file() and not path.is_symlink() else {}


def _read_object(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        data = stream.read(docs.MAX_DOCUMENT_BYTES + 1)
    return docs.decode(quote_tokens(data), dict[str, Any], path=str(path))


def _export_info(info: object) -> docs.ExportInfo:
    try:
        return msgspec.convert(info, prepared(docs.ExportInfo))
    except msgspec.ValidationError:
        return docs.ExportInfo()


def synthesized_header(info: docs.ExportInfo) -> bytes:
    """Return a header for a tree that has none, from what its manifest says of the export."""
    created = datetime.now(timezone.utc).replace(microsecond=0)
    try:
        stated = datetime.strptime(info.export_time, "%Y-%m-%d %H:%M:%S")
        created = stated.replace(tzinfo=timezone.utc)
    except ValueError:
        pass
    return docs.encode(
        docs.BundleHeader(
            format=FORMAT_NAME,
            format_version=FORMAT_VERSION,
            uuid=str(uuid.uuid4()),
            writer=f"mlflow-bundle {mlflow_bundle.__version__}",
            created=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            documents=docs.DOCUMENTS_VERSION,
            source=docs.HeaderSource(
                uri=mask_uri(info.mlflow_tracking_uri), mlflow_version=info.mlflow_version
            ),
            selection=Selection.all().to_json(),
            as_of=int(created.timestamp() * 1000),
        )
    )


class _Child(NamedTuple):
    """What lies under one component: where it is on disk, and whether it is a directory."""

    disk: str
    is_directory: bool
    size: int
    mtime_ns: int


class PeerTreeReader:
    """A :class:`~mlflow_bundle.bundles.tree.TreeReader` over a peer's tree.

    Args:
        root: The directory.
        header: What stands for ``.mlbundle/bundle.json``.
        is_flat: Whether experiments lie at the top, as ``export-experiments`` left them.
    """

    def __init__(self, root: Path, *, header: bytes, is_flat: bool) -> None:
        self._root = root
        self._is_flat = is_flat
        self._cache: OrderedDict[str, dict[str, _Child]] = OrderedDict()
        self.header = header

    def close(self) -> None:
        """Nothing is held open."""

    # Names

    def _children(self, path: str) -> dict[str, _Child]:
        """What lies in a directory by escaped component, in path order."""
        found = self._cache.get(path)
        if found is not None:
            return found
        if self._is_flat and not path:
            children = {layout.EXPERIMENTS: _Child("", True, 0, 0)}
        else:
            disk = self._locate(path)
            children = self._scan(path, disk.disk) if disk and disk.is_directory else {}
        self._cache[path] = children
        while len(self._cache) > _CACHED_DIRECTORIES:
            try:
                self._cache.popitem(last=False)
            except KeyError:  # another thread was faster
                break
        return children

    def _scan(self, path: str, disk: str) -> dict[str, _Child]:
        children = []
        for entry, is_directory in scan_directory(self._root, disk):
            component = escape_component(
                entry.name, reserved=_reserved(path) if is_directory else ()
            )
            status = entry.stat(follow_symlinks=False)
            below = f"{disk}/{entry.name}" if disk else entry.name
            child = _Child(below, is_directory, status.st_size, status.st_mtime_ns)
            children.append((component, child))
        children.sort(key=lambda item: (not item[1].is_directory, item[0].encode()))
        return dict(children)

    def _locate(self, path: str) -> _Child | None:
        if not path:
            return _Child("", True, 0, 0)
        parent, _, component = path.rpartition("/")
        return self._children(parent).get(component)

    # Members

    def find(self, path: str) -> TreeMember | None:
        child = self._locate(path)
        if child is None or child.is_directory:
            return None
        return self._member(path, child)

    def _member(self, path: str, child: _Child) -> TreeMember:
        validate_path(path)
        if _document_type(path) is not None:
            return _ConvertedMember(self, path, child.mtime_ns)
        return DirectoryMember(path, child.size, child.mtime_ns)

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        for component, child in self._children(path).items():
            yield component, child.is_directory

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        prefix = prefix.rstrip("/")
        member = self.find(prefix) if prefix else None
        if member is not None:
            yield member
            return
        for component, child in list(self._children(prefix).items()):
            path = f"{prefix}/{component}" if prefix else component
            if child.is_directory:
                yield from self.iter_members(path)
            else:
                yield self._member(path, child)

    def read(self, member: str, *, limit_bytes: int = docs.MAX_DOCUMENT_BYTES) -> bytes:
        type = _document_type(member)
        with self._open_raw(member) as stream:
            data = stream.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise LimitError(f"larger than {limit_bytes} bytes", path=member)
        return data if type is None else self._converted(member, data, type)

    def open_member(self, member: str) -> BinaryIO:
        if _document_type(member) is not None:
            return io.BytesIO(self.read(member))
        return self._open_raw(member)

    def _open_raw(self, member: str) -> BinaryIO:
        child = self._locate(member)
        if child is None or child.is_directory:
            raise KeyError(member)
        # Every directory on the way was listed, and none was a link.
        return open(self._root / child.disk, "rb", opener=_no_follow)

    # Documents

    def _converted(self, path: str, data: bytes, type: type[msgspec.Struct]) -> bytes:
        document = docs.decode(quote_tokens(data), dict[str, Any], path=path)
        converted = _coerced(document, type)
        if type is docs.RunDocument:
            self._complete_run(path, converted)
        return msgspec.json.encode(converted) + b"\n"

    def _complete_run(self, path: str, document: dict[str, Any]) -> None:
        info = document.get("info")
        if isinstance(info, dict) and isinstance(info.get("status"), str):
            status = info["status"]
            if status.isdecimal() and int(status) in RUN_STATUS:
                info["status"] = RUN_STATUS[int(status)]
        names = self._artifact_names(f"{path.rpartition('/')[0]}/{layout.ARTIFACTS}")
        if names:
            document["names"] = names

    def _artifact_names(self, directory: str) -> dict[str, str]:
        """Artifacts whose member path does not tell their name."""
        names = {}
        disk = self._locate(directory)
        for member in self.iter_members(directory):
            below = member.path.removeprefix(f"{directory}/")
            if needs_name(below) and disk is not None:
                child = self._locate(member.path)
                if child is not None:
                    names[below] = child.disk.removeprefix(f"{disk.disk}/")
        return names


class _ConvertedMember:
    """A document whose size is known by converting it."""

    def __init__(self, tree: PeerTreeReader, path: str, mtime_ns: int) -> None:
        self._tree = tree
        self.path = path
        self.mtime_ns = mtime_ns

    @property
    def size(self) -> int:
        return len(self._tree.read(self.path))


def _no_follow(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW)
    except OSError as exc:
        if Path(path).is_symlink():
            raise UnsafePathError("symbolic links are not followed", path=path) from exc
        raise


def _reserved(path: str) -> frozenset[str]:
    """Names that a directory in ``path`` may not have as they are."""
    depth = path.count("/")
    if path in (layout.EXPERIMENTS, layout.MODELS, layout.PROMPTS):
        return frozenset({layout.MANIFEST})
    if depth == 1 and path.startswith(f"{layout.EXPERIMENTS}/"):
        return layout.EXPERIMENT_DIRECTORIES | {layout.MANIFEST}
    return frozenset()


_STRUCT_TYPE: Any = type(msgspec.Struct)  # an instance of it is a type[Struct]

_TYPES: dict[str, type[msgspec.Struct]] = {
    "experiment": docs.ExperimentDocument,
    "run": docs.RunDocument,
    "registered_model": docs.RegisteredModelDocument,
}
_MANIFEST_TYPES: dict[str, type[msgspec.Struct]] = {
    layout.MANIFEST: docs.ManifestDocument,
    f"{layout.EXPERIMENTS}/{layout.MANIFEST}": docs.ExperimentsDocument,
    f"{layout.MODELS}/{layout.MANIFEST}": docs.RegistryDocument,
}


def _document_type(path: str) -> type[msgspec.Struct] | None:
    place = layout.place_of(path)
    if place is None:
        return None
    if place.role == "manifest":
        return _MANIFEST_TYPES.get(path)
    return _TYPES.get(place.kind) if place.role == "document" else None


def _coerced(value: Any, type: Any) -> Any:
    """Return a JSON value in the form that ``type`` demands, where that changes no meaning.

    Numbers in strings become numbers, ids that are numbers become strings, tags change between
    list and mapping, and a null that stands for absence goes. Unknown keys stay. What is still
    wrong afterwards is found by decoding.
    """
    origin = typing.get_origin(type)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(type) if option is not types.NoneType]
        return value if value is None or len(options) != 1 else _coerced(value, options[0])
    if isinstance(type, _STRUCT_TYPE):
        return _coerced_struct(value, type) if isinstance(value, dict) else value
    if type == Int64:
        return _integer(value)
    if type is str:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if origin is list:
        (element,) = typing.get_args(type)
        if element is KeyValue and isinstance(value, dict):
            value = [{"key": key, "value": text} for key, text in value.items()]
        return [_coerced(item, element) for item in value] if isinstance(value, list) else value
    if origin is dict:
        if isinstance(value, list) and all(_is_key_value(item) for item in value):
            value = {item["key"]: item["value"] for item in value}
        if isinstance(value, dict):
            element = typing.get_args(type)[1]
            return {key: _coerced(item, element) for key, item in value.items()}
    return value


def _coerced_struct(value: dict[str, Any], type: type[msgspec.Struct]) -> dict[str, Any]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(type)}
    result = {}
    for key, item in value.items():
        field = fields.get(key)
        if field is None:
            result[key] = item
        elif item is None and types.NoneType not in typing.get_args(field.type):
            continue
        else:
            result[key] = _coerced(item, field.type)
    return result


def _integer(value: Any) -> Any:
    if isinstance(value, str):
        digits = value.removeprefix("-")
        return int(value) if digits.isdecimal() and digits.isascii() else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_key_value(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("key"), str) and "value" in item
