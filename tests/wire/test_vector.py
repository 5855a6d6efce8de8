"""The messages that describe environments, both ways."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.envs.vector import EnvironmentSpec
from rattle.samples.spaces import BoxSpace, CodeSpace, DiscreteSpace, FloatSpace, MultiDiscreteSpace
from rattle.wire import encoding
from rattle.wire.vector import Environment, describe, dump_environment, environment_spec, load_environment, protocol_of

NAMES = st.text(st.characters(codec="utf-8"), max_size=10)
SPECS = st.builds(
    EnvironmentSpec,
    id=NAMES,
    settings=st.dictionaries(NAMES, st.integers(-9, 9) | NAMES | st.lists(st.booleans(), max_size=3), max_size=4),
    observation_space=st.builds(CodeSpace, cells=st.integers(1, 10**6), codes=st.integers(2, 256))
    | st.builds(FloatSpace, size=st.integers(1, 10**6)),
    action_space=st.builds(DiscreteSpace, n=st.integers(1, 10**6))
    | st.builds(MultiDiscreteSpace, sizes=st.lists(st.integers(1, 2**24), min_size=1, max_size=5).map(tuple))
    | st.builds(BoxSpace, low=st.just((-2.0, None)), high=st.floats(-2, 1e6).map(lambda most: (most, None))),
    agents_per_world=st.integers(1, 10**6),
    metrics=st.lists(NAMES, max_size=3).map(tuple),
)


@given(SPECS, st.sampled_from([encoding.json, encoding.msgpack]))
def test_an_environment_comes_back_from_its_description(spec: EnvironmentSpec, spoken: encoding.Encoding) -> None:
    message = spoken.decode(spoken.encode(describe(spec)), Environment)
    assert environment_spec(message) == spec


class NewerCodes(CodeSpace):
    """Codes that only newer clients know, where there are many of them."""

    @property
    def protocol(self) -> int:
        """Return 2 for many."""
        return 2 if self.codes > 10 else 1


def test_an_environment_is_of_the_first_protocol_that_knows_its_spaces() -> None:
    def spec(observation_space: Any) -> EnvironmentSpec:
        return EnvironmentSpec("x", {}, observation_space, DiscreteSpace(n=2), 1)

    assert protocol_of(spec(CodeSpace(cells=1, codes=256))) == "rattle.vector/1"
    assert protocol_of(spec(NewerCodes(cells=1, codes=10))) == "rattle.vector/1"
    assert protocol_of(spec(NewerCodes(cells=1, codes=11))) == "rattle.vector/2"
    newer = EnvironmentSpec("x", {}, FloatSpace(size=1), MultiDiscreteSpace(sizes=(2,)), 1)
    assert protocol_of(newer) == "rattle.vector/2"


@given(SPECS)
def test_an_environment_comes_back_from_its_text(spec: EnvironmentSpec) -> None:
    assert load_environment(dump_environment(spec)) == spec
    assert load_environment(dump_environment(spec).encode()) == spec


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", b"\xff", "[" * 100_000, '{"environment": 1}'])
def test_a_text_that_describes_none_is_said(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_environment(text)


@given(SPECS)
def test_fields_that_a_later_version_adds_are_ignored(spec: EnvironmentSpec) -> None:
    body = encoding.json.encode(describe(spec) | {"later": [1]})
    assert environment_spec(encoding.json.decode(body, Environment)) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"observation_space": {"kind": "images", "size": 4}},
        {"observation_space": {"kind": "codes", "cells": 0, "codes": 3}},
        {"observation_space": {"kind": "codes", "cells": 3}},
        {"observation_space": {"kind": "codes", "cells": 3, "codes": 2**16 + 1}},
        {"observation_space": {"kind": "floats"}},
        {"observation_space": {"kind": "floats", "size": -1}},
        {"num_actions": 0},
        {"num_actions": msgspec.UNSET},
        {"num_actions": 2, "action_space": {"kind": "box", "low": [0], "high": [1]}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "sphere"}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "box", "low": [0], "high": [1, 2]}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "box", "low": [0], "high": [10**400]}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "multi_discrete", "sizes": []}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "multi_discrete", "sizes": [2] * 4097}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "multi_discrete", "sizes": [2, 0]}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "multi_discrete", "sizes": [2, 2**24 + 1]}},
        {"num_actions": msgspec.UNSET, "action_space": {"kind": "multi_discrete", "sizes": 3}},
        {"agents_per_world": 0},
    ],
)
def test_descriptions_of_nothing_are_refused(change: dict[str, Any]) -> None:
    sound = describe(EnvironmentSpec("x", {}, FloatSpace(size=4), DiscreteSpace(n=2), 1))
    assert environment_spec(msgspec.convert(sound, Environment)).action_space == DiscreteSpace(n=2)
    changed = {name: value for name, value in (sound | change).items() if value is not msgspec.UNSET}
    with pytest.raises(ValueError, match=r"observation_space|num_actions|action_space|agents_per_world"):
        environment_spec(msgspec.convert(changed, Environment))
