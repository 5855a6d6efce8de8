"""What goes wrong ends in one clear line, and leaves what was stored as it was."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import EnvError
from rattle.errors import RattleError
from rattle.learning.errors import LearningError
from rattle.policies.errors import PolicyError
from rattle.policies.file import dump_tensors, load_policy, load_tensors
from rattle.runs import run_clock
from rattle.runs.checkpoint import list_checkpoints, load_checkpoint
from rattle.runs.checkpoint_store import CheckpointStore
from rattle.runs.errors import RunError
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row
from rattle.trainer.train import resume, train
from tests import template
from tests.trainer.conftest import RATTLE, Silence, read_rows, small_settings

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]


class Poisoned(gymnasium.Env[np.ndarray[Any, Any], int]):
    """Gives a reward on its 200th tick whose square is too large for float32."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    ticks = 0

    def reset(self, **_: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.ticks += 1
        return np.zeros(2, np.float32), 3e38 if self.ticks == 200 else 1.0, self.ticks % 10 == 0, False, {}


@pytest.fixture
def poisoned() -> Iterator[str]:
    gymnasium.register("Poisoned-v0", Poisoned)
    yield "gym:Poisoned-v0"
    del gymnasium.registry["Poisoned-v0"]


def test_bad_numbers_stop_the_run_and_keep_the_last_good_checkpoint(
    tmp_path: Path, poisoned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rattle.runs.run_clock.PAUSE", 0.0)
    monkeypatch.setattr(CheckpointStore, "is_idle", property(lambda store: store.wait() or True))
    every_update = "train.checkpoint_seconds=0.000001"
    own = (f"env={{id: '{poisoned}', worlds: 2}}", "algorithm.ticks=16", "train.max_reward=null")
    settings = small_settings(*own, every_update)
    with pytest.raises(LearningError, match=r"update 13: the value loss is inf"):
        train(settings, tmp_path / "run", Silence())
    directory = RunDirectory(tmp_path / "run")
    row = read_run_row(directory)
    assert (row["status"], row["updates"]) == ("failed", 12)
    assert row["policy_sha256"]
    newest = load_checkpoint(list_checkpoints(directory)[-1], read_run_row(directory)["run_id"])
    assert newest.tensors["learner/version"] == 12
    assert all(np.isfinite(array).all() for array in newest.part("learner").values())
    assert read_rows(directory, "logs")[-1]["event"] == "run_failed"


def test_a_run_that_fails_keeps_the_best_policy_since_its_last_checkpoint(
    tmp_path: Path, poisoned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_clock, "_FIRST_INTERVAL", 1000.0)  # no checkpoint is due on the slowest machine
    own = (f"env={{id: '{poisoned}', worlds: 16}}", "algorithm.ticks=16", "train.max_reward=null")
    with pytest.raises(LearningError, match="the value loss is inf"):
        train(small_settings(*own, "train.checkpoint_seconds=1000"), tmp_path / "run", Silence())
    directory = RunDirectory(tmp_path / "run")
    assert [path.name for path in list_checkpoints(directory)] == ["update-0000000000.safetensors"]
    version = read_run_row(directory)["best_policy_version"]
    assert version is not None
    assert load_policy(directory.best_policy.read_bytes()).version == version


def test_a_reward_that_is_not_allowed_stops_the_run_and_is_named(tmp_path: Path, poisoned: str) -> None:
    settings = small_settings(f"env={{id: '{poisoned}', worlds: 2}}", "algorithm.ticks=16")
    said = (
        rf"'{poisoned}', world 0: a reward of 3e\+38 in tick 199 of the run \(episode 19 of that world\), "
        r"where train\.max_reward is 1e\+06: fix it, or raise that"
    )
    with pytest.raises(EnvError, match=said):
        train(settings, tmp_path / "run", Silence())
    row = read_run_row(RunDirectory(tmp_path / "run"))
    assert (row["status"], row["updates"]) == ("failed", 12)


def contents(directory: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.path.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "newer", "policy", "flipped", "lacking"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_touched(train_small: TrainSmall, damage: str) -> None:
    _, directory = train_small("train.checkpoint_seconds=0.01")
    newest = list_checkpoints(directory)[-1]
    whole = newest.read_bytes()
    newest.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "foreign": b"PK\x03\x04 this is something else",
            "empty": b"",
            "newer": dump_tensors({}, {"format": "rattle.checkpoint", "format_version": "9"}),
            "policy": directory.policy.read_bytes(),
            "flipped": whole[:-1000] + bytes([whole[-1000] ^ 0x10]) + whole[-999:],
            "lacking": dump_tensors({}, {"format": "rattle.checkpoint", "format_version": "2", "numbers": "{}"}),
        }[damage]
    )
    before = contents(directory)
    with pytest.raises(RattleError, match="stored weights" if damage == "lacking" else newest.name) as caught:
        resume(str(directory.path), 10_000, None, Silence())
    assert "\n" not in str(caught.value)
    assert contents(directory) == before
    if damage != "newer":
        newest.unlink()  # as the message says
        assert resume(str(directory.path), 10_000, None, Silence()).status == "finished"


def test_a_checkpoint_of_other_settings_is_refused(train_small: TrainSmall) -> None:
    _, directory = train_small()
    directory.config.write_text(directory.config.read_text().replace("worlds: 24", "worlds: 12"))
    before = contents(directory)
    with pytest.raises(RattleError) as caught:
        resume(str(directory.path), 10_000, None, Silence())
    assert "\n" not in str(caught.value)
    assert contents(directory) == before


def test_the_last_checkpoint_gone_does_not_begin_the_run_anew(train_small: TrainSmall) -> None:
    _, directory = train_small("train.keep_checkpoints=1")
    (only,) = list_checkpoints(directory)
    only.write_bytes(b"damaged")
    with pytest.raises(RunError, match="there is none before it"):
        resume(str(directory.path), 10_000, None, Silence())
    only.unlink()
    before = contents(directory)
    with pytest.raises(RunError, match="cannot be resumed"):
        resume(str(directory.path), 10_000, None, Silence())
    assert contents(directory) == before


@pytest.mark.parametrize("output", ["closed pipe", "full disk"])
@pytest.mark.parametrize("display", [["--json"], []], ids=["json", "plain"])
def test_a_run_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path, output: str, display: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stdout = writer if output == "closed pipe" else os.open("/dev/full", os.O_WRONLY)
    arguments = ["train", "--run-dir", "run", "--steps", "4608", "--set", "env.worlds=24", *display]
    process = template.start(*arguments, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE)
    os.close(writer)
    _, errors = process.communicate()
    assert (process.wait(), errors) == (0, "")
    assert read_run_row(RunDirectory(tmp_path / "run"))["status"] == "finished"


def test_a_run_directory_is_not_used_twice(train_small: TrainSmall, tmp_path: Path) -> None:
    _, directory = train_small()
    before = contents(directory)
    with pytest.raises(RunError, match="--resume"):
        train(small_settings(), directory.path, Silence())
    with directory.locked(), pytest.raises(AnalyticsError, match="in use by another process"):
        resume(str(directory.path), None, None, Silence())
    assert contents(directory) == before


def test_resuming_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(AnalyticsError, match="no run"):
        resume(str(tmp_path / "nothing"), None, None, Silence())


def limit_files_to(length: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))

    return limit


