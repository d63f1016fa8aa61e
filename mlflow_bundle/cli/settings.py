"""Collects the many options that a family of commands shares into one value."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from mlflow_bundle.cli.command import Body
from mlflow_bundle.cli.options import Decorator


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
