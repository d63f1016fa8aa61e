"""FORMAT.md section 9 names every key of every document, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlflow_bundle import entities, provenance, report
from mlflow_bundle.bundles import documents, parts
from mlflow_bundle.kinds import KINDS, Kind, NoItem

SPEC = (Path(__file__).parent.parent / "spec" / "FORMAT.md").read_text(encoding="utf-8")


def section(number: str) -> str:
    """Text of one subsection of section 9."""
    match = re.search(rf"^### {re.escape(number)} .*?(?=^### |^<!--)", SPEC, re.S | re.M)
    assert match, f"FORMAT.md has no section {number}"
    return match[0]


def document_section(kind: Kind) -> str:
    """Number of the section of the document of a kind."""
    match = re.search(rf"^### ([\d.]+) .*`{re.escape(kind.document)}`", SPEC, re.M)
    assert match, f"FORMAT.md has no section for {kind.document}"
    return match[1]


def tables(number: str) -> list[list[tuple[str, str]]]:
    """Key and type of each row, table by table."""
    found: list[list[tuple[str, str]]] = []
    for line in section(number).splitlines():
        if line.startswith(("| key |", "| kind |")):
            found.append([])
        elif match := re.match(r"\| `(\w+)` \| ([^|]+) \|", line):
            found[-1].append((match[1], match[2].strip()))
    return found


@pytest.mark.parametrize(
    ("number", "index", "record"),
    [
        ("9.2", 0, documents.BundleHeader),
        ("9.3", 0, documents.ExportInfo),
        ("9.4", 0, documents.ArtifactSummary),
        ("9.5", 0, documents.ExperimentsDocument),
        ("9.6", 0, documents.ExperimentDocument),
        ("9.6", 1, entities.Experiment),
        ("9.7", 0, documents.RunDocument),
        ("9.7", 1, entities.RunInfo),
        ("9.7", 2, documents.MetricPart),
        ("9.8", 0, documents.LoggedModelDocument),
        ("9.8", 1, entities.LoggedModel),
        ("9.9", 0, documents.RegistryDocument),
        ("9.10", 0, documents.RegisteredModelDocument),
        ("9.10", 1, documents.RegisteredModelBody),
        ("9.10", 2, documents.VersionDocument),
        ("9.11", 0, documents.ManifestDocument),
        ("9.13", 1, documents.PlainDocument),
        *((document_section(kind), 0, kind.record) for kind in KINDS.values()),
    ],
)
def test_a_table_has_the_keys_of_its_record_and_says_which_are_required(
    number: str, index: int, record: type[msgspec.Struct]
) -> None:
    written = dict(tables(number)[index])
    fields = {field.encode_name: field for field in msgspec.structs.fields(record)}
    assert written.keys() == fields.keys()
    required = {key for key, kind in written.items() if "required" in kind}
    assert required == {key for key, field in fields.items() if field.required}
    nullable = {key for key, kind in written.items() if "or null" in kind}
    assert nullable == {key for key, field in fields.items() if _takes_none(field.type)}


def _takes_none(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


@pytest.mark.parametrize(
    ("number", "record"),
    [
        ("9.2", documents.HeaderSource),
        ("9.5", documents.ExperimentEntry),
        ("9.5", documents.ExperimentsInfo),
        ("9.6", documents.ExperimentExportInfo),
        ("9.7", documents.MetricPoint),
        ("9.7", entities.RunInputs),
        ("9.7", entities.RunOutputs),
        ("9.7", entities.DatasetInput),
        ("9.7", entities.Dataset),
        ("9.7", entities.ModelOutput),
        ("9.8", entities.LoggedModelMetric),
        ("9.9", documents.RegistryInfo),
        ("9.10", documents.AliasDocument),
        ("9.11", report.Loss),
    ],
)
def test_a_section_names_every_key_of_its_inner_objects(
    number: str, record: type[msgspec.Struct]
) -> None:
    inherited = set(documents.ExportInfo.__struct_fields__)
    for field in msgspec.structs.fields(record):
        if field.encode_name not in inherited:
            assert re.search(rf"\b{field.encode_name}\b", section(number)), field.encode_name


def test_the_table_of_kinds_has_every_kind_and_its_place() -> None:
    written = {
        (match[1], match[2], match[3])
        for match in re.finditer(
            r"^\| `(\w+)` \| `([^`]+)` \| `([\w.]+)` \(", section("9.13"), re.M
        )
    }
    above = {"experiment": "experiments/<experiment_id>/", "server": "", "bundle": ""}
    assert written == {
        (kind.name, above[kind.scope] + kind.directory, kind.document) for kind in KINDS.values()
    }


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.item is not NoItem])
def test_a_section_names_every_key_of_its_items(kind: Kind) -> None:
    for name in kind.item.__struct_fields__:
        assert re.search(rf"`{name}`", section(document_section(kind))), name


def test_the_numbers_of_the_text_are_those_of_the_code() -> None:
    for size in (parts.INLINE_ITEM_BYTES, parts.ITEM_PART_BYTES):
        assert f"{size:,}".replace(",", " ") in section("9.13")
    text = section("9.7")
    for number in (
        parts.INLINE_POINTS_PER_KEY,
        parts.INLINE_POINTS_PER_RUN,
        parts.POINTS_PER_PART,
    ):
        assert f"{number:,}".replace(",", " ") in text
    assert f"documents: {documents.DOCUMENTS_VERSION}" in SPEC


def test_the_text_names_every_tag_of_ours() -> None:
    ours = {
        value
        for name, value in vars(provenance).items()
        if name.isupper()
        and isinstance(value, str)
        and value.startswith(provenance.PREFIX)
        and name != "PREFIX"
    }
    assert {match[1] for match in re.finditer(r"^\| `(mlflow_bundle\.\w+)` ", SPEC, re.M)} == ours
