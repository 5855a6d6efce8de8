"""What a policy sees of its own past: counted as a plain list says, by who acts, who learns and an exported model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import dump_policy, load_policy
from rattle.policies.kinds import kind_of
from rattle.policies.mlp.spec import LayeredSpec, MlpSpec
from rattle.policies.onnx import export_onnx
from rattle.policies.own.inputs import OWN_INPUTS, OwnInput, own_layout
from rattle.policies.own.past import OwnPast
from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.samples.spaces import ActionSpace, BoxSpace, CodeSpace, DiscreteSpace, FloatSpace, MultiDiscreteSpace
from tests.policies.building import BOXES, action_spaces, random_observation, random_parameters, random_policy

TICKS, SLOTS = 9, 5
ALL = tuple(OWN_INPUTS)
OF_REAL_NUMBERS = tuple(name for name in ALL if name != "ticks_since_turn")
REWARDS = (0.0, 0.0, 0.0, 1.0, -1.0, 0.25)


def inputs_of(action: ActionSpace) -> tuple[OwnInput, ...]:
    return ALL if action.choices else OF_REAL_NUMBERS


class Told:
    """What has happened to one slot in its episode, and what it should see of that, counted from the end."""

    def __init__(self) -> None:
        self.actions: list[NDArray[Any]] = []
        self.rewards: list[float] = []

    def sees(self, inputs: Sequence[str], space: ActionSpace) -> list[float]:
        since_reward = next((n for n, reward in enumerate(reversed(self.rewards)) if reward), len(self.rewards))
        pairs = list(zip(self.actions, self.actions[1:], strict=False))
        since_turn = next((n for n, (a, b) in enumerate(reversed(pairs)) if (a != b).any()), len(self.actions))
        reward = self.rewards[-1] if self.rewards else 0.0
        seen = {
            "last_action": self._shown(space),
            "last_reward": [reward / (1 + abs(reward))],
            "ticks_since_reward": [since_reward / (since_reward + 8)],
            "ticks_since_turn": [since_turn / (since_turn + 8)],
        }
        return [number for name in inputs for number in seen[name]]

    def _shown(self, space: ActionSpace) -> list[float]:
        last = self.actions[-1].ravel() if self.actions else None
        if space.choices:
            chosen = [None] * len(space.choices) if last is None else last.tolist()
            return [float(value == own) for own, n in zip(chosen, space.choices, strict=True) for value in range(n)]
        assert isinstance(space, BoxSpace)
        done = np.zeros(space.shape).ravel() if last is None else space.bound(self.actions[-1]).ravel()
        shown = []
        for x, low, high in zip(done, *map(np.ravel, space.bounds), strict=True):
            has_two = np.isfinite(high - low) and high > low
            part = (x - (low + high) / 2) / ((high - low) / 2) if has_two else x / (1 + abs(x))
            shown.append(min(max(part, -1.0), 1.0))
        return shown


@settings(max_examples=60, deadline=None)
@given(space=action_spaces(), seed=st.integers(0, 2**32), data=st.data())
def test_it_sees_what_has_happened_in_the_episode(space: ActionSpace, seed: int, data: st.DataObject) -> None:
    inputs = tuple(data.draw(st.lists(st.sampled_from(inputs_of(space)), unique=True, min_size=1)))
    random = np.random.default_rng(seed)
    spec = MlpSpec(observation=FloatSpace(size=1), action=space, inputs=inputs, **PLAIN)
    past, inputs = OwnPast(spec.own), spec.inputs
    action = space.draw(random, TICKS, SLOTS)
    action[4:6] = action[3]  # so that some go straight
    reward = random.choice(REWARDS, (TICKS, SLOTS)).astype(np.float32)
    starts = random.random((TICKS, SLOTS)) < 0.2
    starts[0] = True
    state = np.zeros((SLOTS, past.size + 2), np.float32)
    told = [Told() for _ in range(SLOTS)]
    half, shown = np.zeros_like(state), []
    for tick in range(TICKS):
        state[starts[tick]] = 0.0
        told = [Told() if begins else each for each, begins in zip(told, starts[tick], strict=True)]
        if tick == TICKS // 2:
            half = state.copy()
        found = past.see(state, SLOTS)
        assert found is not None
        shown.append(found)
        np.testing.assert_allclose(found, [each.sees(inputs, space) for each in told], rtol=1e-4, atol=1e-6)
        past.acted(state, action[tick])
        past.rewarded(state, reward[tick])
        for slot, each in enumerate(told):
            each.actions.append(action[tick, slot])
            each.rewards.append(float(reward[tick, slot]))
    again = past.replay(half, *(array[TICKS // 2 :] for array in (action, reward, starts)))
    np.testing.assert_array_equal(again, shown[TICKS // 2 :])
    assert not state[:, past.size :].any()  # what the network remembers is its own


PLAIN: dict[str, Any] = {"hidden_sizes": (), "activation": "relu", "value_head": True}


def test_rewards_add_up_while_an_agent_waits_and_count_from_its_first_move_on() -> None:
    past = OwnPast(own_layout(("last_reward", "ticks_since_reward"), DiscreteSpace(n=2)))
    state, one = np.zeros((2, past.size), np.float32), np.ones(2, np.float32)
    past.rewarded(state, one)  # nobody has moved: this is of no move
    np.testing.assert_array_equal(past.see(state, 2), [[0, 0], [0, 0]])
    past.rewarded(state, one)
    past.rewarded(state, np.array([-1, 1], np.float32))
    np.testing.assert_allclose(past.see(state, 2), [[0, 1 / 9], [2 / 3, 0]])


@settings(max_examples=40, deadline=None)
@given(space=action_spaces(), seed=st.integers(0, 2**32))
def test_states_of_strangers_do_no_harm(space: ActionSpace, seed: int) -> None:
    past, random = OwnPast(own_layout(inputs_of(space), space)), np.random.default_rng(seed)
    numbers = np.array([0, -0.0, -8, -1, 1, 1.5, 2.0**24, 3e38, -3e38, 1e-40], np.float32)
    state = random.choice(numbers, (40, past.size))
    for _ in range(3):
        found = past.see(state, 40)
        assert found is not None
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= 1
        state[:] = random.choice(numbers, state.shape)


OBSERVATIONS = [CodeSpace(cells=9, codes=4), FloatSpace(size=7)]
SPECS: list[LayeredSpec] = [
    MlpSpec(observation=OBSERVATIONS[0], action=DiscreteSpace(n=3), inputs=ALL, **{**PLAIN, "hidden_sizes": (19, 5)}),
    MlpSpec(observation=OBSERVATIONS[1], action=DiscreteSpace(n=2), inputs=("ticks_since_turn",), **PLAIN),
    MlpSpec(observation=OBSERVATIONS[1], action=MultiDiscreteSpace(sizes=(3, 1, 4)), inputs=ALL, **PLAIN),
    *(MlpSpec(observation=OBSERVATIONS[0], action=box, inputs=OF_REAL_NUMBERS, **PLAIN) for box in BOXES[2:]),
    *(
        RecurrentSpec(
            network=cell,
            observation=observation,
            action=DiscreteSpace(n=3),
            inputs=inputs,
            memory_layers=2,
            **{**PLAIN, "hidden_sizes": (3,)},
        )
        for cell in ("gru", "mingru")
        for observation, inputs in zip(OBSERVATIONS, (ALL, ("last_action",)), strict=True)
    ),
]


def name_of(spec: LayeredSpec) -> str:
    return f"{spec.network}-{spec.observation.kind}-{spec.action.kind}-{len(spec.inputs)}"


def played(policy: ActingPolicy, state: NDArray[np.float32], ticks: int = 6) -> list[list[NDArray[Any]]]:
    """Return what was observed, what was remembered before it, and what was written, of each of some ticks."""
    spec, found, random = policy.spec, [], np.random.default_rng(1)
    for tick in range(ticks):
        observation = random_observation(spec, len(state), tick)
        before = state.copy()
        written = [spec.action.zeros(len(state)), *np.zeros((2, len(state)), np.float32)]
        names = dict(zip(("action", "log_prob", "value"), written, strict=True))
        policy.act(observation, tick=tick, state=state, **names)
        policy.own.rewarded(state, random.choice(REWARDS, SLOTS).astype(np.float32)[: len(state)])
        found.append([observation, before, *written])
    return found


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_compiled_code_computes_what_the_network_computes(spec: LayeredSpec) -> None:
    parameters = random_parameters(spec)
    network, policy = kind_of(spec).make_network(spec), ActingPolicy(spec, parameters)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
    past = OwnPast(spec.own)
    shown = []
    for observation, before, action, log_prob, value in played(policy, np.zeros((SLOTS, spec.memory_size), np.float32)):
        own = past.see(before.copy(), SLOTS)
        assert own is not None
        shown.append(own)
        memory = [torch.from_numpy(before[:, past.size :])] if spec.network_memory else []
        with torch.no_grad():
            outputs, expected, *_ = network(torch.from_numpy(observation), *memory, own=torch.from_numpy(own))
            chosen = spec.action.distribution(outputs).log_prob(torch.from_numpy(action))
        np.testing.assert_allclose(log_prob, chosen, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(policy.values(observation, before), value)
        kept = before.copy()
        found, _ = policy.forward(observation, kept)
        np.testing.assert_allclose(found, outputs, rtol=1e-3, atol=1e-5)
        assert (kept != before).any()
        policy.own.acted(kept, action)
    assert (np.stack(shown).reshape(-1, past.width).std(axis=0) > 0).sum() >= past.width - 1  # MultiDiscrete has a 1


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_slot_sees_the_same_bits_in_any_batch(spec: LayeredSpec) -> None:
    policy = ActingPolicy(spec, random_parameters(spec))
    whole, alone = np.zeros((2, SLOTS, spec.memory_size), np.float32)
    together, first = played(policy, whole), played(policy, alone[:1])
    for ours, theirs in zip(together, first, strict=True):
        if (ours[0][:1] == theirs[0]).all():
            assert [array[:1].tobytes() for array in ours] == [array.tobytes() for array in theirs]


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_an_exported_model_counts_too(spec: LayeredSpec) -> None:
    policy = load_policy(dump_policy(random_policy(spec)))
    assert policy.spec == spec
    model = export_onnx(policy)
    properties = {entry.key: entry.value for entry in onnx.load_model_from_string(model).metadata_props}
    columns = json.loads(properties["state_columns"])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    acting = ActingPolicy(spec, policy.parameters)
    state, random = np.zeros((SLOTS, spec.memory_size), np.float32), np.random.default_rng(0)
    exported = state.copy()
    names = [*spec.action.parts, "value", "next_state"]
    for tick in range(TICKS):
        observation = random_observation(spec, SLOTS, tick)
        *parts, value, exported = session.run(names, {"observation": observation, "state": exported})
        outputs, expected = acting.forward(observation, state)
        for ours, theirs in zip(
            (np.concatenate(parts, axis=1), value, exported), (outputs, expected, state), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        action = spec.action.draw(random, SLOTS) if tick % 3 else spec.action.zeros(SLOTS)
        reward = random.choice(REWARDS, SLOTS).astype(np.float32)
        acting.own.acted(state, action)
        acting.own.rewarded(state, reward)
        if "action" in columns:  # as docs/serving.md says
            numbers = spec.action.bound(action).reshape(SLOTS, -1)
            exported[:, columns["action"]] = numbers + 1 if spec.action.choices else numbers
        if "reward" in columns:
            exported[:, columns["reward"]] += reward[:, None]


def test_the_same_inputs_make_the_same_spec_in_any_order_and_none_is_given_twice() -> None:
    common: dict[str, Any] = {"observation": OBSERVATIONS[0], "action": DiscreteSpace(n=3), **PLAIN}
    assert MlpSpec(**common, inputs=ALL[::-1]) == MlpSpec(**common, inputs=ALL)
    assert "inputs" not in MlpSpec(**common).model_dump_json()
    with pytest.raises(ValidationError, match="last_action is given twice"):
        MlpSpec(**common, inputs=("last_action", "last_reward", "last_action"))
    with pytest.raises(ValidationError, match="inputs: ticks_since_turn counts"):
        MlpSpec(**{**common, "action": BOXES[0]}, inputs=ALL)
