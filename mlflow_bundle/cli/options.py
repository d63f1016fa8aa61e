"""Options that several commands share.

Names and meanings are those of the tools people come from; the wording is MLflow's. Each
decorator's docstring says which keyword arguments it gives the command. Decorators that group
options (:func:`output_options`, :func:`input_options`, :func:`jobs_options`,
:func:`window_options`) check them together and hand over one value.

A command is written as::

    @bundle_command("list")
    @input_options
    @json_option
    def command(bundle: InputPath, as_json: bool) -> int | None: ...

The number it returns is the exit code (``exit_codes.exit_code``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from mlflow_bundle.cli.command import Body, BoolOption, ListOption, UtcTime, parse_or_refuse
from mlflow_bundle.errors import SelectionError
from mlflow_bundle.selection import (
    STAGES,
    parse_experiments,
    parse_list,
    parse_models,
    parse_renames,
    parse_run_ids,
    parse_stages,
)

Decorator = Callable[[Body], Body]

NOTEBOOK_FORMATS = ("SOURCE", "HTML", "JUPYTER", "DBC")
DEFAULT_JOBS = 8
DEFAULT_LEVEL = 3
STDIO = "-"


# Where from, where to.


@dataclass(frozen=True, kw_only=True)
class OutputPath:
    """Where an export goes.

    Attributes:
        path: A file, a directory, or ``-`` for stdout.
        is_directory: Given with ``--output-dir``.
        force: What is there may be replaced.
    """

    path: str
    is_directory: bool
    force: bool

    @property
    def is_stdout(self) -> bool:
        return self.path == STDIO and not self.is_directory


@dataclass(frozen=True, kw_only=True)
class InputPath:
    """Where a bundle is read from.

    Attributes:
        path: A file, a URL, a directory, or ``-`` for stdin.
        is_directory: Given with ``--input-dir``.
    """

    path: str
    is_directory: bool

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIO and not self.is_directory


def output_options(function: Body) -> Body:
    """Give ``output: OutputPath``; exactly one of ``-o/--output`` and ``--output-dir``."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        file, directory = kwargs.pop("output"), kwargs.pop("output_dir")
        path = _exactly_one(file, directory, "-o/--output FILE", "--output-dir DIR")
        kwargs["output"] = OutputPath(
            path=path, is_directory=directory is not None, force=kwargs.pop("force")
        )
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        click.option("-o", "--output", metavar="FILE", help="Bundle to write; - writes to stdout."),
        click.option(
            "--output-dir", metavar="DIR", help="Write the same layout as a directory instead."
        ),
        _flag("--force", help="Replace an output that exists."),
    )


def input_options(function: Body) -> Body:
    """Give ``bundle: InputPath``; exactly one of the argument and ``--input-dir``."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        file, directory = kwargs.pop("bundle"), kwargs.pop("input_dir")
        path = _exactly_one(file, directory, "BUNDLE", "--input-dir DIR")
        kwargs["bundle"] = InputPath(path=path, is_directory=directory is not None)
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        click.argument("bundle", required=False, metavar="BUNDLE"),
        click.option(
            "--input-dir", metavar="DIR", help="Read a directory of the same layout instead."
        ),
    )


def _exactly_one(first: str | None, second: str | None, name: str, other: str) -> str:
    given = [value for value in (first, second) if value is not None]
    if len(given) != 1:
        fault = "not both" if given else "none was given"
        raise click.UsageError(f"Give one of {name} and {other}; {fault}.")
    if not given[0]:
        raise click.UsageError(f"The value of {name if first is not None else other} is empty.")
    return given[0]


def tracking_uri_option(function: Body) -> Body:
    """Give ``tracking_uri: str | None``; None leaves it to ``mlflow.get_tracking_uri()``."""
    return click.option(
        "--tracking-uri",
        metavar="URI",
        default=None,
        show_default="MLFLOW_TRACKING_URI, resolved as everywhere in MLflow",
        help="URI of the MLflow tracking server.",
    )(function)


# What.


def models_option(*, required: bool = False, default_text: str = "all", verb: str) -> Decorator:
    """Give ``models: tuple[ModelPattern, ...]``, empty when not given.

    Args:
        required: Whether the option must be given.
        default_text: What the help says happens without it.
        verb: ``export``, ``import`` or ``extract``, for the help.
    """
    return _list_option(
        "--models",
        parse_models,
        help=(
            f"Registered models to {verb}. Values are 'all', comma separated list of models, "
            "model prefix with * ('sklearn*'), one version ('sklearn_iris/3') or the version "
            "under an alias ('sklearn_iris@champion'). A backslash makes , * and @ part of a name."
        ),
        required=required,
        default_text=default_text,
    )


def experiments_option(
    *, required: bool = False, default_text: str = "all", verb: str
) -> Decorator:
    """Give ``experiments: tuple[NamePattern, ...]``, empty when not given. See models_option."""
    return _list_option(
        "--experiments",
        parse_experiments,
        help=(
            f"Experiments to {verb}. Values are 'all', comma separated list of experiment names "
            "or IDs, or name prefix with * ('sklearn*'). A backslash makes , and * part of a name."
        ),
        required=required,
        default_text=default_text,
    )


def run_ids_option(*, default_text: str = "none", verb: str) -> Decorator:
    """Give ``run_ids: tuple[str, ...]``, empty when not given."""
    return _list_option(
        "--run-ids",
        parse_run_ids,
        help=f"Runs to {verb}. Comma separated list of run IDs.",
        default_text=default_text,
    )


def window_options(function: Body) -> Body:
    """Give ``since_ms`` and ``until_ms``: int ms since the epoch, or None."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        since, until = kwargs.pop("since"), kwargs.pop("until")
        if since is not None and until is not None and since >= until:
            raise click.UsageError("--since must be earlier than --until.")
        return function(*args, since_ms=since, until_ms=until, **kwargs)

    return _apply(
        wrapper,
        click.option(
            "--since",
            type=UtcTime(),
            metavar="UTC",
            show_default="no limit",
            help=(
                "Only runs that started at this time or later: 2024-01-31, 2024-01-31T12:00:00 "
                "(UTC unless it carries an offset) or milliseconds since the epoch."
            ),
        ),
        click.option(
            "--until",
            type=UtcTime(),
            metavar="UTC",
            show_default="no limit",
            help="Only runs that started before this time.",
        ),
    )


