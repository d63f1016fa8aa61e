"""Shows a report: a short table for people on stderr, one JSON object on stdout with ``--json``."""

from __future__ import annotations

import click
import msgspec

from mlflow_bundle.cli import exit_codes
from mlflow_bundle.cli.exit_codes import one_line, standard_output
from mlflow_bundle.cli.progress import format_bytes
from mlflow_bundle.report import Report, Summary

MAX_LINES = 20
"""Losses and conflicts shown without ``--verbose``; ``--json`` always has all."""


def finish(report: Report, *, as_json: bool, strict: bool, verbose: bool = False) -> int:
    """Show ``report`` and return the command's exit code."""
    code = exit_codes.exit_code(
        losses=len(report.losses), adjustments=sum(report.adjusted.values()), strict=strict
    )
    summary = report.summary(exit_code=code)
    if as_json:
        standard_output().buffer.write(msgspec.json.format(msgspec.json.encode(summary), indent=2))
        standard_output().buffer.write(b"\n")
        standard_output().flush()
    else:
        for line in lines(summary, verbose=verbose):
            click.echo(line, err=True)
    return code


def lines(summary: Summary, *, verbose: bool = False) -> list[str]:
    """Return the report as lines of text."""
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
        shown.append(f"adjusted: {total} values that MLflow's API cannot set or that point outside")
        if verbose:
            shown += [f"  {name}: {count}" for name, count in summary.adjusted.items()]
    shown += _listed("conflicts", [str(conflict) for conflict in summary.conflicts], verbose)
    shown += [f"note: {one_line(note)}" for note in summary.notes]
    shown += _listed("lost", [str(loss) for loss in summary.lost], verbose)
    took = f"{summary.duration_s:.1f} s, {summary.requests} requests"
    if summary.dry_run:
        shown.append(f"planned in {took}")
    elif summary.lost:
        shown.append(f"finished with {len(summary.lost)} losses in {took}")
    else:
        shown.append(f"done in {took}; nothing lost")
    return shown


def _listed(title: str, entries: list[str], verbose: bool) -> list[str]:
    if not entries:
        return []
    shown = entries if verbose else entries[:MAX_LINES]
    listed = [f"{title}: {len(entries)}", *(f"  {one_line(entry)}" for entry in shown)]
    if len(shown) < len(entries):
        listed.append(f"  and {len(entries) - len(shown)} more; --verbose or --json lists them all")
    return listed


def _plural(kind: str) -> str:
    return kind.replace("_", " ") + "s"
