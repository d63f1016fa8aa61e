"""spec/FORMAT.md says what the code does: constants, offsets, keys, classes and the example."""

from __future__ import annotations

import io
import re
import struct

import pytest
import zstandard

import mlflow_bundle.errors
from mlflow_bundle import archive
from mlflow_bundle.archive import DEFAULT_LIMITS, ArchiveReader, frames, index, limits, paths, tar
from tests.archive import listing
from tests.archive.bundles import read_stream

TEXT = listing.FORMAT_MD.read_text("utf-8")


def section(number: str) -> str:
    match = re.search(rf"^#+ {re.escape(number)}\.? .*?(?=^##)", TEXT, re.M | re.S)
    assert match, number
    return match[0]


def rows(number: str) -> list[list[str]]:
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        for line in section(number).splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def constants() -> list[tuple[str, int]]:
    found = []
    for row in rows("2.3"):
        number = re.match(r"(?:up to )?(\d[\d \u00a0]*)", row[1])
        if number:
            found.append((row[2], int(number[1].replace(" ", ""))))
    return found


@pytest.mark.parametrize(("name", "value"), constants())
def test_a_constant_in_the_document_is_the_codes(name: str, value: int) -> None:
    if name.startswith("Limits."):
        assert getattr(DEFAULT_LIMITS, name.partition(".")[2]) == value
        return
    modules = [module for module in (limits, index, frames) if hasattr(module, name)]
    assert modules, name
    assert getattr(modules[0], name) == value


def test_the_table_of_limits_is_complete() -> None:
    named = {name for name, _ in constants()}
    fields = {f"Limits.{name}" for name in type(DEFAULT_LIMITS).__dataclass_fields__}
    assert fields - named == {"Limits.members", "Limits.tar_bytes"}


@pytest.mark.parametrize(
    ("number", "layout", "size"),
    [("4.2", frames._PREAMBLE, 64), ("4.6", frames._TRAILER, 128)],
)
def test_byte_offsets_are_the_codes(number: str, layout: struct.Struct, size: int) -> None:
    offsets = []
    for row in rows(number):
        match = re.match(r"(\d+)(?:–(\d+))?$", row[0])
        if match:
            offsets.append((int(match[1]), int(match[2] or match[1]) + 1))
    codes = re.findall(r"\d*[A-Za-z]", layout.format)
    ends = [struct.calcsize("<" + "".join(codes[: n + 1])) for n in range(len(codes))]
    assert offsets == list(zip([0, *ends], ends, strict=False))
    assert ends[-1] == layout.size == size


def test_the_keys_of_pages_are_the_codes() -> None:
    assert {row[0] for row in rows("4.3")[1:]} == index._GROUP_KEYS
    keys = {row[0]: row[1] for row in rows("4.5") if len(row) == 4 and row[0] != "key"}
    assert keys.keys() == index._ROOT_KEYS
    assert {key for key, where in keys.items() if where == "both"} == index._NODE_KEYS


def test_the_classes_of_refusals_exist() -> None:
    for row in rows("2.4")[1:]:
        assert hasattr(mlflow_bundle.errors, row[0]) or hasattr(archive, row[0])


def test_magic_numbers_and_fixed_frames_are_the_codes() -> None:
    assert f"0x{frames.ZSTD_MAGIC:08X}" in section("4.1")
    assert f"0x{frames.SKIPPABLE_MAGIC:08X}" in section("4.2")
    assert f"0x{frames.SEEK_TABLE_MAGIC:08X}" in section("4.7")
    assert f"0x{frames.SEEKABLE_MAGIC:08X}" in section("4.7")
    assert frames.EOF_FRAME.hex(" ").upper() in section("4.4")
    assert f"0x{frames.FLAG_VOID:04x}" in section("4.3")
    assert f"at most {frames.MAX_SEEK_ENTRIES:,} entries".replace(",", " ") in section("4.7")
    assert f"{tar.MAX_MTIME_NS:,}".replace(",", " ") in section("4.3")
    assert f"{tar.MAX_OCTAL_SIZE + 1:,}".replace(",", " ") in section("5")
    assert f"over {paths.MAX_ESCAPED_COMPONENT_BYTES} bytes" in section("6.3")
    assert f"over {paths.MAX_ESCAPED_PATH_BYTES:,} bytes".replace(",", " ") in section("6.3")
    for name in ("con", "prn", "aux", "nul", "conin$", "conout$", "com", "lpt"):
        assert f"`{name}`" in section("6.2")


def test_the_version_is_the_codes() -> None:
    assert TEXT.startswith(f"# The .mlbundle file format, version {archive.FORMAT_VERSION}\n")
    assert f'`"{archive.FORMAT_NAME}"`' in section("4.1")


def test_the_example_is_a_bundle() -> None:
    data = listing.parse(listing.in_document())
    reader = ArchiveReader(io.BytesIO(data))
    assert (reader.uuid, reader.header) == (listing.EXAMPLE_UUID, b"{}")
    assert reader.read("a") == b"1\n"
    assert reader.verify().problems == []
    assert read_stream(data) == {"a": b"1\n"}


def test_the_example_is_what_the_writer_writes() -> None:
    if zstandard.ZSTD_VERSION != (1, 5, 7):
        pytest.skip("another version of zstd compresses to other bytes")
    assert listing.render(listing.example()) == listing.in_document()


def test_the_place_for_documents_is_marked() -> None:
    assert section("9").startswith("## 9. Documents\n\n<!-- documents:begin -->\n")
    assert "\n<!-- documents:end -->\n\n## 10. " in TEXT


def test_sections_that_code_cites_exist() -> None:
    package = listing.FORMAT_MD.parents[1] / "mlflow_bundle" / "archive"
    for module in package.glob("*.py"):
        for number in re.findall(r"FORMAT\.md (\d+(?:\.\d+)?)", module.read_text("utf-8")):
            assert section(number)
