"""``verify``: every checksum, digest, document and reference of a bundle; is it all at a server?"""

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
    LOSSES,
    REFUSED,
    USAGE,
    one_line,
    print_json,
)
from mlflow_bundle.cli.progress import format_bytes, make_progress
from mlflow_bundle.selection import ModelPattern, NamePattern, Selection

if TYPE_CHECKING:
    from mlflow_bundle.bundles.verify import Verified
    from mlflow_bundle.cli.tracking import DatabaseOptions
    from mlflow_bundle.diff import Comparison, Expected


@bundle_command(
    "verify",
    codes=(DONE, FAILED, USAGE, LOSSES, REFUSED),
    meanings={LOSSES: "sound, but not all of it is at the server (--against)"},
)
@options.input_options
@click.option(
    "--against",
    metavar="URI",
    default=None,
    show_default="no server",
    help="Tracking URI of a server, database or file store: is everything in the bundle there?",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Read trailer, directory and group headers only: damage inside of content is not seen.",
)
@options.models_option(verb="look for with --against")
@options.experiments_option(verb="look for with --against")
@options.run_ids_option(verb="look for with --against")
@options.compared_workspaces_options
@options.expectations_options
@options.against_database_option
@options.comparison_options
@options.jobs_options
@options.json_option
@options.quiet_option
@options.verbose_option
def command(
    bundle: options.InputPath,
    against: str | None,
    quick: bool,
    models: tuple[ModelPattern, ...],
    experiments: tuple[NamePattern, ...],
    run_ids: tuple[str, ...],
    workspace: tuple[str, ...],
    workspace_map: dict[str, str],
    expected: Expected,
    database: DatabaseOptions,
    artifacts: Any,
    strict: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Verify every checksum and reference of a bundle.

    Reads everything and changes nothing: digests and checksums, the index against the tar, each
    document, manifests against documents, counts and sizes of artifacts. A reference to something
    outside the bundle is counted and is no problem.

    With --against it then looks for everything of the bundle at a server, whatever ids it has
    there, or for the part that --models, --experiments and --run-ids select; what only the server
    has is no problem. Prefix, new names, users, tags and --workspace-map say what the server has in
    the place of the bundle's: give those of the import. These options, --workspace, --artifacts,
    --strict and --jobs are about this.
    """
    import msgspec

    from mlflow_bundle.bundles.opening import open_tree
    from mlflow_bundle.bundles.verify import verify
    from mlflow_bundle.cli import differences
    from mlflow_bundle.diff.expected import AS_IT_IS

    selection = Selection(models=models, experiments=experiments, run_ids=run_ids)
    named = bool(workspace or workspace_map) or not selection.is_empty
    if against is None and (strict or expected != AS_IT_IS or named):
        raise click.UsageError(
            "--strict, a selection, workspaces, and new names, users and tags are of use with "
            "--against only."
        )
    if against is not None and quick:
        raise click.UsageError("--against reads everything: not with --quick.")
    if against is not None and bundle.is_stdin:
        raise click.UsageError("--against reads a bundle twice: not from standard input.")
    name = "standard input" if bundle.is_stdin else bundle.path
    progress = make_progress(quiet=quiet or as_json, stream=sys.stderr)
    tree = open_tree(bundle.path, is_directory=bundle.is_directory, renew=False)
    try:
        result = verify(tree, name=name, quick=quick, progress=progress)
    finally:
        tree.close()
    code = DONE if result.ok else REFUSED
    comparison = None
    if against is not None and result.ok:
        comparison = _compare(
            bundle,
            against,
            dataclasses.replace(
                Selection.all() if selection.is_empty else selection, workspaces=workspace
            ),
            expected,
            mapping=workspace_map,
            database=database,
            artifacts=artifacts,
            strict=strict,
            jobs=jobs,
            quiet=quiet,
        )
        code = differences.code_of(comparison)
    if as_json:
        shown = msgspec.to_builtins(result)
        if comparison is not None:
            shown["against"] = msgspec.to_builtins(comparison)
        print_json(shown)
        return code
    _show(result, name)
    if comparison is not None:
        for line in differences.lines(comparison, verbose=verbose):
            click.echo(line)
    return code


def _compare(
    bundle: options.InputPath,
    against: str,
    selection: Selection,
    expected: Expected,
    *,
    mapping: dict[str, str],
    database: DatabaseOptions,
    artifacts: Any,
    strict: bool,
    jobs: int,
    quiet: bool,
) -> Comparison:
    from mlflow_bundle.bundles.opening import open_tree
    from mlflow_bundle.bundles.source import BundleSource
    from mlflow_bundle.cli.sides import bundle_place, server_place, shown_name
    from mlflow_bundle.cli.tracking import tracking_uri
    from mlflow_bundle.diff import compare_places

    server = server_place(tracking_uri(against), jobs=jobs, database=database)
    try:
        tree = open_tree(bundle.path, is_directory=bundle.is_directory)
        source = BundleSource(tree, name=bundle.path)
        try:
            comparison = compare_places(
                bundle_place(source),
                server,
                selection,
                mapping=mapping,
                expected=expected,
                one_sided=True,
                strict=strict,
                artifacts=artifacts,
                progress=make_progress(quiet=quiet, stream=sys.stderr),
            )
            comparison.a = shown_name(bundle.path)
            return comparison
        finally:
            source.close()
    finally:
        server.source.close()


def _show(result: Verified, name: str) -> None:
    from mlflow_bundle.cli.differences import counted

    for problem in result.problems:
        click.echo(one_line(str(problem)))
    sound = "sound as far as its directory tells" if result.quick else "sound"
    problems = counted(len(result.problems), "problem")
    click.echo(f"{name}: {sound if result.ok else problems}")
    checked = f"{result.members} members, {format_bytes(result.bytes)}"
    groups = f", {counted(result.groups, 'group')}" if result.groups else ""
    click.echo(f"  bytes       {checked}{groups}")
    documents = ", ".join(f"{count} {kind}" for kind, count in result.documents.items())
    click.echo(f"  documents   {documents.replace('_', ' ') or 'none'}")
    click.echo(f"  artifacts   {result.artifacts}")
    outside = ", ".join(f"{count} {field}" for field, count in result.outside.items())
    if not result.quick:
        click.echo(
            f"  references  {result.references} inside"
            + (f"; outside: {outside}" if outside else "")
        )
    if result.lost_before:
        click.echo(f"  lost before {result.lost_before} objects, which manifest.json lists")
    if result.unknown_members:
        click.echo(f"  unknown     {result.unknown_members} members of no known kind")
