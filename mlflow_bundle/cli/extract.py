"""``extract``: a bundle, or a part of it, into a directory."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import DONE, FAILED, REFUSED, USAGE
from mlflow_bundle.cli.progress import format_bytes, make_progress
from mlflow_bundle.selection import ModelPattern, NamePattern, Selection


@bundle_command("extract", codes=(DONE, FAILED, USAGE, REFUSED))
@click.argument("bundle", metavar="BUNDLE")
@click.option("-o", "--output", metavar="DIR", required=True, help="Directory to make.")
@options.models_option(verb="extract", default_text="everything")
@options.experiments_option(verb="extract", default_text="everything")
@options.run_ids_option(verb="extract", default_text="everything")
@options.workspace_option(verb="extract", default_text="all")
@click.option(
    "--peer-json",
    is_flag=True,
    help=(
        "Write NaN and infinities of run.json as the bare tokens that mlflow-export-import of 2022 "
        "reads."
    ),
)
@click.option("--force", is_flag=True, help="Replace a tree that exists.")
@options.quiet_option
def command(
    bundle: str,
    output: str,
    models: tuple[ModelPattern, ...],
    experiments: tuple[NamePattern, ...],
    run_ids: tuple[str, ...],
    workspace: tuple[str, ...],
    peer_json: bool,
    force: bool,
    quiet: bool,
) -> int:
    """Unpack a bundle, or a part of it, into a directory.

    BUNDLE is a file, a URL, or - for standard input. A part comes with what it depends on and with
    manifests of its own. Without a selection the result is what `tar --zstd -xf BUNDLE` gives.
    """
    from mlflow_bundle.bundles import copying
    from mlflow_bundle.bundles.opening import (
        check_output,
        open_tree,
        open_writer,
        refuse_output_inside,
    )

    check_output(output, is_directory=True, force=force)
    refuse_output_inside(bundle, output)
    selection = Selection(models=models, experiments=experiments, run_ids=run_ids)
    if workspace:
        selection = replace(selection, workspaces=workspace, everything=selection.is_empty)
    tree = open_tree(bundle)
    try:
        copied = copying.extract(
            tree,
            open_writer(output, is_directory=True, force=force),
            selection=None if selection.is_empty else selection,
            peer_json=peer_json,
            name="standard input" if bundle == "-" else bundle,
            progress=make_progress(quiet=quiet, stream=sys.stderr),
        )
    finally:
        tree.close()
    click.echo(f"{output}: {copied.members} members, {format_bytes(copied.bytes)}", err=True)
    if peer_json and copied.runs_with_parts:
        click.echo(
            f"note: {copied.runs_with_parts} runs have long histories in metrics/, which "
            "mlflow-export-import does not read",
            err=True,
        )
    return DONE
