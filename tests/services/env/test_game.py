"""The agent API's use cases: games that begin and end, lives, readers, what is remembered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.snake.open_world import OpenWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env import game as game_module
from rattle.services.env.game import Game
from rattle.services.env.lives import Moment
from rattle.wire.problems import RequestError

LEAVE_SECONDS = 5.0
BIG = SnakeSettings(width=20, height=20, max_steps_without_food=0)


class Reading:
    """A reader that keeps its lines, and sees that nothing follows the last."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.over = False

    def put(self, line: bytes, last: bool) -> None:
        assert not self.over
        self.lines.append(json.loads(line))
        self.over = last
        assert self.lines[-1]["game_over"] == last

    @property
    def ticks(self) -> list[int]:
        return [line["tick"] for line in self.lines]


def at(seconds: float) -> Moment:
    return Moment(seconds, datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=seconds))


def new_game(config: SnakeSettings = BIG, capacity: int = 4, seed: int = 1) -> Game:
    return Game(config, seed, capacity, "turns", LEAVE_SECONDS)


def joined(game: Game, snake_id: str, seconds: float = 0.0) -> Reading:
    reading = Reading()
    game.follow(snake_id, reading, at(seconds))
    return reading


def refused(code: str, field: str | None = None) -> Any:
    return pytest.raises(RequestError, check=lambda error: (error.code, error.field) == (code, field))


def state(game: Game) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(msgspec.json.encode(game.state()))
    return content


def test_no_game_is_in_progress_until_a_snake_joins() -> None:
    game = new_game()
    game.tick(at(0))
    assert game.health() | {"version": ""} == {
        "service": "rattle env",
        "environment": "snake",
        "version": "",
        "game_over": True,
        "agents": 0,
        "capacity": 4,
        "tick": 0,
        "clock": "turns",
    }
    assert state(game)["global_game_over"]
    anna = joined(game, "anna")
    assert not game.health()["game_over"]
    assert anna.ticks == [0]
    assert anna.lines[0]["reward"] == 0
    assert anna.lines[0]["visible_cells"]["5,5"] == "HEAD"
    assert anna.lines[0]["visible_cells"]["5,6"] == "BODY"


def test_every_tick_brings_every_reader_one_line() -> None:
    game = new_game()
    anna, ben = joined(game, "anna"), joined(game, "ben")
    for tick in range(3):
        game.tick(at(tick))
    also_anna = joined(game, "anna", 3.0)
    game.tick(at(3))
    assert anna.ticks == ben.ticks == [0, 1, 2, 3, 4]
    assert also_anna.ticks == [3, 4]
    assert also_anna.lines[-1] == anna.lines[-1]
    assert (game.ticks, game.lines) == (4, 12)


def test_the_last_move_before_a_tick_counts_and_none_is_forward() -> None:
    game, world = new_game(), OpenWorld(BIG, 1, 0, 4)
    joined(game, "anna")
    world.join("anna")
    for moves, action in ((["left", "right"], 1), ([], 0), (["forward", "left"], 2), ([], 0)):
        for move in moves:
            assert game.move("anna", move) == {"snake_id": "anna", "game_over": False}
        game.tick(at(0))
        world.advance({"anna": action})
        head = list(world.snakes[0].body[0])
        assert state(game)["status"]["anna"]["head"] == head
    assert game.moves == 4


def test_a_death_ends_the_stream_with_what_was_seen_last() -> None:
    game = new_game(SnakeSettings(max_steps_without_food=2, rewards={"game_over": -4.0}))
    anna = joined(game, "anna")
    game.tick(at(0))
    if anna.lines[-1]["length"] > 3:  # it would take food in the way to live longer
        pytest.skip("food lay ahead")
    game.tick(at(1))
    assert anna.over
    assert anna.ticks == [0, 1, 2]
    assert anna.lines[-1]["reward"] == -4.0
    assert anna.lines[-1]["visible_cells"] == anna.lines[-2]["visible_cells"]
    assert anna.lines[-1]["length"] == 3
    assert game.move("anna", "left") == {"snake_id": "anna", "game_over": True}
    shown = state(game)
    assert shown["global_game_over"]
    assert shown["visions"] == {}
    assert shown["status"]["anna"] == {
        "game_over": True, "length": 3, "score": 0, "heading": None, "head": None, "reward": -4.0,
    }  # fmt: skip
    assert not any(cell["snake_id"] for cells in shown["grid"].values() for cell in cells)


def test_after_the_last_death_the_next_to_join_begins_the_next_episode() -> None:
    game = new_game(SnakeSettings(max_steps_without_food=1))
    for episode in range(3):
        anna = joined(game, "anna")
        assert (state(game)["seed"], state(game)["episode"], state(game)["tick"]) == (1, episode, 0)
        while not anna.over:
            game.tick(at(0))


