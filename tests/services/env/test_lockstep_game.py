"""A game in lockstep: the same history whatever the order of requests and the time, and the same for both sides."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.clients.agent_protocol import MOVES, observation
from rattle.envs.snake import open_world
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env.lives import Moment, SnakeLife
from rattle.services.env.lockstep_game import LockstepGame
from rattle.wire.history import BEGINNING, PLACED, after_line
from rattle.wire.problems import RequestError

IDS = ("main-0", "main-1", "main-10", "main-2")
LEAVE_TICKS = 2
#: Small and hungry: snakes meet, die and come back within a few ticks.
TIGHT = SnakeSettings(width=9, height=9, food=3, max_steps_without_food=9)
BIG = SnakeSettings(width=30, height=30, max_steps_without_food=0)
EPOCH = datetime(2026, 1, 31, tzinfo=UTC)


class Reading:
    """A reader that keeps its lines, and sees that nothing follows the last."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.over = False

    def put(self, line: bytes, last: bool) -> None:
        assert not self.over
        if line:
            self.lines.append(json.loads(line))
        self.over = last

    @property
    def ticks(self) -> list[int]:
        return [line["tick"] for line in self.lines]


def at(seconds: float) -> Moment:
    return Moment(seconds, EPOCH + timedelta(seconds=seconds))


NOW = at(0.0)


def new_game(config: SnakeSettings = BIG, capacity: int = 4, seed: int = 1) -> LockstepGame:
    return LockstepGame(config, seed, capacity, LEAVE_TICKS)


def joined(game: LockstepGame, snake_id: str) -> Reading:
    reading = Reading()
    game.follow(snake_id, reading, NOW)
    return reading


def full() -> Any:
    return pytest.raises(RequestError, check=lambda error: error.code == "full")


# -- the same history in any order --------------------------------------------------------------------------------


class Playing:
    """The clients of a game, one a snake, and what they and the service have to show."""

    def __init__(self, config: SnakeSettings) -> None:
        self.game = new_game(config)
        self.lines: dict[str, list[Any]] = {snake_id: [] for snake_id in IDS}
        self.histories: list[tuple[bytes, dict[str, bytes]]] = []
        self._open: dict[str, list[tuple[SnakeLife, Reading]]] = {snake_id: [] for snake_id in IDS}

    def do(self, snake_id: str, what: str, moment: Moment) -> None:
        """Make a request of a snake's client; refusals are answers like others."""
        with suppress(RequestError):
            if what == "join":
                reading = Reading()
                self._open[snake_id].append((self.game.follow(snake_id, reading, moment), reading))
                self.lines[snake_id].append(reading)
            elif what == "leave" and self._open[snake_id]:
                self.game.unfollow(*self._open[snake_id].pop(), moment)
            elif what == "reset":
                self.game.reset_snake(snake_id, moment)
            elif what in MOVES:
                self.game.move(snake_id, what)

    def tick(self, moment: Moment) -> None:
        self.game.tick(moment)
        self.histories.append((self.game.world_history, dict(self.game.snake_histories)))

    def seen(self) -> dict[str, Any]:
        """Return all that the clients were given, but for the dates."""
        return {
            snake_id: [([line | {"datetime": ""} for line in reading.lines], reading.over) for reading in readings]
            for snake_id, readings in self.lines.items()
        }


REQUESTS = st.sampled_from(["join", "join", "join", "left", "right", "forward", "leave", "reset"])
#: For every tick what each client asks, in its order; and whether somebody resets the game, with a seed or without.
SCRIPTS = st.lists(
    st.tuples(
        st.tuples(*[st.lists(REQUESTS, max_size=3)] * len(IDS)),
        st.sampled_from([None, None, None, None, None, None, "same seed", 5]),
    ),
    min_size=1,
    max_size=40,
)


