"""``list``: the table of contents of a bundle."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import click

from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import (
    DONE,
    FAILED,
    REFUSED,
    USAGE,
    one_line,
    print_json,
    standard_output,
)
from mlflow_bundle.cli.progress import format_bytes
from mlflow_bundle.selection import ModelPattern, NamePattern

if TYPE_CHECKING:
    from rich.console import Console

    from mlflow_bundle.bundles.listing import ListedModel, ListedWorkspace, Listing

SHOWN_LOSSES = 20
"""Losses listed without ``--json``."""


@bundle_command("list", codes=(DONE, FAILED, USAGE, REFUSED))
@click.argument("bundle", metavar="BUNDLE")
@click.argument("path", required=False, metavar="[PATH]")
@options.experiments_option(verb="list")
@options.models_option(verb="list")
@options.workspace_option(verb="list", default_text="all")
@options.json_option
def command(
    bundle: str,
    path: str | None,
    experiments: tuple[NamePattern, ...],
    models: tuple[ModelPattern, ...],
    workspace: tuple[str, ...],
    as_json: bool,
) -> int:
    """List what a bundle holds: counts, sizes, sources.

    BUNDLE is a file, a URL, a directory of the same layout, or - for standard input. With PATH,
    lists the members at or below it with their sizes, as `tar -t` would.
    """
    from mlflow_bundle.bundles import listing
    from mlflow_bundle.bundles.opening import open_tree

    if path is not None and (experiments or models or workspace):
        raise click.UsageError("Give PATH or --experiments, --models, --workspace; not both.")
    standard_output()  # before anything is read
    tree = open_tree(bundle)
    try:
        if path is not None:
            members = listing.iter_listed_members(tree, path)
            if as_json:
                print_json({"members": list(members)})
                return DONE
            for member in members:
                click.echo(f"{member.size:>14}  {member.path}")
            return DONE
        contents = listing.list_bundle(tree, name="standard input" if bundle == "-" else bundle)
    finally:
        tree.close()
    if experiments or models or workspace:
        contents = listing.narrowed(
            contents,
            experiments=experiments,
            models=tuple(pattern.name for pattern in models),
            workspaces=workspace,
        )
    if as_json:
        print_json(contents)
    else:
        _print(contents)
    return DONE


def _print(contents: Listing) -> None:
    from rich.console import Console

    if standard_output().isatty():
        _render(Console(highlight=False, markup=False, emoji=False), contents)
        return
    # A pipe has no width: nothing is folded there, so that a row is a line.
    text = io.StringIO()
    _render(
        Console(file=text, width=10_000, no_color=True, highlight=False, markup=False, emoji=False),
        contents,
    )
    for line in text.getvalue().splitlines():
        click.echo(line.rstrip())


def _render(console: Console, contents: Listing) -> None:
    _print_facts(console, contents)
    _print_part(console, contents)
    for workspace in contents.workspaces:
        about = f" ({one_line(workspace.description)})" if workspace.description else ""
        console.print()
        console.print(f"workspace {one_line(workspace.name)}{about}:")
        _print_part(console, workspace)
    _print_end(console, contents)


def _print_part(console: Console, contents: Listing | ListedWorkspace) -> None:
    """Print the tables of one workspace."""
    if contents.experiments:
        _print_table(
            console,
            ["experiment", "id", "runs", "logged models", "traces", "artifacts", "bytes"],
            [
                [
                    _marked(entry.name, entry.lifecycle_stage),
                    entry.id,
                    f"{entry.runs}" + (f" ({entry.failed_runs} lost)" * bool(entry.failed_runs)),
                    f"{entry.logged_models}",
                    f"{entry.traces}",
                    f"{entry.artifacts}",
                    format_bytes(entry.artifact_bytes),
                ]
                for entry in contents.experiments
            ],
            numbers=(2, 3, 4, 5, 6),
        )
    for title, models in (("model", contents.models), ("prompt", contents.prompts)):
        if models:
            _print_table(
                console,
                [title, "version", "stage", "aliases", "source"],
                _version_rows(models),
                (1,),
            )


def _marked(name: str, lifecycle_stage: str) -> str:
    return name if lifecycle_stage == "active" else f"{name} ({lifecycle_stage})"


def _version_rows(models: list[ListedModel]) -> list[list[str]]:
    rows = []
    for model in models:
        name = model.name
        for version in model.versions:
            stage = "" if version.stage == "None" else version.stage
            aliases = ", ".join(version.aliases)
            rows.append([name, f"{version.version}", stage, aliases, version.source])
            name = "" if standard_output().isatty() else model.name
        if not model.versions:
            rows.append([name, "", "", "", ""])
    return rows


def _print_facts(console: Console, contents: Listing) -> None:
    where = contents.source + (
        f" (MLflow {contents.mlflow_version})" if contents.mlflow_version else ""
    )
    size = "" if contents.size is None else f", {format_bytes(contents.size)}"
    members = "" if contents.members is None else f", {contents.members} members"
    facts = {
        "bundle": f"{contents.bundle}{size}{members}",
        "format": f"{contents.format} {contents.format_version}, written by {contents.writer}",
        "uuid": contents.uuid,
        "created": contents.created,
        "source": where,
        "selection": _selection(contents.selection),
    }
    for name, value in facts.items():
        console.print(f"{name + ':':<11}{one_line(value)}")


def _selection(selection: dict[str, object]) -> str:
    parts = []
    for name, value in selection.items():
        if isinstance(value, list):
            parts.append(f"{name} {', '.join(str(element) for element in value)}")
        else:
            parts.append(name if value is True else f"{name} {value}")
    return "; ".join(parts) or "nothing"


def _print_table(
    console: Console, columns: list[str], rows: list[list[str]], numbers: tuple[int, ...]
) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if position in numbers else "left",
            overflow="fold",
            no_wrap=not console.is_terminal,
        )
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    console.print()
    console.print(table)


def _print_end(console: Console, contents: Listing) -> None:
    totals = [
        f"{count} {kind.replace('_', ' ')}" + "s" * (count != 1)
        for kind, count in contents.totals.items()
    ]
    console.print()
    console.print(
        f"total: {', '.join(totals) or 'nothing'}; {format_bytes(contents.artifact_bytes)} of "
        "artifacts"
    )
    if contents.adjustments:
        console.print(f"adjusted by the export: {sum(contents.adjustments.values())} values")
    if contents.losses:
        console.print(f"lost by the export: {len(contents.losses)}")
        for loss in contents.losses[:SHOWN_LOSSES]:
            console.print(f"  {one_line(str(loss))}")
        if len(contents.losses) > SHOWN_LOSSES:
            more = len(contents.losses) - SHOWN_LOSSES
            console.print(f"  and {more} more; --json lists them all")
