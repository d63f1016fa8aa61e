from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlflow_bundle.cli import command as command_module
from mlflow_bundle.cli import options
from mlflow_bundle.cli.command import BoolOption, BundleCommand, ListOption, bundle_command
from mlflow_bundle.cli.options import InputPath, OutputPath
from mlflow_bundle.selection import ModelPattern, NamePattern, Token


def parse(decorators: list[Any], *words: str) -> dict[str, Any]:
    """Return what a command with these options receives."""
    received: dict[str, Any] = {}

    def body(**values: Any) -> None:
        received.update(values)

    done = CliRunner().invoke(_command(body, decorators), list(words))
    assert done.exit_code == 0, done.output
    return received


def refuse(decorators: list[Any], *words: str) -> str:
    """Return the usage error of a command with these options, in one line."""

    def body(**values: Any) -> None:
        raise AssertionError(values)

    done = CliRunner().invoke(_command(body, decorators), list(words))
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def help_of(*decorators: Any) -> str:
    def body(**values: Any) -> None: ...

    done = CliRunner().invoke(_command(body, list(decorators)), ["--help"])
    assert done.exit_code == 0
    return " ".join(done.stdout.split())


def _command(body: Any, decorators: list[Any]) -> click.Command:
    for decorator in reversed(decorators):
        body = decorator(body)
    return bundle_command("standin")(body)


# Booleans, bare and valued.

BOOLEANS = [
    click.option("--on", cls=BoolOption, default=False),
    click.option("--off", cls=BoolOption, default=True),
    click.option("-q", "--quiet", is_flag=True),
    click.option("-v", count=True),
    click.option("-n", "--name"),
    click.option("--pair", nargs=2),
    click.argument("words", nargs=-1),
]


@pytest.mark.parametrize(
    ("line", "on", "words"),
    [
        ("", False, ()),
        ("--on", True, ()),
        ("--on file", True, ("file",)),
        ("file --on", True, ("file",)),
        ("--on true file", True, ("file",)),
        ("--on False file", False, ("file",)),
        ("--on=false file", False, ("file",)),
        ("--on=YES file", True, ("file",)),
        ("--on -q file", True, ("file",)),
        ("--on --off file", True, ("file",)),
        ("--on -- true", True, ("true",)),
        ("-- --on", False, ("--on",)),
        ("--on - x", True, ("-", "x")),
        ("--on --on false", False, ()),
        ("--on false --on", True, ()),
        ("--on true false", True, ("false",)),
        ("true --on", True, ("true",)),
        ("--name --on file", False, ("file",)),
        ("-n --on file", False, ("file",)),
        ("-qn --on file", False, ("file",)),
        ("-qvn --on file", False, ("file",)),
        ("-nx --on file", True, ("file",)),
        ("-q --on false", False, ()),
        ("-vv --on false x", False, ("x",)),
        ("--name=x --on 0", False, ()),
        ("--pair --on --on file", False, ("file",)),
        ("--pair a b --on file", True, ("file",)),
    ],
)
def test_a_boolean_takes_the_next_word_only_when_it_is_one(
    line: str, on: bool, words: tuple[str, ...]
) -> None:
    values = parse(BOOLEANS, *line.split())
    assert values["on"] is on
    assert values["words"] == words


@pytest.mark.parametrize(
    ("word", "value"),
    [(word, True) for word in ("true", "True", "TRUE", "yes", "1", "on", "On")]
    + [(word, False) for word in ("false", "False", "no", "NO", "0", "off")],
)
def test_booleans_are_read_in_any_case(word: str, value: bool) -> None:
    assert parse(BOOLEANS, "--on", word, "f") == parse(BOOLEANS, f"--on={word}", "f")
    assert parse(BOOLEANS, "--on", word)["on"] is value
    assert parse(BOOLEANS, "--off", word)["off"] is value


def test_a_valued_boolean_that_is_none_is_a_usage_error() -> None:
    assert "'maybe' is not a boolean" in refuse(BOOLEANS, "--on=maybe")
    assert "'' is not a boolean" in refuse(BOOLEANS, "--on=")


def test_a_boolean_keeps_its_default_when_not_given() -> None:
    values = parse(BOOLEANS)
    assert values["on"] is False
    assert values["off"] is True


def test_a_missing_value_before_a_boolean_at_the_end_is_still_an_error() -> None:
    assert "requires an argument" in refuse(BOOLEANS, "--on", "--name")


def test_an_unknown_option_is_a_usage_error_with_a_suggestion() -> None:
    message = refuse([options.delete_model_option], "--delete-modle")
    assert "--delete-model" in message.replace("--delete-modle", "")


def test_a_boolean_outside_a_bundle_command_is_a_bug_that_shows() -> None:
    @click.command()
    @click.option("--on", cls=BoolOption)
    def command(on: bool) -> None: ...

    done = CliRunner().invoke(command, [])
    assert isinstance(done.exception, TypeError)