def play(script: list[Any], seed: int) -> Playing:
    """Play a script: within a tick, each client's requests in its order, but mixed at random with the others'."""
    playing, seconds = Playing(TIGHT), 0.0
    order = Random(seed)  # noqa: S311 - a test's
    for clients, reset in script:
        left: list[list[Callable[[Moment], object]]] = [
            [partial(playing.do, who, what) for what in asked] for who, asked in zip(IDS, clients, strict=True)
        ]
        if reset is not None:
            left.append([partial(playing.game.reset, seed=msgspec.UNSET if reset == "same seed" else reset)])
        while left := [asked for asked in left if asked]:
            seconds += order.random() * 10
            order.choice(left).pop(0)(at(seconds))
        seconds += order.random() * 10
        if order.random() < 0.2:
            playing.game.expire(at(seconds))  # as `GET /state` does
        playing.tick(at(seconds))
    return playing


@settings(max_examples=150)
@given(script=SCRIPTS, first=st.integers(0, 2**32), second=st.integers(0, 2**32))
def test_the_history_is_the_same_in_any_order_and_at_any_time(script: list[Any], first: int, second: int) -> None:
    one, other = play(script, first), play(script, second)
    assert one.histories == other.histories
    assert one.seen() == other.seen()


def test_what_is_done_otherwise_makes_another_history() -> None:
    script: list[Any] = [((["join"], ["join"], [], []), None), *[(([], [], [], []), None)] * 5]
    turned = [*script[:3], ((["left"], [], [], []), None), *script[4:]]
    one, other = play(script, 0), play(turned, 0)
    assert one.histories[:3] == other.histories[:3]
    for (world, snakes), (other_world, other_snakes) in zip(one.histories[3:], other.histories[3:], strict=True):
        assert world != other_world
        assert snakes["main-0"] != other_snakes["main-0"]


def test_the_history_goes_on_while_nobody_is_there() -> None:
    game, seen = new_game(), {BEGINNING}
    for _ in range(5):
        game.tick(NOW)
        assert game.world_history not in seen
        seen.add(game.world_history)
    assert game.snake_histories == {}


# -- both sides ---------------------------------------------------------------------------------------------------


class Agent:
    """A client that plays by the rules of lockstep, and keeps the history of its snake from what it is given."""

    def __init__(self, game: LockstepGame, snake_id: str, choice: Random) -> None:
        self.history, self.lives = BEGINNING, 0
        self._game, self._id, self._random = game, snake_id, choice
        self._reading: Reading | None = None
        self._action = PLACED

    def act(self) -> None:
        """Act before a tick: join, rest, or move."""
        if self._reading is None:
            if self._random.random() < 0.7:
                self._reading, self._action = joined(self._game, self._id), PLACED
            return
        self._action = self._random.choice([0, 0, 0, 1, 2])
        if self._action or self._random.random() < 0.5:  # a snake without a move goes forward
            self._game.move(self._id, MOVES[self._action])

    def take_in(self) -> None:
        """Take in what the tick has brought: one line for each snake that lives or has joined."""
        if self._reading is None:
            return
        (line,) = self._reading.lines
        self._reading.lines.clear()
        codes = observation(line["visible_cells"])
        self.history = after_line(
            self.history, line["tick"], self._action, line["reward"], line["length"], line["game_over"], codes
        )
        assert self._reading.over == line["game_over"]
        if line["game_over"]:
            self._reading = None
            self.lives += 1


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), ends_when=st.sampled_from(["all", "any"]), reward=st.floats(-2, 2))
def test_both_sides_have_the_same_history_over_many_lives(seed: int, ends_when: Any, reward: float) -> None:
    config = SnakeSettings(width=9, height=9, food=3, max_steps=30, ends_when=ends_when, rewards={"alive": reward})
    game, choice = new_game(config, seed=seed), Random(seed)  # noqa: S311 - a test's
    agents = {snake_id: Agent(game, snake_id, choice) for snake_id in IDS}
    for _ in range(60):
        for agent in choice.sample(list(agents.values()), len(agents)):
            agent.act()
        game.tick(NOW)
        for agent in agents.values():
            agent.take_in()
        known = {snake_id: agent.history for snake_id, agent in agents.items() if agent.history != BEGINNING}
        assert game.snake_histories == known
    assert sum(agent.lives for agent in agents.values()) > 4


