"""Gymnasium ids are found, with their module where they need one, or the error says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import pytest

from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_ids import find_spec


def test_finds_what_is_registered() -> None:
    assert find_spec("CartPole-v1") is gymnasium.spec("CartPole-v1")
    assert find_spec("rattle.envs:rattle/Snake-v0") is gymnasium.spec("rattle/Snake-v0")


@pytest.mark.parametrize(
    ("gymnasium_id", "message"),
    [
        ("CartPol-v1", "no environment 'CartPol-v1', did you mean 'CartPole-v1'"),
        ("CartPole", "did you mean 'CartPole-v1'"),
        ("Qbert/Zzz-v0", "no environment .*pprint_registry.* need their module: 'gym:MODULE:Qbert/Zzz-v0'"),
        ("rattle.envs:rattle/Snail-v0", "no environment 'rattle/Snail-v0', did you mean 'rattle/Snake-v0'"),
        ("no_such_module:Thing-v0", "cannot import 'no_such_module', which should register 'Thing-v0'"),
        (".relative:Thing-v0", "cannot import '.relative'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(gymnasium_id: str, message: str) -> None:
    with pytest.raises(EnvError, match=message) as caught:
        find_spec(gymnasium_id)
    assert "\n" not in str(caught.value)


def test_modules_in_the_current_folder_are_found_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise AssertionError('the standard library comes first')")
    (tmp_path / "mazes_here.py").write_text(
        "import json, gymnasium\ngymnasium.register('HereMaze-v0', 'mazes_here:Maze')"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(EnvError, match="is not imported because a file says so"):
        find_spec("mazes_here:HereMaze-v0", allow_imports=False)
    try:
        assert find_spec("mazes_here:HereMaze-v0").id == "HereMaze-v0"
    finally:
        gymnasium.registry.pop("HereMaze-v0", None)
        sys.modules.pop("mazes_here", None)
    assert sys.path == before
