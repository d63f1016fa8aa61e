"""Traces that a server cannot answer cost no other trace; what broke them lies in its database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.table_rows import Database
from tests.tables import changed_rows
from tests.transfer.commands import command, export, import_
from tests.world import T0, _Build
from tests.world_traces import MS, SpanSpec, log_spans, posted, start_trace

pytestmark = pytest.mark.server

LendServer = Callable[..., MlflowServer]

TOO_LONG = "UPDATE trace_info SET execution_time_ms = 9223372036854775000 WHERE request_id = ?"
NO_STATE = "UPDATE trace_info SET status = 'BOGUS' WHERE request_id = ?"
NO_JSON = "UPDATE spans SET content = '{oops' WHERE trace_id = ?"
NO_SPAN = "UPDATE spans SET content = '{}' WHERE trace_id = ?"
NAN = (
    'UPDATE spans SET content = replace(content, \'"events": []\', \'"events": [{"name": "e", '
    '"time_unix_nano": 1, "attributes": {"x": NaN}}]\') WHERE trace_id = ?'
)


def execute(server: MlflowServer, statement: str, *values: str) -> None:
    """Write into the database of a server behind its back."""
    with sqlite3.connect(server.database) as database:
        assert database.execute(statement, values).rowcount > 0
    database.close()


def traces_of(server: MlflowServer) -> set[str]:
    return {str(row["request_id"]) for row in Database(server.database).rows("trace_info")}


def some_traces(build: _Build, experiment: str, count: int) -> list[str]:
    """Traces with one span each, a millisecond after one another."""
    ids = []
    for number in range(count):
        id = start_trace(build, f"{experiment} {number}", experiment, request_ms=T0 + number)
        at = (T0 + number) * MS
        log_spans(build, id, experiment, [SpanSpec(name="s", start_ns=at, end_ns=at + MS)])
        ids.append(id)
    return ids


def test_a_trace_that_the_source_cannot_tell_is_lost_alone(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = _Build(source.uri)
    build.experiment("one", "one")
    build.experiment("two", "two")
    build.run("judge", "one", tags={"mlflow.runType": "genai_evaluate"})
    first, second = some_traces(build, "one", 9), some_traces(build, "two", 2)
    build.call("traces/link-to-run", trace_ids=first, run_id=build.runs["judge"])
    too_long, no_state, no_json, no_span, nan = first[0], first[5], first[2], first[7], first[8]
    execute(source, TOO_LONG, too_long)
    execute(source, NO_STATE, no_state)
    execute(source, NO_JSON, no_json)
    execute(source, NO_SPAN, no_span)
    execute(source, NAN, nan)
    bundle = tmp_path / "b.mlbundle"
    done = export(source, bundle, expect=3)
    assert done.losses == [
        ("trace", no_json, "spans"),
        ("trace", "unknown", ""),
        ("trace", "unknown", ""),
    ]
    reasons = [loss["reason"] for loss in done.report["lost"] if loss["id"] == "unknown"]
    assert "trace 1 of the experiment" in reasons[0]
    assert "trace 6 of the experiment" in reasons[1]
    assert "BOGUS" in reasons[1]
    command("verify", bundle)

    imported = import_(server, bundle, expect=3)
    assert imported.losses == [("trace", no_span, "spans")]
    assert traces_of(server) == {*first, *second} - {too_long, no_state}
    spans = {str(row["trace_id"]) for row in Database(server.database).rows("spans")}
    assert spans == {*first, *second} - {too_long, no_state, no_json, no_span}
    links = Database(server.database).rows("entity_associations")
    assert len(links) == len(first) - 2
    again = import_(server, bundle, expect=3)
    assert again.losses == imported.losses
    assert again.conflicts == []


def test_a_trace_that_the_destination_cannot_tell_is_lost_alone_and_left_as_it_is(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = _Build(source.uri)
    build.experiment("one", "one")
    ids = some_traces(build, "one", 5)
    first, newer = tmp_path / "first.mlbundle", tmp_path / "newer.mlbundle"
    export(source, first)
    import_(server, first)
    execute(server, TOO_LONG, ids[3])
    for id in ids[:4]:
        assessment = posted(id, T0, name="x", feedback={"value": "yes"})
        build.call(f"traces/{id}/assessments", api="3.0", assessment=assessment)
    added = some_traces(build, "one", 2)
    export(source, newer)
    before = row_dump(server.database)
    dry = import_(server, newer, "--dry-run", expect=3)
    assert dry.losses == [("trace", ids[3], "")]
    assert list(changed_rows(before, server.database)) == []
    done = import_(server, newer, expect=3)
    assert done.losses == [("trace", ids[3], "")]
    assert traces_of(server) == {*ids, *added}
    assessed = Database(server.database).rows("assessments")
    assert {str(row["trace_id"]) for row in assessed} == set(ids[:3])