def test_a_dead_snake_joins_again_while_others_play_on() -> None:
    game = new_game()
    ben = joined(game, "ben")
    game.reset_snake("ben", at(0))
    anna = joined(game, "anna")
    game.tick(at(0))
    assert ben.over
    again = joined(game, "ben")
    game.tick(at(1))
    assert again.ticks == [1, 2]
    assert anna.ticks == [0, 1, 2]
    assert state(game)["episode"] == 0


@pytest.mark.parametrize("change", [{"max_steps": 3}, {"ends_when": "any"}])
def test_the_end_of_the_world_ends_all_lives(change: dict[str, Any]) -> None:
    starving = {"max_steps_without_food": 3} if "ends_when" in change else {}
    game = new_game(BIG.model_copy(update=change | starving))
    anna, ben = joined(game, "anna"), joined(game, "ben")
    while not anna.over:
        game.tick(at(0))
    assert ben.over
    assert anna.ticks == ben.ticks
    assert game.health()["agents"] == 0
    assert game.health()["game_over"]
    assert state(game)["status"]["ben"]["game_over"]


def test_reset_ends_every_life_and_counts_episodes_of_the_seed() -> None:
    game = new_game(seed=5)
    assert game.reset(at(0)) == {"game_over": False, "seed": 5}
    anna, ben = joined(game, "anna"), joined(game, "ben")
    assert state(game)["episode"] == 0  # nobody had played it
    game.tick(at(0))
    assert game.reset(at(1)) == {"game_over": False, "seed": 5}
    assert anna.over
    assert ben.over
    assert anna.ticks == [0, 1, 2]
    assert anna.lines[-1]["visible_cells"] == anna.lines[-2]["visible_cells"]
    assert game.move("anna", "left")["game_over"]
    joined(game, "anna")
    assert (state(game)["seed"], state(game)["episode"]) == (5, 1)
    assert game.reset(at(2), 9) == {"game_over": False, "seed": 9}
    first = joined(game, "anna").lines
    assert (state(game)["seed"], state(game)["episode"]) == (9, 0)
    with refused("unknown_snake"):
        game.move("ben", "left")  # the game that ben played in is over, and another one has begun
    game.reset(at(3), 9)
    assert joined(game, "anna").lines == first[:1]


def test_reset_of_a_snake_places_a_fresh_one_that_waits_for_its_reader() -> None:
    game = new_game()
    anna, ben = joined(game, "anna"), joined(game, "ben")
    game.tick(at(0))
    assert game.reset_snake("anna", at(1)) == {"snake_id": "anna", "game_over": False}
    assert anna.over
    assert anna.ticks == [0, 1, 2]
    assert game.agents == 2
    game.tick(at(1 + LEAVE_SECONDS / 2))
    again = joined(game, "anna", 1 + LEAVE_SECONDS / 2)
    game.tick(at(1 + 2 * LEAVE_SECONDS))
    assert again.ticks == [2, 3]
    assert ben.ticks == [0, 1, 2, 3]
    game.reset_snake("ben", at(20))
    game.tick(at(20 + LEAVE_SECONDS))
    assert game.agents == 1
    assert game.move("ben", "left")["game_over"]


def test_a_dead_snake_can_be_reset_and_begins_the_next_game() -> None:
    game = new_game()
    joined(game, "anna")
    game.reset(at(0))
    assert game.reset_snake("anna", at(0)) == {"snake_id": "anna", "game_over": False}
    assert game.agents == 1
    assert state(game)["episode"] == 1


def test_a_snake_that_nobody_reads_leaves_after_a_while() -> None:
    game = new_game()
    readings = {name: Reading() for name in ("anna", "ben")}
    lives = {name: game.follow(name, reading, at(0)) for name, reading in readings.items()}
    game.unfollow(lives["anna"], readings["anna"], at(10))
    game.tick(at(10 + 0.9 * LEAVE_SECONDS))
    assert game.agents == 2
    game.expire(at(10 + LEAVE_SECONDS))
    assert game.agents == 1
    assert readings["anna"].ticks == [0]
    game.unfollow(lives["ben"], readings["ben"], at(20))
    game.expire(at(20 + LEAVE_SECONDS))
    assert game.health()["game_over"]
    joined(game, "anna")
    assert state(game)["episode"] == 1


def test_a_reader_that_comes_back_in_time_keeps_its_snake() -> None:
    game, first = new_game(), Reading()
    game.unfollow(game.follow("anna", first, at(0)), first, at(1))
    second = joined(game, "anna", 1 + LEAVE_SECONDS / 2)
    game.tick(at(100))
    assert second.ticks == [0, 1]


def test_readers_that_go_do_not_end_what_another_reads() -> None:
    game, first, second = new_game(), Reading(), Reading()
    life = game.follow("anna", first, at(0))
    assert game.follow("anna", second, at(0)) is life
    game.unfollow(life, first, at(1))
    game.tick(at(50))
    assert (first.ticks, second.ticks) == ([0], [0, 1])


