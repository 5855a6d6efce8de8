"""How many processes are chosen, and that environments which workers cannot make are stepped here."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from rattle.envs.errors import EnvError
from rattle.envs.registry import make_worlds
from rattle.events import of_runs
from rattle.workers import making
from rattle.workers.choice import Tried, choose, try_one, usable_cores
from rattle.workers.making import make_in_workers


@pytest.mark.parametrize(
    ("wanted", "microseconds", "worlds", "parts", "cores", "chosen"),
    [
        ("auto", 100, 1024, 2, 2, 2),
        ("auto", 29, 1024, 2, 2, 1),  # too quick
        ("auto", 0, 1024, 2, 64, 1),  # worlds that step together
        ("auto", 100, 1024, 2, 1, 1),
        ("auto", 100, 1024, 2, 3, 2),  # as many for each part
        ("auto", 100, 1024, 1, 3, 3),
        ("auto", 100, 1024, 4, 2, 4),  # one for each part
        ("auto", 100, 1, 1, 8, 1),
        ("auto", 300, 3, 2, 8, 3),
        ("auto", 10_000, 4, 2, 64, 4),
        ("auto", 100, 3, 2, 8, 1),  # ticks that are not worth to be divided
        (1, 1e6, 1024, 2, 8, 1),
        (5, 0, 1024, 2, 2, 5),
        (2, 0, 1024, 4, 2, 4),
        (8, 0, 3, 2, 2, 3),
        (8, 0, 1, 1, 2, 1),
    ],
)
def test_processes_are_as_many_as_are_wanted_or_of_use(
    wanted: Any, microseconds: float, worlds: int, parts: int, cores: int, chosen: int
) -> None:
    assert choose(wanted, microseconds * 1e-6, worlds, parts, cores) == chosen


@pytest.mark.parametrize(("wanted", "seconds", "chosen"), [("auto", 3.0, 1), ("auto", 60.0, 2), (2, 3.0, 2)])
def test_what_is_over_soon_starts_no_processes_by_itself(wanted: Any, seconds: float, chosen: int) -> None:
    assert choose(wanted, 1e-3, 64, 2, 2, seconds) == chosen


def test_worlds_are_measured_where_they_are_stepped_one_by_one() -> None:
    made = []

    def one(environment: str) -> Any:
        made.append(make_worlds(environment, {}, 1, 0))
        return made[-1]

    spec, seconds = try_one(lambda: one("gym:CartPole-v1"), measures=True)
    assert spec == made[0].spec
    assert 0 < seconds < math.inf
    assert try_one(lambda: one("gym:CartPole-v1"), measures=False)[1] == 0
    assert try_one(lambda: one("snake"), measures=True)[1] == 0
    assert usable_cores() >= 1


def test_an_environment_that_only_this_process_knows_is_stepped_here(monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium.register("OnlyHere-v0", CartPoleEnv)
    told: list[Any] = []
    monkeypatch.setattr(making, "emit", told.append)
    monkeypatch.setattr(making, "choose", lambda *_: 2)

    def tried() -> Tried:
        return try_one(lambda: make_worlds("gym:OnlyHere-v0", {}, 1, 0), measures=True)

    try:
        assert make_in_workers(tried, "auto", 0, [0, 2, 4]) == []
        assert isinstance(told[0], of_runs.NoWorkers)
        with pytest.raises(EnvError, match=r"OnlyHere.*in a worker process: with env.processes=1 there is none"):
            make_in_workers(tried, 2, 0, [0, 2, 4])
    finally:
        del gymnasium.registry["OnlyHere-v0"]
