"""What a kind of network must offer: the interface that the folders below this package implement.

A kind is a folder with a spec, a network that learns, a program that acts, and an ONNX graph. `rattle.policies.kinds`
lists them; a policy's spec says in `network` which one it is of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rattle.policies.spec import PolicySpec

if TYPE_CHECKING:
    import torch
    from torch import nn

Parameters = Mapping[str, NDArray[np.float32]]
Spec = TypeVar("Spec", bound=PolicySpec)


class Program(Protocol):
    """A forward pass without the framework that learns; each row gives the same bits in any batch.

    `state` (N, memory_size) is what each slot remembers, whose part after that of the own past `act` and `forward`
    overwrite; None where a policy has no memory, or where nothing is remembered yet. `own` (N, K) are more inputs:
    the own past; None where a policy has none.

    Its callers have checked what they give. Calls may run in several threads.
    """

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights; a call that is under way finishes with the old ones."""

    def act(
        self,
        observation: NDArray[Any],
        key: NDArray[np.uint64],
        first_slot: int,
        tick: int,
        greedy: bool,
        action: NDArray[Any],
        log_prob: NDArray[np.float32],
        value: NDArray[np.float32],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> None:
        """Write an action, its log-probability and a value for every row; row r draws as slot `first_slot` + r.

        action: contiguous rows of the action space.
        """

    def forward(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the head's outputs (N, outputs) and the values (N,)."""

    def values(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the values (N,)."""


class NetworkKind(ABC, Generic[Spec]):
    """A kind of network."""

    spec: ClassVar[type[PolicySpec]]
    #: The parameters that all predicted values are proportional to.
    value_head: ClassVar[tuple[str, ...]]
    #: The parameters of the last layer of the policy itself.
    policy_head: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def parameter_shapes(self, spec: Spec) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter, all of which are float32."""

    def input_layers(self, spec: Spec) -> tuple[str, ...]:
        """Return the linear layers that take a network's inputs; none where others than such layers take them.

        A layer NAME has parameters NAME.weight (outputs, inputs) and NAME.bias (outputs,).
        """
        return ()

    @abstractmethod
    def make_network(self, spec: Spec, generator: torch.Generator | None = None) -> nn.Module:
        """Return the network in PyTorch: observations (N, ...) to outputs (N, outputs) and values (N,)."""

    @abstractmethod
    def make_program(self, spec: Spec, parameters: Parameters) -> Program:
        """Return what acts."""

    @abstractmethod
    def onnx_graph(self, onnx: Any, spec: Spec, parameters: Parameters) -> tuple[list[Any], dict[str, Any]]:
        """Return the nodes from `observation` to `outputs` and `value`, and the constants that they take by name.

        Where the network has memory, they take `state` too, and give `next_state`.
        """

    @abstractmethod
    def row_work(self, spec: Spec) -> int:
        """Return about how many multiplications a row takes."""

    def chunk(self, spec: Spec, most: int) -> int:
        """Return of how many samples, at most `most`, a gradient is computed at once: fewer of those that take much."""
        return most