WORDS = st.sampled_from(["--on", "-q", "-n", "--name", "--", "-", "true", "False", "file"])


@given(st.lists(WORDS, max_size=8))
def test_joining_booleans_keeps_every_other_word_in_its_order(words: list[str]) -> None:
    command = _command(lambda **values: None, BOOLEANS)
    joined = command_module._join_booleans(command.get_params(click.Context(command)), words)
    taken_apart = [part for word in joined for part in word.split("=")]
    # A bare use gains the word true; nothing else is added, lost or moved.
    remaining = iter(taken_apart)
    assert all(word in remaining for word in words)
    assert len(taken_apart) - len(words) <= words.count("--on")


# Lists.


def test_a_list_without_a_parser_gives_tokens() -> None:
    option = click.option("--things", cls=ListOption)
    assert parse([option], "--things", r"a,\*", "--things", "b") == {
        "things": (
            Token(text="a"),
            Token(text="*", escaped=frozenset({0})),
            Token(text="b"),
        )
    }


def test_models_are_patterns_from_every_use_of_the_option() -> None:
    values = parse(
        [options.models_option(verb="import")], "--models", "a,b/3", "--models", r"c\,d@x"
    )
    name = [NamePattern(text=text) for text in ("a", "b", "c,d")]
    assert values["models"] == (
        ModelPattern(name=name[0]),
        ModelPattern(name=name[1], version=3),
        ModelPattern(name=name[2], alias="x"),
    )


def test_lists_not_given_are_empty() -> None:
    values = parse(
        [
            options.models_option(verb="export"),
            options.experiments_option(verb="export"),
            options.run_ids_option(verb="export"),
            options.stages_option,
            options.notebook_formats_option,
        ]
    )
    assert set(values.values()) == {()}


def test_an_empty_list_is_a_usage_error_and_not_everything() -> None:
    message = refuse([options.models_option(verb="export")], "--models", "")
    assert "Invalid value for '--models': the list holds no model" in message


def test_a_required_list_must_be_given() -> None:
    decorators = [options.experiments_option(verb="export", required=True)]
    assert "Missing option '--experiments'" in refuse(decorators)


def test_a_wrong_element_is_a_usage_error_with_the_hint() -> None:
    message = refuse([options.stages_option], "--stages", "Production,Prod")
    assert "'Prod' is not a stage (stages are Production, Staging, Archived, None)" in message


def test_stages_come_in_mlflows_spelling() -> None:
    assert parse([options.stages_option], "--stages", "archive,NONE")["stages"] == (
        "Archived",
        "None",
    )


def test_notebook_formats_may_be_empty_as_the_peers_default_is() -> None:
    decorators = [options.notebook_formats_option]
    assert parse(decorators, "--notebook-formats", "")["notebook_formats"] == ()
    assert parse(decorators, "--notebook-formats", "html,SOURCE")["notebook_formats"] == (
        "HTML",
        "SOURCE",
    )
    assert "'PDF' is not a notebook format" in refuse(decorators, "--notebook-formats", "PDF")


def test_renames_are_a_mapping() -> None:
    values = parse(
        [options.rename_options], "--rename-experiment", r"a\=b=c", "--rename-experiment", "d=e"
    )
    assert values == {"rename_experiment": {"a=b": "c", "d": "e"}, "rename_model": {}}
    assert "OLD=NEW" in refuse([options.rename_options], "--rename-model", "a")


# Times.


def test_the_window_is_utc_milliseconds() -> None:
    decorators = [options.window_options]
    assert parse(decorators) == {"since_ms": None, "until_ms": None}
    assert parse(decorators, "--since", "2024-01-31", "--until", "1706702400000") == {
        "since_ms": 1_706_659_200_000,
        "until_ms": 1_706_702_400_000,
    }
    assert "must be earlier" in refuse(decorators, "--since", "2024-01-31", "--until", "2024-01-31")
    assert "is not a time" in refuse(decorators, "--since", "soon")


# Groups of options.


def test_an_output_is_a_file_or_a_directory() -> None:
    decorators = [options.output_options]
    assert parse(decorators, "-o", "f", "--force") == {
        "output": OutputPath(path="f", is_directory=False, force=True)
    }
    assert parse(decorators, "--output-dir", "d") == {
        "output": OutputPath(path="d", is_directory=True, force=False)
    }
    assert parse(decorators, "--output", "-")["output"].is_stdout


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "none was given"),
        (["-o", "f", "--output-dir", "d"], "not both"),
        (["-o", ""], "is empty"),
    ],
)
def test_exactly_one_output_is_needed(words: list[str], fault: str) -> None:
    assert fault in refuse([options.output_options], *words)


