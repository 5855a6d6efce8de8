"""Settings are listed: all, those of a section, and those of a user's class of any kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rattle.cli import main
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "extend"


def listed(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["settings", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_all_settings_are_listed() -> None:
    text = listed()
    for line in ("  train.steps  ", "  env.width  ", "  hooks[N].use  ", "  algorithm.clip  ", "  approx_kl  "):
        assert line in text
    assert "Algorithm ppo" in text


def test_a_section_or_what_comes_with_rattle_is_listed_alone() -> None:
    assert "train.steps" in listed("train")
    assert "env." not in listed("train")
    assert "algorithm.minibatches" in listed("ppo")
    assert "algorithm.baseline" not in listed("ppo")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "my_algorithm:Clipped",
            [
                "Algorithm my_algorithm:Clipped: Policy gradient with a clipped ratio",
                "algorithm.clip                  0.2 ",
                "held_share     -               Share of the samples",
            ],
        ),
        ("my_world:Pond", ["Environment my_world:Pond: A frog", "  env.ticks  20       Ticks of an episode."]),
        ("my_hook:StopAtFood", ["Hook my_hook:StopAtFood: Ends a run", "  hooks[N].food      60 ", "mean_food  food"]),
        (
            "gymnasium.wrappers:TimeLimit",
            ["Wrapper gymnasium.wrappers:TimeLimit: Limits", "  env.wrappers[N].max_epis"],
        ),
        ("others:Lake", ["  env.depth  3 ", "  env.name   lake "]),
    ],
)
def test_a_class_of_a_user_is_listed(user_module: UserModule, name: str, lines: list[str]) -> None:
    for module in ("my_algorithm", "my_world", "my_hook"):
        user_module(module, (EXAMPLES / f"{module}.py").read_text())
    lake = """import gymnasium
class Lake(gymnasium.Env):
    def __init__(self, depth: int = 3, name="lake"): ...
    def reset(self, *, seed=None, options=None): ...
    def step(self, action): ...
"""
    user_module("others", lake)
    text = listed(name)
    for line in lines:
        assert line in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ppx", "there are no settings of 'ppx', did you mean 'ppo'?"),
        ("nowhere:Mine", "cannot import 'nowhere'"),
        ("pathlib:Path", "'pathlib:Path' is not an environment"),
        ("pathlib:Pat", "'pathlib' has no class 'Pat', did you mean 'Path'"),
    ],
)
def test_what_has_no_settings_is_said(name: str, said: str) -> None:
    result = CliRunner().invoke(main, ["settings", name])
    assert result.exit_code == 1
    assert said in result.output


def test_hooks_that_come_with_rattle_are_listed_by_name() -> None:
    assert "hooks[N].project" in listed("wandb")
    said = listed("tensorboard")
    assert "Hook rattle.hooks.tensorboard:TensorBoard: Writes event files" in said
    assert said.endswith("  (no settings of its own)\n")
