"""Which datagrams of a Sync service are ticks, without a socket or a clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.env.datagrams import SealedDatagrams, UnsealedDatagrams
from rattle.services.sync.pace import Sealing

START = datetime(2026, 1, 31, tzinfo=UTC)
HOUR = 3600.0


def datagram(sequence: object, seconds: float = 0.0) -> bytes:
    return json.dumps({"sequence": sequence, "timestamp": (START + timedelta(seconds=seconds)).isoformat()}).encode()


class Line:
    """Takes datagrams as they come, and knows what became of each."""

    def __init__(self) -> None:
        self.datagrams = UnsealedDatagrams()
        self.now = 0.0

    def ticks(self, sequences: Iterable[int], offset: float = 0.0, period: float = 0.1) -> list[int]:
        """Have a sender's datagrams come one period after the other, and return which were ticks.

        `offset` is how far the sender's clock is from the first one's at sequence 0.
        """
        taken = []
        for sequence in sequences:
            self.now += period
            if self.datagrams.is_tick(datagram(sequence, offset + sequence * period), self.now):
                taken.append(sequence)
        return taken

    def together(self, senders: dict[float, range], period: float = 0.1) -> dict[float, list[int]]:
        """Have datagrams of several senders, named by their offsets, come in turns; return what were ticks of each."""
        taken: dict[float, list[int]] = {offset: [] for offset in senders}
        for sequences in zip(*senders.values(), strict=True):
            self.now += period
            for offset, sequence in zip(senders, sequences, strict=True):
                if self.datagrams.is_tick(datagram(sequence, offset + sequence * period), self.now):
                    taken[offset].append(sequence)
        return taken


@given(st.lists(st.integers(2, 40), max_size=80))
def test_each_new_higher_sequence_is_one_tick(sequences: list[int]) -> None:
    datagrams, highest = UnsealedDatagrams(), 0
    for sequence in sequences:
        assert datagrams.is_tick(datagram(sequence), 0.0) == (sequence > highest)
        highest = max(highest, sequence)
    assert datagrams.accepted + datagrams.ignored == len(sequences)


def test_a_sender_that_starts_anew_is_followed_and_its_old_datagrams_are_not() -> None:
    line = Line()
    assert line.ticks([1, 2, 3]) == [1, 2, 3]
    assert line.ticks([1]) == []  # once more, late
    assert line.ticks([1], HOUR) == [1]
    assert line.ticks([1], HOUR) == []
    assert line.ticks([4, 3, 2], HOUR) == [4]  # 2 and 3 were overtaken
    assert line.ticks([8]) == []  # of the first sender: overtaken by the second
    assert line.ticks([1], 2 * HOUR) == [1]


def test_a_sender_whose_clock_is_set_back_as_it_runs_ticks_on() -> None:
    line = Line()
    assert line.ticks(range(1, 11)) == list(range(1, 11))
    assert line.ticks(range(11, 21), -HOUR) == list(range(11, 21))
    assert line.datagrams.replaced == 0


@pytest.mark.parametrize(("period", "unheard"), [(0.001, 1000), (0.1, 10), (0.5, 3), (2.0, 3)])
def test_a_sender_that_starts_anew_with_its_clock_set_back_is_followed_after_a_second(
    period: float, unheard: int
) -> None:
    line = Line()
    line.ticks(range(4000, 4051), period=period)
    taken = line.ticks(range(1, 2001), -HOUR, period)
    assert taken == list(range(taken[0], 2001))
    assert unheard <= taken[0] <= unheard + 2
    assert line.datagrams.replaced == 1


def test_copies_and_losses_on_the_way_do_not_keep_a_later_sender_out() -> None:
    line = Line()
    line.ticks(range(1, 51))
    taken = line.ticks([1, 1, 3, 3, 2, 5, 5, 4, 7, 7, 7, 8, 12, 11, 13, 14, 15, 16], -HOUR)
    assert taken == [8, 12, 13, 14, 15, 16]


def test_one_that_a_stranger_made_up_stops_the_world_for_a_second_only() -> None:
    line = Line()
    line.ticks(range(1, 13))
    assert line.datagrams.is_tick(datagram(2**63 - 1, 50 * 365 * 24 * HOUR), line.now)
    assert line.ticks(range(13, 40)) == list(range(23, 40))


def test_copies_of_many_seconds_are_no_later_sender() -> None:
    line = Line()
    line.ticks(range(1, 61))
    assert line.ticks(range(1, 61)) == []
    assert line.ticks(range(1, 11), HOUR) == list(range(1, 11))
    assert line.ticks(range(1, 61)) == []  # and of an earlier sender, whose sequences are higher
    assert line.datagrams.replaced == 0


@given(st.randoms(use_true_random=False))
def test_datagrams_that_are_overtaken_or_doubled_never_tick(draw: Random) -> None:
    line = Line()
    on_the_way = [number for number in range(1, 201) for _ in range(draw.choice([0, 1, 1, 1, 2]))]
    on_the_way.sort(key=lambda number: number + draw.uniform(0, 5))
    highest = 0
    for number in on_the_way:
        assert line.ticks([number]) == ([number] if number > highest else [])
        highest = max(highest, number)
    assert line.datagrams.replaced == 0


@pytest.mark.parametrize("period", [0.05, 1.0, 5.0])
def test_of_two_senders_at_a_time_the_newer_is_followed_alone(period: float) -> None:
    line = Line()
    taken = line.together({0.0: range(1000, 1100), -HOUR: range(1, 101)}, period)
    assert taken == {0.0: list(range(1000, 1100)), -HOUR: []}
    assert line.datagrams.replaced == 0
    assert line.ticks(range(101, 140), -HOUR, period)[-1] == 139  # the newer one has gone


def test_a_late_one_of_the_sender_before_does_not_lock_the_later_one_out() -> None:
    line = Line()
    line.ticks(range(1, 51))
    assert line.ticks(range(1, 21), -HOUR)[-1] == 20
    line.ticks([99])
    assert line.ticks(range(21, 60), -HOUR)[-1] == 59


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
        datagram(2**63),
        datagram(True),
        datagram(None),
    ],
)
def test_malformed_datagrams_are_counted_and_ignored(data: bytes) -> None:
    datagrams = UnsealedDatagrams()
    assert not datagrams.is_tick(data, 0.0)
    assert (datagrams.accepted, datagrams.ignored) == (0, 1)
    assert datagrams.is_tick(datagram(1), 0.0)


def test_more_fields_and_times_without_offset_are_welcome() -> None:
    datagrams = UnsealedDatagrams()
    assert datagrams.is_tick(b'{"sequence": 4, "timestamp": "2026-01-31T12:00:00", "mode": "pace"}', 0.0)


def test_times_at_the_ends_of_the_calendar_are_times() -> None:
    datagrams = UnsealedDatagrams()
    for sequence, time in enumerate(("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"), start=1):
        assert datagrams.is_tick(json.dumps({"sequence": sequence, "timestamp": time}).encode(), 0.0)


KEY, LIVES = b"sixteen bytes at least", [f"{number:016x}" for number in range(1, 6)]
HERE, THERE = "1" * 16, "2" * 16


class SealedLine:
    """A Sync service's lives and one listener, that hear each other; remembers all that was sent to it."""

    def __init__(self, nonce: str = HERE) -> None:
        self.listener = SealedDatagrams(KEY, nonce)
        self.services = {life: Sealing(KEY, life) for life in LIVES}
        self.now = 0.0
        self.recorded: list[bytes] = []

    def ticks(self, life: str, sequences: Iterable[int], period: float = 0.1) -> list[int]:
        """Have a life's beats come one period after the other, and return which were ticks."""
        return [sequence for sequence in sequences if self.beat(life, sequence, period)]

    def beat(self, life: str, sequence: int, period: float = 0.1) -> bool:
        self.now += period
        self.recorded.append(self.services[life].beat("listener", sequence, START.isoformat()))
        is_tick = self.listener.is_tick(self.recorded[-1], self.now)
        if self.listener.question is not None:
            self.services[life].hear("listener", self.listener.question)
        return is_tick

    def replay(self) -> int:
        """Have all that was recorded come again, and return how often the world ticked."""
        return sum(self.listener.is_tick(data, self.now) for data in self.recorded)


