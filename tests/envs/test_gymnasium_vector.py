"""Vector environments of others behind the vector protocol: every autoreset mode, and what may go wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rattle.envs.errors import CannotReplay, EnvError
from rattle.envs.gymnasium_vector import VectorEnvWorlds
from rattle.envs.gymnasium_worlds import GymnasiumWorlds
from rattle.envs.logged_worlds import episode_seed
from rattle.envs.registry import make_worlds, validate
from rattle.envs.vector import VectorWorlds
from tests.envs.counting_vector import Counting, length

COUNTING = "tests.envs.counting_vector:Counting"
MODES = ["NextStep", "SameStep", "Disabled"]
CARTPOLE = "gym:CartPole-v1"


class InTurn(SyncVectorEnv):
    """A user's batch that takes a seed for each world."""

    def __init__(self, num_envs: int, mode: str = "NextStep") -> None:
        make = [lambda: gymnasium.make("CartPole-v1")] * num_envs
        super().__init__(make, autoreset_mode=AutoresetMode(mode))


def made(mode: str, worlds: int = 5, seed: int = 3, **settings: Any) -> VectorWorlds:
    return make_worlds(COUNTING, {"mode": mode, **settings}, worlds, seed)


def played(worlds: VectorWorlds, ticks: int) -> list[list[tuple[Any, ...]]]:
    """Play, and return the transitions of each world that would be learnt from."""
    rng, found = np.random.default_rng(1), [list[tuple[Any, ...]]() for _ in range(worlds.num_worlds)]
    for _ in range(ticks):
        action = rng.integers(0, 3, worlds.num_worlds)
        seen, active, episode = worlds.observation.copy(), worlds.active.copy(), worlds.episode.copy()
        worlds.step(action)
        for world in np.flatnonzero(active):
            over, cut = bool(worlds.terminated[world]), bool(worlds.truncated[world])
            after = worlds.final_observation[world] if over or cut else worlds.observation[world]
            paid = worlds.reward[world] - action[world]
            found[world].append((int(episode[world]), *seen[world].tolist(), *after.tolist(), paid, over, cut))
        assert not (worlds.terminated | worlds.truncated)[~active].any()
        assert not worlds.reward[~active].any()
        assert not worlds.observation[~worlds.active].any()
    return found


def known(seed: int, world: int, ticks: int) -> Iterator[tuple[Any, ...]]:
    """Yield what a world of `Counting` shows."""
    drawn, episode = episode_seed(seed, 0, 0) % 1000, 0
    while ticks > 0:
        last = length(drawn, world, episode)
        for tick in range(last):
            end = tick + 1 == last
            ends = (end and last % 2 == 1, end and last % 2 == 0)
            yield (episode, tick, episode, last, tick + 1, episode, last, 2.5, *ends)
        episode, ticks = episode + 1, ticks - last


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("as_objects", [True, False])
def test_transitions_are_those_of_the_episodes_in_every_mode(mode: str, as_objects: bool) -> None:
    worlds = made(mode, as_objects=as_objects)
    found = played(worlds, 60)
    for world, transitions in enumerate(found):
        wanted = list(known(3, world, 60))[: len(transitions)]
        assert transitions == wanted
        assert len(transitions) == 60 if mode != "NextStep" else 40 < len(transitions) < 60


@pytest.mark.parametrize("mode", MODES)
def test_codes_are_counted_from_the_start_of_their_space(mode: str) -> None:
    worlds = made(mode, seen="codes")
    assert worlds.observation.dtype == np.uint8
    assert worlds.observation.shape == (5, 1)
    for transitions in played(worlds, 30):
        assert all(after == seen + 1 for _, seen, after, *_ in transitions)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("as_objects", [True, False])
