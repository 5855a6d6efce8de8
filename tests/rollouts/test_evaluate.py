from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.seeds import derive_seed
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.rollouts.evaluate import evaluate
from rattle.runs.progress import Summary
from rattle.settings.errors import SettingsError

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]


def trained(train_small: TrainSmall, *overrides: str) -> StoredPolicy:
    _, directory = train_small(*overrides)
    return load_policy(directory.policy.read_bytes())


@pytest.mark.parametrize(("num_snakes", "greedy"), [(1, False), (1, True), (2, False)])
def test_an_evaluation_is_what_the_plain_rules_give(train_small: TrainSmall, num_snakes: int, greedy: bool) -> None:
    policy = trained(train_small, f"env.num_snakes={num_snakes}")
    found = evaluate(policy, 4, seed=9, greedy=greedy)
    acting = ActingPolicy(policy.spec, policy.parameters, derive_seed(9, "evaluation actions"))
    action, log_prob, value = np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, np.float32)
    for world in range(4):
        config = SnakeSettings(num_snakes=num_snakes)
        game = SnakeWorld(config, derive_seed(9, "evaluation worlds"), world)
        total, over = [0.0] * num_snakes, False
        while not over:
            actions = []
            for agent in range(num_snakes):
                where = {"tick": game.tick, "first_slot": world * num_snakes + agent, "greedy": greedy}
                acting.act(game.observe(agent)[None], **where, action=action, log_prob=log_prob, value=value)
                actions.append(int(action[0]))
            result = game.step(actions)
            total = [before + reward for before, reward in zip(total, result.rewards, strict=True)]
            over = result.over
        slots = slice(world * num_snakes, (world + 1) * num_snakes)
        assert found.total_reward[slots].tolist() == total
        assert found.metrics["food"][slots].tolist() == [snake.food_eaten for snake in game.snakes]
        assert found.length[slots].max() == game.tick


def test_worlds_are_fresh_and_decided_by_the_seed(train_small: TrainSmall) -> None:
    policy = trained(train_small)
    one, again, other = (evaluate(policy, 30, seed=seed, greedy=False) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.length, again.length)
    assert one.length.tolist() != other.length.tolist()
    assert derive_seed(0, "evaluation worlds") != derive_seed(0, "worlds")


def test_the_summary_has_means_and_spread(train_small: TrainSmall) -> None:
    found = evaluate(trained(train_small), 30, seed=1, greedy=False)
    summary = found.summary()
    assert summary["episodes"] == 30
    assert summary["mean_food"] == pytest.approx(np.mean(found.metrics["food"]))
    assert summary["std_length"] == pytest.approx(np.std(found.length))
    assert summary["min_return"] <= summary["mean_return"] <= summary["max_return"]


def test_an_environment_without_metrics_has_none(train_small: TrainSmall) -> None:
    policy = trained(train_small, "env={id: 'gym:CartPole-v1', worlds: 4}", "train.steps=500")
    summary = evaluate(policy, 5, seed=1, greedy=True).summary()
    assert "mean_food" not in summary
    assert summary["environment"] == "gym:CartPole-v1"
    assert summary["mean_return"] == summary["mean_length"]


def test_a_policy_from_a_stranger_names_no_module_to_import(train_small: TrainSmall) -> None:
    policy = trained(train_small, "env={id: 'gym:CartPole-v1', worlds: 4}", "train.steps=500")
    with pytest.raises(SettingsError, match=r"the module 'this', .*: trust it with --env gym:this:CartPole-v1"):
        evaluate(replace(policy, environment="gym:this:CartPole-v1"), 2, seed=0, greedy=False)
    assert "this" not in sys.modules


def test_an_environment_that_only_a_server_knows_is_asked_for_there(train_small: TrainSmall) -> None:
    policy = replace(trained(train_small), environment="tower-of-tests")
    with pytest.raises(SettingsError, match=r"unknown environment 'tower-of-tests'.* give its address with --url"):
        evaluate(policy, 2, seed=0, greedy=False)


def test_a_policy_is_played_in_the_environment_that_is_named_if_it_fits(train_small: TrainSmall) -> None:
    policy = trained(train_small, "env={id: 'gym:CartPole-v1', worlds: 4}", "train.steps=500")
    found = evaluate(policy, 3, seed=1, greedy=False, environment="gym:CartPole-v0")
    assert found.environment == "gym:CartPole-v0"
    assert found.length.max() <= 200
    with pytest.raises(PolicyError, match=r"acts with whole numbers from 0 to 1, and gym:MountainCar-v0 takes .* to 2"):
        evaluate(policy, 3, seed=1, greedy=False, environment="gym:MountainCar-v0")


def test_episodes_that_go_on_for_too_long_are_cut_and_counted(train_small: TrainSmall) -> None:
    policy = trained(train_small)
    ticks: list[tuple[int, float]] = []
    cut = evaluate(policy, 6, seed=1, greedy=False, max_ticks=2, watch=lambda tick, ended: ticks.append((tick, ended)))
    assert [tick for tick, _ in ticks] == [1, 2]
    assert cut.cut_episodes == 6 - round(6 * ticks[-1][1])
    assert cut.summary()["cut_episodes"] == cut.cut_episodes > 0
    assert cut.length.max() == 2
    assert evaluate(policy, 6, seed=1, greedy=False).cut_episodes == 0


@pytest.mark.parametrize("url", ["http://anna:hidden@host:port", "ftp://anna:hidden@host", "anna:hidden@host"])
def test_a_wrong_address_of_a_server_shows_no_password(train_small: TrainSmall, url: str) -> None:
    policy = trained(train_small)
    with pytest.raises(SettingsError, match="host") as caught:
        evaluate(policy, 1, seed=0, greedy=False, url=url)
    assert "hidden" not in str(caught.value)
