"""Checks of what steps and resets answer, judged on games that are played until episodes end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rattle.conformance.arrays import Array
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail, skip
from rattle.conformance.target import Target
from rattle.conformance.vector_play import GAME_SEED, PlayedGame, ResetOutcome, Stepped, encodings, play_game, session
from rattle.conformance.vector_spec import batch

CHECKS = CheckGroup()
_MADE = ("vector.sessions.create",)
_STEPPED = ("vector.steps.fields",)


@CHECKS.check("vector.steps.fields", "Steps answer every field, each with its dtype and shape", _MADE)
def step_fields(target: Target) -> str | None:
    """Plays the games that the checks below judge; every answer is read strictly."""
    game = target.fact(play_game)
    for before, played in zip([game.first, *game.steps], game.steps, strict=False):
        expect(
            (played.episode >= before.episode).all(),
            "episode numbers go back",
            expected=before.episode,
            got=played.episode,
        )
    return f"{len(game.steps)} steps of {game.shape.worlds} worlds were played; {_count_ends(game)} episodes ended"


@CHECKS.check("vector.steps.exclusive", "terminated and truncated are never both true", _STEPPED)
def exclusive(target: Target) -> None:
    """An episode ends in one way."""
    for played in target.fact(play_game).steps:
        both = np.flatnonzero(played.terminated & played.truncated)
        expect(
            not both.size,
            f"slot {both[:1]} is terminated and truncated in step {played.step}: an end has one reason",
            expected="at most one of the two",
            got="both true",
        )


@CHECKS.check("vector.steps.ended", "ended.slots are those with terminated or truncated, in rising order", _STEPPED)
def ended(target: Target) -> None:
    """No slot is left out, none is too many."""
    for played in _with_ends(target.fact(play_game)):
        wanted = np.flatnonzero(played.done)
        expect(
            np.array_equal(played.ended_slots, wanted),
            f"ended.slots of step {played.step} are not the slots with terminated or truncated, in rising order",
            expected=wanted.tolist(),
            got=played.ended_slots.tolist(),
        )


@CHECKS.check("vector.steps.no_ends", "Without an end, ended has no rows", _STEPPED)
def no_ends(target: Target) -> None:
    """Rows of zero length, not rows of zeros."""
    for played in target.fact(play_game).steps:
        if not played.done.any():
            expect(
                not len(played.ended_slots),
                f"step {played.step} ends no slot, but ended.slots is not empty",
                expected="[]",
                got=played.ended_slots.tolist(),
            )


@CHECKS.check("vector.steps.autoreset", "A world that ends starts its next episode in the same step", _STEPPED)
def autoreset(target: Target) -> None:
    """Its episode number rises by 1 and all its agents are active again; other worlds continue.

    Where agents wait, one of them at least is active. Worlds of a `batch` may rest for a step between two episodes.
    """
    game = target.fact(play_game)
    _with_ends(game)
    may_rest = batch(target) is not None
    previous: ResetOutcome = game.first
    for played, over in zip(game.steps, _over_before(game), strict=True):
        risen = played.episode.astype(np.int64) - previous.episode
        expect(
            (risen <= 1).all(),
            f"an episode number rises by {risen.max()} in step {played.step}",
            expected="the number before, or one more where the world ended",
            got=played.episode.tolist(),
        )
        done, alive = _by_world(game, played.done), _by_world(game, played.active)
        finished = _by_world(game, played.done | over).all(1) & done.any(1)
        rested = ~_by_world(game, previous.active).any(1)
        stuck = np.flatnonzero((finished & (risen == 0) & (alive.any(1) | (not may_rest))) | (rested & (risen == 0)))
        expect(
            not stuck.size,
            f"all agents of world {stuck[:1]} have ended by step {played.step}, but its episode number stays: "
            "the next episode starts in the same step",
            expected="episode one higher",
            got=played.episode.tolist(),
        )
        early = np.flatnonzero((risen == 1) & ~done.any(1) & ~rested)
        expect(not early.size, f"world {early[:1]} starts an episode in step {played.step} though no slot of it ended")
        some, slots = ("none", "one of its slots") if game.shape.agents_wait else ("not all", "all its slots")
        awake = alive.any(1) if game.shape.agents_wait else alive.all(1)
        asleep = np.flatnonzero((risen == 1) & ~awake)
        expect(
            not asleep.size,
            f"world {asleep[:1]} starts an episode in step {played.step}, but {some} of its agents are active",
            expected=f"active true in {slots}",
            got=played.active.tolist(),
        )
        previous = played


@CHECKS.check("vector.steps.first_observation", "After an end, observation is the first of the next episode", _STEPPED)
def first_observation(target: Target) -> None:
    """The last one of the old episode belongs into ended."""
    game = target.fact(play_game)
    seen = same = 0
    previous: ResetOutcome = game.first
    for played in _with_ends(game, all_steps=True):
        restarted = np.repeat(played.episode > previous.episode, game.shape.agents)[played.ended_slots]
        rows = played.observation[played.ended_slots][restarted]
        last = played.ended_observation[restarted]
        seen += len(rows)
        same += int((rows == last).all(axis=1).sum())
        previous = played
    if not seen:
        skip("no world ended in the steps that were played")
    if same == seen:
        wrong = "ended.observation" if _begins_as_after_a_reset(target, game) else "observation"
        fail(
            f"in all {seen} ends, observation equals ended.observation, and {wrong} is the wrong one: observation must "
            "show the next episode, ended.observation what was seen last, copied before the world is reset",
            expected="observation of the next episode, ended.observation of the old one",
            got="the same rows",
        )


@CHECKS.check("vector.steps.inactive", "Slots that are not active have zero rows until the next episode", _STEPPED)
def inactive(target: Target) -> str | None:
    """A dead agent observes zeros, earns nothing and does not end twice; one that waits may earn, and end."""
    game = target.fact(play_game)
    previous: ResetOutcome = game.first
    judged, waits = 0, game.shape.agents_wait
    for played, over in zip(game.steps, _over_before(game), strict=True):
        for name, rows in (("observation", played.observation), ("reward", played.reward)):
            slot = np.flatnonzero(~played.active if name == "observation" else over)
            bad = [int(i) for i in slot if np.any(rows[i])]
            expect(
                not bad,
                f"slot {bad[:1]} is not active, but its {name} in step {played.step} is not zero",
                expected="zeros",
                got=rows[bad[0]].tolist() if bad else None,
            )
        again = np.flatnonzero(played.done & over)
        expect(not again.size, f"slot {again[:1]} ends again in step {played.step}: an agent that died ends once")
        vanished = np.flatnonzero(previous.active & ~played.active & ~played.done)
        expect(
            waits or not vanished.size,
            f"slot {vanished[:1]} is not active after step {played.step}, but did not end: an environment whose agents "
            "wait for each other says agents_wait",
            expected="active true, or agents_wait true in the spec",
        )
        judged += int((~played.active).sum())
        previous = played
    if not judged:
        skip("no slot was ever inactive in the steps that were played")
    return None


@CHECKS.check("vector.steps.metrics", "The metrics of a session that has not stepped are 0", _STEPPED)
def metrics(target: Target) -> None:
    """Nothing has happened yet."""
    with session(target, 4, seed=2) as opened:
        if not opened.shape.metrics:
            skip("the environment has no metrics")
        for name, values in target.request("GET", opened.path).object()["metrics"].items():
            zero = not np.any(np.array(values))
            expect(zero, f"metric {name} of a new session is not 0", expected="zeros", got=values)


@CHECKS.check("vector.steps.reset", "A reset without seed starts every world's next episode", _MADE)
def reset(target: Target) -> None:
    """The first step of the session may be a reset."""
    with session(target, 3, seed=4) as opened:
        played = opened.reset()
        wanted = [1, 1, 1]
        expect(
            played.episode.tolist() == wanted,
            "a reset without seed must start the next episode of every world",
            expected=wanted,
            got=played.episode.tolist(),
        )
        expect(opened.shape.are_awake(played.active), f"{opened.shape.too_few_active} after a reset", got=played.active)


@CHECKS.check("vector.steps.reset_seed", "A reset with a seed starts episode 0 of that seed", _MADE)
def reset_seed(target: Target) -> None:
    """The same as a new session of that seed."""
    with session(target, 3, seed=4) as opened, session(target, 3, seed=9) as other:
        opened.step(opened.forward())
        played = opened.reset(seed=9)
        zero = played.episode.tolist() == [0, 0, 0]
        expect(zero, "a reset with a seed must start episode 0", expected=[0, 0, 0], got=played.episode.tolist())
        expect(
            np.array_equal(played.observation, other.first.observation),
            "a reset with seed 9 shows other first observations than a new session of seed 9",
            expected=other.first.observation,
            got=played.observation,
        )
        seed = target.request("GET", opened.path).object().get("seed")
        expect(seed == 9, f"GET of the session says seed {seed!r} after a reset with seed 9", expected=9, got=seed)


@CHECKS.check("vector.steps.reset_bad", "A reset refuses bad seeds and unknown fields", _MADE)
def reset_bad(target: Target) -> None:
    """And uses up no number by that."""
    with session(target, 1, seed=4) as opened:
        for value in (-1, "1", 1.5, 2**80):
            opened.post("reset", {"step": 1, "seed": value}).problem(400, "bad_value", "seed")
        opened.post("reset", {"step": 1, "sede": 1}).problem(400, "bad_value", "sede")
        opened.reset()


def _begins_as_after_a_reset(target: Target, game: PlayedGame) -> bool:
    """Whether worlds show after their first end what they show after a reset."""
    with session(target, game.shape.worlds, encoding=target.fact(encodings)[-1], seed=GAME_SEED) as opened:
        wanted = opened.reset().observation
    for played in game.steps:
        if (worlds := np.flatnonzero(played.episode == 1)).size:
            rows = slice(int(worlds[0]) * game.shape.agents, (int(worlds[0]) + 1) * game.shape.agents)
            return np.array_equal(played.observation[rows], wanted[rows])
    return False


def _by_world(game: PlayedGame, values: Array) -> Array:
    return values.reshape(game.shape.worlds, game.shape.agents)


def _over_before(game: PlayedGame) -> Iterator[Array]:
    """Yield of each step which slots (B,) had ended before it in the episode that their world was in.

    Where agents do not wait, those are the slots that were not active.
    """
    over = np.zeros(game.shape.slots, np.bool_)
    previous: ResetOutcome = game.first
    for played in game.steps:
        yield over.copy() if game.shape.agents_wait else ~previous.active
        over |= played.done
        over[np.repeat(played.episode != previous.episode, game.shape.agents)] = False
        previous = played


def _count_ends(game: PlayedGame) -> int:
    return sum(int(played.done.sum()) for played in game.steps)


def _with_ends(game: PlayedGame, *, all_steps: bool = False) -> list[Stepped]:
    """Return the steps in which a slot ended, or all of them; skips the check where none ended."""
    found = [played for played in game.steps if played.done.any()]
    if not found:
        skip(f"no episode ended in the {len(game.steps)} steps that were played")
    return game.steps if all_steps else found
