"""What `import rattle` offers, as a user's script takes it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rattle
from rattle.errors import RattleError

SMALL = {"env.worlds": 8, "policy.hidden_sizes": [16], "train.actors": 1, "record.every_episodes": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> rattle.Run:
    return rattle.train(settings=SMALL, steps=1024, seed=3, run_dir=tmp_path_factory.mktemp("python") / "run")


def test_importing_it_imports_nothing_heavy() -> None:
    program = "import rattle, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numba", "numpy", "pydantic", "pyarrow", "gymnasium", "chdb"} & set(done.stdout.split())


def test_public_names_are_these_and_no_others() -> None:
    names = ["Evaluation", "Policy", "Progress", "Run", "evaluate", "find_run", "load_policy", "make_worlds", "train"]
    assert rattle.__all__ == names
    assert set(names) <= set(dir(rattle))
    for name in names:
        assert getattr(rattle, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rattle.trian  # noqa: B018


def test_a_run_is_that_of_the_command_line_and_tells_of_its_progress(tmp_path: Path, run: rattle.Run) -> None:
    seen: list[rattle.Progress] = []
    other = rattle.train(settings=SMALL, steps=1024, seed=3, run_dir=tmp_path / "run", on_progress=seen.append)
    assert [progress.updates for progress in seen] == list(range(1, 9))
    assert seen[-1].env_steps == other.summary["env_steps"] == 1024
    assert other.summary["policy_sha256"] == run.summary["policy_sha256"]
    assert other.summary["status"] == "finished"


def test_sections_and_keys_go_over_an_experiment_and_are_left_as_they_are(tmp_path: Path) -> None:
    settings = {"env.worlds": 2, "algorithm": {"id": "ppo", "ticks": 4}, "train": {"actors": 1}}
    run = rattle.train("cartpole", settings, steps=16, run_dir=tmp_path / "run")
    assert settings["train"] == {"actors": 1}
    config = run.query("SELECT config.env.id::String AS env, config.algorithm.ticks::Int64 AS ticks FROM runs")
    assert config.to_pylist() == [{"env": "gym:CartPole-v1", "ticks": 4}]
    assert run.summary["algorithm"] == "ppo"


def test_a_run_goes_on(tmp_path: Path, run: rattle.Run) -> None:
    pieces = rattle.train(settings=SMALL, steps=512, seed=3, run_dir=tmp_path / "run")
    assert pieces.resume(steps=1024).summary["policy_sha256"] == run.summary["policy_sha256"]


def test_another_thread_trains_too(tmp_path: Path, run: rattle.Run) -> None:
    found: list[rattle.Run] = []

    def train() -> None:
        found.append(rattle.train(settings=SMALL, steps=1024, seed=3, run_dir=tmp_path / "run"))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found[0].summary["policy_sha256"] == run.summary["policy_sha256"]


def test_a_policy_acts_on_a_row_and_on_a_batch(run: rattle.Run) -> None:
    policy = rattle.load_policy(run.path)
    assert (policy.version, policy.environment) == (run.summary["updates"], "snake")
    batch = np.zeros((64, 60), np.uint8)
    batch[:, 30] = np.arange(64) % 3
    greedy, memory = policy.act(batch, greedy=True)
    assert (greedy.dtype, greedy.shape) == (np.int64, (64,))
    assert len(memory) == 64
    assert [policy.act(row, greedy=True)[0] for row in batch] == greedy.tolist()
    assert isinstance(policy.act(batch[0])[0], int)
    assert policy.value(batch).shape == (64,)
    assert policy.value(batch[0].tolist()) == pytest.approx(policy.value(batch)[0])
    drawn = [policy.act(batch[:1].repeat(64, axis=0))[0].tolist() for _ in range(2)]
    assert drawn[0] != drawn[1]
    again = rattle.load_policy(run.path, seed=9)
    assert [again.act(batch)[0].tolist() for _ in range(2)] == [
        one.act(batch)[0].tolist() for one in [run.policy(seed=9)] for _ in range(2)
    ]


def test_a_policy_without_memory_gives_its_actions_alone(tmp_path: Path) -> None:
    bare = rattle.train(settings={**SMALL, "policy.inputs": []}, steps=512, seed=3, run_dir=tmp_path / "run").policy()
    batch = np.zeros((64, 60), np.uint8)
    assert bare.act(batch).shape == (64,)
    assert isinstance(bare.act(batch[0], greedy=True), int)


@pytest.mark.parametrize("wrong", [np.zeros((1, 59), np.uint8), np.full(60, 0.5), np.full(60, -1), np.full(60, 9)])
def test_observations_of_another_environment_are_refused(run: rattle.Run, wrong: np.ndarray) -> None:
    with pytest.raises(RattleError, match="policy"):
        run.policy().act(wrong)


@pytest.mark.parametrize("wrong", [{"cells": 3}, "snake", [[0], [0, 1]], None])
def test_what_is_no_observation_is_said_in_one_line(run: rattle.Run, wrong: object) -> None:
    with pytest.raises(RattleError, match="this policy takes") as error:
        run.policy().act(wrong)
    assert "\n" not in str(error.value)


def test_a_policy_is_judged_in_fresh_games(run: rattle.Run) -> None:
    judged = rattle.evaluate(run.policy(), 5, seed=1)
    assert isinstance(judged, rattle.Evaluation)
    assert len(judged.length) == 5
    assert rattle.evaluate(run.policy(), 5, seed=1).summary() == judged.summary()
    with pytest.raises(RattleError, match=r"^evaluate takes a policy, got 'latest': use rattle.load_policy\(NAME\)$"):
        rattle.evaluate("latest", 5)  # type: ignore[arg-type]
    with pytest.raises(RattleError, match="acts with whole numbers from 0 to 2"):
        rattle.evaluate(run.policy(), 5, environment="gym:CartPole-v1")


def test_tables_are_arrow(run: rattle.Run) -> None:
    updates = run.table("updates")
    assert updates.num_rows == run.summary["updates"]
    assert updates["policy_version"].to_pylist() == list(range(1, 9))
    assert rattle.find_run(run.path).query("SELECT count() AS n FROM updates").to_pylist() == [{"n": 8}]
    with pytest.raises(RattleError, match="FORMAT"):
        run.query("SELECT 1 FORMAT CSV")
    with pytest.raises(RattleError, match="nothing"):
        run.table("nothing")


def test_worlds_are_made_and_stepped(run: rattle.Run) -> None:
    worlds, policy = rattle.make_worlds("snake", {"width": 20}, 4, seed=1), run.policy()
    memory = None
    for _ in range(3):
        actions, memory = policy.act(worlds.observation, state=memory, reward=worlds.reward)
        worlds.step(actions)
    assert worlds.reward.shape == (4,)
    worlds.close()


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: rattle.Run
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snake.safetensors").write_bytes((run.path / "policy.safetensors").read_bytes())
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    [example] = [
        block.partition("```")[0] for block in readme.split("```python\n") if block.startswith("import rattle\n")
    ]
    assert "200_000" in example
    example = example.replace("200_000", "2_000").replace("50_000", "1_000")
    shown: dict[str, Any] = {}
    exec(example, shown)  # noqa: S102
    assert "mean_return" in capsys.readouterr().out
    evaluations = shown["run"].table("evaluations").to_pylist()
    assert {row["episodes"] for row in evaluations} == {100}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experiment": "snaek"}, "no file 'snaek'"),
        ({"settings": {"env.widht": 3}}, "did you mean 'width'"),
        ({"settings": {"algorithm": "a3c"}}, "did you mean 'a2c'"),
        ({"settings": ["seed=1"]}, r"^settings are given by name, such as {'seed': 1}, got \['seed=1'\]$"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RattleError, match=message) as wrong:
        rattle.train(**arguments, steps=16)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "a\0b"], ids=["long", "deep", "null byte"])
@pytest.mark.parametrize("find", [rattle.load_policy, rattle.find_run])
def test_names_that_no_file_can_have_are_no_runs(find: Callable[[str], object], name: str) -> None:
    with pytest.raises(RattleError, match=r"^no run"):
        find(name)
