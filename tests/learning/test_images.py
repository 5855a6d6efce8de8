"""Learning from images like those of games: a bright background, and few pixels that matter."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rattle.learning.algorithms import PPO
from rattle.learning.errors import LearningError
from rattle.learning.learner import Learner
from rattle.policies.acting import ActingPolicy
from rattle.policies.graph.network import LearningNetwork, Spaces, describe, make
from rattle.policies.graph.spec import GraphSpec
from rattle.samples.rollout import Rollout, allocate
from rattle.samples.spaces import ArraySpace, DiscreteSpace, ObservationSpace
from rattle.settings.policy import find_network

IMAGES, CHOICES, SLOTS = ArraySpace(sizes=(36, 36, 1)), DiscreteSpace(n=2), 256
ALGORITHM = PPO(ticks=1, passes=4, minibatches=4, learning_rate=7e-4)


def network(name: str, space: ObservationSpace, seed: int) -> tuple[LearningNetwork, GraphSpec]:
    extension, spaces = find_network(name), Spaces(space, CHOICES)
    made = make(extension, spaces, extension.cls.Settings(), seed)
    return made, describe(made, spaces, value_head=True)


def played(policy: ActingPolicy, seed: int) -> Rollout[Tensor]:
    """Return a choice for each of many images: on which side is a ball of 2 x 2 pixels?"""
    random = np.random.default_rng(seed)
    rollout = allocate(IMAGES, CHOICES, 1, SLOTS)
    side, row, column = (random.integers(0, most, SLOTS) for most in (2, 34, 16))
    rollout.observation[:] = 87
    rollout.observation[..., :6, :] = 233
    for slot, (y, x) in enumerate(zip(row, column + 18 * side, strict=True)):
        rollout.observation[0, slot, y : y + 2, x : x + 2] = 147
    outputs, rollout.value[0] = policy.forward(rollout.observation[0])
    logits = torch.from_numpy(outputs).log_softmax(1).numpy()
    rollout.action[0] = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    rollout.log_prob[0] = logits[np.arange(SLOTS), rollout.action[0]]
    rollout.reward[0] = np.where(rollout.action[0] == side, 1, -1)
    rollout.terminated[:] = rollout.active[:] = True
    return Rollout({name: torch.from_numpy(array) for name, array in rollout.arrays.items()})


def test_a_few_pixels_before_a_bright_background_are_learnt() -> None:
    made, spec = network("nature_cnn", IMAGES, seed=0)
    with closing(Learner(spec, ALGORITHM, 0, network=made)) as learner:
        policy = ActingPolicy(spec, learner.parameters())
        for update in range(8):
            learner.update(played(policy, update))
            policy = ActingPolicy(spec, learner.parameters())
        assert played(policy, 8).reward.mean() > 0.7


def test_scales_of_images_follow_rollouts_and_are_stored_and_put_back() -> None:
    made, spec = network("nature_cnn", IMAGES, seed=0)
    with closing(Learner(spec, ALGORITHM, 0, network=made)) as learner:
        rollout = played(ActingPolicy(spec, learner.parameters()), 0)
        learner.update(rollout)
        scales = {name: array for name, array in learner.parameters().items() if ".encoders.0.0." in name}
        mean, gain, rollouts = (scales[f"own.encoders.0.0.{name}"] for name in ("mean", "gain", "rollouts"))
        seen = rollout.observation[0].numpy() / 255
        np.testing.assert_allclose(mean, seen.mean(axis=0), atol=1e-6)
        assert 0.2 < np.abs((seen - mean) * gain).max() <= 3.001
        assert rollouts == 1

        outputs, _ = ActingPolicy(spec, learner.parameters()).forward(rollout.observation[0].numpy())
        np.testing.assert_allclose(outputs, made(rollout.observation[0])[0].detach().numpy(), atol=1e-4)

        before = learner.state()
        with pytest.raises(LearningError, match="reward"):
            learner.update(rollout.replace(reward=rollout.reward * float("inf")))
        after = learner.state()
        assert all(np.array_equal(array, after[name]) for name, array in before.items())


@pytest.mark.parametrize(
    ("images", "gain"),
    [
        (np.full((5, 36, 36, 1), 200, np.uint8), 1e5 * 255 / 200),  # nothing to see: rounding is not blown up
        (np.zeros((5, 36, 36, 1), np.uint8), 1.0),
        (np.random.default_rng(0).integers(0, 256, (5, 36, 36, 1), np.uint8), 255 / 128 * 3**0.5),
    ],
)
def test_a_gain_suits_what_images_show(images: Any, gain: float) -> None:
    made, _ = network("encoders", IMAGES, seed=0)
    made.follow(torch.from_numpy(images))
    found = made.state_dict()["own.encoders.0.0.gain"].item()
    assert found == pytest.approx(gain, rel=0.2)
