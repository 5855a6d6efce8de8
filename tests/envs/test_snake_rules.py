"""The rules of Snake as boards drawn by hand: what follows is written down here, not computed by another player.

Snakes are drawn from the head back: the first as ABC..., the second as abc..., the third as 012...; food is *.
"""

from __future__ import annotations

from collections import deque
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Protocol

import numpy as np
import pytest

from rattle.envs.snake import kernel
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.reference import Position, Snake, SnakeWorld
from rattle.envs.snake.settings import SnakeSettings

ALPHABETS = (ascii_uppercase, ascii_lowercase, digits)
FORWARD, RIGHT, LEFT = 0, 1, 2
PAY = {"alive": 0.5, "eat_food": 2.0, "game_over": -3.0}


class Drawing:
    """A board read from its drawing."""

    def __init__(self, text: str) -> None:
        self.lines = text.split()
        places = {(x, y): mark for y, line in enumerate(self.lines) for x, mark in enumerate(line) if mark not in ".*"}
        at = {mark: place for place, mark in places.items()}
        assert len(at) == len(places)
        self.bodies = [[at[mark] for mark in alphabet if mark in at] for alphabet in ALPHABETS]
        while not self.bodies[-1]:
            self.bodies.pop()
        self.food = {(x, y) for y, line in enumerate(self.lines) for x, mark in enumerate(line) if mark == "*"}

    def settings(self, **changes: Any) -> SnakeSettings:
        width, height = len(self.lines[0]), len(self.lines)
        food = max(1, len(self.food))
        return SnakeSettings(
            **({"width": width, "height": height, "num_snakes": len(self.bodies), "food": food} | changes)
        )


class Player(Protocol):
    """A world that stands as drawn, played by one of the two implementations."""

    rewards: list[float]
    terminated: list[bool]
    truncated: list[bool]
    over: bool

    def __init__(self, drawing: Drawing, headings: str, settings: SnakeSettings) -> None: ...

    def step(self, *actions: int) -> None: ...

    def bodies(self) -> list[list[Position]]: ...

    def food(self) -> set[Position]: ...

    def observation(self, snake: int) -> list[int]: ...


class Plain:
    """Plays by the readable rules."""

    def __init__(self, drawing: Drawing, headings: str, settings: SnakeSettings) -> None:
        self.world = SnakeWorld(settings, seed=1)
        facing = ["NESW".index(heading) for heading in headings]
        self.world.snakes = [Snake(deque(body), way) for body, way in zip(drawing.bodies, facing, strict=True)]
        self.world.food = set(drawing.food)

    def step(self, *actions: int) -> None:
        result = self.world.step(list(actions))
        self.rewards, self.terminated, self.truncated = result.rewards, result.terminated, result.truncated
        self.over = result.over

    def bodies(self) -> list[list[Position]]:
        return [list(snake.body) for snake in self.world.snakes]

    def food(self) -> set[Position]:
        return self.world.food

    def observation(self, snake: int) -> list[int]:
        return [int(code) for code in self.world.observe(snake)]


class Compiled:
    """Plays by the compiled kernel, in the middle one of three worlds."""

    def __init__(self, drawing: Drawing, headings: str, settings: SnakeSettings) -> None:
        self.worlds = SnakeWorlds(settings, 3, seed=1)
        self.rows = slice(settings.num_snakes, 2 * settings.num_snakes)
        state = self.worlds.state()
        board = np.zeros((settings.height, settings.width), np.uint8)
        for x, y in drawing.food:
            board[y, x] = kernel.FOOD
        for number, (body, heading) in enumerate(zip(drawing.bodies, headings, strict=True)):
            slot = settings.num_snakes + number
            agent = state["agent"].view(kernel.AGENT_DTYPE)[slot : slot + 1]
            agent["length"], agent["ring_head"], agent["heading"] = len(body), len(body) - 1, "NESW".index(heading)
            agent["head"] = body[0][1] * settings.width + body[0][0]
            cells = [y * settings.width + x for x, y in reversed(body)]
            state["ring"].view(np.uint16)[slot, : len(body)] = cells
            for back, (x, y) in enumerate(body):
                board[y, x] = kernel.FIRST_BODY + 2 * number + (back == 0 and settings.num_snakes > 1)
        state["board"][1] = np.pad(board, settings.vision_radius, mode="wrap").ravel()
        state["world"].view(kernel.WORLD_DTYPE)["food"][1] = len(drawing.food)
        self.worlds.restore(state)

    def step(self, *actions: int) -> None:
        worlds, before = self.worlds, int(self.worlds.episode[1])
        worlds.step(np.array([FORWARD] * len(actions) + list(actions) + [FORWARD] * len(actions)))
        self.rewards = [float(reward) for reward in worlds.reward[self.rows]]
        self.terminated = [bool(end) for end in worlds.terminated[self.rows]]
        self.truncated = [bool(end) for end in worlds.truncated[self.rows]]
        self.over = int(worlds.episode[1]) > before

    def bodies(self) -> list[list[Position]]:
        return [[(x, y) for x, y in body] for body in self.worlds.snapshot(1)["bodies"]]

    def food(self) -> set[Position]:
        return {(x, y) for x, y in self.worlds.snapshot(1)["food"]}

    def observation(self, snake: int) -> list[int]:
        return [int(code) for code in self.worlds.observation[self.rows][snake]]


