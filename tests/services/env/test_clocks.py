"""When the world ticks: by a schedule, by turns and by datagrams, without a socket or a clock."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.env.clocks import Datagrams, Schedule, Turns

START = datetime(2026, 1, 31, tzinfo=UTC)


def test_a_schedule_that_has_not_begun_has_no_ticks() -> None:
    schedule = Schedule(10)
    assert not schedule.running
    assert schedule.wait(5.0) == math.inf
    schedule.begin(5.0)
    assert schedule.wait(5.0) == pytest.approx(0.1)
    schedule.end()
    assert schedule.wait(100.0) == math.inf


@given(
    fps=st.floats(0.5, 1000),
    begun=st.floats(0, 1e6),
    delays=st.lists(st.floats(0, 0.9), min_size=1, max_size=60),
)
def test_a_schedule_does_not_drift_however_late_ticks_are(fps: float, begun: float, delays: list[float]) -> None:
    schedule, now = Schedule(fps), begun
    schedule.begin(begun)
    for delay in delays:
        now += schedule.wait(now) + delay / fps  # each is late, but never by a whole period
        assert schedule.wait(now) == 0.0
        schedule.ticked(now)
    due = now + schedule.wait(now)
    assert due == pytest.approx(begun + (len(delays) + 1) / fps, abs=1e-6)


@given(fps=st.floats(1, 1000), missed=st.floats(1, 1e5))
def test_what_is_missed_is_left_out_and_the_beat_kept(fps: float, missed: float) -> None:
    schedule = Schedule(fps)
    schedule.begin(0.0)
    now = missed / fps
    schedule.ticked(now)
    wait = schedule.wait(now)
    assert 0.0 < wait <= 1.0001 / fps  # no burst: the next is still to come
    beats = (now + wait) * fps
    assert beats == pytest.approx(round(beats), abs=1e-3)


def test_a_turn_is_over_when_all_have_moved_or_at_its_deadline() -> None:
    turns = Turns(2.0)
    assert turns.wait(0.0, all_moved=True) == math.inf
    turns.begin(10.0)
    assert turns.wait(10.5, all_moved=False) == pytest.approx(1.5)
    assert turns.wait(10.5, all_moved=True) == 0.0
    assert turns.wait(12.0, all_moved=False) == 0.0
    turns.ticked(12.5)
    assert turns.wait(13.0, all_moved=False) == pytest.approx(1.5)
    turns.end()
    assert turns.wait(13.0, all_moved=True) == math.inf


def datagram(sequence: object, seconds: float = 0.0) -> bytes:
    return json.dumps({"sequence": sequence, "timestamp": (START + timedelta(seconds=seconds)).isoformat()}).encode()


@given(st.lists(st.integers(2, 40), max_size=80))
def test_each_new_higher_sequence_is_one_tick(sequences: list[int]) -> None:
    datagrams, highest = Datagrams(), 0
    for sequence in sequences:
        assert datagrams.is_tick(datagram(sequence)) == (sequence > highest)
        highest = max(highest, sequence)
    assert datagrams.accepted + datagrams.ignored == len(sequences)


def test_a_sender_that_starts_anew_is_followed_and_its_old_datagrams_are_not() -> None:
    datagrams = Datagrams()
    assert [datagrams.is_tick(datagram(number, number)) for number in (1, 2, 3)] == [True] * 3
    assert not datagrams.is_tick(datagram(1, 1))  # the first one again, late
    assert datagrams.is_tick(datagram(1, 60))
    assert not datagrams.is_tick(datagram(1, 60))
    assert datagrams.is_tick(datagram(2, 61))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"sequence": 1}',
        b'{"sequence": 1, "timestamp": "noon"}',
        b"[" * 2000,
        datagram("1"),
        datagram(1.5),
        datagram(0),
        datagram(-3),
        datagram(True),
        datagram(None),
    ],
)
def test_malformed_datagrams_are_counted_and_ignored(data: bytes) -> None:
    datagrams = Datagrams()
    assert not datagrams.is_tick(data)
    assert (datagrams.accepted, datagrams.ignored) == (0, 1)
    assert datagrams.is_tick(datagram(1))


def test_more_fields_and_times_without_offset_are_welcome() -> None:
    datagrams = Datagrams()
    assert datagrams.is_tick(b'{"sequence": 4, "timestamp": "2026-01-31T12:00:00", "mode": "pace"}')
