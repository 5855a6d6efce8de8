"""Returns and advantages of rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rattle.samples.rollout import FIELDS, Rollout

if TYPE_CHECKING:
    from torch import Tensor


def without_waits(rollout: Rollout[Tensor]) -> Rollout[Tensor]:
    """Return a rollout in which the moves of each slot follow each other; the same where nobody waits between moves.

    So a move leads to what the agent observes at its next one, and no time passes for it between them: rewards are
    discounted by the agent's own moves. The rows of a slot that waits less come first, in their order, then those in
    which it was not active. What follows after its last move is worth `last_value`, as after a truncation.
    """
    ended = rollout.terminated | rollout.truncated
    waits = rollout.active[:-1] & ~rollout.active[1:] & ~ended[:-1]
    if not bool(waits.any()):
        return rollout
    order = (~rollout.active).byte().argsort(dim=0, stable=True)
    moved = {}
    for field in FIELDS:
        if field.axes == ("ticks", "slots") and field.name in rollout.arrays:
            array = getattr(rollout, field.name)
            rows = order.reshape(*order.shape, *[1] * (array.ndim - 2))
            moved[field.name] = array.take_along_dim(rows, dim=0)
    rollout = rollout.replace(**moved)
    moves = rollout.active.sum(dim=0)
    slots = ((moves > 0) & (moves < rollout.ticks)).nonzero()[:, 0]
    last = moves[slots] - 1
    goes_on = ~(rollout.terminated | rollout.truncated)[last, slots]
    slots, last = slots[goes_on], last[goes_on]
    rollout.truncated[last, slots] = True
    rollout.final_value[last, slots] = rollout.last_value[slots]
    return rollout


def discounted_returns(reward: Tensor, ended: Tensor, discount: float) -> Tensor:
    """Return float32 (T, B): the discounted sum of rewards from each tick to the end of its episode.

    reward: (T, B) float32; ended: (T, B) bool, terminated or truncated. Nothing is added after the last tick.
    """
    return _carried_back(reward, discount * (~ended).float())


def generalised_advantages(rollout: Rollout[Tensor], discount: float, trace_decay: float) -> Tensor:
    """Return float32 (T, B): generalised advantage estimates (Schulman et al., arXiv 1506.02438).

    Terminated episodes are worth nothing after their end; truncated ones and those in progress at the last tick are
    worth what the behaviour policy predicted. `trace_decay` is the paper's lambda.
    """
    error, goes_on = _one_step_errors(rollout, rollout.value, discount)
    return _carried_back(error, discount * trace_decay * goes_on)


class VTrace(NamedTuple):
    """What V-trace makes of a rollout: each float32 (T, B)."""

    advantage: Tensor
    target: Tensor  # of the value head
    rho: Tensor  # clipped ratio: how much an action counts in the policy gradient


def v_trace(
    rollout: Rollout[Tensor],
    log_prob: Tensor,
    value: Tensor,
    discount: float,
    trace_decay: float,
    rho_clip: float,
    c_clip: float,
) -> VTrace:
    """Return advantages and targets for the policy as it is now, from what an older one played.

    V-trace (Espeholt et al., arXiv 1802.01561, section 4). `log_prob` and `value`, (T, B), are those of the policy now:
    of the actions that were played, and of the observations. What follows after the rollout or a truncation is worth
    what the policy that played predicted: its observations are not part of a rollout. `trace_decay` is lambda, in the
    targets as in the paper's remark 2, and in the advantages too, which are then those of `generalised_advantages`,
    bit for bit, where log-probabilities and values are those of the policy that played.
    """
    ratio = (log_prob - rollout.log_prob).exp()
    rho, c = ratio.clamp(max=rho_clip), ratio.clamp(max=c_clip)
    error, goes_on = _one_step_errors(rollout, value, discount)
    carried = discount * trace_decay * goes_on
    above_value = _carried_back(rho * error, carried * c)
    following = above_value.roll(-1, 0)
    following[-1] = 0
    return VTrace(error + carried * following, value + above_value, rho)


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


def _one_step_errors(rollout: Rollout[Tensor], value: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Return float32 (T, B): how far each value is from reward plus discounted next value; and 1 where nothing ends."""
    goes_on = (~(rollout.terminated | rollout.truncated)).float()
    next_value = value.roll(-1, 0)
    next_value[-1] = rollout.last_value
    next_value = next_value * goes_on + rollout.final_value
    return rollout.reward + discount * next_value - value, goes_on


def _carried_back(terms: Tensor, carried: Tensor) -> Tensor:
    """Return (T, B): the term of each tick plus `carried` times the sum at the next tick; 0 follows on the last."""
    sums = terms.new_empty(terms.shape)
    following = terms.new_zeros(terms.shape[1:])
    for t in range(terms.shape[0] - 1, -1, -1):
        following = terms[t] + carried[t] * following
        sums[t] = following
    return sums
