"""Trees on disk and what they hold; short forms of extract, pack and verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow_bundle.bundles import copying
from mlflow_bundle.bundles.opening import open_tree, open_writer
from mlflow_bundle.bundles.verify import Verified, verify
from mlflow_bundle.selection import Selection

HEADER = ".mlbundle/bundle.json"


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time in ns of every file by path."""
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def without_header(root: Path) -> dict[str, tuple[bytes, int]]:
    """A snapshot without the header, whose uuid differs from bundle to bundle."""
    return {path: found for path, found in snapshot(root).items() if path != HEADER}


def extracted(
    bundle: Path, output: Path, selection: Selection | None = None, *, peer_json: bool = False
) -> Path:
    """Extract ``bundle`` into ``output``."""
    tree = open_tree(str(bundle))
    try:
        copying.extract(
            tree,
            open_writer(str(output), is_directory=True),
            selection=selection,
            peer_json=peer_json,
        )
    finally:
        tree.close()
    return output


def packed(directory: Path, output: Path) -> Path:
    """Pack ``directory`` into ``output``."""
    tree = open_tree(str(directory), is_directory=True)
    try:
        copying.pack(tree, open_writer(str(output)))
    finally:
        tree.close()
    return output


def verified(path: Path) -> Verified:
    """Verify a file, or a directory as it lies."""
    tree = open_tree(str(path), renew=False)
    try:
        return verify(tree, name=str(path))
    finally:
        tree.close()


def read_json(path: Path) -> Any:
    """Parse a document, refusing bare NaN and infinities."""

    def refuse(token: str) -> None:
        raise ValueError(f"bare token {token}")

    return json.loads(path.read_bytes(), parse_constant=refuse)


def edit_json(path: Path, **changes: Any) -> None:
    """Set top-level keys of a document."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
