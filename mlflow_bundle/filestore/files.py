"""The files of a file store: YAML documents, and values in files that their keys name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]
from mlflow.utils.file_utils import local_file_uri_to_path

META = "meta.yaml"
TRASH = ".trash"
"""Where deleted experiments are."""
MODELS = "models"
"""Registered models at the top, logged models in an experiment."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Point(NamedTuple):
    """One line of a metric's file."""

    timestamp: int
    value: float
    step: int
    more: list[str]
    """Of a logged model: the run, and words of name and digest of a dataset if one is known."""


def directory_of(uri: str) -> Path | None:
    """Return the directory that a tracking URI names, or None if it is of another kind."""
    if urlsplit(uri).scheme not in ("", "file"):
        return None
    return Path(local_file_uri_to_path(uri)).absolute()


def is_file_store(directory: Path) -> bool:
    """Whether a directory has the layout of a file store."""
    if not directory.is_dir():
        return False
    below = (*experiment_directories(directory), *directories(directory / MODELS))
    return any((entry / META).is_file() for entry in below)


def experiment_directories(root: Path) -> Iterator[Path]:
    """Yield the directories of the experiments, deleted ones last."""
    for parent in (root, root / TRASH):
        yield from (entry for entry in directories(parent) if entry.name.isdecimal())


def directories(parent: Path) -> list[Path]:
    """Return the directories in one, by name; none if it does not exist."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir())


def read_meta(directory: Path, name: str = META) -> dict[str, Any]:
    """Return a YAML document.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no YAML, or no mapping.
    """
    with (directory / name).open(encoding="utf-8") as file:
        try:
            document = yaml.load(file, Loader=_LOADER)
        except yaml.YAMLError as exc:
            raise ValueError(f"no YAML: {str(exc).splitlines()[0]}") from exc
    if not isinstance(document, dict):
        raise ValueError(f"{name} holds no mapping")
    return document


def files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the keys that files stand for, which may have slashes, with the files."""
    if directory.is_dir():
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                yield path.relative_to(directory).as_posix(), path


def read_text(path: Path) -> str:
    """Return a value with its line ends as they are.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8.
    """
    return path.read_bytes().decode("utf-8")


def read_points(path: Path) -> Iterator[Point]:
    """Yield the lines of a metric's file; a step may be missing in those of old versions.

    Raises:
        OSError: It cannot be read.
        ValueError: A line is malformed.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            parts = line.strip().split(" ")
            try:
                step = int(parts[2]) if len(parts) > 2 else 0
                yield Point(int(parts[0]), float(parts[1]), step, parts[3:])
            except (ValueError, IndexError):
                raise ValueError(f"line {number} is malformed: {line.strip()!r}") from None
