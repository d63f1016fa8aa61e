"""The hook on MLflow's command line, in processes of their own where ``import mlflow`` is new.

Needs the package installed (``pip install -e .``): MLflow finds the hook by its entry point.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mlflow_bundle.plugin import cli_hook

pytestmark = pytest.mark.slow


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "mlflow"],
        [str(Path(sys.executable).with_name("mlflow"))],
    ],
    ids=["python -m mlflow", "mlflow"],
)
def test_mlflow_has_the_bundle_commands(command: list[str]) -> None:
    done = subprocess.run(
        [*command, "bundle", "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "export-all" in done.stdout
    assert "import-experiments" in done.stdout


def test_mlflow_lists_bundle_among_its_own_commands() -> None:
    done = run_python("-m", "mlflow", "--help")
    assert done.returncode == 0, done.stderr
    assert "\n  bundle " in done.stdout
    assert "\n  server " in done.stdout


def test_import_mlflow_loads_the_hook_and_nothing_else_of_ours() -> None:
    done = run_python(
        "-c",
        "import sys, mlflow; print(*sorted(m for m in sys.modules if m.startswith('mlflow_bun')))",
    )
    assert done.stdout.split() == [
        "mlflow_bundle",
        "mlflow_bundle.plugin",
        "mlflow_bundle.plugin.cli_hook",
    ]


def test_the_hook_imports_nothing_but_its_packages() -> None:
    done = run_python(
        "-c",
        "import sys; before = set(sys.modules)\n"
        "import mlflow_bundle.plugin.cli_hook\n"
        "print(*sorted(set(sys.modules) - before - {'__future__'}))",
    )
    assert done.stdout.split() == [
        "mlflow_bundle",
        "mlflow_bundle.plugin",
        "mlflow_bundle.plugin.cli_hook",
    ]


def test_the_group_is_added_when_mlflow_cli_came_first() -> None:
    done = run_python(
        "-c",
        "import sys, importlib.metadata as m\n"
        "real = m.entry_points\n"
        "m.entry_points = lambda **k: [e for e in real(**k) if e.name != 'mlbundle']\n"
        "import mlflow.cli\n"
        "assert 'bundle' not in mlflow.cli.cli.commands\n"
        "import mlflow_bundle.plugin.cli_hook\n"
        "assert 'bundle' in mlflow.cli.cli.commands\n",
    )
    assert done.returncode == 0, done.stderr


FAILURES = {
    "our command line cannot be imported": "sys.modules['mlflow_bundle.cli.main'] = None",
    "our command line has no group": (
        "import types; sys.modules['mlflow_bundle.cli.main'] = types.ModuleType('main')"
    ),
    "our command line raises": (
        "class Odd(type(sys)):\n"
        "    def __getattr__(self, name): raise ZeroDivisionError(name)\n"
        "sys.modules['mlflow_bundle.cli.main'] = Odd('main')"
    ),
    "mlflow refuses the command": (
        "import click; real = click.Group.add_command\n"
        "def add_command(self, cmd, name=None):\n"
        "    if cmd.name == 'bundle': raise RuntimeError('refused')\n"
        "    real(self, cmd, name)\n"
        "click.Group.add_command = add_command"
    ),
    "the loader cannot be wrapped": (
        "import importlib.machinery as machinery\n"
        "class Loader:\n"
        "    __slots__ = ()\n"
        "    def exec_module(self, module): raise AssertionError\n"
        "class Finder:\n"
        "    asked = 0\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mlflow.cli' and not self.asked:\n"
        "            self.asked = 1\n"
        "            return machinery.ModuleSpec(name, Loader())\n"
        "sys.meta_path.insert(0, Finder())"
    ),
    "another finder raises while we look": (
        "class Finder:\n"
        "    asked = 0\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mlflow.cli' and not self.asked:\n"
        "            self.asked = 1\n"
        "            raise RuntimeError('odd finder')\n"
        "sys.meta_path.insert(0, Finder())"
    ),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_mlflow_works_whatever_fails_in_the_hook(failure: str) -> None:
    done = run_python(
        "-c",
        f"import sys\n{failure}\nimport mlflow\nfrom mlflow.cli import cli\ncli(['--help'])",
    )
    assert done.returncode == 0, done.stderr
    assert "\n  server " in done.stdout
    assert "\n  bundle " not in done.stdout
    assert "RuntimeWarning: mlflow-bundle could not add 'mlflow bundle'" in done.stderr
    assert "Traceback" not in done.stderr


def test_mlflow_works_when_even_the_warning_is_an_error() -> None:
    failure = FAILURES["our command line cannot be imported"]
    done = run_python(
        "-c",
        "import sys, warnings\n"
        f"{failure}\n"
        "import mlflow\n"
        "warnings.simplefilter('error', RuntimeWarning)\n"
        "from mlflow.cli import cli\n"
        "cli(['--help'])",
    )
    assert done.returncode == 0, done.stderr
    assert "\n  server " in done.stdout


# The finder alone, on a package made for the test.


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "standin"
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "cli.py").write_text(
        "import click\n@click.group()\ndef cli(): pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    others = [finder for finder in sys.meta_path if not isinstance(finder, cli_hook._CliFinder)]
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.setattr(cli_hook, "_CLI_MODULE", "standin.cli")
    importlib.invalidate_caches()
    yield directory
    for name in ("standin.cli", "standin"):
        sys.modules.pop(name, None)


def finders() -> list[object]:
    return [finder for finder in sys.meta_path if isinstance(finder, cli_hook._CliFinder)]


def commands(module: ModuleType) -> list[str]:
    return list(module.cli.commands)


def test_the_finder_goes_when_it_has_done_its_work(package: Path) -> None:
    cli_hook.install()
    cli_hook.install()
    assert len(finders()) == 1
    module = importlib.import_module("standin.cli")
    assert commands(module) == ["bundle"]
    assert finders() == []


def test_looking_for_the_module_without_importing_it_uses_nothing_up(package: Path) -> None:
    cli_hook.install()
    assert importlib.util.find_spec("standin.cli") is not None
    assert commands(importlib.import_module("standin.cli")) == ["bundle"]


def test_a_module_that_fails_by_itself_fails_as_it_would_without_us(package: Path) -> None:
    (package / "cli.py").write_text("raise LookupError('its own fault')\n", encoding="utf-8")
    cli_hook.install()
    with pytest.raises(LookupError, match="its own fault"):
        importlib.import_module("standin.cli")


def test_a_missing_module_is_missing_as_it_would_be_without_us(package: Path) -> None:
    (package / "cli.py").unlink()
    cli_hook.install()
    with pytest.raises(ModuleNotFoundError, match=r"standin\.cli"):
        importlib.import_module("standin.cli")


def test_other_modules_are_left_to_the_other_finders(package: Path) -> None:
    assert cli_hook._CliFinder().find_spec("standin") is None


def test_a_meta_path_that_cannot_be_changed_is_a_warning(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", tuple(sys.meta_path))
    with pytest.warns(RuntimeWarning, match="the command mlflow-bundle is the same"):
        cli_hook.install()


def test_a_failing_warning_is_swallowed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", tuple(sys.meta_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cli_hook.install()
