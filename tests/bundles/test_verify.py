"""Verification finds each kind of defect and names it."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_bundle.errors import FormatError
from tests.bundles.trees import verified

RUN = f"experiments/1/{'a' * 32}"


def test_sound_bundle_and_directory_give_the_same_counts(
    sample_file: Path, sample_directory: Path
) -> None:
    file, directory = verified(sample_file), verified(sample_directory)
    assert file.ok
    assert directory.ok
    assert file.groups == 1
    assert file.documents == directory.documents
    assert (file.members, file.bytes, file.references) == (
        directory.members,
        directory.bytes,
        directory.references,
    )
    assert file.outside == {"model_version.run_id": 1}


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _delete_run(tree: Path) -> None:
    shutil.rmtree(tree / RUN)


def _delete_artifact(tree: Path) -> None:
    (tree / RUN / "artifacts" / "big.bin").unlink()


def _forget_model(tree: Path) -> None:
    _edit(tree / "models/manifest.json", lambda d: d["ok_models"].remove("con"))


def _forget_logged_model(tree: Path) -> None:
    _edit(
        tree / "experiments/1/manifest.json",
        lambda d: d["export_info"].update(ok_logged_models=[]),
    )


def _forget_name(tree: Path) -> None:
    _edit(tree / RUN / "run.json", lambda d: d.update(names={}))


def _wrong_type(tree: Path) -> None:
    _edit(tree / RUN / "run.json", lambda d: d["info"].update(start_time="1"))


def _dangling_alias(tree: Path) -> None:
    _edit(
        tree / "models/sklearn_iris/model.json",
        lambda d: d["registered_model"]["aliases"][0].update(version="4"),
    )


def _bare_token(tree: Path) -> None:
    text = (tree / RUN / "run.json").read_text()
    (tree / RUN / "run.json").write_text(text.replace('{"value":"Infinity"', '{"value":Infinity'))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            _delete_run,
            f"experiments/1/manifest.json: export_info.ok_runs: names {RUN}/run.json, which is "
            "missing",
        ),
        (_delete_artifact, f"{RUN}/run.json: artifacts.files: is 9, but there are 8"),
        (_forget_model, "models/manifest.json: ok_models: does not name models/%63on/model.json"),
        (
            _forget_logged_model,
            "experiments/1/manifest.json: export_info.ok_logged_models: does not name "
            "experiments/1/logged_models/m-1/logged_model.json",
        ),
        (_forget_name, "its original name is missing in the owner's document"),
        (_wrong_type, f"{RUN}/run.json: info.start_time: expected `int | null`, got `str`"),
        (
            _dangling_alias,
            "models/sklearn_iris/model.json: registered_model.aliases[0].version: there is no "
            "version 4",
        ),
        (_bare_token, f"{RUN}/run.json: not JSON"),
    ],
)
def test_defect_is_named(
    sample_directory: Path, tmp_path: Path, damage: Callable[[Path], None], expected: str
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sample_directory, tree)
    damage(tree)
    result = verified(tree)
    assert not result.ok
    assert any(expected in str(problem) for problem in result.problems), result.problems


def test_flipped_bytes_are_always_found(sample_file: Path, tmp_path: Path) -> None:
    whole = sample_file.read_bytes()
    chance = random.Random(7)
    for _ in range(150):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        damaged = tmp_path / "damaged.mlbundle"
        damaged.write_bytes(data)
        with contextlib.suppress(FormatError):  # already refused when it is opened
            assert not verified(damaged).ok
