"""Recording some episodes of the first world in full, so that they can be replayed and studied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.samples.rollout import MOST_RECORDED, RECORDED, Played
from rattle.settings.experiment import ExperimentSettings

#: Longer or larger episodes are recorded so far: they would fill memory and every checkpoint.
MOST_TICKS, MOST_BYTES = 20_000, 2**26


def recorded_episodes(
    settings: ExperimentSettings, policy_version: int, *, complete_episodes: bool
) -> Callable[[int], bool]:
    """Return what says of the first world's episode numbers whether they are recorded in a version's rollout.

    Rollouts of complete episodes are counted themselves: the numbers of their first episodes have gaps.
    """
    every = settings.record.every_episodes

    def records(world_episode: int) -> bool:
        return every > 0 and (policy_version if complete_episodes else world_episode) % every == 0

    return records


class EpisodeRecorder:
    """Follows recorded episodes of the first world and hands them to the steps table when they have ended."""

    def __init__(
        self,
        record: Callable[[Mapping[str, Any]], None],
        run_id: str,
        agents: int,
        *,
        complete_episodes: bool,
        on_cut: Callable[[int, int], None] = lambda _episode, _ticks: None,
    ) -> None:
        """`record` gets an agent's episode as columns of the table `steps`.

        `on_cut` is told the number of an episode whose recording ends before it does, and after how many ticks.
        """
        self._on_cut = on_cut
        self._record = record
        self._run_id = run_id
        self._agents = agents
        self._complete_episodes = complete_episodes
        self._episode = 0
        self._has_hole = False
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._ticks = self._bytes = 0  # of all parts

    def follow(self, rollout: Played, policy_version: int) -> None:
        """Take in a rollout, played by one version of the policy.

        What is recorded is what the rollout holds states of: `recorded_episodes` said so when it was played.
        """
        episodes = rollout.world_episode[:, 0]
        starts = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), rollout.ticks]
        for start, stop in pairwise(starts):
            episode = int(episodes[start])
            if episode != self._episode:
                self._store_if_over()
                self._drop()  # the earlier one was cut off by a reset
                self._episode, self._has_hole = episode, False
            if rollout.state[start] and not self._has_hole:
                self._add(self._cut_out(rollout, start, stop, policy_version))
                self._store_if_ended()
                self._cut_if_too_long()
        if self._complete_episodes:
            self._drop()  # what was played after the first episode

    def forget(self, *, go_on: bool = False) -> None:
        """Drop the episode in progress: it will not end or, if it continues, has a hole."""
        self._drop()
        self._has_hole = go_on

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the episode in progress as arrays."""
        state: dict[str, NDArray[Any]] = {
            "episode": np.array(self._episode, np.int64),
            "has_hole": np.array(self._has_hole),
        }
        if self._parts:
            joined = self._joined()
            text = "\n".join(joined.pop("state")).encode()
            state.update(joined, state=np.frombuffer(text, np.uint8))
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue the episode that was in progress when `state` was taken."""
        self._episode = int(state["episode"])
        self._has_hole = bool(state["has_hole"])
        self._drop()
        if "state" in state:
            texts = np.array(state["state"].tobytes().decode().split("\n"), np.object_)
            part = {name: state[name] for name in (*RECORDED, "policy_version")}
            part["delay"] = state.get("delay", np.zeros(part["active"].shape, np.int64))  # earlier versions had none
            self._add({**part, "state": texts})

    def _cut_out(self, rollout: Played, start: int, stop: int, policy_version: int) -> dict[str, NDArray[Any]]:
        part = {name: getattr(rollout, name)[start:stop, : self._agents].copy() for name in RECORDED}
        observation = part["observation"].reshape(stop - start, self._agents, -1)
        part["observation"] = observation if observation.shape[2] <= MOST_RECORDED else observation[..., :0]
        part["policy_version"] = np.full(stop - start, policy_version, np.int64)
        part["delay"] = np.zeros(part["active"].shape, np.int64)
        if start == 0 and "delay" in rollout.arrays:
            part["delay"][0] = rollout.delay[: self._agents]
        part["state"] = np.array(rollout.state[start:stop], np.object_)
        return part

    def _add(self, part: dict[str, NDArray[Any]]) -> None:
        self._parts.append(part)
        self._ticks += len(part["active"])
        self._bytes += sum(array.nbytes for array in part.values()) + sum(map(len, part["state"]))

    def _drop(self) -> None:
        self._parts.clear()
        self._ticks = self._bytes = 0

    def _joined(self) -> dict[str, NDArray[Any]]:
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def _store_if_ended(self) -> None:
        last = self._parts[-1]
        if not (last["terminated"] | last["truncated"]).any():
            return
        episode = self._joined()
        if (episode["terminated"] | episode["truncated"]).any(axis=0).all():
            self._store(episode)

    def _store_if_over(self) -> None:
        """Store an episode that has given way to the next where all agents that took part have ended."""
        if self._parts:
            episode = self._joined()
            took_part = episode["active"].any(axis=0)
            ended = (episode["terminated"] | episode["truncated"]).any(axis=0)
            if took_part.any() and ended[took_part].all():
                self._store(episode)

    def _store(self, episode: Mapping[str, NDArray[Any]]) -> None:
        for agent in range(self._agents):
            alive = np.flatnonzero(episode["active"][:, agent])
            if len(alive):
                self._record(self._columns(episode, agent, alive))
        self._drop()

    def _cut_if_too_long(self) -> None:
        """Store what there is of an episode that continues for very long, and record no more of it."""
        if self._ticks >= MOST_TICKS or self._bytes >= MOST_BYTES:
            most = max(1, min(MOST_TICKS, self._ticks, MOST_BYTES * self._ticks // self._bytes))
            self._store({name: values[:most] for name, values in self._joined().items()})
            self._has_hole = True
            self._on_cut(self._episode, most)

    def _columns(self, episode: Mapping[str, NDArray[Any]], agent: int, alive: NDArray[np.int64]) -> dict[str, Any]:
        own = {name: episode[name][alive, agent] for name in RECORDED if name != "active"}
        action = own.pop("action")
        is_whole = action.dtype.kind == "i" and action.ndim == 1
        tick = np.maximum(alive - episode["delay"][alive, agent], 0)  # when the moves were made
        return {
            **own,
            "action": action if is_whole else None,
            "action_row": np.zeros((len(alive), 0), np.float32) if is_whole else action.reshape(len(alive), -1),
            "run_id": self._run_id,
            "world": 0,
            "world_episode": self._episode,
            "agent": agent,
            "tick": tick,
            "policy_version": episode["policy_version"][tick],
            "state": episode["state"][tick],
        }
