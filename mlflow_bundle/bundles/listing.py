"""The table of contents of a bundle: what it is, and what it holds with counts and sizes.

Names and counts of entities come from the manifests, sizes of artifacts from the index; no artifact
is read, and of the documents only those of experiments and models. Memory holds one line for each
experiment, registered model and prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from mlflow_bundle import layout
from mlflow_bundle.archive import ArchiveReader, validate_path
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.source import read_header
from mlflow_bundle.bundles.tree import TreeReader
from mlflow_bundle.bundles.workspaces import naming, read_workspaces, workspace_view
from mlflow_bundle.errors import DocumentError, SelectionError, UnsafePathError
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
from mlflow_bundle.report import Loss
from mlflow_bundle.selection import NamePattern, nearest, require_workspaces

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)


class ListedExperiment(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment."""

    id: str
    name: str
    lifecycle_stage: str
    runs: int
    failed_runs: int
    logged_models: int
    traces: int
    artifacts: int
    """Artifact files of its runs, logged models and traces."""
    artifact_bytes: int


class ListedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a registered model or prompt."""

    version: int
    stage: str
    aliases: list[str]
    source: str
    run_id: str
    artifacts: int
    """Files of its own, that no run or logged model of the bundle holds."""
    artifact_bytes: int


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One registered model or prompt."""

    name: str
    versions: list[ListedVersion]


class ListedWorkspace(msgspec.Struct, frozen=True, kw_only=True):
    """One workspace that has a tree of its own: every one but ``default``."""

    name: str
    description: str
    experiments: list[ListedExperiment]
    models: list[ListedModel]
    prompts: list[ListedModel]


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's table of contents (``list --json``)."""

    bundle: str
    format: str
    format_version: str
    uuid: str
    created: str
    writer: str
    source: str
    mlflow_version: str
    selection: dict[str, Any]
    size: int | None
    """Bytes of the bundle file; null for a directory."""
    members: int | None
    """Members of the bundle file; null for a directory."""
    experiments: list[ListedExperiment]
    models: list[ListedModel]
    prompts: list[ListedModel]
    workspaces: list[ListedWorkspace]
    totals: dict[str, int]
    artifact_bytes: int
    losses: list[Loss]
    adjustments: dict[str, int]


class ListedMember(msgspec.Struct, frozen=True, kw_only=True):
    """One member (``list BUNDLE PATH --json``)."""

    path: str
    size: int


def list_bundle(tree: TreeReader, *, name: str = "") -> Listing:
    """Return the table of contents.

    Args:
        tree: The bundle; stays open.
        name: What the user called it.

    Raises:
        FormatError: The bundle is damaged.
    """
    header = read_header(tree)
    top = _read(tree, layout.MANIFEST, docs.ManifestDocument) or docs.ManifestDocument()
    archive = tree if isinstance(tree, ArchiveReader) else None
    return Listing(
        bundle=name,
        format=header.format,
        format_version=header.format_version,
        uuid=header.uuid,
        created=header.created,
        writer=header.writer,
        source=header.source.uri,
        mlflow_version=header.source.mlflow_version,
        selection=header.selection,
        size=archive.size if archive else None,
        members=archive.members if archive else None,
        experiments=list(_iter_experiments(tree)),
        models=list(_iter_models(tree, "registered_model")),
        prompts=list(_iter_models(tree, "prompt")),
        workspaces=list(_iter_workspaces(tree)),
        totals=top.totals,
        artifact_bytes=top.artifact_bytes,
        losses=top.losses,
        adjustments=top.adjustments,
    )


def _iter_workspaces(tree: TreeReader) -> Iterator[ListedWorkspace]:
    for prefix, workspace in read_workspaces(tree).items():
        if prefix:
            view = workspace_view(tree, prefix)
            with naming(prefix):
                yield ListedWorkspace(
                    name=workspace.name,
                    description=workspace.description or "",
                    experiments=list(_iter_experiments(view)),
                    models=list(_iter_models(view, "registered_model")),
                    prompts=list(_iter_models(view, "prompt")),
                )


def _read(tree: TreeReader, path: str, type: type[DocumentT]) -> DocumentT | None:
    if tree.find(path) is None:
        return None
    return docs.decode(tree.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES), type, path=path)


def _iter_experiments(tree: TreeReader) -> Iterator[ListedExperiment]:
    manifest = _read(tree, f"{layout.EXPERIMENTS}/{layout.MANIFEST}", docs.ExperimentsDocument)
    for entry in manifest.experiments if manifest else ():
        directory = layout.experiment_directory(entry.id)
        path = f"{directory}/{layout.MANIFEST}"
        document = _read(tree, path, docs.ExperimentDocument)
        if document is None:
            raise DocumentError("missing, although a manifest names it", path=path)
        traces, files, size = _count_members(tree, directory)
        yield ListedExperiment(
            id=entry.id,
            name=entry.name,
            lifecycle_stage=document.experiment.lifecycle_stage,
            runs=entry.ok_runs,
            failed_runs=entry.failed_runs,
            logged_models=len(document.export_info.ok_logged_models),
            traces=traces,
            artifacts=files,
            artifact_bytes=size,
        )


def _count_members(tree: TreeReader, directory: str) -> tuple[int, int, int]:
    """Return the number of traces and of artifacts of an experiment, and the artifacts' bytes."""
    traces = files = size = 0
    for member in tree.iter_members(directory):
        place = layout.place_of(member.path)
        if place is not None and place.role == "artifact":
            files += 1
            size += member.size
        elif place is not None and (place.role, place.kind) == ("document", Trace.kind):
            traces += 1
    return traces, files, size