def test_sealed_beats_tick_from_the_one_that_repeats_the_nonce_on() -> None:
    line = SealedLine()
    assert line.ticks(LIVES[0], range(1, 30)) == list(range(2, 30))
    assert line.ticks(LIVES[1], range(1, 30)) == list(range(2, 30))  # a service that was started again
    assert (line.listener.refused, line.listener.replaced, line.listener.unanswered) == (0, 0, 0)


def test_nothing_that_was_recorded_ticks_again() -> None:
    line = SealedLine()
    for life in LIVES[:3]:
        line.ticks(life, range(1, 30))
        assert line.replay() == 0
        line.now += 3600
        assert line.replay() == 0
    assert line.ticks(LIVES[2], range(30, 50)) == list(range(30, 50))
    later = SealedLine(THERE)  # the listener was started again, and nobody speaks
    later.recorded, later.now = line.recorded, line.now
    assert later.replay() == 0
    assert later.ticks(LIVES[2], range(50, 60)) == list(range(51, 60))


def test_a_recorded_question_takes_nobody_s_nonce_away() -> None:
    service, first, second = Sealing(KEY, LIVES[0]), SealedDatagrams(KEY, HERE), SealedDatagrams(KEY, THERE)
    assert not first.is_tick(service.beat("listener", 1, START.isoformat()), 0.1)
    recorded = first.question
    assert recorded is not None
    service.hear("listener", recorded)
    assert not second.is_tick(service.beat("listener", 2, START.isoformat()), 0.2)
    assert second.question is not None
    service.hear("listener", second.question)
    service.hear("listener", recorded)
    assert second.is_tick(service.beat("listener", 3, START.isoformat()), 0.3)
    other = Sealing(KEY, LIVES[1])
    other.hear("listener", recorded)  # to another life it says nothing
    assert b"nonce" not in other.beat("listener", 1, START.isoformat())


