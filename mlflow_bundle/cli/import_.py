"""``import-all``, ``import-models``, ``import-experiments``, ``import``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.options import InputPath
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
class ImportSettings:
    """What all four commands take."""

    bundle: InputPath
    tracking_uri: str | None
    experiment_name_prefix: str
    rename_experiment: dict[str, str]
    rename_model: dict[str, str]
    use_src_user_id: bool
    delete_model: bool
    on_conflict: Any
    with_earlier_versions: bool
    renumber: bool
    artifacts: Any
    steal: bool
    jobs: int
    dry_run: bool
    as_json: bool
    strict: bool
    quiet: bool
    verbose: bool


_common = settings_options(
    ImportSettings,
    options.input_options,
    options.tracking_uri_option,
    options.experiment_name_prefix_option,
    options.rename_options,
    options.use_src_user_id_option,
    options.delete_model_option,
    options.on_conflict_option,
    options.version_options,
    options.artifacts_option,
    options.steal_option,
    options.jobs_options,
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
@_common
def import_all(settings: ImportSettings) -> int:
    return _import("import-all", Selection.all(), settings)


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
    from mlflow_bundle.bundles.source import BundleSource
    from mlflow_bundle.cli import report as reports
    from mlflow_bundle.cli.tracking import importing_user, tracking_uri
    from mlflow_bundle.errors import FormatError
    from mlflow_bundle.report import Report
    from mlflow_bundle.rest.destination import ImportOptions
    from mlflow_bundle.rest.sink import RestSink
    from mlflow_bundle.transfer import transfer

    report = Report(command, dry_run=settings.dry_run)
    progress = make_progress(quiet=settings.quiet, stream=sys.stderr)
    bundle = settings.bundle
    source = BundleSource(
        open_tree(bundle.path, is_directory=bundle.is_directory),
        name="standard input" if bundle.is_stdin else bundle.path,
        with_earlier_versions=settings.with_earlier_versions,
    )
    try:
        sink = RestSink(
            tracking_uri(settings.tracking_uri),
            report,
            options=ImportOptions(
                experiment_name_prefix=settings.experiment_name_prefix,
                rename_experiments=settings.rename_experiment,
                rename_models=settings.rename_model,
                use_src_user_id=settings.use_src_user_id,
                user=importing_user(),
                on_conflict=settings.on_conflict,
                delete_model=settings.delete_model,
                renumber=settings.renumber,
                steal=settings.steal,
                artifacts=settings.artifacts,
            ),
            jobs=settings.jobs,
            progress=progress,
        )
        report.destination = sink.shown_uri
        try:
            source.require_names(settings.rename_experiment, settings.rename_model)
            transfer(
                source,
                sink,
                selection,
                report,
                jobs=settings.jobs,
                examine_first=settings.on_conflict == "fail",
                progress=progress,
            )
            report.requests = sink.requests
        except FormatError as exc:
            exc.hint = exc.hint or (
                f"`mlflow bundle verify {bundle.path}` lists the damage; what was imported stays, "
                "and importing a sound bundle completes it"
            )
            raise
        finally:
            sink.close()
    finally:
        source.close()
    return reports.finish(
        report, as_json=settings.as_json, strict=settings.strict, verbose=settings.verbose
    )
