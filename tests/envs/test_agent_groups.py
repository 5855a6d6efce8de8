"""Agents of different kinds are groups, each with spaces of its own, in worlds that all of them share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.envs.errors import CannotReplay, EnvError
from rattle.envs.logged_worlds import episode_seed
from rattle.envs.pettingzoo_worlds import PettingZooWorlds
from rattle.envs.registry import make_groups
from rattle.envs.vector import VectorWorlds, random_actions
from tests.envs.hunting import AGENTS, LENGTH, Hunt

HUNT, PARTY = "pettingzoo:tests.envs.hunting", "pettingzoo:tests.envs.parallel_party"
POLICIES = {"wolf_.*": "hunter", "sheep_.*": "prey"}
OF_PARTY = {"bob": "one", ".*": "rest"}


def groups_of(worlds: int = 3, seed: int = 5, first: int = 0, **settings: Any) -> list[VectorWorlds]:
    return list(make_groups(HUNT, settings, POLICIES, worlds, seed, first).values())


def step(groups: list[VectorWorlds], random: np.random.Generator) -> list[NDArray[Any]]:
    actions = [random_actions(group, random) for group in groups]
    for group, action in zip(groups, actions, strict=True):
        group.step(action)
    return actions


def shown(groups: list[VectorWorlds]) -> list[NDArray[Any]]:
    names = ("observation", "reward", "terminated", "truncated", "active", "episode")
    return [getattr(group, name).copy() for group in groups for name in names]


def test_each_group_has_the_spaces_of_its_agents() -> None:
    wolves, sheep = groups_of()
    assert (wolves.num_slots, sheep.num_slots, wolves.spec.agents_per_world) == (6, 6, 2)
    assert (wolves.observation.shape, sheep.observation.shape) == ((6, 5), (6, 1))
    assert (wolves.spec.action_space.kind, sheep.spec.action_space.kind) == ("box", "discrete")
    _, masked = groups_of(masks=True)
    assert masked.spec.observation_space.learnt_by == "parts"


def test_groups_play_the_games_that_a_plain_loop_plays() -> None:
    wolves, sheep = groups = groups_of(worlds=2, seed=9, limit=6)
    plain = [Hunt(limit=6) for _ in range(2)]
    episodes, random = [0, 0], np.random.default_rng(1)
    seen = [env.reset(seed=episode_seed(9, world, 0))[0] for world, env in enumerate(plain)]
    ends = 0
    for _ in range(40):
        for world, env in enumerate(plain):
            for number, agent in enumerate(AGENTS):
                group, slot = (wolves, sheep)[number % 2], 2 * world + number // 2
                assert group.active[slot] == (agent in env.agents)
                expected = seen[world][agent] if agent in env.agents else np.zeros(group.observation.shape[1])
                assert np.array_equal(group.observation[slot], expected)
        of_wolves, of_sheep = step(groups, random)
        for world, env in enumerate(plain):
            chosen = {
                agent: (of_wolves if n % 2 == 0 else of_sheep)[2 * world + n // 2] for n, agent in enumerate(AGENTS)
            }
            taken = {a: np.clip(row, -1, 1) if a.startswith("wolf") else int(row) - 1 for a, row in chosen.items()}
            seen[world], rewards, over, cut, _ = env.step({agent: taken[agent] for agent in env.agents})
            for n, agent in enumerate(AGENTS):
                group, slot = (wolves, sheep)[n % 2], 2 * world + n // 2
                assert group.reward[slot] == np.float32(rewards.get(agent, 0.0))
                assert (group.terminated[slot], group.truncated[slot]) == (
                    over.get(agent, False),
                    cut.get(agent, False),
                )
            if not env.agents:
                ends += 1
                episodes[world] += 1
                seen[world], _ = env.reset(seed=episode_seed(9, world, episodes[world]))
        assert wolves.episode.tolist() == sheep.episode.tolist() == episodes
    assert ends > 8


def test_a_world_plays_the_same_games_in_any_batch() -> None:
    wide, alone = groups_of(worlds=4), groups_of(worlds=1, first=2)
    random = np.random.default_rng(3)
    for _ in range(30):
        for group, one in zip(wide, alone, strict=True):
            action = random_actions(group, random)
            group.step(action)
            one.step(action[4:6])
        for group, one in zip(wide, alone, strict=True):
            assert np.array_equal(group.observation[4:6], one.observation)
            assert np.array_equal(group.reward[4:6], one.reward)


@pytest.mark.parametrize("environment", [HUNT, PARTY, "pettingzoo:tests.envs.turn_based_party"])
def test_what_is_restored_goes_on_as_it_would_have(environment: str) -> None:
    policies = POLICIES if environment == HUNT else OF_PARTY
    first, other = (list(make_groups(environment, {}, policies, 3, seed).values()) for seed in (5, 8))
    random = np.random.default_rng(0)
    for _ in range(17):
        step(first, random)
    for group, stored in zip(other, [group.state() for group in first], strict=True):
        group.restore(stored)
    one, two = np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(20):
        step(first, one)
        step(other, two)
        assert all(np.array_equal(a, b) for a, b in zip(shown(first), shown(other), strict=True))


def test_worlds_that_do_not_repeat_themselves_are_as_they_were_after_a_vain_restore() -> None:
    first, other = groups_of(moody=True), groups_of(moody=True)
    step(first, np.random.default_rng(0))
    kept = [group.spec.agents_per_world for group in other]
    states = [group.state() for group in first]
    other[0].restore(states[0])
    with pytest.raises(CannotReplay, match="went another way"):
        other[1].restore(states[1])
    step(other, np.random.default_rng(0))
    assert [group.spec.agents_per_world for group in other] == kept


def test_agents_of_one_policy_among_several_are_played_as_all_of_them_are() -> None:
    """Agents that share a space do the same in groups as in one."""
    together = PettingZooWorlds("tests.envs.parallel_party", {}, 2, 7)
    one, rest = make_groups(PARTY, {}, OF_PARTY, 2, 7).values()
    random = np.random.default_rng(2)
    for _ in range(30):
        action = random_actions(together, random)
        together.step(action)
        one.step(action[[1, 4]])
        rest.step(action[[0, 2, 3, 5]])
        for name in ("observation", "reward", "terminated", "truncated", "active"):
            whole = getattr(together, name)
            assert np.array_equal(getattr(one, name), whole[[1, 4]]), name
            assert np.array_equal(getattr(rest, name), whole[[0, 2, 3, 5]]), name


@pytest.mark.parametrize(
    ("environment", "policies", "message"),
    [
        (HUNT, {"wolf_.*": "a"}, "policies: no pattern matches 'sheep_0': '.*' has the agents wolf_0, sheep_0, wolf_1"),
        (HUNT, {"wolf_.*": "a", "sheep_.*": "b", "cow": "c"}, "policies: 'cow' matches nobody whom .* has the agents"),
        (HUNT, {".*": "a", "wolf_.*": "b"}, "policies: 'wolf_.\\*' matches nobody whom no pattern before it does"),
        (HUNT, {"wolf_0|sheep_0": "a", ".*": "b"}, "agents act in different spaces .* a policy of its own"),
        (HUNT, {"wolf": "a", ".*": "b"}, "policies: 'wolf' matches nobody"),
        ("snake", {".*": "a"}, "policies: 'snake' is no PettingZoo environment, and no other has agents by name"),
        ("gym:CartPole-v1", {".*": "a"}, "policies: 'gym:CartPole-v1' is no PettingZoo environment"),
    ],
)
def test_what_fits_no_agents_is_refused(environment: str, policies: dict[str, str], message: str) -> None:
    with pytest.raises(EnvError, match=message) as refused:
        make_groups(environment, {}, policies, 1, 0)
    assert "\n" not in str(refused.value)


def test_a_class_of_a_user_has_groups_too() -> None:
    wolves, sheep = make_groups("tests.envs.hunting:Hunt", {"limit": 3}, POLICIES, 1, 0).values()
    for _ in range(3):
        step([wolves, sheep], np.random.default_rng(0))
    assert wolves.episode[0] == sheep.episode[0] >= 1
    assert wolves.observation.max() <= LENGTH


def test_a_group_that_sets_out_twice_is_told_so() -> None:
    wolves, _ = groups_of(worlds=1)
    action = wolves.spec.action_space.zeros(2)
    wolves.step(action)
    with pytest.raises(EnvError, match="the call step twice before the others got it"):
        wolves.step(action)
