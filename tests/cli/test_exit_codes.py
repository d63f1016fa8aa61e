from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import describe, exit_code, one_line, print_json
from mlflow_bundle.cli.options import output_options
from mlflow_bundle.errors import (
    BundleError,
    NotABundleError,
    SelectionError,
    SinkError,
    SourceError,
)
from tests.bundles.memory import write_bundle


def run(error: BaseException | None = None, *, returns: int | None = None) -> Result:
    @bundle_command("standin")
    @output_options
    def command(output: object) -> int | None:
        if error is not None:
            raise error
        return returns

    return CliRunner().invoke(command, ["-o", "server.mlbundle"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (BundleError("x"), 1),
        (SourceError("x"), 1),
        (SinkError("x"), 1),
        (SelectionError("x"), 2),
        (click.UsageError("x"), 2),
        (NotABundleError("x"), 4),
        (OSError("x"), 1),
        (RuntimeError("x"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_each_fault_has_its_exit_code(error: BaseException | None, code: int) -> None:
    assert exit_code(error) == code


def test_losses_are_code_3_and_adjustments_only_when_strict() -> None:
    assert exit_code(losses=2) == 3
    assert exit_code(adjustments=2) == 0
    assert exit_code(adjustments=2, strict=True) == 3
    assert exit_code(strict=True) == 0


def test_a_fault_on_purpose_is_an_error_line_and_a_hint_line() -> None:
    done = run(SelectionError("no such model 'x'", hint="see mlflow bundle list"))
    assert done.exit_code == 2
    assert done.stderr == "Error: no such model 'x'\nHint: see mlflow bundle list\n"
    assert done.stdout == ""


def test_a_fault_without_a_hint_has_no_hint_line() -> None:
    assert run(SourceError("server is away")).stderr == "Error: server is away\n"


@pytest.mark.parametrize("code", [0, 3])
def test_the_number_a_command_returns_is_its_exit_code(code: int) -> None:
    assert run(returns=code).exit_code == code


def test_a_command_that_returns_nothing_is_done() -> None:
    assert run().exit_code == 0


def test_an_interruption_is_one_line_and_130() -> None:
    done = run(KeyboardInterrupt())
    assert done.exit_code == 130
    assert done.stderr.startswith("Stopped: interrupted")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"),
            "a/b: no such file or directory",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a"),
            "a: permission denied",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), "a: is a directory"),
        (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), "a -> b: cross-device link"),
        (OSError("connection broken"), "connection broken"),
    ],
)
def test_a_fault_of_the_system_names_the_file(error: OSError, line: str) -> None:
    done = run(error)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {line}\n"


def test_a_full_disk_names_the_output_although_python_does_not() -> None:
    done = run(OSError(errno.ENOSPC, "No space left on device"))
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: server.mlbundle: no space left on device\nHint: ")


def test_an_mlflow_exception_that_escapes_is_one_line() -> None:
    from mlflow.exceptions import MlflowException

    done = run(MlflowException("first\n  second"))
    assert done.exit_code == 1
    assert done.stderr == "Error: first second\n"


def test_a_bug_keeps_its_traceback() -> None:
    done = run(ZeroDivisionError("a bug"))
    assert isinstance(done.exception, ZeroDivisionError)


def test_a_usage_error_inside_a_command_is_clicks_own() -> None:
    done = run(click.UsageError("not both"))
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: ")


def test_tracebacks_are_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_BUNDLE_DEBUG", "1")
    done = run(SelectionError("wrong"))
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("Error: wrong\n")
    assert done.exit_code == 2


def test_a_message_cannot_forge_lines_or_move_the_cursor() -> None:
    assert one_line("a\n b\x1b[2Jc\u202ed\x00") == "a b\\x1b[2Jc\\u202ed\\x00"


def test_json_is_whole_where_a_name_is_no_unicode(capfd: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"a\xff")
    print_json({"lost": [{"id": name}], "done": {name: 1}})
    shown = "a\\udcff"
    assert json.loads(capfd.readouterr().out) == {"lost": [{"id": shown}], "done": {shown: 1}}


def test_the_help_line_lists_only_the_codes_given() -> None:
    assert describe((0, 4)) == "Exit codes: 0 done, nothing lost; 4 damaged or refused bundle."


PRINTS_MUCH = """
import click
from mlflow_bundle.cli.command import bundle_command
@bundle_command("much")
def command():
    for _ in range(100_000):
        click.echo("a line of some length")
command()
"""


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    script = tmp_path / "much.py"
    script.write_text(PRINTS_MUCH, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert stderr == b""


@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "--json"), ("show", "manifest.json"), ("verify", "--json")]
)
def test_a_closed_standard_output_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.mlbundle")
    name, *rest = arguments
    closed = ["/bin/sh", "-c", 'exec "$0" "$@" >&-', sys.executable]
    script = "from mlflow_bundle.cli.main import bundle; bundle()"
    result = subprocess.run(
        [*closed, "-c", script, name, str(bundle), *rest],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, "Error: standard output: it is closed\n")


def test_a_closed_standard_input_is_one_line(tmp_path: Path) -> None:
    result = _with_closed("<&-", "list", "-")
    assert (result.returncode, result.stderr) == (1, "Error: standard input: it is closed\n")


def test_a_closed_standard_error_keeps_nothing_from_being_done(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.mlbundle")
    result = _with_closed("2>&-", "verify", bundle)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{bundle}: sound")


def _with_closed(redirection: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m mlflow_bundle "$@" {redirection}', sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_locale_that_cannot_hold_a_name_is_one_line(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.mlbundle")
    script = "from mlflow_bundle.cli.main import bundle; bundle()"
    result = subprocess.run(
        [sys.executable, "-c", script, "extract", str(bundle), "-o", "x", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "the locale's encoding, ascii, cannot hold this name" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.mlbundle"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_ends_a_process_ends_a_command_as_ctrl_c_does(name: str) -> None:
    ended = _signalled(name)
    assert ended.returncode == 130
    assert ended.stderr.startswith("Stopped: interrupted")


def test_a_command_under_nohup_goes_on_when_its_terminal_is_gone() -> None:
    ended = _signalled("SIGHUP", "signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    assert (ended.returncode, ended.stdout) == (0, "went on\n")


def _signalled(name: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command that gets a signal."""
    script = (
        "import os, signal, time\n"
        "from mlflow_bundle.cli.exit_codes import run_command\n"
        f"{before}\n"
        "with run_command():\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "    time.sleep(0.1)\n"
        "    print('went on')\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
