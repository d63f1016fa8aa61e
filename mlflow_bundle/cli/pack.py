"""``pack``: a directory into a bundle."""

from __future__ import annotations

import sys

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import DONE, FAILED, REFUSED, USAGE
from mlflow_bundle.cli.progress import format_bytes, make_progress


@bundle_command("pack", codes=(DONE, FAILED, USAGE, REFUSED))
@click.argument("directory", metavar="DIR")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    help="Bundle to write; - writes to stdout.",
)
@options.level_option
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@options.quiet_option
def command(directory: str, output: str, level: int, force: bool, quiet: bool) -> int:
    """Pack a directory into a bundle.

    DIR is what `extract` or --output-dir wrote, edited or not, or a bulk export of
    mlflow-export-import of June to December 2022. Manifests are made anew from what is there; every
    document must have the documented names and types.
    """
    from mlflow_bundle.bundles import copying
    from mlflow_bundle.bundles.opening import (
        check_output,
        open_tree,
        open_writer,
        refuse_output_inside,
    )

    check_output(output, force=force)
    if output != options.STDIO:
        refuse_output_inside(directory, output)
    tree = open_tree(directory, is_directory=True)
    try:
        copied = copying.pack(
            tree,
            open_writer(output, force=force, level=level),
            progress=make_progress(quiet=quiet, stream=sys.stderr),
        )
    finally:
        tree.close()
    name = "standard output" if output == options.STDIO else output
    click.echo(f"{name}: {copied.members} members, {format_bytes(copied.bytes)}", err=True)
    return DONE
