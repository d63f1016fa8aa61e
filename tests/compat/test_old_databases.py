"""Databases of older servers tell what those servers tell."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from mlflow_bundle.rest.source import RestSource
from tests.compat.conftest import Old
from tests.compat.contents import parsed
from tests.sql.test_source import EXCEPTIONS, sql_source
from tests.sql.told import differences, tell

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.compat]

_NOT_TOLD = {
    # Servers before MLflow 3.7 show no deleted logged models but to who knows them.
    "logged_model",
    # Servers show none of deleted experiments.
    "scorer",
    "webhook",
}


def _same_span(a: str, b: str) -> bool:
    """Servers encode the spans of before MLflow 3.11 anew; the table has them as they came."""
    here, there = json.loads(a), json.loads(b)
    return all(here[name] == there[name] for name in ("trace_id", "span_id", "name"))


_EXCEPTIONS = {**EXCEPTIONS, "trace.items[].content": _same_span}


def test_an_old_database_tells_what_its_server_tells(old: Old) -> None:
    old.server.reset()
    old.fill()
    with closing(RestSource(old.server.uri)) as source:
        over_rest = tell(source)
    with closing(sql_source(old.server)) as source:
        over_sql = tell(source)
        assert parsed(source.info.mlflow_version)[:2] <= old.version[:2]
        assert parsed(source.info.mlflow_version)[0] == old.version[0]
    assert [key for key in over_sql if key in over_rest] == list(over_rest)
    assert {key[0] for key in over_sql if key not in over_rest} <= _NOT_TOLD
    left = []
    for key, told in over_rest.items():
        for path, a, b in differences(key[0], told.over_rest(), over_sql[key].over_rest()):
            excepted = _EXCEPTIONS.get(path)
            if excepted is None or not excepted(a, b):
                left.append(f"{key} {path}: {a!r} != {b!r}"[:300])
    assert left == [], "\n".join(left)
