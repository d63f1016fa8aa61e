"""How a command ends: the one place that decides exit codes and prints faults.

====  =============================================================
code  meaning
====  =============================================================
0     done, nothing lost (adjustments are counted)
1     failed: a server, a file, the disk
2     usage: a wrong option, or a selection that matches nothing
3     finished, with losses listed (with ``--strict``, adjustments too), or with differences
4     damaged or refused bundle
130   interrupted
====  =============================================================

A fault on purpose is one line, ``Error: …``, and ``Hint: …`` where there is a next step, on
stderr. An exception that nobody foresaw is a bug and keeps its traceback (Python ends with code
1). ``MLFLOW_BUNDLE_DEBUG=1`` shows the traceback of every fault.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from mlflow_bundle.errors import MAKE_ROOM, BundleError
from mlflow_bundle.patience import interrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

DONE = 0
FAILED = 1
USAGE = 2
LOSSES = 3
REFUSED = 4
INTERRUPTED = 130

MEANINGS = {
    DONE: "done, nothing lost",
    FAILED: "failed",
    USAGE: "wrong usage, or nothing matches the selection",
    LOSSES: "finished, with losses listed",
    REFUSED: "damaged or refused bundle",
    INTERRUPTED: "interrupted",
}

DEBUG_VARIABLE = "MLFLOW_BUNDLE_DEBUG"

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Faults of the disk that Python reports without a file name when a write meets them.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exit_code(
    error: BaseException | None = None,
    *,
    losses: int = 0,
    adjustments: int = 0,
    strict: bool = False,
) -> int:
    """Return the exit code of a command that ended with ``error`` or with these counts.

    Args:
        error: What ended the command early, or None.
        losses: Number of losses in the report.
        adjustments: Number of adjustments in the report.
        strict: Whether adjustments count as losses (``--strict``).
    """
    if error is None:
        return LOSSES if losses or (strict and adjustments) else DONE
    if isinstance(error, BundleError):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    if isinstance(error, click.UsageError):
        return USAGE
    return FAILED


def describe(codes: Iterable[int] = MEANINGS, *, meanings: Mapping[int, str] | None = None) -> str:
    """Return the line on exit codes that ends a command's help.

    Args:
        codes: Those that the command can end with.
        meanings: What some of them mean there in particular.
    """
    here = {**MEANINGS, **(meanings or {})}
    return "Exit codes: " + "; ".join(f"{code} {here[code]}" for code in codes) + "."


@contextmanager
def run_command(ctx: click.Context | None = None) -> Iterator[None]:
    """Turn every foreseen fault of the block into one clear line and an exit code.

    ``BundleCommand`` and the group run inside it, so a command's body needs nothing of its own.

    Args:
        ctx: The command's context; its parameters name the output when a disk fault does not.

    Raises:
        SystemExit: With the code of :func:`exit_code`.
    """
    _replace_closed_streams()
    try:
        with _stopped_tidily():
            yield
    except (click.ClickException, click.exceptions.Exit):
        raise  # click prints usage errors itself, with code 2
    except BrokenPipeError as exc:
        _debug()
        # The reader of our output went away (`… | head`): no message, and none at shutdown.
        _silence_stdout()
        sys.exit(exit_code(exc))
    except BundleError as exc:
        _fail(exc, exc.message if not exc.args else str(exc), exc.hint)
    except (KeyboardInterrupt, click.Abort) as exc:
        _fail(exc, "interrupted; give the same command again, nothing is made twice", "")
    except OSError as exc:
        _fail(exc, _describe_os_error(exc, ctx), _hint_os_error(exc))
    except UnicodeEncodeError as exc:
        if exc.encoding.replace("_", "-").lower() in ("utf-8", "utf8"):
            raise  # ours: no locale would help
        _fail(
            exc,
            f"{exc.object}: the locale's encoding, {exc.encoding}, cannot hold this name",
            "set a locale with UTF-8, such as LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )
    except Exception as exc:
        if not _is_mlflow_exception(exc):
            raise
        _fail(exc, str(exc) or type(exc).__name__, "")


@contextmanager
def _stopped_tidily() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block alike: with its clean-up, a line and code 130.

    A signal that is ignored stays so: ``nohup`` lets a command go on when its terminal is gone.
    Threads that wait for a server are woken, because the clean-up waits for them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPS}
    ours = [n for n in before if before[n] in (signal.SIG_DFL, signal.default_int_handler)]

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        if ours:
            interrupted.clear()


def _replace_closed_streams() -> None:
    """Let what goes to a standard error that was closed (``2>&-``) go nowhere.

    A file that the command opens must not get the number of a standard stream either: what some
    library prints there would go into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    stderr: TextIO | None = sys.stderr
    if stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end


def standard_output() -> TextIO:
    """Return stdout.

    Raises:
        OSError: It was closed when the program began (``>&-``), where Python has none.
    """
    stream: TextIO | None = sys.stdout
    if stream is None:
        raise OSError(errno.EBADF, "it is closed", "standard output")
    return stream


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON object.

    Names of files may be no Unicode: such bytes stand there as ``\\udcff``, as in other messages.
    """
    import msgspec

    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_escaped(msgspec.to_builtins(value)))
    standard_output().buffer.write(msgspec.json.format(data, indent=2) + b"\n")
    standard_output().flush()


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def _fail(exc: BaseException, message: str, hint: str) -> None:
    _debug()
    label = "Error" if not isinstance(exc, (KeyboardInterrupt, click.Abort)) else "Stopped"
    click.echo(f"{label}: {one_line(message)}", err=True)
    if hint:
        click.echo(f"Hint: {one_line(hint)}", err=True)
    sys.exit(exit_code(exc))


def one_line(text: str) -> str:
    """Return ``text`` as one line without control characters.

    Names come from servers and bundles: a message must not move the cursor or forge a line.
    """
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _debug() -> None:
    if os.environ.get(DEBUG_VARIABLE, "").lower() in ("1", "true", "yes", "on"):
        traceback.print_exc()


def _silence_stdout() -> None:
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError, AttributeError):  # stdout is closed or no real file
        return


def _describe_os_error(exc: OSError, ctx: click.Context | None) -> str:
    if exc.errno is None or exc.strerror is None:  # requests' errors are OSErrors without these
        return str(exc) or type(exc).__name__
    reason = exc.strerror[:1].lower() + exc.strerror[1:]
    names = [os.fspath(n) for n in (exc.filename, exc.filename2) if isinstance(n, (str, bytes))]
    shown = " -> ".join(os.fsdecode(name) for name in names)
    if not shown and exc.errno in _FULL:
        shown = _output_of(ctx)
    return f"{shown}: {reason}" if shown else reason


def _output_of(ctx: click.Context | None) -> str:
    """Return what the command writes to: a failed write() does not say it."""
    for name in ("output", "output_dir"):
        value = ctx.params.get(name) if ctx is not None else None
        if value:
            return str(value)
    return ""


def _hint_os_error(exc: OSError) -> str:
    if exc.errno in _FULL:
        return MAKE_ROOM
    return ""


def _is_mlflow_exception(exc: Exception) -> bool:
    module = sys.modules.get("mlflow.exceptions")  # never imported by us only to compare
    return module is not None and isinstance(exc, module.MlflowException)
