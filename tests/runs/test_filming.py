"""Recorded episodes are played again, and drawn by their environments where these do the same once more."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rattle.analytics.replay.episodes import AgentSteps, Episode, EpisodeSummary
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.registry import make_worlds
from rattle.envs.seeds import derive_seed
from rattle.runs.errors import RunError
from rattle.runs.filming import film, save_replay
from tests.analytics.build import make_run
from tests.trainer.conftest import rattle
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

DRAWN = """
    import random

    import gymnasium
    import numpy as np
    from gymnasium.spaces import Box, Discrete
    from pettingzoo import ParallelEnv

    class Drawn(gymnasium.Env):
        "Draws what it has drawn from its seed, its ticks, and the last action."

        metadata = {"render_modes": ["rgb_array"]}
        observation_space, action_space = Box(0, 255, (2,)), Discrete(3, start=1)

        def __init__(self, render_mode=None, kind=""):
            self.render_mode, self.kind = render_mode, kind

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.ticks, self.last = 0, 0
            self.luck = random.randrange(255) if self.kind == "moody" else self.np_random.integers(255)
            return self._see(), {}

        def step(self, action):
            self.ticks, self.last = self.ticks + 1, int(abs(np.sum(action))) % 4
            return self._see(), float(self.last), self.ticks >= 6 + self.luck % 2, False, {}

        def _see(self):
            return np.array([self.luck, self.ticks], np.float32)

        def render(self):
            if self.kind == "blind":
                raise OSError("no display")
            if self.kind == "words" or self.render_mode is None:
                return "a picture"
            picture = np.zeros((6, 9 + (self.ticks if self.kind == "growing" else 0), 3), np.uint8)
            picture[:, :3], picture[:, 3:6], picture[:, 6:9] = self.luck, 20 * self.ticks, 60 * self.last
            return picture

    class Pushed(Drawn):
        "Takes real numbers."

        action_space = Box(-1, 1, (2,))

    class Plain(Drawn):
        "Has no render mode."

        def __init__(self, kind=""):
            super().__init__(None, kind)

    class Pair(ParallelEnv):
        metadata = {"name": "pair"}
        possible_agents = ["one", "other"]

        def __init__(self, render_mode=None):
            self.render_mode, self.inner = render_mode, Drawn(render_mode)

        def observation_space(self, agent):
            return self.inner.observation_space

        def action_space(self, agent):
            return self.inner.action_space

        def reset(self, seed=None, options=None):
            self.agents = list(self.possible_agents)
            seen, _ = self.inner.reset(seed=seed)
            return dict.fromkeys(self.agents, seen), dict.fromkeys(self.agents, {})

        def step(self, actions):
            seen, reward, over, *_ = self.inner.step(sum(actions.values()))
            acting, self.agents = self.agents, [] if over else self.agents[:1]  # the other leaves at once
            return tuple(dict.fromkeys(acting, each) for each in (seen, reward, over, not over, {}))

        def render(self):
            return self.inner.render()
