"""Which earlier member has the content that is being written, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from mlflow_bundle.archive.limits import DEDUP_MIN_BYTES, DEDUP_WINDOW, LARGE_MEMBER_BYTES
from mlflow_bundle.archive.member import Member

MAX_CONTENT_IDS: Final = 1 << 16


class ContentWindow:
    """The last 2**19 to 2**20 contents of small members, by digest.

    Two generations instead of one ordered dictionary: the older is dropped as a whole, so an
    entry costs one dictionary slot and no list node. Full, the window takes about 250 MB.
    """

    def __init__(self, size: int = DEDUP_WINDOW) -> None:
        self._generation_size = size // 2
        self._young: dict[bytes, tuple[str, int]] = {}
        self._old: dict[bytes, tuple[str, int]] = {}

    @staticmethod
    def takes(size: int) -> bool:
        return DEDUP_MIN_BYTES <= size < LARGE_MEMBER_BYTES

    def find(self, digest: bytes) -> tuple[str, int] | None:
        """Return path and mtime of the member whose content has ``digest``."""
        return self._young.get(digest) or self._old.get(digest)

    def add(self, digest: bytes, path: str, mtime_ns: int) -> None:
        if len(self._young) >= self._generation_size:
            self._old = self._young
            self._young = {}
        self._young[digest] = (path, mtime_ns)


class ContentIds:
    """The last 65 536 contents that the caller gave an id to."""

    def __init__(self, size: int = MAX_CONTENT_IDS) -> None:
        self._size = size
        self._members: OrderedDict[tuple[Hashable, int], Member] = OrderedDict()

    def find(self, content_id: Hashable, size: int) -> Member | None:
        return self._members.get((content_id, size))

    def add(self, content_id: Hashable, member: Member) -> None:
        self._members[content_id, member.size] = member
        if len(self._members) > self._size:
            self._members.popitem(last=False)
