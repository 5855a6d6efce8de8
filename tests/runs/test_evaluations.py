"""Policies of a run are judged in fresh games: the same ones however it is played, and nothing is learnt from them."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import EnvError
from rattle.envs.seeds import derive_seed
from rattle.policies.file import load_policy
from rattle.rollouts.evaluate import Evaluation, evaluate
from rattle.rollouts.worlds import build_worlds, policy_spec
from rattle.runs import evaluations
from rattle.runs.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from rattle.runs.errors import RunError
from rattle.runs.evaluations import Evaluated, Evaluations
from rattle.runs.progress import Progress, Summary
from rattle.runs.run_tables import read_run_row
from rattle.settings.sources import load_settings
from rattle.trainer.build import build_learner
from rattle.trainer.train import resume, train
from tests.template import RattleProcess
from tests.trainer.conftest import Silence, last_json, rattle, read_rows, small_settings

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]

EVALUATED = "evaluation={every_steps: 1000, episodes: 7}"
CLOCKS = ("time", "run_id", "seconds", "env_steps_per_second")


def test_it_changes_nothing_of_what_is_learnt(train_small: TrainSmall) -> None:
    without, one = train_small()
    evaluated, other = train_small(EVALUATED)
    assert evaluated.policy_sha256 == without.policy_sha256
    for table in ("updates", "episodes"):
        assert read_rows(other, table, *CLOCKS) == read_rows(one, table, *CLOCKS)
    assert read_rows(one, "evaluations") == []


def test_versions_are_those_whose_update_reached_so_many_steps(train_small: TrainSmall) -> None:
    _, directory = train_small(EVALUATED)
    steps = [0, *(row["env_steps"] for row in read_rows(directory, "updates"))]
    due = [version for version in range(1, len(steps)) if steps[version - 1] // 1000 < steps[version] // 1000]
    rows = read_rows(directory, "evaluations")
    assert [row["policy_version"] for row in rows] == due
    assert [row["env_steps"] for row in rows] == [steps[version] for version in due]
    assert len({row["seed"] for row in rows}) == len(rows) > 3


@pytest.mark.parametrize("greedy", [False, True])
def test_a_row_is_what_eval_says_of_the_same_games(train_small: TrainSmall, greedy: bool) -> None:
    summary, directory = train_small("evaluation={every_steps: 1, episodes: 9}", f"evaluation.greedy={greedy}")
    row = read_rows(directory, "evaluations")[-1]
    assert row["policy_version"] == summary.policy_version
    policy = load_policy(directory.policy.read_bytes())
    found = evaluate(policy, 9, seed=row["seed"], greedy=greedy).summary()
    assert {name: row[name] for name in ("episodes", "cut_episodes")} == {"episodes": 9, "cut_episodes": 0}
    for name in ("mean_return", "std_return", "min_return", "max_return"):
        assert row[name] == found[name]
    assert (row["mean_episode_length"], row["metrics"]) == (found["mean_length"], {"food": found["mean_food"]})
    assert row["greedy"] is greedy


def test_no_game_is_one_of_the_training() -> None:
    seeds = {evaluations.world_seed(derive_seed(seed, "evaluation", 1) >> 1) for seed in range(100)}
    assert seeds.isdisjoint(derive_seed(seed, "worlds") for seed in range(100))


def test_the_best_policy_is_the_one_with_the_best_evaluation(train_small: TrainSmall) -> None:
    summary, directory = train_small(EVALUATED, "train.steps=9000")
    best = max(read_rows(directory, "evaluations"), key=lambda row: row["mean_return"])
    assert (summary.best_mean_return, summary.best_policy_version) == (best["mean_return"], best["policy_version"])
    stored = load_policy(directory.best_policy.read_bytes())
    assert stored.version == best["policy_version"]
    assert evaluate(stored, 7, seed=best["seed"], greedy=False).summary()["mean_return"] == best["mean_return"]
    assert read_run_row(directory)["best_policy_version"] == best["policy_version"]


def test_another_judge_begins_without_a_best_policy(train_small: TrainSmall) -> None:
    summary, directory = train_small("train.steps=24000")
    assert summary.best_policy_version is not None
    config = directory.config.read_text()
    directory.config.write_text(config.replace("every_steps: null", "every_steps: 1000"))
    resumed = resume(str(directory.path), 28_000, None, Silence())
    best = max(read_rows(directory, "evaluations"), key=lambda row: row["mean_return"])
    assert (resumed.best_mean_return, resumed.best_policy_version) == (best["mean_return"], best["policy_version"])


def test_displays_are_told_of_the_newest(tmp_path: Path) -> None:
    seen: list[float | None] = []

    class Listening(Silence):
        def update(self, progress: Progress) -> None:
            seen.append(progress.evaluation_return)

    train(small_settings(EVALUATED, "train.steps=9000"), tmp_path / "run", Listening())
    known = [row["mean_return"] for row in read_rows(RunDirectory(tmp_path / "run"), "evaluations")]
    assert seen[0] is None
    assert seen[-1] in known


class Slow:
    """Evaluations that are played only when they are let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_play = threading.Event()
        self.rows: list[Mapping[str, Any]] = []
        self._play = evaluations.play_first_episodes
        monkeypatch.setattr(evaluations, "play_first_episodes", self._wait_and_play)
        self.settings = small_settings(EVALUATED)
        self.environment = build_worlds(self.settings, 1, 0).spec
        self._spec = policy_spec(self.settings, self.environment)
        with closing(build_learner(self.settings, self._spec)) as learner:
            self._weights = learner.parameters()

    def _wait_and_play(self, *arguments: Any, **named: Any) -> Evaluation:
        while not self.may_play.wait(0.01):
            named["watch"](0, 0.0)  # raises when it is to stop
        return self._play(*arguments, **named)

    def make(self) -> Evaluations:
        return Evaluations(
            self.settings, self._spec, self.environment, lambda _of, _weights, row: self.rows.append(row)
        )

    def follow(self, made: Evaluations, version: int) -> None:
        made.follow(Evaluated(version, version * 1000, 1.0), version * 1000 - 1000, lambda: self._weights)


