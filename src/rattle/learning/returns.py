"""Returns and advantages of rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rattle.samples.rollout import Rollout

if TYPE_CHECKING:
    from torch import Tensor


def discounted_returns(reward: Tensor, ended: Tensor, discount: float) -> Tensor:
    """Return float32 (T, B): the discounted sum of rewards from each tick to the end of its episode.

    reward: (T, B) float32; ended: (T, B) bool, terminated or truncated. Nothing is added after the last tick.
    """
    returns = reward.new_empty(reward.shape)
    following = reward.new_zeros(reward.shape[1:])
    carried = discount * (~ended).float()
    for t in range(reward.shape[0] - 1, -1, -1):
        following = reward[t] + carried[t] * following
        returns[t] = following
    return returns


def generalised_advantages(rollout: Rollout[Tensor], discount: float, trace_decay: float) -> Tensor:
    """Return float32 (T, B): generalised advantage estimates (Schulman et al., arXiv 1506.02438).

    Terminated episodes are worth nothing after their end; truncated ones and those in progress at the last tick are
    worth what the behaviour policy predicted. `trace_decay` is the paper's lambda.
    """
    advantage = rollout.reward.new_empty(rollout.reward.shape)
    following = rollout.reward.new_zeros(rollout.reward.shape[1:])
    goes_on = (~(rollout.terminated | rollout.truncated)).float()
    next_value = rollout.value.roll(-1, 0)
    next_value[-1] = rollout.last_value
    next_value = next_value * goes_on + rollout.final_value
    error = rollout.reward + discount * next_value - rollout.value
    carried = discount * trace_decay * goes_on
    for t in range(rollout.reward.shape[0] - 1, -1, -1):
        following = error[t] + carried[t] * following
        advantage[t] = following
    return advantage


def episode_starts(rollout: Rollout[Tensor]) -> Tensor:
    """Return bool (T, B): where a slot's episode has just begun, so that it remembers nothing; never in row 0.

    What a slot remembers before row 0 is stored with the rollout, and is zero where an episode begins there.
    """
    starts = rollout.active.new_zeros(rollout.active.shape)
    starts[1:] = rollout.terminated[:-1] | rollout.truncated[:-1] | ~rollout.active[:-1]
    return starts


def first_episodes(terminated: Tensor, truncated: Tensor, active: Tensor) -> Tensor:
    """Return bool (T, B): the ticks of each slot's first episode, for slots whose first episode ends in the rollout."""
    ended = terminated | truncated
    ends_before = ended.int().cumsum(dim=0) - ended.int()
    return (ends_before == 0) & ended.any(dim=0) & active
