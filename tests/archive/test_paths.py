from __future__ import annotations

import unicodedata

import pytest

from mlflow_bundle.archive import (
    escape_component,
    escape_path,
    hashed_component,
    order_key,
    unescape_component,
    unescape_path,
    validate_path,
)
from mlflow_bundle.errors import UnsafePathError

SAFE = [
    "manifest.json",
    ".mlbundle/extra",
    "a/b/c.txt",
    "a b",
    " a",
    "console",
    "conda.yaml",
    "com",
    "com10",
    "caf\u00e9/\u65e5\u672c",
    "a%2Fb",
    "x" * 255,
    "/".join(["x" * 100] * 40),
    "model~1",
    "50%",
]

UNSAFE = {
    "": "empty path",
    "/a": "absolute",
    "a//b": "empty component",
    "a/": "empty component",
    "..": "begins with a dot",
    "a/../b": "begins with a dot",
    "./a": "begins with a dot",
    "a/.mlbundle": "begins with a dot",
    ".hidden": "begins with a dot",
    ".mlbundle": "begins with a dot",
    "a\\b": "forbidden character",
    "C:x": "forbidden character",
    "a\nb": "forbidden character",
    "a\x00b": "forbidden character",
    "a\x7f": "forbidden character",
    "a?": "forbidden character",
    "a*": "forbidden character",
    'a"': "forbidden character",
    "a<b": "forbidden character",
    "a|b": "forbidden character",
    "a.": "ends with a dot",
    "a /b": "ends with a dot or a space",
    "e\u0301": "normal form C",
    "con": "device name",
    "a/NUL.txt": "device name",
    "Com1": "device name",
    "lpt\u00b9": "device name",
    "aux .txt": "device name",
    "CONOUT$": "device name",
    "\ud800": "valid Unicode",
    "x" * 256: "component is longer",
    "\u00e9" * 128: "component is longer",
    "/".join(["x" * 100] * 41): "path is longer",
}


@pytest.mark.parametrize("path", SAFE)
def test_a_safe_path_is_accepted(path: str) -> None:
    validate_path(path)


@pytest.mark.parametrize("path", UNSAFE)
def test_an_unsafe_path_is_refused_with_its_rule(path: str) -> None:
    with pytest.raises(UnsafePathError, match=UNSAFE[path]):
        validate_path(path)


def test_directories_come_before_files_and_own_documents_last() -> None:
    paths = [
        "experiments/1/ab/artifacts/x",
        "experiments/1/ab/run.json",
        "experiments/1/cd/run.json",
        "experiments/1/manifest.json",
        "experiments/10/manifest.json",
        "experiments/manifest.json",
        "models/a/model.json",
        "models/a-b/model.json",
        "models/manifest.json",
        "manifest.json",
    ]
    assert sorted(paths, key=order_key) == paths


def test_the_key_is_as_drawn_in_the_format() -> None:
    assert order_key("a/b/c") == b"\x01a\x00\x01b\x00\x02c"
    assert order_key("c") == b"\x02c"


ESCAPES = {
    "sklearn_iris": "sklearn_iris",
    "a/b": "a%2Fb",
    "50%": "50%25",
    "a\\b:c": "a%5Cb%3Ac",
    '<>"|?*': "%3C%3E%22%7C%3F%2A",
    "line\nbreak\x00\x7f": "line%0Abreak%00%7F",
    ".hidden": "%2Ehidden",
    "..": "%2E%2E",
    ".": "%2E",
    "end.": "end%2E",
    "end ": "end%20",
    "a..": "a.%2E",
    "con": "%63on",
    "NUL.txt": "%4EUL.txt",
    "e\u0301": "e%CC%81",
    "\u00e9": "\u00e9",
    ":\u0301": "%3A%CC%81",
    "\ud800": "%ED%A0%80",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_is_escaped_as_documented_and_back(name: str) -> None:
    escaped = escape_component(name)
    assert escaped == ESCAPES[name]
    validate_path(escaped)
    assert unescape_component(escaped) == name


def test_a_reserved_name_gets_its_first_character_encoded() -> None:
    assert escape_component("manifest.json", reserved={"manifest.json"}) == "%6Danifest.json"
    assert escape_component("manifest", reserved={"manifest.json"}) == "manifest"
    assert unescape_component("%6Danifest.json") == "manifest.json"


@pytest.mark.parametrize("name", ["x" * 201, "\u00e9" * 101, "?" * 67, ""])
def test_a_name_that_is_too_long_or_empty_is_hashed(name: str) -> None:
    escaped = escape_component(name)
    assert len(escaped.encode()) <= 200
    assert escaped[-34:-32] == "%~"
    validate_path(escaped)
    assert unescape_component(escaped) is None


def test_long_names_of_one_beginning_stay_apart() -> None:
    assert escape_component("x" * 300) != escape_component("x" * 301)
    assert escape_component("x" * 200) == "x" * 200


def test_no_half_escape_stands_before_the_mark() -> None:
    for length in range(160, 172):
        name = "x" * length + ":" * 40
        prefix = escape_component(name).partition("%~")[0]
        assert unescape_component(prefix) is not None


def test_a_name_can_be_hashed_on_demand() -> None:
    hashed = hashed_component("model")
    assert hashed.startswith("model%~")
    assert unescape_component(hashed) is None


def test_a_path_is_escaped_per_component() -> None:
    assert escape_path("dir:/.x/f") == "dir%3A/%2Ex/f"
    assert unescape_path("dir%3A/%2Ex/f") == "dir:/.x/f"
    for odd in ("a//b", "/a", "a/"):
        validate_path(escape_path(odd))
        assert unescape_path(escape_path(odd)) is None


def test_a_path_that_is_too_long_becomes_one_hashed_component() -> None:
    escaped = escape_path("/".join(["x" * 150] * 30))
    assert "/" not in escaped
    validate_path(escaped)
    assert unescape_path(escaped) is None


@pytest.mark.parametrize("component", ["%", "%4", "%4x", "%zz", "%c3%a9", "%C3", "%E9x"])
def test_a_malformed_escape_is_refused(component: str) -> None:
    with pytest.raises(UnsafePathError, match="escape"):
        unescape_component(component)


def test_device_names_in_every_case_escape_to_other_names() -> None:
    for name in ("con", "CON", "Con.txt", "com1", "LPT9.log", "nul ", "aux"):
        assert unicodedata.is_normalized("NFC", escape_component(name))
        validate_path(escape_component(name))
