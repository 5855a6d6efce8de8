"""Gymnasium environments behind the vector protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_worlds import GymnasiumWorlds
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import VectorWorlds
from rattle.samples.spaces import FloatSpace, MultiDiscreteSpace

CARTPOLE = "CartPole-v1"
OUTPUTS = ("observation", "reward", "terminated", "truncated", "final_observation", "episode")


class Countdown(gymnasium.Env[NDArray[np.int64], np.int64]):
    """Counts down from a random start by the action, which lies between 5 and 7, and is cut after `limit` ticks."""

    observation_space = Box(-100, 100, (2,), np.int64)
    action_space = Discrete(3, start=5)

    def __init__(self, limit: int = 10, moody: bool = False, both: bool = False) -> None:
        self.limit, self.moody, self.both = limit, moody, both

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        super().reset(seed=None if self.moody else seed)
        self.ticks, self.left = 0, int(self.np_random.integers(20, 60))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.ticks += 1
        self.left -= int(action)
        over, late = self.left <= 0, self.ticks >= self.limit
        return self._observe(), float(action), over or (self.both and late), late, {"left": self.left}

    def _observe(self) -> NDArray[np.int64]:
        return np.array([self.left, self.ticks])


class Steered(gymnasium.Env[NDArray[np.float32], NDArray[np.float64]]):
    """Adds up what it is told, real numbers of two by two within bounds that only float64 has."""

    observation_space = Box(-100, 100, (5,), np.float32)
    action_space = Box(np.array([[-0.1, -1], [0, -np.inf]]), np.array([[0.1, 3], [0.7, np.inf]]), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seen = np.append(self.np_random.normal(size=4), 0).astype(np.float32)
        return self.seen, {}

    def step(self, action: NDArray[np.float64]) -> Any:
        assert self.action_space.contains(action), action
        self.seen = self.seen + np.append(action, 1).astype(np.float32)
        return self.seen, float(action.sum()), False, bool(self.seen[4] >= 9), {}


class Switched(gymnasium.Env[Any, Any]):
    """Takes actions that nobody can learn yet."""

    observation_space, action_space = Box(-1, 1, (1,)), gymnasium.spaces.Dict(on=Discrete(2))


class Counted(Switched):
    """Takes a box of whole numbers, of which one has too many values."""

    action_space = Box(np.array([0, -100]), np.array([3, 156]), dtype=np.int64)


class Pressed(gymnasium.Env[Any, Any]):
    """Shows what it was told last, and the tick; its episodes end after some ticks that its seed decides."""

    def __init__(self, taken: gymnasium.Space[Any]) -> None:
        self.action_space = taken
        self.observation_space = Box(-1000, 1000, (1 + int(np.prod(taken.shape)),), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seen, self.last = np.zeros(self.observation_space.shape), int(self.np_random.integers(2, 9))
        return self.seen, {}

    def step(self, action: NDArray[Any]) -> Any:
        assert self.action_space.contains(action), action
        self.seen = np.append(action, self.seen[-1] + 1)
        return self.seen, 0.0, False, bool(self.seen[-1] >= self.last), {}


class Sealed(gymnasium.Env[Any, Any]):
    """Needs a package that nobody has."""

    def __init__(self) -> None:
        raise gymnasium.error.DependencyNotInstalled("sealed is not installed,\n run `pip install sealed`")


class NoWindow(RuntimeError):
    """As pygame raises it where there is no display."""

    __module__ = "pygame"


class Odd(gymnasium.Env[Any, Any]):
    """Does one thing, named by `what`, as first environments do; the tick is what it observes, three times."""

    observation_space = Box(-1, 100, (3,), np.float32)
    action_space = Discrete(2)

    def __init__(self, what: str = "", at: int = 2) -> None:
        if what == "make":
            raise RuntimeError("no simulator")
        if what == "window at once":
            raise NoWindow("x11 not available")
        self.what, self.at, self.buffer = what, at, np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.ticks = 0
        self.buffer[:] = -1
        if self.what == "reset":
            raise RuntimeError("the simulator\ndid not start")
        if self.what == "window":
            raise NoWindow("x11 not available")
        self.resets = getattr(self, "resets", 0) + 1
        if self.what == "actions" and self.resets > 2:
            self.action_space = Discrete(3)
        return self.buffer if self.what == "no infos" else (self.buffer, {})

    def step(self, action: Any) -> Any:
        self.ticks += 1
        self.buffer[:] = self.ticks
        answer: list[Any] = [self.buffer, 1.0, False, self.ticks >= 5, {}]
        if self.ticks == self.at:
            self._be_odd(answer)
        return tuple(answer)

    def _be_odd(self, answer: list[Any]) -> None:
        if self.what == "step":
            raise RuntimeError("the simulator went away")
        if self.what == "exit":
            raise SystemExit(3)
        if self.what == "four":
            answer.pop()
        changes: dict[str, tuple[int, Any]] = {
            "long": (0, np.zeros(4)), "empty": (0, np.zeros(0)), "one": (0, np.zeros(1)), "text": (0, ["a", "b", "c"]),
            "rewards": (1, np.zeros(2)), "no reward": (1, None), "array": (1, np.array([2.0])), "0-d": (1, np.array(2)),
            "whole": (1, 2), "list": (0, [2, 2, 2]), "bools": (2, np.False_), "flags": (2, np.array([False])),
            "info": (4, None), "infos": (4, {"legal": np.arange(np.random.default_rng().integers(1, 9))}),
        }  # fmt: skip
        if self.what in changes:
            place, value = changes[self.what]
            answer[place] = value


class Unseeded(Odd):
    """Takes no seed, as environments once did not."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    classes = {"Countdown-v0": Countdown, "Sealed-v0": Sealed, "Odd-v0": Odd, "Unseeded-v0": Unseeded}
    classes |= {"Steered-v0": Steered, "Switched-v0": Switched, "Counted-v0": Counted}
    for name, made in classes.items():
        gymnasium.register(name, made)
    yield
    for name in classes:
        del gymnasium.registry[name]


