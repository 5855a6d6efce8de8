"""Returns, advantages and first episodes, each against its definition in plain loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.learning.returns import discounted_returns, first_episodes, generalised_advantages
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import FloatSpace
from tests.learning.rollouts import random_rollout
from tests.learning.slow import in_first_episode, slow_advantage, slow_return

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


def test_arguments_are_left_as_they_were() -> None:
    rollout, again = random_rollout(SPEC, 9, 4, seed=3), random_rollout(SPEC, 9, 4, seed=3)
    discounted_returns(rollout.reward, rollout.terminated, 0.9)
    generalised_advantages(rollout, 0.9, 0.9)
    first_episodes(rollout.terminated, rollout.truncated, rollout.active)
    for name in ("reward", "value", "terminated", "truncated", "active", "final_value", "last_value"):
        assert torch.equal(getattr(rollout, name), getattr(again, name))
