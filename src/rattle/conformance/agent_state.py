"""Checks of `GET /state`."""

from __future__ import annotations

from collections import Counter

from rattle.conformance.agent_health import expect_fields
from rattle.conformance.agent_play import READY, play_lives, several, state
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import Failed, an_object, expect, fail, kind, skip
from rattle.conformance.streams import joined
from rattle.conformance.target import Target

CHECKS = CheckGroup()
_STATE = ("agent.state.fields",)
_STATE_FIELDS: dict[str, type] = {
    "grid": dict,
    "visions": dict,
    "status": dict,
    "global_game_over": bool,
    "tick": int,
    "episode": int,
    "seed": int,
    "width": int,
    "height": int,
    "vision_radius": int,
    "clock": str,
}
_STATUS: dict[str, type | tuple[type, ...]] = {
    "game_over": bool,
    "length": int,
    "score": (int, float),
    "heading": str,
    "reward": (int, float),
}


@CHECKS.check("agent.state.fields", "GET /state has every field, each of its type", READY)
def state_fields(target: Target) -> None:
    """With a snake in the world."""
    with joined(target) as (reader,):
        found = state(target)
        expect_fields(found, _STATE_FIELDS, "GET /state")
        status = an_object(found["status"].get(reader.snake), f"status of {reader.snake}, which has joined,")
        expect_fields(status, _STATUS, f"status of {reader.snake}")


@CHECKS.check(
    "agent.state.agrees",
    "GET /state says the same as the stream at the same tick",
    ("agent.state.fields", "agent.stream.window"),
)
def agrees(target: Target) -> None:
    """What a snake sees, and how long it is."""
    for _ in range(6):
        with joined(target) as (reader,):
            found = state(target)
            tick = found["tick"]
            reader.wait_tick(tick)
            lines = [line.value for line in reader.lines if line.value and line.value["tick"] == tick]
        if not lines or lines[0]["game_over"]:
            continue
        line, vision = lines[0], found["visions"].get(reader.snake)
        expect(
            vision == line["visible_cells"],
            f"visions in GET /state at tick {tick} is not what the snake's stream shows at that tick",
            expected=line["visible_cells"],
            got=vision,
        )
        length = found["status"][reader.snake]["length"]
        expect(length == line["length"], f"status says length {length}, the stream {line['length']}")
        cells = 2 * found["vision_radius"] * (found["vision_radius"] + 1) + 1
        expect(
            len(vision) == cells,
            f"vision_radius {found['vision_radius']} means {cells} visible cells, but there are {len(vision)}",
        )
        return
    skip("the state and the stream were never seen at the same tick")


@CHECKS.check("agent.state.grid", "The grid holds heads, bodies and food, inside the world", _STATE)
def grid(target: Target) -> None:
    """As many cells of a snake as it is long, one of them its head."""
    with joined(target, several(target)):
        found = state(target)
    counts: Counter[str | None] = Counter()
    heads: dict[str | None, list[int]] = {}
    for key, entries in found["grid"].items():
        place = [int(number) for number in key.split(",")]
        inside = len(place) == 2 and 0 <= place[0] < found["width"] and 0 <= place[1] < found["height"]
        expect(inside, f"cell '{key}' is outside the world of {found['width']} x {found['height']} cells", got=entries)
        expect(isinstance(entries, list) and entries, f"cell '{key}' is {kind(entries)}, not a list with entries")
        for entry in entries:
            expect(entry["type"] in ("HEAD", "BODY", "FOOD"), f"cell '{key}' holds type {entry['type']!r}", got=entry)
            owned = entry["type"] != "FOOD"
            expect((entry["snake_id"] is not None) == owned, f"snake_id in cell '{key}' is wrong", got=entry)
            counts[entry["snake_id"]] += owned
            if entry["type"] == "HEAD":
                heads[entry["snake_id"]] = place
    for snake, status in found["status"].items():
        if status["game_over"]:
            continue
        expect(
            heads.get(snake) == status["head"],
            f"status says that the head of {snake} is at {status['head']}, the grid says {heads.get(snake)}",
        )
        expect(counts[snake] == status["length"], f"{snake} has length {status['length']}, but {counts[snake]} cells")


@CHECKS.check(
    "agent.state.dead",
    "GET /state keeps this game's dead, and says when no game is in progress",
    _STATE,
)
def dead(target: Target) -> None:
    """game_over true and head null, and no vision."""
    lives = target.fact(play_lives)
    if lives.by_reset:
        skip("no life ended by itself within the time that the checker plays; POST /reset had to end them")
    if isinstance(lives.state, Failed):
        raise lives.state
    found = lives.state.object()
    for reader in lives.readers:
        status = found["status"].get(reader.snake)
        if status is None:
            fail(f"status lacks {reader.snake}, which died in this game", expected=reader.snake, got=found["status"])
        expect(status["game_over"] is True, f"status of {reader.snake}, which died, says game_over false", got=status)
        expect(status["head"] is None, f"status of {reader.snake}, which died, has a head", expected="null", got=status)
        expect(reader.snake not in found["visions"], "visions holds a snake that died", got=sorted(found["visions"]))
    expect(
        found["global_game_over"] is True,
        "global_game_over is false though every snake has died",
        expected=True,
        got=found["global_game_over"],
    )
