"""Small tasks that cannot be solved without memory, of POPGym's kind: what counts is what was seen before.

Each class says what the best play earns in an episode (`optimum`), and what the best play earns that chooses by what it
sees now alone (`without_memory`).
"""

from typing import Any

import gymnasium
from gymnasium.spaces import Discrete


class MemoryTask(gymnasium.Env[int, int]):
    """What the tasks have in common: an observation and an action are one whole number each."""

    optimum: float
    without_memory: float

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.begin()
        return self.seen(), {}

    def begin(self) -> None:
        """Begin an episode."""
        raise NotImplementedError

    def seen(self) -> int:
        """Return what is observed now."""
        raise NotImplementedError


class RepeatPrevious(MemoryTask):
    """Each tick shows one of `symbols`, drawn anew; the action that is right is the one shown `delay` ticks before.

    A right action is paid 1, from the tick on in which there is one. What is shown now says nothing of what was shown
    before, so without memory one guess in `symbols` is right, however it is chosen.
    """

    def __init__(self, symbols: int = 4, delay: int = 3, ticks: int = 32) -> None:
        self.observation_space, self.action_space = Discrete(symbols), Discrete(symbols)
        self.symbols, self.delay, self.ticks = symbols, delay, ticks
        self.optimum = float(ticks - delay)
        self.without_memory = self.optimum / symbols

    def begin(self) -> None:
        self.shown = self.np_random.integers(self.symbols, size=self.ticks + 1).tolist()
        self.tick = 0

    def seen(self) -> int:
        return int(self.shown[self.tick])

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        is_right = self.tick >= self.delay and action == self.shown[self.tick - self.delay]
        self.tick += 1
        return self.seen(), float(is_right), self.tick == self.ticks, False, {}


class CountRecall(MemoryTask):
    """Cards are dealt one by one, `copies` of each of `values`; each tick asks how often one value was dealt so far.

    The observation is the card times `values` plus the value that is asked for, which is drawn anew in each tick; the
    card of this tick counts. A right number is paid 1. Without memory each number is as likely as any other: from 1 to
    `copies` where the card is the value that is asked for, else from 0 to `copies`.
    """

    def __init__(self, values: int = 3, copies: int = 4) -> None:
        self.observation_space, self.action_space = Discrete(values * values), Discrete(copies + 1)
        self.values, self.copies, self.ticks = values, copies, values * copies
        self.optimum = float(self.ticks)
        self.without_memory = self.ticks * (1 / values / copies + (1 - 1 / values) / (copies + 1))

    def begin(self) -> None:
        self.deck = self.np_random.permutation(
            [card for card in range(self.values) for _ in range(self.copies)]
        ).tolist()
        self.asked = self.np_random.integers(self.values, size=self.ticks).tolist()
        self.tick = 0

    def seen(self) -> int:
        place = min(self.tick, self.ticks - 1)  # after the last card
        return int(self.deck[place] * self.values + self.asked[place])

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        is_right = action == self.deck[: self.tick + 1].count(self.asked[self.tick])
        self.tick += 1
        return self.seen(), float(is_right), self.tick == self.ticks, False, {}


class TMaze(MemoryTask):
    """A sign at the start says at which end of the junction, `length` steps ahead, the reward of 1 is.

    Observations: 0 and 1 the sign, 2 the corridor, 3 the junction. Actions: 0 and 1 turn, 2 goes ahead; turns end the
    episode at the junction, and do nothing before it. It ends without a reward after three times `length` ticks.
    Without memory one turn in two is right.
    """

    optimum, without_memory = 1.0, 0.5

    def __init__(self, length: int = 10) -> None:
        self.observation_space, self.action_space = Discrete(4), Discrete(3)
        self.length = length

    def begin(self) -> None:
        self.sign = int(self.np_random.integers(2))
        self.place = self.tick = 0

    def seen(self) -> int:
        return 3 if self.place == self.length else 2 if self.place else self.sign

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.tick += 1
        is_over = self.place == self.length and action != 2
        if action == 2 and self.place < self.length:
            self.place += 1
        is_late = not is_over and self.tick == 3 * self.length
        return self.seen(), float(is_over and action == self.sign), is_over, is_late, {}
