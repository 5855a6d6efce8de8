from __future__ import annotations

import numpy as np
import pytest
import torch

from rattle.envs.seeds import derive_seed
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.rollouts.worlds import build_worlds, policy_spec
from rattle.samples.rollout import Rollout, as_tensors
from rattle.trainer.build import build_acting_policy, build_collector, build_learner
from tests.trainer.conftest import small_settings


def collect(rollouts: int, *overrides: str) -> list[Rollout[torch.Tensor]]:
    """Collect some rollouts, copied out of the buffer, with a policy that does not learn."""
    settings = small_settings(*overrides)
    collector = build_collector(settings)
    learner = build_learner(settings, policy_spec(settings, collector.batches[0].spec))
    policy = build_acting_policy(settings, learner)
    collected = []
    for _ in range(rollouts):
        rollout = as_tensors(collector.collect(policy, 0, lambda _: False))
        collected.append(Rollout({name: tensor.clone() for name, tensor in rollout.arrays.items()}))
    collector.close()
    learner.close()
    return collected


def assert_equal(one: list[Rollout[torch.Tensor]], other: list[Rollout[torch.Tensor]]) -> None:
    for a, b in zip(one, other, strict=True):
        for name, tensor in a.arrays.items():
            np.testing.assert_array_equal(tensor, b.arrays[name], err_msg=name)


@pytest.mark.parametrize(
    "overrides",
    [
        ["env.num_snakes=2", "env.max_steps=9"],
        ["env.num_snakes=2", "env.worlds=7", "algorithm.id=reinforce", "algorithm.max_episode_ticks=50"],
        ["env={id: 'gym:CartPole-v1', worlds: 6}"],
    ],
    ids=["a2c", "reinforce", "gym"],
)
def test_the_number_of_actors_changes_nothing(overrides: list[str]) -> None:
    alone = collect(3, *overrides, "train.actors=1")
    assert_equal(alone, collect(3, *overrides, "train.actors=2"))
    assert_equal(alone, collect(3, *overrides, "train.actors=5"))


def test_rollouts_follow_each_other_without_a_gap() -> None:
    long = collect(1, "algorithm.ticks=24")
    short = collect(3, "algorithm.ticks=8")
    for name in ("observation", "action", "reward", "active"):
        joined = torch.cat([getattr(rollout, name) for rollout in short])
        np.testing.assert_array_equal(joined, getattr(long[0], name), err_msg=name)
    np.testing.assert_array_equal(short[0].last_value, short[1].value[0])


def test_truncated_slots_carry_the_value_of_what_they_saw_last() -> None:
    overrides = ["env.max_steps=5", "env.max_steps_without_food=0", "algorithm.ticks=12"]
    (rollout,) = collect(1, *overrides)
    assert rollout.truncated.any()
    assert (rollout.final_value[~rollout.truncated] == 0).all()
    settings = small_settings(*overrides)
    learner = build_learner(settings, policy_spec(settings, build_worlds(settings, 1, 0).spec))
    policy = build_acting_policy(settings, learner)
    learner.close()
    seed = derive_seed(settings.seed, "worlds")
    for slot in range(rollout.action.shape[1]):
        game = SnakeWorld(SnakeSettings(max_steps=5, max_steps_without_food=0), seed, slot)
        for tick in range(rollout.action.shape[0]):
            over = game.step([int(rollout.action[tick, slot])]).over
            if rollout.truncated[tick, slot]:
                assert rollout.final_value[tick, slot] == policy.values(game.observe(0)[None])[0]
            if over:
                game = SnakeWorld(game.settings, seed, slot, game.episode + 1)


def test_complete_episodes_are_complete_and_the_first_of_each_slot() -> None:
    first, second = collect(2, "algorithm.id=reinforce", "algorithm.max_episode_ticks=400")
    for rollout in (first, second):
        ended = rollout.terminated | rollout.truncated
        assert (ended.sum(dim=0) == 1).all()
        ends = ended.int().argmax(dim=0)
        for slot, end in enumerate(ends.tolist()):
            assert rollout.active[: end + 1, slot].all()
            assert not rollout.active[end + 1 :, slot].any()
    assert not torch.equal(first.observation[0], second.observation[0])  # the next episodes, not the same again


def test_episodes_that_do_not_end_in_time_are_cut() -> None:
    settings = small_settings("algorithm.id=reinforce", "algorithm.max_episode_ticks=3", "env.food=150")
    collector = build_collector(settings)
    learner = build_learner(settings, policy_spec(settings, collector.batches[0].spec))
    rollout = as_tensors(collector.collect(build_acting_policy(settings, learner), 0, lambda _: False))
    eaten = rollout.reward.clamp(min=0).sum(dim=0)
    assert eaten.max() > 1
    np.testing.assert_array_equal(collector.buffer.metrics["food"][:3].sum(axis=0), eaten)
    collector.close()
    learner.close()
    assert rollout.action.shape[0] == 3
    assert (rollout.terminated | rollout.truncated).any(dim=0).all()
    assert rollout.truncated[2].sum() > 12
