"""Networks with memory: what is compiled, what learns and what is exported compute the same, tick by tick."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import dump_policy, load_policy
from rattle.policies.kinds import kind_of
from rattle.policies.onnx import export_onnx
from rattle.policies.recurrent.scan import linear_scan
from rattle.policies.recurrent.spec import Cell, RecurrentSpec
from rattle.samples.spaces import CodeSpace, DiscreteSpace, FloatSpace
from tests.policies.building import random_observation, random_parameters, random_policy

TICKS, SLOTS = 6, 11
CELLS: tuple[Cell, ...] = ("gru", "mingru")
#: Widths that are no multiples of anything that the kernel works in, of codes and numbers, and some without a value.
SHAPES: list[dict[str, Any]] = [
    {"hidden_sizes": (7,), "memory_layers": 1, "activation": "relu"},
    {"hidden_sizes": (19, 5), "memory_layers": 3, "activation": "tanh"},
    {"hidden_sizes": (33, 9, 1), "memory_layers": 2, "activation": "relu", "value_head": False},
    {"hidden_sizes": (13,), "memory_layers": 1, "activation": "tanh", "observation": FloatSpace(size=5)},
]


def spec_of(cell: Cell, shape: dict[str, Any]) -> RecurrentSpec:
    usual = {"observation": CodeSpace(cells=9, codes=4), "action": DiscreteSpace(n=3), "value_head": True}
    return RecurrentSpec(network=cell, **{**usual, **shape})


def network_of(spec: RecurrentSpec) -> Any:
    network = kind_of(spec).make_network(spec)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in random_parameters(spec).items()})
    return network


def in_ticks(spec: RecurrentSpec) -> list[NDArray[Any]]:
    return [random_observation(spec, SLOTS, seed) for seed in range(TICKS)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_code_remembers_what_the_network_remembers(cell: Cell, shape: dict[str, Any]) -> None:
    spec = spec_of(cell, shape)
    network, policy = network_of(spec), ActingPolicy(spec, random_parameters(spec))
    state, expected = np.zeros((SLOTS, spec.memory_size), np.float32), torch.zeros((SLOTS, spec.memory_size))
    for observation in in_ticks(spec):
        values = policy.values(observation, state)
        outputs, value = policy.forward(observation, state)
        with torch.no_grad():
            *found, expected = network(torch.from_numpy(observation), expected)
        for ours, theirs in zip((outputs, value, state), (*found, expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(values, value)  # and they left the memory as it was
    assert np.abs(state).max() > 0.01


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_remembers_the_same_bits_in_any_batch(cell: Cell) -> None:
    spec = spec_of(cell, SHAPES[1])
    policy = ActingPolicy(spec, random_parameters(spec))
    whole = np.zeros((SLOTS, spec.memory_size), np.float32)
    alone = np.zeros_like(whole)
    for tick, observation in enumerate(in_ticks(spec)):
        outputs = [np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.float32), np.zeros(SLOTS, np.float32)]
        policy.act(
            observation, tick=tick, **dict(zip(("action", "log_prob", "value"), outputs, strict=True)), state=whole
        )
        for slot in range(SLOTS):
            own = [np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, np.float32)]
            row = slice(slot, slot + 1)
            policy.act(
                observation[row],
                tick=tick,
                first_slot=slot,
                **dict(zip(("action", "log_prob", "value"), own, strict=True)),
                state=alone[row],
            )
            assert [array[0] for array in own] == [array[slot] for array in outputs]
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sequence_is_its_ticks_with_nothing_remembered_where_an_episode_starts(
    cell: Cell, shape: dict[str, Any]
) -> None:
    spec = spec_of(cell, shape)
    network = network_of(spec)
    observation = torch.from_numpy(np.stack(in_ticks(spec)))
    starts = torch.zeros((TICKS, SLOTS), dtype=torch.bool)
    starts[3, 2:5] = starts[0, 7] = starts[4, 7] = True
    first = torch.rand((SLOTS, spec.memory_size))
    state, expected = first, []
    for seen, start in zip(observation, starts, strict=True):
        outputs, value, state = network(seen, state * (~start).unsqueeze(1))
        expected.append((outputs, value))
    found = network.sequence(observation, first, starts)
    for ours, theirs in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_ends_where_an_episode_starts_and_else_reaches_back_to_the_first_memory(cell: Cell) -> None:
    spec = spec_of(cell, SHAPES[0])
    starts = torch.zeros((TICKS, SLOTS), dtype=torch.bool)
    starts[TICKS - 1, 0] = True
    first = torch.rand((SLOTS, spec.memory_size), requires_grad=True)
    outputs, _ = network_of(spec).sequence(torch.from_numpy(np.stack(in_ticks(spec))), first, starts)
    [gradient] = torch.autograd.grad(outputs[-1].sum(), [first])
    assert not gradient[0].any()
    assert gradient[1:].any(dim=1).all()


def test_the_gradients_of_a_scan_are_those_of_its_ticks() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((TICKS, SLOTS, 3), (TICKS, SLOTS, 3), (SLOTS, 3))
    given = [torch.rand(shape, generator=generator, requires_grad=True) for shape in shapes]
    given[0].data[2, 4] = 0.0
    weights = torch.randn(shapes[0], generator=generator)

    def in_turn(keep: Tensor, add: Tensor, memory: Tensor) -> Tensor:
        after = []
        for kept, added in zip(keep, add, strict=True):
            memory = kept * memory + added
            after.append(memory)
        return torch.stack(after)

    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    expected = in_turn(*exact)
    found = linear_scan(*given)
    torch.testing.assert_close(found.double(), expected)
    ours = torch.autograd.grad((found * weights).sum(), given)
    theirs = torch.autograd.grad((expected * weights).sum(), exact)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_an_exported_model_takes_and_gives_what_is_remembered(cell: Cell, shape: dict[str, Any]) -> None:
    spec = spec_of(cell, shape)
    policy = load_policy(dump_policy(random_policy(spec)))
    assert policy.spec == spec
    session = onnxruntime.InferenceSession(export_onnx(policy), providers=["CPUExecutionProvider"])
    acting = ActingPolicy(spec, policy.parameters)
    state = np.zeros((SLOTS, spec.memory_size), np.float32)
    exported = state.copy()
    for observation in in_ticks(spec):
        logits, value, exported = session.run(
            ["logits", "value", "next_state"], {"observation": observation, "state": exported}
        )
        expected = acting.forward(observation, state)
        for ours, theirs in zip((logits, value, exported), (*expected, state), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_there_is_a_hidden_layer_before_the_memory() -> None:
    with pytest.raises(ValidationError, match="hidden_sizes"):
        spec_of("gru", {"hidden_sizes": (), "memory_layers": 1, "activation": "relu"})
