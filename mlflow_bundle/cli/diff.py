"""``diff``: where two bundles, directories or servers differ."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import (
    DONE,
    FAILED,
    INTERRUPTED,
    LOSSES,
    REFUSED,
    USAGE,
    print_json,
    standard_output,
)
from mlflow_bundle.cli.progress import make_progress
from mlflow_bundle.selection import ModelPattern, NamePattern, Selection

if TYPE_CHECKING:
    from mlflow_bundle.cli.tracking import DatabaseOptions
    from mlflow_bundle.diff import Expected


@bundle_command(
    "diff",
    codes=(DONE, FAILED, USAGE, LOSSES, REFUSED, INTERRUPTED),
    meanings={DONE: "equal", LOSSES: "differences, or something could not be read"},
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.models_option(verb="compare")
@options.experiments_option(verb="compare")
@options.run_ids_option(verb="compare")
@options.compared_workspaces_options
@options.expectations_options
@options.compared_databases_options
@options.comparison_options
@options.jobs_options
@options.json_option
@options.quiet_option
@options.verbose_option
def command(
    a: str,
    b: str,
    models: tuple[ModelPattern, ...],
    experiments: tuple[NamePattern, ...],
    run_ids: tuple[str, ...],
    workspace: tuple[str, ...],
    workspace_map: dict[str, str],
    expected: Expected,
    a_database: DatabaseOptions,
    b_database: DatabaseOptions,
    artifacts: Any,
    strict: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Tell where two bundles, directories or servers differ.

    A and B are each a bundle, a directory of the same layout, or a tracking URI, which may be a
    database or a file store (./mlruns). Shows what exists on one side only and which fields differ:
    params, tags, each point of the metric histories, each artifact. Reads both and changes neither.

    An experiment is the same by its name, a run or logged model by its id or by the id that it had
    at its first home, a registered model by its name; each workspace is compared with that of its
    name. What MLflow's API cannot set (ids, creation times, locations) is counted and is no
    difference, unless --strict is given. Prefix, new names, users, tags and --workspace-map say
    what B has in the place of A's: give those of the import that made B.
    """
    from mlflow_bundle.cli import differences, sides
    from mlflow_bundle.diff import compare_places

    if a == "-" and b == "-":
        raise click.UsageError("Only one of A and B can be standard input.")
    standard_output()
    selection = Selection(models=models, experiments=experiments, run_ids=run_ids)
    if selection.is_empty:
        selection = Selection.all()
    first = sides.open_place(a, jobs=jobs, database=a_database)
    try:
        second = sides.open_place(b, jobs=jobs, database=b_database)
        try:
            result = compare_places(
                first,
                second,
                dataclasses.replace(selection, workspaces=workspace),
                mapping=workspace_map,
                expected=expected,
                strict=strict,
                artifacts=artifacts,
                progress=make_progress(quiet=quiet or as_json, stream=sys.stderr),
            )
            result.a, result.b = sides.shown_name(a), sides.shown_name(b)
        finally:
            second.source.close()
    finally:
        first.source.close()
    code = differences.code_of(result)
    if as_json:
        print_json(result)
    else:
        for line in differences.lines(result, verbose=verbose):
            click.echo(line)
    return code
