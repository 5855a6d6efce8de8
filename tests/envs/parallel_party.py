"""A parallel environment written for tests: guests leave a party one by one, by themselves or because it closes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

GUESTS = ("ann", "bob", "cid")


class Party(ParallelEnv[str, Any, int]):  # type: ignore[misc]
    """Every guest has a patience drawn from the seed, and an action of 5 to 7 takes 5 to 7 of it.

    Who has none left is terminated; who stays when it closes after `limit` ticks is truncated, with `both` also
    terminated. `sneaky` guests leave without a word, and with `late` ann joins after three ticks. Guests see their
    patience and the tick, with `codes` the tick only, counted from 3. With `masked` the infos of who plays on forbid
    one action, which is not to be taken, or what it says is wrong with them in tick 2.
    """

    metadata: dict[str, Any] = {"name": "party_v0"}  # noqa: RUF012 - as PettingZoo has it

    def __init__(
        self,
        limit: int = 9,
        *,
        moody: bool = False,
        both: bool = False,
        sneaky: bool = False,
        codes: bool = False,
        late: bool = False,
        odd: str = "",
        masked: str = "",
    ) -> None:
        if limit < 1:
            raise ValueError("limit must be\n1 or more")
        self.limit, self.moody, self.both, self.sneaky, self.late = limit, moody, both, sneaky, late
        self.possible_agents = {"nobody": [], "namesakes": [*GUESTS, "ann"]}.get(odd, list(GUESTS))
        self.odd = odd
        self.agents: list[str] = []
        sights: dict[str, Space[Any]] = {"": Box(-100, 100, (2,), np.int64), "codes": Discrete(40, start=3)}
        sights |= {"picture": Box(0, 1, (2, 2)), "many": Discrete(100_000)}
        sight = sights["codes" if codes else odd if odd in sights else ""]
        self._sights = dict.fromkeys(GUESTS, sight)
        self._acts: dict[str, Space[Any]] = {guest: Discrete(3, start=5) for guest in GUESTS}
        if odd == "sights":
            self._sights["cid"] = Box(-100, 100, (3,), np.int64)
        if odd == "acts":
            self._acts["bob"] = Discrete(4, start=5)
        if odd == "steers":
            self._acts["ann"] = Box(0, 1, (1,))
        self.codes, self.masked = codes, masked

    def observation_space(self, agent: str) -> Space[Any]:
        return self._sights[agent]

    def action_space(self, agent: str) -> Space[Any]:
        return self._acts[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        random, _ = seeding.np_random(None if self.moody else seed)
        self.patience = {guest: int(random.integers(12, 80)) for guest in GUESTS}
        self.tick = 0
        self.agents = list(GUESTS[1:] if self.late else GUESTS)
        seen = {guest: self._see(guest) for guest in self.agents}
        return list(seen.values()) if self.odd == "rows" else seen, self._infos()

    def step(self, actions: dict[str, int]) -> tuple[Any, Any, Any, Any, Any]:
        assert set(actions) == set(self.agents)
        present = list(self.agents)
        self.tick += 1
        for guest, action in actions.items():
            assert self.action_space(guest).contains(action)
            assert not self.masked or self._mask(guest, self.tick - 1)[int(action) - 5]
            self.patience[guest] -= int(np.sum(action))  # of one number, where it has several
        gone = {guest: self.patience[guest] <= 0 for guest in present}
        closes = self.tick >= self.limit
        self.agents = [] if closes else [guest for guest in present if not gone[guest]]
        joins = [GUESTS[0]] if self.late and self.tick == 3 and self.agents else []
        self.agents = joins + self.agents
        terminated = {guest: (gone[guest] and not self.sneaky) or (self.both and closes) for guest in present}
        return (
            {guest: self._see(guest) for guest in joins + present},
            {guest: float(np.sum(actions[guest])) for guest in present},
            terminated,
            dict.fromkeys(present, closes),
            {guest: {} for guest in present} | self._infos(),
        )

    def close(self) -> None:
        self.agents = []

    def _mask(self, guest: str, tick: int) -> Any:
        return np.roll(np.array([1, 1, 0], np.int8), tick + GUESTS.index(guest))

    def _infos(self) -> dict[str, Any]:
        if not self.masked or (self.masked == "begun late" and self.tick < 2):
            return {guest: {} for guest in self.agents}
        infos: dict[str, Any] = {guest: {"action_mask": self._mask(guest, self.tick)} for guest in self.agents}
        wrong = {
            "nothing": {"action_mask": np.zeros(3)},
            "another shape": {"action_mask": np.ones(2)},
            "no bits": {"action_mask": [1, 2, 1]},
            "left out": {},
        }
        if self.tick == 2 and self.masked in wrong and "bob" in infos:
            infos["bob"] = wrong[self.masked]
        return infos

    def _see(self, guest: str) -> Any:
        return self.tick + 3 if self.codes else np.array([self.patience[guest], self.tick])


def parallel_env(**settings: Any) -> Party:
    return Party(**settings)
