"""Spaces of Gymnasium as rows: every kind, single and in batches, and what is wrong with what comes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.errors import EnvError
from rattle.envs.foreign import WrongValue
from rattle.envs.gymnasium_observations import Observer
from rattle.envs.gymnasium_worlds import GymnasiumWorlds
from rattle.samples.spaces import (
    ArraySpace,
    CodeSpace,
    DiscreteSpace,
    FloatSpace,
    MaskSpace,
    Part,
    PartsSpace,
    read_observation_space,
)

ACTIONS = DiscreteSpace(n=3)
IMAGE = Box(0, 255, (4, 5, 3), np.uint8)
ARRAY = ArraySpace(sizes=(4, 5, 3))


def space_of(given_space: Any) -> Any:
    return Observer("Odd", given_space, ACTIONS).space


@pytest.mark.parametrize(
    ("given_space", "space"),
    [
        (Discrete(1), CodeSpace(cells=1, codes=2)),
        (Discrete(500, start=-3), CodeSpace(cells=1, codes=500)),
        (MultiDiscrete([3, 7]), CodeSpace(cells=2, codes=7)),
        (MultiDiscrete([[2, 2], [2, 300]]), CodeSpace(cells=4, codes=300)),
        (MultiBinary((2, 3)), CodeSpace(cells=6, codes=2)),
        (Box(-1, 1, ()), FloatSpace(size=1)),
        (Box(-1, 1, (4,), np.float64), FloatSpace(size=4)),
        (Box(0, 255, (128,), np.uint8), FloatSpace(size=128)),
        (Box(-1, 1, (4, 2)), ArraySpace(sizes=(4, 2), element="float32")),
        (Box(0, 9, (3, 3), np.int64), ArraySpace(sizes=(3, 3), element="float32")),
        (IMAGE, ARRAY),
        (Dict(only=IMAGE), ARRAY),
        (
            Dict(place=Dict(x=Discrete(4), y=Box(0, 1, (2,))), image=IMAGE),
            PartsSpace(
                parts=(
                    Part(name="place.x", space=CodeSpace(cells=1, codes=4)),
                    Part(name="place.y", space=FloatSpace(size=2)),
                    Part(name="image", space=ARRAY),
                )
            ),
        ),
        (
            Tuple((Discrete(32), Discrete(11), Discrete(2))),
            PartsSpace(
                parts=tuple(
                    Part(name=str(i), space=CodeSpace(cells=1, codes=codes)) for i, codes in enumerate((32, 11, 2))
                )
            ),
        ),
        (
            Dict(observation=MultiBinary(9), action_mask=Box(0, 1, (3,), np.int8)),
            PartsSpace(
                parts=(
                    Part(name="observation", space=CodeSpace(cells=9, codes=2)),
                    Part(name="action_mask", space=MaskSpace(size=3)),
                )
            ),
        ),
        (
            Dict(see=Discrete(2), action_mask=MultiBinary(3)),
            PartsSpace(
                parts=(
                    Part(name="see", space=CodeSpace(cells=1, codes=2)),
                    Part(name="action_mask", space=MaskSpace(size=3)),
                )
            ),
        ),
        (  # no mask: of other numbers
            Dict(action_mask=MultiDiscrete([4, 4, 4]), see=Discrete(2)),
            PartsSpace(
                parts=(
                    Part(name="action_mask", space=CodeSpace(cells=3, codes=4)),
                    Part(name="see", space=CodeSpace(cells=1, codes=2)),
                )
            ),
        ),
    ],
)
def test_every_kind_has_its_row(given_space: gymnasium.Space[Any], space: Any) -> None:
    observer = Observer("Odd", given_space, ACTIONS)
    assert observer.space == space
    assert read_observation_space(observer.space.describe()) == space
    given_space.seed(3)
    rows = np.stack([observer.row(given_space.sample()) for _ in range(20)]).astype(space.dtype)
    assert rows.shape == (20, *space.shape)
    assert space.find_wrong(rows) is None
    assert space.to_gymnasium().contains(rows[0])


def test_dtypes_of_rows_hold_the_values_of_all_parts() -> None:
    codes, many = Discrete(200), Discrete(5000, start=7)
    assert space_of(Tuple((codes, IMAGE))).dtype == np.uint8
    assert space_of(Tuple((codes, many))).dtype == np.int32
    observer = Observer("Odd", Tuple((many, Box(-9, 9, (1,)))), ACTIONS)
    assert observer.row((4321, np.array([0.5], np.float32))).tolist() == [4314.0, 0.5]


LEAVES = st.sampled_from(
    [
        Discrete(4, start=-1),
        MultiDiscrete([2, 5]),
        MultiBinary(3),
        Box(-1, 1, (2, 2)),
        Box(0, 255, (3,), np.uint8),
        IMAGE,
    ]
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Tuple(tuple(parts))),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(Dict),
    ),
    max_leaves=5,
)


@given(SPACES, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_batch_has_the_rows_of_its_observations(given_space: gymnasium.Space[Any], seed: int) -> None:
    observer = Observer("Odd", given_space, ACTIONS)
    given_space.seed(seed)
    seen = [given_space.sample() for _ in range(3)]
    batch = concatenate(given_space, seen, create_empty_array(given_space, 3))
    assert batch_space(given_space, 3).contains(batch)
    assert np.array_equal(observer.rows(batch, 3), [observer.row(one) for one in seen])


@pytest.mark.parametrize(
    ("given_space", "value", "said"),
    [
        (Discrete(4), 4, "the observation 4, but the space is Discrete"),
        (Discrete(4, start=2), 1, "the observation 1, but"),
        (Discrete(4), 0.5, "the observation 0.5, but"),
        (Discrete(4), float("nan"), "the observation nan, but"),
        (MultiDiscrete([3, 7]), [2, 7], "the observation 7, but"),
        (MultiBinary(2), [0, 2], "the observation 2, but"),
        (IMAGE, np.full((4, 5, 3), 256), "the observation 256, but"),
        (IMAGE, np.zeros((4, 5)), r"an observation of shape \(4, 5\) and type float64, but the space is \(4, 5, 3\)"),
        (IMAGE, "text", "an observation of shape"),
        (Dict(a=Discrete(2), b=Box(0, 1, (2,))), {"a": 1}, "an observation without 'b'"),
        (Dict(a=Discrete(2), b=Box(0, 1, (2,))), 7, "an observation without 'a'"),
        (Dict(a=Discrete(2), b=Box(0, 1, (2,))), {"a": 2, "b": [0, 0]}, "the observation's part 'a' 2, but"),
        (Dict(a=Discrete(2), b=Box(0, 1, (2,))), {"a": 1, "b": [0]}, r"of shape \(1,\) .* for its part 'b'"),
        (Tuple((Discrete(2), Discrete(2))), (1,), "an observation without '1'"),
        *(
            (
                Dict(a=Discrete(2), action_mask=mask),
                {"a": 1, "action_mask": [0, 2, 1]},
                "the observation's part 'action_mask' 2, but",
            )
            for mask in (Box(0, 1, (3,), np.int8), Box(0, 1, (3,), np.float32), MultiBinary(3))
        ),
    ],
)
def test_what_does_not_fit_is_named(given_space: gymnasium.Space[Any], value: Any, said: str) -> None:
    with pytest.raises(WrongValue, match=said):
        Observer("Odd", given_space, ACTIONS).row(value)


class Mission(gymnasium.Space[str]):
    """A space that Gymnasium does not know, as MiniGrid has one."""

    def __repr__(self) -> str:
        return f"Mission({test_every_kind_has_its_row})"


@pytest.mark.parametrize(
    ("given_space", "said"),
    [
        (Text(5), "which has no fixed number of numbers: wrap the environment"),
        (Sequence(Discrete(2)), "which has no fixed number"),
        (Box(0, 1, (0,)), "which has no numbers at all: wrap"),
        (Dict(mission=Mission()), "as its part 'mission', which has no fixed number of numbers: wrap"),
        (
            Dict(direction=Discrete(4), mission=Mission(), image=IMAGE, words=Text(3)),
            r"as its part 'mission', .*: leave it out, with --set "
            r"'env.wrappers=\[\{use: FilterObservation, filter_keys: \[direction, image\]\}\]'",
        ),
        (Discrete(10**6), "at most 65536 values"),
        (MultiDiscrete([2, 10**6]), "at most 65536 values"),
        (Dict(action_mask=MultiBinary(3)), "a mask of actions alone"),
        (
            Dict(action_mask=MultiBinary(4), see=Discrete(2)),
            r"observes an 'action_mask' that is not 3 zeros and ones, one for each action: MultiBinary\(4\)",
        ),
        (None, "must be one of gymnasium.spaces"),
    ],
)
def test_spaces_without_a_row_say_what_helps(given_space: Any, said: str) -> None:
    with pytest.raises(EnvError, match=said) as caught:
        Observer("Odd", given_space, ACTIONS)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_a_space_of_too_many_numbers_says_so() -> None:
    with pytest.raises(EnvError, match="at most 16777216 numbers"):
        Observer("Odd", Box(0, 1, (5000, 5000)), ACTIONS)


class Choosy(gymnasium.Env[Any, Any]):
    """Allows the actions that its observation's, or its infos', mask says; the tick decides which."""

    action_space = Discrete(3)

    def __init__(self, where: str = "dict", nothing_at: int = 99, odd_at: int = 99, odd: Any = None) -> None:
        self.where, self.nothing_at, self.odd_at, self.odd = where, nothing_at, odd_at, odd or {}
        self.observation_space = Dict(action_mask=MultiBinary(3), see=Discrete(10)) if where == "dict" else Discrete(10)

    def _now(self) -> Any:
        self.mask = np.array([self.tick % 2, 1 - self.tick % 2, 1], np.int8) * (self.tick != self.nothing_at)
        if self.where == "dict":
            return {"action_mask": self.mask, "see": self.tick}, {}
        return self.tick, self.odd if self.tick == self.odd_at else {"action_mask": self.mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.tick = 0
        return self._now()

    def step(self, action: Any) -> Any:
        assert self.mask[action], "a forbidden action"
        self.tick += 1
        seen, info = self._now()
        return seen, 1.0, self.tick == 9, False, info


@pytest.mark.parametrize("where", ["dict", "info"])
def test_masks_come_from_observations_and_infos(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Choosy-v0", Choosy)
    monkeypatch.setitem(gymnasium.registry, "Choosy-v0", spec)
    worlds = GymnasiumWorlds("Choosy-v0", {"where": where}, num_worlds=2)
    space = worlds.spec.observation_space
    assert isinstance(space, PartsSpace)
    assert space.mask is not None
    columns = space.columns[space.mask.name]
    for tick in range(20):
        assert worlds.observation[:, columns].tolist() == [[tick % 9 % 2, 1 - tick % 9 % 2, 1]] * 2
        worlds.step(np.array([2, 1 - tick % 9 % 2], np.int64))


@pytest.mark.parametrize("where", ["dict", "info"])
@pytest.mark.parametrize("at", [0, 2])
def test_a_mask_that_allows_nothing_is_refused(where: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Choosy-v0", Choosy)
    monkeypatch.setitem(gymnasium.registry, "Choosy-v0", spec)

    def play() -> None:
        worlds = GymnasiumWorlds("Choosy-v0", {"where": where, "nothing_at": at})
        for _ in range(at):
            worlds.step(np.array([2], np.int64))

    with pytest.raises(EnvError, match=r"'gym:Choosy-v0', world 0: (reset|step) handed out an 'action_mask' that allo"):
        play()


@pytest.mark.parametrize(
    ("at", "odd", "said"),
    [
        (0, {"action_mask": [1, 1]}, r"has an 'action_mask' in its infos that is not 3 zeros and ones.*: \[1, 1\]"),
        (0, {"action_mask": [[1], [1, 1]]}, r"in its infos that is not 3 zeros and ones"),
        (0, {}, "step handed out infos with an 'action_mask', which the first ones had not: it must be there always"),
        (2, {}, "step handed out infos without an 'action_mask', which the first ones had: it must be there always"),
        (2, {"action_mask": [1, 1]}, r"step handed out infos with an 'action_mask' that is not 3 .*: \[1, 1\]"),
        (2, {"action_mask": [1, 2, 1]}, r"step handed out infos with an 'action_mask' that is not 3 .*: \[1, 2, 1\]"),
        (9, {}, ""),  # nobody acts on what an episode ends with
    ],
)
def test_a_mask_in_infos_is_right_always_or_never(
    at: int, odd: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Choosy-v0", Choosy)
    monkeypatch.setitem(gymnasium.registry, "Choosy-v0", spec)

    def play() -> None:
        worlds = GymnasiumWorlds("Choosy-v0", {"where": "info", "odd_at": at, "odd": odd})
        for _ in range(11):
            worlds.step(np.array([2], np.int64))

    if not said:
        play()
        return
    with pytest.raises(EnvError, match=said) as caught:
        play()
    assert "'gym:Choosy-v0'" in str(caught.value)
    assert "\n" not in str(caught.value)


class Dial(gymnasium.Env[Any, Any]):
    """Sees the number that it was given last, without a shape."""

    observation_space = action_space = Box(-1, 1, (), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return 0.5, {}

    def step(self, action: Any) -> Any:
        assert isinstance(action, np.ndarray)
        assert self.action_space.contains(action)
        return action, float(action), False, False, {}


def test_numbers_without_a_shape_are_seen_and_given() -> None:
    worlds = GymnasiumWorlds("dial", num_worlds=2, made_by=Dial)
    assert worlds.observation.tolist() == [[0.5], [0.5]]
    worlds.step(np.array([0.25, 3.0], np.float32))
    assert worlds.observation.tolist() == [[0.25], [1.0]]
