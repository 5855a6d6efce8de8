"""Wrappers by name: what they do to worlds, which there are, whose are taken, and what is said of wrong ones."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from rattle.envs.errors import EnvError, NotImported
from rattle.envs.foreign import check_harmless
from rattle.envs.registry import make_worlds, validate
from rattle.envs.vector import VectorWorlds
from rattle.samples.spaces import BoxSpace
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

CARTPOLE, PENDULUM, PARTY = "gym:CartPole-v1", "gym:Pendulum-v1", "pettingzoo:tests.envs.parallel_party"

STACKED = [{"use": "FrameStackObservation", "stack_size": 3}, "FlattenObservation"]
STICKY = [{"use": "StickyAction", "repeat_action_probability": 0.5}]
SHORT = [{"use": "gymnasium.wrappers:TimeLimit", "max_episode_steps": 7}]
TIMED = [{"use": "TimeAwareObservation", "normalize_time": True}]
LATE = [{"use": "DelayObservation", "delay": 2}, {"use": "RepeatAction", "num_repeats": 2}]

#: A user's: it multiplies rewards, and says why it cannot.
SCALED = """
    import gymnasium

    class Scaled(gymnasium.Wrapper):
        def __init__(self, env, factor: float = 0.5):
            super().__init__(env)
            if factor == 0:
                raise ValueError("nothing would be left of rewards")
            self.factor = factor

        def step(self, action):
            seen, reward, *rest = self.env.step(action)
            if self.factor == 13:
                raise ArithmeticError("bad luck")
            return seen, self.factor * reward, *rest
"""


class Screen(gymnasium.Env[Any, Any]):
    """A game of Atari's, as far as the standard preprocessing asks: a picture that gets brighter, and three lives."""

    observation_space, action_space = Box(0, 255, (8, 6, 3), np.uint8), Discrete(2)
    _frameskip = 1

    def __init__(self) -> None:
        self.ale = self
        self.tick = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.tick = 0
        return np.zeros((8, 6, 3), np.uint8), {}

    def step(self, action: Any) -> Any:
        self.tick += 1
        return np.full((8, 6, 3), self.tick, np.uint8), 1.0, self.tick >= 40, False, {}

    def getScreenGrayscale(self, into: Any) -> None:  # noqa: N802 - as the emulator has it
        into[:] = self.tick

    def lives(self) -> int:
        return 3 - self.tick // 12

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE"]


gymnasium.register("Screen-v0", Screen)


def made(environment: str, wrappers: Any, worlds: int = 1, first_world: int = 0, **settings: Any) -> VectorWorlds:
    return make_worlds(environment, {**settings, "wrappers": wrappers}, worlds, 5, first_world)


def play(worlds: VectorWorlds, ticks: int, slots: slice = slice(None)) -> list[bytes]:
    """Return what some worlds hand out in so many ticks, with actions that depend on the tick alone."""
    happened, random = [], np.random.default_rng(1)
    for _ in range(ticks):
        worlds.step(np.repeat(worlds.spec.action_space.draw(random, 1), worlds.num_slots, axis=0))
        arrays = (worlds.observation, worlds.reward, worlds.terminated, worlds.truncated)
        happened.append(b"".join(array[slots].tobytes() for array in arrays))
    return happened


@pytest.mark.parametrize("wrappers", [STACKED, STICKY, SHORT, TIMED, LATE], ids=lambda some: str(some)[:30])
def test_wrapped_worlds_play_the_same_in_any_batch_and_when_they_go_on(wrappers: Any) -> None:
    many, one = made(CARTPOLE, wrappers, 3), made(CARTPOLE, wrappers, 1, first_world=1)
    plain = make_worlds(CARTPOLE, {}, 1, 5, 1)
    before = play(many, 30, slice(1, 2))
    assert before == play(one, 30) != play(plain, 30)
    again = made(CARTPOLE, wrappers, 3)
    again.restore(many.state())
    assert play(again, 30) == play(many, 30)


def test_the_first_wrapper_is_the_innermost() -> None:
    limited = [{"use": "TimeLimit", "max_episode_steps": 6}, {"use": "RepeatAction", "num_repeats": 3}]
    inside, outside = made(PENDULUM, limited), made(PENDULUM, limited[::-1])
    action = np.zeros((1, 1), np.float32)
    ended = [[], []]  # type: list[list[bool]]
    for _ in range(6):
        for worlds, said in zip((inside, outside), ended, strict=True):
            worlds.step(action)
            said.append(bool(worlds.truncated[0]))
    assert ended == [[False, True] * 3, [False] * 5 + [True]]


