"""Options that several commands share, and the command class that parses them.

Names and meanings are those of the tools people come from; the wording is MLflow's. Each
decorator's docstring says which keyword arguments it gives the command. Decorators that group
options (:func:`output_options`, :func:`input_options`, :func:`jobs_options`,
:func:`window_options`) check them together and hand over one value.

A command is written as::

    @bundle_command("list")
    @input_options
    @json_option
    def command(bundle: InputPath, as_json: bool) -> int | None:
        \"\"\"List what a bundle holds.\"\"\"
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_bundle.cli import exit_codes
from mlflow_bundle.errors import SelectionError
from mlflow_bundle.selection import (
    STAGES,
    parse_experiments,
    parse_list,
    parse_models,
    parse_renames,
    parse_run_ids,
    parse_stages,
    parse_time_ms,
)

Body = Callable[..., Any]
"""A command's function."""

Decorator = Callable[[Body], Body]

if TYPE_CHECKING:  # generic since click 8.4, but not at run time before
    _BooleanBase = click.ParamType[bool]
    _IntBase = click.ParamType[int]
else:
    _BooleanBase = _IntBase = click.ParamType

NOTEBOOK_FORMATS = ("SOURCE", "HTML", "JUPYTER", "DBC")
DEFAULT_JOBS = 8
DEFAULT_LEVEL = 3
STDIO = "-"

_BOOLEANS = {
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "false": False,
    "no": False,
    "0": False,
    "off": False,
}


class BooleanType(_BooleanBase):
    """true, yes, 1, on or false, no, 0, off, in any case."""

    name = "boolean"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        found = _BOOLEANS.get(str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is not a boolean; use True or False", param, ctx)
        return found


class BoolOption(click.Option):
    """A boolean given bare (``--use-threads``) or with a value (``--use-threads False``).

    The next word belongs to it only when that word is a boolean, so that a positional argument
    may follow the bare form. Needs :class:`BundleCommand`, which sees the whole command line.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", False)
        kwargs.setdefault("type", BooleanType())
        super().__init__(*args, **kwargs)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        if not isinstance(ctx.command, BundleCommand):
            raise TypeError(f"{self.opts[0]} needs a BundleCommand")
        super().add_to_parser(parser, ctx)


class ListOption(click.Option):
    """A comma separated list that may be given more than once.

    Args:
        parse: Turns the values into what the command receives, e.g. ``parse_models``; without it
            the command receives a tuple of ``Token``.
    """

    def __init__(
        self,
        *args: Any,
        parse: Callable[[Iterable[str]], Sequence[Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        parse_values = parse or parse_list
        kwargs.update(multiple=True, type=str)

        def callback(
            ctx: click.Context, param: click.Parameter, values: Sequence[str]
        ) -> tuple[Any, ...]:
            return tuple(_parsed(parse_values, values or (), ctx, param))

        super().__init__(*args, callback=callback, **kwargs)


class UtcTime(_IntBase):
    """A moment as milliseconds since the epoch; see ``selection.parse_time_ms``."""

    name = "utc"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        result: int = _parsed(parse_time_ms, str(value), ctx, param)
        return result


def _parsed(
    parse: Callable[[Any], Any],
    value: Any,
    ctx: click.Context | None,
    param: click.Parameter | None,
) -> Any:
    try:
        return parse(value)
    except SelectionError as exc:
        hint = f" ({exc.hint})" if exc.hint else ""
        raise click.BadParameter(exc.message + hint, ctx=ctx, param=param) from exc


class BundleCommand(click.Command):
    """A command whose faults are one line, and whose booleans may be bare or valued.

    An integer that the body returns is the exit code.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _join_booleans(self.get_params(ctx), args))

    def invoke(self, ctx: click.Context) -> Any:
        with exit_codes.run_command(ctx):
            code = super().invoke(ctx)
            if isinstance(code, int) and code:
                ctx.exit(code)
            return code


def _join_booleans(params: Sequence[click.Parameter], args: Sequence[str]) -> list[str]:
    """Write each use of a BoolOption as ``--name=value``; leave every other word as it is.

    Follows click's own walk over the words, because a word that looks like a boolean option may
    be the value of the option before it, or stand after ``--``.
    """
    options = {
        name: param
        for param in params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }
    joined: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*joined, word, *words]
        option = options.get(word)
        if isinstance(option, BoolOption):
            is_value = bool(words) and words[0].lower() in _BOOLEANS
            joined.append(f"{word}={words.pop(0) if is_value else 'true'}")
            continue
        joined.append(word)
        if option is None and len(word) > 1 and word[0] == "-" and word[1] != "-":
            option = _last_short_option(word, options)
        if option is not None and not (option.is_flag or option.count):
            joined += words[: option.nargs]
            del words[: option.nargs]
    return joined


def _last_short_option(word: str, options: dict[str, click.Option]) -> click.Option | None:
    """Return the option of ``-qo`` that takes the next word, None for ``-ofile`` and ``-q``."""
    for index, letter in enumerate(word[1:], start=2):
        option = options.get(f"-{letter}")
        if option is None:
            return None
        if not (option.is_flag or option.count):
            return option if index == len(word) else None
    return None


def bundle_command(
    name: str, *, codes: Iterable[int] = exit_codes.MEANINGS, **attributes: Any
) -> Callable[[Body], click.Command]:
    """Make a command of the group.

    Args:
        name: As in the table of ``cli/main.py``.
        codes: Exit codes it can end with; its help lists them.
        attributes: Passed to ``click.command``.
    """
    attributes.setdefault("epilog", exit_codes.describe(codes))
    settings = {"show_default": True, **attributes.pop("context_settings", {})}
    return click.command(name, cls=BundleCommand, context_settings=settings, **attributes)


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
        renames: dict[str, str] = _parsed(parse_renames, values or (), ctx, param)
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