def actions(ticks: int, first_world: int, num_worlds: int, choices: int = 2) -> NDArray[np.int64]:
    """Return random actions (ticks, worlds) that depend on the world's number only."""
    columns = [
        np.random.default_rng(world).integers(0, choices, ticks)
        for world in range(first_world, first_world + num_worlds)
    ]
    return np.stack(columns, axis=1)


def history(worlds: GymnasiumWorlds, played: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Play and return every output as (ticks, worlds, ...)."""
    record: dict[str, list[NDArray[Any]]] = {name: [] for name in OUTPUTS}
    for action in played:
        worlds.step(action)
        for name, rows in record.items():
            rows.append(getattr(worlds, name).copy())
    return {name: np.stack(rows) for name, rows in record.items()}


def assert_same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]], watch: slice = slice(None)) -> None:
    for name in OUTPUTS:
        np.testing.assert_array_equal(one[name], other[name][:, watch], err_msg=name)


def test_implements_the_protocol() -> None:
    worlds = GymnasiumWorlds(CARTPOLE, num_worlds=3)
    assert isinstance(worlds, VectorWorlds)
    assert worlds.spec.id == "gym:CartPole-v1"
    assert worlds.spec.observation_space == FloatSpace(size=4)
    assert (worlds.spec.action_space.n, worlds.spec.agents_per_world, worlds.spec.metrics) == (2, 1, ())
    assert (worlds.metrics, worlds.final_metrics) == ({}, {})
    assert (worlds.num_worlds, worlds.num_slots) == (3, 3)
    assert worlds.snapshot(1) == {"observation": worlds.observation[1].tolist()}
    worlds.close()


def test_plays_what_gymnasium_plays() -> None:
    worlds = GymnasiumWorlds(CARTPOLE, {"max_episode_steps": 20}, num_worlds=2, seed=5)
    plain = gymnasium.make(CARTPOLE, max_episode_steps=20)
    plain.reset(seed=derive_seed(5, "world", 1, 0) >> 33)
    episode = 0
    terminations = truncations = 0
    for action in actions(200, 0, 2):
        worlds.step(action)
        observation, reward, terminated, truncated, _ = plain.step(action[1])
        cut = truncated and not terminated
        assert (worlds.reward[1], worlds.terminated[1], worlds.truncated[1]) == (reward, terminated, cut)
        if terminated or truncated:
            np.testing.assert_array_equal(worlds.final_observation[1], observation)
            episode += 1
            observation, _ = plain.reset(seed=derive_seed(5, "world", 1, episode) >> 33)
        np.testing.assert_array_equal(worlds.observation[1], observation)
        assert worlds.episode[1] == episode
        terminations += terminated
        truncations += cut
    assert terminations > 0
    assert truncations > 0


def test_a_world_is_the_same_at_any_batch_width() -> None:
    wide = history(GymnasiumWorlds(CARTPOLE, num_worlds=6, seed=8), actions(150, 0, 6))
    alone = history(GymnasiumWorlds(CARTPOLE, num_worlds=1, seed=8, first_world=4), actions(150, 4, 1))
    assert_same(alone, wide, watch=slice(4, 5))
    assert wide["episode"][-1].min() > 2


def test_seeds_and_episodes_all_differ() -> None:
    worlds = GymnasiumWorlds(CARTPOLE, num_worlds=4, seed=1)
    starts = [worlds.observation.copy()]
    for seed in (None, None, 2, 1):
        worlds.reset(seed)
        starts.append(worlds.observation.copy())
    assert worlds.episode.tolist() == [0] * 4
    np.testing.assert_array_equal(starts[0], starts[-1])
    assert len(np.unique(np.concatenate(starts[:-1]), axis=0)) == 16


@pytest.mark.parametrize(("name", "settings"), [(CARTPOLE, {}), ("Countdown-v0", {"limit": 7})])
@pytest.mark.parametrize("ticks", [0, 1, 37, 150])
def test_restored_worlds_continue_exactly(name: str, settings: dict[str, Any], ticks: int) -> None:
    played = actions(ticks + 150, 0, 5)
    original = GymnasiumWorlds(name, settings, num_worlds=5, seed=3)
    history(original, played[:ticks]) if ticks else None
    copy = GymnasiumWorlds(name, settings, num_worlds=5, seed=77)
    history(copy, played[:23])
    copy.restore(original.state())
    np.testing.assert_array_equal(copy.observation, original.observation)
    np.testing.assert_array_equal(copy.episode, original.episode)
    before = original.episode.min()
    after, expected = history(copy, played[ticks:]), history(original, played[ticks:])
    ended = after["terminated"] | after["truncated"]
    for name in ("observation", "reward", "terminated", "truncated", "episode"):
        np.testing.assert_array_equal(after[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(after["final_observation"][ended], expected["final_observation"][ended])
    assert original.episode.min() > before
    copy.reset()
    original.reset()
    np.testing.assert_array_equal(copy.observation, original.observation)


def test_state_is_a_copy() -> None:
    worlds = GymnasiumWorlds(CARTPOLE, num_worlds=2)
    state = worlds.state()
    kept = {name: array.copy() for name, array in state.items()}
    history(worlds, actions(40, 0, 2))
    assert all(np.array_equal(state[name], kept[name]) for name in kept)
    assert all(array.dtype.kind in "uif" for array in state.values())


def test_actions_count_from_the_spaces_start() -> None:
    worlds = GymnasiumWorlds("Countdown-v0", num_worlds=3)
    worlds.step(np.array([0, 1, 2], np.uint8))
    assert worlds.reward.tolist() == [5, 6, 7]
    assert worlds.observation.dtype == np.float32


def test_an_end_is_either_by_the_rules_or_a_cut() -> None:
    worlds = GymnasiumWorlds("Countdown-v0", {"limit": 1, "both": True}, num_worlds=1)
    worlds.step(np.array([0]))
    assert (worlds.terminated[0], worlds.truncated[0]) == (True, False)
    assert worlds.final_observation[0, 1] == 1
    assert worlds.observation[0, 1] == 0


def test_uncertain_environments_are_found_out() -> None:
    original = GymnasiumWorlds("Countdown-v0", {"moody": True}, num_worlds=3)
    original.step(np.array([0, 1, 2]))
    with pytest.raises(EnvError, match=r"^'gym:Countdown-v0' .* not deterministic.* new episodes begin"):
        GymnasiumWorlds("Countdown-v0", {"moody": True}, num_worlds=3).restore(original.state())


def test_an_episode_that_ends_in_the_replay_is_found_out() -> None:
    original = GymnasiumWorlds("Countdown-v0", num_worlds=1)
    original.step(np.array([0]))
    with pytest.raises(EnvError, match="not deterministic"):
        GymnasiumWorlds("Countdown-v0", {"limit": 1}, num_worlds=1).restore(original.state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_worlds": 3}, "'episode' is missing or another array"),
        ({"first_world": 1}, "numbered from 0, these from 1"),
        ({"gymnasium_id": "Countdown-v0"}, "'observation' is missing or another array"),
    ],
)
def test_the_state_of_other_worlds_is_refused(change: dict[str, Any], message: str) -> None:
    state = GymnasiumWorlds(CARTPOLE, num_worlds=2).state()
    other = GymnasiumWorlds(**({"gymnasium_id": CARTPOLE, "num_worlds": 2} | change))
    with pytest.raises(EnvError, match=message):
        other.restore(state)


def steering(ticks: int, worlds: int) -> NDArray[np.float32]:
    """Return actions (ticks, worlds, 2, 2), some beyond their bounds, that depend on the world's number only."""
    each = [np.random.default_rng(world).normal(size=(ticks, 2, 2)) for world in range(worlds)]
    return np.stack(each, axis=1).astype(np.float32)


def test_real_numbers_are_put_into_their_bounds_as_the_environment_has_them() -> None:
    worlds = GymnasiumWorlds("Steered-v0", num_worlds=3, seed=4)
    assert worlds.spec.action_space.shape == (2, 2)
    [action] = steering(1, 3)
    before = worlds.observation.copy()
    worlds.step(action)
    bounded = np.clip(action, [[-0.1, -1], [0, -np.inf]], [[0.1, 3], [0.7, np.inf]]).reshape(3, 4)
    np.testing.assert_allclose(worlds.observation[:, :4], before[:, :4] + bounded, rtol=1e-6)
    np.testing.assert_allclose(worlds.reward, bounded.sum(axis=1), rtol=1e-5)


def test_worlds_that_are_steered_go_on_where_they_were_stored_and_play_the_same_in_any_batch() -> None:
    steers = steering(30, 3)
    whole, stored = (GymnasiumWorlds("Steered-v0", num_worlds=3, seed=4) for _ in range(2))
    alone = GymnasiumWorlds("Steered-v0", num_worlds=1, seed=4, first_world=2)
    for tick, action in enumerate(steers):
        if tick == 14:
            state = stored.state()
            stored = GymnasiumWorlds("Steered-v0", num_worlds=3)
            stored.restore(state)
        for worlds, rows in ((whole, action), (stored, action), (alone, action[2:])):
            worlds.step(rows)
        ended = whole.truncated
        np.testing.assert_array_equal(stored.final_observation[ended], whole.final_observation[ended])
        for name in (name for name in OUTPUTS if name != "final_observation"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(whole, name))
            np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[2:])
    assert whole.episode.min() >= 3