def test_an_input_is_an_argument_or_a_directory() -> None:
    decorators = [options.input_options, options.delete_model_option]
    assert parse(decorators, "--delete-model", "f") == {
        "bundle": InputPath(path="f", is_directory=False),
        "delete_model": True,
    }
    assert parse(decorators, "--input-dir", "d")["bundle"] == InputPath(path="d", is_directory=True)
    assert parse(decorators, "-")["bundle"].is_stdin
    assert "none was given" in refuse(decorators)
    assert "not both" in refuse(decorators, "f", "--input-dir", "d")


@pytest.mark.parametrize(
    ("line", "jobs"),
    [
        ("", 8),
        ("--jobs 3", 3),
        ("--use-threads", 8),
        ("--use-threads True --jobs 64", 64),
        ("--use-threads False", 1),
        ("--jobs 3 --use-threads=no", 1),
    ],
)
def test_without_threads_there_is_one_job(line: str, jobs: int) -> None:
    assert parse([options.jobs_options], *line.split()) == {"jobs": jobs}


@pytest.mark.parametrize("number", ["0", "65", "many"])
def test_jobs_outside_1_to_64_are_refused(number: str) -> None:
    assert "'--jobs'" in refuse([options.jobs_options], "--jobs", number)


def test_earlier_versions_and_renumbering_exclude_each_other() -> None:
    decorators = [options.version_options]
    assert parse(decorators, "--renumber") == {"with_earlier_versions": False, "renumber": True}
    assert "not both" in refuse(decorators, "--renumber", "--with-earlier-versions")


@pytest.mark.parametrize(
    ("decorator", "default"),
    [
        (options.tracking_uri_option, {"tracking_uri": None}),
        (options.artifacts_option, {"artifacts": "copy"}),
        (options.dry_run_option, {"dry_run": False}),
        (options.json_option, {"as_json": False}),
        (options.strict_option, {"strict": False}),
        (options.export_source_tags_option, {"export_source_tags": False}),
        (options.export_all_runs_option, {"export_all_runs": False}),
        (options.delete_model_option, {"delete_model": False}),
        (options.verbose_option, {"verbose": False}),
        (options.use_src_user_id_option, {"use_src_user_id": True}),
        (options.experiment_name_prefix_option, {"experiment_name_prefix": ""}),
        (options.on_conflict_option, {"on_conflict": "skip"}),
        (options.steal_option, {"steal": False}),
        (options.quiet_option, {"quiet": False}),
        (options.level_option, {"level": 3}),
    ],
)
def test_each_option_has_its_default(decorator: Any, default: dict[str, Any]) -> None:
    assert parse([decorator]) == default


def test_choices_are_read_in_any_case() -> None:
    assert parse([options.artifacts_option], "--artifacts", "SKIP") == {"artifacts": "skip"}
    assert "'--on-conflict'" in refuse([options.on_conflict_option], "--on-conflict", "merge")


def test_the_help_words_the_options_as_mlflow_users_know_them() -> None:
    text = help_of(
        options.output_options,
        options.tracking_uri_option,
        options.models_option(verb="export"),
        options.export_all_runs_option,
        options.jobs_options,
        options.use_src_user_id_option,
        options.dry_run_option,
    )
    for expected in (
        "-o, --output FILE",
        "--output-dir DIR",
        "--tracking-uri URI",
        "[default: (MLFLOW_TRACKING_URI, resolved as everywhere in MLflow)]",
        "--models TEXT",
        "[default: (all)]",
        "--export-all-runs BOOLEAN",
        "--use-threads BOOLEAN",
        "[default: 8",
        "--use-src-user-id BOOLEAN",
        "--dry-run Print the plan",
        "Exit codes: 0 done, nothing lost;",
    ):
        assert expected in text


def test_a_command_may_list_only_the_codes_it_can_return() -> None:
    @bundle_command("standin", codes=(0, 4))
    def command() -> None: ...

    assert isinstance(command, BundleCommand)
    assert command.epilog == "Exit codes: 0 done, nothing lost; 4 damaged or refused bundle."


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("45s", 45),
        ("5m", 300),
        ("5min", 300),
        ("1.5h", 5400),
        ("2h30m", 9000),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse([options.retry_for_option], "--retry-for", text)["retry_for_s"] == seconds


def test_a_server_is_waited_for_five_minutes_by_default() -> None:
    assert parse([options.retry_for_option])["retry_for_s"] == 300


@pytest.mark.parametrize("text", ["", "soon", "5 m", "-1", "1d", "5m1h", "s"])
def test_what_is_no_duration_is_a_usage_error(text: str) -> None:
    assert "is not a duration" in refuse([options.retry_for_option], f"--retry-for={text}")


def test_a_duration_that_was_converted_stays_one() -> None:
    """Defaults come twice with click 8.0."""
    assert command_module.Duration().convert(300.0, None, None) == 300.0
