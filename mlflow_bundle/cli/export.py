"""``export-all``, ``export-models``, ``export-experiments``, ``export``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.options import OutputPath
from mlflow_bundle.cli.progress import make_progress
from mlflow_bundle.cli.settings import settings_options
from mlflow_bundle.cli.tracking import DatabaseOptions
from mlflow_bundle.selection import (
    ALL_MODELS,
    ModelPattern,
    NamePattern,
    Selection,
)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What all four commands take."""

    output: OutputPath
    tracking_uri: str | None
    database: DatabaseOptions
    workspace: tuple[str, ...]
    artifacts: Any
    export_source_tags: bool
    notebook_formats: tuple[str, ...]
    list_label_schemas: bool
    jobs: int
    retry_for_s: float
    fail_fast: bool
    level: int
    restart: bool
    complete: str | None
    dry_run: bool
    as_json: bool
    strict: bool
    quiet: bool
    verbose: bool


_common = settings_options(
    ExportSettings,
    options.output_options,
    options.tracking_uri_option,
    options.database_options(verb="export"),
    options.workspace_option(
        verb="export",
        default_text="MLFLOW_WORKSPACE; export-all: all that the user may see, others: default",
    ),
    options.artifacts_option,
    options.export_source_tags_option,
    options.notebook_formats_option,
    options.list_label_schemas_option,
    options.jobs_options,
    options.retry_for_option,
    options.fail_fast_option,
    options.level_option,
    options.restart_option,
    options.complete_option,
    options.dry_run_option,
    options.strict_option,
    options.json_option,
    options.quiet_option,
    options.verbose_option,
)

_RE_RUN = (
    "A bundle appears under its name only when it is complete; what exists is replaced only with "
    "--force. After an interruption give the same command again: it goes on from NAME.partial and "
    "asks the server only for what is missing."
)


@bundle_command("export-all", help=f"Export everything a server holds to a bundle.\n\n{_RE_RUN}")
@options.window_options
@options.auth_db_option(verb="export")
@_common
def export_all(
    since_ms: int | None, until_ms: int | None, auth_db: str | None, settings: ExportSettings
) -> int:
    selection = Selection(everything=True, since_ms=since_ms, until_ms=until_ms)
    database = replace(settings.database, auth_db=auth_db)
    return _export("export-all", selection, replace(settings, database=database))


@bundle_command(
    "export-models",
    help="Export registered models with their versions' runs and those runs' experiments.\n\n"
    + _RE_RUN,
)
@options.models_option(verb="export")
@options.stages_option
@options.export_all_runs_option
@_common
def export_models(
    models: tuple[ModelPattern, ...],
    stages: tuple[str, ...],
    export_all_runs: bool,
    settings: ExportSettings,
) -> int:
    selection = Selection(
        models=models or ALL_MODELS, stages=stages, export_all_runs=export_all_runs
    )
    return _export("export-models", selection, settings)


@bundle_command("export-experiments", help=f"Export experiments with their runs.\n\n{_RE_RUN}")
@options.experiments_option(verb="export", required=True)
@options.window_options
@_common
def export_experiments(
    experiments: tuple[NamePattern, ...],
    since_ms: int | None,
    until_ms: int | None,
    settings: ExportSettings,
) -> int:
    selection = Selection(experiments=experiments, since_ms=since_ms, until_ms=until_ms)
    return _export("export-experiments", selection, settings)


@bundle_command(
    "export",
    help=f"Export any mixture of models, experiments and runs, with what they need.\n\n{_RE_RUN}",
)
@options.models_option(verb="export", default_text="none")
@options.experiments_option(verb="export", default_text="none")
@options.run_ids_option(verb="export")
@options.window_options
@options.stages_option
@options.export_all_runs_option
@_common
def export(
    models: tuple[ModelPattern, ...],
    experiments: tuple[NamePattern, ...],
    run_ids: tuple[str, ...],
    since_ms: int | None,
    until_ms: int | None,
    stages: tuple[str, ...],
    export_all_runs: bool,
    settings: ExportSettings,
) -> int:
    selection = Selection(
        models=models,
        experiments=experiments,
        run_ids=run_ids,
        since_ms=since_ms,
        until_ms=until_ms,
        stages=stages,
        export_all_runs=export_all_runs,
    ).in_window()
    if selection.is_empty:
        raise click.UsageError(
            "Nothing is selected: give --models, --experiments, --run-ids, --since or --until; "
            "export-all exports everything."
        )
    return _export("export", selection, settings)


