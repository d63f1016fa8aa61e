"""The command class, and the kinds of options that click does not have.

Booleans may be bare or valued, lists are comma separated, times are UTC; a command's faults end
in one line and an exit code. Works with click 8.0 to 8.5 through its public interface only.
"""

from __future__ import annotations

import atexit
import gc
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mlflow_bundle.cli import exit_codes
from mlflow_bundle.errors import SelectionError
from mlflow_bundle.selection import parse_list, parse_time_ms

if TYPE_CHECKING:  # generic since click 8.4, but not at run time before
    _BooleanBase = click.ParamType[bool]
    _IntBase = click.ParamType[int]
    _FloatBase = click.ParamType[float]
else:
    _BooleanBase = _IntBase = _FloatBase = click.ParamType

Body = Callable[..., Any]
"""A command's function."""

_SWITCH_S = 0.0005
"""How long a thread keeps the interpreter while others want it. Ours mostly wait for files and
servers: with Python's own 5 ms, an export of a database takes a tenth longer."""

_OBJECTS = 100_000
"""New objects before the collector of cycles looks for some. It finds next to none among the
millions that go through here, and with Python's own 700 it takes a twentieth of the time."""

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(rf"[0-9]+|(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s)?")
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
            return tuple(parse_or_refuse(parse_values, values or (), ctx, param))

        super().__init__(*args, callback=callback, **kwargs)


class UtcTime(_IntBase):
    """A moment as milliseconds since the epoch; see ``selection.parse_time_ms``."""

    name = "utc"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        result: int = parse_or_refuse(parse_time_ms, str(value), ctx, param)
        return result


class Duration(_FloatBase):
    """A length of time in seconds: ``90``, ``45s``, ``5m``, ``1.5h``, ``2h30m``."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value  # converted already, as click 8.0 does with defaults
        text = str(value).strip().lower()
        parts = _DURATION.fullmatch(text)
        if parts is None or not text:
            self.fail(f"{value!r} is not a duration; use 45s, 5m, 1h or 2h30m", param, ctx)
        if text.isdecimal():
            return float(text)
        hours, minutes, seconds = (float(part or 0) for part in parts.groups())
        return 3600 * hours + 60 * minutes + seconds


def parse_or_refuse(
    parse: Callable[[Any], Any],
    value: Any,
    ctx: click.Context | None,
    param: click.Parameter | None,
) -> Any:
    """Return ``parse(value)``; a SelectionError becomes a usage error that names the option."""
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
        sys.setswitchinterval(_SWITCH_S)
        gc.set_threshold(_OBJECTS)
        # Python looks for cycles once more when it ends: half a second where MLflow is loaded.
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)
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
    name: str,
    *,
    codes: Iterable[int] = exit_codes.MEANINGS,
    meanings: Mapping[int, str] | None = None,
    **attributes: Any,
) -> Callable[[Body], click.Command]:
    """Make a command of the group.

    Args:
        name: As in the table of ``cli/main.py``.
        codes: Exit codes it can end with; its help lists them.
        meanings: What some of them mean for this command in particular.
        attributes: Passed to ``click.command``.
    """
    attributes.setdefault("epilog", exit_codes.describe(codes, meanings=meanings))
    settings = {"show_default": True, **attributes.pop("context_settings", {})}
    return click.command(name, cls=BundleCommand, context_settings=settings, **attributes)
