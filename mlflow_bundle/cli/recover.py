"""``recover``: what is whole in a damaged or cut bundle, as a new one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import DONE, FAILED, LOSSES, REFUSED, USAGE
from mlflow_bundle.cli.progress import make_progress


@bundle_command("recover", codes=(DONE, FAILED, USAGE, LOSSES, REFUSED))
@click.argument("bundle", metavar="FILE")
@click.option("-o", "--output", metavar="FILE", required=True, help="Bundle to write.")
@options.level_option
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@options.json_option
@options.quiet_option
@options.verbose_option
def command(
    bundle: str, output: str, level: int, force: bool, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Save what is whole in a damaged or cut bundle.

    FILE is a bundle with damage in it or without its end, such as the .partial of an export that
    cannot go on. Everything whose digests hold goes into a new bundle, which can be imported; what
    does not is listed. FILE is not altered. Needs twice the room of what is saved meanwhile.
    """
    from mlflow_bundle.bundles.opening import check_output, named_error, open_local, open_writer
    from mlflow_bundle.bundles.recovering import recover_bundle
    from mlflow_bundle.cli import report as reports
    from mlflow_bundle.errors import FormatError, SelectionError
    from mlflow_bundle.report import Report

    check_output(output, force=force)
    final = Path(output)
    if final.exists() and final.samefile(bundle):
        raise SelectionError(f"{output} is what is read", hint="write it elsewhere")
    report = Report("recover")
    report.source, report.destination = bundle, output
    scratch = final.with_name(f"{final.name}.recovering")
    with open_local(bundle) as stream:
        try:
            recover_bundle(
                stream,
                open_writer(output, force=force, level=level),
                report,
                scratch=scratch,
                progress=make_progress(quiet=quiet or as_json, stream=sys.stderr),
            )
        except FormatError as exc:
            raise named_error(exc, bundle) from exc
        finally:
            scratch.unlink(missing_ok=True)
    return reports.finish(report, as_json=as_json, strict=False, verbose=verbose)
