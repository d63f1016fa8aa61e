"""The command group behind ``mlflow bundle`` and ``mlflow-bundle``.

The table of commands holds name, place and one line of help, so that neither ``import mlflow``,
``mlflow --help`` nor ``mlflow bundle --help`` imports a command's module: that happens when the
command is invoked, or asked for its own help.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mlflow_bundle import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem


class CommandEntry(NamedTuple):
    """Where a command lives and what the group's help says of it."""

    module: str
    attribute: str
    help: str


def _entry(module: str, help: str, attribute: str = "command") -> CommandEntry:
    return CommandEntry(f"mlflow_bundle.cli.{module}", attribute, help)


COMMANDS: Mapping[str, CommandEntry] = {
    "export-all": _entry("export", "Export everything a server holds to a bundle.", "export_all"),
    "export-models": _entry(
        "export", "Export registered models with their versions' runs.", "export_models"
    ),
    "export-experiments": _entry(
        "export", "Export experiments with their runs.", "export_experiments"
    ),
    "export": _entry("export", "Export any mixture of models, experiments and runs.", "export"),
    "import-all": _entry("import_", "Import everything a bundle holds.", "import_all"),
    "import-models": _entry(
        "import_", "Import registered models with their versions' runs.", "import_models"
    ),
    "import-experiments": _entry(
        "import_", "Import experiments with their runs.", "import_experiments"
    ),
    "import": _entry("import_", "Import a part of a bundle with what it depends on.", "import_"),
    "copy": _entry("copy", "Copy a server or database straight into another."),
    "list": _entry("list", "List what a bundle holds: counts, sizes, sources."),
    "show": _entry("show", "Write one document or artifact of a bundle to stdout."),
    "extract": _entry("extract", "Unpack a bundle, or a part of it, into a directory."),
    "pack": _entry("pack", "Pack a directory into a bundle."),
    "verify": _entry("verify", "Verify every checksum and reference of a bundle."),
    "recover": _entry("recover", "Save what is whole in a damaged or cut bundle."),
    "diff": _entry("diff", "Tell where two bundles, directories or servers differ."),
    "demo": _entry("demo", "Move a small server through a bundle into another, locally."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not before.

    Args:
        entries: Command name to its place, in the order of the help.
    """

    def __init__(self, *args: Any, entries: Mapping[str, CommandEntry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click suggests commands since 8.5 only, and only those it holds itself.
        name = args[0]
        if name not in self._entries and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, self._entries)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=entry.help)
            for name, entry in self._entries.items()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        from mlflow_bundle.cli.exit_codes import run_command

        with run_command(ctx):  # covers the import of the command's module
            return super().invoke(ctx)


@click.group(cls=LazyGroup, entries=COMMANDS, name="bundle")
@click.version_option(__version__, prog_name="mlflow-bundle")
def bundle() -> None:
    """Pack an MLflow server, or a part of it, into one file; bring it into another server.

    \b
        mlflow bundle export-all -o server.mlbundle
        mlflow bundle list server.mlbundle
        mlflow bundle import server.mlbundle --models sklearn_iris
        mlflow bundle import-all server.mlbundle

    The server is the one of MLFLOW_TRACKING_URI or --tracking-uri, as everywhere in MLflow. After
    an interruption give the same command again: nothing is made twice.
    """


def main() -> None:
    """Run the console script ``mlflow-bundle``."""
    bundle(prog_name="mlflow-bundle")
