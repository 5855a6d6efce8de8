"""The multilayer perceptron, the kind of network that is used where no other is named."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rattle.policies.kind import NetworkKind, Parameters
from rattle.policies.mlp.spec import LayeredSpec, MlpSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rattle.policies.kind import Program


class Mlp(NetworkKind[MlpSpec]):
    """Its parts; what imports PyTorch, Numba or ONNX is imported when it is asked for."""

    spec = MlpSpec
    value_head = ("value.weight", "value.bias")
    policy_head = ("policy.weight", "policy.bias")

    def input_layers(self, spec: MlpSpec) -> tuple[str, ...]:
        """Return the first hidden layer, or the heads where there is none."""
        return ("trunk.0",) if spec.hidden_sizes else ("policy", "value")[: 1 + spec.value_head]

    def parameter_shapes(self, spec: MlpSpec) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter: weights (outputs, inputs) and biases (outputs,)."""
        return layer_shapes(spec)

    def make_network(self, spec: MlpSpec, generator: torch.Generator | None = None) -> nn.Module:
        """Return the network in PyTorch, with weights that the generator draws."""
        from rattle.policies.mlp.network import MultilayerPerceptron

        return MultilayerPerceptron(spec, generator)

    def make_program(self, spec: MlpSpec, parameters: Parameters) -> Program:
        """Return the forward pass in compiled code."""
        from rattle.policies.mlp.program import MlpProgram

        return MlpProgram(spec, parameters)

    def onnx_graph(self, onnx: Any, spec: MlpSpec, parameters: Parameters) -> tuple[list[Any], dict[str, Any]]:
        """Return the nodes of an ONNX graph, and its constants by name."""
        from rattle.policies.mlp.onnx_graph import graph

        return graph(onnx, spec, parameters)

    def row_work(self, spec: MlpSpec) -> int:
        """Return how many multiplications a row takes at most; one-hot inputs are never multiplied."""
        sizes = (spec.observation.shape[0] + spec.own.width, *spec.layer_sizes[1:])
        return sum(inputs * outputs for inputs, outputs in pairwise(sizes))


def layer_shapes(spec: LayeredSpec, between: Mapping[str, tuple[int, int]] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter: weights (outputs, inputs) and biases (outputs,).

    `between`: (outputs, inputs) of layers, by name, that lie between the hidden layers and the heads.
    """
    sizes = (spec.first_inputs, *spec.hidden_sizes)
    layers = {f"trunk.{i}": (sizes[i + 1], sizes[i]) for i in range(len(spec.hidden_sizes))}
    layers |= between or {}
    layers["policy"] = (spec.action.outputs - spec.action.outputs_alone, sizes[-1])
    if spec.value_head:
        layers["value"] = (1, sizes[-1])
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in layers.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    if spec.alone is not None:
        shapes[spec.alone] = (spec.action.outputs_alone,)
    return shapes
