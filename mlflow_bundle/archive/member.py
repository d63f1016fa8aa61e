"""One member of a bundle, as its index describes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in a bundle.

    Attributes:
        path: POSIX path, relative, safe (FORMAT.md 6.2).
        size: Content bytes; of a hard link, those of its target.
        mtime_ns: Nanoseconds since the epoch.
        mode: Permission bits.
        digest: SHA-256 of the content, 32 bytes. Empty only where a stream reader cannot know it
            yet, see :class:`mlflow_bundle.archive.stream.StreamReader`.
        link: Path of the earlier member that has the content, when this one is a hard link.
    """

    path: str
    size: int
    mtime_ns: int
    mode: int
    digest: bytes
    link: str | None = None
