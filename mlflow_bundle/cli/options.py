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

from mlflow_bundle.added_tags import parse_tags
from mlflow_bundle.cli.command import (
    Body,
    BoolOption,
    Duration,
    ListOption,
    UtcTime,
    parse_or_refuse,
)
from mlflow_bundle.cli.tracking import DatabaseOptions
from mlflow_bundle.errors import SelectionError
from mlflow_bundle.selection import (
    STAGES,
    parse_experiments,
    parse_list,
    parse_models,
    parse_renames,
    parse_run_ids,
    parse_stages,
    parse_workspaces,
)
from mlflow_bundle.user_map import read_user_map

Decorator = Callable[[Body], Body]

NOTEBOOK_FORMATS = ("SOURCE", "HTML", "JUPYTER", "DBC")
DEFAULT_JOBS = 8
DEFAULT_LEVEL = 3
DEFAULT_RETRY_FOR = "5m"
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
        help=(
            "URI of the MLflow tracking server, or of its database (sqlite:///, postgresql://, "
            "mysql://), which is read and written directly. A file store (./mlruns) can be read."
        ),
    )(function)


def database_options(*, verb: str) -> Decorator:
    """Give ``database: DatabaseOptions``.

    Args:
        verb: ``export`` or ``import``: only an import makes new experiments.
    """

    def decorate(function: Body) -> Body:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            kwargs["database"] = DatabaseOptions(
                artifacts_destination=kwargs.pop("artifacts_destination"),
                default_artifact_root=kwargs.pop("default_artifact_root", None),
                include_secrets=kwargs.pop("include_secrets"),
            )
            return function(*args, **kwargs)

        case = "--tracking-uri names a database"
        roots = [_artifacts_destination_option("--artifacts-destination", case)]
        if verb == "import":
            roots.append(_default_artifact_root_option("--default-artifact-root", case))
        return _apply(wrapper, *roots, _include_secrets_option)

    return decorate


def copy_database_options(function: Body) -> Body:
    """Give ``database`` of the source and ``to_database`` of the destination."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        include_secrets = kwargs.pop("include_secrets")
        kwargs["database"] = DatabaseOptions(
            artifacts_destination=kwargs.pop("artifacts_destination"),
            include_secrets=include_secrets,
        )
        kwargs["to_database"] = DatabaseOptions(
            artifacts_destination=kwargs.pop("to_artifacts_destination"),
            default_artifact_root=kwargs.pop("to_default_artifact_root"),
            include_secrets=include_secrets,
        )
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        _artifacts_destination_option("--artifacts-destination", "--tracking-uri names a database"),
        _artifacts_destination_option("--to-artifacts-destination", "--to names a database"),
        _default_artifact_root_option("--to-default-artifact-root", "--to names a database"),
        _include_secrets_option,
    )


def auth_db_option(*, verb: str) -> Decorator:
    """Give ``auth_db: str | None``.

    Args:
        verb: ``export`` or ``import``, for the help.
    """
    whose = "its users, roles and permissions" if verb == "export" else "those of the bundle"
    return _auth_db_option("--auth-db", f"{verb} {whose} too. {_PASSWORDS}")


def copy_auth_db_options(function: Body) -> Body:
    """Give ``auth_db`` of the source and ``to_auth_db`` of the destination: both or none."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if (kwargs["auth_db"] is None) != (kwargs["to_auth_db"] is None):
            raise click.UsageError("Give both of --auth-db and --to-auth-db, or none.")
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        _auth_db_option("--auth-db", "copy its users, roles and permissions too. " + _PASSWORDS),
        _auth_db_option("--to-auth-db", "that of the server that is copied to."),
    )


_PASSWORDS = "Passwords come, hashed, with --include-secrets only."


def _auth_db_option(name: str, help: str) -> Decorator:
    return click.option(
        name,
        metavar="URI",
        default=None,
        show_default="users stay where they are",
        help=f"Database of MLflow's basic-auth app (its database_uri): {help}",
    )


def _artifacts_destination_option(name: str, case: str) -> Decorator:
    return click.option(
        name,
        metavar="URI",
        default=None,
        show_default="./mlartifacts, if it exists",
        help=f"If {case}: where the artifacts lie that its server serves, as of mlflow server.",
    )


def _default_artifact_root_option(name: str, case: str) -> Decorator:
    return click.option(
        name,
        metavar="URI",
        default=None,
        show_default="mlflow-artifacts:/",
        help=f"If {case}: where new experiments keep their artifacts, as of mlflow server.",
    )


def _include_secrets_option(function: Body) -> Body:
    return _flag(
        "--include-secrets",
        help=(
            "From and into databases: take the encrypted secrets of the AI gateway and of webhooks "
            "too. They can be used only with the passphrase and key of the source's server. With "
            "--auth-db, take the hashes of users' passwords too."
        ),
    )(function)


