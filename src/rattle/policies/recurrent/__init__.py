"""Networks with memory, compiled where they act: GRU, and minGRU, whose memory is a linear scan over time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rattle.policies.kind import NetworkKind, Parameters
from rattle.policies.mlp import layer_shapes
from rattle.policies.recurrent.spec import RecurrentSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rattle.policies.kind import Program


class Recurrent(NetworkKind[RecurrentSpec]):
    """Its parts; what imports PyTorch, Numba or ONNX is imported when it is asked for."""

    spec = RecurrentSpec
    value_head = ("value.weight", "value.bias")
    policy_head = ("policy.weight", "policy.bias")

    def input_layers(self, spec: RecurrentSpec) -> tuple[str, ...]:
        """Return the first hidden layer."""
        return ("trunk.0",)

    def parameter_shapes(self, spec: RecurrentSpec) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter: weights (outputs, inputs) and biases (outputs,)."""
        return layer_shapes(spec, spec.between)

    def make_network(self, spec: RecurrentSpec, generator: torch.Generator | None = None) -> nn.Module:
        """Return the network in PyTorch, with weights that the generator draws."""
        from rattle.policies.recurrent.network import RecurrentNetwork

        return RecurrentNetwork(spec, generator)

    def make_program(self, spec: RecurrentSpec, parameters: Parameters) -> Program:
        """Return the forward pass in compiled code."""
        from rattle.policies.recurrent.program import RecurrentProgram

        return RecurrentProgram(spec, parameters)

    def onnx_graph(self, onnx: Any, spec: RecurrentSpec, parameters: Parameters) -> tuple[list[Any], dict[str, Any]]:
        """Return the nodes of an ONNX graph, and its constants by name."""
        from rattle.policies.recurrent.onnx_graph import graph

        return graph(onnx, spec, parameters)

    def row_work(self, spec: RecurrentSpec) -> int:
        """Return how many multiplications a row takes at most; one-hot inputs are never multiplied."""
        sizes = (spec.observation.shape[0] + spec.own.width, *spec.layer_sizes[1:])
        memory = sum(outputs * inputs for outputs, inputs in spec.between.values())
        return memory + sum(inputs * outputs for inputs, outputs in pairwise(sizes))
