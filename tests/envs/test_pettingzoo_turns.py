"""PettingZoo's turn-based environments behind the vector protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rattle.envs.errors import EnvError
from rattle.envs.logged_worlds import episode_seed
from rattle.envs.pettingzoo_worlds import PettingZooWorlds
from rattle.envs.registry import make_worlds
from tests.envs.countdown import Countdown

MODULE = "tests.envs.countdown"
GAMES: list[dict[str, Any]] = [
    {},
    {"players": 3, "fee": 0.25, "gift": 0.5},
    {"players": 3, "gift": 0.5, "late": (1,), "leaves": (0,), "heap": 14},
    {"players": 4, "leaves": (1, 2), "heap": 20},
    {"limit": 4, "gift": 1.0},
    {"players": 4, "heap": 3},  # the last player has no turn where the heap is gone before
]


def drawn(ticks: int, slots: int) -> Any:
    return np.random.default_rng(5).integers(0, 3, (ticks, slots))


@pytest.mark.parametrize("settings", GAMES)
def test_a_tick_is_a_move_and_rewards_are_those_since_the_last_one(settings: dict[str, Any]) -> None:
    """World 2 of a batch of worlds 1 to 3, against the loop over `agent_iter` that PettingZoo documents."""
    worlds = PettingZooWorlds(MODULE, settings, num_worlds=3, seed=9, first_world=1)
    agents = worlds.spec.agents_per_world
    mine, actions = slice(agents, 2 * agents), drawn(150, worlds.num_slots)
    shown = []
    for action in actions:
        active, seen, episode = worlds.active[mine].copy(), worlds.observation[mine].copy(), int(worlds.episode[1])
        assert active.sum() == 1  # one moves, and the others see nothing
        assert not seen[~active].any()
        worlds.step(action)
        ended = worlds.terminated[mine] | worlds.truncated[mine]
        last = np.where(ended[:, None], worlds.final_observation[mine], 0)
        outcome = (worlds.reward[mine], worlds.terminated[mine], worlds.truncated[mine], last)
        shown.append((episode, active, seen, *(array.copy() for array in outcome)))
    assert worlds.episode[1] > 3
    game = Countdown(**settings)
    names, tick = game.possible_agents, 0
    for episode in range(int(worlds.episode[1])):
        game.reset(seed=episode_seed(9, 2, episode))
        moved: dict[str, int] = {}
        early = dict.fromkeys(names, 0.0)
        earned = np.zeros(agents)
        ends: dict[str, tuple[bool, bool]] = {}
        first = tick
        for name in game.agent_iter():
            seen, reward, terminated, truncated, _ = game.last()
            slot = names.index(name)
            if name in moved:
                earned[slot] += reward
            else:
                early[name] = reward
            if terminated or truncated:
                ends[name] = (terminated, truncated)
                assert [row[3 + 1][slot] for row in shown[first:tick]].count(True) == terminated
                np.testing.assert_array_equal(shown[tick - 1][6][slot], seen)
                game.step(None)
                continue
            assert shown[tick][0] == episode
            assert shown[tick][1][slot]
            np.testing.assert_array_equal(shown[tick][2][slot], seen)
            if name not in moved:
                moved[name] = tick
            game.step(1 + actions[tick, agents + slot])
            tick += 1
        played = shown[first:tick]
        total = np.sum([row[3] for row in played], axis=0)
        before = np.array([early[name] if name in moved else 0.0 for name in names])
        np.testing.assert_allclose(total, earned + before, rtol=1e-6)
        assert np.sum([row[4] for row in played]) == sum(end[0] for end in ends.values())
        assert np.sum([row[5] for row in played]) == sum(end[1] and not end[0] for end in ends.values())


@pytest.mark.parametrize("settings", GAMES)
def test_a_world_is_the_same_at_any_batch_width_and_after_a_restore(settings: dict[str, Any]) -> None:
    wide = PettingZooWorlds(MODULE, settings, num_worlds=4, seed=2)
    alone = PettingZooWorlds(MODULE, settings, num_worlds=1, seed=2, first_world=2)
    agents = wide.spec.agents_per_world
    mine, actions = slice(2 * agents, 3 * agents), drawn(60, wide.num_slots)
    for tick, action in enumerate(actions):
        if tick in (7, 31):
            alone.restore(alone.state())
            copy = PettingZooWorlds(MODULE, settings, num_worlds=4, seed=77)
            copy.restore(wide.state())
            wide = copy
        wide.step(action)
        alone.step(action[mine])
        for name in ("observation", "reward", "terminated", "truncated", "active"):
            np.testing.assert_array_equal(getattr(wide, name)[mine], getattr(alone, name), name)
    assert alone.episode[0] > 2


def test_a_class_of_a_user_takes_turns_too() -> None:
    own, module = (
        make_worlds(name, {"players": 3}, 2, seed=4) for name in (f"{MODULE}:Countdown", f"pettingzoo:{MODULE}")
    )
    for action in drawn(40, own.num_slots):
        for name in ("observation", "reward", "terminated", "active"):
            np.testing.assert_array_equal(getattr(own, name), getattr(module, name), name)
        own.step(action)
        module.step(action)
    assert own.episode.all()


def test_wrappers_for_games_in_turns_go_around_them() -> None:
    wrapped = {"wrappers": ["AssertOutOfBoundsWrapper", {"use": "tests.envs.countdown:Multiplied", "factor": 3}]}
    worlds, plain = (PettingZooWorlds(MODULE, settings, 2, 1) for settings in (wrapped, {}))
    for action in drawn(30, 4):
        worlds.step(action)
        plain.step(action)
        np.testing.assert_array_equal(worlds.observation, 3 * plain.observation)
        np.testing.assert_array_equal(worlds.reward, plain.reward)
    for module, use, said in (
        (MODULE, "BaseParallelWrapper", "is not a wrapper"),
        (MODULE, "pettingzoo.utils.conversions:aec_to_parallel_wrapper", "is not a wrapper"),
        ("tests.envs.parallel_party", "OrderEnforcingWrapper", "is a parallel game, and .* is for games in turns"),
    ):
        with pytest.raises(EnvError, match=said):
            PettingZooWorlds(module, {"wrappers": [use]})


def test_the_spec_says_that_agents_wait() -> None:
    assert PettingZooWorlds(MODULE).spec.agents_wait
    assert not PettingZooWorlds(MODULE, {"players": 1}).spec.agents_wait


def end_first(game: Countdown) -> None:
    """End the first player's episode, and give it its last turn."""
    if "player_0" in game.agents and not game.moves["player_1"]:
        game.terminations["player_0"] = True
        game._deads_step_first()