def test_parts_and_masks_come_row_by_row_in_every_mode(mode: str, as_objects: bool) -> None:
    worlds, plain = made(mode, seen="parts", as_objects=as_objects), made(mode)
    assert [part.name for part in worlds.spec.observation_space.parts] == ["action_mask", "numbers"]  # type: ignore[union-attr]
    for tick in range(30):
        for one in (worlds, plain):
            one.step(np.full(5, tick % 3))
        ended = plain.terminated | plain.truncated
        np.testing.assert_array_equal(worlds.observation[:, 3:], plain.observation)
        np.testing.assert_array_equal(worlds.final_observation[ended, 3:], plain.final_observation[ended])
        np.testing.assert_array_equal(worlds.observation[worlds.active, :3].sum(axis=1), 2)
        np.testing.assert_array_equal(worlds.final_observation[ended, :3].sum(axis=1), 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_starts_the_next_episode_everywhere_and_a_seed_its_first(mode: str) -> None:
    worlds = made(mode)
    first = worlds.observation.copy()
    played(worlds, 7)
    worlds.reset()
    assert worlds.active.all()
    assert not worlds.observation[:, 0].any()
    again = made(mode)
    worlds.reset(3)
    np.testing.assert_array_equal(worlds.observation, first)
    assert not worlds.episode.any()
    assert played(worlds, 20) == played(again, 20)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("worlds", [1, 6])
def test_steps_are_those_of_the_bare_batch(mode: str, worlds: int) -> None:
    ours, bare = make_worlds(f"{__name__}:InTurn", {"mode": mode}, worlds, 5, 2), InTurn(worlds, mode)
    seen, _ = bare.reset(seed=[episode_seed(5, 2 + world, 0) for world in range(worlds)])
    rng, asleep, ends = np.random.default_rng(2), np.zeros(worlds, np.bool_), 0
    for _ in range(80):
        np.testing.assert_array_equal(ours.observation[~asleep], seen[~asleep])
        action = rng.integers(0, 2, worlds)
        ours.step(action)
        seen, reward, terminated, truncated, infos = bare.step(action)
        ended = terminated | truncated
        np.testing.assert_array_equal(ours.reward[~asleep], reward[~asleep])
        np.testing.assert_array_equal(ours.terminated, terminated)
        np.testing.assert_array_equal(ours.truncated, truncated & ~terminated)
        if ended.any():
            last = seen if mode != "SameStep" else np.stack(infos["final_obs"][ended])
            np.testing.assert_array_equal(ours.final_observation[ended], last if mode == "SameStep" else last[ended])
            if mode == "Disabled":
                seen, _ = bare.reset(options={"reset_mask": ended})
        asleep = ended if mode == "NextStep" else asleep
        np.testing.assert_array_equal(ours.active, ~asleep)
        ends += int(ended.sum())
    assert ends >= worlds
    assert ours.episode.sum() == ends - int(asleep.sum())
    bare.close()


def test_worlds_that_take_seeds_play_the_same_games_in_any_batch() -> None:
    name = f"{__name__}:InTurn"
    wide, alone = make_worlds(name, {"mode": "Disabled"}, 4, 5), make_worlds(name, {"mode": "Disabled"}, 1, 5, 2)
    assert wide.spec.batch is not None
    assert (wide.spec.batch.stepped_by, wide.spec.batch.any_width) == ("InTurn", True)
    for tick in range(60):
        wide.step(np.full(4, tick % 2))
        alone.step(np.full(1, tick % 2))
        np.testing.assert_array_equal(wide.observation[2:3], alone.observation)


def test_a_gymnasium_id_has_its_vector_environment_only_where_that_is_wanted() -> None:
    assert isinstance(make_worlds(CARTPOLE, {}, 2, 0), GymnasiumWorlds)
    for vector in ("auto", "always"):
        worlds = make_worlds(CARTPOLE, {"sutton_barto_reward": True}, 3, 0, vector=vector)  # type: ignore[arg-type]
        assert isinstance(worlds, VectorEnvWorlds)
        assert worlds.spec.batch is not None
        assert (worlds.spec.batch.stepped_by, worlds.spec.batch.any_width) == ("CartPoleVectorEnv", False)
        worlds.step(np.zeros(3, np.int64))
        assert not worlds.reward.any()


def test_a_gymnasium_id_without_one_is_stepped_one_by_one_or_refused() -> None:
    assert isinstance(make_worlds("gym:Acrobot-v1", {}, 2, 0, vector="auto"), GymnasiumWorlds)
    with pytest.raises(EnvError, match=r"^env\.vector is always, but 'gym:Acrobot-v1' has no vector env"):
        make_worlds("gym:Acrobot-v1", {}, 2, 0, vector="always")


def test_cartpole_steps_as_its_vector_environment_does() -> None:
    ours, bare = make_worlds(CARTPOLE, {}, 16, 9, 4, vector="auto"), gymnasium.make_vec("CartPole-v1", 16)
    seen, _ = bare.reset(seed=episode_seed(9, 4, 0))
    rng, asleep = np.random.default_rng(3), np.zeros(16, np.bool_)
    for _ in range(100):
        np.testing.assert_array_equal(ours.observation[~asleep], seen[~asleep])
        action = rng.integers(0, 2, 16)
        ours.step(action)
        seen, reward, terminated, truncated, _ = bare.step(action)
        np.testing.assert_array_equal(ours.reward[~asleep], reward[~asleep])
        asleep = terminated | truncated
        np.testing.assert_array_equal(ours.final_observation[asleep], seen[asleep])
    assert ours.episode.all()


def test_batches_of_other_worlds_draw_other_games() -> None:
    one, other = make_worlds(CARTPOLE, {}, 4, 0, vector="auto"), make_worlds(CARTPOLE, {}, 4, 0, 4, vector="auto")
    assert not np.array_equal(one.observation, other.observation)


def test_a_batch_cannot_be_stored_and_says_so() -> None:
    worlds = made("SameStep")
    with pytest.raises(CannotReplay, match=r"^'.*:Counting' is stepped as one batch by Counting, whose worlds cannot"):
        worlds.restore(worlds.state())
    assert worlds.snapshot(1) == {"observation": worlds.observation[1].tolist()}


def test_settings_are_those_of_the_constructor_but_the_number_of_worlds() -> None:
    assert validate(COUNTING, {"mode": "Disabled"}) == {"mode": "Disabled"}
    with pytest.raises(EnvError, match="unknown key 'num_envs'"):
        validate(COUNTING, {"num_envs": 3})
    with pytest.raises(EnvError, match=r"'gym:CartPole-v1' may not be given 'num_envs': env\.worlds"):
        make_worlds(CARTPOLE, {"num_envs": 3}, 2, 0, vector="auto")


class Few(Counting):
    """Takes no number of worlds."""

    def __init__(self, size: int = 3) -> None:
        self.size = size


class Silent(Counting):
    """Does not say when its worlds begin anew."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.metadata = {}


class Stubborn(Counting):
    """Has always two worlds."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Few", "__init__ must take num_envs by name"),
        ("Silent", "must have an autoreset_mode of gymnasium.vector.AutoresetMode, not None"),
        ("Stubborn", "was made with num_envs=3, and its num_envs is 2"),
    ],
)
def test_classes_that_are_no_batches_are_refused_in_a_line(name: str, said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        make_worlds(f"{__name__}:{name}", {}, 3, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "mode", "said"),
    [
        ("raises", "SameStep", "RuntimeError: the sea is rough"),
        ("exits", "SameStep", "SystemExit: 3"),
        ("four", "SameStep", "4 values instead of the five"),
        ("shape", "SameStep", r"an observation of shape \(5, 2\) and type float64, but the space is \(3,\)"),
        ("text", "SameStep", "an observation of shape .* and type <U"),
        ("codes", "SameStep", r"the observation \d+, but the space is Discrete\(8, start=-1\)"),
        ("fewer", "SameStep", r"an observation of shape \(4, 3\)"),
        ("reward", "SameStep", r"reward of shape \(5, 1\) and type float64 instead of one number"),
        ("flags", "SameStep", r"terminated of shape \(\) and type <U2"),
        ("no_final", "SameStep", "no final_obs in its infos, which a world that was truncated needs"),
        ("no_action", "NextStep", "an 'action_mask' that allows no action, though the episode continues"),
        ("mask", "Disabled", "other observations of worlds that are not in the reset_mask"),
        ("reset", "SameStep", "a ndarray instead of observations and infos"),
    ],
)
def test_what_goes_wrong_is_named_in_a_line(wrong: str, mode: str, said: str) -> None:
    with pytest.raises(EnvError, match=rf"^'\S+', worlds 0 to 4: (step|reset) (raised|handed out) {said}") as caught:
        played(made(mode, wrong=wrong, seen={"codes": "codes", "no_action": "parts"}.get(wrong, "numbers")), 40)
    assert "\n" not in str(caught.value)


