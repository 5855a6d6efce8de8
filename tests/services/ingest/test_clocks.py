"""Clocks that differ: what messages say for sure is told once a host, and what may be a delay is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rattle.events.of_telemetry import ClockDiffers
from rattle.services.ingest.clocks import Clocks
from rattle.services.ingest.numbers import CLOCKS


class Watched(Clocks):
    """Clocks whose differences can be counted."""

    def __init__(self) -> None:
        self.counter = CLOCKS.live(None)
        super().__init__(self.counter)

    def message(self, sent: Any, came: float, *, empty: float | None = None, host: Any = "a") -> None:
        """Look at a message; times are in seconds, of the sender's clock and of this one's."""
        stamp = sent if isinstance(sent, str) else round(sent * 1e6)
        self.compare(SimpleNamespace(headers={"sent": stamp, "host": host}), empty, came)

    def count(self, place: str = "producer") -> float:
        return float(self.counter.labels(place)._value.get())


@pytest.fixture
def clocks() -> Watched:
    return Watched()


def told(caplog: pytest.LogCaptureFixture) -> list[ClockDiffers]:
    return [record.msg for record in caplog.records if isinstance(record.msg, ClockDiffers)]


def test_a_time_in_the_future_is_told_once_a_host(clocks: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for second in range(3):
        clocks.message(5000.0 + second, 1000.0 + second)
        clocks.message(1004.0 + second, 1000.0 + second, host="b")
    clocks.message(1100.0, 1004.0, host="c\n")
    assert told(caplog) == [
        ClockDiffers(place="producer", host="a", seconds=4000.0),
        ClockDiffers(place="producer", host="c", seconds=96.0),
    ]
    assert "the clock of the producer a differs from that of ingest by +4000.0 seconds" in str(told(caplog)[0])
    assert clocks.count() == 4


def test_a_message_that_has_waited_is_no_wrong_clock(clocks: Watched, caplog: pytest.LogCaptureFixture) -> None:
    clocks.message(1000.0, 90_000.0)  # nobody knows how long
    clocks.message(1000.0, 90_000.0, empty=900.0)  # it came after the queue was empty, and waited since
    clocks.message("1000", 90_000.0, empty=80_000.0)
    clocks.compare(SimpleNamespace(headers=None), 80_000.0, 90_000.0)
    assert told(caplog) == []
    assert clocks.count() == 0


def test_a_clock_that_is_behind_is_told_when_messages_say_so_again(
    clocks: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(6):
        clocks.message(100.0 + second, 1000.0 + second, empty=998.0 + second // 2 * 2)
        assert len(told(caplog)) == (second >= 4)  # the queue was empty at 1002, after the first of them
    [event] = told(caplog)
    assert event == ClockDiffers(place="producer", host="a", seconds=-898.0)


def test_a_broker_that_has_stood_still_is_no_wrong_clock(clocks: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for minute in range(3):
        now = 1000.0 + 60 * minute
        clocks.message(now - 30.0, now, empty=now - 1.0)  # it was written to the connection, and nobody has read it
        clocks.message(now - 30.0, now, empty=now - 1.0)
        clocks.message(now + 0.1, now + 0.2, empty=now - 1.0)
    assert told(caplog) == []


def test_the_clock_of_a_store_is_compared_with_when_it_was_asked(
    clocks: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.compare_store("http://db:8123/rattle", 1000.0, 1020.0, 1030.0)
    clocks.compare_store("http://db:8123/rattle", 1000.0, 1034.0, 1030.0)
    assert told(caplog) == []
    for _ in range(2):
        clocks.compare_store("http://db:8123/rattle", 1000.0, 400.0, 1030.0)
    assert told(caplog) == [ClockDiffers(place="store", host="http://db:8123/rattle", seconds=-600.0)]
    assert clocks.count("store") == 2
