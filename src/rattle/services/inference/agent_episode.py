"""One life of a snake of the agent API as a rollout: lines in, moves out. Sans I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.clients.agent_protocol import MOVES, AgentState, MoveName
from rattle.clients.errors import BadAnswer
from rattle.envs.errors import EnvError
from rattle.envs.snake.geometry import Cell, visible_offsets
from rattle.envs.snake.settings import SnakeSettings
from rattle.envs.validation import validated
from rattle.policies.acting import ActingPolicy
from rattle.samples.rollout import Played, allocate
from rattle.samples.spaces import CodeSpace, DiscreteSpace
from rattle.settings.experiment import ExperimentSettings

#: Where an algorithm says nothing of episodes, they are cut after this many ticks.
MAX_EPISODE_TICKS = 1000
_MOST = {"reward": float(np.finfo(np.float32).max), "length": np.iinfo(np.int32).max}


class AgentEpisode:
    """Fills a buffer of one slot: row t holds line t, the move that answers it, and the reward of the line after it.

    A move that reaches the server too late for its tick is still the policy's answer to its line: what the world made
    of it, going forward, is the world's affair, as in any world with delays. Lines do not say why a life is over: one
    that a reset ended, or a world that was won, counts as terminated too.
    """

    def __init__(
        self, buffer: Played, policy: ActingPolicy, slot: int = 0, first_tick: int = 0, number: int = 0
    ) -> None:
        """Begin an episode.

        `slot` and `first_tick`, the number of the first row's tick since the run began, number the draws of actions;
        `number` counts the snake's episodes.
        """
        self.ticks = 0  # complete rows
        self.over = False
        self._buffer, self._policy = buffer, policy
        self._slot, self._first_tick, self._number = slot, first_tick, number
        self._acted = False
        size = policy.spec.memory_size
        self._memory = np.zeros((1, size), np.float32) if size else None
        self._first_length = 0

    def take(self, line: AgentState) -> MoveName | None:
        """Return the move that answers the next line, None when the episode is over with it.

        Raises BadAnswer for a line that the batch worlds could not have made, and PolicyError when the policy was made
        for another environment. The episode is of no use then.
        """
        _check(line)
        if self._acted:
            self._write_outcome(line)
        else:
            self._first_length = line.length
        if line.game_over:
            self._end()
        elif self.ticks == len(self._buffer.action):
            self._cut(line)
        return None if self.over else self._act(line)

    def _write_outcome(self, line: AgentState) -> None:
        """Complete the row of the move that led to a line."""
        row, buffer = self.ticks, self._buffer
        buffer.reward[row] = line.reward
        self._policy.own.rewarded(self._memory, buffer.reward[row])
        buffer.terminated[row] = buffer.truncated[row] = False
        buffer.active[row] = True
        buffer.final_value[row] = 0.0
        buffer.world_episode[row] = self._number
        for values in buffer.metrics.values():
            values[row] = 0
        buffer.metrics["food"][row] = line.length - self._first_length
        self.ticks += 1

    def _end(self) -> None:
        self.over = True
        if self.ticks:
            self._buffer.terminated[self.ticks - 1] = True
            self._buffer.last_value[:] = 0.0

    def _cut(self, line: AgentState) -> None:
        self.over = True
        self._buffer.truncated[self.ticks - 1] = True
        self._buffer.final_value[self.ticks - 1] = self._buffer.last_value[:] = self._policy.values(
            self._see(line), self._memory
        )

    def _act(self, line: AgentState) -> MoveName:
        row, buffer = self.ticks, self._buffer
        observation = self._see(line)
        self._policy.act(
            observation,
            tick=self._first_tick + row,
            first_slot=self._slot,
            action=buffer.action[row],
            log_prob=buffer.log_prob[row],
            value=buffer.value[row],
            state=self._memory,
        )
        buffer.observation[row] = observation
        self._acted = True
        return MOVES[int(buffer.action[row, 0])]

    def _see(self, line: AgentState) -> NDArray[Any]:
        """Return (1, cells): to a policy that has never met other snakes, they are bodies."""
        seen = line.observation()[np.newaxis]
        known = self._policy.spec.observation
        return np.minimum(seen, known.codes - 1, dtype=np.uint8) if isinstance(known, CodeSpace) else seen


def episode_buffer(settings: ExperimentSettings, ticks: int = MAX_EPISODE_TICKS, memory_size: int = 0) -> Played:
    """Return room for `ticks` of one snake of an experiment; raises EnvError where it has no snakes."""
    if settings.env.id != "snake":
        raise EnvError(f"'{settings.env.id}' has no agent API, only 'snake' has: set inference.api=vector")
    radius = validated(SnakeSettings, settings.env.own_settings, "snake").vision_radius
    space = CodeSpace(cells=len(visible_offsets(radius)), codes=len(Cell))
    return allocate(space, DiscreteSpace(n=len(MOVES)), ticks, 1, metrics=("food",), memory_size=memory_size)


def _check(line: AgentState) -> None:
    for name, most in _MOST.items():
        if not abs(getattr(line, name)) <= most:
            raise BadAnswer(f"a line of the stream has {name} {getattr(line, name)}, which is too large")
