"""What is whole in a file whose end is missing or whose middle is damaged (FORMAT.md 10).

Every group header says how far it is to the next one, so a scan hops from header to header and
leaves the data alone. Where a header is bad, the next one is searched by tag, uuid and the offset
it states of itself.

- :func:`scan_groups` hops to the first thing that is no whole group.
- :func:`scan_resumable` also checks what a crash can have harmed, for :meth:`ArchiveWriter.resume`.
- :func:`recover` copies every member that is whole into a new bundle.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from uuid import UUID

from mlflow_bundle.archive import tar
from mlflow_bundle.archive.content import (
    LastFrame,
    LoadFrame,
    VoidMemberError,
    frame_reader,
    iter_content,
    iter_spanning,
    missing_part,
    open_pieces,
    same_member,
)
from mlflow_bundle.archive.dedup import ContentIds
from mlflow_bundle.archive.frames import (
    GROUP_TAG,
    PREAMBLE_BYTES,
    SKIPPABLE_MAGIC,
    Preamble,
    check_page,
    parse_preamble,
    parse_raw_frame,
)
from mlflow_bundle.archive.header import (
    HEADER_START_BYTES,
    decode_header_frame,
    header_frame_length,
    stated_uuid,
)
from mlflow_bundle.archive.index import Group, decode_group
from mlflow_bundle.archive.limits import DEDUP_WINDOW, DEFAULT_LIMITS, MIB, SYNC_BYTES, Limits
from mlflow_bundle.archive.member import Member
from mlflow_bundle.archive.paths import Directories
from mlflow_bundle.archive.reader import ArchiveReader
from mlflow_bundle.archive.source import ByteSource
from mlflow_bundle.archive.writer import ArchiveWriter, FinishedBundleError
from mlflow_bundle.errors import CorruptFrameError, FormatError, TruncatedError

_MIN_CHECKED_GROUPS = 2
_SEARCH_BYTES = 4 * MIB


class Scan:
    """The whole groups at the start of a file.

    Attributes:
        header: Content of ``.mlbundle/bundle.json``.
        header_frame: The first frame.
        header_tar_bytes: Its decompressed size.
        mtime_ns: Modification time of the header member.
        groups: Number of whole groups.
        end: Offset after the last of them, where a resumed writer goes on.
        size: Length of the file.
        stopped_by: What stands at ``end`` instead of a group.
    """

    def __init__(self, stream: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> None:
        self._source = ByteSource(stream)
        self._limits = limits
        self._offsets = array("Q")
        self._uuid: UUID | None = None
        self.size = self._source.size
        self.header_frame = _read_header_frame(self._source)
        self.header, self.header_tar_bytes = decode_header_frame(self.header_frame, None)
        self.mtime_ns = tar.parse_header(parse_raw_frame(self.header_frame), 0)[2]
        self.end = len(self.header_frame)
        self.stopped_by: FormatError = TruncatedError("end of file", offset=self.end)
        self._hop()
        self._drop_unfinished()

    @property
    def groups(self) -> int:
        return len(self._offsets)

    @property
    def next_sequence(self) -> int:
        return len(self._offsets)

    @property
    def uuid(self) -> UUID:
        """The bundle's uuid. Raises TruncatedError when neither group nor header tells it."""
        uuid = self._uuid or stated_uuid(self.header)
        if uuid is None:
            raise TruncatedError("there is no whole group", offset=self.end)
        return uuid

    @property
    def last_path(self) -> str | None:
        """Path of the last whole member; None when there is none."""
        return self.read_group(self.groups - 1)[0].paths[-1] if self.groups else None

    def iter_groups(self) -> Iterator[tuple[Group, bytes]]:
        """Yield each group, decoded, and its header's bytes."""
        for number in range(self.groups):
            yield self.read_group(number)

    def read_group(self, number: int) -> tuple[Group, bytes]:
        at = self._offsets[number]
        page = _read_page(self._source, at, self._limits)[1]
        return decode_group(page, at=at, limits=self._limits), page

    def cut(self, groups: int) -> None:
        """Keep the first ``groups`` groups, less a member that they leave unfinished."""
        if groups < self.groups:
            self.end = self._offsets[groups]
            del self._offsets[groups:]
            self._drop_unfinished()

    def check_data(self, number: int) -> None:
        """Check every byte of a group.

        Raises:
            FormatError: It is damaged.
        """
        group, _ = self.read_group(number)
        load = LastFrame(frame_reader(self._source, group))
        for member in range(len(group.paths)):
            for _ in iter_content(group, member, load):
                pass

    def _hop(self) -> None:
        try:
            while True:
                preamble, _ = _read_page(self._source, self.end, self._limits)
                if preamble.tag != GROUP_TAG or preamble.sequence != self.groups:
                    raise CorruptFrameError("no group of this bundle", offset=self.end)
                if self._uuid not in (None, preamble.uuid):
                    raise CorruptFrameError("no group of this bundle", offset=self.end)
                end = self.end + preamble.length + preamble.data_length
                if end > self.size:
                    raise TruncatedError("a group is cut short", offset=self.end)
                if self._uuid is None:
                    decode_header_frame(self.header_frame, preamble.uuid)
                    self._uuid = preamble.uuid
                self._offsets.append(self.end)
                self.end = end
        except FormatError as exc:
            self.stopped_by = exc

    def _drop_unfinished(self) -> None:
        """Take back the parts of a member whose last part is missing."""
        while self._offsets:
            try:
                group, _ = self.read_group(self.groups - 1)
                if group.last_part:
                    return
            except FormatError as exc:
                self.stopped_by = exc
            self.end = self._offsets.pop()


