"""A session of the vector API as the checks drive it: strict reading of answers, step numbers, recorded games."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from rattle.conformance.action_space import LegalActions, read_actions
from rattle.conformance.arrays import JSON, MSGPACK, Array, ArrayEncoding, read_array
from rattle.conformance.judging import Failed, expect, fail, kind
from rattle.conformance.observation_space import Observed, read_observed
from rattle.conformance.target import HttpAnswer, Target

_GAME_STEPS = 600
_GAME_SECONDS = 6.0
#: Of the game that `play_game` plays.
GAME_SEED = 11


@dataclass(frozen=True)
class Shape:
    """What arrays of a session look like."""

    worlds: int
    agents: int
    actions: LegalActions
    observed: Observed
    metrics: tuple[str, ...]
    agents_wait: bool = False  # for their turn, or until they join

    def are_awake(self, active: Array) -> bool:
        """Whether so many slots are active as must be where episodes begin: all, or one a world where agents wait."""
        rows = active.reshape(self.worlds, self.agents)
        return bool(rows.any(1).all() if self.agents_wait else rows.all())

    @property
    def too_few_active(self) -> str:
        """Return what is wrong where they are not."""
        return "no slot of a world is active" if self.agents_wait else "a slot is not active"

    @property
    def slots(self) -> int:
        """Return B, the number of slots."""
        return self.worlds * self.agents


@dataclass(frozen=True)
class ResetOutcome:
    """The answer of a reset."""

    step: int
    observation: Array
    active: Array
    episode: Array


@dataclass(frozen=True)
class Stepped(ResetOutcome):
    """The answer of a step."""

    reward: Array
    terminated: Array
    truncated: Array
    ended_slots: Array
    ended_observation: Array
    ended_metrics: dict[str, Array]

    @property
    def done(self) -> Array:
        """Return which slots ended in this step."""
        done: Array = self.terminated | self.truncated
        return done


P = TypeVar("P", bound=ResetOutcome)


class CheckedSession:
    """A session that was made; `step` and `reset` send the next number unless told another."""

    def __init__(self, target: Target, made: dict[str, Any], worlds: int, encoding: ArrayEncoding) -> None:
        self.target = target
        self.made = made
        self.id = str(made["session"])
        self.path = f"/v1/sessions/{self.id}"
        self.encoding = encoding
        self.shape = shape_of(made, worlds)
        self.next_step = 1
        self.first = read_reset(made, self.shape)
        self._seen = self.first.observation

    def post(self, route: str, body: dict[str, Any], encoding: ArrayEncoding | None = None) -> HttpAnswer:
        """Send a request of this session, arrays in `body` as the encoding wants them."""
        encoding = encoding or self.encoding
        content = encoding.encode(pack(body, encoding))
        return self.target.request(
            "POST", f"{self.path}/{route}", content=content, headers={"Content-Type": encoding.media_type}
        )

    def step(self, action: Array) -> Stepped:
        """Step every world and return the answer, read strictly."""
        body = self.post("step", {"step": self.next_step, "action": action}).object()
        return self.take(read_step(body, self.shape))

    def reset(self, **seed: int) -> ResetOutcome:
        """Reset every world and return the answer, read strictly."""
        body = self.post("reset", {"step": self.next_step, **seed}).object()
        return self.take(read_reset(body, self.shape))

    def take(self, played: P) -> P:
        """Count an answer; ends the check unless it says the number that comes next."""
        expect(
            played.step == self.next_step,
            f"the answer to step {self.next_step} says step {played.step}",
            expected=self.next_step,
            got=played.step,
        )
        self.next_step += 1
        self._seen = played.observation
        return played

    def forward(self) -> Array:
        """Return an action array that is valid in every environment: zeros, or the first actions that are allowed."""
        return self.shape.observed.allowed(self.shape.actions.zeros(self.shape.slots), self._seen)

    def actions_for(self, step: int, seed: int = 0) -> Array:
        """Return varied actions that depend on the world, the agent, the step and the mask alone, not on the width."""
        world, agent = np.divmod(np.arange(self.shape.slots, dtype=np.uint64), np.uint64(self.shape.agents))
        mixed = (world * 7919 + agent * 104729 + step * 1299709 + seed * 15485863) * 2654435761 % 2**32
        return self.shape.observed.allowed(self.shape.actions.varied(mixed), self._seen)


@contextmanager
def session(
    target: Target, worlds: int = 4, *, encoding: ArrayEncoding = JSON, **body: Any
) -> Iterator[CheckedSession]:
    """Make a session, and delete it afterwards."""
    content = encoding.encode({"worlds": worlds, **body})
    answer = target.request("POST", "/v1/sessions", content=content, headers={"Content-Type": encoding.media_type})
    made = answer.object(201)
    opened = CheckedSession(target, made, worlds, encoding)
    evidence = None
    try:
        yield opened
        evidence = target.evidence
    finally:
        kept = evidence or target.evidence
        target.request("DELETE", opened.path)
        target.evidence = kept  # clearing up is no evidence


def shape_of(made: dict[str, Any], worlds: int) -> Shape:
    """Return the shape that a spec or the answer to making a session describes."""
    return Shape(
        worlds,
        made["agents_per_world"],
        read_actions(made),
        read_observed(made["observation_space"]),
        tuple(made["metrics"]),
        made.get("agents_wait") is True,
    )


def pack(value: Any, encoding: ArrayEncoding) -> Any:
    """Return a message with its arrays as the encoding has them."""
    if isinstance(value, np.ndarray):
        return encoding.pack(value)
    if isinstance(value, dict):
        return {name: pack(part, encoding) for name, part in value.items()}
    return value


def read_reset(body: dict[str, Any], shape: Shape) -> ResetOutcome:
    """Return the answer of a reset; ends the check unless every field has its type and shape."""
    _expect_fields(body, ("step", "observation", "active", "episode"))
    step = body["step"]
    expect(type(step) is int, f"step is {kind(step)}, not an integer", got=step)
    return ResetOutcome(
        step,
        _observation(body["observation"], "observation", shape, shape.slots),
        read_array(body["active"], "active", "bool", (shape.slots,)),
        read_array(body["episode"], "episode", "uint32", (shape.worlds,)),
    )


def read_step(body: dict[str, Any], shape: Shape) -> Stepped:
    """Return the answer of a step; ends the check unless every field has its type and shape."""
    begun = read_reset(body, shape)
    _expect_fields(body, ("reward", "terminated", "truncated", "ended"))
    slots = (shape.slots,)
    reward = read_array(body["reward"], "reward", "float32", slots)
    expect(np.isfinite(reward).all(), "reward holds values that are not finite", got=reward)
    return Stepped(
        begun.step,
        begun.observation,
        begun.active,
        begun.episode,
        reward,
        read_array(body["terminated"], "terminated", "bool", slots),
        read_array(body["truncated"], "truncated", "bool", slots),
        *_ended(body["ended"], shape),
    )


def _expect_fields(body: dict[str, Any], wanted: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in body]
    expect(not missing, f"the answer lacks {', '.join(missing)}", expected=", ".join(wanted), got=", ".join(body))


def _ended(ended: Any, shape: Shape) -> tuple[Array, Array, dict[str, Array]]:
    expect(isinstance(ended, dict), f"ended is {kind(ended)}, not an object", got=ended)
    missing = {"slots", "observation", "metrics"} - ended.keys()
    expect(not missing, f"ended lacks {', '.join(sorted(missing))}", got=ended)
    slots = ended["slots"]
    count = len(slots) if isinstance(slots, list) else _leading(slots)
    metrics = ended["metrics"]
    expect(isinstance(metrics, dict), f"ended.metrics is {kind(metrics)}, not an object", got=metrics)
    expect(
        set(metrics) == set(shape.metrics),
        "ended.metrics does not have exactly the metrics of the spec",
        expected=sorted(shape.metrics),
        got=sorted(metrics),
    )
    return (
        read_array(slots, "ended.slots", "int32", (count,)),
        _observation(ended["observation"], "ended.observation", shape, count),
        {name: read_array(part, f"ended.metrics.{name}", "int32", (count,)) for name, part in metrics.items()},
    )


def _leading(value: Any) -> int:
    """Return the number of rows that a packed array says it has, 0 where it says none: reading it then fails."""
    shape = value.get("shape") if isinstance(value, dict) else None
    return shape[0] if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) else 0


def _observation(value: Any, where: str, shape: Shape, rows: int) -> Array:
    array = read_array(value, where, shape.observed.dtype, (rows, *shape.observed.row))
    shape.observed.check(array, where)
    return array


@dataclass(frozen=True)
class PlayedGame:
    """Steps that were played, with the actions and the answers; `first` came with the session."""

    shape: Shape
    first: ResetOutcome
    actions: list[Array]
    steps: list[Stepped]


def encodings(target: Target) -> tuple[ArrayEncoding, ...]:
    """Return the encodings that sessions can be played in: JSON, and MessagePack where the server takes it."""
    try:
        with session(target, 1, encoding=MSGPACK):
            return JSON, MSGPACK
    except Failed:
        return (JSON,)


def play_game(target: Target) -> PlayedGame:
    """Play until several episodes have ended, bounded in steps and time; the checks of steps judge this."""
    with session(target, 8, encoding=target.fact(encodings)[-1], seed=GAME_SEED) as opened:
        actions: list[Array] = []
        steps: list[Stepped] = []
        until = time.monotonic() + _GAME_SECONDS
        ends = 0
        while len(steps) < _GAME_STEPS and ends < 2 * opened.shape.slots and time.monotonic() < until:
            actions.append(opened.actions_for(len(steps)))
            steps.append(opened.step(actions[-1]))
            ends += int(steps[-1].done.sum())
        return PlayedGame(opened.shape, opened.first, actions, steps)


def expect_same(one: P, other: P, sentence: str, *, but: tuple[str, ...] = ()) -> None:
    """End the check with `sentence` and the first field that differs between two answers."""
    for part in fields(one):
        if part.name not in but:
            _same(getattr(one, part.name), getattr(other, part.name), part.name, sentence)


def _same(one: Any, other: Any, name: str, sentence: str) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        expect(set(one) == set(other), f"{sentence}: {name} differs", expected=sorted(one), got=sorted(other))
        for key in one:
            _same(one[key], other[key], f"{name}.{key}", sentence)
    elif isinstance(one, int):
        expect(one == other, f"{sentence}: {name} differs", expected=one, got=other)
    elif not np.array_equal(one, other):
        if one.shape != other.shape:
            fail(f"{sentence}: {name} has another shape", expected=one.shape, got=other.shape)
        where = tuple(int(i) for i in np.argwhere(one != other)[0])
        place = "".join(f"[{i}]" for i in where)
        fail(f"{sentence}: {name}{place} differs", expected=one[where].item(), got=other[where].item())
