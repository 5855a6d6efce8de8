"""What is said from Python of mistakes that users make in calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rattle
from rattle.errors import RattleError

CARTPOLE = {"env.id": "gym:CartPole-v1", "env.worlds": 2, "train.actors": 1, "policy.hidden_sizes": [4]}
ROW = np.zeros(4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> rattle.Run:
    return rattle.train(settings=CARTPOLE, steps=64, run_dir=tmp_path_factory.mktemp("mistakes") / "run")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.policy().act(None), "this policy takes finite numbers, got None"),
        (lambda run: run.policy().act(["1", "2", "3", "4"]), "this policy takes finite numbers, got ['1', "),
        (lambda run: run.policy().act(ROW * 1j), "this policy takes finite numbers, got array("),
        (lambda run: run.policy().act(ROW, state=np.zeros(3)), "this policy has no memory: leave state out"),
        (lambda run: rattle.evaluate(run.policy(), 0), "episodes: a whole number from 1 on is wanted, got 0"),
        (lambda run: rattle.evaluate(run.policy(), "5"), "episodes: a whole number from 1 on is wanted, got '5'"),  # type: ignore[arg-type]
        (lambda run: rattle.evaluate(run.policy(), 2, max_ticks=0), "max_ticks: a whole number from 1 on"),
        (lambda run: run.resume(steps=-4), "steps: a whole number from 1 on is wanted, got -4"),
        (lambda run: run.resume(seconds=0), "seconds: a number above 0 is wanted, got 0"),
        (lambda run: run.resume(on_progress=5), "on_progress must be a function, got 5"),
        (lambda run: run.query(3), "a query is one SQL statement, got 3"),
        (lambda run: rattle.train(CARTPOLE), "an experiment is a file or a name: give settings by name"),  # type: ignore[arg-type]
        (
            lambda run: rattle.make_worlds("snake", {}, "4", 0),
            "num_worlds: a whole number from 1 on is wanted, got '4'",
        ),  # type: ignore[arg-type]
        (lambda run: rattle.make_worlds("snake", {}, 4, "a"), "seed 'a' is not usable: give a whole number"),  # type: ignore[arg-type]
        (lambda run: rattle.make_worlds("snake", None, 4, 0), "worlds are made by the name of an environment"),  # type: ignore[arg-type]
        (lambda run: rattle.load_policy(run.path / "lost.safetensors"), "there is no policy file "),
    ],
)
def test_a_mistake_is_one_line(run: rattle.Run, call: Callable[[Any], object], said: str) -> None:
    with pytest.raises(RattleError) as error:
        call(run)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers(run: rattle.Run) -> None:
    assert rattle.evaluate(run.policy(), np.int64(1), max_ticks=5).episodes == 1  # type: ignore[arg-type]