@pytest.fixture(params=[Plain, Compiled], ids=["plain", "compiled"])
def player(request: pytest.FixtureRequest) -> type[Player]:
    chosen: type[Player] = request.param
    return chosen


def test_the_own_leaving_tail_may_be_followed(player: type[Player]) -> None:
    drawing = Drawing("...... .AD... .BC... ...... ......")
    world = player(drawing, "N", drawing.settings(food=1))
    world.step(RIGHT)
    assert world.rewards == [0]
    assert world.bodies() == Drawing("...... .BA... .CD... ...... ......").bodies


def test_the_leaving_tail_of_another_may_be_followed(player: type[Player]) -> None:
    drawing = Drawing("...... CBAc.. ...b.. ...a.. ...... *.....")
    world = player(drawing, "ES", drawing.settings())
    world.step(FORWARD, FORWARD)
    assert world.rewards == [0, 0]
    assert world.bodies() == Drawing("...... .CBA.. ...c.. ...b.. ...a.. ......").bodies


def test_the_tail_of_a_snake_that_eats_stays_and_kills(player: type[Player]) -> None:
    drawing = Drawing("...... CBAc.. ...b.. ...a.. ...*.. ......")
    world = player(drawing, "ES", drawing.settings())
    world.step(FORWARD, FORWARD)
    assert world.rewards == [-1, 1]
    assert (world.terminated, world.truncated, world.over) == ([True, False], [False, False], False)
    assert world.bodies() == [[], [(3, 4), (3, 3), (3, 2), (3, 1)]]
    assert world.observation(0) == [0] * 60


@pytest.mark.parametrize(
    ("board", "heading", "head"),
    [
        ("..A.. ..B.. ..C.. ..... *....", "N", (2, 4)),
        ("..... ..... ..CBA ..... *....", "E", (0, 2)),
        ("..... *.... ..C.. ..B.. ..A..", "S", (2, 0)),
        ("..... ..... ABC.. ..... *....", "W", (4, 2)),
    ],
)
def test_the_edges_are_joined(player: type[Player], board: str, heading: str, head: Position) -> None:
    drawing = Drawing(board)
    world = player(drawing, heading, drawing.settings(vision_radius=2))
    world.step(FORWARD)
    assert world.bodies() == [[head, *drawing.bodies[0][:2]]]
    assert world.rewards == [0]


@pytest.mark.parametrize(
    ("row", "reward"),
    [
        ("CBAabc..", -3),  # they cross
        ("CBA.abc.", -3),  # onto one empty cell
        ("CBA*abc.", -1),  # onto one item of food: both eat, both die
    ],
)
def test_heads_that_meet_die_together(player: type[Player], row: str, reward: float) -> None:
    drawing = Drawing(f"........ {row} ........ ........ ....*...")
    world = player(drawing, "EW", drawing.settings(rewards=PAY))
    world.step(FORWARD, FORWARD)
    assert world.rewards == [reward, reward]
    assert (world.terminated, world.truncated, world.over) == ([True, True], [False, False], True)


def test_food_that_two_reach_is_eaten_once(player: type[Player]) -> None:
    drawing = Drawing("........ CBA*abc. ........ .210.... ........ ....*...")
    world = player(drawing, "EWE", drawing.settings(rewards=PAY))
    world.step(FORWARD, FORWARD, FORWARD)
    assert world.rewards == [-1, -1, 0.5]
    assert world.bodies() == [[], [], [(4, 3), (3, 3), (2, 3)]]
    assert (4, 5) in world.food()
    assert len(world.food()) == 2
    world.step(LEFT, RIGHT, LEFT)
    assert world.rewards == [0, 0, 0.5]
    assert world.terminated == [False] * 3


def test_the_body_of_a_snake_that_dies_in_the_same_tick_kills(player: type[Player]) -> None:
    drawing = Drawing("....e.. ....d.. .CBAc.. ...ab.. ....... ......*")
    world = player(drawing, "EW", drawing.settings())
    world.step(FORWARD, RIGHT)
    assert world.rewards == [-1, -1]
    assert world.terminated == [True, True]


def test_a_snake_starves_on_its_last_tick_and_not_before(player: type[Player]) -> None:
    drawing = Drawing("....... CBA.... ....... ....... ......*")
    world = player(drawing, "E", drawing.settings(max_steps_without_food=3))
    for _ in range(2):
        world.step(FORWARD)
        assert (world.rewards, world.terminated) == ([0], [False])
    world.step(FORWARD)
    assert (world.rewards, world.terminated, world.over) == ([-1], [True], True)


