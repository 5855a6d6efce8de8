"""PettingZoo's parallel environments behind the vector protocol."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from rattle.envs.errors import EnvError
from rattle.envs.logged_worlds import episode_seed
from rattle.envs.pettingzoo_worlds import PettingZooWorlds
from rattle.envs.registry import make_groups, make_worlds, validate
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.settings import SnakeSettings
from rattle.envs.vector import VectorWorlds
from rattle.samples.spaces import CodeSpace, FloatSpace, PartsSpace
from tests.envs.parallel_party import Party

PARTY = "tests.envs.parallel_party"
TURNS = "tests.envs.turn_based_party"
SNAKE = "rattle.envs.snake.pettingzoo_env"
ROCK_PAPER_SCISSORS = "pettingzoo.classic.rps_v2"
OUTPUTS = ("observation", "reward", "terminated", "truncated", "active", "episode")


def actions(ticks: int, first_world: int, num_worlds: int, agents: int = 3, seed: int = 0) -> NDArray[np.int64]:
    """Return random actions (ticks, worlds * agents) that depend on the world's number only."""
    columns = [
        np.random.default_rng((seed, world)).choice(3, (ticks, agents), p=[0.6, 0.2, 0.2])
        for world in range(first_world, first_world + num_worlds)
    ]
    return np.concatenate(columns, axis=1)