def scan_groups(stream: BinaryIO, *, limits: Limits = DEFAULT_LIMITS) -> Scan:
    """Hop over group headers from the first frame to the first thing that is no whole group.

    Headers are read and their checksums compared; data is not read.

    Raises:
        NotABundleError: The stream does not begin with the first frame of a bundle.
        FormatError: That frame is damaged or of a later format.
    """
    return Scan(stream, limits)


def scan_resumable(stream: BinaryIO) -> Scan:
    """Scan an unfinished bundle and keep what is certain.

    The last two groups, and all that may not have reached the device before a crash, are checked
    byte by byte; from the first bad one on everything is dropped.

    Raises:
        FinishedBundleError: The bundle is complete.
        FormatError: As :func:`scan_groups`.
    """
    try:
        ArchiveReader(stream)
    except FormatError:
        pass
    else:
        raise FinishedBundleError("the bundle is complete; there is nothing to resume")
    scan = Scan(stream)
    first = scan.groups
    while first and (
        scan.groups - first < _MIN_CHECKED_GROUPS
        or scan.end - scan._offsets[first - 1] <= SYNC_BYTES
    ):
        first -= 1
    for number in range(first, scan.groups):
        try:
            scan.check_data(number)
        except FormatError as exc:
            scan.stopped_by = exc
            scan.cut(number)
            break
    return scan


# --- recover ---------------------------------------------------------------------------------


@dataclass(kw_only=True)
class RecoverResult:
    """What :func:`recover` saved.

    Attributes:
        members: Members in the new bundle.
        bytes: Their content, hard links not counted.
        problems: What was found wrong. A member that is known to be lost has its ``path`` here;
            members of a damaged group header are known only by the gap.
        complete: Whether the old file was a whole bundle to begin with.
    """

    members: int = 0
    bytes: int = 0
    problems: list[FormatError] = field(default_factory=list)
    complete: bool = False


def recover(
    stream: BinaryIO, out: BinaryIO, *, header: bytes | None = None, level: int = 3, jobs: int = 2
) -> RecoverResult:
    """Write a new, sound bundle of every member that is whole in a damaged or cut one.

    Args:
        stream: The damaged bundle, seekable.
        out: Where the new bundle goes.
        header: ``.mlbundle/bundle.json`` for the new bundle; the old one's when None.
        level: zstd level.
        jobs: Worker threads.

    Raises:
        FormatError: The first frame is damaged or of another bundle and ``header`` is None, or
            there is no group.
    """
    return _Recovery(stream, out, header, level, jobs).run()


