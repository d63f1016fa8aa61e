"""Collects the many options that a family of commands shares into one value."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

from mlflow_bundle.cli.command import Body
from mlflow_bundle.cli.options import Decorator
from mlflow_bundle.cli.tracking import DatabaseOptions


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """What every command takes that writes to a server or database."""

    tracking_uri: str | None
    database: DatabaseOptions
    workspace: tuple[str, ...]
    workspace_map: dict[str, str]
    experiment_name_prefix: str
    rename_experiment: dict[str, str]
    rename_model: dict[str, str]
    use_src_user_id: bool
    user_map: dict[str, str]
    tag: dict[str, str]
    delete_model: bool
    on_conflict: Any
    renumber: bool
    artifacts: Any
    rewrite_location: dict[str, str]
    placeholder_secrets: bool
    steal: bool
    jobs: int
    retry_for_s: float
    fail_fast: bool
    dry_run: bool
    as_json: bool
    strict: bool
    quiet: bool
    verbose: bool


def settings_options(settings: type[Any], *decorators: Decorator) -> Decorator:
    """Give ``settings``, an instance of a dataclass whose fields are what ``decorators`` give.

    Args:
        settings: The dataclass.
        decorators: Option decorators, in the order of the help.
    """

    def decorate(function: Body) -> Body:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            taken = {field.name: kwargs.pop(field.name) for field in fields(settings)}
            return function(*args, settings=settings(**taken), **kwargs)

        decorated: Body = wrapper
        for decorator in reversed(decorators):
            decorated = decorator(decorated)
        return decorated

    return decorate
