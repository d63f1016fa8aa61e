"""Which MLflow a database belongs to, by the revision of its schema."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_bundle.errors import SelectionError
from mlflow_bundle.kinds import NEWEST_MLFLOW
from mlflow_bundle.sql.database import Database

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

FIRST_VERSION = {
    "97727af70f4d": "2.0",
    "3500859a5d39": "2.3",
    "7f2a7d5fae7d": "2.4",
    "acf3f17fdcc7": "2.8",
    "5b0e9adcef9c": "2.13",
    "4465047574b1": "2.15",
    "f5a4f2784254": "2.17",
    "0584bdc529eb": "2.18",
    "bda7b8c39065": "3.0",
    "770bee3ae1dd": "3.2",
    "1a0cddfcaa16": "3.3",
    "71994744cf8e": "3.4",
    "bf29a5ff90ea": "3.5",
    "1bd49d398cd23": "3.8",
    "d3e4f5a6b7c8": "3.9",
    "1b5f0d9ad7c1": "3.10",
    "c3d6457b6d8a": "3.11",
    "7d34483879f0": "3.12",
    "da6fb0208061": "3.13",
    "b7e4c1a90f23": "3.14",
    "6f8d9c3b2a1e": "3.15",
    "b7e2c1a4d9f3": "3.16",
    "dc11669786a5": "3.17",
    "f4a9b2c7d1e6": "3.18",
}
"""Last revision of a minor version to the first version that has it."""

_LAST_REVISION = {version: revision for revision, version in FIRST_VERSION.items()}[
    ".".join(map(str, NEWEST_MLFLOW))
]


OLDEST_WRITTEN = "3.17"
"""First version whose schema is written: older ones keep the same things in other columns."""


def version_of(database: Database) -> str:
    """Return the oldest MLflow version whose schema this is; empty when that is not known."""
    return FIRST_VERSION.get(database.revision, "")


def migrations(below: str = "store/db_migrations") -> ScriptDirectory:
    """Return the revisions that the installed MLflow knows.

    Args:
        below: Where MLflow keeps them; without it those of the tracking data.
    """
    from alembic.script import ScriptDirectory

    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    return ScriptDirectory(str(Path(spec.origin).parent / below))


def revisions_of(scripts: ScriptDirectory) -> set[str]:
    """Return the names of all revisions."""
    return {script.revision for script in scripts.walk_revisions()}


def require_writing() -> None:
    """Refuse to write where the installed MLflow is of before :data:`OLDEST_WRITTEN`.

    Raises:
        SelectionError: It is.
    """
    needed = next(
        revision for revision, version in FIRST_VERSION.items() if version == OLDEST_WRITTEN
    )
    if needed in revisions_of(migrations()):
        return
    from mlflow.version import VERSION

    raise SelectionError(
        f"databases are written with MLflow {OLDEST_WRITTEN} or newer, and {VERSION} is installed "
        "here",
        hint=f"pip install 'mlflow>={OLDEST_WRITTEN}' (a server of that version has to read the "
        "database then), or import through the server: --tracking-uri http://…",
    )


def is_unknown(database: Database) -> bool:
    """Whether a database has a schema that came after that of :data:`NEWEST_MLFLOW`.

    Tables and columns that it may have beyond them are not read. Databases between two of these
    versions are known by the migrations of the installed MLflow.
    """
    revision = database.revision
    if not revision or revision in FIRST_VERSION:
        return False
    scripts = migrations()
    known = revisions_of(scripts)
    if _LAST_REVISION in known:
        known = {script.revision for script in scripts.iterate_revisions(_LAST_REVISION, "base")}
    return revision not in known