def come_back(game: Countdown) -> None:
    """Let the first player join and move again once its episode has ended."""
    end_first(game)
    if game.moves["player_1"]:
        game._join("player_0")
        game.agent_selection = "player_0"


def stay(game: Countdown) -> None:
    """Keep the first player among the agents when its episode has ended."""
    end_first(game)
    if "player_0" not in game.agents:
        game.agents.append("player_0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (come_back, "the turn of 'player_0', whose episode has ended"),
        (stay, "'player_0' among the agents, though it has ended"),
        (lambda game: game.agents.append("guest"), "the agent 'guest', who is not in possible_agents"),
        (
            lambda game: game._cumulative_rewards.update(player_1="much"),
            "a reward of 'player_1' that is not one number",
        ),
    ],
)
def test_what_a_step_does_wrong_is_said_in_one_line(
    change: Callable[[Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_steps(monkeypatch, change)
    worlds = PettingZooWorlds(MODULE, first_world=2)

    def play() -> None:
        for _ in range(2):
            worlds.step(np.zeros(2, np.int64))

    with pytest.raises(EnvError, match=rf"^'pettingzoo:{MODULE}', world 2: step handed out {message}"):
        play()


def test_who_leaves_without_a_word_is_truncated_and_saw_last_what_it_acted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    change_steps(monkeypatch, lambda game: game.agents.remove("player_0") if "player_0" in game.agents else None)
    worlds = PettingZooWorlds(MODULE, {"heap": 30})
    seen = worlds.observation[0].copy()
    worlds.step(np.zeros(2, np.int64))
    assert (worlds.truncated.tolist(), worlds.active.tolist()) == ([True, False], [False, True])
    np.testing.assert_array_equal(worlds.final_observation[0], seen)


def test_an_episode_that_nobody_begins_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Countdown, "reset", lambda game, seed=None, options=None: game.close())
    with pytest.raises(EnvError, match=rf"^'pettingzoo:{MODULE}', world 0: an episode starts with no agent that acts"):
        PettingZooWorlds(MODULE)


def change_steps(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Have something done to games after each step."""
    step = Countdown.step

    def wrong(game: Countdown, action: int | None) -> None:
        step(game, action)
        change(game)

    monkeypatch.setattr(Countdown, "step", wrong)
