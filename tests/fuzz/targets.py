"""What is fuzzed: each target takes the bytes of a bundle, sound or not.

A target returns, or raises nothing but AssertionError: whatever the bytes, only errors of ours may
come out of the product, and what it returns must be what the digests say. Time and memory are
bounded by whoever calls.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from uuid import UUID

import msgspec

from mlflow_bundle.archive import (
    ArchiveReader,
    ArchiveWriter,
    StreamReader,
    VoidMemberError,
    recover,
)
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles.copying import extract
from mlflow_bundle.bundles.listing import list_bundle
from mlflow_bundle.bundles.recovering import recover_bundle
from mlflow_bundle.bundles.sink import WriterFactory
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.bundles.verify import DOCUMENT_TYPES, MANIFEST_TYPES, decode_member, verify
from mlflow_bundle.contracts import ArtifactTree, Content
from mlflow_bundle.errors import BundleError, FormatError
from mlflow_bundle.kinds import ALL_KINDS, KINDS
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection, parse_experiments, parse_models
from tests.archive.bundles import Members, Pipe

T = TypeVar("T")

PART = Selection(
    experiments=parse_experiments(["*"]),
    models=parse_models(["*"]),
    run_ids=("1",),
    since_ms=1,
    export_all_runs=True,
    lenient=True,
)
"""Nearly everything, on the ways of a selection."""

UNSEEN_IN_A_STREAM = (
    "hard link target",
    "is both a file and a directory",
    "seek table differs from the frames",
)
"""What a pass without seeking does not compare (FORMAT.md 8)."""


def reader(data: bytes) -> None:
    """Read everything both ways: the same members, and the same verdict where both can tell."""
    seekable, problems = _seekable(data)
    streamed, problem = _streamed(data)
    for path in seekable.keys() & streamed.keys():
        assert seekable[path] == streamed[path], f"two readers see two contents of {path!r}"
    if not problems:
        assert problem is None, f"verify finds nothing, streaming {problem!r}"
        assert seekable.keys() == streamed.keys()
    elif problem is None:
        unseen = [p for p in problems if not any(text in str(p) for text in UNSEEN_IN_A_STREAM)]
        assert not unseen, f"streaming finds nothing, verify {unseen!r}"


def _seekable(data: bytes) -> tuple[Members, list[FormatError]]:
    """Contents of the members that can be read, and what is wrong."""
    contents: Members = {}
    try:
        archive = ArchiveReader(io.BytesIO(data))
    except FormatError as exc:
        return contents, [exc]
    with suppress(FormatError):
        _ = archive.header
    with suppress(FormatError):
        for member in archive.iter_members():
            assert member.path not in contents, f"{member.path!r} comes twice"
            with suppress(FormatError):
                content = archive.read(member)
                assert len(content) == member.size
                assert hashlib.sha256(content).digest() == member.digest
                contents[member.path] = content
                with archive.open_member(member) as stream:
                    assert stream.read() == content
    with suppress(FormatError):
        _walk(archive, "")
    problems = archive.verify().problems
    if not problems:
        assert len(contents) == archive.members
        assert [*contents] == [member.path for member in archive.iter_members()]
        for path, content in contents.items():
            found = archive.find(path)
            assert found is not None
            assert found.size == len(content)
    return contents, problems


def _walk(archive: ArchiveReader, directory: str) -> None:
    for name, is_directory in archive.iter_directory(directory):
        if is_directory:
            _walk(archive, f"{directory}/{name}" if directory else name)


def _streamed(data: bytes) -> tuple[Members, FormatError | None]:
    """Contents of the members up to the first problem, and that."""
    contents: Members = {}
    try:
        for member, pieces in StreamReader(cast(BinaryIO, Pipe(data))):
            with suppress(VoidMemberError):
                content = b"".join(pieces)
                if member.link is None:
                    assert len(content) == member.size
                    if member.digest:
                        assert hashlib.sha256(content).digest() == member.digest
                    contents[member.path] = content
                elif member.link in contents:
                    contents[member.path] = contents[member.link]
    except FormatError as exc:
        return contents, exc
    return contents, None


def recovery(data: bytes) -> None:
    """Recover members, then entities; what comes out is sound and holds what could be read."""
    try:
        _recover_members(data, None)
    except FormatError:
        with suppress(FormatError):
            _recover_members(data, b"{}")
    with suppress(BundleError):
        _recover_entities(data)


class _Scratch(type(Path())):  # type: ignore[misc]
    """A file in memory: every real one is synced, which takes most of the time."""

    def open(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO()


def _recover_entities(data: bytes) -> None:
    out = io.BytesIO()
    recover_bundle(io.BytesIO(data), _writer_to(out), Report("fuzz"), scratch=_Scratch("scratch"))
    _, problems = _seekable(out.getvalue())
    assert not problems, f"what was recovered is not sound: {problems!r}"


def _writer_to(out: BinaryIO) -> WriterFactory:
    def make(header: bytes, bundle_uuid: UUID, mtime_ns: int) -> ArchiveWriter:
        return ArchiveWriter(out, bundle_uuid=bundle_uuid, header=header, mtime_ns=mtime_ns, jobs=1)

    return make


def _recover_members(data: bytes, header: bytes | None) -> None:
    out = io.BytesIO()
    result = recover(io.BytesIO(data), out, header=header, jobs=1)
    saved, problems = _seekable(out.getvalue())
    assert not problems, f"what was recovered is not sound: {problems!r}"
    assert len(saved) == result.members
    before, wrong = _seekable(data)
    for path in before.keys() & saved.keys():
        assert before[path] == saved[path], f"{path!r} was recovered with another content"
    if not wrong:
        assert saved == before, "a sound bundle lost something"
        assert result.complete


def documents(data: bytes) -> None:
    """Decode every document, read all entities and a part of them, verify, list and copy."""
    try:
        tree = ArchiveReader(io.BytesIO(data))
        members = list(tree.iter_members())
    except FormatError:
        return
    for member in members:
        with suppress(FormatError):
            _decode(member.path, tree.read(member, limit_bytes=docs.MAX_DOCUMENT_BYTES))
    for selection in (Selection.all(), PART):
        with suppress(BundleError):
            source = BundleSource(tree)
            source.read_losses()
            _read_source(source, selection)
            for workspace in source.workspaces():
                with suppress(BundleError):
                    _read_source(source.workspace(workspace), selection)
    with suppress(BundleError):
        verify(tree)
    with suppress(BundleError):
        verify(tree, quick=True)
    with suppress(BundleError):
        list_bundle(tree)
    with suppress(BundleError):
        _extract(tree, selection=PART, peer_json=False)
    with suppress(BundleError):
        _extract(tree, selection=None, peer_json=True)


def _decode(path: str, data: bytes) -> None:
    document = decode_member(path, data)
    if document is None:
        return
    again = docs.encode(document)
    assert decode_member(path, again) is not None, "a document does not survive its own encoding"
    docs.unknown_keys(data, type(document))
    with suppress(FormatError):
        docs.decode(data, docs.RunHead, path=path)


def decode_as_everything(data: bytes) -> None:
    """Decode bytes as a document of every type."""
    types: list[type[msgspec.Struct]] = [
        *DOCUMENT_TYPES.values(),
        *MANIFEST_TYPES.values(),
        docs.BundleHeader,
        docs.MetricPart,
        *(docs.item_part(kind) for kind in KINDS.values()),
    ]
    for document in dict.fromkeys(types):
        with suppress(FormatError):
            docs.decode(data, document, path="document")


def _extract(tree: ArchiveReader, *, selection: Selection | None, peer_json: bool) -> None:
    out = io.BytesIO()
    extract(tree, _writer_to(out), selection=selection, peer_json=peer_json)
    _, problems = _seekable(out.getvalue())
    assert not problems, f"what was copied is not sound: {problems!r}"


def _read_source(source: BundleSource, selection: Selection) -> None:
    source.select(selection, Report("fuzz"))
    for kind in ALL_KINDS:
        with suppress(BundleError):
            for entity in source.iter_entities(kind):
                assert entity.kind == kind
    for content in _reachable(source.iter_contents()):
        with suppress(BundleError):
            _read_content(content)


def _reachable(items: Iterator[T]) -> Iterator[T]:
    with suppress(BundleError):
        yield from items


def _read_content(content: Content) -> None:
    for history in content.histories():
        assert len(history.values) == len(history.timestamps) == len(history.steps) >= 1
    for item in content.items():
        assert isinstance(item, msgspec.Struct)
    for artifacts in (content.artifacts, *content.version_artifacts.values()):
        _read_artifacts(artifacts)


def _read_artifacts(artifacts: ArtifactTree) -> None:
    for file in artifacts.files():
        with suppress(FormatError):
            opened = artifacts.open(file)
            with opened.stream:
                assert len(opened.stream.read()) == opened.size


TARGETS: dict[str, Callable[[bytes], None]] = {
    "reader": reader,
    "recovery": recovery,
    "documents": documents,
}
