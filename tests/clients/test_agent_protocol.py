"""What a client makes of bytes, without a socket."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.clients.agent_protocol import (
    MOVES,
    AgentState,
    BadAnswer,
    Health,
    LineReader,
    Lines,
    MoveAnswer,
    SnakeLost,
    check_snake_id,
    observation,
    read_about,
    read_answer,
)
from rattle.clients.errors import ClientError, RequestRefused
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.geometry import Cell, Move, visible_offsets
from rattle.envs.snake.settings import SnakeSettings


def line(number: int, **changes: Any) -> bytes:
    fields = {
        "snake_id": "anna",
        "tick": number,
        "visible_cells": {"1,1": "HEAD", "1,0": "FOOD", "0,1": "EMPTY", "2,1": "EMPTY", "1,2": "BODY"},
        "reward": 0.0,
        "game_over": False,
        "datetime": "2026-01-31T12:00:00.000000+00:00",
        "length": 3,
    } | changes
    return msgspec.json.encode({key: value for key, value in fields.items() if value is not None}) + b"\n"


def read(reader: LineReader, data: bytes) -> list[AgentState]:
    reader.feed(data)
    states = []
    while (state := reader.next_state()) is not None:
        states.append(state)
    return states


@given(st.lists(st.integers(0, 2000), max_size=20))
def test_lines_may_be_cut_anywhere(cuts: list[int]) -> None:
    data = b"".join(line(tick) for tick in range(5))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = LineReader("anna", "all")
    states = [state for start, end in pairwise(edges) for state in read(reader, data[start:end])]
    assert [state.tick for state in states] == list(range(5))


def test_what_a_server_sent_is_repeated_as_one_printable_line() -> None:
    with pytest.raises(BadAnswer) as wrong:
        read_about("anna", MoveAnswer("b\x1b[2J\neve" + "n" * 10_000, game_over=False))
    assert str(wrong.value).startswith("the answer to a request of 'anna' is about 'b [2J even")
    assert len(str(wrong.value)) == 2000


def test_unknown_fields_are_ignored() -> None:
    (state,) = read(LineReader("anna"), line(3, speed=2))
    assert (state.tick, state.length, state.datetime.year) == (3, 3, 2026)


BAD_LINES = {
    "no JSON": b'{"snake_id":"anna","ti\n',
    "a list": b"[]\n",
    "no text": b'{"snake_id":"\xff"}\n',
    "no reward": line(1, reward=None),
    "tick as text": line(1, tick="1"),
    "a negative tick": line(-1),
    "an unknown cell": line(1, visible_cells={"0,0": "WALL"}),
    "no time": line(1, datetime="noon"),
    "another snake": line(1, snake_id="ben"),
    "deep": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("data", BAD_LINES.values(), ids=BAD_LINES)
def test_lines_that_are_none_are_refused_after_those_that_are(data: bytes) -> None:
    reader = LineReader("anna")
    reader.feed(line(0) + data)
    assert reader.next_state() is not None
    with pytest.raises(BadAnswer):
        reader.next_state()


def test_a_line_without_an_end_is_refused() -> None:
    reader = LineReader("anna")
    for _ in range(4):
        reader.feed(b" " * 2**20)
    with pytest.raises(BadAnswer, match="longer than"):
        reader.feed(b" ")


@pytest.mark.parametrize(
    ("lines", "ticks", "refused"),
    [
        ("newest", [3, 4, 9], False),
        ("newest", [3, 3], True),
        ("newest", [3, 2], True),
        ("all", [3, 4, 5], False),
        ("all", [3, 5], True),
        ("all", [3, 3], True),
    ],
)
def test_ticks_rise(lines: Lines, ticks: list[int], refused: bool) -> None:
    reader = LineReader("anna", lines)
    reader.feed(b"".join(map(line, ticks)))
    for tick in ticks[:-1]:
        state = reader.next_state()
        assert state is not None
        assert state.tick == tick
    if refused:
        with pytest.raises(BadAnswer, match="tick"):
            reader.next_state()
    else:
        assert reader.next_state() is not None


def test_a_new_connection_may_repeat_a_line_and_loses_what_was_cut() -> None:
    reader = LineReader("anna", "all")
    assert len(read(reader, line(1) + line(2)[:30])) == 1
    reader.connect()
    assert [state.tick for state in read(reader, line(1) + line(2))] == [2]
    with pytest.raises(BadAnswer):
        read(reader, line(2))


@pytest.mark.parametrize(("lines", "tick"), [("newest", 4), ("all", 4), ("all", 7)])
def test_a_new_connection_does_not_hide_a_loss(lines: Lines, tick: int) -> None:
    reader = LineReader("anna", lines)
    read(reader, line(5))
    reader.connect()
    with pytest.raises(SnakeLost):
        read(reader, line(tick))


@pytest.mark.parametrize(
    ("world", "alive"),
    [
        ({"status": {"anna": {"game_over": False}}}, True),
        ({"status": {"anna": {"game_over": True}}}, False),
        ({"status": {"ben": {"game_over": False}}}, False),
        ({"status": []}, False),
        ({}, False),
    ],
)
def test_a_dead_snake_is_not_joined_anew(world: dict[str, Any], alive: bool) -> None:
    if alive:
        LineReader("anna").check_still_alive(world)
    else:
        with pytest.raises(SnakeLost):
            LineReader("anna").check_still_alive(world)


def test_a_problem_becomes_an_error_with_its_parts() -> None:
    body = b'{"status": 400, "detail": "move must be left", "code": "bad_value", "field": "move"}'
    with pytest.raises(RequestRefused, match="move must be left") as caught:
        read_answer(400, {}, body, Health)
    assert (caught.value.status, caught.value.code, caught.value.field) == (400, "bad_value", "move")


@pytest.mark.parametrize("body", [b"<h1>500</h1>", b"", b"[]", b"\xff", b'{"code": 7}'])
def test_an_error_that_is_no_problem_is_an_error_all_the_same(body: bytes) -> None:
    with pytest.raises(RequestRefused, match="500") as caught:
        read_answer(500, {}, body, Health)
    assert caught.value.status == 500


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)])
def test_busy_servers_say_when_to_come_again(header: str, seconds: float) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_answer(503, {"retry-after": header}, b'{"detail": "full", "code": "full"}', Health)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"{}"), (200, b'{"service'), (200, b"\xff"), (302, b""), (204, b"")]
)
def test_answers_that_are_none_are_refused(status: int, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(status, {}, body, Health)


@pytest.mark.parametrize("snake_id", ["", "a b", "a/b", "a" * 65, "ä", "a\n"])
def test_ids_that_fit_no_path_are_refused(snake_id: str) -> None:
    with pytest.raises(ClientError, match="id is 1 to 64"):
        check_snake_id(snake_id)


def test_moves_stand_in_the_order_of_actions() -> None:
    assert list(MOVES) == [Move(action).name.lower() for action in range(3)]


@given(st.integers(1, 8), st.data())
def test_an_observation_is_what_the_batch_worlds_give(radius: int, data: st.DataObject) -> None:
    """From the board of a batch world, seen as the agent API tells it, comes the batch world's own observation."""
    seed, steps = data.draw(st.integers(0, 1000)), data.draw(st.lists(st.integers(0, 2), max_size=12))
    worlds = SnakeWorlds(SnakeSettings(vision_radius=radius, width=30, height=30, num_snakes=2, food=40), 1, seed)
    for action in steps:
        worlds.step(np.full(2, action))
    for seen in worlds.observation:
        cells = {
            f"{radius + dx},{radius + dy}": Cell(int(code)).name
            for (dx, dy), code in zip(visible_offsets(radius), seen, strict=True)
        }
        names = list((cells | {f"{radius},{radius}": "HEAD"}).items())
        shuffled = dict(data.draw(st.permutations(names)))
        assert np.array_equal(observation(shuffled), seen)
        assert observation(shuffled).dtype == np.uint8


