"""The sizes a bundle is written with, and the limits a reader enforces before it allocates.

FORMAT.md 2.3 has the same table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# What our writer does. Readers accept other choices within the limits below.
SOLID_FRAME_BYTES: Final = 512 * KIB
"""Small members share a frame until the next one would take it past this size."""
LARGE_FRAME_BYTES: Final = 4 * MIB
"""Content bytes in each frame of a large member."""
LARGE_MEMBER_BYTES: Final = 4 * MIB
"""A member of this size or more has groups of its own and is not deduplicated by content."""
GROUP_MEMBERS: Final = 1024
GROUP_BYTES: Final = 8 * MIB
FANOUT: Final = 512
"""Entries in a node or in the root."""
SYNC_BYTES: Final = 256 * MIB
"""A local file is fsynced each time this much was written; a resume checks this much again."""
DEDUP_WINDOW: Final = 1 << 20
DEDUP_MIN_BYTES: Final = KIB
"""Below this size a hard link costs as much as a second copy in a solid frame."""
TAIL_BYTES: Final = 64 * KIB
"""One read of this length finds the trailer, with the seek table or without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a reader accepts. Every number is checked before memory is taken for it.

    Attributes:
        page_bytes: Group header, node or root as it lies in the file.
        body_bytes: The msgpack map of one of these, decompressed.
        page_entries: Members, frames or children described by one page.
        levels: Levels of the directory, the root included.
        path_bytes: A member path in UTF-8.
        component_bytes: One component of it; a rule of the format, not for callers to lower.
        frame_bytes: A data frame, decompressed.
        header_bytes: ``.mlbundle/bundle.json``.
        members: Members of the whole bundle; None for no limit.
        tar_bytes: The whole decompressed stream; None for no limit.
    """

    page_bytes: int = 16 * MIB
    body_bytes: int = 64 * MIB
    page_entries: int = 4096
    levels: int = 4
    path_bytes: int = 4096
    component_bytes: int = 255
    frame_bytes: int = 8 * MIB
    header_bytes: int = MIB
    members: int | None = None
    tar_bytes: int | None = None


DEFAULT_LIMITS: Final = Limits()