@pytest.mark.parametrize(
    ("taken", "sizes", "least"),
    [
        (MultiDiscrete([3, 2, 4]), (3, 2, 4), [0, 0, 0]),
        (MultiDiscrete([3, 2, 4], start=[-5, 7, 0]), (3, 2, 4), [-5, 7, 0]),
        (MultiDiscrete([[3, 2], [4, 1]], dtype=np.int32, start=[[1, 2], [3, 4]]), (3, 2, 4, 1), [[1, 2], [3, 4]]),
        (MultiBinary(5), (2,) * 5, [0] * 5),
        (MultiBinary([2, 3]), (2,) * 6, [[0] * 3] * 2),
        (Box(0, 255, (3,), np.uint8), (256,) * 3, [0] * 3),
        (Box(np.array([[-3], [2]]), np.array([[3], [2]]), dtype=np.int16), (7, 1), [[-3], [2]]),
    ],
    ids=str,
)
def test_several_whole_numbers_are_taken_as_the_environment_counts_and_lays_them_out(
    taken: gymnasium.Space[Any], sizes: tuple[int, ...], least: Any
) -> None:
    def make(num_worlds: int = 3, first_world: int = 0) -> GymnasiumWorlds:
        made_by = partial(Pressed, taken)
        return GymnasiumWorlds("pressed", num_worlds=num_worlds, seed=4, first_world=first_world, made_by=made_by)

    whole, stored, alone = make(), make(), make(1, 2)
    space = whole.spec.action_space
    assert space == MultiDiscreteSpace(sizes=sizes)
    generator = np.random.default_rng(3)
    for tick in range(30):
        action = space.draw(generator, 3)
        if tick == 14:
            state = stored.state()
            stored = make()
            stored.restore(state)
        for worlds, rows in ((whole, action), (stored, action.astype(np.int32)), (alone, action[2:])):
            worlds.step(rows)
        seen = np.where(whole.truncated[:, None], whole.final_observation, whole.observation)
        np.testing.assert_array_equal(seen[:, :-1], action + np.ravel(least))
        np.testing.assert_array_equal(stored.observation, whole.observation)
        np.testing.assert_array_equal(alone.observation, whole.observation[2:])
    assert whole.episode.min() >= 3


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([[0, 1, 3], [2, 2, 0]]), r"below \[3, 2, 4\], and \[1, 1\] is 2"),
        (np.array([[0, 1, 3], [-1, 0, 0]]), r"\[1, 0\] is -1"),
        (np.zeros((2, 3)), r"an integer array of shape \(2, 3\), got float64"),
        (np.zeros(6, np.int64), r"an integer array of shape \(2, 3\), got int64 \(6,\)"),
    ],
)
def test_several_numbers_that_are_none_are_refused(action: NDArray[Any], message: str) -> None:
    worlds = GymnasiumWorlds("pressed", num_worlds=2, made_by=partial(Pressed, MultiDiscrete([3, 2, 4])))
    with pytest.raises(EnvError, match=message):
        worlds.step(action)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((2, 2, 2)), r"action must be a float32 array of shape \(2, 2, 2\), got float64 \(2, 2, 2\)"),
        (np.zeros((2, 4), np.float32), r"got float32 \(2, 4\)"),
        (np.zeros((2, 2, 2), np.int64), "got int64"),
        (np.full((2, 2, 2), np.nan, np.float32), r"finite numbers of shape \(2, 2\), and \[0, 0, 0\] is nan"),
        (np.full((2, 2, 2), np.inf, np.float32), "is inf"),
    ],
)
def test_steering_that_is_none_is_refused(action: NDArray[Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        GymnasiumWorlds("Steered-v0", num_worlds=2).step(action)


@pytest.mark.parametrize("action", [np.zeros(3, np.int64), np.zeros(2), np.array([0, 2]), np.array([-1, 0])])
def test_wrong_actions_are_refused(action: NDArray[Any]) -> None:
    with pytest.raises(EnvError, match="action must"):
        GymnasiumWorlds(CARTPOLE, num_worlds=2).step(action)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("CartPole-v7", {}, "no environment 'CartPole-v7', did you mean 'CartPole-v1'"),
        ("CartPole", {}, "did you mean 'CartPole-v"),
        ("nosuchmodule:Nothing-v0", {}, "cannot import 'nosuchmodule'.* install"),
        ("Switched-v0", {}, r"takes actions from Dict\('on': Discrete\(2\)\): only Discrete, MultiDiscrete and"),
        ("Counted-v0", {}, r"takes actions from Box.*: .* of whole numbers of at most 256 values each"),
        ("Sealed-v0", {}, "needs a package that is not installed: sealed is not installed, run `pip install sealed`"),
        (CARTPOLE, {"gravitas": 3}, "cannot be made with gravitas=3: .*unexpected keyword argument 'gravitas'"),
    ],
)
def test_what_cannot_be_played_is_said_in_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message) as caught:
        GymnasiumWorlds(name, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [{"num_worlds": 0}, {"first_world": -1}])