class Spoofer:
    """One service, its listeners, and a stranger who hears all and speaks with everybody's address.

    The stranger shows every beat to all, but to those in `shown`, whom the service does not tell, none that would make
    them tick; and gives every question to the service as everybody's.
    """

    def __init__(self, nonces: Iterable[str], shown: Iterable[str] = ()) -> None:
        self.service, self.sequence = Sealing(KEY, LIVES[0]), 0
        self.listeners = {nonce: SealedDatagrams(KEY, nonce) for nonce in nonces}
        self.shown = {nonce: SealedDatagrams(KEY, nonce) for nonce in shown}

    def beat(self) -> set[str]:
        """Return the listeners whose world has ticked."""
        self.sequence += 1
        told = {name: self.service.beat(name, self.sequence, START.isoformat()) for name in self.listeners}
        ticked = [name for name, data in told.items() if self._hear(self.listeners[name], data)]
        for name, listener in self.listeners.items():
            ticked += [name for data in told.values() if self._hear(listener, data)]
        for name, listener in self.shown.items():
            ticked += [name for data in told.values() if name.encode() not in data and self._hear(listener, data)]
        assert len(set(ticked)) == len(ticked)  # each ticks once at most
        return set(ticked)

    def _hear(self, listener: SealedDatagrams, data: bytes) -> bool:
        is_tick = listener.is_tick(data, self.sequence / 10)
        if listener.question is not None:
            for participant in self.listeners:
                self.service.hear(participant, listener.question)
        return is_tick


@pytest.mark.parametrize("nonces", [(HERE, THERE), (THERE, HERE)])
def test_beats_and_questions_that_are_redirected_between_listeners_stop_neither(nonces: tuple[str, str]) -> None:
    spoofer = Spoofer(nonces)
    while not all(listener.accepted for listener in spoofer.listeners.values()):
        assert spoofer.sequence < 1000
        spoofer.beat()
    for _ in range(30):
        assert spoofer.beat() == set(nonces)


@pytest.mark.parametrize("shown", ["0" * 16, "f" * 16])
def test_the_questions_of_a_listener_that_is_never_told_keep_no_other_from_ticking(shown: str) -> None:
    spoofer = Spoofer([HERE], [shown])
    while HERE not in spoofer.beat():
        assert spoofer.sequence < 1000
    for _ in range(30):
        assert spoofer.beat() == {HERE}


def test_a_beat_for_another_listener_is_taken_once_and_its_own_is_then_late() -> None:
    line = SealedLine()
    line.ticks(LIVES[0], range(1, 4))
    for_another = line.services[LIVES[0]].beat("another", 4, START.isoformat())
    assert line.listener.is_tick(for_another, line.now)
    assert line.listener.question is None
    assert line.ticks(LIVES[0], [4, 5]) == [5]
    earlier = line.services[LIVES[0]].beat("another", 5, START.isoformat())
    assert not line.listener.is_tick(earlier, line.now)


def test_what_is_not_sealed_with_the_key_or_was_changed_anywhere_is_refused() -> None:
    line = SealedLine()
    line.ticks(LIVES[0], range(1, 4))
    right = line.services[LIVES[0]].beat("listener", 4, START.isoformat())
    forged = [datagram(2**63 - 1, 50 * 365 * 24 * HOUR), Sealing(b"another key, as long", LIVES[0]).beat("x", 4, "now")]
    forged += [
        right[:place] + bytes([right[place] ^ bit]) + right[place + 1 :]
        for place in range(len(right))
        for bit in (1, 32, 128)
    ]
    for data in (*forged, b"", b"[]", b"[" * 2000, right[:-1], right + b"x", line.listener.question or b"{}"):
        assert not line.listener.is_tick(data, line.now), data
    assert line.listener.refused == len(forged) + 6
    assert line.listener.is_tick(right, line.now)


def test_of_two_services_one_is_followed_and_the_other_when_that_has_gone() -> None:
    line = SealedLine()
    assert line.ticks(LIVES[0], range(1, 10))[-1] == 9
    for sequence in range(1, 30):
        assert line.beat(LIVES[1], sequence) == (sequence > 1)
        assert line.beat(LIVES[0], sequence + 9, 0.001) == (sequence == 1)
    recorded = list(line.recorded)
    taken = line.ticks(LIVES[0], range(39, 80))
    assert taken == list(range(taken[0], 80))
    assert 48 <= taken[0] <= 50
    line.recorded = recorded
    line.now += HOUR
    assert (line.replay(), line.listener.replaced) == (0, 1)


@given(st.randoms(use_true_random=False))
def test_sealed_beats_that_are_overtaken_or_doubled_never_tick(draw: Random) -> None:
    line = SealedLine()
    line.ticks(LIVES[0], [1, 2])
    on_the_way = [number for number in range(3, 100) for _ in range(draw.choice([0, 1, 1, 1, 2]))]
    on_the_way.sort(key=lambda number: number + draw.uniform(0, 5))
    highest = 2
    for number in on_the_way:
        assert line.beat(LIVES[0], number) == (number > highest)
        highest = max(highest, number)
