"""Bundles whose checksums and digests fit and whose parts are nonsense.

Bytes changed at random seldom get beyond the first checksum; here a part is changed first and
everything that vouches for it is computed afterwards. ``FORGED_EXAMPLES=100000`` makes as many.
"""

from __future__ import annotations

import contextlib
import io
import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_bundle.archive import ArchiveReader, VoidMemberError, recover
from mlflow_bundle.errors import FormatError
from tests.archive.bundles import HEADER, READERS
from tests.vectors.forge import Bundle, Group, Record, part

EXAMPLES = int(os.environ.get("FORGED_EXAMPLES", "400"))

LONG = Record("b/long.bin", bytes(range(256)) * 12)
TWO = Record("a/two.txt", b"0123456789abcdef" * 100)
RECORDS = [Record("a/one.txt", b"one\n"), TWO, Record("b/link.txt", TWO.content, link=TWO.path)]

NUMBERS = st.one_of(
    st.integers(0, 5), st.sampled_from([2**n + d for n in (8, 16, 31, 32, 63) for d in (-1, 0)])
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.binary(max_size=40), st.text(max_size=8), st.none(), st.booleans()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
COLUMNS = st.builds(
    lambda numbers, width: b"".join(n.to_bytes(8, "little")[:width] for n in numbers),
    st.lists(NUMBERS, max_size=5),
    st.sampled_from([1, 2, 4, 8]),
)
GROUP_KEYS = ("n", "path", "type", "mode", "mtime", "size", "frame", "off", "csize", "usize", "tar")
BODY = st.dictionaries(
    st.sampled_from([*GROUP_KEYS, "link", "span", "digest", "later", "!later"]),
    VALUES | COLUMNS,
    max_size=2,
)
PREAMBLE = st.dictionaries(
    st.sampled_from(["sequence", "frame_count", "offset", "data_length"]),
    st.integers(0, 2**31),
    max_size=1,
)
ROOT = st.dictionaries(
    st.sampled_from(["level", "entries", "n", "groups", "tar", "hash", "header", "require"]),
    VALUES,
    max_size=2,
)
ENTRIES = st.dictionaries(st.integers(0, 6), VALUES, max_size=2)
PATHS = st.text(st.sampled_from("a./\\:\x00\u0301e~ N"), max_size=6)
LINKS = st.none() | PATHS


@st.composite
def bundles(draw: st.DrawFn) -> Bundle:
    """A bundle of three groups, some parts of which are anything."""
    named = [Record(draw(PATHS), b"x", link=draw(LINKS))] if draw(st.booleans()) else []
    groups = [
        Group([*RECORDS, *named], body=draw(BODY), preamble=draw(PREAMBLE), entry=draw(ENTRIES)),
        part(LONG, 0, 1024),
        part(LONG, 1024, 2048),
        Group([Record("z.json", b"{}")], body=draw(BODY), entry=draw(ENTRIES)),
    ]
    if draw(st.booleans()):
        del groups[draw(st.integers(0, 3))]
    return Bundle(
        groups,
        root=draw(ROOT),
        fanout=draw(st.sampled_from([2, 512])),
        document=draw(
            st.sampled_from([b"{}", b"[]", b'{"require": 1}', b'{"format": "mlbundle"}'])
        ),
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(bundles())
def test_a_forged_bundle_is_read_or_refused_by_every_reader(forged: Bundle) -> None:
    try:
        data = forged.build()
    except Exception:
        return  # what cannot even be written: a number too large for its place
    for read in READERS.values():
        with contextlib.suppress(FormatError, VoidMemberError):
            read(data)
    with contextlib.suppress(FormatError):
        reader = ArchiveReader(io.BytesIO(data))
        reader.verify()
        for member in reader.iter_members():
            with contextlib.suppress(FormatError):
                assert len(reader.read(member)) == member.size
    with contextlib.suppress(FormatError):
        saved = io.BytesIO()
        recover(io.BytesIO(data), saved, header=HEADER)
        assert ArchiveReader(saved).verify().problems == []
