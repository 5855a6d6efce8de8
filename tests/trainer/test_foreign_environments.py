"""Environments of other packages are trained in, resumed and evaluated by the commands that snake is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.python import Run
from rattle.text import with_article
from tests.processes import ServiceProcess
from tests.trainer.conftest import last_json, rattle, read_rows

SNAKE = "pettingzoo:rattle.envs.snake.pettingzoo_env"
SMALL = ["--set", "env.worlds=8", "--set", "policy.hidden_sizes=[16]", "--json"]


def test_a_pettingzoo_module_is_trained_by_its_name(tmp_path: Path) -> None:
    own = ["--set", f"env.id={SNAKE}", "--set", "env.num_snakes=3", *SMALL]
    trained = rattle("train", *own, "--steps", 2000, "--run-dir", "whole", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    whole = last_json(trained.stdout)
    assert whole["episodes"] > 3

    rattle("train", *own, "--steps", 700, "--run-dir", "pieces", cwd=tmp_path)
    resumed = rattle("train", "--resume", "pieces", "--steps", 2000, "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert last_json(resumed.stdout)["policy_sha256"] == whole["policy_sha256"]

    evaluated = rattle("eval", "whole", "--episodes", 4, "--json", cwd=tmp_path)
    assert last_json(evaluated.stdout)["environment"] == SNAKE


@pytest.mark.integration
def test_a_policy_from_a_stranger_gets_no_pettingzoo_module_imported(tmp_path: Path) -> None:
    (tmp_path / "party.py").write_text("from rattle.envs.snake.pettingzoo_env import parallel_env as parallel_env\n")
    own = ["--set", "env.id=pettingzoo:party", *SMALL]
    trained = rattle("train", *own, "--steps", 300, "--run-dir", "run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert trained.returncode == 0, trained.stderr
    shutil.copy2(tmp_path / "run" / "policy.safetensors", tmp_path / "sent.safetensors")
    refused = rattle("eval", "sent.safetensors", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert refused.returncode != 0
    advice = "names the module 'party', which is not imported because a file says so: trust it with --env "
    assert refused.stderr.endswith(f"{advice}pettingzoo:party\n")
    for wanted in (["sent.safetensors", "--env", "pettingzoo:party"], ["run/policy.safetensors"], ["run"]):
        played = rattle("eval", *wanted, "--episodes", 2, "--json", cwd=tmp_path)
        assert played.returncode == 0, played.stderr
        assert last_json(played.stdout)["environment"] == "pettingzoo:party"


OWN = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete

class Own(gymnasium.Env):
    observation_space, action_space, steps = Box(-1, 1, (3,), np.float32), Discrete(2), 0

    def __init__(self, fails_at=0, draws=False, odd=None, odd_at=0):
        self.fails_at, self.draws, self.odd, self.odd_at = fails_at, draws, odd, odd_at

    def reset(self, *, seed=None, options=None):
        self.ticks = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.ticks += 1
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("the simulator went away")
        seen = np.random.rand(3) if self.draws else np.full(3, self.ticks / 10)
        reward = float(action)
        if self.steps == self.odd_at:
            reward, seen = (float("nan"), seen) if self.odd == "reward" else (reward, np.full(3, np.inf))
        return seen, reward, False, self.ticks >= 7, {"legal": list(range(self.ticks))}

gymnasium.register("Own-v0", Own)
"""


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Return the arguments that name an environment whose module lies in the current folder, tmp_path."""
    (tmp_path / "own.py").write_text(OWN)
    return ["--set", "env.id=gym:own:Own-v0", *SMALL]


def test_an_environment_that_fails_leaves_a_failed_run_with_all_that_was_learnt(tmp_path: Path, own: list[str]) -> None:
    trained = rattle("train", *own, "--set", "env.fails_at=400", "--steps", 8000, "--run-dir", "run", cwd=tmp_path)
    assert trained.returncode != 0
    error = trained.stderr.splitlines()[-1]
    raised = "Error: 'gym:own:Own-v0', world 0: step raised RuntimeError: the simulator went away in own.py, line"
    assert error.startswith(raised)
    assert "Traceback" not in trained.stderr
    directory = RunDirectory(tmp_path / "run")
    row = json.loads(directory.run.read_bytes())
    assert row["status"] == "failed"
    assert row["updates"] == len(read_rows(directory, "updates")) > 0
    failed = next(row for row in read_rows(directory, "logs") if row["event"] == "run_failed")
    assert 'raise RuntimeError("the simulator went away")' in json.loads(failed["fields"])["traceback"]

    steps = row["env_steps"] + 100
    resumed = rattle("train", "--resume", "run", "--steps", steps, "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    summary = last_json(resumed.stdout)
    assert summary["updates"] > row["updates"]
    assert summary["env_steps"] < row["env_steps"] + 2000


def test_a_run_whose_environment_does_not_repeat_itself_goes_on_with_new_episodes(
    tmp_path: Path, own: list[str]
) -> None:
    drawing = [*own, "--set", "env.draws=true"]
    rattle("train", *drawing, "--steps", 1000, "--run-dir", "run", cwd=tmp_path)
    resumed = rattle("train", "--resume", "run", "--steps", 2000, "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("not deterministic") == 1
    rows = read_rows(RunDirectory(tmp_path / "run"), "logs")
    assert "not deterministic" in next(row["fields"] for row in rows if row["event"] == "worlds_lost")


def test_an_environment_that_cannot_begin_leaves_no_run(tmp_path: Path, own: list[str]) -> None:
    refused = rattle("train", *own, "--set", "env.fails_at=1", "--run-dir", "run", cwd=tmp_path)
    assert "world 0: step raised RuntimeError" in refused.stderr
    assert not (tmp_path / "run").exists()


LOUD = """
import ctypes, gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete

