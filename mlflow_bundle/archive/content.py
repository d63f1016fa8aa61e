"""The content of members out of the frames of their group, checked against the index.

Every reader gets its bytes here: the frame's digest is compared before it is decompressed, the tar
header with its canonical rendering, the padding with zeros, the content with its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.frames import decompress_frame
from mlflow_bundle.archive.index import Group
from mlflow_bundle.errors import CorruptFrameError


def open_frame(group: Group, number: int, frame: bytes, offset: int) -> bytes:
    """Decompress frame ``number`` of a group after comparing its digest.

    Args:
        group: The group.
        number: Which of its frames.
        frame: Its bytes.
        offset: Where it lies in the file, for messages.

    Raises:
        CorruptFrameError: The digest differs, or the frame is not what the index says.
    """
    if hashlib.sha256(frame).digest() != group.frame_digests[number]:
        raise CorruptFrameError("frame digest is wrong", offset=offset)
    return decompress_frame(frame, group.frame_sizes[number], offset=offset)


def iter_content(group: Group, number: int, load: Callable[[int], bytes]) -> Iterator[memoryview]:
    """Yield the content bytes of member ``number`` that this group holds, frame by frame.

    The piece that ends the group's share is yielded only after its digest has been compared. The
    content of a hard link is empty here.

    Args:
        group: The group.
        number: Which of its members.
        load: Returns a frame of the group, decompressed.

    Raises:
        CorruptFrameError: Header, padding or digest is wrong.
    """
    path = group.paths[number]
    frame_number = group.frames[number]
    frame = load(frame_number)
    start = group.offsets[number]
    span = group.span
    if span is None or span.start == 0:
        header = group.header(number)
        if frame[start : start + len(header)] != header:
            raise CorruptFrameError("tar header differs from the index", path=path)
        start += len(header)
    if number in group.links:
        return
    size = span.length if span is not None else group.sizes[number]
    digest = hashlib.sha256()
    missing = size
    while True:
        piece = memoryview(frame)[start : start + missing]
        missing -= len(piece)
        digest.update(piece)
        if not missing:
            break
        yield piece
        frame_number += 1
        frame = load(frame_number)
        start = 0
    if digest.digest() != group.digests[number]:
        raise CorruptFrameError("content digest is wrong", path=path)
    if group.last_part:
        fill = tar.padding(group.sizes[number])
        start += len(piece)
        if frame[start : start + len(fill)] != fill:
            raise CorruptFrameError("tar padding is not zero", path=path)
    yield piece