def test_ends_without_a_last_observation_show_zeros_where_nothing_follows() -> None:
    worlds = made("SameStep", worlds=1, wrong="no_final")
    while not (worlds.terminated | worlds.truncated).any():
        before = worlds.observation.copy()
        try:
            worlds.step(np.zeros(1, np.int64))
        except EnvError:
            assert before[0, 2] % 2 == 0
            return
    assert not worlds.final_observation.any()


class Pool(Counting):
    """Counts as EnvPool's worlds would: a seed for each, given when they are made."""

    def __init__(self, num_envs: int, seed: list[int], first: int = 0) -> None:
        assert len(seed) == num_envs
        super().__init__(num_envs, "NextStep")
        self.seeds = np.array(seed) % 1000 + first

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        assert seed is None
        self.episode = np.full(self.num_envs, -1)
        return super().reset(options=options)

    def _observe(self) -> Any:
        numbers = super()._observe()
        numbers[:, 1] += self.seeds
        return numbers


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """A module envpool with one environment; the pools that were made."""
    made = list[Pool]()

    def make_gymnasium(task_id: str, **given: Any) -> Pool:
        assert task_id == "Count-v0"
        made.append(Pool(**given))
        return made[-1]

    module = ModuleType("envpool")
    monkeypatch.setattr(module, "make_gymnasium", make_gymnasium, raising=False)
    monkeypatch.setattr(module, "list_all_envs", lambda: ["Count-v0", "Catch-v0"], raising=False)
    monkeypatch.setitem(sys.modules, "envpool", module)
    return made


