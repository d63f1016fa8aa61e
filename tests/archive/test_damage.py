"""Whatever happens to the bytes: a right answer or a FormatError, never anything else."""

from __future__ import annotations

import contextlib
import io
import random

import pytest

from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.errors import FormatError, NotABundleError, TruncatedError
from tests.archive.bundles import READERS, SMALL, Members, bundle, flipped, noise, text

DATA = bundle(SMALL)
FLIPS = 1500


@pytest.mark.parametrize("reader", READERS)
def test_a_cut_at_any_byte_is_noticed(reader: str) -> None:
    whole = {len(DATA), DATA.rindex(b"\x5e\x2a\x4d\x18")}  # the seek table may be missing
    for length in range(len(DATA)):
        if length in whole:
            assert READERS[reader](DATA[:length]) == SMALL
            continue
        with pytest.raises(FormatError) as caught:
            READERS[reader](DATA[:length])
        # The name of the first member ends with byte 31.
        assert type(caught.value) is (NotABundleError if length < 32 else TruncatedError)


def answers(data: bytes) -> Members:
    """Read one by one, keeping what can be read."""
    contents: Members = {}
    reader = ArchiveReader(io.BytesIO(data))
    for path in SMALL:
        with contextlib.suppress(FormatError, KeyError):
            contents[path] = reader.read(path)
    with contextlib.suppress(FormatError):
        _ = reader.header
    reader.verify()
    return contents


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_gives_a_wrong_answer(seed: int) -> None:
    pick = random.Random(seed)
    refused = 0
    for _ in range(FLIPS // 3):
        data = flipped(DATA, pick.randrange(len(DATA)), 1 << pick.randrange(8))
        try:
            contents = answers(data)
        except FormatError:
            refused += 1
        else:
            assert contents.items() <= SMALL.items()
        try:
            contents = READERS["stream"](data)
        except FormatError:
            continue
        assert contents == SMALL
    assert refused


def test_every_flipped_bit_in_a_bundle_is_found_by_verify() -> None:
    end = DATA.rindex(b"\x5e\x2a\x4d\x18")
    for offset in range(0, end, 3):
        try:
            result = ArchiveReader(io.BytesIO(flipped(DATA, offset, 1 << offset % 8))).verify()
        except FormatError:
            continue
        assert result.problems, offset


def test_swapped_exchanged_and_repeated_pieces_are_noticed() -> None:
    members = {f"d/{n:05}": text(1500, n) for n in range(3000)} | {"z": noise(20 << 20)}
    data = bundle(members)
    entries = ArchiveReader(io.BytesIO(data))._root.entries
    spans = [(e.offset, e.offset + e.header_length + e.data_length) for e in entries]
    pieces = [data[start:end] for start, end in spans]
    head, tail = data[: spans[0][0]], data[spans[-1][1] :]
    other = bundle({path: content + b"x" for path, content in members.items()})
    variants = {
        "a group is missing": head + b"".join(pieces[1:]) + tail,
        "groups are exchanged": head + b"".join([pieces[1], pieces[0], *pieces[2:]]) + tail,
        "a group is repeated": head + b"".join([pieces[0], *pieces]) + tail,
        "parts are exchanged": head + b"".join([*pieces[:-2], pieces[-1], pieces[-2]]) + tail,
        "another bundle's end": data[: spans[1][1]] + other[spans[1][1] :],
    }
    for name, variant in variants.items():
        with pytest.raises(FormatError):
            READERS["stream"](variant)
        with contextlib.suppress(FormatError):
            assert ArchiveReader(io.BytesIO(variant)).verify().problems, name
