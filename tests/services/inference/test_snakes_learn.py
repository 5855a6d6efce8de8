"""Snakes that are played by the agent API learn: Env, Training and Inference services, each a process of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from tests.services.cluster import Cluster
from tests.trainer.conftest import read_rows

pytestmark = pytest.mark.integration

BOARD = ("env.width=6", "env.height=6", "env.vision_radius=4", "env.max_steps_without_food=30")
AGENTS = ("inference.api=agent", "env_service.clock=turns", "env_service.turn_seconds=600")


@pytest.mark.whole(suite="slow")
def test_snakes_in_worlds_of_their_own_learn_in_mode_async(tmp_path: Path) -> None:
    alone = ("inference.snakes=2", "env_service.snakes=1")
    learn = ("training.mode=async", "algorithm.learning_rate=0.003", "train.steps=30000")
    with Cluster(tmp_path, *BOARD, *AGENTS, *alone, *learn, envs=2) as cluster:
        cluster.wait_for(lambda status: status.status == "finished", 240)
    updates, episodes = read_rows(cluster.run, "updates"), read_rows(cluster.run, "episodes")
    returns = [episode["return"] for episode in episodes]
    assert mean(returns[-100:]) > mean(returns[:100]) + 3
    assert sum(episode["length"] for episode in episodes) == updates[-1]["env_steps"] >= 30000
    assert {episode["world"] for episode in episodes} == {0, 1}
    assert sum(episode["metrics"]["food"] for episode in episodes) > 3 * len(episodes)
    assert max(update["max_policy_age"] for update in updates) <= 4


def test_in_mode_on_policy_every_update_learns_from_one_life_of_every_snake(tmp_path: Path) -> None:
    together = ("inference.snakes=3", "env_service.snakes=3", "env.num_snakes=3", "env.width=12", "env.height=12")
    learn = ("algorithm.id=reinforce", "algorithm.max_episode_ticks=50", "train.steps=1500")
    with Cluster(tmp_path, *BOARD, *AGENTS, *together, *learn) as cluster:
        cluster.wait_for(lambda status: status.status == "finished", 240)
    updates, episodes = read_rows(cluster.run, "updates"), read_rows(cluster.run, "episodes")
    assert len(updates) >= 10
    lives = Counter((episode["policy_version"], episode["world"]) for episode in episodes)
    assert lives == {(update["policy_version"] - 1, snake): 1 for update in updates for snake in range(3)}
    assert all(update["policy_age"] == 0 for update in updates)
    assert max(episode["length"] for episode in episodes) <= 50
