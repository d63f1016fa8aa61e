"""Shows a report: a short table for people on stderr, one JSON object on stdout with ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from mlflow_bundle.cli import differences, exit_codes
from mlflow_bundle.cli.differences import counted, listed
from mlflow_bundle.cli.exit_codes import one_line, print_json
from mlflow_bundle.cli.progress import format_bytes
from mlflow_bundle.report import Report, Summary

if TYPE_CHECKING:
    from mlflow_bundle.diff import Comparison


def finish(
    report: Report,
    *,
    as_json: bool,
    strict: bool,
    verbose: bool = False,
    verification: Comparison | None = None,
) -> int:
    """Show ``report`` and return the command's exit code.

    Args:
        report: What a transfer did.
        as_json: Whether one JSON object is printed.
        strict: Whether adjustments count as losses.
        verbose: Whether lists are shown whole.
        verification: What a comparison afterwards found, if there was one: differences end the
            command as losses do.
    """
    code = exit_codes.exit_code(
        losses=len(report.losses), adjustments=sum(report.adjusted.values()), strict=strict
    )
    if report.stopped:
        code = exit_codes.FAILED
    code = code or (differences.code_of(verification) if verification is not None else code)
    summary = report.summary(exit_code=code)
    if as_json:
        shown = msgspec.to_builtins(summary)
        if verification is not None:
            shown["verification"] = msgspec.to_builtins(verification)
        print_json(shown)
    else:
        for line in lines(summary, strict=strict, verbose=verbose):
            click.echo(line, err=True)
        if verification is not None:
            click.echo("verification: is everything of the bundle (A) at the server (B)?", err=True)
            for line in differences.lines(verification, verbose=verbose):
                click.echo(line, err=True)
    return code


def lines(summary: Summary, *, strict: bool = False, verbose: bool = False) -> list[str]:
    """Return the report as lines of text; arguments as of :func:`finish`."""
    shown = [f"{summary.command}: {summary.source} -> {summary.destination}"]
    kinds = sorted({*summary.planned, *summary.done, *summary.present})
    rows = [
        (
            _plural(kind),
            summary.planned.get(kind),
            summary.done.get(kind, 0),
            summary.present.get(kind, 0),
        )
        for kind in kinds
        if summary.planned.get(kind) or summary.done.get(kind) or summary.present.get(kind)
    ]
    if summary.dry_run:
        shown.append("dry run: nothing was changed")
    if rows:
        width = max(len(row[0]) for row in rows)
        header = f"  {'':<{width}}  {'planned':>9}"
        shown.append(f"{header}  {'' if summary.dry_run else 'done':>9}  {'present':>9}")
        for kind, planned, done, present in rows:
            line = f"  {kind:<{width}}  {'' if planned is None else planned:>9}"
            shown.append(f"{line}  {'' if summary.dry_run else done:>9}  {present:>9}")
    if summary.bytes:
        shown.append(f"  {format_bytes(summary.bytes)} of artifacts")
    if summary.adjusted:
        total = sum(summary.adjusted.values())
        what = counted(total, "value that MLflow's API cannot", "values that MLflow's API cannot")
        how = "" if verbose else " (--verbose lists which)"
        shown.append(f"adjusted: {what} set or that point outside{how}")
        if verbose:
            shown += [f"  {name}: {count}" for name, count in summary.adjusted.items()]
    shown += listed("conflicts", summary.conflicts, verbose)
    shown += [f"note: {one_line(note)}" for note in summary.notes]
    shown += listed("lost", summary.lost, verbose)
    took = f"{summary.duration_s:.1f} s"
    if summary.requests:  # between databases and bundles there are none
        took += f", {summary.requests} requests"
    if summary.stopped:
        shown.append(f"stopped at the first loss in {took}; the same command tries it again")
    elif summary.dry_run:
        shown.append(f"planned in {took}")
    elif summary.lost:
        shown.append(f"finished with {counted(len(summary.lost), 'loss', 'losses')} in {took}")
    elif strict and summary.adjusted:
        shown.append(f"done in {took}; nothing lost but what was adjusted (--strict)")
    else:
        shown.append(f"done in {took}; nothing lost")
    return shown


def _plural(kind: str) -> str:
    return kind.replace("_", " ") + "s"
