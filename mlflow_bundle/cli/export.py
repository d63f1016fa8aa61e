"""``export-all``, ``export-models``, ``export-experiments``, ``export``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.options import OutputPath
from mlflow_bundle.cli.progress import make_progress
from mlflow_bundle.cli.settings import settings_options
from mlflow_bundle.selection import (
    ALL_EXPERIMENTS,
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
    artifacts: Any
    export_source_tags: bool
    notebook_formats: tuple[str, ...]
    jobs: int
    level: int
    dry_run: bool
    as_json: bool
    strict: bool
    quiet: bool
    verbose: bool


_common = settings_options(
    ExportSettings,
    options.output_options,
    options.tracking_uri_option,
    options.artifacts_option,
    options.export_source_tags_option,
    options.notebook_formats_option,
    options.jobs_options,
    options.level_option,
    options.dry_run_option,
    options.strict_option,
    options.json_option,
    options.quiet_option,
    options.verbose_option,
)

_RE_RUN = (
    "A bundle appears under its name only when it is complete; what exists is replaced only with "
    "--force."
)


@bundle_command("export-all", help=f"Export everything a server holds to a bundle.\n\n{_RE_RUN}")
@options.window_options
@_common
def export_all(since_ms: int | None, until_ms: int | None, settings: ExportSettings) -> int:
    selection = Selection(everything=True, since_ms=since_ms, until_ms=until_ms)
    return _export("export-all", selection, settings)


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
    if (since_ms is not None or until_ms is not None) and not (models or experiments or run_ids):
        experiments = ALL_EXPERIMENTS
    selection = Selection(
        models=models,
        experiments=experiments,
        run_ids=run_ids,
        since_ms=since_ms,
        until_ms=until_ms,
        stages=stages,
        export_all_runs=export_all_runs,
    )
    if selection.is_empty:
        raise click.UsageError(
            "Nothing is selected: give --models, --experiments, --run-ids, --since or --until; "
            "export-all exports everything."
        )
    return _export("export", selection, settings)


def _export(command: str, selection: Selection, settings: ExportSettings) -> int:
    from mlflow_bundle.bundles.opening import check_output, open_writer
    from mlflow_bundle.bundles.sink import BundleSink, ExportOptions
    from mlflow_bundle.cli import report as reports
    from mlflow_bundle.cli.tracking import tracking_uri
    from mlflow_bundle.report import Report
    from mlflow_bundle.rest.source import RestSource
    from mlflow_bundle.transfer import transfer

    output = settings.output
    if output.is_stdout and settings.as_json:
        raise click.UsageError("--json and -o - both want standard output.")
    if not settings.dry_run:
        check_output(output.path, is_directory=output.is_directory, force=output.force)
    report = Report(command, dry_run=settings.dry_run)
    report.destination = "standard output" if output.is_stdout else output.path
    progress = make_progress(quiet=settings.quiet, stream=sys.stderr)
    source = RestSource(
        tracking_uri(settings.tracking_uri), jobs=settings.jobs, artifacts=settings.artifacts
    )
    try:
        sink = BundleSink(
            open_writer(
                output.path,
                is_directory=output.is_directory,
                force=output.force,
                level=settings.level,
                jobs=min(settings.jobs, 4),
            ),
            report,
            options=ExportOptions(
                export_source_tags=settings.export_source_tags,
                stages=",".join(selection.stages) or "Production,Staging,Archived,None",
                notebook_formats=",".join(settings.notebook_formats),
            ),
            progress=progress,
        )
        transfer(source, sink, selection, report, jobs=settings.jobs, progress=progress)
        report.requests = source.requests
    finally:
        source.close()
    return reports.finish(
        report, as_json=settings.as_json, strict=settings.strict, verbose=settings.verbose
    )
