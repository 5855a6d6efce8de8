"""The pipe: whoever logs never waits, nothing is lost in silence, and nothing that is logged breaks anything."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from rattle.events import About, LogEntry, bind, bound, emit, of_runs, of_services
from rattle.telemetry import pipe as module
from rattle.telemetry.pipe import EventPipe


class Kept:
    """A sink that keeps what it gets."""

    place = "kept"
    is_shared = False

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.quiet: list[bool] = []

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        self.entries += [entry for entry, _ in entries]
        self.quiet += [is_shown for _, is_shown in entries]

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass

    def names(self) -> list[str]:
        return [entry.event for entry in self.entries]


class Blocked(Kept):
    """A sink that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        assert self.go.wait(60)
        super().write(entries)


class Broken(Kept):
    """A sink that takes nothing while it is broken."""

    place = "a broken place"

    def __init__(self) -> None:
        super().__init__()
        self.is_broken = True

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        if self.is_broken:
            raise OSError(28, "No space left on device")
        super().write(entries)


@pytest.fixture
def pipe() -> EventPipe:
    return EventPipe()


@pytest.fixture
def kept(pipe: EventPipe) -> Iterator[Kept]:
    sink = Kept()
    pipe.add(sink)
    yield sink
    pipe.remove(sink)


def test_events_arrive_in_order_with_their_fields_and_context(pipe: EventPipe, kept: Kept) -> None:
    with bound(agent="main-0"):
        for seed in range(100):
            emit(of_runs.RunStarted(seed=seed))
        emit(of_runs.RunFailed(error="x"), about=About(run_id="r", experiment="mine", quiet=True))
    emit(of_runs.RunStarted(seed=100), level="ERROR")
    assert pipe.flush(60)
    assert [entry.fields.get("seed") for entry in kept.entries] == [*range(100), None, 100]
    failed, last = kept.entries[100:]
    assert (failed.run_id, failed.experiment, failed.level) == ("r", "mine", "ERROR")
    assert failed.fields == {"agent": "main-0", "error": "x"}
    assert (last.level, last.fields, last.pid) == ("ERROR", {"seed": 100}, os.getpid())
    assert kept.quiet == [False] * 100 + [True, False]


def test_what_is_bound_in_a_thread_is_bound_there_only(pipe: EventPipe, kept: Kept) -> None:
    def work() -> None:
        bind(agent="other")
        emit(of_runs.RunStarted(seed=1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    emit(of_runs.RunStarted(seed=2))
    pipe.flush(60)
    assert [entry.fields for entry in kept.entries] == [{"agent": "other", "seed": 1}, {"seed": 2}]


def test_nobody_waits_for_a_sink_and_the_least_important_is_dropped_and_counted(
    pipe: EventPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 100)
    monkeypatch.setattr(module, "_MANY", 0)
    sink, pipe.level = Blocked(), logging.DEBUG
    pipe.add(sink)
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    try:
        for number in range(2000):
            emit(of_runs.RunStarted(seed=number), level=levels[number % 4])  # type: ignore[arg-type]
            if number == 0:
                pipe._wake.put(None)
    finally:
        sink.go.set()
    pipe.remove(sink)
    dropped = sum(entry.fields["count"] for entry in sink.entries if entry.event == "events_dropped")
    told = [entry for entry in sink.entries if entry.event == "run_started"]
    assert dropped + len(told) == 2000
    assert dropped > 0
    errors = [entry.fields["seed"] for entry in told if entry.level == "ERROR"]
    assert sorted(errors) == errors
    assert sum(entry.level == "DEBUG" for entry in told) < len(errors)


def test_a_sink_that_fails_is_told_of_once_and_again_when_it_is_back(
    pipe: EventPipe, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)
    broken = Broken()
    pipe.add(broken)
    for seed in range(3):
        emit(of_runs.RunStarted(seed=seed))
        pipe.flush(60)
    broken.is_broken = False
    emit(of_runs.RunStarted(seed=3))
    pipe.flush(60)
    pipe.remove(broken)
    assert kept.names() == ["run_started", "log_not_written", *["run_started"] * 3, "log_written_again"]
    assert kept.entries[1].fields == {"place": "a broken place", "error": "No space left on device"}
    assert kept.entries[-1].fields["missing"] == 4  # with what was said of the sink itself
    assert broken.names() == ["run_started", "log_written_again"]


def test_messages_of_logging_become_events(pipe: EventPipe, kept: Kept) -> None:
    def take(message: object, *arguments: object, **extra: object) -> LogEntry:
        record = logging.LogRecord("my.module", logging.WARNING, "", 0, message, arguments, None)
        record.__dict__.update(extra)
        pipe.take_record(record)
        pipe.flush(60)
        return kept.entries[-1]

    plain = take("slow: %d s", 3, seconds=3.5)
    assert (plain.event, plain.level, plain.message) == ("log", "WARNING", "my.module: slow: 3 s")
    assert plain.fields == {"logger": "my.module", "message": "slow: 3 s", "seconds": 3.5}
    own = take({"event": "goal_reached", "goal": "shelf", "time": "noon", "password": "hunter two"})
    assert (own.event, own.message) == ("goal_reached", "goal=shelf time=noon password=…")
    assert own.fields == {"goal": "shelf", "time": "noon", "password": "…"}
    assert take({"event": 5, "x": "y"}).event == "log"
    assert take("%d", "no number").fields["message"] == "%d ('no number',)"
    assert take("named", event="mine").event == "mine"
    assert take("token=hunter2").message == "my.module: token=…"


def test_other_levels_are_the_next_lower_of_ours(pipe: EventPipe, kept: Kept) -> None:
    pipe.level = 1
    for level in (5, 10, 25, 35, 50, 99):
        pipe.take_record(logging.LogRecord("x", level, "", 0, "x", (), None))
    pipe.flush(60)
    assert [entry.level for entry in kept.entries] == ["DEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "ERROR"]


def test_errors_that_cannot_be_shown_break_nothing(pipe: EventPipe, kept: Kept) -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not for you")

    emit(of_services.StreamCut(), error=HostileError())
    emit(of_runs.RunStarted(seed=1))
    assert pipe.flush(60)
    assert kept.names() == ["stream_cut", "run_started"]


def test_ids_of_traces_are_fields_where_there_is_a_span(pipe: EventPipe, kept: Kept) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(0xABC, 0x12, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        emit(of_runs.RunStarted(seed=1))
    emit(of_runs.RunStarted(seed=2))
    pipe.flush(60)
    assert kept.entries[0].fields == {"seed": 1, "trace_id": f"{0xABC:032x}", "span_id": f"{0x12:016x}"}
    assert kept.entries[1].fields == {"seed": 2}


def test_many_threads_lose_nothing(pipe: EventPipe, kept: Kept) -> None:
    def work(number: int) -> None:
        for seed in range(500):
            emit(of_runs.RunResumed(update=number * 500 + seed))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipe.flush(60)
    assert sorted(entry.fields["update"] for entry in kept.entries) == list(range(2000))
