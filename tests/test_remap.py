"""Ids by ids, whatever of them is in memory."""

from __future__ import annotations

import contextlib
import random

import pytest

from mlflow_bundle import remap as module
from mlflow_bundle.remap import Placed, Remap


@pytest.mark.parametrize("recent", [1, 2, 7, 10_000])
def test_every_id_is_found_and_no_other(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECENT", recent)
    chance = random.Random(recent)
    expected: dict[tuple[str, str], Placed] = {}
    with contextlib.closing(Remap()) as remap:
        for number in range(400):
            key = (chance.choice(["run", "trace"]), f"{chance.randrange(150):x}")
            if chance.random() < 0.4:
                expected[key] = Placed(f"new {number}", f"from {number}", f"to {number}")
                placed = expected[key]
                remap.place(
                    *key, placed.id, source_root=placed.source_root, sink_root=placed.sink_root
                )
            assert remap.find(*key) == expected.get(key)
        for kind in ("run", "trace", "neither"):
            for id in range(160):
                assert remap.find(kind, f"{id:x}") == expected.get((kind, f"{id:x}"))