def history(worlds: VectorWorlds, played: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Play and return every output as (ticks, ...), the final observations where a slot ended and zeros elsewhere."""
    record: dict[str, list[NDArray[Any]]] = {name: [] for name in (*OUTPUTS, "final_observation")}
    for action in played:
        worlds.step(action)
        for name in OUTPUTS:
            record[name].append(getattr(worlds, name).copy())
        over = worlds.terminated | worlds.truncated
        record["final_observation"].append(np.where(over[:, None], worlds.final_observation, 0))
    return {name: np.stack(rows) for name, rows in record.items()}


class PlainLoop:
    """What one world of a module must show: its environments played one after another, as PettingZoo documents it."""

    def __init__(self, module: str, settings: dict[str, Any], seed: int, world: int) -> None:
        self.env = importlib.import_module(module).parallel_env(**settings)
        self.seed, self.world, self.episode = seed, world, 0
        self.agents = self.env.possible_agents
        self.first_action = int(self.env.action_space(self.agents[0]).start)
        self.first_code = int(getattr(self.env.observation_space(self.agents[0]), "start", 0))
        self.width = (self.env.observation_space(self.agents[0]).shape or (1,))[0]
        self.start()

    def start(self) -> None:
        seen, _ = self.env.reset(seed=episode_seed(self.seed, self.world, self.episode))
        self.playing = [agent for agent in self.agents if agent in self.env.agents]
        self.gone: list[str] = []
        self.observation = self.rows(seen)

    def rows(self, seen: dict[str, Any]) -> NDArray[np.float32]:
        blank = np.zeros(self.width)
        shown = [np.atleast_1d(seen[agent]) - self.first_code if agent in seen else blank for agent in self.agents]
        return np.array(shown, np.float32)

    def step(self, action: NDArray[np.int64]) -> dict[str, Any]:
        chosen = {agent: self.first_action + action[self.agents.index(agent)] for agent in self.playing}
        seen, rewards, terminated, truncated, _ = self.env.step(chosen)
        over = {agent: terminated[agent] for agent in self.playing}
        cut = {agent: not over[agent] and (truncated[agent] or agent not in self.env.agents) for agent in self.playing}
        self.gone += [agent for agent in self.playing if over[agent] or cut[agent]]
        self.playing = [agent for agent in self.agents if agent in self.env.agents and agent not in self.gone]
        told: dict[str, Any] = {
            "reward": [rewards.get(agent, 0) for agent in self.agents],
            "terminated": [over.get(agent, False) for agent in self.agents],
            "truncated": [cut.get(agent, False) for agent in self.agents],
            "final_observation": self.rows({agent: seen[agent] for agent in over if over[agent] or cut[agent]}),
        }
        if self.playing:
            self.observation = self.rows({agent: seen[agent] for agent in self.playing})
        else:
            self.episode += 1
            self.start()
        return told | {
            "observation": self.observation,
            "active": [agent in self.playing for agent in self.agents],
            "episode": [self.episode],
        }


def assert_plays_like_the_loop(module: str, settings: dict[str, Any], ticks: int = 200) -> dict[str, NDArray[Any]]:
    """Compare world 3 of a batch of worlds 2 to 4 with the plain loop, and return what the batch showed."""
    worlds = PettingZooWorlds(module, settings, num_worlds=3, seed=5, first_world=2)
    loop = PlainLoop(module, settings, seed=5, world=3)
    agents = worlds.spec.agents_per_world
    mine = slice(agents, 2 * agents)
    np.testing.assert_array_equal(worlds.observation[mine], loop.observation)
    played = actions(ticks, 2, 3, agents)
    shown = history(worlds, played)
    for tick, action in enumerate(played):
        expected = loop.step(action[mine])
        for name, rows in expected.items():
            row = shown[name][tick]
            np.testing.assert_array_equal(row[1:2] if name == "episode" else row[mine], rows, f"{name} at {tick}")
    assert worlds.episode[1] > 3
    return shown


def test_implements_the_protocol() -> None:
    worlds = PettingZooWorlds(PARTY, {"limit": 5}, num_worlds=2)
    assert isinstance(worlds, VectorWorlds)
    assert (worlds.spec.id, worlds.spec.settings) == (f"pettingzoo:{PARTY}", {"limit": 5})
    assert worlds.spec.observation_space == FloatSpace(size=2)
    assert (worlds.spec.action_space.n, worlds.spec.agents_per_world, worlds.spec.metrics) == (3, 3, ())
    assert (worlds.metrics, worlds.final_metrics) == ({}, {})
    assert (worlds.num_worlds, worlds.num_slots) == (2, 6)
    assert worlds.observation.dtype == np.float32
    assert worlds.snapshot(1) == {"observation": worlds.observation[3:].tolist()}
    worlds.close()


@pytest.mark.parametrize(
    "settings", [{}, {"limit": 40}, {"both": True}, {"sneaky": True}, {"codes": True}, {"late": True}]
)
def test_guests_that_leave_one_by_one(settings: dict[str, Any]) -> None:
    shown = assert_plays_like_the_loop(PARTY, settings)
    left_early = (shown["terminated"] | shown["truncated"]) & ~shown["active"]
    assert left_early.any()
    assert not (shown["terminated"] & shown["truncated"]).any()
    assert not shown["observation"][~shown["active"]].any()
    assert shown["truncated"].any() == (settings not in ({"limit": 40}, {"both": True}))


def test_a_slot_that_ends_while_others_play_on_hands_out_what_it_saw_last() -> None:
    worlds = PettingZooWorlds(PARTY, {"sneaky": True, "limit": 40}, num_worlds=4, seed=1)
    seen_early = 0
    for tick in range(1, 12):
        worlds.step(np.full(12, 2))
        early = worlds.truncated & ~worlds.active
        np.testing.assert_array_equal(worlds.final_observation[early, 1] <= tick, True)
        assert (worlds.final_observation[early, 0] <= 0).all()  # the patience that made the guest leave
        assert (worlds.final_observation[early, 1] >= 1).all()
        seen_early += int(early.sum())
    assert seen_early


@pytest.mark.parametrize("ends_when", ["all", "any"])
def test_snake_plays_the_games_of_its_own_batch(ends_when: str) -> None:
    settings: dict[str, Any] = {"num_snakes": 3, "width": 8, "height": 8, "ends_when": ends_when, "max_steps": 40}
    assert_plays_like_the_loop(SNAKE, settings)
    worlds = PettingZooWorlds(SNAKE, settings, num_worlds=1, seed=6, first_world=4)
    played = actions(300, 4, 1)
    shown = history(worlds, played)
    episode, own = -1, SnakeWorlds(SnakeSettings(**settings))
    for tick, action in enumerate(played):
        now = 0 if tick == 0 else int(shown["episode"][tick - 1][0])
        if now != episode:
            # An episode here is the first of a seed of its own there.
            own, episode = SnakeWorlds(SnakeSettings(**settings), 1, seed=episode_seed(6, 4, now)), now
        own.step(action)
        for name in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(shown[name][tick], getattr(own, name), name)
        if own.episode[0]:
            ended = own.terminated | own.truncated
            np.testing.assert_array_equal(shown["final_observation"][tick][ended], own.final_observation[ended])
        else:
            np.testing.assert_array_equal(shown["observation"][tick], own.observation)
            np.testing.assert_array_equal(shown["active"][tick], own.active)
    assert episode > 5


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """PettingZoo's own games import pygame to draw themselves, which nobody asks for here."""
    monkeypatch.setitem(sys.modules, "pygame", MagicMock())
    for name in [name for name in sys.modules if name.startswith("pettingzoo.classic")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:The old environment creation API:DeprecationWarning")
def test_a_game_of_pettingzoos_own() -> None:
    shown = assert_plays_like_the_loop(ROCK_PAPER_SCISSORS, {"max_cycles": 6}, ticks=60)
    worlds = PettingZooWorlds(ROCK_PAPER_SCISSORS)
    assert worlds.spec.observation_space == CodeSpace(cells=1, codes=4)
    assert worlds.observation.dtype == np.uint8
    np.testing.assert_array_equal(shown["reward"].reshape(-1, 3, 2).sum(axis=2), 0)  # what one wins the other loses
    assert shown["reward"].any()


@pytest.mark.parametrize("module", [PARTY, SNAKE])
def test_a_world_is_the_same_at_any_batch_width(module: str) -> None:
    settings = {"num_snakes": 3} if module == SNAKE else {}
    wide = history(PettingZooWorlds(module, settings, num_worlds=5, seed=8), actions(150, 0, 5))
    alone = history(PettingZooWorlds(module, settings, num_worlds=1, seed=8, first_world=3), actions(150, 3, 1))
    for name in wide:
        mine = slice(3, 4) if name == "episode" else slice(9, 12)
        np.testing.assert_array_equal(wide[name][:, mine], alone[name], name)


def test_seeds_and_episodes_all_differ() -> None:
    worlds = PettingZooWorlds(PARTY, num_worlds=4, seed=1)
    starts = [worlds.observation.copy()]
    for seed in (None, None, 2, 1):
        worlds.reset(seed)
        starts.append(worlds.observation.copy())
    np.testing.assert_array_equal(starts[0], starts[-1])
    assert len(np.unique(np.array(starts[:-1]).reshape(16, -1), axis=0)) == 16


@pytest.mark.parametrize("ticks", [0, 1, 7, 37, 150])
@pytest.mark.parametrize(
    ("module", "settings"), [(PARTY, {"limit": 30}), (PARTY, {"codes": True}), (SNAKE, {"num_snakes": 3})]
)
def test_restored_worlds_continue_exactly(module: str, settings: dict[str, Any], ticks: int) -> None:
    played = actions(ticks + 150, 0, 4)
    original = PettingZooWorlds(module, settings, num_worlds=4, seed=3)
    for action in played[:ticks]:
        original.step(action)
    copy = PettingZooWorlds(module, settings, num_worlds=4, seed=77)
    history(copy, played[:23])
    state = original.state()
    copy.restore(state)
    for name in ("observation", "active", "episode"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(original, name), name)
    assert not np.stack([copy.reward, copy.terminated, copy.truncated]).any()
    after, expected = history(copy, played[ticks:]), history(original, played[ticks:])
    for name in after:
        np.testing.assert_array_equal(after[name], expected[name], name)
    assert all(array.dtype.kind in "uif" for array in state.values())
    copy.reset()
    original.reset()
    np.testing.assert_array_equal(copy.observation, original.observation)


def test_actions_of_the_dead_change_nothing() -> None:
    one, other = (PettingZooWorlds(PARTY, {"limit": 40}, num_worlds=3, seed=2) for _ in range(2))
    ignored = 0
    for action in actions(100, 0, 3):
        changed = np.where(one.active, action, 2 - action)
        ignored += int((changed != action).sum())
        one.step(action)
        other.step(changed)
        for name, array in one.state().items():
            np.testing.assert_array_equal(array, other.state()[name], name)
    assert ignored > 20


def test_uncertain_environments_are_found_out() -> None:
    original = PettingZooWorlds(PARTY, {"moody": True}, num_worlds=3)
    original.step(np.zeros(9, np.int64))
    with pytest.raises(EnvError, match=rf"^'pettingzoo:{PARTY}' .* not deterministic.* new episodes begin"):
        PettingZooWorlds(PARTY, {"moody": True}, num_worlds=3).restore(original.state())


def test_an_episode_that_ends_in_the_replay_is_found_out() -> None:
    original = PettingZooWorlds(PARTY)
    original.step(np.zeros(3, np.int64))
    with pytest.raises(EnvError, match="not deterministic"):
        PettingZooWorlds(PARTY, {"limit": 1}).restore(original.state())


def test_damaged_states_are_refused() -> None:
    worlds = PettingZooWorlds(PARTY)
    worlds.step(np.zeros(3, np.int64))
    with pytest.raises(EnvError, match="damaged"):
        worlds.restore(worlds.state() | {"length": np.array([0, 1, 2])})
    with pytest.raises(EnvError, match="numbered from 0, these from 1"):
        PettingZooWorlds(PARTY, first_world=1).restore(worlds.state())


@pytest.mark.parametrize("action", [np.zeros(3, np.int64), np.zeros(6), np.full(6, 3), np.full(6, -1)])
def test_wrong_actions_are_refused(action: NDArray[Any]) -> None:
    with pytest.raises(EnvError, match="action must"):
        PettingZooWorlds(PARTY, num_worlds=2).step(action)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ("no_such_module", {}, "cannot import 'no_such_module', which should have a parallel_env .* install"),
        ("", {}, "cannot import ''"),
        (".relative", {}, "cannot import '.relative'"),
        ("tictactoe_v3", {}, "no module 'tictactoe_v3': PettingZoo has 'pettingzoo:pettingzoo.classic.tictactoe_v3'"),
        ("pettingzoo.classic.tictactoe_v1", {}, ": PettingZoo has 'pettingzoo:pettingzoo.classic.tictactoe_v3'"),
        ("pettingzoo.classic.tictactoe", {}, "no env: PettingZoo has 'pettingzoo:pettingzoo.classic.tictactoe_v3'"),
        ("json", {}, "the module 'json' has no parallel_env and no env"),
        ("pettingzoo.test.example_envs.generated_agents_parallel_v0", {}, "has no possible_agents"),
        (SNAKE, {"widht": 9}, "unknown key 'widht', did you mean 'width'"),
        (PARTY, {"limits": 3}, "cannot be made with limits=3: .*unexpected keyword argument 'limits'"),
        (PARTY, {"limit": 0}, "cannot be made with limit=0: limit must be 1 or more"),
        (PARTY, {"odd": "nobody"}, "has no possible_agents"),
        (PARTY, {"odd": "namesakes"}, "names the agent 'ann' twice in possible_agents"),
        (PARTY, {"odd": "rows"}, "reset handed out observations that are no dict by agents: "),
        (PARTY, {"odd": "sights"}, r"observe different spaces \(ann, bob: Box.*; cid: Box.*wrap the env"),
        (PARTY, {"odd": "acts"}, r"act in different spaces \(ann, cid: Discrete\(3.*; bob: Discrete\(4.*wrap the"),
        (PARTY, {"odd": "steers"}, r"agents act in different spaces \(ann: Box.*; bob, cid: Discrete\(3.*wrap the"),
        (
            PARTY,
            {"odd": "picture"},
            r"observation of shape \(2,\) and type int64, but the space is \(2, 2\).*, for 'ann'",
        ),
        (PARTY, {"odd": "many"}, r"observes Discrete\(100000\).*at most 65536 values"),
    ],
)
@pytest.mark.filterwarnings("ignore:The old environment creation API:DeprecationWarning")  # where pygame is installed
def test_what_cannot_be_played_is_said_in_one_line(module: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message) as caught:
        PettingZooWorlds(module, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer, env: env.agents.append("dan"), "the agent 'dan', who is not in possible_agents"),
        (lambda answer, env: answer[0].pop("ann"), "step handed out no observation of 'ann', who plays on"),
        (lambda answer, env: answer[0].update(bob=np.zeros(3)), r"an observation of shape \(3,\) .*, for 'bob'"),
        (lambda answer, env: answer[1].update(bob="much"), "a reward of 'bob' that is not one number: 'much'"),
        (
            lambda answer, env: answer.__setitem__(0, None),
            "step handed out observations that are no dict by agents: None",
        ),
        (lambda answer, env: answer.__setitem__(1, 1.5), "step handed out rewards that are no dict by agents: 1.5"),
        (
            lambda answer, env: answer.__setitem__(3, True),
            "step handed out truncations that are no dict by agents: True",
        ),
        (lambda answer, env: 1 / 0, "^'pettingzoo:tests.envs.parallel_party', world 2: step raised ZeroDivisionError"),
    ],
)
def test_what_a_step_does_wrong_is_said_in_one_line(
    change: Callable[[Any, Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = PettingZooWorlds(PARTY, first_world=2)
    step = Party.step

    def wrong(env: Party, actions: dict[str, int]) -> Any:
        answer = list(step(env, actions))
        change(answer, env)
        return answer

    monkeypatch.setattr(Party, "step", wrong)
    with pytest.raises(EnvError, match=message):
        worlds.step(np.zeros(3, np.int64))


def test_an_agent_that_vanishes_from_all_dicts_is_truncated_with_what_it_saw_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worlds = PettingZooWorlds(PARTY, {"limit": 40})
    before = worlds.observation.copy()
    step = Party.step

    def without_ann(env: Party, actions: dict[str, int]) -> Any:
        answer = step(env, actions)
        env.agents.remove("ann")
        for part in answer:
            part.pop("ann")
        return answer

    monkeypatch.setattr(Party, "step", without_ann)
    worlds.step(np.zeros(3, np.int64))
    assert worlds.truncated.tolist() == [True, False, False]
    assert worlds.active.tolist() == [False, True, True]
    np.testing.assert_array_equal(worlds.final_observation[0], before[0])


@pytest.mark.parametrize("arguments", [{"num_worlds": 0}, {"first_world": -1}])
def test_impossible_batches_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(EnvError, match="need 1 or more"):
        PettingZooWorlds(PARTY, **arguments)  # type: ignore[arg-type]


def test_the_registry_knows_them() -> None:
    worlds = make_worlds(f"pettingzoo:{PARTY}", {"limit": 4}, 2, seed=4, first_world=7)
    assert isinstance(worlds, PettingZooWorlds)
    assert (worlds.num_slots, worlds.seed, worlds.first_world) == (6, 4, 7)
    assert validate(f"pettingzoo:{PARTY}", {"limit": 4}) == {"limit": 4}


def test_a_file_gets_no_module_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for ask in (validate, lambda *asked, **how: make_worlds(*asked, 1, seed=0, **how)):
        with pytest.raises(EnvError, match=r"'stranger', which is not imported because a file says so"):
            ask("pettingzoo:stranger", {}, allow_imports=False)
        with pytest.raises(EnvError, match="'limit' from outside: builtin_function_or_method is no plain JSON value"):
            ask(f"pettingzoo:{PARTY}", {"limit": print}, allow_imports=False)
        ask(f"pettingzoo:{PARTY}", json.loads('{"limit": 4}'), allow_imports=False)


def test_games_in_turns_are_played_where_agents_act_at_the_same_time() -> None:
    turns = PettingZooWorlds("tests.envs.turn_based_party", {"limit": 6}, 2, 7)
    party = PettingZooWorlds("tests.envs.parallel_party", {"limit": 6}, 2, 7)
    random = np.random.default_rng(0)
    for _ in range(40):
        action = random.integers(0, 3, turns.num_slots)
        for worlds in (turns, party):
            worlds.step(action)
        for name in ("observation", "reward", "terminated", "truncated", "active", "episode"):
            np.testing.assert_array_equal(getattr(turns, name), getattr(party, name), err_msg=name)
    one_by_one = PettingZooWorlds("tests.envs.turn_based_party", {"in_turns": True}, 2, 7)
    assert one_by_one.active.tolist() == [True, False, False] * 2


def test_agents_may_choose_several_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    one = history(PettingZooWorlds(PARTY, num_worlds=2, seed=1), played := actions(40, 0, 2))
    monkeypatch.setattr(Party, "action_space", lambda self, agent: MultiDiscrete([3], start=[5]))
    several = history(PettingZooWorlds(PARTY, num_worlds=2, seed=1), played[..., None])
    for name, values in one.items():
        np.testing.assert_array_equal(several[name], values)


def test_actions_that_change_later_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = PettingZooWorlds(PARTY, num_worlds=2)
    worlds.reset()
    monkeypatch.setattr(Party, "action_space", lambda self, agent: Discrete(3 if agent == "ann" else 2, start=5))
    said = r"world 0: reset handed out the action space Discrete\(2, start=5\), but it was Discrete\(3, start=5\) at"
    with pytest.raises(EnvError, match=said):
        worlds.reset()


def play_allowed(ticks: int, *groups: VectorWorlds) -> None:
    """Take an action that masks allow, in each group by turns; the party asserts that it is one."""
    for tick in range(ticks):
        for worlds in groups:
            space = worlds.spec.observation_space
            assert isinstance(space, PartsSpace)
            assert space.mask is not None
            mask = worlds.observation[:, space.columns[space.mask.name]]
            assert mask[worlds.active].sum(axis=1).tolist() == [2] * int(worlds.active.sum())
            worlds.step(np.argmax(mask * np.roll([3, 2, 1], tick), axis=1))


#: The same game at the same time, as PettingZoo converts it, and in turns.
WAYS: list[tuple[str, dict[str, Any]]] = [(PARTY, {}), (TURNS, {}), (TURNS, {"in_turns": True})]


@pytest.mark.parametrize(
    ("module", "settings"), [*WAYS, (PARTY, {"late": True}), (PARTY, {"limit": 30}), (TURNS, {"limit": 30})]
)
def test_masks_in_infos_are_masks(module: str, settings: dict[str, Any]) -> None:
    worlds = PettingZooWorlds(module, {**settings, "masked": "well"}, 3, 5)
    play_allowed(90, worlds)
    assert worlds.episode.min() > 0
    again = PettingZooWorlds(module, worlds.spec.settings, 3, 5)
    again.restore(worlds.state())
    np.testing.assert_array_equal(again.observation, worlds.observation)


@pytest.mark.parametrize("first", ["ann", "cid"])
@pytest.mark.parametrize(("module", "settings"), WAYS)
def test_masks_in_infos_are_those_of_each_policys_agents(module: str, settings: dict[str, Any], first: str) -> None:
    """In turns only one agent of one policy is told its mask at the start."""
    groups = make_groups(f"pettingzoo:{module}", {**settings, "masked": "well"}, {first: "one", ".*": "rest"}, 2, 5)
    play_allowed(90, *groups.values())


@pytest.mark.parametrize(
    ("masked", "said"),
    [
        ("nothing", "an 'action_mask' that allows no action, though the episode continues"),
        ("another shape", r"infos with an 'action_mask' that is not 3 zeros and ones, one for each action: array\(\[1"),
        ("no bits", r"infos with an 'action_mask' that is not 3 zeros and ones, one for each action: \[1, 2, 1\]"),
        ("left out", "infos without an 'action_mask', which the first ones had: it must be there always, or never"),
        ("begun late", "infos with an 'action_mask', which the first ones had not: it must be there always, or never"),
    ],
)
@pytest.mark.parametrize(("module", "settings"), WAYS)
def test_wrong_masks_in_infos_are_named_with_their_agent(
    module: str, settings: dict[str, Any], masked: str, said: str
) -> None:
    worlds = PettingZooWorlds(module, {**settings, "masked": masked, "limit": 30}, first_world=4)
    moves = 3 if settings else 1  # in a tick of the party
    who = "ann" if masked == "begun late" else "bob"

    def play() -> None:
        for tick in range(12):
            allowed = np.stack([np.roll([1, 1, 0], tick // moves + guest) for guest in range(3)])
            worlds.step(np.argmax(allowed, axis=1))

    with pytest.raises(EnvError, match=rf"^'pettingzoo:{module}', world 4: step handed out {said}.*, for '{who}'$"):
        play()


def test_a_mask_of_other_actions_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Party, "_mask", lambda self, guest, tick: np.ones(4))
    with pytest.raises(EnvError, match=r"has an 'action_mask' in its infos that is not 3 zeros and ones.*array\(\[1"):
        PettingZooWorlds(PARTY, {"masked": "well"})


class Steering(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """Two agents give and see one number without a shape."""

    metadata: dict[str, Any] = {"name": "steering_v0"}  # noqa: RUF012 - as PettingZoo has it
    possible_agents = ["left", "right"]  # noqa: RUF012 - as PettingZoo has it

    def observation_space(self, agent: str) -> Box:
        return Box(-1, 1, ())

    action_space = observation_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        self.agents = list(self.possible_agents)
        return dict.fromkeys(self.agents, 0.5), {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert all(isinstance(action, np.ndarray) for action in actions.values())
        assert all(self.action_space(agent).contains(action) for agent, action in actions.items())
        no = dict.fromkeys(self.agents, False)
        return actions, dict.fromkeys(self.agents, 1.0), no, no, {}


def test_agents_may_give_and_see_one_number_without_a_shape() -> None:
    worlds = PettingZooWorlds("steering", num_worlds=2, made_by=Steering)
    worlds.step(np.array([0.25, -0.5, 2.0, 0.0], np.float32))
    assert worlds.observation.tolist() == [[0.25], [-0.5], [1.0], [0.0]]
