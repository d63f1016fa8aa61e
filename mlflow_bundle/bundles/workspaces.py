"""The workspaces of a tree: each is a tree of its own below a prefix.

A source or a listing of one workspace works on :class:`WorkspaceTree`, which shows what lies below
the prefix as if it stood at the top; nothing else has to know of workspaces. The workspace
``default`` is the top itself and has the empty prefix.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from mlflow_bundle import layout
from mlflow_bundle.archive import order_key
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.places import check_place
from mlflow_bundle.bundles.tree import TreeMember, TreeReader
from mlflow_bundle.errors import DocumentError, FormatError
from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE, WORKSPACE, Workspace


def prefixes_of(tree: TreeReader) -> list[str]:
    """Return the prefixes of the workspaces with a tree of their own, in path order."""
    return [
        prefix
        for component, is_directory in tree.iter_directory(WORKSPACE.directory)
        if is_directory
        and (prefix := f"{WORKSPACE.directory}/{component}/") != _DEFAULT_PREFIX
        and next(iter(tree.iter_members(prefix.rstrip("/"))), None) is not None
    ]


_DEFAULT_PREFIX = f"{WORKSPACE.directory}/{DEFAULT_WORKSPACE}/"


def read_workspaces(tree: TreeReader) -> dict[str, Workspace]:
    """Return the workspaces by prefix, in path order; the first is ``default``.

    Raises:
        DocumentError: The document of one is missing or malformed.
    """
    found = {"": Workspace(name=DEFAULT_WORKSPACE)}
    if tree.find(f"{_DEFAULT_PREFIX}{WORKSPACE.document}") is not None:
        found[""] = _read_workspace(tree, _DEFAULT_PREFIX)
    return found | {prefix: _read_workspace(tree, prefix) for prefix in prefixes_of(tree)}


def _read_workspace(tree: TreeReader, prefix: str) -> Workspace:
    path = f"{prefix}{WORKSPACE.document}"
    if tree.find(path) is None:
        raise DocumentError("missing: it describes the workspace that lies here", path=path)
    data = tree.read(path, limit_bytes=docs.MAX_DOCUMENT_BYTES)
    document = docs.decode(data, docs.plain_document(WORKSPACE), path=path)
    check_place(document, WORKSPACE.name, path)
    workspace: Workspace = document.entity
    return workspace


@contextlib.contextmanager
def naming(prefix: str) -> Iterator[None]:
    """Let errors of the view below ``prefix`` name the members of the whole tree."""
    try:
        yield
    except FormatError as exc:
        if prefix and exc.path is not None and not exc.path.startswith(prefix):
            if exc.message.startswith(exc.path):
                exc.message = f"{prefix}{exc.message}"
                exc.args = (exc.message,)
            exc.path = f"{prefix}{exc.path}"
        raise


class _Moved:
    """A member under another path; its size is asked for when it is needed."""

    def __init__(self, member: TreeMember, path: str) -> None:
        self._member = member
        self.path = path

    @property
    def size(self) -> int:
        return self._member.size

    @property
    def mtime_ns(self) -> int:
        return self._member.mtime_ns


class WorkspaceTree:
    """A :class:`~mlflow_bundle.bundles.tree.TreeReader` over what lies below a prefix.

    Args:
        tree: The whole; stays open.
        prefix: Of a workspace, with its slash; not empty.
    """

    def __init__(self, tree: TreeReader, prefix: str) -> None:
        self._tree = tree
        self._prefix = prefix

    @property
    def header(self) -> bytes:
        return self._tree.header

    def find(self, path: str) -> TreeMember | None:
        member = self._tree.find(f"{self._prefix}{path}")
        return None if member is None else _Moved(member, path)

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        for member in self._tree.iter_members(f"{self._prefix}{prefix}".rstrip("/")):
            yield _Moved(member, member.path.removeprefix(self._prefix))

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        return self._tree.iter_directory(f"{self._prefix}{path}".rstrip("/"))

    def read(self, member: str, *, limit_bytes: int = docs.MAX_DOCUMENT_BYTES) -> bytes:
        return self._tree.read(f"{self._prefix}{member}", limit_bytes=limit_bytes)

    def open_member(self, member: str) -> BinaryIO:
        return self._tree.open_member(f"{self._prefix}{member}")

    def close(self) -> None:
        """Nothing is held open; the whole stays open."""


def workspace_view(tree: TreeReader, prefix: str) -> TreeReader:
    """Return one workspace of a tree; the empty prefix is the tree itself."""
    return WorkspaceTree(tree, prefix) if prefix else tree


class JoinedTree:
    """Views of workspaces, or parts of them, put back into one tree.

    Args:
        parts: Tree by prefix; the one of the empty prefix holds the documents of the workspaces.
    """

    def __init__(self, parts: Mapping[str, TreeReader]) -> None:
        self._parts = dict(parts)

    @property
    def header(self) -> bytes:
        return self._parts[""].header

    def _below(self, directory: str) -> Iterator[tuple[str, TreeReader, str]]:
        """Prefix and tree of each part that may hold something in a directory, and its path."""
        inside, below = layout.split_workspace(f"{directory}/." if directory else ".")
        yield "", self._parts[""], directory
        for prefix, part in self._parts.items():
            if prefix and inside == prefix:
                yield prefix, part, below.rpartition("/")[0]
            elif prefix and directory in ("", WORKSPACE.directory):
                yield prefix, part, ""

    def find(self, path: str) -> TreeMember | None:
        prefix, below = layout.split_workspace(path)
        part = self._parts.get(prefix)
        member = None if part is None else part.find(below)
        return None if member is None else _Moved(member, path)

    def iter_members(self, prefix: str = "") -> Iterator[TreeMember]:
        prefix = prefix.rstrip("/")
        if prefix and (member := self.find(prefix)) is not None:
            yield member
            return

        def moved(above: str, part: TreeReader, below: str) -> Iterator[TreeMember]:
            return (_Moved(member, f"{above}{member.path}") for member in part.iter_members(below))

        yield from heapq.merge(
            *(moved(*part) for part in self._below(prefix)),
            key=lambda member: order_key(member.path),
        )

    def iter_directory(self, path: str = "") -> Iterator[tuple[str, bool]]:
        children: dict[str, bool] = {}
        above = f"{path}/" if path else ""
        for prefix, part, below in self._below(path):
            if len(prefix) > len(above):
                children[prefix.removeprefix(above).partition("/")[0]] = True
            else:
                children |= dict(part.iter_directory(below))
        yield from sorted(children.items(), key=lambda item: (not item[1], item[0].encode()))

    def read(self, member: str, *, limit_bytes: int = docs.MAX_DOCUMENT_BYTES) -> bytes:
        prefix, below = layout.split_workspace(member)
        return self._parts[prefix].read(below, limit_bytes=limit_bytes)

    def open_member(self, member: str) -> BinaryIO:
        prefix, below = layout.split_workspace(member)
        return self._parts[prefix].open_member(below)

    def close(self) -> None:
        """Nothing is held open."""
