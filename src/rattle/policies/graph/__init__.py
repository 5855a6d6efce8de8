"""Networks in PyTorch, of users and some built-in ones: an ONNX graph made from their code, which acts without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rattle.policies.errors import PolicyError
from rattle.policies.graph.spec import LIGHT, GraphSpec
from rattle.policies.kind import NetworkKind, Parameters

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rattle.policies.kind import Program


class Graph(NetworkKind[GraphSpec]):
    """Its parts; what imports PyTorch or ONNX Runtime is imported when it is asked for."""

    spec = GraphSpec
    #: A factor that the graph multiplies all predicted values by.
    value_head = ("value_scale",)

    def parameter_shapes(self, spec: GraphSpec) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter."""
        return dict(spec.parameters)

    def make_network(self, spec: GraphSpec, generator: torch.Generator | None = None) -> nn.Module:
        """Raise PolicyError: a graph learns only with the code that it was made from."""
        raise PolicyError("this policy has a network of a user: it is trained where policy.network names its code")

    def make_program(self, spec: GraphSpec, parameters: Parameters) -> Program:
        """Return the graph in ONNX Runtime; raises PolicyError where that is missing, or refuses the graph."""
        from rattle.policies.graph.program import GraphProgram

        return GraphProgram(spec, parameters)

    def onnx_graph(self, onnx: Any, spec: GraphSpec, parameters: Parameters) -> tuple[list[Any], dict[str, Any]]:
        """Return the graph's own nodes, and its constants by name."""
        graph = onnx.load_model_from_string(spec.graph).graph
        own = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        return list(graph.node), {**parameters, **own}

    def row_work(self, spec: GraphSpec) -> int:
        """Return about how many multiplications a row takes."""
        return spec.row_work

    def chunk(self, spec: GraphSpec, most: int) -> int:
        """Return a power of two part of `most` where the network does much with each sample."""
        return max(1, most >> (self.row_work(spec) // LIGHT).bit_length())
