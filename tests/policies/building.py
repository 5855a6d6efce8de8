"""Small random policies, and the PyTorch network that says what they should do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy
from rattle.policies.kinds import kind_of
from rattle.policies.mlp.network import MultilayerPerceptron
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import (
    ActionSpace,
    BoxSpace,
    CodeSpace,
    DiscreteSpace,
    FloatSpace,
    MultiDiscreteSpace,
    SquashedBoxSpace,
)

Parameters = Mapping[str, NDArray[np.float32]]


#: Real numbers in arrays of several shapes, some of more numbers than one draw of random words has.
BOXES = [
    *(BoxSpace.of(np.full(shape, -0.5), np.full(shape, 2.0)) for shape in ((), (1,), (3,), (2, 3), (9,))),
    SquashedBoxSpace(low=(-1.0, 2.0, None, 3.0, None), high=(1.0, 5.0, 1.0, None, None)),
]


def several_numbers() -> st.SearchStrategy[MultiDiscreteSpace]:
    """Draw spaces of several whole numbers, of which some have one value, or equal neighbours."""
    sizes = st.lists(st.integers(1, 6), min_size=1, max_size=11)
    return st.builds(MultiDiscreteSpace, sizes=sizes.map(tuple))


def action_spaces() -> st.SearchStrategy[ActionSpace]:
    """Draw spaces of actions of every kind."""
    return st.builds(DiscreteSpace, n=st.integers(1, 6)) | several_numbers() | st.sampled_from(BOXES)


@st.composite
def policy_specs(draw: st.DrawFn, actions: st.SearchStrategy[ActionSpace] | None = None) -> PolicySpec:
    """Draw specs whose widths are no multiples of anything that the kernel works in."""
    codes = st.builds(CodeSpace, cells=st.integers(1, 20), codes=st.sampled_from([2, 3, 5, 256]))
    return MlpSpec(
        observation=draw(codes | st.builds(FloatSpace, size=st.integers(1, 35))),
        action=draw(action_spaces() if actions is None else actions),
        hidden_sizes=tuple(draw(st.lists(st.integers(1, 35), max_size=3))),
        activation=draw(st.sampled_from(["relu", "tanh"])),
        value_head=draw(st.booleans()),
    )


def random_parameters(spec: PolicySpec, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Draw weights that keep the numbers in every layer near 1."""
    generator = np.random.default_rng(seed)
    scale = {name: 1 / np.sqrt(shape[-1]) for name, shape in kind_of(spec).parameter_shapes(spec).items()}
    return {
        name: (scale[name] * generator.normal(size=shape)).astype(np.float32)
        for name, shape in kind_of(spec).parameter_shapes(spec).items()
    }


def random_observation(spec: PolicySpec, rows: int, seed: int = 0) -> NDArray[Any]:
    """Draw observations that the spec describes."""
    return spec.observation.draw(np.random.default_rng(seed), rows)


def random_policy(spec: PolicySpec, seed: int = 0) -> StoredPolicy:
    """Return a policy with random weights."""
    return StoredPolicy(
        spec, random_parameters(spec, seed), version=7, environment="snake", environment_settings={"food": 2}
    )


def hand_made_policy() -> StoredPolicy:
    """Return a policy whose every number is written here or counts up: the same on every machine."""
    spec = MlpSpec(
        observation=CodeSpace(cells=2, codes=3), num_actions=3, hidden_sizes=(4,), activation="relu", value_head=True
    )
    parameters: dict[str, NDArray[np.float32]] = {}
    count = 0
    for name, shape in kind_of(spec).parameter_shapes(spec).items():
        size = int(np.prod(shape))
        parameters[name] = (np.arange(count, count + size, dtype=np.float32) / 64 - 0.5).reshape(shape)
        count += size
    return StoredPolicy(spec, parameters, version=12, environment="snake", environment_settings={"width": 9, "food": 2})


def network_of(spec: PolicySpec, parameters: Parameters) -> MultilayerPerceptron:
    """Return the PyTorch network with these weights."""
    network = MultilayerPerceptron(spec)
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in parameters.items()})
    return network


def network_outputs(
    spec: PolicySpec, parameters: Parameters, observation: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the log-probabilities (N, actions) and values (N,) that PyTorch computes for discrete actions."""
    with torch.no_grad():
        logits, value = network_of(spec, parameters)(torch.from_numpy(observation))
        return torch.log_softmax(logits, dim=1).numpy(), value.numpy()


def network_log_prob(
    spec: PolicySpec, parameters: Parameters, observation: NDArray[Any], action: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the log-probabilities (N,) that PyTorch gives to actions."""
    with torch.no_grad():
        outputs, _ = network_of(spec, parameters)(torch.from_numpy(observation))
        found: NDArray[np.float32] = spec.action.distribution(outputs).log_prob(torch.from_numpy(action)).numpy()
        return found


class Played:
    """What one call of `ActingPolicy.act` wrote."""

    def __init__(self, rows: int, space: ActionSpace | None = None) -> None:
        space = space or DiscreteSpace(n=1)
        self.action: NDArray[Any] = np.full((rows, *space.shape), -1, space.dtype)
        self.log_prob = np.full(rows, np.nan, np.float32)
        self.value = np.full(rows, np.nan, np.float32)

    def bits(self, rows: slice = slice(None)) -> bytes:
        """Return what was written for some rows as bytes."""
        return b"".join(array[rows].tobytes() for array in (self.action, self.log_prob, self.value))


def play(
    policy: ActingPolicy, observation: NDArray[Any], tick: int = 0, first_slot: int = 0, *, greedy: bool = False
) -> Played:
    """Act once and return what was written."""
    played = Played(len(observation), policy.spec.action)
    policy.act(
        observation,
        tick=tick,
        first_slot=first_slot,
        greedy=greedy,
        action=played.action,
        log_prob=played.log_prob,
        value=played.value,
    )
    return played
