"""The first frame: a raw frame that holds the member ``.mlbundle/bundle.json`` (FORMAT.md 4.1)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.frames import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MAJOR,
    RAW_HEADER_BYTES,
    parse_raw_frame,
    raw_frame,
    raw_frame_length,
)
from mlflow_bundle.archive.index import check_capabilities
from mlflow_bundle.archive.limits import DEFAULT_LIMITS
from mlflow_bundle.archive.paths import HEADER_PATH
from mlflow_bundle.errors import (
    CorruptFrameError,
    FormatError,
    LimitError,
    NotABundleError,
    UnsupportedVersionError,
)

MAX_HEADER_TAR_BYTES: Final = 3 * tar.BLOCK + tar.padded(DEFAULT_LIMITS.header_bytes)
MAX_HEADER_FRAME_BYTES: Final = raw_frame_length(
    b"\x28\xb5\x2f\xfd\xa0" + MAX_HEADER_TAR_BYTES.to_bytes(4, "little")
)[1]
HEADER_START_BYTES: Final = 12 + len(HEADER_PATH) + 1
"""Enough of a file to tell whether it begins like a bundle."""
MAX_DEPTH: Final = 64
"""Arrays and objects within each other in ``.mlbundle/bundle.json``."""

_FIRST_NAMES = (HEADER_PATH.encode() + b"\x00", tar.PAX_NAME + b"\x00")


def encode_header_frame(content: bytes, mtime_ns: int) -> bytes:
    """Return the first frame.

    Raises:
        ValueError: ``content`` is no JSON object or is larger than 1 MiB: the caller's bug.
    """
    if len(content) > DEFAULT_LIMITS.header_bytes:
        raise ValueError(f"{HEADER_PATH} is larger than {DEFAULT_LIMITS.header_bytes} bytes")
    try:
        _check_document(content, None)
    except FormatError as exc:
        raise ValueError(str(exc)) from exc
    blocks = tar.render_header(HEADER_PATH, len(content), mtime_ns, tar.FILE_MODE, None)
    return raw_frame(blocks + content + tar.padding(len(content)))


def decode_header_frame(frame: bytes, uuid: UUID | None) -> tuple[bytes, int]:
    """Return the content of the header member and the size of the decompressed frame.

    Args:
        frame: The whole first frame.
        uuid: The bundle's uuid, when it is known already.

    Raises:
        NotABundleError: It does not begin like a bundle.
        UnsupportedVersionError: A capability or a prerequisite is required.
        CorruptFrameError: The frame is not the canonical rendering of a JSON object.
        LimitError: The object is larger than 1 MiB.
    """
    header_frame_length(frame[:HEADER_START_BYTES])
    data = parse_raw_frame(frame)
    path, size, mtime_ns, mode, link, length = tar.parse_header(data, 0)
    if size > DEFAULT_LIMITS.header_bytes:
        raise LimitError(f"{HEADER_PATH} of {size} bytes", offset=0)
    content = data[length : length + size]
    blocks = tar.render_header(HEADER_PATH, size, mtime_ns, tar.FILE_MODE, None)
    if (path, mode, link) != (HEADER_PATH, tar.FILE_MODE, None) or (
        data != blocks + content + tar.padding(size)
    ):
        raise CorruptFrameError("the first frame is not the canonical header", offset=0)
    _check_document(content, uuid)
    return content, len(data)


def check_start(start: bytes) -> None:
    """Tell a file that begins like a bundle (FORMAT.md 4.1) from any other.

    Args:
        start: Its first ``HEADER_START_BYTES`` bytes, or all that there are.

    Raises:
        NotABundleError: It does not.
    """
    raw_frame_length(start[:RAW_HEADER_BYTES])
    if not start[10 if start[4] == 0x60 else 12 :].startswith(_FIRST_NAMES):
        raise NotABundleError("not a bundle: the first member has another name", offset=0)


def header_frame_length(start: bytes) -> int:
    """Return the length of the first frame of a file that begins with ``start``.

    Raises:
        NotABundleError: As :func:`check_start`.
        LimitError: It is longer than its largest member needs.
    """
    check_start(start)
    length = raw_frame_length(start[:RAW_HEADER_BYTES])[1]
    if length > MAX_HEADER_FRAME_BYTES:
        raise LimitError(f"first frame of {length} bytes", offset=0)
    return length


def stated_uuid(content: bytes) -> UUID | None:
    """Return the uuid that the header names, if it does."""
    try:
        return UUID(str(_parse(content).get("uuid")))
    except ValueError:
        return None


def _check_document(content: bytes, uuid: UUID | None) -> None:
    """Check what concerns the file format; everything else is the document's owner's."""
    document = _parse(content)
    name = document.get("format", FORMAT_NAME)
    if name != FORMAT_NAME:
        raise NotABundleError(f"{HEADER_PATH} is of the format {name!r}")
    version = document.get("format_version", FORMAT_VERSION)
    if not isinstance(version, str) or version.partition(".")[0] != str(MAJOR):
        raise UnsupportedVersionError(f"format version {version!r} is not supported")
    check_capabilities(document.get("require", []))
    if document.get("prerequisites", []) != []:
        raise UnsupportedVersionError(
            "the bundle is incremental: it has prerequisites, which this version cannot read"
        )
    stated = document.get("uuid")
    if uuid is not None and stated is not None and stated != str(uuid):
        raise CorruptFrameError(f"{HEADER_PATH} belongs to the bundle {stated!r}")


def _parse(content: bytes) -> dict[str, object]:
    try:
        document = json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_int=float,  # of any number of digits
        )
    except (ValueError, RecursionError) as exc:
        raise CorruptFrameError(f"{HEADER_PATH} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise CorruptFrameError(f"{HEADER_PATH} is not a JSON object")
    if _depth(document) > MAX_DEPTH:
        raise CorruptFrameError(f"{HEADER_PATH} is nested more than {MAX_DEPTH} deep")
    return document


def _no_constant(token: str) -> object:
    raise ValueError(f"{token} is no JSON number")


def _depth(document: object) -> int:
    depth = 0
    level = [document]
    while level := [value for value in level if isinstance(value, (dict, list))]:
        depth += 1
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return depth


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key!r}")
        result[key] = value
    return result