def test_all_have_moved_when_every_snake_that_is_read_has() -> None:
    game, reading = new_game(), Reading()
    assert not game.all_moved
    joined(game, "anna")
    life = game.follow("ben", reading, at(0))
    assert not game.all_moved
    game.move("anna", "left")
    assert not game.all_moved
    game.unfollow(life, reading, at(0))
    assert game.all_moved
    game.tick(at(0))
    assert not game.all_moved
    game.move("ben", "left")  # nobody reads it: its move is no turn
    assert not game.all_moved
    joined(game, "ben")
    game.move("anna", "left")
    assert game.all_moved  # ben's move of before still counts


def test_moves_of_nobody_that_is_read_do_not_make_a_turn() -> None:
    game, reading = new_game(), Reading()
    game.unfollow(game.follow("anna", reading, at(0)), reading, at(0))
    game.move("anna", "left")
    assert not game.all_moved


def test_a_full_world_takes_nobody_in_until_there_is_room() -> None:
    game = new_game(capacity=2)
    joined(game, "anna")
    ben = Reading()
    game.unfollow(game.follow("ben", ben, at(0)), ben, at(0))
    with refused("full"):
        joined(game, "carl", 1.0)
    joined(game, "carl", LEAVE_SECONDS)  # ben has gone by now


def test_close_ends_every_stream_and_lets_nobody_in() -> None:
    game = new_game()
    anna = joined(game, "anna")
    game.tick(at(0))
    game.close(at(1))
    assert anna.over
    with refused("shutting_down"):
        joined(game, "anna")


@pytest.mark.parametrize("move", ["up", "", None, 1, True, ["left"], {"move": "left"}, "x" * 1000])
def test_bad_moves_are_refused(move: object) -> None:
    game = new_game()
    joined(game, "anna")
    with refused("bad_value", "move") as caught:
        game.move("anna", move)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.0, "1", None, [1]])
def test_bad_seeds_are_refused_and_end_nothing(seed: object) -> None:
    game = new_game()
    joined(game, "anna")
    with refused("bad_value", "seed"):
        game.reset(at(0), seed)
    assert game.agents == 1


@pytest.mark.parametrize("snake_id", ["", "a b", "a/b", "é", "x" * 65, 'a"', "a\n", "a\\"])
def test_bad_ids_are_refused(snake_id: str) -> None:
    game = new_game()
    for call in (
        lambda: joined(game, snake_id),
        lambda: game.move(snake_id, "left"),
        lambda: game.reset_snake(snake_id, at(0)),
    ):
        with refused("bad_value", "id"):
            call()


def test_unknown_snakes_are_refused() -> None:
    game = new_game()
    for call in (lambda: game.move("nobody", "left"), lambda: game.reset_snake("nobody", at(0))):
        with refused("unknown_snake"):
            call()


def test_of_many_dead_the_first_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game_module, "REMEMBERED_DEAD", 10)
    game = new_game()
    joined(game, "stays")
    for number in range(30):
        reading = Reading()
        game.unfollow(game.follow(f"s{number}", reading, at(number * 10)), reading, at(number * 10))
        game.expire(at(number * 10 + 9))
    assert len(state(game)["status"]) == 11
    assert game.move("s29", "left")["game_over"]
    with refused("unknown_snake"):
        game.move("s0", "left")


def assert_state_is_whole(game: Game) -> None:
    shown = state(game)
    living = {name for name, status in shown["status"].items() if not status["game_over"]}
    heads = [cell["snake_id"] for cells in shown["grid"].values() for cell in cells if cell["type"] == "HEAD"]
    assert sorted(heads) == sorted(living) == sorted(shown["visions"])
    assert len(living) == game.agents
    assert shown["global_game_over"] == (not living)


def in_order(ticks: list[int]) -> bool:
    return ticks == list(range(ticks[0], ticks[0] + len(ticks)))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), max_size=120), st.integers(0, 2**32))
def test_whatever_happens_streams_are_in_order_and_end_once(calls: list[tuple[int, int]], seed: int) -> None:
    game = Game(SnakeSettings(width=9, height=9, max_steps_without_food=6, max_steps=30), seed, 4, "turns", 3.0)
    open_streams: list[tuple[Any, Reading]] = []
    everything: list[Reading] = []
    for now, (call, number) in enumerate(calls):
        name = f"s{number}"
        try:
            if call <= 1:
                reading = Reading()
                open_streams.append((game.follow(name, reading, at(now)), reading))
                everything.append(reading)
            elif call == 2 and open_streams:
                life, reading = open_streams.pop(number % len(open_streams))
                game.unfollow(life, reading, at(now))
            elif call == 3:
                game.reset_snake(name, at(now))
            elif call == 4 and number == 0:
                game.reset(at(now))
            elif call == 5:
                game.move(name, ("left", "right", "forward")[number % 3])
            else:
                game.tick(at(now))
        except RequestError as error:
            if error.code not in ("full", "unknown_snake"):
                raise
        assert_state_is_whole(game)
    assert all(in_order(reading.ticks) for reading in everything)
    assert all(reading.over != life.alive for life, reading in open_streams)