def test_impossible_batches_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(EnvError, match="need 1 or more"):
        GymnasiumWorlds(CARTPOLE, **arguments)  # type: ignore[arg-type]


def test_rattles_own_snake_plays_through_gymnasium() -> None:
    worlds = GymnasiumWorlds("rattle/Snake-v0", {"vision_radius": 2}, num_worlds=2, seed=1)
    again = GymnasiumWorlds("rattle/Snake-v0", {"vision_radius": 2}, num_worlds=2, seed=1)
    assert_same(history(worlds, actions(60, 0, 2, 3)), history(again, actions(60, 0, 2, 3)))
    assert worlds.observation.shape == (2, 12)


def test_what_was_seen_last_is_copied_before_the_environment_uses_its_buffer_again() -> None:
    worlds = GymnasiumWorlds("Odd-v0", num_worlds=2)
    for _ in range(5):
        worlds.step(np.zeros(2, np.int64))
    assert worlds.truncated.all()
    assert worlds.final_observation.tolist() == [[5.0] * 3] * 2
    assert worlds.observation.tolist() == [[-1.0] * 3] * 2


@pytest.mark.parametrize("what", ["", "no infos", "array", "0-d", "whole", "list", "bools", "flags", "info", "infos"])
def test_harmless_oddities_are_taken(what: str) -> None:
    worlds = GymnasiumWorlds("Odd-v0", {"what": what}, num_worlds=3)
    for tick in range(1, 8):
        worlds.step(np.zeros(3, np.int64))
        assert worlds.observation.tolist() == [[float(tick if tick < 5 else -1 if tick == 5 else tick - 5)] * 3] * 3
        odd = tick % 5 == 2 and what in ("array", "0-d", "whole")
        assert worlds.reward.tolist() == [2.0 if odd else 1.0] * 3
        assert worlds.truncated.all() == (tick == 5)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("make", "^'gym:Odd-v0' cannot be made with what='make', at=2: no simulator"),
        (
            "reset",
            r"^'gym:Odd-v0', world 4: reset raised RuntimeError: the simulator did not start in .*.py, line \d+$",
        ),
        (
            "window",
            r"world 4: reset raised NoWindow: x11 not available in .*, line \d+: where there is no display, leave out",
        ),
        ("window at once", "x11 not available: where there is no display, .*or set SDL_VIDEODRIVER=dummy$"),
        (
            "step",
            r"^'gym:Odd-v0', world 4: step raised RuntimeError: the simulator went away in .*.py, line \d+$",
        ),
        ("exit", r"^'gym:Odd-v0', world 4: step raised SystemExit: 3 in test_gymnasium_worlds.py, line \d+$"),
        ("four", "step handed out 4 values instead of the five"),
        ("long", r"observation of shape \(4,\) and type float64, but the space is \(3,\) float32"),
        ("empty", r"observation of shape \(0,\)"),
        ("one", r"observation of shape \(1,\)"),
        ("text", r"observation of shape \(3,\) and type <U1"),
        ("rewards", r"a reward that is not one number: array\(\[0., 0.\]\)"),
        ("no reward", "a reward that is not one number: None"),
    ],
)
def test_what_an_environment_does_wrong_is_said_in_one_line(what: str, message: str) -> None:
    def play() -> None:
        worlds = GymnasiumWorlds("Odd-v0", {"what": what, "at": 2}, first_world=4)
        for _ in range(3):
            worlds.step(np.zeros(1, np.int64))

    with pytest.raises(EnvError, match=message) as caught:
        play()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_space_that_cannot_be_asked_for_is_said_in_one_line() -> None:
    class Shy(gymnasium.Env[Any, Any]):
        @property
        def observation_space(self) -> Any:
            raise RuntimeError("not\nconnected")

    with pytest.raises(EnvError, match=r"^'own:Shy' cannot say what its agents observe and do: RuntimeError: not"):
        GymnasiumWorlds("own:Shy", made_by=Shy)


def test_an_environment_that_takes_no_seed_is_told_so() -> None:
    with pytest.raises(EnvError, match=r"reset raised TypeError: .*'seed': .*must take the keywords seed and options"):
        GymnasiumWorlds("Unseeded-v0")


def test_actions_that_change_later_are_told() -> None:
    worlds = GymnasiumWorlds("Odd-v0", {"what": "actions"}, num_worlds=2)
    for _ in range(9):
        worlds.step(np.zeros(2, np.int64))
    said = r"world 0: reset handed out the action space Discrete\(3\), but it was Discrete\(2\) at the start$"
    with pytest.raises(EnvError, match=said):
        worlds.step(np.zeros(2, np.int64))