def test_an_observation_drawn_by_hand() -> None:
    cells = {"1,0": "FOOD", "0,1": "OTHER_HEAD", "1,1": "HEAD", "2,1": "OTHER_BODY", "1,2": "BODY"}
    assert observation(cells).tolist() == [3, 1, 2, 4], "left, ahead, behind, right"


WINDOWS = {
    "no head": {"1,0": "EMPTY", "0,1": "EMPTY", "2,1": "EMPTY", "1,2": "BODY"},
    "two heads": {"1,0": "HEAD", "0,1": "EMPTY", "1,1": "HEAD", "2,1": "EMPTY", "1,2": "BODY"},
    "head aside": {"1,0": "EMPTY", "0,1": "EMPTY", "1,2": "HEAD", "2,1": "EMPTY", "1,1": "BODY"},
    "a cell missing": {"1,0": "EMPTY", "0,1": "EMPTY", "1,1": "HEAD", "2,1": "EMPTY"},
    "a cell more": {"1,0": "EMPTY", "0,1": "EMPTY", "1,1": "HEAD", "2,1": "EMPTY", "1,2": "BODY", "0,0": "EMPTY"},
    "from the head": {"0,-1": "EMPTY", "-1,0": "EMPTY", "0,0": "HEAD", "1,0": "EMPTY", "0,1": "BODY"},
    "no places": {"head": "HEAD"},
    "a huge window": {"1000000,1000000": "HEAD"},
    "a wall": {"1,0": "WALL", "0,1": "EMPTY", "1,1": "HEAD", "2,1": "EMPTY", "1,2": "BODY"},
}


@pytest.mark.parametrize("cells", WINDOWS.values(), ids=WINDOWS)
def test_windows_of_another_shape_are_refused(cells: dict[str, str]) -> None:
    with pytest.raises(BadAnswer, match="visible_cells"):
        observation(cells)
