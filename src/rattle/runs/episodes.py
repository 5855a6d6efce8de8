"""Returns and lengths of episodes, followed across rollouts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.runs.errors import RunError
from rattle.samples.rollout import Played

#: How many of the last episodes the running means are over; rollouts of whole episodes count whole, so it may be more.
WINDOW = 100


@dataclass(frozen=True)
class FinishedEpisodes:
    """Agents' episodes that ended in one rollout, in the order in which they ended; all arrays (N,)."""

    slot: NDArray[np.int64]
    world_episode: NDArray[np.uint32]
    total_reward: NDArray[np.float64]
    length: NDArray[np.int64]  # ticks
    terminated: NDArray[np.bool_]
    metrics: Mapping[str, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.slot)


class EpisodeTracker:
    """Adds up rewards and ticks of every slot's episode in progress, and keeps means of those that ended last."""

    def __init__(self, slots: int, *, complete_episodes: bool) -> None:
        self._complete_episodes = complete_episodes
        self._reward = np.zeros(slots, np.float64)
        self._length = np.zeros(slots, np.int64)
        most = None if complete_episodes else WINDOW
        self._last_rewards: deque[float] = deque(maxlen=most)
        self._last_lengths: deque[int] = deque(maxlen=most)
        self._last_rollouts: deque[int] = deque()  # episodes of each, where rollouts are whole episodes
        self.ended = 0  # episodes since the run began

    @property
    def mean_return(self) -> float | None:
        """Return the mean return of the last episodes, None before the first has ended."""
        return sum(self._last_rewards) / len(self._last_rewards) if self._last_rewards else None

    @property
    def is_representative(self) -> bool:
        """Whether the means are over enough episodes to judge a policy by."""
        return len(self._last_rewards) >= WINDOW

    @property
    def mean_length(self) -> float | None:
        """Return the mean length in ticks of the last episodes, None before the first has ended."""
        return sum(self._last_lengths) / len(self._last_lengths) if self._last_lengths else None

    def follow(self, rollout: Played, first_slot: int = 0) -> FinishedEpisodes:
        """Take in a rollout of some slots and return the episodes that ended in it."""
        own = slice(first_slot, first_slot + rollout.slots)
        reward, length = self._reward[own], self._length[own]
        if self._complete_episodes:
            reward[:], length[:] = 0, 0  # every rollout starts again
        ended = rollout.terminated | rollout.truncated
        slots, rewards, lengths = [], [], []
        for tick in range(rollout.ticks):
            reward += rollout.reward[tick]  # 0 where no agent acted
            length += rollout.active[tick]
            ending = np.flatnonzero(ended[tick])
            slots.append(ending)
            rewards.append(reward[ending])
            lengths.append(length[ending])
            reward[ending], length[ending] = 0, 0
        total_reward = np.concatenate(rewards)
        whole = ~np.isnan(total_reward)
        slot = np.concatenate(slots)[whole]
        tick_of = np.repeat(np.arange(rollout.ticks), [len(ending) for ending in slots])[whole]
        agents = ended.shape[1] // rollout.world_episode.shape[1]
        finished = FinishedEpisodes(
            slot=first_slot + slot,
            world_episode=rollout.world_episode[tick_of, slot // agents],
            total_reward=total_reward[whole],
            length=np.concatenate(lengths)[whole],
            terminated=rollout.terminated[tick_of, slot],
            metrics={name: values[tick_of, slot] for name, values in rollout.metrics.items()},
        )
        self.ended += len(finished)
        return finished

    def forget(self, slots: slice, *, go_on: bool = False) -> None:
        """Drop the episodes in progress of some slots: they will not end or, if they `go_on`, have a hole."""
        self._reward[slots], self._length[slots] = np.nan if go_on else 0, 0  # a sum with NaN is NaN to its end

    def remember(self, parts: Sequence[FinishedEpisodes]) -> None:
        """Keep what the means are over: the last episodes, or the last updates whose slots end one episode each.

        Of an update of those, the last to end would be the longest, so all of its episodes count or none.
        """
        rewards = [reward for finished in parts for reward in finished.total_reward.tolist()]
        self._last_rewards.extend(rewards)
        self._last_lengths.extend(length for finished in parts for length in finished.length.tolist())
        if self._complete_episodes and rewards:
            self._last_rollouts.append(len(rewards))
            while len(self._last_rewards) - self._last_rollouts[0] >= WINDOW:
                for _ in range(self._last_rollouts.popleft()):
                    self._last_rewards.popleft()
                    self._last_lengths.popleft()

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows."""
        return {
            "reward": self._reward.copy(),
            "length": self._length.copy(),
            "last_rewards": np.array(self._last_rewards, np.float64),
            "last_lengths": np.array(self._last_lengths, np.int64),
            "last_rollouts": np.array(self._last_rollouts, np.int64),
            "ended": np.array(self.ended, np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken."""
        if state["reward"].shape != self._reward.shape:
            raise RunError(
                f"the checkpoint is of {len(state['reward'])} slots, and the settings now make {len(self._reward)}: "
                "put env.worlds, or what decides the agents of a world, back to what the run began with in config.yaml"
            )
        self._reward[:] = state["reward"]
        self._length[:] = state["length"]
        self._last_rewards.extend(state["last_rewards"].tolist())
        self._last_lengths.extend(state["last_lengths"].tolist())
        if self._complete_episodes and self._last_rewards:  # earlier versions kept one rollout
            rollouts = state.get("last_rollouts", np.array([len(self._last_rewards)]))
            self._last_rollouts.extend(rollouts.tolist())
        self.ended = int(state["ended"])


def episode_rows(
    finished: FinishedEpisodes, agents: int, first_id: int, common: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield rows of the table `episodes`; `common` holds the columns that all share."""
    world, agent = np.divmod(finished.slot, agents)
    names = list(finished.metrics)
    values = zip(*(array.tolist() for array in finished.metrics.values()), strict=True) if names else None
    columns = (world, finished.world_episode, agent, finished.total_reward, finished.length, finished.terminated)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for number, (w, episode, a, total, length, terminated) in enumerate(rows, first_id):
        yield {
            **common,
            "episode_id": number,
            "world": w,
            "world_episode": episode,
            "agent": a,
            "return": total,
            "length": length,
            "terminated": terminated,
            "metrics": dict(zip(names, next(values), strict=True)) if values else {},
        }
