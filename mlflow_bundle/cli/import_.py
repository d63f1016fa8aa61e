"""``import-all``, ``import-models``, ``import-experiments``, ``import``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.options import InputPath
from mlflow_bundle.cli.progress import make_progress
from mlflow_bundle.cli.settings import WriteSettings, settings_options
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.selection import (
    ALL_EXPERIMENTS,
    ALL_MODELS,
    ModelPattern,
    NamePattern,
    Selection,
)

if TYPE_CHECKING:
    from mlflow_bundle.contracts import Source
    from mlflow_bundle.diff import Comparison
    from mlflow_bundle.progress import Progress
    from mlflow_bundle.report import Loss


@dataclass(frozen=True, kw_only=True)
class ImportSettings(WriteSettings):
    """What all four commands take."""

    bundle: InputPath
    with_earlier_versions: bool
    verify: bool


_common = settings_options(
    ImportSettings,
    options.input_options,
    options.tracking_uri_option,
    options.database_options(verb="import"),
    options.workspace_option(verb="import", default_text="all of the bundle"),
    options.workspace_map_option,
    options.experiment_name_prefix_option,
    options.rename_options,
    options.use_src_user_id_option,
    options.user_map_option,
    options.tag_option,
    options.delete_model_option,
    options.on_conflict_option,
    options.version_options,
    options.artifacts_option,
    options.rewrite_location_option,
    options.placeholder_secrets_option,
    options.steal_option,
    options.verify_option,
    options.jobs_options,
    options.retry_for_option,
    options.fail_fast_option,
    options.dry_run_option,
    options.strict_option,
    options.json_option,
    options.quiet_option,
    options.verbose_option,
)

_RE_RUN = (
    "Importing the same bundle again creates nothing twice: what is there is kept, what is "
    "missing is added, and an interrupted import goes on."
)


@bundle_command("import-all", help=f"Import everything a bundle holds.\n\n{_RE_RUN}")
@options.auth_db_option(verb="import")
@_common
def import_all(auth_db: str | None, settings: ImportSettings) -> int:
    database = replace(settings.database, auth_db=auth_db)
    return _import("import-all", Selection.all(), replace(settings, database=database))


@bundle_command(
    "import-models",
    help="Import the registered models of a bundle with their versions' runs and the other "
    f"runs of those experiments.\n\n{_RE_RUN}",
)
@options.models_option(verb="import")
@_common
def import_models(models: tuple[ModelPattern, ...], settings: ImportSettings) -> int:
    # What the export put beside the models, with --export-all-runs, comes with them.
    selection = Selection(models=models or ALL_MODELS, export_all_runs=True)
    return _import("import-models", selection, settings)


@bundle_command(
    "import-experiments", help=f"Import the experiments of a bundle with their runs.\n\n{_RE_RUN}"
)
@options.experiments_option(verb="import")
@_common
def import_experiments(experiments: tuple[NamePattern, ...], settings: ImportSettings) -> int:
    selection = Selection(experiments=experiments or ALL_EXPERIMENTS)
    return _import("import-experiments", selection, settings)


@bundle_command(
    "import",
    help="Import a part of a bundle with what it depends on, reading only those bytes.\n\n"
    + _RE_RUN,
)
@options.models_option(verb="import", default_text="none")
@options.experiments_option(verb="import", default_text="none")
@options.run_ids_option(verb="import")
@_common
def import_(
    models: tuple[ModelPattern, ...],
    experiments: tuple[NamePattern, ...],
    run_ids: tuple[str, ...],
    settings: ImportSettings,
) -> int:
    selection = Selection(models=models, experiments=experiments, run_ids=run_ids)
    if selection.is_empty:
        raise click.UsageError(
            "Nothing is selected: give --models, --experiments or --run-ids; import-all imports "
            "everything."
        )
    return _import("import", selection, settings)


def _import(command: str, selection: Selection, settings: ImportSettings) -> int:
    from mlflow_bundle.bundles.opening import open_tree
    from mlflow_bundle.cli import report as reports
    from mlflow_bundle.cli.tracking import (
        import_options_of,
        open_auth_destination,
        open_host,
        open_sink,
        tracking_uri,
        workspace_in_use,
    )
    from mlflow_bundle.contracts import Sink
    from mlflow_bundle.diff.result import joined
    from mlflow_bundle.errors import FormatError, SinkError
    from mlflow_bundle.patience import Patience
    from mlflow_bundle.report import Report
    from mlflow_bundle.workspaces import BundleImport, Targets

    if settings.verify and settings.dry_run:
        raise click.UsageError("Give one of --verify and --dry-run; not both.")
    report = Report(command, dry_run=settings.dry_run, fail_fast=settings.fail_fast)
    verification: Comparison | None = None
    progress = make_progress(quiet=settings.quiet, stream=sys.stderr)
    bundle = settings.bundle
    opened: list[Sink] = []
    tree = open_tree(bundle.path, is_directory=bundle.is_directory)
    try:
        uri = tracking_uri(settings.tracking_uri)
        import_options = import_options_of(settings, to=uri)
        patience = Patience(settings.retry_for_s, say=progress.message)
        auth = open_auth_destination(settings.database)
        server = open_host(uri, error=SinkError, patience=patience)
        report.destination = server.shown_uri

        def open_workspace(workspace: str | None, part: Report) -> Sink:
            sink = open_sink(
                uri,
                part,
                options=import_options,
                jobs=settings.jobs,
                progress=progress,
                workspace=workspace,
                database=settings.database,
                auth=auth,
                patience=patience,
            )
            opened.append(sink)
            return sink

        def check(source: Source, losses: list[Loss], workspace: str | None) -> None:
            nonlocal verification
            found = _verify(source, losses, selection, settings, workspace, progress)
            verification = found if verification is None else joined(verification, found)

        arrivals = BundleImport(
            tree,
            server,
            open_workspace,
            report,
            targets=Targets(mapping=settings.workspace_map, in_use=workspace_in_use()),
            name="standard input" if bundle.is_stdin else bundle.path,
            with_earlier_versions=settings.with_earlier_versions,
            on_conflict=settings.on_conflict,
        )
        with report.until_a_loss():
            arrivals.run(
                replace(selection, workspaces=settings.workspace),
                then=check if settings.verify else None,
                rename_experiments=settings.rename_experiment,
                rename_models=settings.rename_model,
                jobs=settings.jobs,
                progress=progress,
            )
        report.requests = server.requests + sum(sink.requests for sink in opened)
    except FormatError as exc:
        exc.hint = exc.hint or (
            f"`mlflow bundle verify {bundle.path}` lists the damage; what was imported stays, "
            "and importing a sound bundle completes it"
        )
        raise
    finally:
        tree.close()
    return reports.finish(
        report,
        as_json=settings.as_json,
        strict=settings.strict,
        verbose=settings.verbose,
        verification=verification,
    )


def _verify(
    source: Source,
    losses: list[Loss],
    selection: Selection,
    settings: ImportSettings,
    workspace: str | None,
    progress: Progress,
) -> Comparison:
    """Return whether all that was selected of a workspace is at the server now."""
    from mlflow_bundle.cli.tracking import (
        open_auth_source,
        open_host,
        open_source,
        tracking_uri,
    )
    from mlflow_bundle.diff import Expected, compare
    from mlflow_bundle.errors import SourceError
    from mlflow_bundle.patience import Patience

    uri = tracking_uri(settings.tracking_uri)
    patience = Patience(settings.retry_for_s, say=progress.message)
    server = open_source(
        uri,
        host=open_host(uri, error=SourceError, patience=patience),
        jobs=settings.jobs,
        workspace=workspace,
        database=settings.database,
        auth=open_auth_source(settings.database),
        patience=patience,
    )
    try:
        result = compare(
            source,
            server,
            selection,
            expected=Expected(
                experiment_name_prefix=settings.experiment_name_prefix,
                rename_experiments=settings.rename_experiment,
                rename_models=settings.rename_model,
                users=settings.user_map,
                keeps_users=settings.use_src_user_id,
                extra_tags=settings.tag,
                rewrite_locations=settings.rewrite_location,
            ),
            one_sided=True,
            artifacts="digest" if settings.artifacts == "copy" else "skip",
            lost_by_export={"a": losses},
            progress=progress,
        )
        bundle = settings.bundle
        result.a = "standard input" if bundle.is_stdin else mask_uri(bundle.path)
    finally:
        server.close()
    return result
