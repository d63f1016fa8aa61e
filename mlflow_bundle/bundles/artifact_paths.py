"""Artifact paths of one entity and the member paths that hold them.

Most names tell their member path and back. Where two artifacts would meet on one member path (a
file and a directory of one name, as object stores allow) or a name is too long, the member gets the
hashed form and the owner's document keeps the original under ``names``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow_bundle.archive import escape_path, hashed_component, order_key, unescape_path
from mlflow_bundle.contracts import ArtifactFile
from mlflow_bundle.errors import DocumentError, UnsafePathError


def member_names(files: Iterable[ArtifactFile]) -> list[tuple[str, ArtifactFile]]:
    """Return each file with its path below ``artifacts/``, in path order."""
    named = {escape_path(file.path): file for file in files}
    directories = {
        path[:position] for path in named for position, char in enumerate(path) if char == "/"
    }
    placed = []
    for path, file in named.items():
        if path in directories:
            parent, slash, _ = path.rpartition("/")
            path = parent + slash + hashed_component(file.path.rpartition("/")[2])
        placed.append((path, file))
    return sorted(placed, key=lambda item: order_key(item[0]))


def needs_name(member: str) -> bool:
    """Whether the original artifact path cannot be told from the member path."""
    return unescape_path(member) is None


def artifact_path(member: str, names: Mapping[str, str], *, path: str) -> str:
    """Return the artifact path that a member below ``artifacts/`` stands for.

    Args:
        member: Path below ``artifacts/``.
        names: ``names`` of the owner's document.
        path: The whole member path, for the error.

    Raises:
        UnsafePathError: The original is missing or could leave the destination.
    """
    original = names.get(member)
    if original is None:
        original = unescape_path(member)
    if original is None:
        raise UnsafePathError("its original name is missing in the owner's document", path=path)
    components = original.split("/")
    if any(component in ("", ".", "..") for component in components) or "\0" in original:
        raise UnsafePathError(f"unsafe artifact path {original!r}", path=path)
    return original


def note_member(members: dict[str, str], original: str, member: str, *, document: str) -> None:
    """Note in ``members`` which member holds the artifact ``original``.

    Args:
        members: Artifact path to member path, of one owner.
        original: What :func:`artifact_path` gave for ``member``.
        member: The whole member path.
        document: Path of the owner's document, for the error.

    Raises:
        DocumentError: Another member holds it.
    """
    other = members.setdefault(original, member)
    if other != member:
        raise DocumentError(
            f"{other} and {member} both stand for {original!r}", path=document, field_path="names"
        )