def _export(command: str, selection: Selection, settings: ExportSettings) -> int:
    from mlflow_bundle.bundles.completing import OldExport
    from mlflow_bundle.bundles.opening import check_output, open_writer
    from mlflow_bundle.bundles.resume import find_unfinished
    from mlflow_bundle.bundles.sink import BundleSink, ExportOptions
    from mlflow_bundle.cli import report as reports
    from mlflow_bundle.cli.tracking import (
        open_auth_source,
        open_host,
        open_source,
        tracking_uri,
        workspaces_in_use,
    )
    from mlflow_bundle.contracts import Source
    from mlflow_bundle.errors import SourceError
    from mlflow_bundle.kinds.workspaces import DEFAULT_WORKSPACE
    from mlflow_bundle.patience import Patience
    from mlflow_bundle.report import Report
    from mlflow_bundle.transfer import transfer
    from mlflow_bundle.workspaces import EmptySource, choose, export_workspaces

    output = settings.output
    if output.is_stdout and settings.as_json:
        raise click.UsageError("--json and -o - both want standard output.")
    if settings.notebook_formats and settings.artifacts != "copy":
        raise click.UsageError(
            "--notebook-formats puts notebooks among the artifacts, which "
            f"--artifacts {settings.artifacts} leaves out."
        )
    if not settings.dry_run:
        check_output(output.path, is_directory=output.is_directory, force=output.force)
    report = Report(command, dry_run=settings.dry_run, fail_fast=settings.fail_fast)
    report.destination = "standard output" if output.is_stdout else output.path
    progress = make_progress(quiet=settings.quiet, stream=sys.stderr)
    uri = tracking_uri(settings.tracking_uri)
    patience = Patience(settings.retry_for_s, say=progress.message)
    server = open_host(uri, error=SourceError, patience=patience)
    auth = open_auth_source(settings.database)
    selection = replace(selection, workspaces=settings.workspace or workspaces_in_use())
    names = choose(server, selection)
    export_options = ExportOptions(
        export_source_tags=settings.export_source_tags,
        stages=",".join(selection.stages) or "Production,Staging,Archived,None",
        notebook_formats=",".join(settings.notebook_formats),
        artifacts=settings.artifacts,
        auth_db=auth is not None,
        include_secrets=settings.database.include_secrets,
    )
    old = OldExport(settings.complete) if settings.complete is not None else None
    if old is not None:
        old.require_same(server.shown_uri, selection, export_options)
        old.report_adjustments(report)
        names = old.choose(names, report)
    if len(names) > 1 and not selection.everything:
        raise click.UsageError(f"{command} exports from one workspace; export-all from many.")
    opened: list[Source] = []

    def open_workspace(workspace: str | None) -> Source:
        source = open_source(
            uri,
            host=server,
            jobs=settings.jobs,
            artifacts=settings.artifacts,
            notebook_formats=settings.notebook_formats,
            list_label_schemas=settings.list_label_schemas,
            workspace=workspace,
            database=settings.database,
            auth=auth,
            patience=patience,
        )
        opened.append(source)
        return source if old is None else old.source(workspace, source)

    if DEFAULT_WORKSPACE in names:
        source = open_workspace(DEFAULT_WORKSPACE if server.enabled else None)
    else:
        source = EmptySource(server.info)
    unfinished = None
    if not (output.is_stdout or output.is_directory or settings.dry_run or settings.restart):
        unfinished = find_unfinished(
            output.path, force=output.force, level=settings.level, jobs=min(settings.jobs, 4)
        )
    try:
        sink = BundleSink(
            open_writer(
                output.path,
                is_directory=output.is_directory,
                force=output.force,
                keep_partial=True,
                level=settings.level,
                jobs=min(settings.jobs, 4),
            ),
            report,
            options=export_options,
            unfinished=unfinished,
            progress=progress,
        )

        def export_others() -> None:
            export_workspaces(
                server,
                names,
                sink,
                open_workspace,
                selection,
                report,
                jobs=settings.jobs,
                progress=progress,
            )

        with report.until_a_loss():
            transfer(
                source,
                sink,
                selection,
                report,
                jobs=settings.jobs,
                progress=progress,
                inside=export_others,
            )
        report.requests = server.requests + sum(source.requests for source in opened)
    finally:
        source.close()
        if old is not None:
            old.close()
    return reports.finish(
        report, as_json=settings.as_json, strict=settings.strict, verbose=settings.verbose
    )
