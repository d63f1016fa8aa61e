"""Places with a database each, and bundles between them: in this process and by command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_bundle.bundles.opening import open_tree
from mlflow_bundle.bundles.source import BundleSource
from mlflow_bundle.errors import SinkError
from mlflow_bundle.importing import ImportOptions
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.sink import SqlSink
from mlflow_bundle.transfer import transfer
from mlflow_bundle.workspaces import workspace_view
from tests.servers import prepare_directory
from tests.transfer.commands import command


@dataclass(frozen=True)
class Place:
    """A database with the artifacts that belong to it."""

    uri: str
    artifacts: Path

    @property
    def file(self) -> Path:
        """The file of an SQLite database."""
        return Path(self.uri.removeprefix("sqlite:///"))


def place(directory: Path) -> Place:
    """A place with an SQLite database, which is made by an import."""
    directory.mkdir(exist_ok=True)
    return Place(f"sqlite:///{directory}/mlflow.db", directory / "artifacts")


def import_into(
    place: Place,
    bundle: Path,
    *,
    selection: Selection | None = None,
    dry_run: bool = False,
    include_secrets: bool = False,
    **options: Any,
) -> Report:
    """Import a bundle; ``options`` as of `ImportOptions`."""
    report = Report("import-all", dry_run=dry_run)
    place.artifacts.mkdir(exist_ok=True)
    tree = open_tree(str(bundle), is_directory=bundle.is_dir())
    source = BundleSource(workspace_view(tree, ""), name=str(bundle))
    try:
        sink = SqlSink(
            place.uri,
            report,
            options=ImportOptions(**options),
            artifact_store=ArtifactStore(
                artifacts_destination=str(place.artifacts), error=SinkError
            ),
            include_secrets=include_secrets,
        )
        try:
            transfer(source, sink, selection or Selection.all(), report, jobs=2)
        finally:
            sink.close()
    finally:
        source.close()
        tree.close()
    return report


def made(directory: Path) -> Place:
    """A place with an initialised database, in which nothing is yet."""
    database, artifacts = prepare_directory(directory)
    return Place(f"sqlite:///{database}", artifacts)


def exported(place: Place, bundle: Path, *options: str, expect: int = 0) -> Any:
    return _told(
        *("export-all", "-o", bundle, "--force", "--tracking-uri", place.uri),
        *("--artifacts-destination", place.artifacts, *options),
        expect=expect,
    )


def imported(place: Place, bundle: Path, *options: str, expect: int = 0) -> Any:
    return _told(
        *("import-all", bundle, "--tracking-uri", place.uri),
        *("--artifacts-destination", place.artifacts, *options),
        expect=expect,
    )


def _told(*words: str | Path, expect: int) -> Any:
    return json.loads(command(*words, "--json", "--quiet", expect=expect).stdout)