def stages_option(function: Body) -> Body:
    """Give ``stages: tuple[str, ...]`` in MLflow's spelling, empty when not given."""
    return _list_option(
        "--stages",
        parse_stages,
        help=(
            "Only model versions in these stages (comma separated). Values are "
            f"{', '.join(STAGES[:-1])} and {STAGES[-1]}."
        ),
        default_text="all stages",
    )(function)


def export_all_runs_option(function: Body) -> Body:
    """Give ``export_all_runs: bool``."""
    return _boolean(
        "--export-all-runs",
        help=(
            "Export all runs of an experiment, not only those of the selected registered model "
            "versions."
        ),
    )(function)


def artifacts_option(function: Body) -> Body:
    """Give ``artifacts``: ``"copy"``, ``"reference"`` or ``"skip"``."""
    return click.option(
        "--artifacts",
        type=click.Choice(["copy", "reference", "skip"], case_sensitive=False),
        default="copy",
        help=(
            "Copy artifacts; keep only references to where they lie (a store that both servers "
            "share); or skip them."
        ),
    )(function)


def export_source_tags_option(function: Body) -> Body:
    """Give ``export_source_tags: bool``."""
    return _boolean(
        "--export-source-tags",
        help=(
            "Export source run information (run info and MLflow system tags starting with "
            "'mlflow') under the 'mlflow_export_import' tag prefix."
        ),
    )(function)


def notebook_formats_option(function: Body) -> Body:
    """Give ``notebook_formats: tuple[str, ...]`` in upper case, empty when not given."""
    return _list_option(
        "--notebook-formats",
        _parse_notebook_formats,
        help=(
            "Databricks notebook formats (comma separated). Values are "
            f"{', '.join(NOTEBOOK_FORMATS[:-1])} or {NOTEBOOK_FORMATS[-1]}."
        ),
        default_text="none",
    )(function)


def _parse_notebook_formats(values: Iterable[str]) -> tuple[str, ...]:
    formats = dict.fromkeys(token.text.upper() for token in parse_list(values))
    for name in formats:
        if name not in NOTEBOOK_FORMATS:
            raise SelectionError(
                f"{name!r} is not a notebook format",
                hint=f"formats are {', '.join(NOTEBOOK_FORMATS)}",
            )
    return tuple(formats)


# How it arrives.


def delete_model_option(function: Body) -> Body:
    """Give ``delete_model: bool``."""
    return _boolean(
        "--delete-model", help="First delete the model if it exists and all its versions."
    )(function)


def use_src_user_id_option(function: Body) -> Body:
    """Give ``use_src_user_id: bool``."""
    return _boolean(
        "--use-src-user-id",
        default=True,
        help=(
            "Set the destination user ID to the source user ID. False sets the user who imports. "
            "Source user ID is ignored when importing into Databricks since setting it is not "
            "allowed."
        ),
    )(function)


def experiment_name_prefix_option(function: Body) -> Body:
    """Give ``experiment_name_prefix: str``."""
    return click.option(
        "--experiment-name-prefix",
        metavar="TEXT",
        default="",
        show_default="no prefix",
        help="If specified, added as prefix to experiment name.",
    )(function)


