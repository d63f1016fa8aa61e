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
    parse_raw_frame,
    raw_frame,
)
from mlflow_bundle.archive.index import check_capabilities
from mlflow_bundle.archive.limits import DEFAULT_LIMITS
from mlflow_bundle.archive.paths import HEADER_PATH
from mlflow_bundle.errors import (
    CorruptFrameError,
    FormatError,
    NotABundleError,
    UnsupportedVersionError,
)

MAX_HEADER_FRAME_BYTES: Final = (
    2 * tar.BLOCK + 2 * tar.BLOCK + tar.padded(DEFAULT_LIMITS.header_bytes)
)


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
        NotABundleError: The first member is another one.
        UnsupportedVersionError: A capability or a prerequisite is required.
        CorruptFrameError: The frame is not the canonical rendering of a JSON object.
    """
    data = parse_raw_frame(frame)
    if not is_header_start(data):
        raise NotABundleError("not a bundle: the first member has another name", offset=0)
    path, size, mtime_ns, mode, link, length = tar.parse_header(data, 0)
    content = data[length : length + size]
    blocks = tar.render_header(HEADER_PATH, size, mtime_ns, tar.FILE_MODE, None)
    if path != HEADER_PATH or link is not None or data != blocks + content + tar.padding(size):
        raise CorruptFrameError("the first frame is not the canonical header", offset=0)
    if size > DEFAULT_LIMITS.header_bytes or mode != tar.FILE_MODE:
        raise CorruptFrameError("the first frame is not the canonical header", offset=0)
    _check_document(content, uuid)
    return content, len(data)


def is_header_start(data: bytes) -> bool:
    """Say whether decompressed bytes begin with the header member, perhaps with a pax header."""
    name = HEADER_PATH.encode() + b"\x00"
    return data.startswith(name) or data[2 * tar.BLOCK :].startswith(name)


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
        document = json.loads(content.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as exc:
        raise CorruptFrameError(f"{HEADER_PATH} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise CorruptFrameError(f"{HEADER_PATH} is not a JSON object")
    return document


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key!r}")
        result[key] = value
    return result
