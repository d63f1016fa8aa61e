"""Changes one thing in a bundle and mends what vouches for it, so that deeper code is reached.

One in five mutations is of plain bytes and mends nothing. The others take the bundle apart
(`anatomy`), change a part and build it again (`tests.vectors.forge`): lengths, offsets, checksums
and digests fit afterwards, except where they are what was changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgpack

from tests.archive.bundles import flipped
from tests.archive.listing import USTAR
from tests.fuzz.anatomy import NO_ANATOMY, take_apart
from tests.vectors.forge import Bundle, Group, Record, part, raw, sha256, zstd
from tests.vectors.make_vectors import bad_checksum, flip, long_integer, nested_key, unsized

ChangeBytes = Callable[[bytes], bytes]
"""Returns other bytes, made of those given."""

PLAIN_SHARE = 0.2
NUMBERS = [0, 1, 2, 3, 255, 256, 511, 512, 513, 65_535, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**63]
TEXTS = [
    "",
    ".",
    "..",
    "/",
    "a/../b",
    "a//b",
    "con",
    "NUL.txt",
    "a:b",
    "a\\b",
    "\u0301",
    "e\u0301",
    "x" * 256,
    "~",
    "%2e",
    "%00",
    "%7E",
    " ",
    "manifest.json",
    "NaN",
    "-Infinity",
    "1",
    "9" * 19,
    "\u0661",
    "models:/m-1",
    "runs:/a/model",
    ".mlbundle/bundle.json",
    "artifacts",
]
JSON_TEXTS = [
    "null",
    "[]",
    "{}",
    "true",
    "-1",
    "1.5",
    "1e400",
    "-0",
    "9223372036854775807",
    "9223372036854775808",
    "1" + "0" * 5000,
    "[" * 2000,
    '"\\ud800"',
    '"\\u0000"',
    '"NaN"',
    "NaN",
    '{"a": 1, "a": 2}',
    '["a", "a"]',
    '"items/000001.json"',
    '"../../run.json"',
]
GROUP_KEYS = (
    *("n", "path", "type", "mode", "mtime", "size", "frame", "off", "csize", "usize"),
    *("tar", "link", "span", "digest", "later", "!later"),
)
COLUMNS = {"mode": 2, "mtime": 8, "size": 8, "frame": 4, "off": 4, "csize": 4, "usize": 4}
DERIVED = {"n", "path", "type", "mode", "mtime", "size", "frame", "off", "csize", "usize", "link"}
ROOT_KEYS = ("level", "entries", "n", "groups", "tar", "hash", "header", "require", "later")
TRAILER_KEYS = (
    *("major", "length", "root_offset", "root_length", "directory_offset"),
    *("directory_length", "root_digest", "members"),
)
PREAMBLE_KEYS = ("sequence", "frame_count", "offset", "data_length", "flags", "major")


def mutate(data: bytes, limit_bytes: int, seed: int, change_bytes: ChangeBytes) -> bytes:
    """Return a mutation of a bundle.

    Args:
        data: A bundle, or bytes that once were one.
        limit_bytes: The most to return.
        seed: Determines the choices.
        change_bytes: How bytes without structure are changed.
    """
    rng = random.Random(seed)
    if rng.random() >= PLAIN_SHARE:
        try:
            built = _Mutator(take_apart(data), rng, change_bytes).run()
        except NO_ANATOMY:
            pass  # no structure, or a part that cannot even be written
        else:
            if len(built) <= limit_bytes:
                return built
    return change_bytes(data)[:limit_bytes]


class _Mutator:
    def __init__(self, bundle: Bundle, rng: random.Random, change_bytes: ChangeBytes) -> None:
        self._bundle = bundle
        self._rng = rng
        self._change_bytes = change_bytes

    def run(self) -> bytes:
        if not self._bundle.groups:
            self._bundle.groups.append(Group([Record("a", b"1")]))
        self._bundle.fanout = self._rng.choice([512, 512, 512, 2])
        changes: list[Callable[[], None]] = [
            *[self._document] * 5,
            *[self._content, self._record, self._body] * 3,
            *[self._frames, self._preamble, self._entry, self._root, self._trailer],
            *[self._groups, self._parts, self._tar_header, self._body_encoding, self._header],
        ]
        for _ in range(self._rng.choice([1, 1, 1, 2, 3])):
            self._rng.choice(changes)()
        return self._bundle.build()

    def _group(self) -> Group:
        return self._rng.choice(self._bundle.groups)

    def _number(self, old: int = 0) -> int:
        near = [old - 1, old + 1, old * 2, old + 512, old ^ 1 << self._rng.randrange(32)]
        return self._rng.choice([*NUMBERS, *near, self._rng.getrandbits(64)])

    def _text(self, old: str = "") -> str:
        if self._rng.random() < 0.5:
            return self._change_bytes(old.encode()).decode("utf-8", "replace")
        other = self._rng.choice(TEXTS)
        return self._rng.choice([other, f"{old}/{other}", old + other, old[:-1]])

    def _value(self, depth: int = 0) -> Any:
        """Anything that msgpack holds."""
        if depth < 3 and self._rng.random() < 0.3:
            items = [self._value(depth + 1) for _ in range(self._rng.randrange(4))]
            return items if self._rng.random() < 0.5 else {str(n): v for n, v in enumerate(items)}
        octets = self._change_bytes(bytes(self._rng.randrange(40)))
        number = self._number() % 2**64
        return self._rng.choice([number, octets, self._text(), None, True, 1.5, -1])

    # Group headers

    def _body(self) -> None:
        group = self._group()
        key = self._rng.choice(GROUP_KEYS)
        old = group.body.get(key)
        if key in COLUMNS and isinstance(old, bytes) and old and self._rng.random() < 0.7:
            width = COLUMNS[key]
            at = self._rng.randrange(len(old) // width) * width
            number = int.from_bytes(old[at : at + width], "little")
            changed = (self._number(number) % 2 ** (8 * width)).to_bytes(width, "little")
            group.body[key] = old[:at] + changed + old[at + width :]
        elif isinstance(old, bytes) and self._rng.random() < 0.7:
            group.body[key] = self._change_bytes(old)
        elif isinstance(old, int):
            group.body[key] = self._number(old) % 2**64
        elif isinstance(old, list) and old and self._rng.random() < 0.7:
            changed_list = list(old)
            changed_list[self._rng.randrange(len(old))] = self._value()
            group.body[key] = changed_list
        elif self._rng.random() < 0.2:
            group.body[key] = None
        else:
            group.body[key] = self._value()

    def _body_encoding(self) -> None:
        group = self._group()
        if self._rng.random() < 0.5:
            group.packed = self._rng.choice(
                [
                    nested_key,
                    long_integer,
                    lambda body: self._change_bytes(msgpack.packb(body)),
                    lambda body: msgpack.packb(body) + b"\xc0",
                    lambda body: msgpack.packb(self._value()),
                ]
            )
        else:
            group.compress = self._rng.choice(
                [raw, unsized, lambda body: self._change_bytes(zstd(body)), lambda b: zstd(b) * 2]
            )

    def _preamble(self) -> None:
        key = self._rng.choice(PREAMBLE_KEYS)
        width = {"flags": 16, "major": 8, "sequence": 32, "frame_count": 32}.get(key, 64)
        value = 0x0100 if key == "flags" and self._rng.random() < 0.5 else self._number()
        changes = {key: value % 2**width}
        target = self._rng.randrange(5)
        if target == 0:
            self._bundle.root_preamble = changes
        elif target == 1:
            self._bundle.node_preamble = changes
        elif target == 2:
            group = self._group()
            group.patch = self._rng.choice([bad_checksum, flip(self._rng.randrange(400))])
        else:
            self._group().preamble.update(changes)

    # Members

    def _derive(self, group: Group) -> None:
        """Let everything that follows from a group's records follow from them again."""
        group.body = {key: value for key, value in group.body.items() if key not in DERIVED}
        group.frames = group.contents = group.frame_digests = None

    def _plain_group(self) -> Group | None:
        plain = [g for g in self._bundle.groups if "span" not in g.body]
        return self._rng.choice(plain) if plain else None

    def _content(self) -> None:
        """Change the content of a member, as JSON where it is."""
        group = self._plain_group()
        if group is None:
            self._frames()
            return
        number = self._rng.randrange(len(group.records))
        record = group.records[number]
        content = self._json_or_bytes(record.content)
        group.records[number] = replace(record, content=content, digest=None)
        self._derive(group)

    def _record(self) -> None:
        group = self._plain_group()
        if group is None:
            return
        records = group.records
        number = self._rng.randrange(len(records))
        record = records[number]
        choice = self._rng.randrange(9)
        if choice == 0:
            records[number] = replace(record, path=self._text(record.path))
        elif choice == 1:
            target = self._rng.choice(records[: number + 1])
            records[number] = replace(
                record, link=target.path, content=target.content, digest=target.digest
            )
        elif choice == 2:
            records[number] = replace(record, link=self._text(record.link or ""))
        elif choice == 3:
            records[number] = replace(record, mode=self._number(record.mode) % 2**16)
        elif choice == 4:
            time = self._rng.choice([self._number(record.mtime_ns) % 2**62, record.mtime_ns + 5])
            records[number] = replace(record, mtime_ns=time)
        elif choice == 5:
            padding = self._change_bytes(bytes(-len(record.content) % 512))
            records[number] = replace(record, padding=padding)
        elif choice == 6:
            records[number] = replace(record, digest=sha256(b"other"))
        elif choice == 7:
            records.insert(number + 1, replace(record, path=record.path + self._text()))
        elif len(records) > 1:
            del records[number]
        self._derive(group)

    def _tar_header(self) -> None:
        """Change a field of a tar header; its checksum fits in half of the cases."""
        group = self._plain_group()
        if group is None:
            return
        number = self._rng.randrange(len(group.records))
        record = replace(group.records[number], header=None)
        header = bytearray(record.tar()[:512])
        width, name = self._rng.choice(USTAR)
        at = 0
        for length, other in USTAR:
            if other == name:
                break
            at += length
        field = self._change_bytes(bytes(header[at : at + width]))[:width]
        header[at : at + width] = field.ljust(width, b"\x00")
        if self._rng.random() < 0.5:
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\x00 " % sum(header)
        group.records[number] = replace(record, header=bytes(header))
        self._derive(group)

    def _frames(self) -> None:
        """Change a data frame, or what it decompresses to; or divide the stream otherwise."""
        group = self._group()
        if group.contents is None:
            group.contents = [b"".join([record.tar() for record in group.records])]
        contents = group.contents
        number = self._rng.randrange(len(contents))
        choice = self._rng.randrange(5)
        group.frame_digests = None
        group.body.pop("csize", None)
        if choice == 0:
            frames = group.frames or [zstd(content) for content in contents]
            frames[number] = self._change_bytes(frames[number])
            group.frames = frames
            return
        group.frames = None
        if choice == 1:
            contents[number] = self._change_bytes(contents[number])
            group.body.pop("usize", None)
        elif choice == 2:
            cut = self._rng.choice([512, 1024, self._rng.randrange(len(contents[number]) + 1)])
            contents[number : number + 1] = [contents[number][:cut], contents[number][cut:]]
            group.body.pop("usize", None)
        elif choice == 3:
            group.frames = [self._rng.choice([zstd, raw, unsized])(c) for c in contents]
        else:
            group.frame_digests = [sha256(b"other")] * len(contents)

    def _parts(self) -> None:
        """Make parts of a member, or the parts of another member's, or void."""
        groups = self._bundle.groups
        number = self._rng.randrange(len(groups))
        record = groups[number].records[0]
        run = [number]
        if "span" in groups[number].body:
            run = [n for n, g in enumerate(groups) if g.records[0].path == record.path]
        content = b"".join([groups[n].records[0].content for n in run])
        if len(content) < 2 or record.link is not None:
            content = bytes(range(200))
        count = self._rng.randrange(1, 4)
        cuts = sorted({self._rng.randrange(1, len(content)) for _ in range(count)})
        whole = Record(record.path, content, mtime_ns=record.mtime_ns)
        parts = [part(whole, a, b - a) for a, b in pairwise([0, *cuts, len(content)])]
        if self._rng.random() < 0.3:
            parts[-1].preamble["flags"] = 0x0100
        if self._rng.random() < 0.2:
            parts[-1].body["digest"] = sha256(b"other")
        if self._rng.random() < 0.3:
            del parts[self._rng.randrange(len(parts))]
        rest = groups[number].records[1:] if len(run) == 1 else []
        following = []
        if rest:
            following = [Group(rest)]
        groups[run[0] : run[-1] + 1] = [*parts, *following]

    def _groups(self) -> None:
        groups = self._bundle.groups
        number = self._rng.randrange(len(groups))
        choice = self._rng.randrange(5)
        if choice == 0 and len(groups) > 1:
            del groups[number]
        elif choice == 1:
            groups.insert(self._rng.randrange(len(groups) + 1), replace(groups[number]))
        elif choice == 2:
            other = self._rng.randrange(len(groups))
            groups[number], groups[other] = groups[other], groups[number]
        elif choice == 3:
            groups[number].gap = self._change_bytes(bytes(self._rng.randrange(80)))
        elif "span" not in groups[number].body and len(groups[number].records) > 1:
            records = groups[number].records
            cut = self._rng.randrange(1, len(records))
            groups[number : number + 1] = [Group(records[:cut]), Group(records[cut:])]

    # The rest

    def _entry(self) -> None:
        self._group().entry[self._rng.randrange(7)] = self._value()

    def _root(self) -> None:
        self._bundle.root[self._rng.choice(ROOT_KEYS)] = self._value()

    def _trailer(self) -> None:
        choice = self._rng.randrange(5)
        if choice == 0:
            self._bundle.before_trailer = self._change_bytes(b"")
        elif choice == 1:
            self._bundle.eof = self._change_bytes(self._bundle.eof)
        elif choice == 2:
            self._bundle.seek_table = None
        elif choice == 3:
            self._bundle.seek_table = lambda entries: entries[self._rng.randrange(2) :] * 2
        else:
            key = self._rng.choice(TRAILER_KEYS)
            digest = self._change_bytes(sha256(b""))[:32]
            number = self._number() % 2 ** (8 if key == "major" else 64)
            self._bundle.trailer = {key: digest if key == "root_digest" else number}

    def _header(self) -> None:
        self._bundle.document = self._json_or_bytes(self._bundle.document)
        if self._rng.random() < 0.2:
            record = Record(".mlbundle/bundle.json", self._bundle.document).tar()
            self._bundle.header = raw(flipped(record, self._rng.randrange(len(record))))

    def _document(self) -> None:
        """Change the JSON of a member."""
        group = self._plain_group()
        if group is None:
            return
        numbers = [n for n, r in enumerate(group.records) if r.path.endswith(".json")]
        if not numbers:
            self._content()
            return
        number = self._rng.choice(numbers)
        record = group.records[number]
        content = self._json_or_bytes(record.content)
        group.records[number] = replace(record, content=content, digest=None)
        self._derive(group)

    def _json_or_bytes(self, content: bytes) -> bytes:
        if self._rng.random() < 0.15:
            return self._change_bytes(content)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            return self._change_bytes(content)
        return self._changed_json(document)

    def _changed_json(self, document: Any) -> bytes:
        """Replace, remove, repeat or add one value somewhere in a document."""
        places = list(_places(document))
        if not places:
            return self._rng.choice(JSON_TEXTS).encode()
        holder, key = self._rng.choice(places)
        old = holder[key]
        placeholder = "\ufffd placeholder"
        choice = self._rng.randrange(8)
        if choice == 0:
            del holder[key]
        elif choice == 1 and isinstance(holder, list):
            holder.insert(0, old)
        elif choice == 1:
            holder[self._text(str(key))] = old
        elif choice == 2:
            other_holder, other_key = self._rng.choice(places)
            holder[key] = json.loads(json.dumps(other_holder[other_key]))
        elif choice == 3 and isinstance(old, str):
            holder[key] = self._text(old)
        elif choice == 4 and isinstance(old, int):
            holder[key] = self._number(old)
        elif choice == 5 and isinstance(old, list):
            holder[key] = old * self._rng.randrange(3)
        elif choice == 6 and isinstance(holder, dict):
            return json.dumps(document).encode()[:-1] + b", %b: %b}" % (
                json.dumps(str(key)).encode(),
                self._rng.choice(JSON_TEXTS).encode(),
            )
        else:
            holder[key] = placeholder
        text = json.dumps(document)
        return text.replace(json.dumps(placeholder), self._rng.choice(JSON_TEXTS)).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with every key or position in it."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, (dict, list)):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys]
    return found