def test_wrappers_change_what_is_observed_done_and_earned() -> None:
    assert made(CARTPOLE, STACKED).spec.observation_space.shape == (12,)
    rescaled = made(PENDULUM, [{"use": "RescaleAction", "min_action": -1, "max_action": [0.5]}])
    assert rescaled.spec.action_space == BoxSpace(low=(-1.0,), high=(0.5,))
    clipped = made(PENDULUM, [{"use": "ClipReward", "min_reward": -0.25}])
    play(clipped, 1)
    assert clipped.reward[0] == -0.25
    scaled = made(PENDULUM, [{"use": "NormalizeReward", "gamma": 0.9}])
    assert play(scaled, 5) != play(make_worlds(PENDULUM, {}, 1, 5), 5)


def test_the_standard_preprocessing_of_atari(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = ModuleType("cv2")
    cv2.INTER_AREA = 3  # type: ignore[attr-defined]
    cv2.resize = lambda picture, size, interpolation: picture[: size[1], : size[0]]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    atari = {"use": "AtariPreprocessing", "noop_max": 0, "screen_size": [4, 2], "terminal_on_life_loss": True}
    worlds = made("gym:Screen-v0", [atari, {"use": "FrameStackObservation", "stack_size": 2}, "FlattenObservation"])
    assert worlds.spec.observation_space.shape == (16,)
    rewards, ended = [], []
    for _ in range(4):
        worlds.step(np.zeros(1, np.int64))
        rewards.append(float(worlds.reward[0]))
        ended.append(bool(worlds.terminated[0]))
    assert (rewards, ended) == ([4.0] * 4, [False, False, True, False])


def test_parallel_environments_have_wrappers_of_their_own() -> None:
    play_on = [{"use": "MultiEpisodeParallelEnv", "num_episodes": 2}]
    once, twice = make_worlds(PARTY, {}, 1, 5), made(PARTY, play_on)
    for worlds in (once, twice):
        for _ in range(30):
            worlds.step(np.zeros(worlds.num_slots, np.int64))
    assert once.episode[0] > twice.episode[0] > 0


@pytest.mark.parametrize(
    ("environment", "wrapper", "message"),
    [
        (CARTPOLE, "FlatenObservation", r"there is no wrapper 'FlatenObservation', did you mean 'FlattenObservation'"),
        (CARTPOLE, {"use": "TimeLimit"}, r"gymnasium.wrappers:TimeLimit: max_episode_steps: a value is wanted$"),
        (CARTPOLE, {"use": "TimeLimit", "max_steps": 7}, "unknown key 'max_steps', did you mean 'max_episode_steps'"),
        (CARTPOLE, {"use": "TimeLimit", "max_episode_steps": True}, "a whole number is wanted, such as .*, got 'true'"),
        (CARTPOLE, {"use": "RecordVideo"}, "video_folder: a value is wanted"),
        (CARTPOLE, {"use": "TransformReward", "func": "print"}, "takes a function, 'func', which settings cannot say"),
        (CARTPOLE, {"use": "RecordVideo", "episode_trigger": 3}, "takes a function, 'episode_trigger'"),
        (CARTPOLE, {"use": "gymnasium:Env"}, "'gymnasium:Env' is not a wrapper: a wrapper is a subclass of gymnasium"),
        (CARTPOLE, {"use": "os:path"}, "'os:path' is no class, but a module"),
        (CARTPOLE, {"use": "nowhere:Thing"}, "cannot import 'nowhere', which should hold a wrapper, Thing"),
        (CARTPOLE, 3, "a section with keys of its own is wanted, got 3"),
        (PARTY, "FlattenObservation", "there is no wrapper 'FlattenObservation'"),
        ("snake", "FlattenObservation", "'snake' steps all its worlds at once and takes no wrappers"),
    ],
)
def test_mistakes_get_one_line_that_names_the_wrapper(environment: str, wrapper: Any, message: str) -> None:
    settings = {"wrappers": [wrapper] if environment == "snake" else ["OrderEnforcing", wrapper][-1:]}
    for ask in (lambda: validate(environment, settings), lambda: make_worlds(environment, settings, 1, 0)):
        with pytest.raises(EnvError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert environment == "snake" or "wrappers[0]" in str(caught.value)


def test_a_wrapper_that_does_not_fit_is_named_with_its_settings() -> None:
    wrappers = ["OrderEnforcing", {"use": "ResizeObservation", "shape": [3, 3]}]
    message = r"'gym:CartPole-v1' cannot be wrapped in gymnasium.wrappers:ResizeObservation with shape=\[3, 3\], wrap"
    with pytest.raises(EnvError, match=message) as caught:
        made(CARTPOLE, wrappers)
    assert "wrappers[1]: ValueError: " in str(caught.value)


def test_wrappers_are_said_in_one_form() -> None:
    given = {"wrappers": ["FlattenObservation", {"use": "TimeLimit", "max_episode_steps": 7}], "sutton_barto_reward": 1}
    full = validate(CARTPOLE, given)
    assert full["wrappers"] == [{"use": "FlattenObservation"}, {"use": "TimeLimit", "max_episode_steps": 7}]
    assert validate(CARTPOLE, full) == full == make_worlds(CARTPOLE, given, 1, 0).spec.settings
    assert validate(CARTPOLE, {"wrappers": []}) == {}
    assert validate("snake", {"wrappers": []}) == validate("snake", {})


def test_a_user_has_wrappers_too(user_module: UserModule) -> None:
    user_module("scaled", SCALED)
    worlds = made(CARTPOLE, [{"use": "scaled:Scaled", "factor": 0.25}])
    worlds.step(np.zeros(1, np.int64))
    assert worlds.reward[0] == 0.25
    message = "cannot be wrapped in scaled:Scaled with factor=0.0, wrappers[0]: ValueError: nothing would be left"
    with pytest.raises(EnvError) as caught:
        made(CARTPOLE, [{"use": "scaled:Scaled", "factor": 0}])
    assert message in str(caught.value)
    unlucky = made(CARTPOLE, [{"use": "scaled:Scaled", "factor": 13}])
    with pytest.raises(EnvError, match="world 0: step raised ArithmeticError: bad luck"):
        unlucky.step(np.zeros(1, np.int64))


def test_a_user_s_environment_is_wrapped(user_module: UserModule) -> None:
    user_module("scaled", SCALED)
    user_module(
        "own",
        """
        from gymnasium.envs.classic_control import CartPoleEnv

        class Cart(CartPoleEnv):
            def __init__(self, heavy: bool = False):
                super().__init__()
        """,
    )
    settings = validate("own:Cart", {"heavy": True, "wrappers": [{"use": "scaled:Scaled", "factor": 2}, *SHORT]})
    worlds = make_worlds("own:Cart", settings, 2, 0)
    assert worlds.spec.settings == settings
    for _ in range(7):
        worlds.step(np.arange(2))
    assert worlds.reward.tolist() == [2.0, 2.0]
    assert worlds.truncated.all()


def ask_as_a_stranger(wrappers: Any, trusted: Any = ()) -> None:
    check_harmless(CARTPOLE, {"wrappers": wrappers}, {"wrappers": trusted})


def test_a_stranger_names_harmless_wrappers_of_gymnasium_only(user_module: UserModule) -> None:
    for wrappers in (STACKED, STICKY, SHORT, TIMED, LATE):
        ask_as_a_stranger(wrappers)
        assert validate(CARTPOLE, {"wrappers": wrappers}, allow_imports=False)
    for name in ("RecordVideo", "HumanRendering", "RenderCollection", "TransformReward", "RecordEpisodeStatistics"):
        with pytest.raises(EnvError, match=f"may not be '{name}' from outside"):
            ask_as_a_stranger([{"use": name, "video_folder": "/tmp"}])  # noqa: S108 - nothing is written
    user_module("scaled", SCALED)
    made(CARTPOLE, ["scaled:Scaled"])  # this process has imported it; that counts for nothing
    for use in ("scaled:Scaled", "os:path", "gymnasium.wrappers.rendering:RecordVideo", "Wrapper:x", "nothing"):
        wrappers = [*SHORT, {"use": use}]
        for ask in (
            lambda: ask_as_a_stranger(wrappers),  # noqa: B023 - called at once
            lambda: make_worlds(CARTPOLE, {"wrappers": wrappers}, 1, 0, allow_imports=False),  # noqa: B023
        ):
            with pytest.raises(NotImported, match=r"wrappers\[1\] names '.*', which is not imported because a file"):
                ask()
    with pytest.raises(EnvError, match="'wrappers' from outside: list is no plain JSON value"):
        ask_as_a_stranger([{"use": "TimeLimit", "max_episode_steps": print}])


def test_what_a_server_has_itself_a_client_may_name() -> None:
    own = [{"use": "scaled:Scaled", "factor": 0.25}]
    ask_as_a_stranger([*own, *SHORT], own)
    with pytest.raises(NotImported):
        ask_as_a_stranger([{"use": "scaled:Scaled", "factor": 0.5}], own)


@pytest.mark.parametrize(
    "wrappers",
    [
        [{"use": "FrameStackObservation", "stack_size": 2**21}],
        [{"use": "RepeatAction", "num_repeats": 1000}, {"use": "MaxAndSkipObservation", "skip": -2000}],
        [{"use": "ResizeObservation", "shape": [4096, 4096]}],
        ["FlattenObservation"] * 17,
    ],
)
def test_a_stranger_s_wrappers_are_bounded(wrappers: Any) -> None:
    with pytest.raises(EnvError, match=r"may not be so large from outside|a list with at most 16"):
        ask_as_a_stranger(wrappers)
