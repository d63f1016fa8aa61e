"""A bundle whose documents contradict what lies around them is refused when it is read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.bundles.opening import open_tree
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.errors import DocumentError, SelectionError
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection, parse_models
from tests.bundles.trees import edit_json, read_json, verified

RUN = f"experiments/1/{'a' * 32}/run.json"
MODEL = "models/sklearn_iris/model.json"


def read_all(directory: Path, selection: Selection | None = None) -> None:
    """Read every content and every list of files, the directory's documents as they lie."""
    source = BundleSource(open_tree(str(directory), renew=False))
    try:
        source.select(selection or Selection.all(), Report())
        for content in source.iter_contents():
            for tree in (content.artifacts, *content.version_artifacts.values()):
                tree.files()
    finally:
        source.close()


@pytest.fixture
def tree(sample_directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(sample_directory, tmp_path / "tree")
    return tmp_path / "tree"


def logged_model(tree: Path) -> str:
    (path,) = tree.glob("experiments/*/logged_models/*/logged_model.json")
    return path.relative_to(tree).as_posix()


def within(document: dict[str, Any], *keys: Any, value: Any) -> dict[str, Any]:
    inner: Any = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return document


@pytest.mark.parametrize(
    ("document", "keys", "value", "field"),
    [
        (RUN, ("info", "experiment_id"), "2", "info.experiment_id"),
        (RUN, ("info", "run_id"), "f" * 32, "info.run_id"),
        (RUN, ("artifacts", "files"), 99, "artifacts.files"),
        (RUN, ("artifacts", "bytes"), 1, "artifacts.bytes"),
        (RUN, ("artifacts", "mode"), "skipped", "artifacts.mode"),
        (RUN, ("names", "empty"), "model/MLmodel", "names"),
        (logged_model, ("logged_model", "experiment_id"), "2", "logged_model.experiment_id"),
        (logged_model, ("logged_model", "model_id"), "m-other", "logged_model.model_id"),
        (MODEL, ("registered_model", "name"), "other", "registered_model.name"),
        (
            MODEL,
            ("registered_model", "aliases"),
            [{"alias": "x", "version": "77"}],
            "registered_model.aliases[0].version",
        ),
        (
            MODEL,
            ("registered_model", "aliases"),
            [{"alias": "x", "version": " 1"}],
            "registered_model.aliases[0].version",
        ),
    ],
)
def test_contradictions_are_refused(
    tree: Path,
    document: str | Callable[[Path], str],
    keys: tuple[str, ...],
    value: object,
    field: str,
) -> None:
    read_all(tree)
    path = document if isinstance(document, str) else document(tree)
    edit_json(tree / path, **within(read_json(tree / path), *keys, value=value))
    with pytest.raises(DocumentError) as info:
        read_all(tree)
    assert (info.value.path, info.value.field_path) == (path, field)
    assert (path, field) in [(p.member, p.field) for p in verified(tree).problems]


def test_missing_and_added_files_are_refused(tree: Path) -> None:
    (tree / RUN).with_name("artifacts").joinpath("empty").unlink()
    with pytest.raises(DocumentError, match=r"run\.json: artifacts\.files: is 9, but there are 8"):
        read_all(tree)


def test_version_with_other_files_is_refused(tree: Path) -> None:
    (tree / "models/sklearn_iris/versions/10/artifacts/more").write_bytes(b"more")
    with pytest.raises(DocumentError, match=r"latest_versions\[\d\]\.artifacts\.files: is "):
        read_all(tree)


def test_alias_of_a_version_that_is_not_selected_is_right(tree: Path) -> None:
    numbers = [v["version"] for v in read_json(tree / MODEL)["registered_model"]["latest_versions"]]
    body = read_json(tree / MODEL)["registered_model"]
    body["aliases"] = [{"alias": "x", "version": numbers[-1]}]
    edit_json(tree / MODEL, registered_model=body)
    assert len(numbers) > 1
    read_all(tree, Selection(models=parse_models([f"sklearn_iris/{numbers[0]}"])))


def test_a_name_to_change_that_the_bundle_lacks_is_refused(sample_file: Path) -> None:
    source = BundleSource(open_tree(str(sample_file)), name="sample")
    try:
        source.check_renames({}, {})
        with pytest.raises(SelectionError, match='no such model "nosuch"'):
            source.check_renames({}, {"nosuch": "x"})
        with pytest.raises(SelectionError, match='no such experiment "nosuch"'):
            source.check_renames({"nosuch": "x"}, {})
    finally:
        source.close()


def test_a_new_name_that_two_would_have_is_refused(sample_file: Path) -> None:
    source = BundleSource(open_tree(str(sample_file)), name="sample")
    try:
        source.select(Selection.all(), Report())
        one, two, *_ = sorted(entity.id for entity in source.iter_entities("registered_model"))
        source.check_renames({}, {one: two, two: one})
        with pytest.raises(SelectionError, match=re.escape(f"'{two}' and '{one}'")):
            source.check_renames({}, {one: two})
        with pytest.raises(SelectionError, match="two models would be named 'x'"):
            source.check_renames({}, {one: "x", two: "x"})
    finally:
        source.close()
