"""When the world ticks: by turns and by datagrams, without a socket or a clock."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.env.clocks import Datagrams, Turns

START = datetime(2026, 1, 31, tzinfo=UTC)


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
