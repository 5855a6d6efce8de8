"""What an episode writes down of a stream of lines, against a naive look at the same lines."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.clients.agent_protocol import MOVES, AgentState
from rattle.clients.errors import BadAnswer
from rattle.envs.errors import EnvError
from rattle.envs.snake.geometry import Cell, visible_offsets
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.own.inputs import OWN_INPUTS
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import CodeSpace
from rattle.services.inference.agent_episode import MAX_EPISODE_TICKS, AgentEpisode, episode_buffer
from rattle.settings.experiment import ExperimentSettings
from tests.policies.building import random_parameters

RADIUS, CELLS, MOST_TICKS = 1, 4, 6
SPEC = MlpSpec(
    observation=CodeSpace(cells=CELLS, codes=5), num_actions=3, hidden_sizes=(5,), activation="tanh", value_head=True
)
PAST = SPEC.model_copy(update={"inputs": tuple(OWN_INPUTS)})
SETTINGS = ExperimentSettings.model_validate({"env": {"vision_radius": RADIUS, "num_snakes": 2}})
BUFFER = episode_buffer(SETTINGS, MOST_TICKS)  # every example finds in it what the last one left


def policy(spec: PolicySpec = SPEC) -> ActingPolicy:
    return ActingPolicy(spec, random_parameters(spec), seed=3)


def state(tick: int, codes: list[int], reward: float = 0.0, length: int = 3, game_over: bool = False) -> AgentState:
    cells = {f"{RADIUS},{RADIUS}": "HEAD"}
    for (dx, dy), code in zip(visible_offsets(RADIUS), codes, strict=True):
        cells[f"{RADIUS + dx},{RADIUS + dy}"] = Cell(code).name
    return AgentState("anna", tick, cells, reward, game_over, datetime.now(UTC), length)  # type: ignore[arg-type]


@st.composite
def streams(draw: st.DrawFn) -> list[AgentState]:
    """Draw a life's lines; the snake dies with the last."""
    ticks = draw(st.integers(0, MOST_TICKS + 2))
    first = draw(st.integers(0, 50))
    codes = st.lists(st.integers(0, 4), min_size=CELLS, max_size=CELLS)
    rewards = st.floats(-1e6, 1e6, width=32)
    lengths = sorted(draw(st.lists(st.integers(3, 20), min_size=ticks + 1, max_size=ticks + 1)))
    return [
        state(first + tick, draw(codes), draw(rewards), lengths[tick], game_over=tick == ticks)
        for tick in range(ticks + 1)
    ]


@settings(max_examples=300)
@given(
    lines=streams(),
    slot=st.integers(0, 5),
    first_tick=st.integers(0, 2**40),
    number=st.integers(0, 9),
    spec=st.sampled_from([SPEC, PAST]),
)
def test_an_episode_is_what_a_naive_look_at_the_lines_says(
    lines: list[AgentState], slot: int, first_tick: int, number: int, spec: PolicySpec
) -> None:
    player, memory = policy(spec), np.zeros((1, spec.memory_size), np.float32)
    episode = AgentEpisode(BUFFER, player, slot, first_tick, number)
    moves = []
    for line in lines:
        move = episode.take(line)
        assert (move is None) == episode.over
        if move is None:
            break
        moves.append(move)
    assert episode.over
    ticks = min(len(lines) - 1, MOST_TICKS)
    assert episode.ticks == len(moves) == ticks
    for row in range(ticks):
        before, after = lines[row], lines[row + 1]
        seen = before.observation()
        action, log_prob, value = np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, np.float32)
        written = {"action": action, "log_prob": log_prob, "value": value}
        player.act(seen[None], tick=first_tick + row, first_slot=slot, state=memory, **written)
        player.own.rewarded(memory, np.array([after.reward], np.float32))
        last = row == ticks - 1
        dies, is_cut = after.game_over, last and not after.game_over
        assert BUFFER.observation[row, 0].tolist() == seen.tolist()
        assert moves[row] == MOVES[int(action[0])] == MOVES[int(BUFFER.action[row, 0])]
        assert (BUFFER.log_prob[row], BUFFER.value[row]) == (log_prob, value)
        assert BUFFER.reward[row] == after.reward
        assert (BUFFER.terminated[row, 0], BUFFER.truncated[row, 0]) == (dies, is_cut)
        assert BUFFER.active[row]
        assert BUFFER.final_value[row] == (player.values(after.observation()[None], memory) if is_cut else 0.0)
        assert BUFFER.metrics["food"][row] == after.length - lines[0].length
        assert BUFFER.world_episode[row] == number
        if last:
            assert BUFFER.last_value == BUFFER.final_value[row]


def test_the_buffer_has_room_for_so_many_ticks_of_one_snake() -> None:
    assert BUFFER.action.shape == (MOST_TICKS, 1)
    assert episode_buffer(ExperimentSettings()).observation.shape == (MAX_EPISODE_TICKS, 1, 60)
    with pytest.raises(EnvError):
        episode_buffer(ExperimentSettings.model_validate({"env": {"id": "gym:CartPole-v1"}}))


def test_to_a_policy_that_has_always_been_alone_others_are_bodies() -> None:
    alone = MlpSpec(
        observation=CodeSpace(cells=CELLS, codes=3), num_actions=3, hidden_sizes=(), activation="tanh", value_head=False
    )
    AgentEpisode(BUFFER, policy(alone)).take(state(0, [Cell.OTHER_HEAD, Cell.OTHER_BODY, Cell.FOOD, Cell.EMPTY]))
    assert BUFFER.observation[0, 0].tolist() == [Cell.BODY, Cell.BODY, Cell.FOOD, Cell.EMPTY]


@pytest.mark.parametrize("reward", [1e39, -inf, inf, float("nan")])
def test_a_reward_that_no_rollout_can_hold_is_an_error(reward: float) -> None:
    episode = AgentEpisode(BUFFER, policy())
    episode.take(state(0, [0] * CELLS))
    with pytest.raises(BadAnswer, match="reward"):
        episode.take(state(1, [0] * CELLS, reward))


def test_a_length_that_no_rollout_can_hold_is_an_error() -> None:
    with pytest.raises(BadAnswer, match="length"):
        AgentEpisode(BUFFER, policy()).take(state(0, [0] * CELLS, length=2**31))


def test_a_policy_for_other_eyes_is_an_error() -> None:
    other = SPEC.model_copy(update={"observation": CodeSpace(cells=CELLS + 1, codes=5)})
    with pytest.raises(PolicyError, match="made for another environment"):
        AgentEpisode(BUFFER, policy(other)).take(state(0, [0] * CELLS))
