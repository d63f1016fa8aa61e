"""Writes the vectors: one small bundle per defect, and what readers must make of it.

``python -m tests.vectors.make_vectors`` writes ``<name>.mlbundle`` and ``<name>.json`` beside this
file. The outcomes below are stated by hand; members and their digests are recorded. A reader in
another language needs the two files only (``test_vectors.py`` says what the keys mean).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import zstandard

from mlflow_bundle.archive import tar
from tests.vectors.forge import (
    DICTIONARY,
    EOF_FRAME,
    MTIME_NS,
    WIDE_WINDOW,
    Bundle,
    Group,
    Record,
    part,
    raw,
    sha256,
    zstd,
)

HERE = Path(__file__).parent

ONE = Record("a/one.txt", b"one\n")
TWO = Record("a/two.txt", b"0123456789abcdef" * 100)
LINK = Record("b/link.txt", TWO.content, link="a/two.txt")
LAST = Record("z.json", b"{}")
LONG = Record("b/long.bin", bytes(range(256)) * 12)
RECORDS = [ONE, TWO, LINK, LAST]


def one_group(**changes: Any) -> bytes:
    return Bundle([Group(RECORDS, **changes)]).build()


def with_records(*records: Record, **changes: Any) -> bytes:
    return Bundle([Group(list(records), **changes)]).build()


def two_groups(first: dict[str, Any], second: dict[str, Any] | None = None, **bundle: Any) -> bytes:
    groups = [Group([ONE, TWO], **first), Group([LAST], **(second or {}))]
    return Bundle(groups, **bundle).build()


def of_groups(*groups: str, **bundle: Any) -> bytes:
    """A bundle of groups, each of whose letters is the path of a member."""
    return Bundle(
        [Group([Record(path, path.encode()) for path in group]) for group in groups], **bundle
    ).build()


def whole(**changes: Any) -> bytes:
    return Bundle([Group(RECORDS)], **changes).build()


def changed(record: Record, **changes: Any) -> Record:
    return replace(record, **changes)


def spanning(*groups: Group, **changes: Any) -> bytes:
    return Bundle([Group([ONE]), *groups, Group([LAST])], **changes).build()


PARTS = [part(LONG, 0, 1024), part(LONG, 1024, 1024), part(LONG, 2048, 1024)]
TAR = b"".join([record.tar() for record in RECORDS])
HEADER_TAR = Record(".mlbundle/bundle.json", b"{}").tar()
SEVEN = [Group([Record(f"d/{n}", b"%d" % n)]) for n in range(7)]


def nested_key(body: dict[str, Any]) -> bytes:
    """The key ``n`` twice."""
    packed = bytearray(msgpack.packb(body))
    packed[0] += 1
    return bytes(packed) + msgpack.packb("n") + msgpack.packb(4)


def long_integer(body: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(body)
    return packed.replace(b"\xa1n\x04", b"\xa1n\xcc\x04", 1)


def as_body(value: object) -> Callable[[dict[str, Any]], bytes]:
    """An unknown key with ``value``; bytes stand as they are."""
    packed: bytes = value if isinstance(value, bytes) else msgpack.packb(value)

    def pack(body: dict[str, Any]) -> bytes:
        whole = bytearray(msgpack.packb(body))
        whole[0] += 1
        return bytes(whole) + msgpack.packb("later") + packed

    return pack


def long_body(compress: Callable[[bytes], bytes]) -> bytes:
    return one_group(body={"later": "x" * 256}, compress=compress)


def unsized(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


def with_document(document: bytes) -> bytes:
    return whole(document=document)


def with_header_record(**changes: Any) -> bytes:
    """A bundle whose first frame holds another rendering of its member."""
    record = Record(".mlbundle/bundle.json", b"{}", **changes).tar()
    return whole(document=b"{}", header=raw(record))


def in_two_blocks(content: bytes) -> bytes:
    start = raw(content)[:7]
    blocks = [(512 << 3).to_bytes(3, "little"), content[:512]]
    blocks += [((len(content) - 512) << 3 | 1).to_bytes(3, "little"), content[512:]]
    return start + b"".join(blocks)


def in_frames(record: Record, *cuts: int) -> bytes:
    """One member alone in a group, its record cut into frames."""
    whole_record = record.tar()
    bounds = [0, *cuts, len(whole_record)]
    return with_records(record, contents=[whole_record[a:b] for a, b in pairwise(bounds)])


def flip(offset: int) -> Callable[[bytes], bytes]:
    def flipped(page: bytes) -> bytes:
        at = offset % len(page)
        return page[:at] + bytes([page[at] ^ 1]) + page[at + 1 :]

    return flipped


def bad_checksum(page: bytes) -> bytes:
    return flip(60)(page)


SOUND = None
T, C, U, L, N = (
    "TruncatedError",
    "CorruptFrameError",
    "UnsupportedVersionError",
    "LimitError",
    "NotABundleError",
)
P = "UnsafePathError"

# name: (bytes, outcome of opening and verifying a file, outcome of streaming)
VECTORS: dict[str, tuple[Callable[[], bytes], str | None, str | None]] = {
    "ok-empty": (lambda: Bundle([]).build(), SOUND, SOUND),
    "ok-small": (one_group, SOUND, SOUND),
    "ok-two-groups": (lambda: two_groups({}), SOUND, SOUND),
    "ok-no-seek-table": (lambda: whole(seek_table=None), SOUND, SOUND),
    "ok-nodes": (lambda: Bundle(SEVEN, fanout=2).build(), SOUND, SOUND),
    "ok-spanning": (lambda: spanning(*PARTS), SOUND, SOUND),
    "ok-void": (lambda: spanning(*PARTS[:2], part(LONG, 2048, 1024, void=True)), SOUND, SOUND),
    "ok-raw-frame": (lambda: one_group(frames=[raw(TAR)]), SOUND, SOUND),
    "ok-two-frames": (
        lambda: with_records(
            ONE,
            TWO,
            contents=[ONE.tar(), TWO.tar()],
            body={"frame": struct.pack("<2I", 0, 1), "off": bytes(8)},
        ),
        SOUND,
        SOUND,
    ),
    "ok-pax": (
        lambda: with_records(
            Record("caf\u00e9/" + "x" * 150, b"1", mtime_ns=MTIME_NS + 120_000_000)
        ),
        SOUND,
        SOUND,
    ),
    "ok-pax-length": (  # of 99 or 100 bytes, both right
        lambda: with_records(Record("\u00e9" + "x" * 88, b"1")),
        SOUND,
        SOUND,
    ),
    "ok-header-with-fraction": (
        lambda: with_header_record(mtime_ns=MTIME_NS + 500_000_000),
        SOUND,
        SOUND,
    ),
    "ok-tar-header-alone-in-frame": (lambda: in_frames(LONG, 512), SOUND, SOUND),
    "ok-path-control-character": (lambda: with_records(Record("a\x85b", b"1")), SOUND, SOUND),
    "ok-body-float": (lambda: one_group(packed=as_body(1.5)), SOUND, SOUND),
    "ok-mode": (lambda: with_records(changed(ONE, mode=0o600)), SOUND, SOUND),
    "ok-unknown-key": (lambda: one_group(body={"later": {"x": [1, None]}}), SOUND, SOUND),
    "ok-ignorable-flag": (lambda: one_group(preamble={"flags": 0x0001}), SOUND, SOUND),
    "empty-file": (lambda: b"", N, N),
    "cut-in-first-name": (lambda: whole()[:31], N, N),
    "cut-after-first-name": (lambda: whole()[:34], T, T),
    "cut-in-header-frame": (lambda: whole()[:700], T, T),
    "cut-in-seek-table": (lambda: whole()[:-1], T, T),
    "header-compressed": (lambda: whole(document=b"{}", header=zstd(HEADER_TAR)), N, N),
    "header-in-two-blocks": (
        lambda: whole(document=b"{}", header=in_two_blocks(HEADER_TAR)),
        C,
        C,
    ),
    "header-mode": (lambda: with_header_record(mode=0o600), C, C),
    "header-with-bytes-after": (
        lambda: whole(document=b"{}", header=raw(HEADER_TAR + bytes(512))),
        C,
        C,
    ),
    "not-a-bundle": (lambda: zstd(TAR + bytes(1024)), N, N),
    "skippable-frame-first": (
        lambda: whole(header=b"\x5b\x2a\x4d\x18\x04\x00\x00\x00test" + raw(ONE.tar())),
        N,
        N,
    ),
    "no-trailer": (lambda: whole(seek_table=None)[:-128], T, T),
    "cut-in-trailer": (lambda: whole(seek_table=None)[:-1], T, T),
    "cut-in-data": (lambda: whole()[:1400], T, T),
    "bytes-after-end": (lambda: whole() + b"\x00", T, C),
    "two-bundles-joined-by-cat": (lambda: whole() + whole(), C, C),
    "major-2": (lambda: whole(trailer={"major": 2}), U, U),
    "major-2-group": (lambda: one_group(preamble={"major": 2}), U, U),
    "critical-flag": (lambda: one_group(preamble={"flags": 0x8000}), U, U),
    "critical-key": (lambda: one_group(body={"!gone": []}), U, U),
    "require": (
        lambda: whole(document=b'{"require": ["volumes"]}', root={"require": ["volumes"]}),
        U,
        U,
    ),
    "prerequisites": (lambda: whole(document=b'{"prerequisites": [{"uuid": "x"}]}'), U, U),
    "signature": (
        lambda: whole(before_trailer=b"\x5b\x2a\x4d\x18\x08\x00\x00\x00MLBS\x01\x00\x00\x00"),
        U,
        U,
    ),
    "header-of-another-bundle": (lambda: whole(document=b'{"uuid": "%s"}' % (b"0" * 36)), C, C),
    "header-no-json": (lambda: with_document(b"not json"), C, C),
    "header-no-object": (lambda: with_document(b"[]"), C, C),
    "header-key-twice": (lambda: with_document(b'{"a": 1, "a": 1}'), C, C),
    "header-nan": (lambda: with_document(b'{"a": NaN}'), C, C),
    "header-deep": (lambda: with_document(b'{"a": %b}' % (b"[" * 64 + b"]" * 64)), C, C),
    "header-other-format": (lambda: with_document(b'{"format": "zip"}'), N, N),
    "header-version-2": (lambda: with_document(b'{"format_version": "2.0"}'), U, U),
    "header-version-a-number": (lambda: with_document(b'{"format_version": 1}'), U, U),
    "header-require-text": (lambda: with_document(b'{"require": "volumes"}'), C, C),
    "header-length-outside": (
        lambda: whole(root={"header": [1 << 20, bytes(32)]}),
        C,
        C,
    ),
    "critical-flag-in-root": (lambda: whole(root_preamble={"flags": 0x0100}), U, U),
    "page-flag-damaged": (lambda: two_groups({"patch": flip(15)}), C, C),
    "node-out-of-sequence": (
        lambda: Bundle(SEVEN, fanout=4, node_preamble={"sequence": 0}).build(),
        C,
        C,
    ),
    "root-out-of-sequence": (lambda: whole(root_preamble={"sequence": 1}), C, C),
    "empty-root-of-level-2": (lambda: Bundle([], root={"level": 2}).build(), C, C),
    "level-5": (lambda: whole(root={"level": 5}), L, L),
    "root-digest": (lambda: whole(trailer={"root_digest": bytes(32)}), C, C),
    "root-hash-name": (lambda: whole(root={"hash": "md5"}), U, U),
    "member-count": (lambda: whole(root={"n": 5}), C, C),
    "tar-length": (lambda: whole(root={"tar": 1024}), C, C),
    "page-checksum": (lambda: two_groups({"patch": bad_checksum}), C, C),
    "page-digest": (lambda: two_groups({"entry": {6: bytes(32)}}), C, C),
    "page-moved": (lambda: two_groups({}, {"preamble": {"offset": 5}}), C, C),
    "page-of-another-bundle": (lambda: two_groups({}, {"preamble": {"uuid": UUID(int=9)}}), C, C),
    "page-out-of-sequence": (lambda: two_groups({}, {"preamble": {"sequence": 7}}), C, C),
    "gap-between-groups": (lambda: two_groups({"gap": EOF_FRAME}), C, C),
    "no-end-of-archive": (lambda: whole(eof=b""), C, C),
    "end-of-archive-compressed": (lambda: whole(eof=zstd(bytes(1024))), C, C),
    "seek-table-wrong": (lambda: whole(seek_table=lambda t: [(1, 1)] * len(t)), C, SOUND),
    "seek-table-malformed": (lambda: whole()[:-5] + b"\x01" + whole()[-4:], C, C),
    "groups-overlap": (lambda: of_groups("ac", "b"), C, C),
    "groups-share-a-path": (lambda: of_groups("ab", "bc"), C, C),
    "groups-overlap-across-nodes": (lambda: of_groups(*"adbc", fanout=2), C, C),
    "groups-overlap-across-levels": (lambda: of_groups(*"acegbdfh", fanout=2), C, C),
    "group-and-part-share-a-path": (
        lambda: Bundle(
            [Group([Record("a"), Record("b", b"1234")])]
            + [part(Record("b", b"1234"), start, 2) for start in (0, 2)]
        ).build(),
        C,
        C,
    ),
    "groups-out-of-order": (lambda: Bundle([Group([LAST]), Group([ONE])]).build(), C, C),
    "frame-digest": (lambda: one_group(frame_digests=[bytes(32)]), C, C),
    "content-digest": (lambda: with_records(ONE, changed(TWO, digest=bytes(32)), LAST), C, C),
    "tar-name-differs": (
        lambda: with_records(
            ONE, changed(TWO, header=tar.render_header("x", 1600, MTIME_NS, 0o644, None))
        ),
        C,
        C,
    ),
    "tar-size-differs": (
        lambda: with_records(
            ONE, changed(TWO, header=tar.render_header("a/two.txt", 0, MTIME_NS, 0o644, None))
        ),
        C,
        C,
    ),
    "tar-padding": (lambda: with_records(changed(ONE, padding=b"x" * 508)), C, C),
    "tar-offset": (lambda: one_group(body={"tar": 512}), C, C),
    "tar-padding-alone-in-frame": (lambda: in_frames(ONE, 516), C, C),
    "tar-header-divided": (lambda: in_frames(LONG, 256), C, C),
    "record-gap": (lambda: one_group(contents=[TAR + bytes(512)]), C, C),
    "path-parent": (lambda: with_records(Record("a/../../etc/passwd", b"x")), P, P),
    "path-absolute": (lambda: with_records(Record("/etc/passwd", b"x")), P, P),
    "path-backslash": (lambda: with_records(Record("a\\b", b"x")), P, P),
    "path-not-nfc": (lambda: with_records(Record("e\u0301", b"x")), P, P),
    "path-device": (lambda: with_records(Record("a/NUL.txt", b"x")), P, P),
    "path-too-long": (lambda: with_records(Record("/".join(["x" * 255] * 17), b"x")), P, P),
    "path-component-too-long": (lambda: with_records(Record("x" * 256, b"x")), P, P),
    "path-not-utf-8": (lambda: with_records(ONE, body={"path": b"a/\xff"}), C, C),
    "path-header-directory": (lambda: with_records(Record(".mlbundle", b"x")), P, P),
    "path-below-header": (
        lambda: with_records(Record(".mlbundle/bundle.json/x", b"x")),
        C,
        C,
    ),
    "path-dot": (lambda: with_records(Record(".bashrc", b"x")), P, P),
    "path-twice": (lambda: with_records(ONE, ONE), C, C),
    "path-order": (lambda: with_records(TWO, ONE), C, C),
    "path-of-header": (lambda: with_records(Record(".mlbundle/bundle.json", b"{}")), C, C),
    "file-and-directory": (lambda: with_records(ONE, Record("a", b"x")), C, SOUND),
    "link-forward": (lambda: with_records(Record("a", TWO.content, link="b"), Record("b")), C, C),
    "link-missing": (lambda: with_records(ONE, changed(LINK, link="a/none.txt")), C, SOUND),
    "link-to-link": (
        lambda: with_records(TWO, LINK, changed(LINK, path="c", link="b/link.txt")),
        C,
        SOUND,
    ),
    "link-to-void": (
        lambda: Bundle(
            [
                Group([ONE]),
                *PARTS[:2],
                part(LONG, 2048, 1024, void=True),
                Group([Record("c", LONG.content, link="b/long.bin")]),
            ]
        ).build(),
        C,
        SOUND,
    ),
    "link-own-record-differs": (
        lambda: with_records(
            TWO,
            changed(LINK, header=tar.render_header("b/link.txt", 0, MTIME_NS, 0o644, "a/else.txt")),
        ),
        C,
        C,
    ),
    "link-other-time": (lambda: with_records(TWO, changed(LINK, mtime_ns=0)), C, SOUND),
    "link-other-digest": (lambda: with_records(TWO, changed(LINK, digest=bytes(32))), C, SOUND),
    "type-symlink": (lambda: with_records(ONE, changed(TWO, kind=b"2")), C, C),
    "mode-setuid": (lambda: with_records(changed(ONE, mode=0o4755)), C, C),
    "frame-states-other-size": (lambda: one_group(frames=[zstd(TAR + b"x")]), C, C),
    "frame-states-no-size": (lambda: one_group(frames=[unsized(TAR)]), C, C),
    "frame-window": (lambda: one_group(frames=[raw(TAR, WIDE_WINDOW)]), L, L),
    "frame-dictionary": (lambda: one_group(frames=[raw(TAR, DICTIONARY)]), C, C),
    "frame-with-another-behind": (lambda: one_group(frames=[zstd(TAR) + zstd(b"x")]), C, C),
    "frame-bomb": (
        lambda: with_records(Record("a", bytes(9 << 20))),
        L,
        L,
    ),
    "body-bomb": (lambda: one_group(compress=lambda _: zstd(bytes(65 << 20))), L, L),
    "body-states-no-size": (lambda: one_group(compress=unsized), C, C),
    "body-with-bytes-behind": (lambda: one_group(compress=lambda b: zstd(b) + b"x"), C, C),
    "body-window": (lambda: long_body(lambda body: raw(body, WIDE_WINDOW)), L, L),
    "body-dictionary": (lambda: long_body(lambda body: raw(body, DICTIONARY)), C, C),
    "body-many-values": (lambda: one_group(packed=as_body([{}] * 65_536)), L, L),
    "body-deep": (lambda: one_group(packed=as_body(b"\x91" * 16 + b"\x01")), L, L),
    "body-extension": (lambda: one_group(packed=as_body(msgpack.ExtType(5, b"xx"))), C, C),
    "body-single-float": (lambda: one_group(packed=as_body(b"\xca\x3f\xc0\x00\x00")), C, C),
    "body-cut": (lambda: one_group(packed=lambda b: msgpack.packb(b)[:-1]), C, C),
    "body-key-twice": (lambda: one_group(packed=nested_key), C, C),
    "body-long-integer": (lambda: one_group(packed=long_integer), C, C),
    "body-missing-key": (lambda: one_group(body={"size": None}), C, C),
    "void-without-span": (lambda: one_group(preamble={"flags": 0x0100}), C, C),
    "void-with-wrong-digest": (
        lambda: spanning(
            *PARTS[:2],
            replace(
                part(LONG, 2048, 1024, void=True),
                body={**PARTS[2].body, "digest": sha256(b"")},
            ),
        ),
        C,
        C,
    ),
    "part-missing-first": (lambda: spanning(*PARTS[1:]), C, C),
    "part-missing-middle": (lambda: spanning(PARTS[0], PARTS[2]), C, C),
    "part-missing-last": (lambda: spanning(*PARTS[:2]), C, C),
    "part-whole-digest": (
        lambda: spanning(
            *PARTS[:2], replace(PARTS[2], body={**PARTS[2].body, "digest": sha256(b"")})
        ),
        C,
        C,
    ),
    "path-empty": (lambda: with_records(Record("", b"x")), P, P),
    "path-slash-at-end": (lambda: with_records(Record("a/", b"x")), P, P),
    "path-two-slashes": (lambda: with_records(Record("a//b", b"x")), P, P),
    "path-dot-at-end": (lambda: with_records(Record("a/b.", b"x")), P, P),
    "path-space-at-end": (lambda: with_records(Record("a/b ", b"x")), P, P),
    "path-newline": (lambda: with_records(Record("a\nb", b"x")), P, P),
    "path-colon": (lambda: with_records(Record("a:b", b"x")), P, P),
    "link-to-itself": (lambda: with_records(TWO, changed(LINK, link="b/link.txt")), C, C),
    "link-leads-out": (lambda: with_records(TWO, changed(LINK, link="../etc/passwd")), P, P),
    "link-twice": (lambda: one_group(body={"link": [[2, "a/two.txt"]] * 2}), C, C),
    "link-of-no-member": (lambda: one_group(body={"link": [[9, "a/two.txt"]]}), C, C),
    "link-not-named": (lambda: one_group(body={"link": []}), C, C),
    "mode-sticky": (lambda: with_records(changed(ONE, mode=0o1644)), C, C),
    "mtime-before-1970": (
        lambda: one_group(body={"mtime": struct.pack("<4q", -1, 0, 0, 0)}),
        C,
        C,
    ),
    "size-of-one-member-only": (lambda: one_group(body={"size": bytes(8)}), C, C),
    "path-of-one-member-only": (lambda: one_group(body={"path": b"a/one.txt"}), C, C),
    "frame-of-member-outside": (
        lambda: one_group(body={"frame": struct.pack("<4I", 0, 0, 0, 7)}),
        C,
        C,
    ),
    "offset-of-member-outside": (
        lambda: one_group(body={"off": struct.pack("<4I", 0, 1024, 1 << 20, 1 << 21)}),
        C,
        C,
    ),
    "frame-without-bytes": (lambda: one_group(body={"csize": bytes(4)}), C, C),
    "frame-checksum": (lambda: one_group(frames=[flip(-1)(zstd(TAR))]), C, C),
    "frame-count": (lambda: one_group(preamble={"frame_count": 2}), C, C),
    "data-length": (lambda: one_group(preamble={"data_length": 1}), C, C),
    "tar-checksum": (
        lambda: with_records(ONE, changed(TWO, header=flip(150)(TWO.tar()[:512]))),
        C,
        C,
    ),
    "entry-offset": (lambda: two_groups({"entry": {2: 0}}), C, C),
    "entry-key": (lambda: two_groups({"entry": {0: b"zzz"}}), C, C),
    "entry-members": (lambda: two_groups({"entry": {5: 9}}), C, C),
    "group-count": (lambda: whole(root={"groups": 9}), C, C),
    "trailer-members": (lambda: whole(trailer={"members": 9}), C, C),
    "trailer-length": (lambda: whole(trailer={"length": 5}), C, C),
    "trailer-root-outside": (lambda: whole(trailer={"root_offset": 1 << 40}), C, C),
    "trailer-checksum": (lambda: flip(-40 - 9 * 8)(whole()), C, C),
    "header-json-cut": (lambda: with_document(b'{"format": "mlbundle"'), C, C),
    "header-not-utf-8": (lambda: with_document(b'{"a": "\xff"}'), C, C),
}


def write() -> None:
    from tests.vectors.test_vectors import outcome

    for old in [*HERE.glob("*.mlbundle"), *HERE.glob("*.json")]:
        old.unlink()
    wrong = []
    for name, (build, on_verify, on_stream) in VECTORS.items():
        data = build()
        (HERE / f"{name}.mlbundle").write_bytes(data)
        found = outcome(data)
        stated = (on_verify, on_stream)
        if (found["file"]["error"], found["stream"]["error"]) != stated:
            wrong.append(f"{name}: stated {stated}, found {found}")
        (HERE / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    write()
