"""``--user-map FILE``: which user of the source is which user at the destination.

A CSV file in UTF-8 without a heading, one ``source,destination`` a line::

    # everybody who has changed their name
    ana,ana.lopez@example.org
    "Li, Wei",wei.li@example.org

Empty lines and lines that begin with ``#`` are passed over, space around a name is no part of it,
and a name with a comma stands in double quotes. Users who are not listed stay as they are. Every
name is looked up once: two lines ``a,b`` and ``b,a`` exchange two users.
"""

from __future__ import annotations

import csv
from pathlib import Path

from mlflow_bundle.errors import SelectionError

_HINT = "each line is source,destination; a name with a comma stands in double quotes"


def read_user_map(path: str | Path) -> dict[str, str]:
    """Return the user at the destination by the user at the source.

    Raises:
        SelectionError: The file cannot be read, a line does not hold two names, or a source user
            stands there twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SelectionError(
            f"{path}: byte {exc.start} is not UTF-8", hint="save it as UTF-8"
        ) from exc
    except OSError as exc:
        raise SelectionError(f"{path}: {exc.strerror or exc}") from exc
    users: dict[str, str] = {}
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        old, new = _names(line, where := f"{path}, line {number}")
        if old in users:
            raise SelectionError(
                f"{where}: {old!r} stands in line {first_line[old]} already",
                hint="remove one of the two lines",
            )
        users[old], first_line[old] = new, number
    return users


def _names(line: str, where: str) -> tuple[str, str]:
    try:
        (cells,) = csv.reader([line], strict=True, skipinitialspace=True)
    except csv.Error as exc:
        raise SelectionError(f"{where}: {exc}", hint=_HINT) from exc
    names = [cell.strip() for cell in cells]
    if len(names) != 2:
        raise SelectionError(f"{where}: {len(names)} names where 2 belong", hint=_HINT)
    if not all(names):
        raise SelectionError(f"{where}: an empty name", hint=_HINT)
    return names[0], names[1]
