"""Every vector through both readers: the stated error, and no member before it that is not sound.

The JSON beside a vector has two objects, ``file`` for a reader that can seek and does the full
check, and ``stream`` for one that cannot. ``error`` is the class of the first problem, or null;
``members`` maps the paths that can be read (before the error, for ``stream``) to the SHA-256 of
their content.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.archive import ArchiveReader, StreamReader, VoidMemberError
from mlflow_bundle.errors import FormatError
from tests.archive.bundles import Pipe

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.mlbundle"))


def from_file(data: bytes) -> dict[str, Any]:
    members: dict[str, str] = {}
    try:
        reader = ArchiveReader(io.BytesIO(data))
        with contextlib.suppress(FormatError):
            for member in reader.iter_members():
                with contextlib.suppress(FormatError):
                    members[member.path] = hashlib.sha256(reader.read(member)).hexdigest()
        problems = reader.verify().problems
    except FormatError as exc:
        problems = [exc]
    return {"error": type(problems[0]).__name__ if problems else None, "members": members}


def from_stream(data: bytes) -> dict[str, Any]:
    members: dict[str, str] = {}
    error = None
    try:
        for member, pieces in StreamReader(Pipe(data)):
            with contextlib.suppress(VoidMemberError):
                content = b"".join(pieces)
                if member.link is None:
                    members[member.path] = hashlib.sha256(content).hexdigest()
                elif member.link in members:
                    members[member.path] = members[member.link]
    except FormatError as exc:
        error = type(exc).__name__
    return {"error": error, "members": members}


def outcome(data: bytes) -> dict[str, Any]:
    return {"file": from_file(data), "stream": from_stream(data)}


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_ends_as_stated(name: str) -> None:
    stated = json.loads((HERE / f"{name}.json").read_text())
    assert outcome((HERE / f"{name}.mlbundle").read_bytes()) == stated


def test_there_are_vectors_and_each_has_its_outcome() -> None:
    from tests.vectors.make_vectors import VECTORS

    assert set(VECTORS) == set(NAMES) == {path.stem for path in HERE.glob("*.json")}