def compared_databases_options(function: Body) -> Body:
    """Give ``a_database`` and ``b_database``: DatabaseOptions of the two sides."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for side in ("a", "b"):
            kwargs[f"{side}_database"] = DatabaseOptions(
                artifacts_destination=kwargs.pop(f"{side}_artifacts_destination"),
                auth_db=kwargs.pop(f"{side}_auth_db"),
            )
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        _artifacts_destination_option("--a-artifacts-destination", "A is a database"),
        _artifacts_destination_option("--b-artifacts-destination", "B is a database"),
        _auth_db_option("--a-auth-db", "compare users, roles and permissions of A too."),
        _auth_db_option("--b-auth-db", "compare users, roles and permissions of B too."),
    )


def against_database_option(function: Body) -> Body:
    """Give ``database: DatabaseOptions`` of what ``--against`` names."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs["database"] = DatabaseOptions(
            artifacts_destination=kwargs.pop("artifacts_destination"),
            auth_db=kwargs.pop("auth_db"),
        )
        return function(*args, **kwargs)

    return _apply(
        wrapper,
        _artifacts_destination_option("--artifacts-destination", "--against names a database"),
        _auth_db_option("--auth-db", "look for users, roles and permissions there too."),
    )


def to_option(function: Body) -> Body:
    """Give ``to: str``."""
    return click.option(
        "--to",
        metavar="URI",
        required=True,
        help="URI of the MLflow tracking server, or of its database, that is copied to.",
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


def workspace_option(*, default_text: str, verb: str) -> Decorator:
    """Give ``workspace: tuple[str, ...]``, empty when not given.

    Args:
        default_text: What the help says happens without it.
        verb: ``export``, ``import``, ``list``, …, for the help.
    """
    return _list_option(
        "--workspace",
        parse_workspaces,
        help=f"Only workspaces of these names are looked at to {verb} from. Comma separated list.",
        default_text=default_text,
    )


def workspace_map_option(function: Body) -> Body:
    """Give ``workspace_map``: dict of workspace of the bundle to workspace of the destination."""
    return _renaming_option(
        "--workspace-map",
        help=(
            "Import a workspace of the bundle into another one, which is made if it does not "
            "exist; may be repeated. Two come together only if both are named here."
        ),
        default_text="names are kept",
    )(function)


def compared_workspaces_options(function: Body) -> Body:
    """Give ``workspace`` and ``workspace_map``, as those of an import, for a comparison."""
    return _apply(
        function,
        _list_option(
            "--workspace",
            parse_workspaces,
            help="Only workspaces of these names are compared. Comma separated list.",
            default_text="all",
        ),
        _renaming_option(
            "--workspace-map",
            help="Compare a workspace with another one of the second side; may be repeated.",
            default_text="names are kept",
        ),
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


def rewrite_location_option(function: Body) -> Body:
    """Give ``rewrite_location``: dict of old root to new root of locations.

    Refused without ``--artifacts reference``: files that are copied get their place here.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if kwargs["rewrite_location"] and kwargs["artifacts"] != "reference":
            raise click.UsageError("--rewrite-location needs --artifacts reference.")
        return function(*args, **kwargs)

    return _renaming_option(
        "--rewrite-location",
        help=(
            "Into a database, with --artifacts reference: files that lay at OLD or below, such as "
            "a bucket, are now at NEW; may be repeated, and the longest OLD counts. \\= is an "
            "equals sign in OLD."
        ),
        default_text="locations are kept",
    )(wrapper)


def comparison_options(function: Body) -> Body:
    """Give ``artifacts``: ``"digest"``, ``"size"`` or ``"skip"``; and ``strict: bool``."""
    return _apply(
        function,
        click.option(
            "--artifacts",
            type=click.Choice(["digest", "size", "skip"], case_sensitive=False),
            default="digest",
            help=(
                "Compare artifacts by their content, which reads every byte; by their size, which "
                "only lists them; or not at all."
            ),
        ),
        _flag(
            "--strict",
            help="Count values that MLflow's API cannot set, such as ids and creation times.",
        ),
    )


def export_source_tags_option(function: Body) -> Body:
    """Give ``export_source_tags: bool``."""
    return _boolean(
        "--export-source-tags",
        help=(
            "Export source run information (run info and MLflow system tags starting with "
            "'mlflow') under the 'mlflow_export_import' tag prefix."
        ),
    )(function)


def list_label_schemas_option(function: Body) -> Body:
    """Give ``list_label_schemas: bool``."""
    return _flag(
        "--list-label-schemas",
        help=(
            "Also list the label schemas of experiments that have no default one yet. Asking for "
            "them makes the server add it: the only thing that an export ever writes. Without "
            "this, those that review queues name are exported."
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
    return _use_src_user_id(
        "Set the destination user ID to the source user ID. False sets the user who imports. "
        "Source user ID is ignored when importing into Databricks since setting it is not "
        "allowed."
    )(function)


def _use_src_user_id(help: str) -> Decorator:
    return _boolean("--use-src-user-id", default=True, help=help)


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
        renumber_option,
    )


def renumber_option(function: Body) -> Body:
    """Give ``renumber: bool``."""
    return _flag(
        "--renumber",
        help="Let versions take the next free numbers (in a database where theirs are taken).",
    )(function)


def rename_options(function: Body) -> Body:
    """Give ``rename_experiment`` and ``rename_model``: dict of old name to new name."""
    return _apply(
        function,
        _rename_option("--rename-experiment", "an experiment"),
        _rename_option("--rename-model", "a registered model"),
    )


def _rename_option(name: str, noun: str) -> Decorator:
    return _renaming_option(
        name,
        help=f"Import {noun} under another name; may be repeated. \\= is an equals sign in OLD.",
        default_text="names are kept",
    )


def _renaming_option(name: str, *, help: str, default_text: str) -> Decorator:
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
        show_default=default_text,
        help=help,
    )


def user_map_option(function: Body) -> Body:
    """Give ``user_map``: dict of user at the source to user at the destination.

    Refused beside ``--use-src-user-id False``, which leaves no source user to map.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, str]:
        if value is None:
            return {}
        users: dict[str, str] = parse_or_refuse(read_user_map, value, ctx, param)
        return users

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if kwargs["user_map"] and not kwargs["use_src_user_id"]:
            raise click.UsageError("Give one of --user-map and --use-src-user-id False; not both.")
        return function(*args, **kwargs)

    return click.option(
        "--user-map",
        metavar="FILE",
        default=None,
        callback=callback,
        show_default="users are kept",
        help=(
            "CSV file of users who have another name at the destination: source,destination on "
            "each line. Who is not listed is kept."
        ),
    )(wrapper)


def tag_option(function: Body) -> Body:
    """Give ``tag``: dict of key to value."""

    return _tag_option(
        "Set a tag on everything imported that has tags; may be repeated. It takes the place "
        "of the bundle's tag of that key."
    )(function)


def _tag_option(help: str) -> Decorator:
    def callback(
        ctx: click.Context, param: click.Parameter, values: Sequence[str]
    ) -> dict[str, str]:
        tags: dict[str, str] = parse_or_refuse(parse_tags, values or (), ctx, param)
        return tags

    return click.option(
        "--tag",
        metavar="KEY=VALUE",
        multiple=True,
        callback=callback,
        show_default="none",
        help=help,
    )


def expectations_options(function: Body) -> Body:
    """Give ``expected``: an `Expected` of what an import was asked to change.

    Made of the options that an import takes: prefix, new names, users, tags and locations.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        from mlflow_bundle.diff import Expected

        expected = Expected(
            experiment_name_prefix=kwargs.pop("experiment_name_prefix"),
            rename_experiments=kwargs.pop("rename_experiment"),
            rename_models=kwargs.pop("rename_model"),
            users=kwargs["user_map"],
            keeps_users=kwargs["use_src_user_id"],
            extra_tags=kwargs.pop("tag"),
            rewrite_locations=kwargs.pop("rewrite_location"),
        )
        del kwargs["user_map"], kwargs["use_src_user_id"]
        return function(*args, expected=expected, **kwargs)

    return _apply(
        wrapper,
        experiment_name_prefix_option,
        rename_options,
        _use_src_user_id("Users of runs are compared. False is for an import that replaced them."),
        user_map_option,
        _tag_option(
            "A tag that an import set on everything that has tags; may be repeated. It is "
            "expected in the place of the first side's tag of that key."
        ),
        _renaming_option(
            "--rewrite-location",
            help="Where an import into a database put files that lay at OLD; may be repeated.",
            default_text="locations are kept",
        ),
    )


def verify_option(function: Body) -> Body:
    """Give ``verify: bool``."""
    return _flag(
        "--verify",
        help=(
            "Then compare all that was selected with the server, files too; differences are "
            "listed and end the command with exit code 3."
        ),
    )(function)


def placeholder_secrets_option(function: Body) -> Body:
    """Give ``placeholder_secrets: bool``."""
    return _flag(
        "--placeholder-secrets",
        help=(
            "Make secrets of the AI gateway, whose values no bundle holds, with a placeholder: "
            "models, endpoints and scorers that need them come too. The report names each secret "
            "whose value is to be set again."
        ),
    )(function)


def restart_option(function: Body) -> Body:
    """Give ``restart: bool``."""
    return _flag(
        "--restart",
        help="Begin anew instead of going on with what an interrupted export has left.",
    )(function)


def complete_option(function: Body) -> Body:
    """Give ``complete: str | None``."""
    return click.option(
        "--complete",
        metavar="BUNDLE",
        default=None,
        help=(
            "An export of the same server, selection and options that lost something: what is "
            "whole is copied from it, and only what it lists as lost is fetched."
        ),
    )(function)


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


def retry_for_option(function: Body) -> Body:
    """Give ``retry_for_s: float``, seconds."""
    return click.option(
        "--retry-for",
        "retry_for_s",
        type=Duration(),
        metavar="DURATION",
        default=DEFAULT_RETRY_FOR,
        help=(
            "How long a server, or the artifact store of a database, that is away in the middle is "
            "waited for (30s, 5m, 1h); then the command fails, and giving it again goes on where "
            "it was. One that cannot be reached at the beginning is not waited for."
        ),
    )(function)


def fail_fast_option(function: Body) -> Body:
    """Give ``fail_fast: bool``."""
    return _flag(
        "--fail-fast",
        help="Stop at the first loss, with exit code 1, instead of going on without what is lost.",
    )(function)


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
