"""Snake behind Gymnasium's interfaces does what Gymnasium's own tools expect."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.registration import SNAKE_ID
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.gymnasium_env import SnakeEnv, SnakeVectorEnv
from rattle.envs.snake.settings import SnakeSettings

SHORT_LIVES = {"width": 6, "height": 6, "vision_radius": 3, "max_steps": 30}


def plays(ticks: int, slots: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).choice(3, size=(ticks, slots), p=[0.6, 0.2, 0.2])


@pytest.mark.parametrize("settings", [{}, {"width": 20, "vision_radius": 2, "rewards": {"alive": 0.1}}])
def test_gymnasiums_checker_passes(settings: dict[str, Any]) -> None:
    check_env(gymnasium.make(SNAKE_ID, **settings).unwrapped)


def test_batch_reports_what_sync_vector_env_does() -> None:
    batch = SnakeVectorEnv(num_envs=5, **SHORT_LIVES)
    single = SyncVectorEnv(
        [lambda world=world: SnakeEnv(world=world, **SHORT_LIVES) for world in range(5)],  # type: ignore[misc]
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert batch.metadata["autoreset_mode"] == single.metadata["autoreset_mode"]
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    assert data_equivalence(batch.reset(seed=3), single.reset(seed=[3] * 5), exact=True)
    ends = 0
    for action in plays(200, 5):
        observed, reward, terminated, truncated, infos = batch.step(action)
        expected = single.step(action)
        assert data_equivalence((observed, terminated, truncated), (expected[0], *expected[2:4]), exact=True)
        np.testing.assert_array_equal(reward, expected[1])
        assert data_equivalence(infos, expected[4], exact=True)
        ends += int((terminated | truncated).sum())
    assert ends > 20


def test_make_plays_world_0_of_make_vec() -> None:
    one = gymnasium.make(SNAKE_ID, **SHORT_LIVES)
    batch = gymnasium.make_vec(SNAKE_ID, num_envs=3, **SHORT_LIVES)
    np.testing.assert_array_equal(one.reset(seed=9)[0], batch.reset(seed=9)[0][0])
    for action in plays(150, 3):
        observation, reward, terminated, truncated, _ = one.step(action[0])
        observations, rewards, *ends, _ = batch.step(action)
        assert (reward, terminated, truncated) == (rewards[0], ends[0][0], ends[1][0])
        if terminated or truncated:
            observation, _ = one.reset()
        np.testing.assert_array_equal(observation, observations[0])


def test_single_environment_waits_for_reset() -> None:
    env = SnakeEnv(max_steps=1)
    with pytest.raises(EnvError, match="call reset"):
        env.step(np.int64(0))
    env.reset(seed=1)
    *_, truncated, info = env.step(np.int64(0))
    assert truncated
    assert info == {"food": 0}
    with pytest.raises(EnvError, match="call reset"):
        env.step(np.int64(0))
    env.reset()
    env.reset()
    assert env._world.worlds.episode[0] == 2  # the second reset gave up an episode that nobody had played


def test_resets_without_a_seed() -> None:
    first, other = SnakeVectorEnv(num_envs=8), SnakeVectorEnv(num_envs=8)
    assert not np.array_equal(first.reset()[0], other.reset()[0])
    assert 0 <= first.worlds.seed == first.np_random_seed
    seed = first.worlds.seed
    first.reset()
    assert first.worlds.seed == seed
    assert first.worlds.episode.tolist() == [1] * 8


def test_several_snakes_share_a_world() -> None:
    envs = SnakeVectorEnv(num_envs=6, num_snakes=3, width=8, height=8, vision_radius=2)
    worlds = SnakeWorlds(SnakeSettings(num_snakes=3, width=8, height=8, vision_radius=2), 2, seed=4)
    _, infos = envs.reset(seed=4)
    assert infos["active"].all()
    died_alone = 0
    for action in plays(300, 6):
        worlds.step(action)
        observed, reward, terminated, truncated, infos = envs.step(action)
        np.testing.assert_array_equal(observed, worlds.observation)
        np.testing.assert_array_equal(reward, worlds.reward)
        np.testing.assert_array_equal(infos["active"], worlds.active)
        assert infos["_active"].all()
        done = terminated | truncated
        assert ("final_obs" in infos) == done.any()
        for slot in np.flatnonzero(done):
            over = worlds.active[slot]
            expected = worlds.final_observation[slot] if over else np.zeros_like(observed[slot])
            np.testing.assert_array_equal(infos["final_obs"][slot], expected)
            assert infos["final_info"]["food"][slot] == worlds.final_metrics["food"][slot]
            died_alone += not over
    assert died_alone > 10


@pytest.mark.parametrize("copy", [True, False])
def test_outputs_are_the_users_own_unless_asked_otherwise(copy: bool) -> None:
    envs = SnakeVectorEnv(num_envs=4, num_snakes=2, copy=copy)
    observation, infos = envs.reset(seed=0)
    outputs = envs.step(np.zeros(4, np.int64))
    handed_out = [observation, *outputs[:4], infos["active"], outputs[4]["active"]]
    worlds = envs.worlds
    kept = [worlds.observation, worlds.observation, worlds.reward, worlds.terminated, worlds.truncated]
    kept += [worlds.active, worlds.active]
    assert [np.shares_memory(a, b) for a, b in zip(handed_out, kept, strict=True)] == [not copy] * 7


def test_final_observations_outlive_the_next_step() -> None:
    envs = SnakeVectorEnv(num_envs=2, copy=False, max_steps=1)
    envs.reset(seed=0)
    *_, infos = envs.step(np.zeros(2, np.int64))
    before = [row.copy() for row in infos["final_obs"]]
    envs.step(np.ones(2, np.int64))
    np.testing.assert_array_equal(np.stack(before), np.stack(infos["final_obs"]))


def test_gymnasiums_vector_wrappers_work() -> None:
    envs = RecordEpisodeStatistics(SnakeVectorEnv(num_envs=3, **SHORT_LIVES))
    envs.reset(seed=1)
    returns = np.zeros(3)
    recorded = 0
    for action in plays(100, 3):
        _, reward, terminated, truncated, infos = envs.step(action)
        returns += reward
        done = terminated | truncated
        if done.any():
            np.testing.assert_allclose(infos["episode"]["r"][done], returns[done])
            recorded += int(done.sum())
        returns[done] = 0
    assert envs.episode_count == recorded > 5

    listed = DictInfoToList(SnakeVectorEnv(num_envs=2, max_steps=1))
    listed.reset(seed=0)
    assert listed.step(np.zeros(2, np.int64))[4][1]["final_info"] == {"food": 0}


def test_any_integer_actions_will_do() -> None:
    envs = SnakeVectorEnv(num_envs=4)
    envs.reset(seed=0)
    for actions in (envs.action_space.sample(), np.zeros(4, np.uint8), np.zeros(8, np.int32)[::2], [0, 1, 2, 0]):
        envs.step(actions)  # type: ignore[arg-type]


@pytest.mark.parametrize("actions", [np.zeros(4), np.zeros(3, np.int64), np.full(4, 3), np.zeros(4, np.bool_)])
def test_wrong_actions_are_refused(actions: NDArray[Any]) -> None:
    envs = SnakeVectorEnv(num_envs=4)
    envs.reset(seed=0)
    with pytest.raises(EnvError, match="action must"):
        envs.step(actions)


def test_no_step_before_the_first_reset() -> None:
    with pytest.raises(EnvError, match="call reset"):
        SnakeVectorEnv().step(np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 4, "num_snakes": 3}, "multiple of 3, got 4"),
        ({"num_envs": 0}, "multiple of 1, got 0"),
        ({"width": 2}, "width: .* got 2"),
        ({"render_mode": "human"}, "choose 'ansi' or 'rgb_array'"),
    ],
)
def test_bad_batches_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        SnakeVectorEnv(**arguments)


def test_a_gymnasium_env_holds_one_snake() -> None:
    with pytest.raises(EnvError, match="make_vec"):
        SnakeEnv(num_snakes=2)


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ({"seed": [1, 2]}, "one seed"),
        ({"seed": -1}, "whole number from 0"),
        ({"options": {"reset_mask": np.ones(2, np.bool_)}}, "SAME_STEP"),
    ],
)
def test_bad_resets_are_refused(reset: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        SnakeVectorEnv(num_envs=2).reset(**reset)


def test_rendering() -> None:
    single = SnakeEnv(render_mode="rgb_array", max_steps=1)
    single.reset(seed=0)
    before = single.render()
    assert (before.dtype, before.shape) == (np.uint8, (240, 240, 3))
    single.step(np.int64(0))
    np.testing.assert_array_equal(single.render(), before)  # the episode is over: the last that stood
    single.reset()
    assert not np.array_equal(single.render(), before)

    batch = SnakeVectorEnv(num_envs=4, num_snakes=2, render_mode="ansi")
    batch.reset(seed=0)
    frames = batch.render()
    assert frames is not None
    assert [type(frame) for frame in frames] == [str, str]

    for silent in (SnakeEnv(), SnakeVectorEnv(num_envs=2)):
        silent.reset(seed=0)
        with pytest.warns(UserWarning, match="render mode") as warned:
            assert silent.render() is None
        assert len(warned) == 1
