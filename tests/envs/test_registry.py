"""Environments by name, and what is said about names and settings that are wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_worlds import GymnasiumWorlds
from rattle.envs.registry import make_worlds, validate
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.settings import SnakeSettings
from rattle.envs.vector import VectorWorlds


def test_makes_snake() -> None:
    worlds = make_worlds("snake", {"num_snakes": 2, "rewards": {"alive": 0.5}}, 3, seed=4, first_world=7)
    assert isinstance(worlds, SnakeWorlds)
    assert isinstance(worlds, VectorWorlds)
    assert (worlds.num_slots, worlds.seed, worlds.first_world) == (6, 4, 7)
    assert worlds.settings.rewards.alive == 0.5


def test_makes_gymnasium_environments() -> None:
    worlds = make_worlds("gym:CartPole-v1", {"sutton_barto_reward": True}, 2, seed=4, first_world=7)
    assert isinstance(worlds, GymnasiumWorlds)
    assert worlds.spec.id == "gym:CartPole-v1"
    assert (worlds.num_slots, worlds.seed, worlds.first_world) == (2, 4, 7)


def test_validate_fills_in_the_defaults() -> None:
    full = validate("snake", {"width": 9})
    assert full == SnakeSettings(width=9).model_dump()
    assert validate("snake", full) == full
    assert validate("gym:CartPole-v1", {"sutton_barto_reward": True}) == {"sutton_barto_reward": True}


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        ("snake", {"widht": 9}, "bad settings of snake: unknown key 'widht', did you mean 'width'"),
        ("snake", {"rewards": {"eat_fod": 1}}, "unknown key 'rewards.eat_fod', did you mean 'eat_food'"),
        ("snake", {"xyzzy": 1}, "unknown key 'xyzzy', known are width, height"),
        ("snake", {"width": 3, "food": "many"}, "width: at least 4 is wanted, got 3; food: .*got 'many'"),
        ("snake", {"width": 4, "height": 4, "food": 20}, "snake: food 20 does not fit"),
        ("snake", {"rewards": 3}, "rewards: .*got 3"),
        ("snek", {}, "unknown environment 'snek', did you mean 'snake'"),
        ("CartPole-v1", {}, "unknown environment 'CartPole-v1', did you mean 'gym:CartPole-v1'"),
        ("", {}, "unknown environment ''. There are 'snake', 'gym:ID'"),
        ("gym:CartPole-v9", {}, "no environment 'CartPole-v9', did you mean 'CartPole-v1'"),
        ("gym:", {}, "no environment ''"),
    ],
)
def test_mistakes_get_one_line(environment: str, settings: dict[str, Any], message: str) -> None:
    for ask in (lambda: validate(environment, settings), lambda: make_worlds(environment, settings, 1, seed=0)):
        with pytest.raises(EnvError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def ask_as_a_file(environment: str, settings: dict[str, Any]) -> list[Callable[[], object]]:
    """Return both ways to ask for what a file names."""
    return [
        lambda: validate(environment, settings, allow_imports=False),
        lambda: make_worlds(environment, settings, 1, seed=0, allow_imports=False),
    ]


def test_a_file_gets_no_module_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for ask in ask_as_a_file("gym:stranger:Thing-v0", {}):
        with pytest.raises(EnvError, match=r"'stranger', which is not imported because a file says so") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ("snake", {"width": 9}),
        ("gym:CartPole-v1", {"sutton_barto_reward": True, "max_episode_steps": 20}),
        ("gym:rattle.envs:rattle/Snake-v0", {"vision_radius": 2}),  # this process has imported it
    ],
)
def test_a_file_gets_what_is_there(environment: str, settings: dict[str, Any]) -> None:
    for ask in ask_as_a_file(environment, settings):
        ask()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({name: None}, f"may not be given '{name}'") for name in ("vector_kwargs", "entry_point")),
        ({"wrappers": None}, "wrappers: a list is wanted, such as .*, got null"),
        ({"vectorization_mode": "sync"}, "may not be given 'vectorization_mode'"),
        ({"f": print}, "'f' from outside: builtin_function_or_method is no plain JSON value"),
        ({"f": [{"g": (1, 2)}]}, "'f' from outside: list is no plain JSON value"),
        ({"f": {1: 2}}, "'f' from outside: dict is no plain JSON value"),
        ({"f": float("nan")}, "'f' from outside: float is no plain JSON value"),
    ],
)
def test_a_file_hands_over_no_code(settings: dict[str, Any], message: str) -> None:
    for ask in ask_as_a_file("gym:CartPole-v1", settings):
        with pytest.raises(EnvError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_validating_compiles_nothing() -> None:
    program = (
        "import sys; from rattle.envs.registry import validate; validate('snake', {}); validate('gym:CartPole-v1', {});"
        "validate('pettingzoo:tests.envs.parallel_party', {});"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
