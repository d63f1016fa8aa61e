"""Replays seeds, vectors and every crasher there ever was; fuzzes for some seconds."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.errors import FormatError
from tests.archive.bundles import bundle
from tests.fuzz.anatomy import take_apart
from tests.fuzz.mutations import mutate
from tests.fuzz.runs import CORPUS, CRASHERS, VECTORS, fuzz, keeping_crashers
from tests.fuzz.targets import TARGETS, decode_as_everything, reader

SEEDS = sorted(CORPUS.iterdir())
CRASHED = sorted(path for path in CRASHERS.iterdir() if path.suffix != ".md")
RUNS = {"reader": 4000, "recovery": 750, "documents": 1500}
"""About five seconds each."""


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_vectors_pass(target: str) -> None:
    for path in [*SEEDS, *sorted(VECTORS.glob("*.mlbundle"))]:
        TARGETS[target](path.read_bytes())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", CRASHED, ids=lambda path: path.name)
def test_a_crasher_passes_for_ever(path: Path) -> None:
    TARGETS[path.name.partition("-")[0]](path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run_finds_nothing(
    target: str, tmp_path: Path, prerequisite: Callable[[object, str], None]
) -> None:
    prerequisite(importlib.util.find_spec("atheris"), "atheris")
    found = tmp_path / "crashers"
    limits = (f"-runs={RUNS[target]}", "-max_total_time=60", "-seed=1")
    done = fuzz(target, tmp_path / "work", found, *limits, log=subprocess.PIPE)
    assert [path.name for path in found.iterdir()] == [], done.stderr
    assert done.returncode == 0, done.stderr
    covered = [int(number) for number in re.findall(r" cov: (\d+) ", done.stderr)]
    assert covered[-1] > 800, "the product is not instrumented"


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_a_seed_is_taken_apart_and_built_again(path: Path) -> None:
    data = path.read_bytes()
    built = take_apart(data).build()
    reader(built)
    assert take_apart(built).build() == built
    if path.name != "written":
        assert built == data


def test_most_mutations_are_mended() -> None:
    """Trailer and root fit whatever was changed, so that a reader gets beyond them."""
    opened = 0
    for seed in range(400):
        data = random.Random(seed).choice(SEEDS).read_bytes()
        mutated = mutate(data, 65_536, seed, lambda octets: bytes([*octets[1:], 7]))
        with contextlib.suppress(FormatError):
            ArchiveReader(io.BytesIO(mutated))
            opened += mutated != data
    assert opened > 200


def test_an_input_that_fails_is_kept_once_for_each_place(tmp_path: Path) -> None:
    def fail(data: bytes) -> None:
        if data == b"sound":
            return
        if data == b"other":
            raise KeyError(data)
        raise ValueError(data)

    run = keeping_crashers("reader", fail, tmp_path)
    for data in (b"sound", b"one", b"two", b"other"):
        run(data)
    assert {path.read_bytes() for path in tmp_path.glob("reader-*")} == {b"one", b"other"}


def test_bytes_of_any_kind_are_refused_as_documents() -> None:
    for data in (b"", b"[]", b"{}", b"\xff", b'{"entity": {}}', b"[" * 10_000, b'{"a": 1e400}'):
        decode_as_everything(data)


def test_a_target_fails_where_two_readers_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.targets._streamed", lambda data: ({"a": b"other"}, None))
    with pytest.raises(AssertionError, match="two contents of 'a'"):
        reader(bundle({"a": b"1"}))
