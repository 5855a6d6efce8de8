"""Acting: a policy's choices for whole batches, without the framework that learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.envs.philox import split_seed
from rattle.policies import kernel
from rattle.policies.errors import PolicyError
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import CodeSpace

Parameters = Mapping[str, NDArray[np.float32]]


class ActingPolicy:
    """A policy's forward pass in compiled code; calls release the interpreter lock and may run in several threads."""

    def __init__(self, spec: PolicySpec, parameters: Parameters, seed: int = 0) -> None:
        self.spec = spec
        self._key = np.array(split_seed(seed), np.uint64)
        self._is_codes = isinstance(spec.observation, CodeSpace)  # the kernel never builds their encoding
        self._sizes = np.array(spec.layer_sizes, np.int64)
        self._tanh = spec.activation == "tanh"
        self.load(parameters)

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights; a call that is under way finishes with the old ones."""
        self._parameters = flatten(self.spec, parameters)

    def act(
        self,
        observation: NDArray[Any],
        *,
        tick: int,
        first_slot: int = 0,
        greedy: bool = False,
        action: NDArray[np.int64],
        log_prob: NDArray[np.float32],
        value: NDArray[np.float32],
    ) -> None:
        """Write an action, its log-probability and a value (0 without a value head) for every row of observations.

        observation: (N, row) uint8 codes or float32 numbers; the three outputs: (N,). What a slot draws depends on the
        policy's seed, the slot (`first_slot` + row) and the tick only. Raises PolicyError, with nothing written, when
        an array is not what it should be.
        """
        observation = self._checked(observation)
        rows = len(observation)
        for name, output, dtype in (
            ("action", action, np.int64),
            ("log_prob", log_prob, np.float32),
            ("value", value, np.float32),
        ):
            if output.dtype != dtype or output.shape != (rows,):  # the compiled code would write past a shorter one
                raise PolicyError(
                    f"{name} must be {np.dtype(dtype)} ({rows},) for {rows} rows, got {output.dtype} {output.shape}"
                )
        kernel.act(
            observation,
            self._is_codes,
            self._sizes,
            self._parameters,
            self._tanh,
            self.spec.action.outputs,
            self._key,
            first_slot,
            tick,
            greedy,
            action,
            log_prob,
            value,
        )

    def values(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32 (N,): the predicted value of every row, 0 without a value head."""
        observation = self._checked(observation)
        value = np.zeros(len(observation), np.float32)
        if self.spec.value_head:
            kernel.values(observation, self._is_codes, self._sizes, self._parameters, self._tanh, value)
        return value

    def forward(self, observation: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the logits (N, actions) and the value (N,) of every row: the bits that `act` chooses from."""
        observation = self._checked(observation)
        logits = np.empty((len(observation), self.spec.action.outputs), np.float32)
        value = np.empty(len(observation), np.float32)
        kernel.forward(
            observation,
            self._is_codes,
            self._sizes,
            self._parameters,
            self._tanh,
            self.spec.action.outputs,
            logits,
            value,
        )
        return logits, value

    def _checked(self, observation: NDArray[Any]) -> NDArray[Any]:
        space = self.spec.observation
        if observation.dtype != space.dtype or observation.ndim < 1 or observation.shape[1:] != space.shape:
            raise PolicyError(
                f"this policy takes observations of {space.dtype} (rows, {', '.join(map(str, space.shape))}), "
                f"got {observation.dtype} {observation.shape}: it was made for another environment"
            )
        if self._is_codes and (place := space.find_wrong(observation)) is not None:  # the kernel takes them as indices
            raise PolicyError(
                f"this policy knows {space.values}, got {observation[place]}: it was made for another environment"
            )
        return np.ascontiguousarray(observation)  # for other layouts, Numba would compile the kernel anew


class Groups(NamedTuple):
    """Rows of a batch that belong together, one group after another; a group draws the same in any batch."""

    rows: NDArray[np.int64]  # (G,) how many rows each group has
    seed: NDArray[np.uint64]  # (G,)
    greedy: NDArray[np.bool_]  # (G,) take the most probable action instead of drawing one


def draw(logits: NDArray[np.float32], groups: Groups) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return an action and its log-probability for every row of logits (N, actions), from `ActingPolicy.forward`.

    A group gets what `ActingPolicy.act` with its seed gives its rows at tick 0. Raises PolicyError when the groups do
    not make up N rows.
    """
    action = np.empty(len(logits), np.int64)
    log_prob = np.empty(len(logits), np.float32)
    if not kernel.draw(logits, *groups, action, log_prob):
        raise PolicyError(f"groups of {groups.rows.tolist()} rows do not make up {len(logits)} rows of logits")
    return action, log_prob


def parameter_shapes(spec: PolicySpec) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter: weights (outputs, inputs) and biases (outputs,)."""
    sizes = (spec.observation.inputs, *spec.hidden_sizes)
    layers = {f"trunk.{i}": (sizes[i + 1], sizes[i]) for i in range(len(spec.hidden_sizes))}
    layers["policy"] = (spec.action.outputs, sizes[-1])
    if spec.value_head:
        layers["value"] = (1, sizes[-1])
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in layers.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes


def flatten(spec: PolicySpec, parameters: Parameters) -> NDArray[np.float32]:
    """Return the flat float32 array that the kernel takes; raises PolicyError when parameters do not fit the spec."""
    check_parameters(spec, parameters)
    heads = ["policy", "value"] if spec.value_head else ["policy"]
    layers = [[f"trunk.{i}"] for i in range(len(spec.hidden_sizes))] + [heads]
    parts: list[NDArray[np.float32]] = []
    for names in layers:
        parts.append(np.concatenate([parameters[f"{name}.weight"] for name in names]).T.ravel())
        parts.append(np.concatenate([parameters[f"{name}.bias"] for name in names]))
    return np.concatenate(parts)


def check_parameters(spec: PolicySpec, parameters: Parameters) -> None:
    """Raise PolicyError unless the parameters have the names, shapes and dtype that the spec says."""
    expected = parameter_shapes(spec)
    if set(parameters) != set(expected):
        raise PolicyError(f"expected the parameters {sorted(expected)}, got {sorted(parameters)}")
    for name, shape in expected.items():
        array = parameters[name]
        if array.shape != shape or array.dtype != np.float32:
            raise PolicyError(f"parameter {name} must be float32 {shape}, got {array.dtype} {array.shape}")
