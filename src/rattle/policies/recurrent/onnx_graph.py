"""A network with memory as an ONNX graph of one tick: `state` in, `next_state` out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.kind import Parameters
from rattle.policies.mlp.onnx_graph import constants, head_nodes, hidden_nodes
from rattle.policies.own.onnx_graph import own_nodes
from rattle.policies.recurrent.spec import RecurrentSpec


def graph(onnx: Any, spec: RecurrentSpec, parameters: Parameters) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Return the nodes in the order in which they run, and the constants that they take by name."""
    node = onnx.helper.make_node
    layers = [f"memory.{number}" for number in range(spec.memory_layers)]
    own = own_nodes(onnx, spec.own, spec.network_memory)
    nodes, here = hidden_nodes(onnx, spec, own.inputs)
    nodes.append(node("Split", [own.memory, "widths"], [f"{layer}.before" for layer in layers], axis=1))
    for layer in layers:
        nodes += (_gru if spec.network == "gru" else _mingru)(node, layer, here)
        here = f"{layer}.out"
    nodes.append(node("Concat", [*own.after, *(f"{layer}.after" for layer in layers)], ["next_state"], axis=1))
    numbers: dict[str, NDArray[Any]] = {
        "widths": np.full(spec.memory_layers, spec.width, np.int64),
        "nothing": np.zeros((), np.float32),
        "half": np.full((), 0.5, np.float32),
        "one": np.ones((), np.float32),
    }
    nodes = [*own.nodes, *nodes, *head_nodes(onnx, spec, here)]
    return nodes, {**constants(spec, parameters), **numbers, **own.constants}


def _gates(node: Any, name: str, here: str) -> list[Any]:
    """Return the nodes that make three gates, NAME.0 and so on, of what is given."""
    return [
        node("Gemm", [here, f"{name}.weight", f"{name}.bias"], [f"{name}.sum"], transB=1),
        node("Split", [f"{name}.sum"], [f"{name}.{gate}" for gate in range(3)], axis=1),
    ]


def _mixed(node: Any, name: str, gate: str, one: str, other: str) -> list[Any]:
    """Return the nodes of gate * one + (1 - gate) * other."""
    return [
        node("Mul", [gate, one], [f"{name}.one"]),
        node("Sub", ["one", gate], [f"{name}.rest"]),
        node("Mul", [f"{name}.rest", other], [f"{name}.other"]),
        node("Add", [f"{name}.one", f"{name}.other"], [name]),
    ]


def _gru(node: Any, layer: str, here: str) -> list[Any]:
    gates, recall = f"{layer}.gates", f"{layer}.recall"
    nodes = [*_gates(node, gates, here), *_gates(node, recall, f"{layer}.before")]
    for number, gate in enumerate(("reset", "update")):
        nodes.append(node("Add", [f"{gates}.{number}", f"{recall}.{number}"], [f"{layer}.{gate}.sum"]))
        nodes.append(node("Sigmoid", [f"{layer}.{gate}.sum"], [f"{layer}.{gate}"]))
    return [
        *nodes,
        node("Mul", [f"{layer}.reset", f"{recall}.2"], [f"{layer}.recalled"]),
        node("Add", [f"{gates}.2", f"{layer}.recalled"], [f"{layer}.new.sum"]),
        node("Tanh", [f"{layer}.new.sum"], [f"{layer}.new"]),
        *_mixed(node, f"{layer}.after", f"{layer}.update", f"{layer}.before", f"{layer}.new"),
        node("Identity", [f"{layer}.after"], [f"{layer}.out"]),
    ]


def _mingru(node: Any, layer: str, here: str) -> list[Any]:
    gates = f"{layer}.gates"
    return [
        *_gates(node, gates, here),
        node("GreaterOrEqual", [f"{gates}.0", "nothing"], [f"{layer}.linear"]),
        node("Add", [f"{gates}.0", "half"], [f"{layer}.above"]),
        node("Sigmoid", [f"{gates}.0"], [f"{layer}.below"]),
        node("Where", [f"{layer}.linear", f"{layer}.above", f"{layer}.below"], [f"{layer}.new"]),
        node("Sigmoid", [f"{gates}.1"], [f"{layer}.update"]),
        node("Sigmoid", [f"{gates}.2"], [f"{layer}.passes"]),
        *_mixed(node, f"{layer}.after", f"{layer}.update", f"{layer}.new", f"{layer}.before"),
        *_mixed(node, f"{layer}.out", f"{layer}.passes", f"{layer}.after", here),
    ]
