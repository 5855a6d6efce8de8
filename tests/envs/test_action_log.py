"""The log of actions grows, forgets and comes back as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.envs.action_log import TOO_LONG, ActionLog
from rattle.envs.errors import EnvError
from rattle.samples.spaces import BoxSpace, DiscreteSpace


def filled(ticks: int, seed: int = 0, worlds: int = 3) -> tuple[ActionLog, list[list[int]]]:
    """Return a log of random actions and ends, and what a list a world says it must hold."""
    random = np.random.default_rng(seed)
    log, expected = ActionLog(worlds, DiscreteSpace(n=4)), [[] for _ in range(worlds)]
    for _ in range(ticks):
        action = random.integers(0, 4, worlds)
        log.append(action)
        for taken, one in zip(expected, action, strict=True):
            taken.append(int(one))
        ended = random.random(worlds) < [0, 0.01, 0.2]
        log.clear(np.flatnonzero(ended))
        for world in np.flatnonzero(ended):
            expected[world].clear()
    return log, expected


@pytest.mark.parametrize("ticks", [0, 1, 64, 65, 500])
def test_log_holds_the_episodes_in_progress(ticks: int) -> None:
    log, expected = filled(ticks)
    assert [log.actions_of(world).tolist() for world in range(3)] == expected


@pytest.mark.parametrize("ticks", [0, 10, 300])
def test_restored_log_goes_on(ticks: int) -> None:
    log, expected = filled(ticks)
    copy, _ = filled(20, seed=1)
    copy.restore(log.state())
    for action in np.random.default_rng(2).integers(0, 4, (200, 3)):
        copy.append(action)
        for taken, one in zip(expected, action, strict=True):
            taken.append(int(one))
    assert [copy.actions_of(world).tolist() for world in range(3)] == expected


def test_actions_take_little_room() -> None:
    log, expected = filled(100)
    assert log.state()["actions"].nbytes == sum(map(len, expected))


@pytest.mark.parametrize(
    "damage",
    [
        {"actions": np.zeros(1, np.uint8)},
        {"actions": np.full(6, 4, np.uint8)},
        {"length": np.array([8, -1, -1])},
        {"actions": np.zeros((2, 3), np.uint8)},
    ],
)
def test_damaged_logs_are_refused(damage: dict[str, NDArray[Any]]) -> None:
    log = ActionLog(3, DiscreteSpace(n=4))
    log.append(np.zeros(3, np.int64))
    log.append(np.zeros(3, np.int64))
    with pytest.raises(EnvError, match="damaged"):
        log.restore(log.state() | damage)


def test_episodes_that_do_not_end_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rattle.envs.action_log._MOST_TICKS", 256)
    log = ActionLog(2, DiscreteSpace(n=4), "endless")

    def play() -> int:
        since = 0
        for tick in range(5010):
            log.append(np.array([1, tick % 4]))
            since += 1
            if tick % 50 == 49:
                log.clear(np.array([1]))
                since = 0
        return since

    with pytest.warns(RuntimeWarning, match="of 'endless' is longer .* a resume begins new episodes") as warned:
        since = play()
    state = log.state()
    assert state["length"].tolist() == [TOO_LONG, since]
    assert len(state["actions"]) == since
    assert len(log._actions) <= 256
    assert len(warned) == 1
    log.clear(np.array([0]))
    log.append(np.array([2, 2]))
    assert log.actions_of(0).tolist() == [2]


def test_actions_of_many_numbers_take_no_more_memory_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rattle.envs.action_log._MOST_KEPT", 2 * 8 * 128)  # numbers: 128 ticks of what follows
    log = ActionLog(2, BoxSpace(low=(-1.0,) * 8, high=(1.0,) * 8))

    def play() -> None:
        for _ in range(1000):
            log.append(np.zeros((2, 8), np.float32))

    with pytest.warns(RuntimeWarning, match="a resume begins new episodes"):
        play()
    assert len(log._actions) <= 128


def test_a_stored_log_may_not_spread_to_more_numbers_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    log = ActionLog(2, BoxSpace(low=(-1.0,) * 8, high=(1.0,) * 8))
    log.append(np.zeros((2, 8), np.float32))
    state = log.state()
    monkeypatch.setattr("rattle.envs.action_log._MOST_NUMBERS", 16)
    log.restore(state)
    monkeypatch.setattr("rattle.envs.action_log._MOST_NUMBERS", 15)
    with pytest.raises(EnvError, match="longest episode is too long"):
        log.restore(state)
