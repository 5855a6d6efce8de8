"""How the checker's snakes play, on the worlds of the environment itself."""

from __future__ import annotations

from typing import Any

import pytest

from rattle.conformance.steering import steer


def line(length: int = 3, **cells: str) -> dict[str, Any]:
    seen = {"0,5": "EMPTY", "10,5": "EMPTY", "5,5": "HEAD", "5,6": "BODY"}
    return {"length": length, "visible_cells": {**seen, **{key.replace("_", ","): name for key, name in cells.items()}}}


@pytest.mark.parametrize(
    ("cells", "move"),
    [
        ({"5_2": "FOOD"}, "forward"),
        ({"3_5": "FOOD"}, "left"),
        ({"8_5": "FOOD"}, "right"),
        ({"8_7": "FOOD", "2_5": "OTHER_HEAD"}, "left"),
    ],
)
def test_a_snake_goes_for_the_nearest_goal(cells: dict[str, str], move: str) -> None:
    assert steer(0, line(**{f"{key}": name for key, name in cells.items()})) == move


def test_a_long_snake_turns_until_it_meets_itself() -> None:
    assert steer(0, line(length=5)) == "left"


def test_with_nothing_in_sight_it_turns_to_both_sides_in_turn() -> None:
    moves = [steer(number, line()) for number in range(10)]
    assert moves.count("left") == moves.count("right") == 1


@pytest.mark.parametrize("odd", [None, {}, {"visible_cells": 3}, {"visible_cells": {"x": "FOOD", "1": "HEAD"}}])
def test_odd_lines_do_not_stop_it(odd: Any) -> None:
    assert steer(0, odd) in ("left", "right", "forward")
