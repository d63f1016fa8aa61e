"""The files of a file store: YAML documents, and values in files that their keys name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]
from mlflow.utils.file_utils import local_file_uri_to_path

from mlflow_bundle.filestore.meta import Meta, integer, shown

META = "meta.yaml"
TRACE_INFO = "trace_info.yaml"
TRASH = ".trash"
"""Where deleted experiments are."""
ARTIFACTS = "artifacts"
"""Directory of the files of a run, a logged model or a trace."""
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
        yield from (entry for entry in directories(parent) if is_experiment_id(entry.name))


def is_experiment_id(name: str) -> bool:
    """Whether the directory of an experiment may have a name."""
    return name.isascii() and name.isdecimal()


def directories(parent: Path) -> list[Path]:
    """Return the directories in one, by name; none if it does not exist.

    A link that leads nowhere is among them: reading what it led to fails, and is a loss.
    """
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() or not entry.exists())


def holds_any(directory: Path, names: frozenset[str]) -> bool:
    """Whether one of some entries is in a directory.

    Raises:
        OSError: It cannot be read.
    """
    return not names.isdisjoint(os.listdir(directory))


def read_meta(directory: Path, name: str = META) -> Meta:
    """Return a YAML document.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no YAML, or no mapping.
    """
    text = read_text(directory / name)
    try:
        document = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as exc:
        raise ValueError(f"no YAML: {str(exc).splitlines()[0]}") from exc
    if not isinstance(document, dict):
        raise ValueError(f"{name} holds no mapping")
    return Meta(document)


def files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the keys that files stand for, which may have slashes, with the files.

    What is there and is neither a file nor a directory of its own is among them, and is refused
    when it is read.

    Raises:
        OSError: A directory cannot be read.
    """
    if directory.is_dir():
        for entry in sorted(directory.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                yield from ((f"{entry.name}/{key}", path) for key, path in files_below(entry))
            else:
                yield entry.name, entry


def read_text(path: Path) -> str:
    """Return a value with its line ends as they are.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, or not UTF-8.
    """
    _refuse_no_file(path)
    return path.read_bytes().decode("utf-8")


def read_points(path: Path, *, of_model: bool = False) -> Iterator[Point]:
    """Yield the lines of a metric's file; a step may be missing in those of old versions.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, has no line, or one that is malformed.
    """
    _refuse_no_file(path)
    number = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                point = _point(line.strip().split(" "), of_model)
            except (ValueError, IndexError):
                raise ValueError(f"line {number} is malformed: {shown(line.strip())}") from None
            yield point
    if not number:
        raise ValueError("it is empty")


def _point(parts: list[str], of_model: bool) -> Point:
    step = int(parts[2]) if of_model or len(parts) > 2 else 0
    more = parts[3:]
    words = more[1:] if of_model else more
    if len(words) == 1 or (of_model and not more):  # a digest has a name before it
        raise ValueError
    return Point(integer("", int(parts[0])), float(parts[1]), integer("", step), more)


def _refuse_no_file(path: Path) -> None:
    """Refuse what is there and no file: a pipe may never end."""
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
