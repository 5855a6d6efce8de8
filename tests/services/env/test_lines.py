"""Lines are what JSON's own writer would make of them."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.snake.geometry import Cell, visible_offsets
from rattle.services.env.lines import CellMaps, LineFormat

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
IDS = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)


@settings(max_examples=60)
@given(radius=st.integers(1, 12), snakes=st.integers(0, 4), play=st.integers(0, 2**32))
def test_a_map_names_every_cell_of_the_window(radius: int, snakes: int, play: int) -> None:
    offsets = visible_offsets(radius)
    codes = np.random.default_rng(play).integers(0, 5, (snakes, len(offsets))).astype(np.uint8)
    maps = CellMaps(radius).encode(codes)
    assert len(maps) == snakes
    for row, text in zip(codes.tolist(), maps, strict=True):
        expected = {
            f"{dx + radius},{dy + radius}": Cell(code).name for (dx, dy), code in zip(offsets, row, strict=True)
        }
        expected[f"{radius},{radius}"] = "HEAD"
        assert json.loads(text) == expected
        in_order = sorted(expected.items(), key=lambda item: tuple(map(int, item[0].split(","))))
        assert text.decode() == json.dumps(dict(in_order), separators=(",", ":"))


@given(
    snake_id=IDS,
    tick=st.integers(0, 2**40),
    reward=st.floats(allow_nan=False, allow_infinity=False),
    length=st.integers(3, 2**14),
    game_over=st.booleans(),
    now=st.datetimes(timezones=st.just(UTC)),
)
def test_a_line_is_valid_json_for_any_snake(
    snake_id: str, tick: int, reward: float, length: int, game_over: bool, now: datetime
) -> None:
    line = LineFormat(tick, now).line(snake_id, b'{"1,1":"HEAD"}', reward, length, game_over)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields = json.loads(line)
    assert datetime.fromisoformat(fields.pop("datetime")) == now
    assert fields == {
        "snake_id": snake_id,
        "tick": tick,
        "visible_cells": {"1,1": "HEAD"},
        "reward": reward,
        "game_over": game_over,
        "length": length,
    }


def test_a_line_as_the_contract_shows_it() -> None:
    maps = CellMaps(1).encode(np.array([[0, 1, 2, 3]], np.uint8))
    assert LineFormat(12, NOW).line("anna", maps[0], 0.0, 3) == (
        b'{"snake_id":"anna","tick":12,"visible_cells":{"0,1":"EMPTY","1,0":"FOOD","1,1":"HEAD","1,2":"BODY",'
        b'"2,1":"OTHER_HEAD"},"reward":0.0,"game_over":false,"datetime":"2026-01-31T12:00:00.000000+00:00","length":3}\n'
    )


@pytest.mark.parametrize("reward", [float("inf"), float("-inf"), float("nan")])
def test_rewards_that_json_has_no_number_for_are_null(reward: float) -> None:
    assert json.loads(LineFormat(0, NOW).line("anna", b"{}", reward, 3))["reward"] is None


def test_times_keep_their_offset() -> None:
    now = NOW.astimezone(timezone(timedelta(hours=2)))
    assert b'"datetime":"2026-01-31T14:00:00.000000+02:00"' in LineFormat(0, now).line("anna", b"{}", 0.0, 3)
