"""``show``: one document or artifact to standard output."""

from __future__ import annotations

import contextlib
import shutil

import click

from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import DONE, FAILED, REFUSED, USAGE, standard_output


@bundle_command("show", codes=(DONE, FAILED, USAGE, REFUSED))
@click.argument("bundle", metavar="BUNDLE")
@click.argument("path", metavar="PATH")
def command(bundle: str, path: str) -> int:
    """Write one document or artifact of a bundle to stdout.

    BUNDLE is a file, a URL, a directory of the same layout, or - for standard input. PATH is as
    `list BUNDLE PATH` shows it. A JSON document is indented on a terminal; anywhere else the exact
    bytes are written.
    """
    import msgspec

    from mlflow_bundle.archive import HEADER_PATH
    from mlflow_bundle.bundles.documents import MAX_DOCUMENT_BYTES
    from mlflow_bundle.bundles.listing import checked_path, no_such_member
    from mlflow_bundle.bundles.opening import open_tree

    tree = open_tree(bundle)
    try:
        path = checked_path(tree, path)
        output = standard_output().buffer
        if path == HEADER_PATH:
            output.write(tree.header)
            return DONE
        member = tree.find(path)
        if member is None:
            raise no_such_member(tree, path)
        if (
            standard_output().isatty()
            and path.endswith(".json")
            and member.size <= MAX_DOCUMENT_BYTES
        ):
            data = tree.read(path, limit_bytes=MAX_DOCUMENT_BYTES)
            # An artifact may have such a name and be something else.
            with contextlib.suppress(msgspec.DecodeError):
                data = msgspec.json.format(data, indent=2) + b"\n"
            output.write(data)
        else:
            with tree.open_member(path) as stream:
                shutil.copyfileobj(stream, output, 1024 * 1024)
        output.flush()
    finally:
        tree.close()
    return DONE