class Loud(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def __init__(self, draws=False, counts=False, reseeds=False, hardens_after=0):
        self.draws, self.counts, self.reseeds, self.resets = draws, counts, reseeds, 0
        self.hardens_after = hardens_after
        print("made")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.reseeds:
            np.random.seed(seed % 2**32)
        print("reset")
        ctypes.CDLL(None).puts(b"from C")
        ctypes.CDLL(None).fflush(None)
        self.ticks, self.resets = 0, self.resets + 1
        first = np.random.rand() if self.draws else self.resets / 1e6 if self.counts else self.np_random.random()
        return np.full(1, first, np.float32), {}

    def step(self, action):
        self.ticks += 1
        seen = np.full(1, np.random.rand() if self.reseeds else 0, np.float32)
        reward = 0.5 if 0 < self.hardens_after < self.resets else 1.0
        return seen, reward, self.ticks >= 10, False, {}

gymnasium.register("Loud-v0", Loud)
"""


def loud(cwd: Path, *arguments: str) -> tuple[str, str]:
    (cwd / "loud.py").write_text(LOUD)
    one_thread = ["--set", "train.actors=1"]  # the lines of several would run into each other
    own = ["--set", "env.id=gym:loud:Loud-v0", "--set", "env.worlds=4", "--steps", "1000", *one_thread, *arguments]
    ended = rattle("train", *own, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def test_what_environments_print_is_not_among_json_lines(tmp_path: Path) -> None:
    out, err = loud(tmp_path, "--json", "--run-dir", "run")
    assert [json.loads(line)["event"] for line in out.splitlines()][-1] == "summary"
    # Workers print at once, and where Python does not buffer, a line and its end are two writes.
    err = re.sub(r"^'gym:loud:Loud-v0' observes numbers, so what is not set is .*\n", "", err, flags=re.MULTILINE)
    assert re.sub("made|reset|from C|\n", "", err) == ""
    assert {"made", "reset", "from C"} == set(re.findall("made|reset|from C", err))
    evaluated = rattle("eval", "run", "--episodes", "3", "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["mean_length"] == 10


WAYS = ["draws=true", "counts=true", "reseeds=true", "hardens_after=6"]


def warnings_in(err: str) -> int:
    return sum("does not repeat itself" in line for line in err.splitlines())


@pytest.mark.parametrize("way", WAYS)
def test_an_environment_that_does_not_repeat_itself_is_told_at_once(tmp_path: Path, way: str) -> None:
    _, err = loud(tmp_path, "--json", "--set", f"env.{way}")
    assert warnings_in(err) == 1


def test_one_that_repeats_itself_is_not_suspected(tmp_path: Path) -> None:
    assert warnings_in(loud(tmp_path, "--json")[1]) == 0


def test_a_server_whose_worlds_do_not_repeat_themselves_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    monkeypatch.chdir(tmp_path)
    for way, warnings in (("env.draws=true", 1), ("env.hardens_after=6", 1), ("env.draws=false", 0)):
        with ServiceProcess("env", settings=("env.id=gym:loud:Loud-v0", way)) as server:
            at = ["--set", f"env.url={server.url}", "--set", "env.worlds=4", "--steps", 200]
            ended = rattle("train", *at, "--run-dir", way, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert warnings_in(ended.stderr) == warnings


@pytest.mark.parametrize(("what", "at"), [("reward", 100), ("observation", 100), ("observation", 7 * 20)])
def test_what_is_not_finite_is_named_with_its_world_and_tick(
    tmp_path: Path, own: list[str], what: str, at: int
) -> None:
    odd = ("--set", f"env.odd={what}", "--set", f"env.odd_at={at}", "--set", "env.worlds=1")
    trained = rattle("train", *own, *odd, "--steps", 800, "--run-dir", "run", cwd=tmp_path)
    assert trained.returncode == 1
    said = trained.stderr.splitlines()[-1]
    last = "last " if at % 7 == 0 else ""
    tick = at if what == "observation" and not last else at - 1  # what a tick leads to is observed in the next
    episode = at // 7 - (1 if last else 0)
    assert said == (
        f"Error: 'gym:own:Own-v0', world 0: {with_article(last + what)} that is not finite, or too large for float32, "
        f"in tick {tick} of the run (episode {episode} of that world)"
    )
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["status"] == "failed"


def test_what_is_not_finite_at_once_leaves_no_run_behind(tmp_path: Path, own: list[str]) -> None:
    for at in (9, 32):
        odd = ("--set", "env.odd=reward", "--set", f"env.odd_at={at}")
        trained = rattle("train", *own, *odd, "--steps", 800, "--run-dir", "run", cwd=tmp_path)
        assert trained.returncode == 1
        said = f"hands out a reward that is not finite, or too large for float32, in tick {at - 1}"
        assert said in trained.stderr
        assert not (tmp_path / "run").exists()


def test_a_resume_with_another_number_of_worlds_names_the_setting(tmp_path: Path, own: list[str]) -> None:
    rattle("train", *own, "--steps", 300, "--run-dir", "run", cwd=tmp_path)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("worlds: 8", "worlds: 16"))
    resumed = rattle("train", "--resume", "run", "--steps", 900, cwd=tmp_path)
    assert resumed.returncode == 1
    assert "config.yaml was changed after the run began: env.worlds is 16, was 8: put that back" in resumed.stderr


def test_a_resume_with_another_number_of_actors_goes_on_or_names_the_setting(tmp_path: Path, own: list[str]) -> None:
    for name, environment in (("played again", own), ("stored as it is", ["--set", "env.worlds=8"])):
        rattle("train", *environment, "--set", "train.actors=2", "--steps", 300, "--run-dir", name, cwd=tmp_path)
        config = tmp_path / name / "config.yaml"
        config.write_text(config.read_text().replace("actors: 2", "actors: 3"))
        resumed = rattle("train", "--resume", name, "--steps", 900, cwd=tmp_path)
        said = "stored in 2 parts, and train.actors=3 makes 3 of them: put train.actors back" in resumed.stderr
        assert (resumed.returncode, said) == ((0, False) if environment is own else (1, True)), resumed.stderr
        logs = read_rows(RunDirectory(tmp_path / name), "logs")
        assert "worlds_lost" not in {row["event"] for row in logs}


SPACELESS = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete

class Plain(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, self.np_random.random() < 0.1, False, {}

class Empty(Plain):
    observation_space = Box(-1, 1, (0,), np.float32)

class Sightless(gymnasium.Env):
    action_space = Discrete(2)

class Clinging(Plain):
    def close(self):
        raise RuntimeError("the door is stuck")

for each in (Empty, Sightless, Clinging):
    gymnasium.register(f"{each.__name__}-v0", each)
"""


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("Empty", 1, "which has no numbers at all: wrap the environment in one that makes a Box of it"),
        ("Sightless", 1, "observes None: its observation_space must be one of gymnasium.spaces"),
        ("Clinging", 0, "'gym:odd:Clinging-v0': close raised RuntimeError: the door is stuck"),
    ],
)
def test_spaces_and_ends_of_environments_are_one_line(tmp_path: Path, name: str, status: int, said: str) -> None:
    (tmp_path / "odd.py").write_text(SPACELESS)
    own = ["--set", f"env.id=gym:odd:{name}-v0", "--set", "env.worlds=2", "--set", "policy.hidden_sizes=[4]"]
    trained = rattle("train", *own, "--steps", 64, "--run-dir", "run", cwd=tmp_path)
    assert (trained.returncode, "Traceback" in trained.stderr) == (status, False)
    assert said in trained.stderr
    assert (tmp_path / "run").exists() == (status == 0)


