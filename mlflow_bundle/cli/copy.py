"""``copy``: from one server or database straight into another, without a file between."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.progress import make_progress
from mlflow_bundle.cli.settings import WriteSettings, settings_options
from mlflow_bundle.cli.tracking import DatabaseOptions
from mlflow_bundle.selection import ModelPattern, NamePattern, Selection


@dataclass(frozen=True, kw_only=True)
class CopySettings(WriteSettings):
    """Everything but what is copied."""

    to: str
    to_database: DatabaseOptions
    list_label_schemas: bool


@bundle_command("copy")
@options.models_option(verb="copy")
@options.experiments_option(verb="copy")
@options.run_ids_option(verb="copy")
@options.window_options
@options.stages_option
@options.export_all_runs_option
@options.copy_auth_db_options
@settings_options(
    CopySettings,
    options.tracking_uri_option,
    options.to_option,
    options.copy_database_options,
    options.workspace_option(verb="copy", default_text="as of export-all and export"),
    options.workspace_map_option,
    options.experiment_name_prefix_option,
    options.rename_options,
    options.use_src_user_id_option,
    options.user_map_option,
    options.tag_option,
    options.delete_model_option,
    options.on_conflict_option,
    options.renumber_option,
    options.artifacts_option,
    options.rewrite_location_option,
    options.placeholder_secrets_option,
    options.list_label_schemas_option,
    options.steal_option,
    options.jobs_options,
    options.retry_for_option,
    options.fail_fast_option,
    options.dry_run_option,
    options.strict_option,
    options.json_option,
    options.quiet_option,
    options.verbose_option,
)
def command(
    models: tuple[ModelPattern, ...],
    experiments: tuple[NamePattern, ...],
    run_ids: tuple[str, ...],
    since_ms: int | None,
    until_ms: int | None,
    stages: tuple[str, ...],
    export_all_runs: bool,
    auth_db: str | None,
    to_auth_db: str | None,
    settings: CopySettings,
) -> int:
    """Copy a server, or a part of it, straight into another, without a file between.

    Each side is a server or its database; what is selected and how it arrives is as of export and
    import. Without models, experiments, run ids and times everything is copied. Copying again
    creates nothing twice: what is there is kept, what is missing is added, and an interrupted copy
    goes on.
    """
    from mlflow_bundle.cli import report as reports
    from mlflow_bundle.cli.tracking import (
        import_options_of,
        open_auth_destination,
        open_auth_source,
        open_host,
        open_sink,
        open_source,
        tracking_uri,
        workspaces_in_use,
    )
    from mlflow_bundle.contracts import Sink, Source
    from mlflow_bundle.errors import SinkError, SourceError
    from mlflow_bundle.patience import Patience
    from mlflow_bundle.report import Report
    from mlflow_bundle.workspaces import Copy, Targets, choose

    workspaces = settings.workspace or workspaces_in_use()
    selection = Selection(
        models=models,
        experiments=experiments,
        run_ids=run_ids,
        since_ms=since_ms,
        until_ms=until_ms,
        stages=stages,
        export_all_runs=export_all_runs,
        workspaces=workspaces,
    ).in_window()
    if selection.is_empty:
        if stages:
            raise click.UsageError("--stages chooses versions of --models: give them too, or all.")
        selection = replace(Selection.all(), workspaces=workspaces)
    if auth_db is not None and not selection.everything:
        raise click.UsageError("--auth-db: users and roles are copied with everything only.")
    database = replace(settings.database, auth_db=auth_db)
    to_database = replace(settings.to_database, auth_db=to_auth_db)
    report = Report("copy", dry_run=settings.dry_run, fail_fast=settings.fail_fast)
    progress = make_progress(quiet=settings.quiet, stream=sys.stderr)
    uri, to = tracking_uri(settings.tracking_uri), tracking_uri(settings.to)
    import_options = import_options_of(settings, to=to)
    origin_patience, patience = (
        Patience(settings.retry_for_s, say=progress.message) for _ in range(2)
    )
    origin = open_host(uri, error=SourceError, patience=origin_patience)
    auth, to_auth = open_auth_source(database), open_auth_destination(to_database)
    server = open_host(to, error=SinkError, patience=patience)
    if origin.shown_uri == server.shown_uri:
        raise click.UsageError("--to names what --tracking-uri names: nothing would be copied.")
    report.destination = server.shown_uri
    names = choose(origin, selection)
    if len(names) > 1 and not selection.everything:
        raise click.UsageError("A part is copied from one workspace; everything from many.")
    opened: list[Source | Sink] = []

    def open_origin(workspace: str | None) -> Source:
        source = open_source(
            uri,
            host=origin,
            jobs=settings.jobs,
            artifacts=settings.artifacts,
            list_label_schemas=settings.list_label_schemas,
            workspace=workspace,
            database=database,
            auth=auth,
            patience=origin_patience,
        )
        opened.append(source)
        return source

    def open_destination(workspace: str | None, part: Report) -> Sink:
        sink = open_sink(
            to,
            part,
            options=import_options,
            jobs=settings.jobs,
            progress=progress,
            workspace=workspace,
            database=to_database,
            auth=to_auth,
            patience=patience,
        )
        opened.append(sink)
        return sink

    copy = Copy(
        origin,
        open_origin,
        server,
        open_destination,
        report,
        targets=Targets(mapping=settings.workspace_map),
        on_conflict=settings.on_conflict,
    )
    with report.until_a_loss():
        copy.run(
            names,
            selection,
            rename_experiments=settings.rename_experiment,
            rename_models=settings.rename_model,
            jobs=settings.jobs,
            progress=progress,
        )
    report.requests = origin.requests + server.requests + sum(side.requests for side in opened)
    return reports.finish(
        report, as_json=settings.as_json, strict=settings.strict, verbose=settings.verbose
    )
