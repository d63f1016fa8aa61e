"""The package and a reader written from the text alone agree about every file."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from mlflow_bundle.archive import ArchiveReader, ArchiveWriter, escape_component, order_key
from mlflow_bundle.archive import escape_path as our_escape_path
from tests.archive.bundles import (
    HEADER,
    MIB,
    MTIME_NS,
    SMALL,
    UUID_1,
    Members,
    Pipe,
    bundle,
    flipped,
    noise,
    read_stream,
    text,
)
from tests.independent import reader
from tests.independent.reader import Bundle, Refused, Stream
from tests.vectors.test_vectors import HERE, NAMES, outcome


def from_file(data: bytes) -> dict[str, Any]:
    members: dict[str, str] = {}
    error = None
    try:
        found = Bundle(io.BytesIO(data))
        with contextlib.suppress(Refused):
            for path in found.paths():
                with contextlib.suppress(Refused):
                    members[path] = hashlib.sha256(found.read(path)).hexdigest()
        found.check()
    except Refused as exc:
        error = exc.kind
    return {"error": error, "members": members}


def from_stream(data: bytes) -> dict[str, Any]:
    members: dict[str, str] = {}
    error = None
    try:
        for member, content in Stream(cast(BinaryIO, Pipe(data))):
            if member.target is not None:
                if member.target in members:
                    members[member.path] = members[member.target]
            elif content is not None:
                members[member.path] = hashlib.sha256(content).hexdigest()
    except Refused as exc:
        error = exc.kind
    return {"error": error, "members": members}


def theirs(data: bytes) -> dict[str, Any]:
    return {"file": from_file(data), "stream": from_stream(data)}


def test_the_reader_is_independent() -> None:
    tree = ast.parse(Path(reader.__file__).read_text("utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None), *[alias.name for alias in node.names]]
        if name
    }
    assert not {name for name in imported if name.startswith(("mlflow", "tests"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_ends_as_stated(name: str) -> None:
    stated = json.loads((HERE / f"{name}.json").read_text("utf-8"))
    assert theirs((HERE / f"{name}.mlbundle").read_bytes()) == stated


class Failing(io.RawIOBase):
    def __init__(self, good: int) -> None:
        self._left = good

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            raise ConnectionError("gone")
        size = min(size, self._left)
        self._left -= size
        return b"x" * size


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> tuple[Members, bytes]:
    """A bundle of our writer with links, parts, a void member and four levels."""
    monkeypatch.setattr("mlflow_bundle.archive.index.FANOUT", 4)
    monkeypatch.setattr("mlflow_bundle.archive.writer.GROUP_MEMBERS", 3)
    members = {f"a/{n:03}": text(1500, n % 20) for n in range(150)}
    members |= {f"b/caf\u00e9/{'x' * 120}/{n}": b"%d" % n for n in range(30)}
    members |= {"c/parts": noise(9 * MIB + 5), "d/large": text(5 * MIB), "e": b""}
    out = Pipe()
    with ArchiveWriter(
        cast(BinaryIO, out), bundle_uuid=UUID_1, header=HEADER, mtime_ns=MTIME_NS + 5
    ) as writer:
        for path in sorted(members, key=order_key):
            content = members[path]
            if path == "d/large":
                with pytest.raises(ConnectionError, match="gone"):
                    writer.add_stream("c/void", cast(BinaryIO, Failing(35 * MIB)), 36 * MIB)
            added = writer.add(path, content)
            if path == "c/parts":
                writer.add_link("c/same", added)
        writer.finish()
    return members | {"c/same": members["c/parts"]}, b"".join(out.written)


def test_a_bundle_of_our_writer_is_read_alike(everything: tuple[Members, bytes]) -> None:
    members, data = everything
    ours = ArchiveReader(io.BytesIO(data))
    assert ours._root.level == 4
    assert ours.find("c/void") is None
    found = Bundle(io.BytesIO(data))
    assert list(found.paths()) == [member.path for member in ours.iter_members()]
    for path in [*list(members)[::9], "c/parts", "c/same", "d/large", "e"]:
        assert found.read(path) == members[path] == ours.read(path)
    assert found.check() == len(members) == ours.verify().members
    links = {member.path: member.target for member, _ in Stream(io.BytesIO(data))}
    assert links == {member.path: member.link for member in ours.iter_members()} | {"c/void": None}
    assert sum(target is not None for target in links.values()) == 131
    with pytest.raises(KeyError):
        found.read("c/void")


def test_contents_in_a_stream_are_alike() -> None:
    data = bundle(SMALL)
    contents: Members = {}
    for member, content in Stream(cast(BinaryIO, Pipe(data, 7))):
        assert content is not None
        contents[member.path] = content if member.target is None else contents[member.target]
    assert contents == read_stream(data) == SMALL


def test_every_cut_and_every_kind_of_flipped_bit_has_one_class() -> None:
    data = bundle(SMALL)
    for length in range(0, len(data), 13):
        assert theirs(data[:length]) == outcome(data[:length]), length
    pick = random.Random(5)
    for offset in range(0, len(data), 7):
        bad = flipped(data, offset, 1 << pick.randrange(8))
        assert theirs(bad) == outcome(bad), offset


NAMES_TO_ESCAPE = [
    *[
        "",
        ".",
        "..",
        "a",
        "a.",
        "a ",
        ". ",
        "con",
        "CON.txt",
        "nul .x",
        "com\u00b9",
        "conout$",
        "%",
    ],
    *["50%", "a/b", "a\\b:c", '<>"|?*', "\x00\x1f\x7f", "e\u0301", "\u00e9", ":\u0301", "\u212a"],
    *["\ud800", "manifest.json", "Manifest.json", ".hidden", "\x85", "\ufffe", "%~x"],
    *["x" * n for n in (166, 167, 200, 201, 300)],
    *["\u00e9" * n for n in (83, 84, 100, 101)],
    *["x" * n + ":" * 60 for n in (130, 163, 164, 165, 166)],
]


@pytest.mark.parametrize("name", NAMES_TO_ESCAPE)
def test_names_are_escaped_alike(name: str) -> None:
    assert reader.escape(name) == escape_component(name)
    reserved = ("manifest.json",)
    assert reader.escape(name, reserved) == escape_component(name, reserved=reserved)
    for path in (f"{name}/b", f"a/{name}", "/".join([name] * 40)):
        assert reader.escape_path(path) == our_escape_path(path)
        if "\ud800" not in reader.escape_path(path):
            reader.check_path(reader.escape_path(path))
