"""Checks of what slots saw last: a wrong one is never noticed in training, and spoils what is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rattle.conformance.arrays import Array
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail, skip
from rattle.conformance.target import Target
from rattle.conformance.vector_play import PlayedGame, ResetOutcome, Stepped, encodings, play_game, session
from rattle.conformance.vector_spec import spec

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)
#: Options by which environments limit the ticks of an episode, and the limit that is asked for.
_LIMITS = ("max_steps", "max_episode_steps", "max_cycles", "max_ticks", "time_limit")
_TICKS = 9
_WORLDS = 4
_SEED = 71
#: What is less likely than this did not happen by chance.
_CHANCE = 1e-3


class _End(NamedTuple):
    """A slot that was truncated: its row in `ended`, what it saw before the step, and what it shows now."""

    last: Array
    before: Array
    now: Array
    restarted: bool  # or its world continues


@CHECKS.check("vector.steps.last_observation", "ended.observation shows what truncated slots saw last", _STEPPED)
def last_observation(target: Target) -> str:
    """Not zeros, not what was seen before the step, not the next episode: that is what bootstraps their returns."""
    game = target.fact(play_game)
    ends = list(_truncated(game))
    if not ends:
        skip(f"no slot was truncated in the {len(game.steps)} steps that were played")
    zeros, common, unchanged = _shares(game)
    again = [end for end in ends if end.restarted]
    wrong = None
    if all(not end.last.any() for end in ends) and _is_no_chance(zeros, ends):
        wrong = "all zeros"
    elif all(np.array_equal(end.last, end.now) for end in again) and _is_no_chance(common, again):
        wrong = "the first observation of the next episode"
    elif all(np.array_equal(end.last, end.before) for end in ends) and _is_no_chance(unchanged, ends):
        wrong = "what the slot saw before that step"
    if wrong:
        fail(
            f"ended.observation of all {len(ends)} slots that were truncated is {wrong}: it must be what the slot saw "
            "last, copied before the world is reset",
            expected="the observation that the last action led to",
            got=wrong,
        )
    return f"{len(ends)} slots were truncated, and ended.observation may be what they saw last"


@CHECKS.check(
    "vector.steps.time_limit",
    "When a time limit ends an episode, ended.observation is what a longer episode continues from",
    _STEPPED,
)
def time_limit(target: Target) -> str:
    """Two sessions play the same; an option cuts the episodes of one of them."""
    name = _limit(target)
    encoding, judged = target.fact(encodings)[-1], 0
    with (
        session(target, _WORLDS, encoding=encoding, seed=_SEED, options={name: _TICKS}) as cut,
        session(target, _WORLDS, encoding=encoding, seed=_SEED) as whole,
    ):
        before: ResetOutcome = cut.first
        together = np.ones(cut.shape.worlds, np.bool_)  # worlds that have not ended in either
        for number in range(_TICKS + 1):
            action = cut.actions_for(number)
            one, other = cut.step(action), whole.step(action)
            for row, slot in enumerate(one.ended_slots):
                if together[slot // cut.shape.agents] and one.truncated[slot] and not other.done[slot]:
                    _judge(one, row, int(slot), other.observation[slot], before)
                    judged += 1
            playing = (one.active & other.active).reshape(cut.shape.worlds, -1).any(1)  # a world may rest after an end
            together &= (one.episode == 0) & (other.episode == 0) & playing
            rows = np.repeat(together, cut.shape.agents)
            if not np.array_equal(one.observation[rows], other.observation[rows]):
                skip(f"with the option {name} worlds show something else before they are cut")
            before = one
    if not judged:
        skip(f"the option {name}={_TICKS} cut no episode")
    return f"{judged} slots were cut by {name}={_TICKS}, and saw last what is seen without it"


def _judge(played: Stepped, row: int, slot: int, wanted: Array, before: ResetOutcome) -> None:
    """End the check unless a row of `ended` is the observation that a world without the limit shows."""
    got = played.ended_observation[row]
    looks = "something else"
    if not got.any():
        looks = "zeros"
    elif np.array_equal(got, played.observation[slot]):
        looks = "the first observation of the next episode"
    elif np.array_equal(got, before.observation[slot]):
        looks = "what the slot saw before that step"
    expect(
        np.array_equal(got, wanted),
        f"slot {slot} is truncated in step {played.step}, and its ended.observation is {looks}: it must be what the "
        "slot saw last, which a session without the time limit shows in that step; copy it before the world is reset",
        expected=wanted.tolist(),
        got=got.tolist(),
    )


def _limit(target: Target) -> str:
    """Return an option by which the server limits the ticks of episodes; skips the check where there is none."""
    facts = target.fact(spec)
    if "options" not in facts["features"]:
        skip("the server does not have the feature options, by which a time limit could be set")
    for name in _LIMITS:
        answer = target.request("POST", "/v1/sessions", {"worlds": 1, "options": {name: _TICKS}})
        if answer.status == 201:
            target.request("DELETE", f"/v1/sessions/{answer.object(201)['session']}")
            return name
    return skip(f"the environment takes none of the options {', '.join(_LIMITS)}, by which a time limit could be set")


def _truncated(game: PlayedGame) -> Iterator[_End]:
    before: ResetOutcome = game.first
    for played in game.steps:
        for row, slot in enumerate(played.ended_slots):
            if played.truncated[slot]:
                world = slot // game.shape.agents
                restarted = bool(played.episode[world] > before.episode[world])
                yield _End(played.ended_observation[row], before.observation[slot], played.observation[slot], restarted)
        before = played


def _shares(game: PlayedGame) -> tuple[float, float, float]:
    """Return how much of what acting slots see is zeros, is the most frequent row, and did not change in a step."""
    rows = np.concatenate([played.observation[played.active] for played in (game.first, *game.steps)])
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    same = played_on = 0
    before: ResetOutcome = game.first
    for played in game.steps:
        goes_on = played.active & before.active & ~played.done
        same += int((played.observation[goes_on] == before.observation[goes_on]).all(axis=1).sum())
        played_on += int(goes_on.sum())
        before = played
    return float((~rows.any(axis=1)).mean()), float(counts.max() / len(rows)), same / max(played_on, 1)


def _is_no_chance(share: float, ends: list[_End]) -> bool:
    """Whether so many ends do not all look like this by chance, where a share of all rows does."""
    return len(ends) > 1 and share ** len(ends) < _CHANCE
