"""The time, told over real sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rattle.services.env.datagrams import SealedDatagrams
from rattle.services.sync.pace import Pace
from rattle.settings.services import SyncSection


@pytest.fixture
def receivers() -> Iterator[list[socket.socket]]:
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for one in made:
        one.bind(("127.0.0.1", 0))
        one.settimeout(60)
    yield made
    for one in made:
        one.close()


def names(receivers: list[socket.socket]) -> tuple[str, ...]:
    return tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in receivers)


def take(receiver: socket.socket, count: int) -> list[dict[str, Any]]:
    return [json.loads(receiver.recv(2048)) for _ in range(count)]


def test_everybody_is_told_the_same_numbers_and_times(receivers: list[socket.socket]) -> None:
    away = "127.0.0.1:1"  # at which nobody listens
    pace = Pace(SyncSection(mode="pace", frequency=200, ticks=40, participants=(away, *names(receivers))))
    began = datetime.now(UTC)
    pace.start()
    told = [take(one, 40) for one in receivers]
    pace.stop()
    assert told[0] == told[1] == told[2]
    assert [list(datagram) for datagram in told[0]] == [["sequence", "timestamp"]] * 40
    assert [datagram["sequence"] for datagram in told[0]] == list(range(1, 41))
    times = [datetime.fromisoformat(datagram["timestamp"]) for datagram in told[0]]
    assert times == sorted(times)
    assert all(at.utcoffset() == timedelta(0) for at in times)
    assert times[0] >= began
    assert pace.finished
    status = pace.status()
    assert (status["sequence"], status["finished"]) == (40, True)
    assert [one["sent"] for one in status["participants"][1:]] == [40] * 3
    assert status["participants"][0]["problem"] == "nobody listens there"


def test_datagrams_keep_to_the_beat_and_are_never_made_up_for(receivers: list[socket.socket]) -> None:
    """However late some are, the k-th is never sent before its time: so there is no burst, and no drift ahead."""
    before = time.monotonic()
    pace = Pace(SyncSection(mode="pace", frequency=500, ticks=100, participants=names(receivers[:1])))
    pace.start()
    for number in range(1, 101):
        receivers[0].recv(2048)
        assert time.monotonic() - before >= number / 500
    pace.stop()


def test_it_stops_at_once_however_slow_it_is(receivers: list[socket.socket]) -> None:
    pace = Pace(SyncSection(mode="pace", frequency=0.0001, participants=names(receivers[:1])))
    pace.start()
    began = time.monotonic()
    pace.stop()
    assert time.monotonic() - began < 60
    assert (pace.status()["sequence"], pace.finished) == (0, False)


def test_without_a_frequency_it_is_ten_a_second(receivers: list[socket.socket]) -> None:
    assert Pace(SyncSection(mode="pace", participants=names(receivers))).status()["frequency"] == 10.0


def test_sealed_beats_carry_the_nonce_that_a_listener_asks_for(receivers: list[socket.socket]) -> None:
    key, away = b"sixteen bytes at least", "127.0.0.1:1"  # at which nobody listens
    pace = Pace(SyncSection(mode="pace", frequency=200, participants=(away, *names(receivers))), key)
    pace.start()
    listeners = [SealedDatagrams(key, f"{number:016x}") for number in range(2)]
    for receiver, listener in zip(receivers, listeners, strict=False):
        while not listener.accepted:
            data, sender = receiver.recvfrom(2048)
            listener.is_tick(data, time.monotonic())
            if listener.question is not None:
                receiver.sendto(listener.question, sender)
    plain = take(receivers[2], 40)  # who knows no key reads what it knows
    assert [datagram["sequence"] for datagram in plain] == list(range(1, 41))
    assert {len(datagram["seal"]) for datagram in plain} == {32}
    pace.stop()
    assert pace.status()["participants"][0]["problem"] == "nobody listens there"
