"""Gymnasium ids are found, with their module where they need one, or the error says what to do."""

from __future__ import annotations

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
