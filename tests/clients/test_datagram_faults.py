"""Faults that tests ask for: how many datagrams are lost, and when the others are sent."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.clients.datagram_faults import DatagramFaults, Outgoing


def datagrams(count: int) -> list[Outgoing]:
    return [("there", number.to_bytes(2)) for number in range(count)]


def test_without_faults_everything_is_sent_at_once() -> None:
    faults = DatagramFaults(0.0, 0.0, Random(1))  # noqa: S311
    assert faults.take(datagrams(9), 5.0) == datagrams(9)
    assert faults.wake_at() == math.inf


def test_the_loss_is_the_wanted_fraction() -> None:
    faults = DatagramFaults(0.2, 0.0, Random(1))  # noqa: S311
    sent = faults.take(datagrams(10_000), 5.0)
    assert len(sent) + faults.lost == 10_000
    assert faults.lost == pytest.approx(2_000, abs=200)
    assert sent == sorted(sent)  # without a delay the order stays


@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.3]), waits=st.lists(st.floats(0, 0.3), max_size=30))
def test_each_is_sent_once_and_within_its_delay(seed: int, loss: float, waits: list[float]) -> None:
    faults, now = DatagramFaults(loss, 0.1, Random(seed)), 100.0  # noqa: S311
    taken: dict[bytes, float] = {}
    sent: list[bytes] = []

    def send(new: list[Outgoing]) -> None:
        for _, data in faults.take(new, now):
            sent.append(data)
            assert taken[data] <= now <= taken[data] + 0.1 + 1e-9

    for wait, datagram in zip(waits, datagrams(len(waits)), strict=True):
        until = now + wait
        while faults.wake_at() <= until:
            now = faults.wake_at()
            send([])
        now = until
        taken[datagram[1]] = now
        send([datagram])
    while faults.wake_at() < math.inf:
        now = faults.wake_at()
        send([])
    assert len(set(sent)) == len(sent) == len(waits) - faults.lost


def test_a_delay_puts_datagrams_out_of_order() -> None:
    faults = DatagramFaults(0.0, 1.0, Random(1))  # noqa: S311
    assert faults.take(datagrams(100), 0.0) == []
    sent = faults.take([], 1.0)
    assert sorted(sent) == datagrams(100) != sent
