"""Images, and observations of several parts with masks: learnt, recorded, and played on by a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import rattle
from rattle.analytics.replay import load_episode
from rattle.analytics.replay.views import view_of
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import EnvError
from rattle.errors import RattleError
from rattle.rollouts.complete import complete
from rattle.runs.checkpoint import list_checkpoints
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

LIGHTS, MASKED = "env.id=tests.encoded_worlds:Lights", "env.id=tests.encoded_worlds:MaskedLights"
SMALL = ("env.size=5", "env.worlds=32", "policy.hidden_sizes=[32]")


def settings(*overrides: str) -> ExperimentSettings:
    """Return an experiment as it is trained."""
    return complete(load_settings(None, [*SMALL, *overrides], {}))


def recorded(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the rows of the table `steps`."""
    paths = sorted(run.table("steps").iterdir())
    return [row for path in paths for row in pyarrow.parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("environment", [LIGHTS, MASKED])
def test_it_is_learnt_from_pixels(tmp_path: Path, environment: str) -> None:
    """What pays is in an image, and with a mask in a vector too; the worlds raise where an action is forbidden."""
    fast = ("algorithm.learning_rate=0.004", "algorithm.ticks=32", "train.steps=100000", "train.stop_at_return=9")
    summary = train(settings(environment, *fast), tmp_path / "run", Silence())
    assert (summary.mean_return or 0) >= 9
    assert summary.env_steps < 60_000


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    short = (MASKED, "algorithm.ticks=16", "record.every_episodes=1")
    whole = train(settings(*short, "train.steps=2048"), tmp_path / "whole", Silence())
    train(settings(*short, "train.steps=1000"), tmp_path / "parts", Silence())
    assert resume(str(tmp_path / "parts"), 2048, None, Silence()).policy_sha256 == whole.policy_sha256
    rows, others = (
        [{**row, "run_id": ""} for row in recorded(RunDirectory(tmp_path / part))] for part in ("whole", "parts")
    )
    assert rows == others
    assert {len(row["observation"]) for row in rows} == {5 * 5 + 2 + 4}


@pytest.mark.parametrize(("size", "numbers"), [(32, 1024), (33, 0)])
def test_images_are_recorded_up_to_1024_numbers(tmp_path: Path, size: int, numbers: int) -> None:
    """An episode that a checkpoint holds goes on in either case."""
    short = (LIGHTS, f"env.size={size}", "env.worlds=4", "algorithm.ticks=8", "record.every_episodes=1")
    train(settings(*short, "train.steps=32"), tmp_path / "run", Silence())
    resume(str(tmp_path / "run"), 96, None, Silence())
    run = RunDirectory(tmp_path / "run")
    rows = recorded(run)
    assert [len(row["observation"]) for row in rows] == [numbers] * 20
    assert {len(row["state"]) > 1000 for row in rows} == {numbers > 0}
    shown = view_of(load_episode(run), 0)
    assert ("observations as large as these are not recorded" in shown.title) == (numbers == 0)
    assert list_checkpoints(run)


def test_a_policy_acts_on_an_image_and_on_a_batch_of_them(tmp_path: Path) -> None:
    train(settings(LIGHTS, "algorithm.ticks=8", "train.steps=256"), tmp_path / "run", Silence())
    policy, worlds = (
        rattle.load_policy(tmp_path / "run"),
        rattle.make_worlds("tests.encoded_worlds:Lights", {"size": 5}, 9, 0),
    )
    batch = worlds.observation
    actions = policy.act(batch, greedy=True)
    assert actions.shape == (9,)
    assert [policy.act(image, greedy=True) for image in batch] == actions.tolist()
    assert policy.value(batch[3]) == policy.value(batch)[3]
    with pytest.raises(RattleError, match=r"this policy takes observations of uint8"):
        policy.act(batch[0, 0])


def test_a_network_that_cannot_take_what_is_observed_says_which_one_can(tmp_path: Path) -> None:
    for environment, observed in ((LIGHTS, "images"), (MASKED, "several parts")):
        with pytest.raises(SettingsError, match=rf"policy.network is mlp, .* observes {observed}: set policy.network="):
            train(settings(environment, "policy.network=mlp"), tmp_path / observed, Silence())
    with pytest.raises(SettingsError, match=r"algorithm.scale_observations is true, and the first layer of 'encoders'"):
        settings(LIGHTS, "algorithm.scale_observations=true")


def test_a_mask_of_other_actions_is_refused(tmp_path: Path, user_module: UserModule) -> None:
    user_module(
        "masks",
        """
        from rattle.extend import BoxSpace, DiscreteSpace
        from tests.encoded_worlds import MaskedLights

        class Five(MaskedLights):
            def advance(self, action):
                self.reward[:] = 1

            def spaces(self):
                return super().spaces()[0], DiscreteSpace(n=5)

        class Real(Five):
            def spaces(self):
                return super().spaces()[0], BoxSpace(low=(0.0,), high=(1.0,))
        """,
    )
    for name, actions in (("Five", "whole numbers from 0 to 4"), ("Real", r"finite numbers of shape \(1,\)")):
        said = rf"'masks:{name}' has the mask 'mask' of 4 entries, and its actions are {actions}"
        with pytest.raises(EnvError, match=said):
            train(settings(f"env.id=masks:{name}"), tmp_path / name, Silence())
