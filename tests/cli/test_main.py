from __future__ import annotations

import re
import subprocess
import sys
import types

import click
import pytest
from click.testing import CliRunner

from mlflow_bundle import __version__
from mlflow_bundle.cli.main import COMMANDS, CommandEntry, LazyGroup, bundle
from mlflow_bundle.errors import CorruptFrameError


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    """A group of the commands ``ok``, ``fail`` and ``missing`` (a module that does not exist)."""
    module = types.ModuleType("standin_commands")

    @click.command("ok", help="Fine.")
    def ok() -> None:
        click.echo("fine")

    @click.command("fail")
    def fail() -> None:
        raise CorruptFrameError("checksum differs", path="x.mlbundle", offset=7)

    module.ok, module.fail = ok, fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "standin_commands", module)
    entries = {
        "ok": CommandEntry("standin_commands", "ok", "Says fine."),
        "fail": CommandEntry("standin_commands", "fail", "Fails."),
        "missing": CommandEntry("standin_missing", "command", "Is not there."),
    }
    return LazyGroup("standin", entries=entries)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_resolves(name: str) -> None:
    command = bundle.get_command(click.Context(bundle), name)
    assert command is not None
    assert command.name == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_lists_exit_codes(name: str) -> None:
    done = CliRunner().invoke(bundle, [name, "--help"])
    assert done.exit_code == 0
    assert re.search("Exit codes: 0 (done|equal)", done.stdout)


def test_the_help_lists_every_command_with_its_line() -> None:
    done = CliRunner().invoke(bundle, ["--help"])
    assert done.exit_code == 0
    words = " ".join(done.stdout.split())
    for name, entry in COMMANDS.items():
        assert f"{name} {entry.help}" in words


def test_the_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mlflow_bundle.cli.main import bundle\n"
        "try: bundle(['--help'])\n"
        "except SystemExit: pass\n"
        "ours = [m for m in sys.modules if m.startswith('mlflow_bundle.')]\n"
        "heavy = [m for m in ('mlflow', 'msgspec', 'msgpack', 'zstandard', 'fsspec', 'rich')\n"
        "         if m in sys.modules]\n"
        "print(*sorted(ours), *heavy, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.split() == ["mlflow_bundle.cli", "mlflow_bundle.cli.main"]


def test_the_version_is_the_package_version() -> None:
    done = CliRunner().invoke(bundle, ["--version"])
    assert done.stdout == f"mlflow-bundle, version {__version__}\n"


def test_python_dash_m_runs_the_same_group() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_bundle", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"mlflow-bundle, version {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("exprt-all", "export-all"), ("export-model", "export-models"), ("verfy", "verify")],
)
def test_a_misspelt_command_is_a_usage_error_with_a_suggestion(typed: str, meant: str) -> None:
    done = CliRunner().invoke(bundle, [typed])
    assert done.exit_code == 2
    assert f"No such command '{typed}'. Did you mean" in done.output
    assert meant in done.output


def test_a_command_like_no_other_gets_no_suggestion() -> None:
    done = CliRunner().invoke(bundle, ["qqqq"])
    assert done.exit_code == 2
    assert "No such command 'qqqq'.\n" in done.output


def test_an_unknown_group_option_is_a_usage_error() -> None:
    done = CliRunner().invoke(bundle, ["--versoin"])
    assert done.exit_code == 2
    assert "--version" in done.output


def test_the_group_runs_the_command_it_imports(group: LazyGroup) -> None:
    done = CliRunner().invoke(group, ["ok"])
    assert (done.exit_code, done.stdout) == (0, "fine\n")


def test_the_group_turns_faults_into_one_line(group: LazyGroup) -> None:
    done = CliRunner().invoke(group, ["fail"])
    assert done.exit_code == 4
    assert done.output == "Error: x.mlbundle: checksum differs (at byte 7)\n"


def test_the_help_works_though_a_command_cannot_be_imported(group: LazyGroup) -> None:
    done = CliRunner().invoke(group, ["--help"])
    assert done.exit_code == 0
    assert "Is not there." in done.stdout


def test_completion_offers_commands_without_importing_them(group: LazyGroup) -> None:
    ctx = click.Context(group)
    assert [item.value for item in group.shell_complete(ctx, "mi")] == ["missing"]