@pytest.mark.integration
def test_a_disk_that_takes_no_more_stops_the_run_and_the_run_goes_on_later(
    train_small: TrainSmall, tmp_path: Path
) -> None:
    whole, _ = train_small("train.steps=200000")
    _, directory = train_small("train.steps=1000", "train.checkpoint_seconds=0.05")
    length = max(path.stat().st_size for path in directory.path.rglob("*") if path.is_file()) + 2000
    process = subprocess.run(
        [*RATTLE, "train", "--resume", str(directory.path), "--steps", "200000"],
        cwd=tmp_path,
        preexec_fn=limit_files_to(length),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert "cannot write" in process.stderr
    for checkpoint in list_checkpoints(directory):
        load_checkpoint(checkpoint, read_run_row(directory)["run_id"])
    assert not list(directory.path.rglob("*tmp*"))
    resumed = resume(str(directory.path), 200_000, None, Silence())
    assert resumed.policy_sha256 == whole.policy_sha256


@pytest.mark.parametrize(
    "lost", [["config.yaml"], ["config.yaml", "checkpoints"], ["config.yaml", "run.json", "steps"]]
)
def test_a_new_run_takes_over_nothing_of_another(train_small: TrainSmall, lost: list[str]) -> None:
    _, directory = train_small()
    for name in lost:
        path = directory.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(directory)
    with pytest.raises(RunError, match=r"holds .*updates/.*, but no config\.yaml: restore that file"):
        train(small_settings("seed=99"), directory.path, Silence())
    assert contents(directory) == before


@pytest.mark.parametrize(
    "name",
    [
        "updates/train.jsonl",
        "checkpoints/.mine.safetensors",
        "policy.safetensors",
        "run.json",
        "logs",
        "annotations.json",
        "outbox/mine",
        "life",
        "service-logs/env-0.log",
        "tensorboard/events.out",
    ],
)
def test_files_that_a_new_run_would_overwrite_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"holds {name.partition('/')[0]}"):
        train(small_settings(), tmp_path, Silence())
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_in_the_folder_of_a_new_run_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    assert train(small_settings("train.steps=1000"), tmp_path, Silence()).status == "finished"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_of_another_run_or_another_name_is_refused(train_small: TrainSmall) -> None:
    _, ours = train_small()
    _, theirs = train_small("seed=9")
    newest = list_checkpoints(ours)[-1]
    foreign = ours.checkpoints / "update-0000009999.safetensors"
    for source, problem in [(list_checkpoints(theirs)[-1], "belongs to the run"), (newest, "was renamed")]:
        shutil.copy(source, foreign)
        before = contents(ours)
        with pytest.raises(RunError, match=f"update-0000009999.safetensors {problem}"):
            resume(str(ours.path), None, None, Silence())
        assert contents(ours) == before
    foreign.unlink()
    assert resume(str(ours.path), None, None, Silence()).status == "finished"


