"""What was changed, lost or damaged in a run directory between two commands is said, and mended where it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.policies.file import dump_tensors, load_tensors
from rattle.rollouts.complete import complete
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.errors import RunError
from rattle.runs.progress import Progress, Summary
from rattle.runs.run_tables import read_run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import to_yaml
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence, read_rows, small_settings

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]

MANY = ("train.checkpoint_seconds=0.001", "train.keep_checkpoints=100", "train.steps=20000")


def go_on(directory: RunDirectory, steps: int | None = None) -> Summary:
    return resume(str(directory.path), steps, None, Silence())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("", r"env\.worlds is 1024, was 24"),
        (small_settings("seed=4"), "seed is 4, was 0"),
        (small_settings("env.worlds=48"), r"env\.worlds is 48, was 24"),
        (small_settings("env.width=9"), r"env\.width is 9, was 15"),
        (small_settings("policy.hidden_sizes=[8]"), r"policy\.hidden_sizes is \[8\], was \[16\]"),
        (small_settings("algorithm.id=reinforce"), r"algorithm\.id is reinforce, was a2c"),
    ],
)
def test_settings_of_another_run_are_refused(
    train_small: TrainSmall, config: ExperimentSettings | str, said: str
) -> None:
    _, directory = train_small()
    directory.config.write_text(config if isinstance(config, str) else to_yaml(config))
    with pytest.raises(RunError, match=f"config.yaml was changed after the run began: .*{said}.*: put that back"):
        go_on(directory, 9000)


def test_another_learning_rate_is_taken_and_said_once(
    train_small: TrainSmall, caplog: pytest.LogCaptureFixture
) -> None:
    _, directory = train_small()
    directory.config.write_text(to_yaml(complete(small_settings("algorithm.learning_rate=0.01", "train.steps=9000"))))
    go_on(directory)
    assert [row["learning_rate"] for row in read_rows(directory, "updates")][-1] == 0.01
    assert "algorithm.learning_rate is 0.01, was" in caplog.text
    caplog.clear()
    go_on(directory, 12_000)
    assert not caplog.text


@pytest.mark.parametrize("damaged", [None, b"", b"{}", b"[]", b'{"run_id": "x", "updates": null}', b"{half"])
def test_the_row_of_a_run_is_made_anew(
    train_small: TrainSmall, caplog: pytest.LogCaptureFixture, damaged: bytes | None
) -> None:
    summary, directory = train_small()
    whole, _ = train_small("train.steps=9000")
    directory.run.unlink()
    if damaged is not None:
        directory.run.write_bytes(damaged)
    assert go_on(directory, 9000).policy_sha256 == whole.policy_sha256
    assert "run.json" in caplog.text
    assert read_run_row(directory)["run_id"] == summary.run_id


def test_a_row_is_not_made_of_another_runs_checkpoint(train_small: TrainSmall) -> None:
    (_, ours), (_, theirs) = train_small(), train_small("seed=9")
    shutil.rmtree(ours.checkpoints)
    shutil.copytree(theirs.checkpoints, ours.checkpoints)
    ours.run.unlink()
    with pytest.raises(RunError, match="belongs to the run"):
        go_on(ours)


def test_a_run_without_row_and_checkpoints_is_not_begun_anew(train_small: TrainSmall) -> None:
    _, directory = train_small()
    directory.run.unlink()
    shutil.rmtree(directory.checkpoints)
    with pytest.raises(RunError, match=r"cannot read .*run\.json.* no checkpoint to make it again"):
        go_on(directory)


@pytest.mark.parametrize("table", ["updates", "episodes"])
def test_lost_rows_take_a_run_back_to_an_older_checkpoint(
    train_small: TrainSmall, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    whole, directory = train_small(*MANY)
    path = directory.table(table) / "train.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert go_on(directory).policy_sha256 == whole.policy_sha256
    assert f"{table}/train.jsonl has lost rows" in caplog.text
    assert "continues from the older checkpoint" in caplog.text
    assert [row["policy_version"] for row in read_rows(directory, "updates")] == list(range(1, whole.updates + 1))
    assert len(read_rows(directory, "episodes")) == whole.episodes


@pytest.mark.parametrize("loss", ["has lost rows", "no longer exists", "no row ends"])
def test_rows_that_every_checkpoint_needs_are_missed(train_small: TrainSmall, loss: str) -> None:
    _, directory = train_small("train.keep_checkpoints=1")
    path = directory.table("updates") / "train.jsonl"
    rows = path.read_bytes()
    path.unlink()
    if loss != "no longer exists":
        path.write_bytes(b"" if loss == "has lost rows" else b" " + rows)
    with pytest.raises(RunError, match=f"{loss}.*no older checkpoint fits: restore it") as caught:
        go_on(directory)
    assert "\n" not in str(caught.value)
    assert len(list_checkpoints(directory)) == 1


class Deleting(Silence):
    """Deletes the run directory after the first update."""

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self._directory = directory

    def update(self, progress: Progress) -> None:
        while progress.updates == 1 and self._directory.path.exists():
            shutil.rmtree(self._directory.path, ignore_errors=True)  # a checkpoint may be on its way


def test_a_run_whose_directory_is_deleted_ends_with_one_line(train_small: TrainSmall) -> None:
    _, directory = train_small()
    shutil.rmtree(directory.path)
    with pytest.raises(AnalyticsError, match=r"cannot write .*(there is no folder|has been deleted)") as caught:
        train(small_settings(), directory.path, Deleting(directory))
    assert "\n" not in str(caught.value)
    assert not directory.path.exists()
    with pytest.raises(RattleError, match="has been deleted or moved"):
        read_run_row(directory)


def test_checkpoints_that_a_run_did_not_make_push_out_none_of_its_own(train_small: TrainSmall) -> None:
    (_, theirs), (_, ours) = train_small("seed=9"), train_small()
    own = list_checkpoints(ours)[-1]
    foreign = {
        ours.checkpoints / "update-0000900000.safetensors": list_checkpoints(theirs)[-1].read_bytes(),
        ours.checkpoints / "update-0000900001.safetensors": own.read_bytes(),  # renamed
        ours.checkpoints / "update-0000900002.safetensors": b"no checkpoint at all",
        ours.checkpoints / "update-0000000000.safetensors": list_checkpoints(theirs)[0].read_bytes(),
    }
    beside = ours.checkpoints.with_name("beside")
    beside.mkdir()
    for path, content in foreign.items():
        (beside / path.name).write_bytes(content)

    class Putting(Silence):
        def update(self, progress: Progress) -> None:
            if progress.updates == 20:
                for path in foreign:
                    shutil.copy(beside / path.name, path)

    resume(str(ours.path), 20_000, None, Putting())
    assert {path: path.read_bytes() for path in foreign} == foreign
    newest = read_run_row(ours)["updates"]
    own_now = [path.name for path in list_checkpoints(ours) if path not in foreign]
    assert len(own_now) == 2
    assert own_now[-1] == f"update-{newest:010}.safetensors"


def test_a_file_in_the_place_of_a_new_checkpoint_is_put_aside(train_small: TrainSmall) -> None:
    (last, theirs), (_, ours) = train_small("seed=9", "train.steps=9000"), train_small()
    taken = ours.checkpoints / list_checkpoints(theirs)[-1].name

    class Putting(Silence):
        def update(self, progress: Progress) -> None:
            if progress.updates == last.updates - 1:
                shutil.copy(list_checkpoints(theirs)[-1], taken)

    assert resume(str(ours.path), 9000, None, Putting()).updates == last.updates
    assert Path(f"{taken}.other").read_bytes() == list_checkpoints(theirs)[-1].read_bytes()
    assert resume(str(ours.path), 12_000, None, Silence()).status == "finished"


CARTPOLE = ("env.id=gym:CartPole-v1", "env.sutton_barto_reward=true")


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("  sutton_barto_reward: true\n", "", r"env\.sutton_barto_reward is not set, was true"),
        (
            "  sutton_barto_reward: true\n",
            "  sutton_barto_reward: false\n",
            r"env\.sutton_barto_reward is false, was true",
        ),
        ("env:\n", "env:\n  max_episode_steps: 7\n", r"env\.max_episode_steps is 7, was not set"),
        ("  id: gym:CartPole-v1\n", "  id: gym:CartPole-v0\n", r"env\.id is gym:CartPole-v0, was gym:CartPole-v1"),
        ("seed: 0\n", "seed: 1\n", "seed is 1, was 0"),
    ],
)
@pytest.mark.parametrize("lost", ["nothing", "run.json", "the checkpoint's"])
def test_what_makes_another_run_is_noticed_whatever_else_was_lost(
    train_small: TrainSmall, lost: str, line: str, instead: str, said: str
) -> None:
    _, directory = train_small(*CARTPOLE, "train.steps=1000")
    if lost == "run.json":
        directory.run.unlink()
    if lost == "the checkpoint's":  # as in those of earlier versions
        newest = list_checkpoints(directory)[-1]
        tensors, metadata = load_tensors(newest.read_bytes())
        numbers = json.loads(metadata["numbers"])
        del numbers["config"]
        newest.write_bytes(dump_tensors(tensors, {**metadata, "numbers": json.dumps(numbers)}))
    before = directory.config.read_text()
    assert line in before
    directory.config.write_text(before.replace(line, instead))
    with pytest.raises(RunError, match=f"config.yaml was changed after the run began: {said}: put that back"):
        go_on(directory, 2000)
    directory.config.write_text(before)
    assert go_on(directory, 2000).status == "finished"
