from __future__ import annotations

import io
import threading

import pytest

from mlflow_bundle.cli.progress import BarProgress, LineProgress, format_bytes, make_progress
from mlflow_bundle.progress import Progress, SilentProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_stream_decides_how_progress_is_shown() -> None:
    assert isinstance(make_progress(stream=io.StringIO()), LineProgress)
    assert isinstance(make_progress(stream=Terminal()), BarProgress)
    assert isinstance(make_progress(stream=Terminal(), quiet=True), SilentProgress)


def test_lines_come_at_the_start_now_and_then_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, clock=clock)
    progress.start("exporting runs", total_objects=2000, total_bytes=5_000_000)
    for _ in range(40):
        clock.now += 1
        progress.advance(objects=50, bytes=125_000)
    progress.close()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "exporting runs: 2,000 objects, 5.00 MB",
        "exporting runs: 750 of 2,000 objects, 1.88 MB of 5.00 MB",
        "exporting runs: 1,500 of 2,000 objects, 3.75 MB of 5.00 MB",
        "exporting runs: done, 2,000 objects, 5.00 MB in 40.0 s",
    ]


def test_a_new_phase_ends_the_one_before(clock: Clock) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, clock=clock)
    progress.start("planning")
    progress.advance(objects=3)
    progress.start("writing")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "planning",
        "planning: done, 3 objects in 0.0 s",
        "writing",
    ]


def test_a_phase_that_was_stopped_does_not_say_done(clock: Clock) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, clock=clock)
    progress.start("moving", 10)
    progress.advance(objects=3)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "moving: 10 objects",
        "moving: 3 of 10 objects after 0.0 s",
    ]


def test_messages_are_one_line_each(clock: Clock) -> None:
    stream = io.StringIO()
    LineProgress(stream, clock=clock).message("a\nb\x1b[0m")
    assert stream.getvalue() == "a b\\x1b[0m\n"


def test_a_closed_stream_does_not_stop_the_work(clock: Clock) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, clock=clock)
    stream.close()
    progress.start("exporting")
    progress.advance(objects=1)
    progress.close()


@pytest.mark.parametrize("make", [lambda: LineProgress(io.StringIO()), SilentProgress])
def test_progress_may_be_told_from_many_threads(make: object) -> None:
    assert callable(make)
    _advance_from_threads(make())


def test_bars_may_be_advanced_from_many_threads_and_show_both_counts() -> None:
    stream = Terminal()
    progress = BarProgress(stream)
    _advance_from_threads(progress)
    text = stream.getvalue()
    assert "exporting [bold]" in text
    assert "4,000/4,000 objects" in text
    assert "4.00 kB/4.00 kB" in text
    assert "a [red]message" in text


def _advance_from_threads(progress: Progress) -> None:
    progress.start("exporting [bold]", total_objects=4000, total_bytes=4000)

    def work() -> None:
        for _ in range(1000):
            progress.advance(objects=1, bytes=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.message("a [red]message")
    progress.close()
    progress.close()


def test_no_advance_of_another_thread_is_lost(clock: Clock) -> None:
    stream = io.StringIO()
    _advance_from_threads(LineProgress(stream, clock=clock))
    assert "done, 4,000 objects, 4.00 kB" in stream.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (1_250_000_000, "1.25 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_bytes_have_three_figures_and_a_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text
