"""The client for other trainers is a proper Gymnasium vector environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from rattle.clients.remote_vector_env import RemoteVectorEnv
from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_worlds import GymnasiumWorlds
from rattle.envs.snake.gymnasium_env import SnakeVectorEnv
from tests.processes import ServiceProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServiceProcess]:
    with ServiceProcess("env", settings=("env.num_snakes=2", "env.max_steps=25")) as process:
        yield process


@pytest.mark.parametrize(("sessions", "websocket"), [(1, True), (3, True), (2, False)])
def test_it_is_the_vector_environment_of_this_process(server: ServiceProcess, sessions: int, websocket: bool) -> None:
    remote = RemoteVectorEnv(server.url, 14, sessions=sessions, websocket=websocket)
    here = SnakeVectorEnv(14, num_snakes=2, max_steps=25)
    assert isinstance(remote, VectorEnv)
    assert remote.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert remote.single_observation_space == here.single_observation_space
    assert remote.action_space == here.action_space
    draw = np.random.default_rng(0)
    answers = zip((remote.reset(seed=4), remote.reset()), (here.reset(seed=4), here.reset()), strict=True)
    for (seen, infos), (expected, expected_infos) in answers:
        np.testing.assert_array_equal(seen, expected)
        np.testing.assert_array_equal(infos["active"], expected_infos["active"])
    ends = 0
    for _ in range(80):
        action = draw.integers(0, 3, 14)
        *arrays, infos = remote.step(action)
        *expected_arrays, expected_infos = here.step(action)
        for array, wanted in zip(arrays, expected_arrays, strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)
        assert infos.keys() == expected_infos.keys()
        for seen, wanted in zip(infos.pop("final_obs", ()), expected_infos.pop("final_obs", ()), strict=True):
            np.testing.assert_equal(seen, wanted)
            ends += wanted is not None
        np.testing.assert_equal(infos, expected_infos)
    assert ends > 3
    remote.close()


def test_real_numbers_steer_a_servers_worlds_as_gymnasium_has_them() -> None:
    here = GymnasiumWorlds("Pendulum-v1", num_worlds=4, seed=4)
    process = ServiceProcess("env", settings=("env.id=gym:Pendulum-v1",))
    with process, closing(RemoteVectorEnv(process.url, 4, sessions=2)) as remote:
        assert remote.single_action_space == gymnasium.spaces.Box(-2, 2, (1,), np.float32)
        remote.reset(seed=4)
        remote.action_space.seed(0)
        for number in range(5):
            action = remote.action_space.sample() * (1 + number)
            seen, reward, *_ = remote.step(action.astype(np.float64))  # as trainers hand it out
            here.step(action)
            np.testing.assert_array_equal(seen, here.observation)
            np.testing.assert_array_equal(reward, here.reward)
        with pytest.raises(EnvError, match="finite numbers"):
            remote.step(np.full((4, 1), 1e300))


def test_outputs_are_the_users_own_unless_asked_otherwise(server: ServiceProcess) -> None:
    for copy in (True, False):
        remote = RemoteVectorEnv(server.url, 4, copy=copy)
        first, _ = remote.reset(seed=1)
        kept = first.copy()
        remote.step(np.zeros(4, np.int64))
        assert np.array_equal(first, kept) is copy
        remote.close()


def test_gymnasium_wrappers_go_round_it(server: ServiceProcess) -> None:
    # One snake a world: the wrapper would count the ticks that a dead snake waits for the other as its next episode's.
    wrapped = RecordEpisodeStatistics(RemoteVectorEnv(server.url, 4, options={"num_snakes": 1}))
    with closing(wrapped):
        wrapped.reset(seed=0)
        draw = np.random.default_rng(0)
        lengths: list[int] = []
        for _ in range(60):
            infos = wrapped.step(draw.integers(0, 3, 4))[-1]
            lengths += infos["episode"]["l"][infos["_episode"]].tolist() if "episode" in infos else []
    assert lengths
    assert max(lengths) <= 25


def test_what_a_user_gets_wrong(server: ServiceProcess) -> None:
    with pytest.raises(EnvError, match="multiple of 2"):
        RemoteVectorEnv(server.url, 3)
    with pytest.raises(EnvError, match="sessions"):
        RemoteVectorEnv(server.url, 4, sessions=3)
    env = RemoteVectorEnv(server.url, 4)
    with pytest.raises(EnvError, match="reset"):
        env.step(np.zeros(4, np.int64))
    env.reset(seed=0)
    for action in (np.zeros(3, np.int64), np.full(4, 3), np.zeros(4)):
        with pytest.raises(EnvError, match="action"):
            env.step(action)
    env.close()


@pytest.mark.parametrize("sessions", [1, 2])
def test_a_lost_server_shows_as_truncated_episodes(sessions: int) -> None:
    with ServiceProcess("env") as server:
        env = RemoteVectorEnv(server.url, 6, sessions=sessions)
        env.reset(seed=2)
        seen = env.step(np.zeros(6, np.int64))[0]
        server.kill()
        back = threading.Timer(0.3, server.start)
        back.start()
        observation, reward, terminated, truncated, infos = env.step(np.ones(6, np.int64))
        back.join()
        assert truncated.all()
        assert infos["lost"].all()
        assert not terminated.any()
        assert not reward.any()
        np.testing.assert_array_equal(np.stack(infos["final_obs"]), seen)
        assert not np.array_equal(observation, seen)
        *_, truncated, infos = env.step(np.zeros(6, np.int64))
        assert not truncated.any()
        assert "lost" not in infos
        env.close()