# -- joins --------------------------------------------------------------------------------------------------------


def test_a_snake_is_placed_in_the_next_tick_and_has_its_line_like_everybody_else() -> None:
    game = new_game()
    anna = joined(game, "anna")
    assert anna.lines == []
    assert (game.agents, game.in_progress) == (0, False)
    game.tick(at(1))
    game.tick(at(2))
    ben = joined(game, "ben")
    assert ben.lines == []
    game.tick(at(3))
    assert anna.ticks == [0, 1, 2]
    assert ben.ticks == [2]
    assert ben.lines[0]["reward"] == 0
    game.tick(at(4))
    assert (anna.ticks, ben.ticks) == ([0, 1, 2, 3], [2, 3])


def test_those_who_live_see_those_who_are_placed_in_the_same_tick() -> None:
    game = new_game(SnakeSettings(width=8, height=8, vision_radius=8, max_steps_without_food=0))
    anna = joined(game, "anna")
    game.tick(NOW)
    assert "OTHER_HEAD" not in anna.lines[-1]["visible_cells"].values()
    joined(game, "ben")
    game.tick(NOW)
    assert "OTHER_HEAD" in anna.lines[-1]["visible_cells"].values()


def test_those_who_wait_when_a_game_ends_begin_the_next_in_the_same_tick() -> None:
    game = new_game(SnakeSettings(width=20, height=20, max_steps=3))
    anna = joined(game, "anna")
    for _ in range(3):
        game.tick(NOW)
    ben = joined(game, "ben")
    game.tick(NOW)
    assert anna.ticks == [0, 1, 2, 3]
    assert anna.over
    assert ben.ticks == [0]
    assert (game.in_progress, game.episode) == (True, 1)


def test_who_goes_away_while_waiting_is_not_placed() -> None:
    game, first, second = new_game(), Reading(), Reading()
    life = game.follow("anna", first, NOW)
    assert game.follow("anna", second, NOW) is life
    game.unfollow(life, first, NOW)
    game.tick(NOW)
    assert (first.lines, second.ticks) == ([], [0])  # the other one still waited

    ben = Reading()
    game.unfollow(game.follow("ben", ben, NOW), ben, NOW)
    game.tick(NOW)
    assert ben.lines == []
    assert game.agents == 1


def test_room_is_counted_with_those_who_wait() -> None:
    game = new_game(capacity=2)
    joined(game, "anna")
    game.tick(NOW)
    joined(game, "ben")
    with full():
        joined(game, "cleo")
    game.tick(NOW)
    with full():
        joined(game, "cleo")
    assert set(game.state()["status"]) == {"anna", "ben"}


def test_a_snake_without_a_place_sees_its_stream_end(monkeypatch: pytest.MonkeyPatch) -> None:
    game = new_game()
    anna = joined(game, "anna")
    game.tick(NOW)
    monkeypatch.setattr(open_world, "PLACING_DRAWS", 0)
    ben = joined(game, "ben")
    game.tick(NOW)
    assert (ben.lines, ben.over) == ([], True)
    assert "ben" not in game.snake_histories
    monkeypatch.undo()
    again = joined(game, "ben")
    game.tick(NOW)
    assert anna.ticks == [0, 1, 2]
    assert again.ticks == [2]


def test_a_reader_that_comes_back_has_the_present_line_at_once() -> None:
    game = new_game()
    first = Reading()
    life = game.follow("anna", first, NOW)
    game.tick(NOW)
    game.unfollow(life, first, NOW)
    before = dict(game.snake_histories)
    again = joined(game, "anna")
    assert again.lines == first.lines
    assert game.snake_histories == before  # it is no news
    for _ in range(2 * LEAVE_TICKS):
        game.tick(at(1e6))
    assert again.ticks == list(range(2 * LEAVE_TICKS + 1))


