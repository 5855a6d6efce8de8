"""Checks that the seed and a world's number decide its games, and nothing else does."""

from __future__ import annotations

import numpy as np

from rattle.conformance.arrays import Array
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail, skip
from rattle.conformance.target import Target
from rattle.conformance.vector_play import GAME_SEED, Stepped, encodings, expect_same, play_game, session
from rattle.conformance.vector_spec import skip_shared

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)
_STEPS = 60


@CHECKS.check("vector.determinism.seed", "The same seed and actions give the same games, to the last bit", _STEPPED)
def same_seed(target: Target) -> None:
    """In two sessions that are stepped in turn, through ends of episodes."""
    game = target.fact(play_game)
    with session(target, game.shape.worlds, encoding=target.fact(encodings)[-1], seed=GAME_SEED) as opened:
        expect_same(game.first, opened.first, "two sessions of one seed begin differently")
        for action, wanted in zip(game.actions, game.steps, strict=True):
            expect_same(wanted, opened.step(action), f"two sessions of one seed differ in step {wanted.step}")


@CHECKS.check("vector.determinism.other_seed", "Another seed gives other games", _STEPPED)
def other_seed(target: Target) -> None:
    """Unless nothing in the environment is random."""
    with session(target, 8, seed=GAME_SEED) as one, session(target, 8, seed=12) as other:
        if not np.array_equal(one.first.observation, other.first.observation):
            return
        for step in range(_STEPS):
            action = one.actions_for(step)
            played, compared = one.step(action), other.step(action)
            if not np.array_equal(played.observation, compared.observation):
                return
    rows = target.fact(play_game).first.observation
    if (rows != rows[0]).any():
        fail(
            "two sessions of different seeds play the same, though worlds of one session differ: the seed is not used",
            expected="other games",
            got="the same games",
        )
    skip(f"two seeds played the same for {_STEPS} steps: the environment may have nothing random")


@CHECKS.check(
    "vector.determinism.width", "World i plays the same games in a session of any size", ("vector.determinism.seed",)
)
def width(target: Target) -> None:
    """A world alone, made with first_world, against the same world among others."""
    skip_shared(target)
    game = target.fact(play_game)
    agents = game.shape.agents
    for world in (0, game.shape.worlds - 3):
        rows = slice(world * agents, (world + 1) * agents)
        with session(target, 1, encoding=target.fact(encodings)[-1], seed=GAME_SEED, first_world=world) as opened:
            what = f"world {world} alone (first_world={world}) does not play as it does among {game.shape.worlds}"
            _same_rows(game.first.observation[rows], opened.first.observation, f"{what}: the first observation differs")
            for action, wanted in zip(game.actions, game.steps[:_LONG], strict=False):
                played = opened.step(action[rows])
                for name in ("observation", "reward", "terminated", "truncated", "active"):
                    there = getattr(wanted, name)[rows]
                    _same_rows(there, getattr(played, name), f"{what}: {name} differs in step {played.step}")


_LONG = 250


@CHECKS.check(
    "vector.determinism.episodes", "Episode e of a world starts the same way after any earlier episodes", _STEPPED
)
def episodes(target: Target) -> None:
    """What steps show after an end is what as many resets show."""
    skip_shared(target)
    game = target.fact(play_game)
    with session(target, game.shape.worlds, encoding=target.fact(encodings)[-1], seed=GAME_SEED) as opened:
        number, judged = 0, 0
        for episode in range(1, 4):
            firsts = opened.reset()
            for world, played in _starts(game.steps, episode):
                rows = slice(world * game.shape.agents, (world + 1) * game.shape.agents)
                _same_rows(
                    firsts.observation[rows],
                    played.observation[rows],
                    f"episode {episode} of world {world} starts otherwise after an end (step {played.step}) than after "
                    f"{episode} resets: its start must depend on seed, world and episode only",
                )
                judged += 1
            number = episode
    if not judged:
        skip(f"no episode up to {number} was reached by ends in the steps that were played")


@CHECKS.check(
    "vector.determinism.interleaved", "Other requests between its steps do not change a session's games", _STEPPED
)
def interleaved(target: Target) -> None:
    """Asking for the session, and other sessions coming and going, change nothing."""
    with session(target, 2, seed=31) as one, session(target, 2, seed=31) as other:
        for step in range(10):
            action = one.actions_for(step)
            wanted = one.step(action)
            target.request("GET", other.path)
            with session(target, 1, seed=31):
                pass
            expect_same(wanted, other.step(action), "a session that is asked for between steps plays otherwise")


def _starts(steps: list[Stepped], episode: int) -> list[tuple[int, Stepped]]:
    """Return the worlds and the steps in which the worlds began this episode."""
    found: dict[int, Stepped] = {}
    for played in steps:
        for world in np.flatnonzero(played.episode == episode):
            found.setdefault(int(world), played)
    return list(found.items())


def _same_rows(wanted: Array, got: Array, sentence: str) -> None:
    expect(np.array_equal(wanted, got), sentence, expected=wanted.tolist(), got=got.tolist())
