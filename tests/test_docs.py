"""What the README says is so: its commands parse, its options exist, its links lead somewhere.

`tests/cli/test_demo.py` runs the README's main job for real.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlflow_bundle.archive.header import FORMAT_VERSION
from mlflow_bundle.cli import exit_codes
from mlflow_bundle.cli.main import COMMANDS, bundle

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

_COMMAND = re.compile(r"mlflow(?: |-)bundle +(?P<words>[a-zA-Z][^`|#\n]*)")
_PLACEHOLDERS = {"COMMAND"}


def commands() -> list[str]:
    """Every ``mlflow bundle …`` of the README, in text and in examples, without the prompt."""
    found = (match["words"].strip() for match in _COMMAND.finditer(README))
    return [words for words in dict.fromkeys(found) if words.split()[0] not in _PLACEHOLDERS]


def options() -> list[str]:
    """Every option that the README names."""
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", README)))


def parameters() -> Iterator[click.Parameter]:
    for name in COMMANDS:
        command = bundle.get_command(click.Context(bundle), name)
        assert command is not None
        yield from command.params


def test_the_readme_shows_the_commands_of_the_main_job() -> None:
    names = {words.split()[0] for words in commands()}
    assert {"export-all", "list", "import", "import-all", "verify", "demo"} <= names


@pytest.mark.parametrize("words", commands())
def test_a_command_of_the_readme_parses(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("users.csv").write_text("ana,ana.lopez@example.org\n")  # read when it is named
    name, *arguments = shlex.split(words.replace("[", "").replace("]", ""))
    command = bundle.get_command(click.Context(bundle), name)
    assert command is not None, name
    command.make_context(name, arguments, parent=click.Context(bundle), resilient_parsing=False)


def test_every_option_of_the_readme_exists() -> None:
    known = {option for parameter in parameters() for option in parameter.opts}
    others = {"--zstd", "--help"}  # of tar, of every command
    assert set(options()) - others <= known


def test_the_choices_that_the_readme_lists_are_those_of_the_option() -> None:
    listed = dict(re.findall(r"`(--[a-z-]+) \{([a-z,]+)\}`", README))
    assert set(listed) == {"--artifacts", "--on-conflict"}
    for parameter in parameters():
        if "digest" in getattr(parameter.type, "choices", ()):
            continue  # of the commands that compare
        if isinstance(parameter.type, click.Choice) and parameter.opts[0] in listed:
            assert listed[parameter.opts[0]].split(",") == list(parameter.type.choices)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_exit_codes_and_no_markup_left(name: str) -> None:
    done = CliRunner().invoke(bundle, [name, "--help"])
    assert done.exit_code == 0
    assert re.search(r"^  Exit codes: 0 (done, nothing lost|equal); ", done.stdout, re.M)
    assert not re.search(r"[{}]", re.sub(r"\{[a-z|,]+\}", "", done.stdout))


def test_the_readme_lists_every_exit_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)}
    assert listed == set(exit_codes.MEANINGS)


def test_relative_links_lead_somewhere() -> None:
    for path in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{path}: {target}"


def test_the_readme_gives_each_of_the_two_commands_in_one_line() -> None:
    assert "`pip install . && mlflow bundle demo`" in README
    assert "`pip install -e '.[test]' && pytest`" in README


def test_the_changelog_has_the_format_version_under_its_own_heading() -> None:
    unreleased = CHANGELOG.partition("## [Unreleased]")[2]
    assert f"Version {FORMAT_VERSION} " in unreleased.partition("### Format")[2]
