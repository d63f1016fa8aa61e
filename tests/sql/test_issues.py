"""Issues in databases with and without what came with MLflow 3.18."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlflow_bundle.kinds.issues import TOO_OLD
from tests.installed import has
from tests.sql.databases import change, rows
from tests.sql.imports import Place, exported, imported
from tests.transfer.commands import command

ISSUE = "iss-0123456789abcdef0123456789abcdef"
MADE, SEEN = 1_700_000_000_000, 1_700_000_009_000
NEWER = {
    "last_seen_timestamp": SEEN,
    "last_updated_by": "bo",
    "metadata": {"z": "ünï", "a": ""},
}
COLUMNS = ", ".join(NEWER)


def tree_of(source: Place, directory: Path, **fields: Any) -> Path:
    """A directory with the export of one issue in an experiment, its document changed."""
    if not rows(source.uri, "SELECT 1 FROM issues"):
        change(
            source.file,
            "INSERT INTO issues (issue_id, experiment_id, name, description, status, severity,"
            " categories, created_timestamp, last_updated_timestamp, created_by)"
            " VALUES (?, 0, 'slow', 'd', 'pending', 'low', ?, ?, ?, 'ana')",
            *(ISSUE, '["Latency", " latency", "cost"]', MADE, MADE),
        )
    bundle, tree = directory / "b.mlbundle", directory / f"tree-{len(list(directory.iterdir()))}"
    exported(source, bundle)
    command("extract", bundle, "-o", tree)
    (document,) = tree.rglob("issue.json")
    content = json.loads(document.read_text())
    content["entity"] |= fields
    document.write_text(json.dumps(content))
    return tree


def newer_columns(place: Place) -> list[Any]:
    return list(rows(place.uri, f"SELECT {COLUMNS} FROM issues")[0])


def categories(place: Place) -> dict[str, str]:
    found = rows(place.uri, "SELECT category_hash, category FROM issue_categories")
    return dict(map(tuple, found))


def by_digest(*texts: str) -> dict[str, str]:
    return {hashlib.sha256(text.strip().lower().encode()).hexdigest(): text for text in texts}


def test_what_came_with_3_18_arrives_or_is_lost(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    tree = tree_of(source, tmp_path, **NEWER)
    for done in ({"issue": 1}, {}):
        report = imported(destination, tree, expect=0 if has(3, 18) else 3)
        assert report["done"].get("issue", 0) == done.get("issue", 0)
        assert report["conflicts"] == []
        lost = {loss["field"]: loss["reason"] for loss in report["lost"]}
        if has(3, 18):
            assert lost == {}
            seen, by, metadata = newer_columns(destination)
            assert (seen, by) == (SEEN, "bo")
            assert metadata == json.dumps(NEWER["metadata"])
            assert categories(destination) == by_digest(" latency", "cost")
        else:
            assert lost == dict.fromkeys(NEWER, TOO_OLD)


def test_an_older_issue_was_seen_when_it_was_made(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    """So does the migration of 3.18; what an old bundle lacks, nothing is lost of."""
    tree = tree_of(source, tmp_path)
    (document,) = tree.rglob("issue.json")
    content = json.loads(document.read_text())
    for name in NEWER:
        content["entity"].pop(name, None)
    document.write_text(json.dumps(content))
    assert imported(destination, tree)["lost"] == []
    if has(3, 18):
        assert newer_columns(destination) == [MADE, None, None]
        assert categories(destination) == by_digest(" latency", "cost")


def test_what_says_nothing_of_its_own_is_not_lost(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    tree = tree_of(
        *(source, tmp_path), last_seen_timestamp=MADE, last_updated_by="ana", metadata={}
    )
    assert imported(destination, tree)["lost"] == []


def test_a_later_observation_and_more_metadata_are_added_and_other_values_are_conflicts(
    source: Place, destination: Place, tmp_path: Path
) -> None:
    if not has(3, 18):
        return
    imported(destination, tree_of(source, tmp_path, **NEWER))
    newer = tree_of(
        *(source, tmp_path),
        last_seen_timestamp=SEEN + 1,
        last_updated_by="cy",
        metadata={"a": "", "z": "other", "new": "1"},
        categories=["cost", "Safety"],
    )
    report = imported(destination, newer)
    conflicts = sorted(conflict["field"] for conflict in report["conflicts"])
    assert conflicts == ["categories", "metadata.z"]
    both = {**NEWER["metadata"], "new": "1"}  # type: ignore[dict-item]
    assert newer_columns(destination) == [SEEN + 1, "bo", json.dumps(both)]
    assert categories(destination) == by_digest(" latency", "cost")

    imported(destination, newer, "--on-conflict", "update")
    both["z"] = "other"
    assert newer_columns(destination) == [SEEN + 1, "bo", json.dumps(both)]
    assert categories(destination) == by_digest("cost", "Safety")
    assert json.loads(rows(destination.uri, "SELECT categories FROM issues")[0][0]) == [
        *("cost", "Safety")
    ]
    assert imported(destination, newer)["done"] == {}

    # An older one takes nothing back.
    older = imported(destination, tree_of(source, tmp_path, last_seen_timestamp=MADE))
    assert [c for c in older["conflicts"] if "seen" in c["field"]] == []
    assert newer_columns(destination)[0] == SEEN + 1


def test_rows_that_an_earlier_import_left_out_are_filled(
    source: Place, target: Place, tmp_path: Path
) -> None:
    """As this package did that did not know them yet."""
    if not has(3, 18):
        return
    tree = tree_of(source, tmp_path, **NEWER)
    imported(target, tree)
    change(target.file, "DELETE FROM issue_categories")
    change(target.file, f"UPDATE issues SET {' = NULL, '.join(NEWER)} = NULL")
    report = imported(target, tree)
    assert (report["done"]["issue"], report["conflicts"]) == (1, [])
    assert newer_columns(target) == [SEEN, "bo", json.dumps(NEWER["metadata"])]
    assert categories(target) == by_digest(" latency", "cost")
    assert imported(target, tree)["done"] == {}


def test_metadata_that_are_no_texts_are_lost_alone(source: Place, tmp_path: Path) -> None:
    if not has(3, 18):
        return
    tree_of(source, tmp_path)
    change(source.file, """UPDATE issues SET metadata = '{"a": "1", "n": 2}'""")
    bundle = tmp_path / "odd.mlbundle"
    report = exported(source, bundle, expect=3)
    assert [(loss["id"], loss["field"]) for loss in report["lost"]] == [(ISSUE, "metadata.n")]
    command("verify", bundle)
