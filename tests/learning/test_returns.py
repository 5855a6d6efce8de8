"""Returns, advantages and first episodes, each against its definition in plain loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.learning.returns import discounted_returns, first_episodes, generalised_advantages, without_waits
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import FloatSpace
from tests.learning.rollouts import random_rollout, with_waits
from tests.learning.slow import in_first_episode, of_moves, slow_advantage, slow_return

SPEC = MlpSpec(observation=FloatSpace(size=1), num_actions=2, hidden_sizes=(), activation="relu", value_head=True)

rollouts = st.builds(
    random_rollout,
    spec=st.just(SPEC),
    ticks=st.integers(1, 12),
    slots=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
fractions = st.sampled_from([0.0, 1.0]) | st.floats(0.1, 0.99)


@settings(max_examples=60)
@given(rollout=rollouts, discount=fractions)
def test_returns_are_discounted_sums_to_the_end_of_the_episode(rollout: Rollout, discount: float) -> None:
    found = discounted_returns(rollout.reward, rollout.terminated | rollout.truncated, discount)
    assert found.dtype == torch.float32
    for tick, slot in rollout.active.nonzero().tolist():
        expected = slow_return(rollout, tick, slot, discount)
        np.testing.assert_allclose(found[tick, slot], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60)
@given(rollout=rollouts, discount=fractions, trace_decay=fractions)
def test_advantages_are_weighted_sums_of_one_step_errors(rollout: Rollout, discount: float, trace_decay: float) -> None:
    found = generalised_advantages(rollout, discount, trace_decay)
    assert found.dtype == torch.float32
    for tick, slot in rollout.active.nonzero().tolist():
        expected = slow_advantage(rollout, tick, slot, discount, trace_decay)
        np.testing.assert_allclose(found[tick, slot], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60)
@given(rollout=rollouts)
def test_first_episodes_are_those_that_end_and_their_living_ticks(rollout: Rollout) -> None:
    found = first_episodes(rollout.terminated, rollout.truncated, rollout.active)
    for (tick, slot), chosen in np.ndenumerate(found.numpy()):
        assert chosen == (bool(rollout.active[tick, slot]) and in_first_episode(rollout, tick, slot))


def test_the_three_kinds_of_end_by_hand() -> None:
    """Reward 1 a tick, values 10 times the slot's number, discount 0.5: slot by slot goes on, dies, is cut."""
    ticks, slots = 2, 3
    no = torch.zeros((ticks, slots), dtype=torch.bool)
    terminated, truncated = no.clone(), no.clone()
    terminated[1, 1] = truncated[1, 2] = True
    rollout = random_rollout(SPEC, ticks, slots).replace(
        reward=torch.ones((ticks, slots)),
        value=torch.tensor([[0.0, 10.0, 20.0]] * ticks),
        terminated=terminated,
        truncated=truncated,
        final_value=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 8.0]]),
        last_value=torch.tensor([4.0, 40.0, 400.0]),
    )
    one_step = generalised_advantages(rollout, 0.5, 0.0)
    assert one_step[1].tolist() == [1 + 0.5 * 4 - 0, 1 - 10, 1 + 0.5 * 8 - 20]
    assert one_step[0].tolist() == [1 + 0.5 * 0 - 0, 1 + 0.5 * 10 - 10, 1 + 0.5 * 20 - 20]
    to_the_end = generalised_advantages(rollout, 0.5, 1.0)
    assert to_the_end[0].tolist() == [1 + 0.5 + 0.25 * 4 - 0, 1 + 0.5 - 10, 1 + 0.5 + 0.25 * 8 - 20]
    assert discounted_returns(rollout.reward, terminated | truncated, 0.5)[0].tolist() == [1.5, 1.5, 1.5]


@settings(max_examples=60)
@given(rollout=rollouts)
def test_where_nobody_waits_nothing_is_moved(rollout: Rollout) -> None:
    assert without_waits(rollout) is rollout


@settings(max_examples=100)
@given(rollout=rollouts, share=st.floats(0.1, 0.9), seed=st.integers(0, 2**32), discount=fractions, decay=fractions)
def test_waiting_changes_nothing(rollout: Rollout, share: float, seed: int, discount: float, decay: float) -> None:
    """Returns and advantages are those of each slot's own moves, one after another, whoever moved in between."""
    waiting = with_waits(rollout, share, seed)
    kept = {name: array.clone() for name, array in waiting.arrays.items()}
    found = without_waits(waiting)
    advantage = generalised_advantages(found, discount, decay)
    returns = discounted_returns(found.reward, found.terminated | found.truncated, discount)
    for slot in range(rollout.slots):
        ticks, moves = found.active[:, slot].nonzero()[:, 0].tolist(), of_moves(waiting, slot)
        assert len(ticks) == moves.ticks if ticks else not waiting.active[:, slot].any()
        for move, tick in enumerate(ticks):
            for name in ("observation", "action", "log_prob", "reward", "value", "terminated"):
                assert torch.equal(getattr(found, name)[tick, slot], getattr(moves, name)[move, 0]), name
            expected = slow_advantage(moves, move, 0, discount, decay)
            np.testing.assert_allclose(advantage[tick, slot], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(returns[tick, slot], slow_return(moves, move, 0, discount), rtol=1e-4, atol=1e-5)
    for name, array in kept.items():
        assert torch.equal(array, getattr(waiting, name)), name


def test_who_waits_at_the_end_by_hand() -> None:
    """Two players in turn, discount 0.5: the first's move at tick 2 is followed by what comes after the rollout."""
    rollout = random_rollout(SPEC, 4, 2).replace(
        active=torch.tensor([[True, False], [False, True], [True, False], [False, True]]),
        reward=torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]]),
        value=torch.tensor([[10.0, -1.0], [-1.0, 20.0], [30.0, -1.0], [-1.0, 40.0]]),
        terminated=torch.zeros((4, 2), dtype=torch.bool),
        truncated=torch.zeros((4, 2), dtype=torch.bool),
        final_value=torch.zeros((4, 2)),
        last_value=torch.tensor([50.0, 60.0]),
    )
    found = generalised_advantages(without_waits(rollout), 0.5, 0.0)
    assert found[:2, 0].tolist() == [1 + 0.5 * 30 - 10, 3 + 0.5 * 50 - 30]
    assert found[:2, 1].tolist() == [2 + 0.5 * 40 - 20, 4 + 0.5 * 60 - 40]
    found = generalised_advantages(without_waits(rollout), 0.5, 1.0)
    assert found[0, 0].item() == 1 + 0.5 * (3 + 0.5 * 50) - 10


def test_arguments_are_left_as_they_were() -> None:
    rollout, again = random_rollout(SPEC, 9, 4, seed=3), random_rollout(SPEC, 9, 4, seed=3)
    discounted_returns(rollout.reward, rollout.terminated, 0.9)
    generalised_advantages(rollout, 0.9, 0.9)
    first_episodes(rollout.terminated, rollout.truncated, rollout.active)
    for name in ("reward", "value", "terminated", "truncated", "active", "final_value", "last_value"):
        assert torch.equal(getattr(rollout, name), getattr(again, name))