def test_a_checkpoint_that_does_not_say_whose_it_is_is_taken(train_small: TrainSmall) -> None:
    summary, directory = train_small()
    newest = list_checkpoints(directory)[-1]
    tensors, metadata = load_tensors(newest.read_bytes())
    earlier = {name: text for name, text in metadata.items() if name not in ("run_id", "update", "sha256")}
    newest.write_bytes(dump_tensors(tensors, earlier))
    assert resume(str(directory.path), None, None, Silence()).policy_sha256 == summary.policy_sha256


def test_rows_of_more_than_a_minute_are_kept_when_they_are_cut(
    train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, directory = train_small("train.checkpoint_seconds=0.01", "train.keep_checkpoints=100")
    for path in list_checkpoints(directory)[2:]:
        path.unlink()
    table = directory.table("updates") / "train.jsonl"
    rows = table.read_bytes()
    monkeypatch.setattr("rattle.runs.run_recorder.MOST_SECONDS_CUT", 0.0)
    again = resume(str(directory.path), None, None, Silence())
    assert again.policy_sha256 == summary.policy_sha256
    cut = table.with_name("train.jsonl.cut").read_bytes()
    assert cut
    assert rows.endswith(cut)
    assert "rows_put_aside" in [row["event"] for row in read_rows(directory, "logs")]
    assert len(read_rows(directory, "updates")) == summary.updates


def test_a_network_that_overflows_is_not_taken_for_the_environment(tmp_path: Path) -> None:
    settings = small_settings("policy.hidden_sizes=[16, 16, 16]", "algorithm.learning_rate=1e15")
    with pytest.raises(PolicyError, match=r"a value of the policy's network that is not finite.*lower algorithm.learn"):
        train(settings, tmp_path / "run", Silence())