def test_eating_on_the_last_tick_saves(player: type[Player]) -> None:
    drawing = Drawing("........ CBA..*.. ........ ........")
    world = player(drawing, "E", drawing.settings(max_steps_without_food=3))
    for _ in range(3):
        world.step(FORWARD)
    assert (world.rewards, world.terminated) == ([1], [False])
    assert world.bodies() == [[(5, 1), (4, 1), (3, 1), (2, 1)]]


@pytest.mark.parametrize(
    ("board", "heading", "ahead", "right", "left"),
    [
        ("..... ..... ..A.. ..B.. *.C..", "N", (2, 1), (3, 2), (1, 2)),
        ("..... ..... CBA.. ..... *....", "E", (3, 2), (2, 3), (2, 1)),
        ("..C.. ..B.. ..A.. ..... *....", "S", (2, 3), (1, 2), (3, 2)),
        ("..... ..... ..ABC ..... *....", "W", (1, 2), (2, 1), (2, 3)),
    ],
)
def test_turns(
    player: type[Player], board: str, heading: str, ahead: Position, right: Position, left: Position
) -> None:
    drawing = Drawing(board)
    for action, cell in ((0, ahead), (1, right), (2, left)):
        world = player(drawing, heading, drawing.settings(vision_radius=2))
        world.step(action)
        assert world.bodies()[0][0] == cell


#: Seen by A with radius 2, by x and then y of the turned view; the head itself is left out.
SEEN_NORTH = [1, *(1, 0, 0), *(3, 4, 2, 2), *(4, 0, 0), 0]
SEEN_EAST = [3, *(4, 4, 1), *(1, 0, 2, 2), *(0, 1, 0), 0]


@pytest.mark.parametrize(
    ("board", "headings", "seen"),
    [
        ("....... ...a... ..*bc.. .*.A... ...B... ...C..* .......", "NN", SEEN_NORTH),
        ("....... ...a... ..*bc.. .CBA.*. ...*... ....... .......", "EN", SEEN_EAST),
    ],
)
def test_what_is_seen(player: type[Player], board: str, headings: str, seen: list[int]) -> None:
    drawing = Drawing(board)
    world = player(drawing, headings, drawing.settings(vision_radius=2))
    assert world.observation(0) == seen
    assert len(player(drawing, headings, drawing.settings(vision_radius=5)).observation(0)) == 60


@pytest.mark.parametrize(("ends_when", "over"), [("all", False), ("any", True)])
def test_a_world_ends_when_all_or_any_are_dead(player: type[Player], ends_when: str, over: bool) -> None:
    drawing = Drawing("...c.... CBAb.... ...a.... ........ ........ *.......")
    world = player(drawing, "ES", drawing.settings(ends_when=ends_when))
    world.step(FORWARD, FORWARD)
    assert world.rewards == [-1, 0]
    assert (world.terminated, world.truncated, world.over) == ([True, over], [False, False], over)


def test_a_world_is_cut_after_max_steps(player: type[Player]) -> None:
    drawing = Drawing("........ CBA.abc. ........ .012.... ........ *.......")
    world = player(drawing, "EWW", drawing.settings(max_steps=2))
    world.step(LEFT, RIGHT, FORWARD)
    assert (world.truncated, world.over) == ([False] * 3, False)
    world.step(RIGHT, LEFT, FORWARD)  # the first two meet in the last tick
    assert world.rewards == [-1, -1, 0]
    assert (world.terminated, world.truncated, world.over) == ([True, True, False], [False, False, True], True)


def test_a_full_board_is_won(player: type[Player]) -> None:
    drawing = Drawing("ABCD HGFE IJKL *ONM")
    world = player(drawing, "W", drawing.settings(vision_radius=2, rewards=PAY))
    world.step(RIGHT)  # north over the edge
    assert (world.rewards, world.terminated, world.truncated, world.over) == ([2.5], [False], [True], True)


def test_a_tick_pays_for_food_and_for_being_alive(player: type[Player]) -> None:
    drawing = Drawing("........ CBA*.... ........ ........")
    world = player(drawing, "E", drawing.settings(rewards=PAY))
    world.step(FORWARD)
    assert world.rewards == [2.5]


def test_starting_positions() -> None:
    steps = {0: (0, -1), 1: (1, 0), 2: (0, 1), 3: (-1, 0)}
    width, height = 9, 8
    seen = set()
    for seed in range(40):
        worlds = SnakeWorlds(SnakeSettings(width=width, height=height, num_snakes=4, food=5), 5, seed=seed)
        for world in range(5):
            shown = worlds.snapshot(world)
            taken = [(x, y) for body in shown["bodies"] for x, y in body]
            assert len(taken) == len(set(taken)) == 12
            assert len({(x, y) for x, y in shown["food"]} - set(taken)) == 5
            for body, heading in zip(shown["bodies"], shown["headings"], strict=True):
                (x, y), (dx, dy) = body[0], steps[heading]
                assert body == [[(x - back * dx) % width, (y - back * dy) % height] for back in range(3)]
                assert ((x + dx) % width, (y + dy) % height) not in taken
                seen.add((x, y, heading))
    assert len(seen) > 200  # of 288