@pytest.mark.integration
def test_squashed_actions_are_trained_recorded_and_taken_up_again(tmp_path: Path) -> None:
    pendulum = ["--set", "env={id: 'gym:Pendulum-v1', worlds: 4}", "--set", "algorithm.ticks=64"]
    squashed = [*pendulum, "--set", "policy.bounds=squash", "--set", "record.every_episodes=1"]
    trained = rattle("train", *squashed, "--steps", 1600, "--run-dir", "first", "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    asked = "SELECT action_row[1] AS torque FROM steps"
    told = rattle("query", asked, "--run", "first", "--format", "json", cwd=tmp_path)
    torques = [json.loads(line)["torque"] for line in told.stdout.splitlines()]
    assert torques
    assert all(-2.0 <= torque <= 2.0 for torque in torques)
    assert len({torque for torque in torques if abs(torque) == 2.0}) == 0  # as clipping would have left some

    onward = rattle("train", "--from", "first", *pendulum, "--steps", 1600, "--run-dir", "next", "--json", cwd=tmp_path)
    assert onward.returncode == 0, onward.stderr
    policy = Run(tmp_path / "next").policy()
    assert all(-2.0 < policy.act([1.0, 0.0, 0.0])[0] < 2.0 for _ in range(50))
    evaluated = rattle("eval", "next", "--episodes", 2, "--greedy", "--json", cwd=tmp_path)
    assert last_json(evaluated.stdout)["episodes"] == 2


def test_actions_without_bounds_are_not_squashed(tmp_path: Path) -> None:
    asked = ["--set", "env.id=gym:CartPole-v1", "--set", "policy.bounds=squash", "--run-dir", "run"]
    refused = rattle("train", *asked, cwd=tmp_path)
    assert refused.returncode == 1
    assert "policy.bounds is squash, and 'gym:CartPole-v1' takes whole numbers from 0 to 1" in refused.stderr
    assert not (tmp_path / "run").exists()
