from __future__ import annotations

import io
import threading
from uuid import UUID

import pytest
import zstandard

from mlflow_bundle.archive import frames
from mlflow_bundle.archive.limits import DEFAULT_LIMITS, Limits
from mlflow_bundle.errors import (
    CorruptFrameError,
    LimitError,
    NotABundleError,
    TruncatedError,
    UnsupportedVersionError,
)
from tests.archive.bundles import flipped, noise, text

UUID_1 = UUID(int=1)


@pytest.mark.parametrize("size", [256, 1024, 65_791, 65_792, 131_072, 131_073, 400_000])
def test_a_raw_frame_is_read_by_zstd_and_by_us(size: int) -> None:
    content = noise(size)
    frame = frames.raw_frame(content)
    assert zstandard.ZstdDecompressor().decompress(frame) == content
    assert frames.raw_frame_length(frame[:9]) == (size, len(frame))
    assert frames.parse_raw_frame(frame) == content
    assert frames.decompress_frame(frame, size) == content


def test_the_end_of_archive_frame_holds_1024_zeros() -> None:
    assert zstandard.ZstdDecompressor().decompress(frames.EOF_FRAME) == bytes(1024)
    assert len(frames.EOF_FRAME) == 11


def test_incompressible_content_is_stored_and_readable_in_place() -> None:
    content = noise(2 << 20)
    assert content[:100_000] in frames.compress_frame(content, 3)
    assert len(frames.compress_frame(text(2 << 20), 3)) < 1 << 20


def test_a_half_compressible_frame_is_compressed() -> None:
    content = noise(1 << 20) + text(1 << 20)
    assert len(frames.compress_frame(content, 3)) < 1.3 * (1 << 20)


