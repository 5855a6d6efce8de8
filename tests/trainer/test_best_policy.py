"""The best policy is kept, exactly, and a run ends when it is good enough."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.policies.file import load_policy
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.errors import RunError
from rattle.runs.find_policy import find_policy
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row
from rattle.trainer.train import resume
from tests.trainer.conftest import Silence, read_rows

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]
STEPS = "train.steps=30000"


def best_update(directory: RunDirectory) -> dict[str, float]:
    """Return the first row of `updates` with the highest mean return of 100 episodes."""
    judged = [row for row in read_rows(directory, "updates") if row["episodes"] >= 100]
    best: dict[str, float] = max(judged, key=lambda row: (row["mean_return"], -row["policy_version"]))
    return best


def test_the_best_policy_is_the_one_that_played_best(train_small: TrainSmall) -> None:
    summary, directory = train_small(STEPS)
    best = best_update(directory)
    played = int(best["policy_version"]) - 1
    assert 0 < played < summary.updates - 1, "the best is neither the first nor the last, or the test shows nothing"
    assert (summary.best_mean_return, summary.best_policy_version) == (best["mean_return"], played)
    row = read_run_row(directory)
    assert (row["best_mean_return"], row["best_policy_version"]) == (best["mean_return"], played)
    (steps,) = (row["env_steps"] for row in read_rows(directory, "updates") if row["policy_version"] == played)
    shorter, _ = train_small(f"train.steps={steps}")
    assert hashlib.sha256(directory.best_policy.read_bytes()).hexdigest() == shorter.policy_sha256


def test_the_best_policy_survives_a_resume(train_small: TrainSmall) -> None:
    often = ("train.checkpoint_seconds=0.000001", "train.keep_checkpoints=1000")
    whole, one = train_small(STEPS)
    _, other = train_small(STEPS, *often)
    for path in list_checkpoints(other)[len(list_checkpoints(other)) // 2 :]:
        path.unlink()
    other.best_policy.unlink()
    again = resume(str(other.path), None, None, Silence())
    assert again.best_policy_version == whole.best_policy_version
    assert other.best_policy.read_bytes() == one.best_policy.read_bytes()


def test_a_run_ends_when_it_is_good_enough(train_small: TrainSmall, caplog: pytest.LogCaptureFixture) -> None:
    _, directory = train_small(STEPS)
    best = best_update(directory)
    summary, again = train_small(STEPS, f"train.stop_at_return={best['mean_return']!r}")
    assert (summary.status, summary.updates) == ("finished", best["policy_version"])
    assert list_checkpoints(again)[-1].name == f"update-{int(best['policy_version']):010d}.safetensors"
    reason = f"its mean return, {best['mean_return']:.6g}, has reached train.stop_at_return"
    assert [row["fields"] for row in read_rows(again, "logs")][-1].count(reason) == 1
    assert not caplog.text
    assert resume(str(again.path), 10**6, None, Silence()).updates == summary.updates
    assert caplog.messages[-1].startswith(f"the run has nothing left to do: {reason}")
    assert [row["fields"] for row in read_rows(again, "logs")][-1].count(reason) == 1


def test_a_run_that_has_its_steps_says_so_when_it_is_resumed(
    train_small: TrainSmall, caplog: pytest.LogCaptureFixture
) -> None:
    _, directory = train_small()
    resume(str(directory.path), None, None, Silence())
    assert "the run has nothing left to do: it has made 4,608 of 4,608 steps, train.steps" in caplog.text


@pytest.mark.parametrize("worlds", [1, 30])
def test_complete_episodes_judge_a_policy_when_there_are_a_hundred(train_small: TrainSmall, worlds: int) -> None:
    summary, directory = train_small(
        "algorithm.id=reinforce",
        f"env.worlds={worlds}",
        "train.actors=1",
        "algorithm.max_episode_ticks=8",
        "env.max_steps=8",
        "train.steps=100000",
        "train.stop_at_return=-1000",
    )
    assert 100 <= summary.episodes < 100 + worlds
    returns = [row["return"] for row in read_rows(directory, "episodes")]
    assert summary.mean_return == pytest.approx(sum(returns) / len(returns))


def test_few_episodes_do_not_make_a_best_policy(train_small: TrainSmall) -> None:
    summary, directory = train_small("train.steps=400", "train.stop_at_return=-1000")
    assert summary.episodes < 100
    assert summary.best_policy_version is None
    assert not directory.best_policy.exists()
    with pytest.raises(RunError, match="has no best policy yet"):
        find_policy(str(directory.path), best=True)


def test_it_is_found_by_run_and_by_path(train_small: TrainSmall, tmp_path: Path) -> None:
    summary, directory = train_small(STEPS)
    assert find_policy(str(directory.path), best=True).policy.version == summary.best_policy_version
    assert load_policy(directory.best_policy.read_bytes()).version == summary.best_policy_version
    assert find_policy(str(directory.best_policy)).policy.version == summary.best_policy_version
    with pytest.raises(RunError, match="--best wants the run"):
        find_policy(str(directory.policy), best=True)
