from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from rattle.rollouts import turns
from rattle.rollouts.turns import TRIED, TurnTaking
from tests.rollouts.test_collector import assert_equal, collect


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("in_turn_takes", [1.0, 3.0])
def test_the_quicker_way_is_kept(in_turn_takes: float, clock: list[float]) -> None:
    chosen, tried = TurnTaking(), []
    for number in range(2 * TRIED):
        busy = 50.0 if number < 2 else 0.0  # the machine does something else at first
        ticks = 16 if number % 3 else 8
        with chosen.block(ticks) as turn:
            tried.append(not isinstance(turn, nullcontext))
            clock[0] += ticks * ((in_turn_takes if tried[-1] else 2.0) + busy)
    assert sorted(tried) == [False] * TRIED + [True] * TRIED
    assert chosen.take_turns == (in_turn_takes < 2.0)
    with chosen.block(16):
        clock[0] += 1000.0
    assert chosen.take_turns == (in_turn_takes < 2.0)


def test_threads_that_take_turns_never_hold_one_together() -> None:
    inside: list[int] = []
    with TurnTaking().block(1) as turn, ThreadPoolExecutor(3) as pool:

        def most_inside(number: int) -> int:
            most = 0
            for _ in range(200):
                with turn:
                    inside.append(number)
                    most = max(most, len(inside))
                    inside.remove(number)
            return most

        assert list(pool.map(most_inside, range(3))) == [1, 1, 1]


def test_both_ways_play_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["env={id: 'gym:CartPole-v1', worlds: 6, vector: always}", "train.actors=2"]
    rollouts = []
    for take_turns in (True, False):
        monkeypatch.setattr(TurnTaking, "take_turns", take_turns)
        rollouts.append(collect(3, *overrides))
    assert_equal(*rollouts)