class _Recovery:
    def __init__(
        self, stream: BinaryIO, out: BinaryIO, header: bytes | None, level: int, jobs: int
    ) -> None:
        self._stream = stream
        self._source = ByteSource(stream)
        self._out = out
        self._header = header
        self._level = level
        self._jobs = jobs
        self._result = RecoverResult()
        self._uuid: UUID | None = None
        self._targets = ContentIds(DEDUP_WINDOW)
        self._directories = Directories()
        self._lost_path = ""

    def run(self) -> RecoverResult:
        result = self._result
        start, mtime_ns, header = self._read_header()
        groups = self._iter_groups(start)
        first = next(groups, None)
        if first is None:
            if not result.problems:
                result.problems.append(TruncatedError("there is no group", offset=start))
            raise result.problems[0]
        self._demand_same_bundle(first)
        with ArchiveWriter(
            self._out,
            bundle_uuid=first.preamble.uuid,
            header=header,
            mtime_ns=mtime_ns,
            level=self._level,
            jobs=self._jobs,
        ) as writer:
            group: Group | None = first
            while group is not None:
                if group.span is None:
                    self._copy_members(writer, group)
                    group = next(groups, None)
                else:
                    group = self._copy_spanning(writer, group, groups)
            writer.finish()
            result.members = writer.members
        try:
            ArchiveReader(self._stream)
            result.complete = True
        except FormatError as exc:
            result.problems.append(exc)
        return result

    def _read_header(self) -> tuple[int, int, bytes]:
        try:
            frame = _read_header_frame(self._source)
            content, _ = decode_header_frame(frame, None)
            mtime_ns = tar.parse_header(parse_raw_frame(frame), 0)[2]
        except FormatError as exc:
            if self._header is None:
                raise
            self._result.problems.append(exc)
            return 0, 0, self._header
        return len(frame), mtime_ns, content if self._header is None else self._header

    def _demand_same_bundle(self, first: Group) -> None:
        """Refuse a first frame that names another bundle, unless another stands in for it."""
        try:
            decode_header_frame(_read_header_frame(self._source), first.preamble.uuid)
        except FormatError as exc:
            if self._header is None:
                raise
            if not self._result.problems:  # else it was found before
                self._result.problems.append(exc)

    def _iter_groups(self, at: int) -> Iterator[Group]:
        """Yield the groups whose header is good; report what lies between."""
        before = (b"", -1)
        while True:
            try:
                _, page = _read_page(self._source, at, DEFAULT_LIMITS)
                group = decode_group(page, at=at, limits=DEFAULT_LIMITS)
                if self._uuid not in (None, group.preamble.uuid):
                    raise CorruptFrameError("group of another bundle", offset=at)
            except FormatError as exc:
                found = self._search(at + 1)
                if found is None:
                    return
                self._result.problems.append(exc)
                at = found
                continue
            self._uuid = group.preamble.uuid
            if group.first_key <= before:
                self._result.problems.append(CorruptFrameError("group is out of order", offset=at))
            else:
                before = (group.keys[-1], group.first_key[1])
                yield group
            at = group.end

    def _search(self, at: int) -> int | None:
        """Return where the next group header begins that says it lies there."""
        magic = SKIPPABLE_MAGIC.to_bytes(4, "little")
        while at < self._source.size:
            window = self._source.read_at(at, min(_SEARCH_BYTES, self._source.size - at))
            found = window.find(GROUP_TAG)
            while found >= 0:
                start = at + found - 8
                # Nothing before ``at``: the group that was refused there would be found again.
                if found >= 8 and window[found - 8 : found - 4] == magic:
                    try:
                        preamble, _ = _read_page(self._source, start, DEFAULT_LIMITS)
                        if preamble.tag == GROUP_TAG and self._uuid in (None, preamble.uuid):
                            return start
                    except FormatError:
                        pass
                found = window.find(GROUP_TAG, found + 1)
            if at + len(window) == self._source.size:
                break
            at += len(window) - PREAMBLE_BYTES
        return None

    def _copy_members(self, writer: ArchiveWriter, group: Group) -> None:
        load = LastFrame(frame_reader(self._source, group))
        for number in range(len(group.paths)):
            member = group.member(number)
            try:
                self._directories.demand_file(member.path)
                content = b"".join(iter_content(group, number, load))
                if member.link is not None:
                    self._copy_link(writer, member)
                else:
                    self._keep(writer.add(member.path, content, mtime_ns=member.mtime_ns))
                self._directories.add(member.path)
            except FormatError as exc:
                self._report(member.path, exc)

    def _copy_link(self, writer: ArchiveWriter, member: Member) -> None:
        target = self._targets.find(member.digest, member.size)
        if target is None:
            raise CorruptFrameError(f"its content was in {member.link!r}, which is lost")
        writer.add_link(member.path, target)

    def _copy_spanning(
        self, writer: ArchiveWriter, first: Group, groups: Iterator[Group]
    ) -> Group | None:
        """Copy a member that spans groups; return the group after it."""
        path = first.paths[0]
        taken = first

        def iter_parts() -> Iterator[tuple[Group, LoadFrame]]:
            nonlocal taken
            yield first, frame_reader(self._source, first)
            for taken in groups:
                yield taken, frame_reader(self._source, taken)

        try:
            if first.span is None or first.span.start:
                raise missing_part(first)
            self._directories.demand_file(path)
            stream = open_pieces(iter_spanning(iter_parts()))
            self._keep(writer.add_stream(path, stream, first.sizes[0], mtime_ns=first.mtimes[0]))
            self._directories.add(path)
        except VoidMemberError:
            pass  # absent in the damaged bundle, absent in the new one
        except FormatError as exc:
            if path != self._lost_path:
                self._report(path, exc)
            self._lost_path = path
        if taken is not first and not same_member(first, taken):
            return taken
        return next(groups, None)

    def _keep(self, member: Member) -> None:
        if member.link is None:
            self._result.bytes += member.size
            self._targets.add(member.digest, member)

    def _report(self, path: str, problem: FormatError) -> None:
        if problem.path != path:
            problem = type(problem)(problem.message, path=path)
        self._result.problems.append(problem)


# --- pages -----------------------------------------------------------------------------------


def _read_header_frame(source: ByteSource) -> bytes:
    start = source.read_at(0, min(HEADER_START_BYTES, source.size))
    return source.read_at(0, header_frame_length(start))


def _read_page(source: ByteSource, at: int, limits: Limits) -> tuple[Preamble, bytes]:
    """Read the page at ``at`` and compare its checksum."""
    start = source.read_at(at, PREAMBLE_BYTES)
    length = parse_preamble(start, at=at, limits=limits).length
    page = source.read_at(at, length)
    return check_page(page, at=at, limits=limits), page