"""


@pytest.fixture(autouse=True)
def drawn(user_module: UserModule) -> None:
    user_module("drawn", DRAWN)


def recorded(run: RunDirectory, env: dict[str, Any], world_episode: int = 3) -> Episode:
    """Play an episode of the first world of a run of seed 1, as the run would, and record it."""
    own = {key: value for key, value in env.items() if key != "id"}
    worlds = make_worlds(env["id"], own, 1, derive_seed(1, "worlds"))
    random, rows = np.random.default_rng(2), list[Any]()
    while worlds.episode[0] <= world_episode:
        action = worlds.spec.action_space.draw(random, worlds.num_slots)
        number, seen, active = int(worlds.episode[0]), worlds.observation.copy(), worlds.active.copy()
        worlds.step(action)
        if number == world_episode:
            rows.append((seen, active, action, worlds.reward.copy()))
    agents = {}
    for agent in range(worlds.num_slots):
        acted = np.array([tick for tick, (_, active, *_) in enumerate(rows) if active[agent]])
        numbers = np.zeros(len(acted), np.float32)
        reward = np.array([rows[tick][3][agent] for tick in acted])
        agents[agent] = AgentSteps(
            tick=acted,
            observation=np.array([rows[tick][0][agent] for tick in acted]),
            action=np.array([rows[tick][2][agent] for tick in acted]),
            reward=reward,
            log_prob=numbers,
            value=numbers,
            policy_version=acted,
            terminated=True,
        )
    summary = EpisodeSummary(0, world_episode, len(agents), len(rows), 0.0, 1)
    return Episode(run.path.name, summary, env, [{}] * len(rows), agents, [summary])


def run_of(folder: Path, env: dict[str, Any]) -> tuple[RunDirectory, Episode]:
    run = make_run(folder, env=env)
    return run, recorded(run, env)


@pytest.mark.parametrize("name", ["Drawn", "Pushed", "Pair"])
def test_an_episode_is_drawn_as_it_went(tmp_path: Path, name: str) -> None:
    run, episode = run_of(tmp_path, {"id": f"drawn:{name}"})
    pictures = list(film(run, episode))
    assert len(pictures) == episode.summary.ticks + 1
    luck = int(episode.agents[0].observation[0, 0])
    assert [int(picture[0, 0, 0]) for picture in pictures] == [luck] * len(pictures)
    assert [int(picture[0, 3, 0]) for picture in pictures] == [20 * tick for tick in range(len(pictures))]
    if name == "Drawn":
        told = [0, *(int(action) + 1 for action in episode.agents[0].action)]
        assert [int(picture[0, 6, 0]) for picture in pictures] == [60 * last for last in told]
    assert len({picture.shape for picture in pictures}) == 1


def test_wrappers_are_played_again_too(tmp_path: Path) -> None:
    wrappers = [{"use": "TimeLimit", "max_episode_steps": 4}]
    run, episode = run_of(tmp_path, {"id": "drawn:Drawn", "wrappers": wrappers})
    assert len(list(film(run, episode))) == 5


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"id": "drawn:Drawn", "kind": "moody"}, "episode 0-3 took another course at tick 0 .*'drawn:Drawn' is not"),
        ({"id": "drawn:Drawn", "kind": "blind"}, "'drawn:Drawn', world 0: render raised OSError: no display"),
        (
            {"id": "drawn:Drawn", "kind": "words"},
            r"'drawn:Drawn' draws str, where uint8 \(height, width, 3\) is wanted",
        ),
        ({"id": "drawn:Plain"}, "no pictures can be drawn: .*unknown key 'render_mode'"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line_and_curves_are_drawn(
    tmp_path: Path, env: dict[str, Any], said: str
) -> None:
    run, episode = run_of(tmp_path, env)
    with pytest.raises(RunError if env.get("kind") != "blind" else Exception, match=said) as caught:
        film(run, episode)
    assert "\n" not in str(caught.value)
    assert save_replay(run, episode, tmp_path / "replay.gif") == str(caught.value)
    with Image.open(tmp_path / "replay.gif") as gif:
        assert gif.n_frames == episode.summary.ticks + 1


def test_an_episode_of_other_actions_or_a_changed_length_is_not_drawn(tmp_path: Path) -> None:
    run, episode = run_of(tmp_path, {"id": "drawn:Drawn"})
    _, other = run_of(tmp_path / "other", {"id": "drawn:Pushed"})
    with pytest.raises(RunError, match="the recorded actions are none of 'drawn:Drawn' as it is now"):
        film(run, other)
    ticks = episode.summary.ticks
    steps = episode.agents[0]
    steps.observation[-1] += 1
    with pytest.raises(RunError, match=f"took another course at tick {ticks - 1} when it was played again"):
        film(run, episode)


def test_large_observations_are_not_recorded_and_rewards_tell_the_same(tmp_path: Path) -> None:
    run, episode = run_of(tmp_path, {"id": "drawn:Drawn"})
    steps = replace(episode.agents[0], observation=np.zeros((episode.summary.ticks, 0), np.float32))
    unseen = replace(episode, agents={0: steps})
    assert len(list(film(run, unseen))) == episode.summary.ticks + 1
    steps.reward[1] += 1
    with pytest.raises(RunError, match="took another course at tick 2 when it was played again"):
        film(run, unseen)


def test_pictures_of_different_sizes_write_no_file(tmp_path: Path) -> None:
    run, episode = run_of(tmp_path, {"id": "drawn:Drawn", "kind": "growing"})
    with pytest.raises(RunError, match="draws pictures of different sizes"):
        save_replay(run, episode, tmp_path / "replay.gif")
    assert not (tmp_path / "replay.gif").exists()


def test_pictures_are_written_as_mp4(tmp_path: Path) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    run, episode = run_of(tmp_path, {"id": "drawn:Drawn"})
    assert save_replay(run, episode, tmp_path / "replay.mp4") is None
    assert (tmp_path / "replay.mp4").stat().st_size > 500


def test_a_run_is_trained_and_its_pictures_are_written(tmp_path: Path) -> None:
    set_ = ("env.id=drawn:Drawn", "env.worlds=2", "policy.hidden_sizes=[4]", "record.every_episodes=1")
    flags = [word for one in (*set_, "algorithm={id: a2c, ticks: 16}") for word in ("--set", one)]
    trained = rattle("train", *flags, "--steps", "96", "--run-dir", tmp_path / "run", cwd=Path.cwd())
    assert trained.returncode == 0, trained.stderr
    shown = rattle("replay", tmp_path / "run", "--gif", "--episode", "0-2", cwd=Path.cwd())
    assert (shown.returncode, shown.stderr) == (0, "")
    with Image.open(tmp_path / "run" / "replay.gif") as gif:
        assert gif.n_frames in (7, 8)
        assert gif.size == (9, 6)
        for frame in range(gif.n_frames):
            gif.seek(frame)
            assert gif.convert("RGB").getpixel((3, 0)) == (20 * frame,) * 3