def on_conflict_option(function: Body) -> Body:
    """Give ``on_conflict``: ``"skip"``, ``"update"`` or ``"fail"``."""
    return click.option(
        "--on-conflict",
        type=click.Choice(["skip", "update", "fail"], case_sensitive=False),
        default="skip",
        help=(
            "Where the destination holds another value: keep it and report (skip), take the "
            "bundle's (update), or stop before anything is written (fail)."
        ),
    )(function)


def version_options(function: Body) -> Body:
    """Give ``with_earlier_versions: bool`` and ``renumber: bool``; not both."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if kwargs["with_earlier_versions"] and kwargs["renumber"]:
            raise click.UsageError("Give one of --with-earlier-versions and --renumber; not both.")
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        _flag(
            "--with-earlier-versions",
            help="Import the earlier versions of a selected version too, so that it keeps its "
            "number.",
        ),
        _flag("--renumber", help="Let selected versions take the next free numbers."),
    )


def rename_options(function: Body) -> Body:
    """Give ``rename_experiment`` and ``rename_model``: dict of old name to new name."""
    return _apply(
        function,
        _rename_option("--rename-experiment", "an experiment"),
        _rename_option("--rename-model", "a registered model"),
    )


def _rename_option(name: str, noun: str) -> Decorator:
    def callback(
        ctx: click.Context, param: click.Parameter, values: Sequence[str]
    ) -> dict[str, str]:
        renames: dict[str, str] = parse_or_refuse(parse_renames, values or (), ctx, param)
        return renames

    return click.option(
        name,
        metavar="OLD=NEW",
        multiple=True,
        callback=callback,
        show_default="names are kept",
        help=f"Import {noun} under another name; may be repeated. \\= is an equals sign in OLD.",
    )


def steal_option(function: Body) -> Body:
    """Give ``steal: bool``."""
    return _flag(
        "--steal",
        help="Go on although another import seems to work on the same experiments.",
    )(function)


# How it is done, how it is told.


def jobs_options(function: Body) -> Body:
    """Give ``jobs: int``, 1 to 64; ``--use-threads False`` makes it 1."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("use_threads"):
            kwargs["jobs"] = 1
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        click.option(
            "--jobs",
            type=click.IntRange(1, 64),
            metavar="N",
            default=DEFAULT_JOBS,
            help="Number of things done at the same time, 1 to 64.",
        ),
        _boolean(
            "--use-threads",
            default=True,
            help="Process export/import in parallel using threads. False means one at a time.",
        ),
    )


def level_option(function: Body) -> Body:
    """Give ``level: int``, 1 to 19."""
    return click.option(
        "--level",
        type=click.IntRange(1, 19),
        metavar="N",
        default=DEFAULT_LEVEL,
        help="Compression level of zstd, 1 (fast) to 19 (small).",
    )(function)


def dry_run_option(function: Body) -> Body:
    """Give ``dry_run: bool``."""
    return _flag(
        "--dry-run", help="Print the plan (objects, bytes, conflicts) and change nothing."
    )(function)


def strict_option(function: Body) -> Body:
    """Give ``strict: bool``."""
    return _flag("--strict", help="Count adjustments as losses (exit code 3).")(function)


def json_option(function: Body) -> Body:
    """Give ``as_json: bool``."""
    return _flag("--json", "as_json", help="Print the result as one JSON object.")(function)


def quiet_option(function: Body) -> Body:
    """Give ``quiet: bool``."""
    return _flag("--quiet", help="Show no progress.")(function)


def verbose_option(function: Body) -> Body:
    """Give ``verbose: bool``."""
    return _boolean("--verbose", help="Verbose.")(function)


def _boolean(*names: str, **attributes: Any) -> Decorator:
    return click.option(*names, cls=BoolOption, metavar="BOOLEAN", **attributes)


class _Flag(BoolOption):
    """A boolean of ours: the help shows the bare form only."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return ", ".join(self.opts), self.help or ""


def _flag(*names: str, **attributes: Any) -> Decorator:
    return click.option(*names, cls=_Flag, **attributes)


def _list_option(
    name: str,
    parse: Callable[[Iterable[str]], Sequence[Any]],
    *,
    help: str,
    default_text: str,
    required: bool = False,
) -> Decorator:
    return click.option(
        name,
        cls=ListOption,
        parse=parse,
        metavar="TEXT",
        required=required,
        show_default=False if required else default_text,
        help=help,
    )


def _apply(function: Body, *decorators: Decorator) -> Body:
    """Apply ``decorators`` so that the first one stands first in the help."""
    for decorator in reversed(decorators):
        function = decorator(function)
    return function