def test_a_snake_that_nobody_reads_leaves_after_some_ticks_and_not_after_some_time() -> None:
    game, reading = new_game(), Reading()
    life = game.follow("anna", reading, NOW)
    game.tick(NOW)
    game.unfollow(life, reading, at(1))
    game.expire(at(1e9))
    for _ in range(LEAVE_TICKS - 1):
        game.tick(at(1e9))
        assert game.agents == 1
    game.tick(at(1e9))
    assert game.agents == 0
    assert not game.in_progress


def test_a_move_of_a_snake_that_waits_is_answered_and_does_nothing() -> None:
    game, other = new_game(), new_game()
    for one in (game, other):
        joined(one, "anna")
    assert game.move("anna", "left") == {"snake_id": "anna", "game_over": False}
    with pytest.raises(RequestError, match="move must be"):
        game.move("anna", "up")
    for _ in range(2):
        game.tick(NOW)
        other.tick(NOW)
    assert game.world_history == other.world_history


# -- resets and the end -------------------------------------------------------------------------------------------


def test_a_reset_snake_dies_and_begins_again_in_the_next_tick() -> None:
    game = new_game()
    anna, ben = joined(game, "anna"), joined(game, "ben")
    game.tick(NOW)
    assert game.reset_snake("anna", NOW) == {"snake_id": "anna", "game_over": False}
    assert not anna.over
    game.tick(NOW)
    assert anna.over
    assert anna.ticks == ben.ticks == [0, 1]
    assert anna.lines[-1]["reward"] == 0
    assert game.agents == 2
    new = joined(game, "anna")
    assert new.ticks == [1]
    for _ in range(2 * LEAVE_TICKS):
        game.tick(NOW)
    assert new.ticks == ben.ticks[1:]


def test_a_reset_snake_that_nobody_comes_to_read_leaves() -> None:
    game = new_game()
    joined(game, "anna")
    game.tick(NOW)
    game.reset_snake("anna", NOW)
    for _ in range(LEAVE_TICKS):
        game.tick(NOW)
        assert game.agents == 1
    game.tick(NOW)
    assert game.agents == 0


def test_a_dead_snake_that_is_reset_joins_with_the_next_tick_and_an_unknown_one_is_refused() -> None:
    game = new_game(SnakeSettings(width=20, height=20, max_steps=1))
    joined(game, "anna")
    game.tick(NOW)
    game.tick(NOW)
    assert game.agents == 0
    with pytest.raises(RequestError, match="no snake 'ben' has joined"):
        game.reset_snake("ben", NOW)
    game.reset_snake("anna", NOW)
    game.reset_snake("anna", NOW)
    game.tick(NOW)
    assert game.agents == 1


def test_a_reset_of_the_game_comes_with_the_next_tick() -> None:
    game = new_game()
    anna = joined(game, "anna")
    game.tick(NOW)
    assert game.reset(NOW) == {"game_over": False, "seed": 1}
    assert game.reset(NOW, 7) == {"game_over": False, "seed": 7}
    assert game.reset(NOW) == {"game_over": False, "seed": 7}
    ben = joined(game, "ben")
    assert not anna.over
    game.tick(NOW)
    assert anna.over
    assert (anna.ticks, ben.ticks) == ([0, 1], [0])
    assert (game.seed, game.episode) == (7, 0)
    assert game.reset(NOW) == {"game_over": False, "seed": 7}
    game.tick(NOW)
    joined(game, "cleo")
    game.tick(NOW)
    assert (game.seed, game.episode) == (7, 1)


def test_when_the_service_stops_those_who_wait_are_let_go() -> None:
    game = new_game()
    anna = joined(game, "anna")
    game.tick(NOW)
    ben = joined(game, "ben")
    game.close(NOW)
    assert (anna.over, ben.over, ben.lines) == (True, True, [])
    with pytest.raises(RequestError, check=lambda error: error.code == "shutting_down"):
        joined(game, "cleo")
