"""``recover``: a sound bundle of what is whole, and a list of what is not."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from mlflow_bundle.archive import scan_groups
from mlflow_bundle.bundles.opening import open_tree, open_writer
from mlflow_bundle.bundles.recovering import recover_bundle
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Experiment, MetricHistory
from mlflow_bundle.errors import DocumentError
from mlflow_bundle.report import Report
from tests.archive.bundles import noise
from tests.bundles import memory
from tests.bundles.trees import verified
from tests.transfer.commands import command
from tests.vectors.forge import Bundle, Group, Record


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of several groups: 30 runs with artifacts, one with a history in parts."""
    points = 60_000
    long = MetricHistory(
        key="long",
        values=[random.Random(7).random()] * points,
        timestamps=list(range(points)),
        steps=list(range(points)),
    )
    contents = memory.sample()
    contents.append(Content(entity=Experiment(experiment_id="99", name="many")))
    for number in range(30):
        contents.append(
            memory.run(
                f"{number:032x}",
                "99",
                artifacts={"model.bin": noise(700_000, number), "note.txt": b"%d" % number * 50},
                histories=[long] if number == 3 else [],
            )
        )
    return memory.write_bundle(tmp_path_factory.mktemp("big") / "big.mlbundle", contents)


def contents(path: Path) -> dict[str, bytes]:
    """Every member but manifests, which are made anew."""
    tree = open_tree(str(path))
    try:
        return {
            member.path: tree.read(member.path, limit_bytes=2**26)
            for member in tree.iter_members()
            if not member.path.endswith("manifest.json")
        }
    finally:
        tree.close()


def test_a_whole_bundle_comes_back_with_every_member(big: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.mlbundle"
    done = command("recover", big, "-o", saved, "--json", "--quiet")
    assert done.report["lost"] == []
    assert contents(saved) == contents(big)
    assert verified(saved).ok
    assert not list(tmp_path.glob("*.recovering"))


@pytest.mark.parametrize("group", [1, 2, 3])
def test_a_cut_bundle_keeps_what_stands_before_the_cut(
    big: Path, tmp_path: Path, group: int
) -> None:
    with big.open("rb") as stream:
        offset = scan_groups(stream).read_group(group)[0].preamble.offset
    cut = tmp_path / "cut.mlbundle"
    cut.write_bytes(big.read_bytes()[: offset + 1000])
    saved = tmp_path / "saved.mlbundle"
    done = command("recover", cut, "-o", saved, "--json", "--quiet", expect=3)
    assert verified(saved).ok
    kept, all_members = contents(saved), contents(big)
    assert kept
    assert kept.items() <= all_members.items()
    assert ("bundle", "manifest.json", "") in done.losses
    # The experiment's own document stood behind the cut: it has a stand-in, and is listed.
    assert ("experiment", "99", "manifest.json") in done.losses
    tree = open_tree(str(saved))
    assert b"recovered experiment 99" in tree.read("experiments/99/manifest.json")
    tree.close()


def test_damage_in_the_middle_loses_what_it_hits_and_names_it(big: Path, tmp_path: Path) -> None:
    data = bytearray(big.read_bytes())
    draw = random.Random(5)
    for position in draw.sample(range(len(data) // 4, len(data) * 3 // 4), 3):
        data[position] ^= 0x10
    damaged = tmp_path / "damaged.mlbundle"
    damaged.write_bytes(data)
    saved = tmp_path / "saved.mlbundle"
    done = command("recover", damaged, "-o", saved, "--json", "--quiet", expect=3)
    assert verified(saved).ok
    kept, all_members = contents(saved), contents(big)
    # The summary of a run that lost a file counts those it has.
    same = {path for path in kept if kept[path] == all_members.get(path)}
    assert all(path.endswith("/run.json") for path in kept.keys() - same)
    assert kept.keys() <= all_members.keys()
    lost = {id for _, id, _ in done.losses}
    assert all_members.keys() - kept.keys() <= lost
    assert len(all_members) - len(kept) <= 6


def test_a_lost_part_of_a_history_is_taken_out_of_its_run(big: Path, tmp_path: Path) -> None:
    part = f"experiments/99/{3:032x}/metrics/long/000001.json"
    tree = open_tree(str(big))
    names = [member.path for member in tree.iter_members()]
    tree.close()
    assert part in names
    data = bytearray(big.read_bytes())
    with big.open("rb") as stream:
        scan = scan_groups(stream)
        for group, _ in scan.iter_groups():
            if part in group.paths:
                frame = group.frames[group.paths.index(part)]
                offset = group.preamble.offset + group.preamble.length
                offset += sum(group.lengths[:frame])
                data[offset + 20] ^= 1
    damaged = tmp_path / "damaged.mlbundle"
    damaged.write_bytes(data)
    saved = tmp_path / "saved.mlbundle"
    done = command("recover", damaged, "-o", saved, "--json", "--quiet", expect=3)
    assert part in {id for _, id, _ in done.losses}
    assert verified(saved).ok


def test_a_lost_first_frame_costs_only_what_it_said(big: Path, tmp_path: Path) -> None:
    data = bytearray(big.read_bytes())
    data[200] ^= 1
    damaged = tmp_path / "damaged.mlbundle"
    damaged.write_bytes(data)
    saved = tmp_path / "saved.mlbundle"
    done = command("recover", damaged, "-o", saved, "--json", "--quiet", expect=3)
    assert done.losses == [("bundle", "bundle.json", "")]
    assert contents(saved) == contents(big)
    assert verified(saved).ok


@pytest.mark.parametrize("data", [b"", b"no bundle" * 1000])
def test_what_is_no_bundle_is_refused_and_nothing_is_written(data: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(data)
    done = command("recover", other, "-o", tmp_path / "saved.mlbundle", expect=4)
    assert str(other) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_damaged_file_itself_is_no_output(big: Path) -> None:
    before = big.read_bytes()
    done = command("recover", big, "-o", big, "--force", expect=2)
    assert "is what is read" in done.stderr
    assert big.read_bytes() == before


@pytest.mark.parametrize("parts", [b'"1"', b"[1]", b'{"loss": "metrics"}'])
def test_a_document_whose_parts_are_malformed_is_refused(tmp_path: Path, parts: bytes) -> None:
    path = f"experiments/1/{'a' * 32}/run.json"
    data = Bundle([Group([Record(path, b'{"item_parts": 1, "metric_parts": %b}' % parts)])]).build()
    writer = open_writer(str(tmp_path / "saved.mlbundle"))
    with pytest.raises(DocumentError, match=r"run\.json: metric_parts") as info:
        recover_bundle(io.BytesIO(data), writer, Report("test"), scratch=tmp_path / "scratch")
    assert info.value.path == path