def test_envpool_gets_a_seed_for_each_world_and_a_new_pool_for_another(pool: list[Pool]) -> None:
    worlds = make_worlds("envpool:Count-v0", {"first": 2}, 3, 7, 4)
    assert worlds.spec.batch is not None
    assert (worlds.spec.batch.stepped_by, worlds.spec.batch.any_width) == ("Pool", True)
    seeds = [episode_seed(7, 4 + world, 0) % 1000 + 2 for world in range(3)]
    np.testing.assert_array_equal(worlds.observation[:, 1], seeds)
    worlds.step(np.zeros(3, np.int64))
    worlds.reset()
    assert len(pool) == 1
    worlds.reset(8)
    assert len(pool) == 2
    np.testing.assert_array_equal(worlds.observation[:, 1], [episode_seed(8, 4 + w, 0) % 1000 + 2 for w in range(3)])
    worlds.reset(8)
    assert len(pool) == 3


def test_what_envpool_has_not_is_said(pool: list[Pool]) -> None:
    with pytest.raises(EnvError, match=r"^EnvPool has no environment 'Cont-v0', did you mean 'Count-v0'"):
        make_worlds("envpool:Cont-v0", {}, 2, 0)
    with pytest.raises(EnvError, match=r"'envpool:Count-v0' may not be given 'seed': env\.worlds and the run's"):
        make_worlds("envpool:Count-v0", {"seed": 3}, 2, 0)
    with pytest.raises(EnvError, match="takes no wrappers"):
        make_worlds("envpool:Count-v0", {"wrappers": ["TimeLimit"]}, 2, 0)
    assert not pool


def test_envpool_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(EnvError, match=r"'envpool:CartPole-v1' needs EnvPool: pip install 'rattle\[envpool\]'"):
        make_worlds("envpool:CartPole-v1", {}, 2, 0)


def test_wrappers_go_around_worlds_that_are_stepped_in_turn() -> None:
    settings = {"wrappers": [{"use": "TimeLimit", "max_episode_steps": 3}]}
    assert isinstance(make_worlds(CARTPOLE, settings, 2, 0, vector="auto"), GymnasiumWorlds)
    with pytest.raises(EnvError, match="or has wrappers, which go around single worlds"):
        make_worlds(CARTPOLE, settings, 2, 0, vector="always")
    with pytest.raises(EnvError, match="takes no wrappers"):
        make_worlds(COUNTING, settings, 2, 0)


def test_actions_outside_their_space_change_nothing() -> None:
    worlds = made("SameStep")
    before = worlds.observation.copy()
    for action in (np.full(5, 3), np.zeros(4, np.int64), np.zeros(5)):
        with pytest.raises(EnvError, match="action must"):
            worlds.step(action)
    np.testing.assert_array_equal(worlds.observation, before)