def _iter_models(tree: TreeReader, kind: str) -> Iterator[ListedModel]:
    manifest = _read(
        tree, f"{layout.REGISTRY_DIRECTORY[kind]}/{layout.MANIFEST}", docs.RegistryDocument
    )
    for name in manifest.ok_models if manifest else ():
        path = f"{layout.registry_directory(kind, name)}/{layout.REGISTRY_DOCUMENT[kind]}"
        document = _read(tree, path, docs.RegisteredModelDocument)
        if document is None:
            raise DocumentError("missing, although a manifest names it", path=path)
        yield _listed_model(document, path)


def _listed_model(document: docs.RegisteredModelDocument, path: str) -> ListedModel:
    body = document.registered_model
    versions = []
    for position, version in enumerate(body.latest_versions):
        if not docs.VERSION_NUMBER.fullmatch(version.version):
            field = f"registered_model.latest_versions[{position}].version"
            message = f"expected a number, got {version.version!r}"
            raise DocumentError(message, path=path, field_path=field)
        summary = version.artifacts
        versions.append(
            ListedVersion(
                version=int(version.version),
                stage=version.current_stage,
                aliases=sorted(a.alias for a in body.aliases if a.version == version.version),
                source=version.source,
                run_id=version.run_id,
                artifacts=summary.files if summary else 0,
                artifact_bytes=summary.bytes if summary else 0,
            )
        )
    return ListedModel(name=body.name, versions=sorted(versions, key=lambda v: v.version))


def narrowed(
    listing: Listing,
    *,
    experiments: tuple[NamePattern, ...] = (),
    models: tuple[NamePattern, ...] = (),
    workspaces: tuple[str, ...] = (),
) -> Listing:
    """Return ``listing`` with only what is named; a kind that is not named at all goes.

    Args:
        listing: The whole.
        experiments: In every workspace.
        models: Registered models and prompts, in every workspace.
        workspaces: The only workspaces; empty for all.

    Raises:
        SelectionError: Nothing of that name is there.
    """
    known = [DEFAULT_WORKSPACE, *(entry.name for entry in listing.workspaces)]
    require_workspaces(workspaces, known)
    if workspaces:
        listing = msgspec.structs.replace(
            listing,
            workspaces=[entry for entry in listing.workspaces if entry.name in workspaces],
            **({} if DEFAULT_WORKSPACE in workspaces else _NOTHING),
        )
    if not experiments and not models:
        return listing
    parts: list[Listing | ListedWorkspace] = [listing, *listing.workspaces]
    all_experiments = [entry for part in parts for entry in part.experiments]
    registry = [entry for part in parts for entry in (*part.models, *part.prompts)]
    for pattern in experiments:
        if pattern.kind != "all" and not _experiments_of(all_experiments, (pattern,)):
            raise _no_such("experiment", pattern, [entry.name for entry in all_experiments])
    for pattern in models:
        if not any(pattern.matches(entry.name) for entry in registry) and pattern.kind != "all":
            raise _no_such("model", pattern, [entry.name for entry in registry])

    def kept(part: Listing | ListedWorkspace) -> dict[str, Any]:
        return {
            "experiments": _experiments_of(part.experiments, experiments),
            "models": [e for e in part.models if any(p.matches(e.name) for p in models)],
            "prompts": [e for e in part.prompts if any(p.matches(e.name) for p in models)],
        }

    replace = msgspec.structs.replace
    kept_workspaces = [replace(entry, **kept(entry)) for entry in listing.workspaces]
    return replace(listing, workspaces=kept_workspaces, **kept(listing))


_NOTHING: dict[str, list[Any]] = {"experiments": [], "models": [], "prompts": []}


def _experiments_of(
    entries: list[ListedExperiment], patterns: tuple[NamePattern, ...]
) -> list[ListedExperiment]:
    return [
        entry
        for entry in entries
        if any(p.matches(entry.name) or p.matches_id(entry.id) for p in patterns)
    ]


def _no_such(noun: str, pattern: NamePattern, names: list[str]) -> SelectionError:
    near = nearest(pattern.text, names)
    return SelectionError(
        f'no such {noun} "{pattern}"' + (f"; nearest: {', '.join(near)}" if near else "")
    )


def iter_listed_members(tree: TreeReader, path: str) -> Iterator[ListedMember]:
    """Yield the members at or below ``path`` in path order.

    Raises:
        SelectionError: There are none; names what is near.
    """
    path = checked_path(tree, path)
    found = False
    for member in tree.iter_members(path):
        found = True
        yield ListedMember(path=member.path, size=member.size)
    if not found:
        raise no_such_member(tree, path)


def checked_path(tree: TreeReader, path: str) -> str:
    """Return a member path as a user writes it without slashes around it.

    Raises:
        SelectionError: No bundle can hold a member of this path.
    """
    stripped = path.strip("/")
    try:
        if stripped:
            validate_path(stripped)
    except UnsafePathError as exc:
        raise _refusal(tree, path, "") from exc
    return stripped


def no_such_member(tree: TreeReader, path: str) -> SelectionError:
    """Return the refusal of a path that leads nowhere, with what its last directory holds."""
    return _refusal(tree, path, path.strip("/"))


def _refusal(tree: TreeReader, path: str, directory: str) -> SelectionError:
    while True:
        directory, _, wanted = directory.rpartition("/")
        children = [
            f"{name}/" if is_directory else name
            for name, is_directory in tree.iter_directory(directory)
        ]
        if children or not directory:
            break
    near = nearest(wanted, children) if wanted else []
    near = near or children[:5]
    prefix = f"{directory}/" if directory else ""
    more = len(children) - len(near)
    hint = ""
    if near:
        listed = ", ".join(f"{prefix}{name}" for name in near)
        hint = f"there is {listed}" + (f" and {more} more beside it" if more else "")
    return SelectionError(f'no such member "{path}"', hint=hint)
