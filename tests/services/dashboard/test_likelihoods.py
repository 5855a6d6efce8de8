"""How likely a policy finds what it did is what it said when it did it, also where it sees its own past."""

from __future__ import annotations

import numpy as np
import pytest

from rattle.analytics.replay.episodes import AgentSteps
from rattle.policies.acting import ActingPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.own.inputs import OWN_INPUTS
from rattle.samples.spaces import CodeSpace, DiscreteSpace
from rattle.services.dashboard.likelihoods import choose
from tests.policies.building import random_observation, random_policy

TICKS = 9


@pytest.mark.parametrize("inputs", [(), tuple(OWN_INPUTS)], ids=["nothing", "all"])
def test_a_policy_that_sees_its_own_past_is_shown_what_it_did(inputs: tuple[str, ...]) -> None:
    spec = MlpSpec(
        observation=CodeSpace(cells=9, codes=4),
        action=DiscreteSpace(n=3),
        hidden_sizes=(5,),
        activation="relu",
        value_head=True,
        inputs=inputs,
    )
    policy = random_policy(spec)
    acting, state = ActingPolicy(spec, policy.parameters), np.zeros((1, spec.memory_size), np.float32)
    observation = random_observation(spec, TICKS)
    reward = np.array([0, 1, 0, 0, -1, 0, 0, 2, 0], np.float32)
    action, log_prob, value = np.zeros(TICKS, np.int64), *np.zeros((2, TICKS), np.float32)
    for tick in range(TICKS):
        row = slice(tick, tick + 1)
        written = {"action": action[row], "log_prob": log_prob[row], "value": value[row]}
        acting.act(observation[row], tick=tick, state=state, **written)
        acting.own.rewarded(state, reward[row])
    version = np.full(TICKS, policy.version)
    steps = AgentSteps(
        np.arange(TICKS), observation.astype(np.float32), action, reward, log_prob, value, version, terminated=True
    )
    found = choose({"newest": policy}, "", steps)
    assert found is not None
    np.testing.assert_allclose(found.probabilities[np.arange(TICKS), action], np.exp(log_prob), rtol=1e-4)
