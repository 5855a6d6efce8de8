"""A vector environment written for tests: worlds that count, whose episodes are known in advance, in every mode."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


def length(seed: int, world: int, episode: int) -> int:
    """Return the ticks of an episode; those of an odd number are terminated, the others truncated."""
    return 1 + (seed + 7 * world + 5 * episode) % 6


class Counting(VectorEnv[Any, Any, Any]):
    """Every world counts its ticks up to a length; an agent sees the count, the episode's number and its length.

    The reward is the action and a half. `wrong` breaks a rule after some ticks.
    """

    def __init__(
        self,
        num_envs: int,
        mode: Literal["NextStep", "SameStep", "Disabled"] = "SameStep",
        *,
        as_objects: bool = True,
        seen: Literal["numbers", "codes", "parts"] = "numbers",
        wrong: str = "",
        wrong_after: int = 3,
    ) -> None:
        self.num_envs, self.as_objects, self.seen, self.wrong = num_envs, as_objects, seen, wrong
        self.wrong_after = wrong_after
        self.metadata = {"autoreset_mode": AutoresetMode(mode)}
        self.mode = mode
        numbers = Box(0, 100, (3,), np.float64)
        spaces: dict[str, Space[Any]] = {"numbers": numbers, "codes": Discrete(8, start=-1)}
        spaces["parts"] = Dict(action_mask=MultiBinary(3), numbers=numbers)
        self.single_observation_space = spaces[seen]
        self.single_action_space = Discrete(3, start=2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.ticks = self.resets = 0
        self.drawn = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.resets += 1
        if seed is not None:
            assert isinstance(seed, int)
            self.drawn, self.episode = seed % 1000, np.full(self.num_envs, -1)
        given = (options or {}).get("reset_mask")
        mask = np.ones(self.num_envs, np.bool_) if given is None else given
        if given is None or self.wrong == "mask":
            self.count, self.over = np.zeros((2, self.num_envs), np.int64)
            mask = np.ones(self.num_envs, np.bool_)
        self._begin(mask)
        return (self._observe(), {}) if self.wrong != "reset" else self._observe()

    def step(self, actions: NDArray[np.int64]) -> Any:
        assert self.action_space.contains(actions), actions
        self.ticks += 1
        asleep = self.over.astype(np.bool_) if self.mode == "NextStep" else np.zeros(self.num_envs, np.bool_)
        assert self.mode != "Disabled" or not self.over.any()
        self._begin(asleep)
        self.count[~asleep] += 1
        ended = (self.count >= self.length) & ~asleep
        odd = self.length % 2 == 1
        reward = np.where(asleep, 77.0, actions + 0.5)  # what a reset pays is nobody's
        infos: dict[str, Any] = {}
        last = self._observe()
        self.over[:] = ended
        if self.mode == "SameStep" and ended.any():
            infos = self._last(ended, last)
            self._begin(ended)
        answer = (self._observe(), reward, ended & odd, ended & ~odd, infos)
        return self._broken(answer) if self.wrong and self.ticks > self.wrong_after else answer

    def _begin(self, worlds: NDArray[np.bool_]) -> None:
        self.count[worlds] = self.over[worlds] = 0
        self.episode[worlds] += 1
        lengths = [length(self.drawn, world, int(self.episode[world])) for world in range(self.num_envs)]
        self.length = np.array(lengths)

    def _observe(self) -> Any:
        if self.seen == "codes":
            return self.count - 1
        numbers = np.stack([self.count, self.episode, self.length], axis=1).astype(np.float64)
        if self.seen == "numbers":
            return numbers
        allowed = (self.count[:, None] + np.arange(3)) % 3 != 0
        if self.wrong == "no_action" and self.ticks > self.wrong_after:
            allowed &= (self.count == 0)[:, None]
        return {"action_mask": allowed.astype(np.int8), "numbers": numbers}

    def _last(self, ended: NDArray[np.bool_], seen: Any) -> dict[str, Any]:
        if self.wrong == "no_final":
            return {}
        if not self.as_objects:
            return {"final_obs": seen, "_final_obs": ended}
        spread = np.full(self.num_envs, None, object)
        for world in np.flatnonzero(ended):
            spread[world] = {k: part[world] for k, part in seen.items()} if self.seen == "parts" else seen[world]
        return {"final_obs": spread, "_final_obs": ended}

    def _broken(self, answer: tuple[Any, ...]) -> Any:
        seen, reward, terminated, truncated, infos = answer
        if self.wrong == "raises":
            raise RuntimeError("the sea\nis rough")
        broken = {
            "exits": lambda: exit(3),
            "four": lambda: answer[:4],
            "shape": lambda: (seen[:, :2], *answer[1:]),
            "text": lambda: (seen.astype(str), *answer[1:]),
            "codes": lambda: (seen + 7, *answer[1:]),
            "fewer": lambda: (seen[1:], *answer[1:]),
            "reward": lambda: (seen, reward[:, None], terminated, truncated, infos),
            "flags": lambda: (seen, reward, "no", truncated, infos),
            "nan": lambda: (np.full_like(seen, np.nan), *answer[1:]),
            "bad_reward": lambda: (seen, np.full_like(reward, np.inf), *answer[2:]),
        }
        return broken.get(self.wrong, lambda: answer)()
