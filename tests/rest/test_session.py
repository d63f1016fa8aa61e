"""Which requests are sent again, when, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from mlflow_bundle.errors import SourceError
from mlflow_bundle.patience import Patience, duration
from mlflow_bundle.rest.session import Session
from tests.transfer.faults import DROPPED, Answer, faulty

NOBODY = "http://127.0.0.1:9"
FINE = Answer(200, "application/json", b"{}")
AWAY = Answer(503, "text/html", b"<html>no upstream</html>")
PROBE = "/experiments/get?"


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.said: list[str] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False

    def patience(self, limit_s: float) -> Patience:
        return Patience(limit_s, say=self.said.append, clock=lambda: self.now, wait=self.wait)


Script = Callable[[str, int], Answer]
"""Answers the path, and how many requests that were no probes came before."""


@contextmanager
def scripted(
    script: Script, *, limit_s: float = 60, greet: bool = True
) -> Iterator[tuple[Session, Time, list[str]]]:
    """Give a session with a server that answers by a script, its time, and the paths it was asked.

    Args:
        script: See there.
        limit_s: How long the server may be away.
        greet: Whether the server has answered once before.
    """
    asked: list[str] = []

    def instead(method: str, path: str) -> Answer:
        if path == "/greeting":
            return FINE
        before = len([other for other in asked if PROBE not in other])
        asked.append(path)
        return script(path, before)

    time = Time()
    with faulty(NOBODY, instead=instead) as uri:
        session = Session(uri, error=SourceError, patience=time.patience(limit_s))
        if greet:
            session.get("/greeting")
        yield session, time, asked


def first(count: int, answer: Answer) -> Script:
    """A server that answers so to the first requests, while it is there all the time."""
    return lambda path, before: FINE if before >= count or PROBE in path else answer


@pytest.mark.parametrize(
    "hiccup",
    [DROPPED, AWAY, Answer(502, "", b""), FINE._replace(announced=9), Answer(408, "", b"")],
    ids=["dropped", "503", "502", "cut", "408"],
)
def test_a_request_that_fails_alone_is_sent_again(hiccup: Answer) -> None:
    with scripted(first(3, hiccup)) as (session, time, asked):
        assert session.get("/x") == {}
    assert asked.count("/x") == 4
    assert time.said == []
    assert time.waits == [0.5, 1, 2]


@pytest.mark.parametrize(("hiccup", "status"), [(DROPPED, 502), (AWAY, 503)], ids=["drop", "503"])
def test_a_request_that_always_fails_alone_ends_without_the_server(
    hiccup: Answer, status: int
) -> None:
    with scripted(first(99, hiccup)) as (session, _, asked):
        with pytest.raises(SourceError, match=r"broke|503") as caught:
            session.get("/x")
        assert caught.value.status == status
        assert asked.count("/x") == 6
        assert session.get(f"{PROBE}x") == {}


def test_an_internal_error_is_tried_three_times() -> None:
    script = first(99, Answer(500, "", b""))
    with scripted(script) as (session, _, asked), pytest.raises(SourceError, match="500"):
        session.get("/x")
    assert asked == ["/x"] * 3


@pytest.mark.parametrize("refusal", [400, 401, 403, 404, 501])
def test_a_refusal_is_not_sent_again(refusal: int) -> None:
    script = first(99, Answer(refusal, "", b""))
    with scripted(script) as (session, _, asked), pytest.raises(SourceError, match=str(refusal)):
        session.get("/x")
    assert asked == ["/x"]


@pytest.mark.parametrize(
    ("lost", "times"),
    [(DROPPED, 1), (Answer(504, "", b""), 1), (Answer(500, "", b""), 1), (AWAY, 3)],
    ids=["dropped", "504", "500", "503"],
)
def test_what_must_not_be_done_twice_is_sent_again_only_if_nothing_was_done(
    lost: Answer, times: int
) -> None:
    with scripted(first(2, lost)) as (session, _, asked):
        if times == 1:
            with pytest.raises(SourceError) as caught:
                session.post("/x", {}, once=True)
            assert caught.value.status is not None
        else:
            session.post("/x", {}, once=True)
    assert asked.count("/x") == times


def test_a_server_asks_for_patience_and_gets_it() -> None:
    later = Answer(429, "", b"", {"Retry-After": "7"})
    with scripted(first(4, later), limit_s=40) as (session, time, asked):
        session.post("/x", {}, once=True)
    assert time.waits == [7] * 4
    assert asked == ["/x"] * 5


def test_a_server_without_a_free_connection_to_its_database_is_asked_again() -> None:
    busy = b"QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00"
    body = b'{"error_code": "BAD_REQUEST", "message": "' + busy + b'"}'
    with scripted(first(3, Answer(400, "application/json", body))) as (session, _, asked):
        session.post("/x", {}, once=True)
    assert asked == ["/x"] * 4


def test_a_server_may_say_until_when() -> None:
    until = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=50), usegmt=True)
    with scripted(first(1, Answer(429, "", b"", {"Retry-After": until}))) as (session, time, _):
        session.get("/x")
    assert 40 < time.waits[0] <= 50


@pytest.mark.parametrize("nonsense", ["soon", "-1", "99999999999999999999", "²"])
def test_a_time_that_makes_no_sense_harms_nothing(nonsense: str) -> None:
    # Header values are Latin-1.
    answer = Answer(429, "", b"", {"Retry-After": nonsense})
    with scripted(first(1, answer)) as (session, time, asked):
        response = session.request("GET", "/x")
    assert (response.status_code, time.waits) in [(200, [0.5]), (429, [])]
    assert len(asked) in (1, 2)


def test_too_many_requests_are_not_waited_for_longer_than_a_server_that_is_away() -> None:
    with (
        scripted(first(99, Answer(429, "", b"", {"Retry-After": "7"})), limit_s=20) as (
            session,
            time,
            asked,
        ),
        pytest.raises(SourceError, match="429"),
    ):
        session.get("/x")
    assert time.waits == [7, 7]
    assert asked == ["/x"] * 3


@pytest.mark.parametrize("once", [False, True])
def test_a_server_that_is_away_is_waited_for(once: bool) -> None:
    time = Time()

    def instead(method: str, path: str) -> Answer:
        return AWAY if 0 < time.now < 90 else FINE

    with faulty(NOBODY, instead=instead) as uri:
        session = Session(uri, error=SourceError, patience=time.patience(300))
        session.get("/greeting")
        time.now = 0.1
        assert session.post("/x", {}, once=once) == {}
    assert time.said[0].endswith("is away (503 Service Unavailable); waiting for it, 5 min at most")
    assert "still away after 1 min" in time.said[1]
    assert "is back after 1 min 3" in time.said[2]
    assert len(time.said) == 3
    assert max(time.waits) <= 10


def test_a_server_that_stays_away_ends_everything_once() -> None:
    with scripted(lambda path, before: DROPPED, limit_s=45) as (session, time, asked):
        with pytest.raises(
            SourceError, match=r"cannot reach the MLflow server .* for 45 s: connection closed"
        ) as caught:
            session.get("/x")
        assert caught.value.status is None
        assert "same command again" in caught.value.hint
        assert time.now == 45
        before = len(asked)
        with pytest.raises(SourceError, match="cannot reach"):
            session.get("/y")
        assert len(asked) == before + 1
        assert time.now == 45
    assert len(time.said) == 1


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    with scripted(lambda path, before: DROPPED, greet=False) as (session, time, asked):
        with pytest.raises(SourceError, match="cannot reach the MLflow server") as caught:
            session.get("/x")
        assert caught.value.status is None
    assert asked == ["/x"] * 2
    assert sum(time.waits) < 1
    assert time.said == []


def test_a_server_without_tls_is_told_as_such() -> None:
    with faulty(NOBODY, instead=lambda method, path: FINE) as uri:
        session = Session(uri.replace("http:", "https:"), error=SourceError, patience=None)
        with pytest.raises(SourceError, match="it answers without TLS"):
            session.get("/x")


@pytest.mark.parametrize("status", [301, 302])
def test_a_redirection_that_loses_what_is_sent_is_told_as_such(status: int) -> None:
    def move(path: str, before: int) -> Answer:
        moved = {"Location": path.replace("/old", "/new")}
        return FINE if "/new" in path else Answer(status, "", b"", moved)

    with scripted(move) as (session, _, _):
        assert session.get("/old/a") == {}
        with pytest.raises(SourceError, match=r"redirects to http://127.0.0.1:\d+/new/a") as raised:
            session.post("/old/a", {})
    assert "tracking URI" in raised.value.hint


def test_nobody_waits_when_the_program_is_being_stopped() -> None:
    patience = Patience(300, wait=lambda seconds: True)
    assert not patience.outlast("server", "gone", lambda: False)
    assert not patience.pause(1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (90, "1 min 30 s"), (5400, "1 h 30 min")],
)
def test_durations_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