def test_what_is_not_played_yet_is_in_the_checkpoint_and_played_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    whole, broken = slow.make(), slow.make()
    slow.may_play.set()
    for version in (1, 2, 3):
        slow.follow(whole, version)
    whole.finish()
    whole.close()
    expected, slow.rows = slow.rows, []
    slow.may_play.clear()
    broken.wants_stop = lambda: True
    for version in (1, 2):
        slow.follow(broken, version)  # returns, though the first is not played: the run is to stop
    parts, pending = broken.state()
    broken.close()
    assert slow.rows == []
    assert [one["policy_version"] for one in pending] == [1, 2]
    arrays = {f"{part}/{name}": array for part, own in parts.items() for name, array in own.items()}
    resumed = slow.make()
    resumed.restore(Checkpoint(arrays, {"evaluations": pending}))
    slow.may_play.set()
    slow.follow(resumed, 3)
    resumed.finish()
    resumed.close()
    assert slow.rows == expected
    assert len(expected) == 3


def test_training_waits_for_the_one_before_and_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    made = slow.make()
    slow.follow(made, 1)  # goes on at once
    assert slow.rows == []
    threading.Timer(0.05, slow.may_play.set).start()
    slow.follow(made, 2)
    assert [row["policy_version"] for row in slow.rows] == [1]
    made.finish()
    made.close()


def test_an_environment_that_fails_in_an_evaluation_ends_the_run_in_one_line(
    train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> Evaluation:
        raise EnvError("the wheel came off")

    monkeypatch.setattr(evaluations, "play_first_episodes", fail)
    with pytest.raises(RunError, match=r"^the evaluation of policy version \d+ failed: the wheel came off$"):
        train_small(EVALUATED)
    directory = RunDirectory(tmp_path / "run-0")
    assert read_run_row(directory)["status"] == "failed"
    monkeypatch.undo()
    mended = resume(str(directory.path), None, None, Silence())
    whole, other = train_small(EVALUATED)
    assert mended.policy_sha256 == whole.policy_sha256
    assert read_rows(directory, "evaluations", *CLOCKS) == read_rows(other, "evaluations", *CLOCKS)


def test_a_return_that_is_not_finite_is_said(train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(*_arguments: Any, **_named: Any) -> Evaluation:
        return Evaluation(1, "snake", 1, np.array([np.inf]), np.array([1]), {})

    monkeypatch.setattr(evaluations, "play_first_episodes", play)
    with pytest.raises(RunError, match="a return is not a finite number"):
        train_small(EVALUATED)


def test_ctrl_c_waits_for_no_evaluation_and_a_resume_plays_it(tmp_path: Path) -> None:
    """200 games of 20,000 ticks: an evaluation takes much longer than the updates beside it."""
    slow = ["--set", "env={id: 'gym:MountainCar-v0', worlds: 4, max_episode_steps: 20000}"]
    slow += ["--set", "evaluation={every_steps: 1, episodes: 200}", "--set", "train.checkpoint_seconds=1000"]
    command = ["train", "--json", "--run-dir", "run", *slow]
    process = RattleProcess(*command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert last_json(out)["status"] == "interrupted"
    run = RunDirectory(tmp_path / "run")
    pending = load_checkpoint(list_checkpoints(run)[-1], last_json(out)["run_id"]).numbers["evaluations"]
    assert pending
    assert read_rows(run, "evaluations") == []
    text = run.config.read_text().replace("max_ticks: 100000", "max_ticks: 3")
    run.config.write_text(text)
    steps = last_json(out)["env_steps"]
    resumed = rattle("train", "--resume", "run", "--steps", steps, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    versions = [row["policy_version"] for row in read_rows(run, "evaluations")]
    assert versions == [one["policy_version"] for one in pending]


def test_wrong_settings_are_said() -> None:
    for wrong in ("every_steps=0", "episodes=0", "max_ticks=0", "every_update=5"):
        with pytest.raises(Exception, match="evaluation"):
            load_settings(None, [f"evaluation.{wrong}"], {})