def test_the_same_content_gives_the_same_frame_in_every_thread() -> None:
    results: list[bytes] = []
    content = text(600_000)
    threads = [
        threading.Thread(target=lambda: results.append(frames.compress_frame(content, 3)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1


def frame_of(content: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)  # type: ignore[arg-type]


BAD_FRAMES = {
    "another size": (frame_of(b"abc"), 4, "states 3 bytes"),
    "no size": (zstandard.ZstdCompressor(write_content_size=False).compress(b"abc"), 3, "states"),
    "two frames": (frame_of(b"abc") + frame_of(b"abc"), 3, "does not decompress"),
    "bytes after it": (frame_of(b"abc") + b"x", 3, "does not decompress"),
    "cut": (frame_of(b"abc")[:-1], 3, "does not decompress"),
    "skippable": (frames.encode_seek_table([]), 9, "expected a zstd data frame"),
    "empty": (b"", 0, "expected a zstd data frame"),
    "size that lies": (b"\x28\xb5\x2f\xfd\x20\xff\x0b\x00\x00a", 255, "does not decompress"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_bad_frame_is_refused(case: str) -> None:
    frame, size, message = BAD_FRAMES[case]
    with pytest.raises(CorruptFrameError, match=message):
        frames.decompress_frame(frame, size)


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    samples = [text(300, n) for n in range(200)]
    dictionary = zstandard.train_dictionary(4096, samples)
    frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(b"abc")
    with pytest.raises(CorruptFrameError, match="dictionary"):
        frames.decompress_frame(frame, 3)


def test_a_frame_with_a_large_window_is_refused() -> None:
    options = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    out = io.BytesIO()
    compressor = zstandard.ZstdCompressor(compression_params=options)
    with compressor.stream_writer(out, size=9 << 20, closefd=False) as writer:
        writer.write(bytes(9 << 20))
    with pytest.raises(LimitError, match="window"):
        frames.decompress_frame(out.getvalue(), 9 << 20)
    huge = bytes.fromhex("28b52ffde00000000000000010010000")
    with pytest.raises(LimitError, match="window"):
        frames.decompress_frame(huge, 2**60)


def page(**changes: object) -> bytes:
    fields: dict[str, object] = {"uuid": UUID_1, "sequence": 3, "offset": 77, **changes}
    return frames.encode_page(
        frames.NODE_TAG,
        frames.compress_frame(b"body", 3),
        b"digests",
        **fields,  # type: ignore[arg-type]
    )


def test_a_page_round_trips() -> None:
    preamble, body, digests = frames.parse_page(page(), at=77, limits=DEFAULT_LIMITS)
    assert (body, digests) == (b"body", b"digests")
    assert (preamble.uuid, preamble.sequence, preamble.offset) == (UUID_1, 3, 77)
    assert preamble.length == len(page())


def test_every_flipped_bit_of_a_page_is_noticed() -> None:
    whole = page()
    for offset in range(len(whole)):
        for bit in range(8):
            with pytest.raises((CorruptFrameError, LimitError, UnsupportedVersionError)):
                frames.parse_page(flipped(whole, offset, 1 << bit), at=77, limits=DEFAULT_LIMITS)


def test_a_damaged_flag_is_damage_and_no_later_format() -> None:
    for bit in range(8):
        with pytest.raises(CorruptFrameError, match="checksum"):
            frames.parse_page(flipped(page(), 15, 1 << bit), at=77, limits=DEFAULT_LIMITS)


def test_a_page_shorter_than_a_preamble_is_refused() -> None:
    for length in range(64):
        with pytest.raises(CorruptFrameError, match="shorter than its preamble"):
            frames.check_page(page()[:length], at=77, limits=DEFAULT_LIMITS)


def test_a_page_that_was_moved_is_refused() -> None:
    with pytest.raises(CorruptFrameError, match="says that it lies at byte 77"):
        frames.parse_page(page(), at=78, limits=DEFAULT_LIMITS)


def test_a_page_beyond_the_limits_is_refused_before_its_body_is_read() -> None:
    with pytest.raises(LimitError, match="page of"):
        frames.parse_preamble(page()[:64], at=77, limits=Limits(page_bytes=64))
    with pytest.raises(LimitError, match="frames"):
        frames.check_page(page(frame_count=5000), at=77, limits=DEFAULT_LIMITS)


def test_critical_flags_are_refused_and_ignorable_ones_pass() -> None:
    with pytest.raises(UnsupportedVersionError, match="critical flag"):
        frames.parse_page(page(flags=0x8000), at=77, limits=DEFAULT_LIMITS)
    frames.parse_page(page(flags=0x0080), at=77, limits=DEFAULT_LIMITS)


TRAILER = frames.Trailer(
    uuid=UUID_1,
    length=1128,
    root_offset=800,
    root_length=200,
    directory_offset=700,
    directory_length=100,
    root_digest=bytes(range(32)),
    members=9,
)


def test_the_trailer_round_trips() -> None:
    data = frames.encode_trailer(TRAILER)
    assert len(data) == 128
    assert frames.parse_trailer(data, at=1000, limits=DEFAULT_LIMITS) == TRAILER


def test_every_flipped_bit_of_the_trailer_is_noticed() -> None:
    data = frames.encode_trailer(TRAILER)
    for offset in range(128):
        for bit in range(8):
            with pytest.raises((CorruptFrameError, TruncatedError, UnsupportedVersionError)):
                frames.parse_trailer(
                    flipped(data, offset, 1 << bit), at=1000, limits=DEFAULT_LIMITS
                )


def test_a_trailer_at_another_place_is_refused() -> None:
    with pytest.raises(CorruptFrameError, match="end of 1128 bytes"):
        frames.parse_trailer(frames.encode_trailer(TRAILER), at=1001, limits=DEFAULT_LIMITS)


def test_more_members_than_allowed_are_refused_by_the_trailer() -> None:
    with pytest.raises(LimitError, match="9 members"):
        frames.parse_trailer(frames.encode_trailer(TRAILER), at=1000, limits=Limits(members=8))


def test_the_seek_table_round_trips() -> None:
    entries = [(10, 20), (30, 0)]
    table = frames.encode_seek_table(entries)
    assert frames.parse_seek_table(table, at=0) == entries
    assert frames.find_trailer(bytes(128) + table, 128 + len(table)) == 0


def test_a_beginning_of_a_seek_table_is_told_from_other_bytes() -> None:
    table = frames.encode_seek_table([(10, 20), (30, 0)])
    assert all(frames.is_cut_seek_table(table[:length]) for length in range(len(table)))
    assert not any(map(frames.is_cut_seek_table, (table, table + b"x", b"x", b"x" * 20)))


def test_a_seek_table_longer_than_a_bundles_is_refused() -> None:
    table = frames.encode_seek_table([(1, 1)] * (frames.MAX_SEEK_ENTRIES + 1))
    with pytest.raises(CorruptFrameError, match="longer than a bundle's"):
        frames.parse_seek_table(table, at=0)


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 17])
def test_a_seek_table_that_was_cut_is_refused(cut: int) -> None:
    table = frames.encode_seek_table([(10, 20), (30, 0)])
    with pytest.raises(CorruptFrameError, match="seek table"):
        frames.parse_seek_table(table[:-cut], at=0)


@pytest.mark.parametrize(
    "start", [b"", b"tar archive, really", b"\x28\xb5\x2f\xfd\x24\x00\x01\x02\x03"]
)
def test_another_file_is_no_bundle(start: bytes) -> None:
    with pytest.raises(NotABundleError, match="not a bundle"):
        frames.raw_frame_length(start)
