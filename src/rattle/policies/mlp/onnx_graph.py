"""The multilayer perceptron as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.kind import Parameters
from rattle.policies.mlp.program import with_all_outputs
from rattle.policies.mlp.spec import LayeredSpec, MlpSpec
from rattle.policies.own.onnx_graph import own_nodes
from rattle.samples.spaces import CodeSpace


def graph(onnx: Any, spec: MlpSpec, parameters: Parameters) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Return the nodes in the order in which they run, and the constants that they take by name."""
    own = own_nodes(onnx, spec.own, 0)
    nodes, here = hidden_nodes(onnx, spec, own.inputs)
    after = [onnx.helper.make_node("Concat", own.after, ["next_state"], axis=1)] if own.after else []
    nodes = [*own.nodes, *nodes, *after, *head_nodes(onnx, spec, here)]
    return nodes, {**constants(spec, parameters), **own.constants}


def constants(spec: LayeredSpec, parameters: Parameters) -> dict[str, NDArray[Any]]:
    """Return weights, and the numbers that nodes take in addition."""
    return {**with_all_outputs(spec, parameters), **_shape_constants(spec)}


def _shape_constants(spec: LayeredSpec) -> dict[str, NDArray[Any]]:
    """Return the numbers that nodes take in addition to the weights."""
    constants: dict[str, NDArray[Any]] = {"axis": np.array([1], np.int64)}
    if isinstance(spec.observation, CodeSpace):
        constants["codes"] = np.arange(1, spec.observation.codes, dtype=np.int32).reshape(1, -1, 1)
    return constants


def hidden_nodes(onnx: Any, spec: LayeredSpec, own: Sequence[str]) -> tuple[list[Any], str]:
    """Return the nodes from `observation`, and inputs next to it, to what the last hidden layer gives, and its name."""
    node = onnx.helper.make_node
    nodes, here = [], "observation"
    if isinstance(spec.observation, CodeSpace):
        nodes += [
            node("Cast", ["observation"], ["whole"], to=onnx.TensorProto.INT32),  # runtimes compare no uint8
            node("Unsqueeze", ["whole", "axis"], ["rows"]),
            node("Equal", ["rows", "codes"], ["holds"]),
            node("Cast", ["holds"], ["planes"], to=onnx.TensorProto.FLOAT),
            node("Flatten", ["planes"], ["inputs"], axis=1),
        ]
        here = "inputs"
    if own:
        nodes.append(node("Concat", [here, *own], ["all_inputs"], axis=1))
        here = "all_inputs"
    activation = {"relu": "Relu", "tanh": "Tanh"}[spec.activation]
    for layer in (f"trunk.{i}" for i in range(len(spec.hidden_sizes))):
        nodes += [
            node("Gemm", [here, f"{layer}.weight", f"{layer}.bias"], [f"{layer}.sum"], transB=1),
            node(activation, [f"{layer}.sum"], [f"{layer}.out"]),
        ]
        here = f"{layer}.out"
    return nodes, here


def head_nodes(onnx: Any, spec: LayeredSpec, here: str) -> list[Any]:
    """Return the nodes from what the last layer before the heads gives to `outputs` and `value`."""
    node = onnx.helper.make_node
    nodes = [node("Gemm", [here, "policy.weight", "policy.bias"], ["outputs"], transB=1)]
    if spec.value_head:
        nodes.append(node("Gemm", [here, "value.weight", "value.bias"], ["values"], transB=1))
        nodes.append(node("Squeeze", ["values", "axis"], ["value"]))
    else:
        nodes.append(node("Shape", ["observation"], ["batch_size"], start=0, end=1))
        nodes.append(node("ConstantOfShape", ["batch_size"], ["value"]))
    return nodes
