"""Actions of several whole numbers, end to end: learnt to the optimum, here and over services, and replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import MultiDiscrete
from onnxruntime import InferenceSession

import rattle
from rattle.analytics.replay.episodes import load_episode
from rattle.analytics.replay.views import view_of
from rattle.analytics.run_directory import RunDirectory
from rattle.policies.errors import PolicyError
from rattle.policies.file import load_policy
from rattle.policies.onnx import export_onnx
from rattle.rollouts.complete import complete
from rattle.trainer.train import train
from tests.envs.combination_lock import COMBINATIONS, TICKS, CombinationLock
from tests.services.cluster import Cluster
from tests.trainer.conftest import Silence, read_rows, small_settings

LOCK = (
    "env={id: 'tests.envs.combination_lock:CombinationLock', worlds: 8}",
    "policy.hidden_sizes=[16]",
    "train.steps=14000",
    "record.every_episodes=50",
)
CLOCKS = ("time", "seconds", "env_steps_per_second", "run_id")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("several") / "here"
    train(complete(small_settings(*LOCK)), folder, Silence())
    return RunDirectory(folder)


def test_the_best_actions_are_learnt(run: RunDirectory) -> None:
    policy = rattle.load_policy(run.path)
    locks = np.arange(len(COMBINATIONS))[:, None]
    np.testing.assert_array_equal(policy.act(locks, greedy=True), COMBINATIONS)
    np.testing.assert_array_equal(policy.act(locks[2], greedy=True), COMBINATIONS[2])
    found = rattle.evaluate(policy, 20, greedy=True)
    assert (found.total_reward == TICKS).all()


@pytest.mark.whole(suite="slow")
def test_services_learn_the_same(run: RunDirectory, tmp_path: Path) -> None:
    with Cluster(tmp_path / "there", "record.every_episodes=2", *LOCK, envs=2) as cluster:
        cluster.wait_for(lambda status: status.status == "finished")
    other = RunDirectory(tmp_path / "there")
    assert other.policy.read_bytes() == run.policy.read_bytes()
    for table in ("episodes", "updates"):
        assert read_rows(other, table, *CLOCKS) == read_rows(run, table, *CLOCKS)


def test_recorded_steps_hold_every_number(run: RunDirectory) -> None:
    rows = rattle.find_run(run.path).query("SELECT action, action_row, observation, reward FROM steps").to_pylist()
    assert rows
    for row in rows:
        lock = COMBINATIONS[int(row["observation"][0])]
        assert row["action"] is None
        assert row["reward"] == pytest.approx((np.array(row["action_row"]) == lock).mean())


def test_a_replay_has_a_strip_for_each_number(run: RunDirectory) -> None:
    view = view_of(load_episode(run), 0)
    assert "action 2" in view.text(view.frames - 1).plain


def test_the_exported_model_gives_the_logits_of_every_number(run: RunDirectory) -> None:
    session = InferenceSession(export_onnx(load_policy(run.policy.read_bytes())), providers=["CPUExecutionProvider"])
    [logits] = session.run(["logits"], {"observation": np.arange(4, dtype=np.uint8)[:, None]})
    best = np.stack([own.argmax(axis=1) for own in np.split(logits, [3, 5], axis=1)], axis=1)
    np.testing.assert_array_equal(best, COMBINATIONS)


def test_a_policy_of_other_sizes_is_refused(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CombinationLock, "action_space", MultiDiscrete([2, 3, 4]))
    with pytest.raises(
        PolicyError, match=r"below \[3, 2, 4\], and .* takes whole numbers from 0 on, below \[2, 3, 4\]"
    ):
        rattle.evaluate(rattle.load_policy(run.path), 2)
