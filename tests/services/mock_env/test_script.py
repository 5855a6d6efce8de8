"""The script is what the README says, and a shorter script is the beginning of a longer one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.mock_env.script import line

TICKS = st.integers(0, 200)


def seen(tick: int, length: int = 10) -> dict[str, str]:
    cells = line("anna", tick, length).visible_cells
    return {key: name for key, name in cells.items() if name != "EMPTY"}


def test_the_script_of_ten_moves_as_the_readme_has_it() -> None:
    lines = [line("anna", tick, 10) for tick in range(11)]
    assert [state.reward for state in lines] == [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, -1]
    assert [state.length for state in lines] == [3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5]
    assert [state.game_over for state in lines] == [False] * 10 + [True]
    body = {"5,5": "HEAD", "5,6": "BODY", "5,7": "BODY"}
    assert seen(0) == body
    assert seen(1) == body | {"5,2": "FOOD"}
    assert seen(2) == body | {"5,3": "FOOD"}
    assert seen(3) == body | {"5,4": "FOOD"}
    assert seen(4) == body | {"5,8": "BODY"}
    assert seen(9) == body | {"5,8": "BODY", "5,9": "BODY", "5,2": "FOOD"}
    assert seen(10) == seen(9)


def test_a_line_is_these_bytes() -> None:
    encoded = msgspec.json.encode(line("anna", 3, 10))
    assert encoded.startswith(b'{"snake_id":"anna","tick":3,"visible_cells":{"0,5":"EMPTY","1,4":"EMPTY"')
    assert encoded.endswith(b'"10,5":"EMPTY"},"reward":0.0,"game_over":false,"datetime":"","length":3}')
    assert b'"5,4":"FOOD","5,5":"HEAD","5,6":"BODY","5,7":"BODY","5,8":"EMPTY"' in encoded


@given(TICKS, st.integers(1, 200), st.integers(1, 200))
def test_the_length_decides_the_last_line_only(tick: int, one: int, other: int) -> None:
    if tick < min(one, other):
        assert line("anna", tick, one) == line("anna", tick, other)


@given(TICKS, st.integers(1, 200))
def test_every_line_shows_the_whole_window(tick: int, length: int) -> None:
    cells = line("anna", tick, length).visible_cells
    places = [tuple(map(int, key.split(","))) for key in cells]
    assert places == sorted((x, y) for x in range(11) for y in range(11) if abs(x - 5) + abs(y - 5) <= 5)
    assert [key for key, name in cells.items() if name == "HEAD"] == ["5,5"]


@pytest.mark.parametrize("tick", range(1, 40))
def test_food_is_eaten_when_it_was_ahead(tick: int) -> None:
    ahead = line("anna", tick - 1, 100).visible_cells["5,4"] == "FOOD"
    state = line("anna", tick, 100)
    assert (state.reward == 1.0) is ahead
    assert state.length == line("anna", tick - 1, 100).length + ahead
