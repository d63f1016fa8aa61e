"""``verify``: every checksum, digest, document and reference of a bundle."""

from __future__ import annotations

import sys

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import DONE, FAILED, REFUSED, USAGE, one_line, standard_output
from mlflow_bundle.cli.progress import format_bytes, make_progress


@bundle_command("verify", codes=(DONE, FAILED, USAGE, REFUSED))
@options.input_options
@options.json_option
@options.quiet_option
def command(bundle: options.InputPath, as_json: bool, quiet: bool) -> int:
    """Verify every checksum and reference of a bundle.

    Reads everything and changes nothing: digests and checksums, the index against the tar, each
    document, manifests against documents, counts and sizes of artifacts. A reference to something
    outside the bundle is counted and is no problem.
    """
    import msgspec

    from mlflow_bundle.bundles.opening import open_tree
    from mlflow_bundle.bundles.verify import verify

    name = "standard input" if bundle.is_stdin else bundle.path
    tree = open_tree(bundle.path, is_directory=bundle.is_directory, renew=False)
    try:
        result = verify(
            tree, name=name, progress=make_progress(quiet=quiet or as_json, stream=sys.stderr)
        )
    finally:
        tree.close()
    if as_json:
        data = msgspec.json.format(msgspec.json.encode(result), indent=2)
        standard_output().buffer.write(data + b"\n")
        standard_output().flush()
        return DONE if result.ok else REFUSED
    for problem in result.problems:
        click.echo(one_line(str(problem)))
    click.echo(f"{name}: {'sound' if result.ok else f'{len(result.problems)} problems'}")
    checked = f"{result.members} members, {format_bytes(result.bytes)}"
    click.echo(f"  bytes       {checked}" + (f", {result.groups} groups" * bool(result.groups)))
    documents = ", ".join(f"{count} {kind}" for kind, count in result.documents.items())
    click.echo(f"  documents   {documents.replace('_', ' ') or 'none'}")
    click.echo(f"  artifacts   {result.artifacts}")
    outside = ", ".join(f"{count} {field}" for field, count in result.outside.items())
    click.echo(
        f"  references  {result.references} inside" + (f"; outside: {outside}" if outside else "")
    )
    if result.unknown_members:
        click.echo(f"  unknown     {result.unknown_members} members of no known kind")
    return DONE if result.ok else REFUSED
