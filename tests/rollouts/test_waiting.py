"""Rollouts of agents that wait for each other, against the moves of the same games one after another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pettingzoo.utils.env_logger import EnvLogger

from rattle.envs.errors import EnvError
from rattle.learning.returns import generalised_advantages, without_waits
from rattle.rollouts.worlds import policy_spec
from rattle.samples.rollout import Played, Rollout, as_tensors
from rattle.trainer.build import build_acting_policy, build_collector, build_learner
from tests.envs.test_pettingzoo_worlds import undrawn
from tests.trainer.conftest import small_settings

__all__ = ["undrawn"]

GAME = "pettingzoo:tests.envs.countdown"
GAMES = [
    "{}",
    "{players: 3, fee: 0.25, gift: 0.5}",
    "{players: 3, gift: 0.5, late: [1], leaves: [0], heap: 14}",
    "{limit: 7, gift: 1.0}",
    "{players: 4, heap: 3}",
]


@dataclass
class Moves:
    """The moves of one slot, one after another."""

    observation: list[NDArray[Any]] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    end: list[str] = field(default_factory=list)

    def add(self, rollout: Any, tick: int, slot: int) -> None:
        self.observation.append(np.array(rollout.observation[tick, slot]))
        self.action.append(int(rollout.action[tick, slot]))
        self.log_prob.append(float(rollout.log_prob[tick, slot]))
        self.reward.append(float(rollout.reward[tick, slot]))
        ends = [name for name in ("terminated", "truncated") if getattr(rollout, name)[tick, slot]]
        self.end.append("".join(ends))

    def assert_begins_as(self, other: Moves) -> None:
        moves = len(self.action)
        assert moves
        for name in ("action", "log_prob", "end"):
            assert getattr(self, name) == getattr(other, name)[:moves], name
        np.testing.assert_array_equal(self.observation, other.observation[:moves])
        np.testing.assert_allclose(self.reward, other.reward[:moves], rtol=1e-6)


def setting(game: str, *more: str) -> list[str]:
    own = game.strip("{}")
    return [f"env={{id: '{GAME}', worlds: 3{', ' + own if own else ''}}}", *more]


def collected(rollouts: int, *overrides: str) -> list[Played]:
    """Return copies of some rollouts with a policy that does not learn."""
    settings = small_settings(*overrides)
    collector = build_collector(settings)
    learner = build_learner(settings, policy_spec(settings, collector.batches[0].spec))
    policy = build_acting_policy(settings, learner)
    collector.remember(learner.spec.memory_size)
    found = []
    try:
        for _ in range(rollouts):
            rollout = collector.collect(policy, 0, lambda _: False)
            found.append(Rollout({name: array.copy() for name, array in rollout.arrays.items()}))
    finally:
        collector.close()
        learner.close()
    return found


def moves_of(rollouts: list[Played], slot: int) -> Moves:
    moves = Moves()
    for rollout in rollouts:
        for tick in np.flatnonzero(rollout.active[:, slot]):
            moves.add(rollout, int(tick), slot)
    return moves


def played_tick_by_tick(ticks: int, *overrides: str) -> list[Moves]:
    """Return the moves of all slots, with what each earned until its next one, from the worlds themselves."""
    settings = small_settings(*overrides, "train.actors=1")
    collector = build_collector(settings)
    learner = build_learner(settings, policy_spec(settings, collector.batches[0].spec))
    policy = build_acting_policy(settings, learner)
    [worlds] = collector.batches
    slots = worlds.num_slots
    moves, last = [Moves() for _ in range(slots)], [False] * slots
    action = np.zeros(slots, np.int64)
    log_prob, value = np.zeros((2, slots), np.float32)
    for tick in range(ticks):
        policy.act(worlds.observation, tick=tick, action=action, log_prob=log_prob, value=value)
        for slot in np.flatnonzero(worlds.active):
            mine = moves[slot]
            mine.observation.append(worlds.observation[slot].copy())
            mine.action.append(int(action[slot]))
            mine.log_prob.append(float(log_prob[slot]))
            mine.reward.append(0.0)
            mine.end.append("")
            last[slot] = True
        worlds.step(action)
        for slot in range(slots):
            if last[slot]:
                moves[slot].reward[-1] += float(worlds.reward[slot])
                if worlds.terminated[slot] or worlds.truncated[slot]:
                    moves[slot].end[-1] = "terminated" if worlds.terminated[slot] else "truncated"
                    last[slot] = False
    collector.close()
    learner.close()
    return moves


@pytest.mark.parametrize("ticks", [4, 5, 16])
@pytest.mark.parametrize("game", GAMES)
def test_every_move_is_in_one_rollout_with_all_that_came_of_it(game: str, ticks: int) -> None:
    overrides = setting(game, f"algorithm.ticks={ticks}")
    rollouts = collected(96 // ticks, *overrides)
    for rollout in rollouts:
        waits = ~rollout.active
        for name in ("reward", "terminated", "truncated", "final_value"):
            assert not getattr(rollout, name)[waits].any(), name
        assert not rollout.final_value[~rollout.truncated].any()
    assert any((rollout.active[0].reshape(3, -1).sum(axis=1) > 1).any() for rollout in rollouts)  # held back and put in
    for slot, expected in enumerate(played_tick_by_tick(96, *overrides)):
        moves = moves_of(rollouts, slot)
        moves.assert_begins_as(expected)
        assert len(expected.action) - len(moves.action) <= 1  # the last may still be held back


@pytest.mark.parametrize("game", GAMES)
def test_complete_episodes_hold_the_first_episode_of_who_took_part(game: str) -> None:
    overrides = setting(game, "algorithm.id=reinforce", "algorithm.max_episode_ticks=64")
    first, second = collected(2, *overrides)
    for rollout in (first, second):
        ended = rollout.terminated | rollout.truncated
        took_part = rollout.active.any(axis=0)
        np.testing.assert_array_equal(ended.sum(axis=0), took_part)
        for slot in np.flatnonzero(took_part):
            assert ended[np.flatnonzero(rollout.active[:, slot])[-1], slot]
            assert len(set(rollout.world_episode[rollout.active[:, slot], slot * 3 // rollout.slots])) == 1
    assert not np.array_equal(first.observation[0], second.observation[0])  # the next episodes


def test_complete_episodes_are_cut_at_their_last_move() -> None:
    [rollout] = collected(1, *setting("{heap: 60}", "algorithm.id=reinforce", "algorithm.max_episode_ticks=7"))
    assert rollout.ticks == 7
    np.testing.assert_array_equal(rollout.truncated.sum(axis=0), 1)
    assert rollout.truncated[6, ::2].all()  # the first players made the seventh move,
    assert rollout.truncated[5, 1::2].all()  # the others the sixth


@pytest.mark.parametrize("game", GAMES)
def test_the_number_of_actors_changes_nothing(game: str) -> None:
    one, three = (collected(6, *setting(game, "algorithm.ticks=5", f"train.actors={actors}")) for actors in (1, 3))
    for alone, shared in zip(one, three, strict=True):
        for name in ("observation", "action", "reward", "terminated", "truncated", "active", "final_value"):
            shown = getattr(alone, name), getattr(shared, name)
            rows = (alone.active, shared.active) if name in ("observation", "action") else (..., ...)
            np.testing.assert_array_equal(shown[0][rows[0]], shown[1][rows[1]], name)
        np.testing.assert_array_equal(alone.last_value, shared.last_value)


def test_too_few_ticks_for_anybody_to_have_another_turn_are_told() -> None:
    said = rf"^'{GAME}': in 2 ticks it was nobody's turn again.*set algorithm.ticks to at least 4, the agents of"
    with pytest.raises(EnvError, match=said):
        collected(1, *setting("{players: 4, heap: 40}", "algorithm.ticks=2"))


def test_a_held_back_move_is_worth_what_was_predicted_of_it() -> None:
    """The advantage of a move before one that is held back is that of a longer rollout without the trace."""
    short = collected(12, *setting("{players: 3, heap: 30}", "algorithm.ticks=7"))
    [long] = collected(1, *setting("{players: 3, heap: 30}", "algorithm.ticks=84"))
    advantage = [generalised_advantages(without_waits(as_tensors(part)), 0.9, 0.0) for part in (*short, long)]
    for slot in range(long.slots):
        pieces = [found[: int(part.active[:, slot].sum()), slot] for found, part in zip(advantage, short, strict=False)]
        joined, whole = torch.cat(pieces), advantage[-1][:, slot]
        np.testing.assert_allclose(joined, whole[: len(joined)], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:The old environment creation API:DeprecationWarning")
def test_no_move_is_one_that_a_mask_forbids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tic-tac-toe, whose observations have a mask, and which says when a move is illegal."""
    illegal = []
    monkeypatch.setattr(EnvLogger, "warn_on_illegal_move", lambda: illegal.append(True))
    game = "env={id: 'pettingzoo:pettingzoo.classic.tictactoe_v3', worlds: 8}"
    rollouts = collected(4, game, "algorithm.ticks=16", "policy={network: encoders}")
    for rollout in rollouts:
        mask = rollout.observation[rollout.active][:, :9]
        assert mask[np.arange(len(mask)), rollout.action[rollout.active]].all()
        assert (mask.sum(axis=1) < 9).any()
    assert not illegal
    assert sum(int(rollout.terminated.sum()) for rollout in rollouts) > 40
