"""What `rattle.policies.own.kernel` does, as nodes of an ONNX graph of one tick."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.policies.own.inputs import HALF, OwnInput, OwnLayout
from rattle.policies.own.past import scales


class OwnNodes(NamedTuple):
    """Nodes from `state` to the inputs, and what follows from it; () and the like where there are no inputs."""

    nodes: list[Any]
    constants: dict[str, NDArray[Any]]
    inputs: tuple[str, ...]  # names, side by side
    memory: str  # the name of what the network itself remembers
    after: tuple[str, ...]  # names of the next state's columns, side by side


def own_nodes(onnx: Any, layout: OwnLayout, network_memory: int) -> OwnNodes:
    """Return them; the names of all of them begin with `own.`."""
    if not layout.width:
        return OwnNodes([], {}, (), "state", ())
    node = onnx.helper.make_node
    sizes = {f"own.{name}": place.stop - place.start for name, place in layout.columns.items()}
    if network_memory:
        sizes["own.memory"] = network_memory
    nodes = [node("Split", ["state", "own.sizes"], list(sizes), axis=1)]
    constants: dict[str, NDArray[Any]] = {
        "own.sizes": np.array(list(sizes.values()), np.int64),
        "own.zero": np.zeros((), np.float32),
        "own.one": np.ones((), np.float32),
        "own.half": np.full((), HALF, np.float32),
    }
    after = []
    if "reward" in layout.columns:
        nodes += [
            node("Equal", ["own.reward", "own.zero"], ["own.unrewarded"]),
            node("Not", ["own.unrewarded"], ["own.is_rewarded"]),
            *_counted(node, "since_reward", "own.is_rewarded"),
            *_cleared(node, "reward", "own.is_rewarded"),
        ]
        after += ["own.reward.after", "own.since_reward.after"]
    if "action" in layout.columns:
        nodes += [
            node("Equal", ["own.action", "own.zero"], ["own.undone"]),
            *_cleared(node, "action", "own.undone"),
        ]
        after.append("own.action.after")
    if "since_turn" in layout.columns:
        nodes += [
            node("Equal", ["own.previous_action", "own.zero"], ["own.undone_before"]),
            node("Equal", ["own.action", "own.previous_action"], ["own.again"]),
            node("Or", ["own.undone", "own.undone_before"], ["own.unknown"]),
            node("Or", ["own.unknown", "own.again"], ["own.straight"]),
            node("Not", ["own.straight"], ["own.turns"]),
            node("Cast", ["own.turns"], ["own.turns.numbers"], to=onnx.TensorProto.FLOAT),
            node("ReduceMax", ["own.turns.numbers"], ["own.turned.number"], axes=[1], keepdims=1),
            node("Cast", ["own.turned.number"], ["own.turned"], to=onnx.TensorProto.BOOL),
            *_counted(node, "since_turn", "own.turned"),
        ]
        after += ["own.action", "own.since_turn.after"]
    nodes += [shown for name in layout.inputs for shown in _shown(onnx, name, layout, constants)]
    return OwnNodes(nodes, constants, tuple(_SHOWN[name] for name in layout.inputs), "own.memory", tuple(after))


#: What each input is called in the graph.
_SHOWN: dict[OwnInput, str] = {
    "last_action": "own.action.shown",
    "last_reward": "own.reward.soft",
    "ticks_since_reward": "own.since_reward.share",
    "ticks_since_turn": "own.since_turn.share",
}


def _shown(onnx: Any, name: OwnInput, layout: OwnLayout, constants: dict[str, NDArray[Any]]) -> list[Any]:
    """Return the nodes that show an input, and add the constants that they take."""
    node = onnx.helper.make_node
    if name == "last_action":
        return _shown_action(onnx, layout, constants)
    return _soft(node, "own.reward") if name == "last_reward" else _share(node, name.removeprefix("ticks_"))


def _counted(node: Any, name: str, again: str) -> list[Any]:
    """Return the nodes that count ticks, from 0 `again`, as they are now and afterwards."""
    return [
        node("Max", [f"own.{name}", "own.zero"], [f"own.{name}.least"]),
        node("Where", [again, "own.zero", f"own.{name}.least"], [f"own.{name}.now"]),
        node("Add", [f"own.{name}.now", "own.one"], [f"own.{name}.after"]),
    ]


def _cleared(node: Any, name: str, of_its_shape: str) -> list[Any]:
    """Return the node that gives zeros."""
    return [node("Where", [of_its_shape, "own.zero", "own.zero"], [f"own.{name}.after"])]


def _share(node: Any, name: str) -> list[Any]:
    """Return the nodes of t / (t + HALF)."""
    return [
        node("Add", [f"own.{name}.now", "own.half"], [f"own.{name}.more"]),
        node("Div", [f"own.{name}.now", f"own.{name}.more"], [f"own.{name}.share"]),
    ]


def _soft(node: Any, name: str) -> list[Any]:
    """Return the nodes of x / (1 + |x|)."""
    return [
        node("Abs", [name], [f"{name}.size"]),
        node("Add", [f"{name}.size", "own.one"], [f"{name}.more"]),
        node("Div", [name, f"{name}.more"], [f"{name}.soft"]),
    ]


def _shown_action(onnx: Any, layout: OwnLayout, constants: dict[str, NDArray[Any]]) -> list[Any]:
    """Return the nodes that show the last action, and add the constants that they take."""
    node, choices = onnx.helper.make_node, layout.actions.choices
    if not choices:
        middles, halves = scales(layout.actions)
        constants["own.middles"], constants["own.has_bounds"] = middles, halves > 0
        constants["own.halves"] = np.where(halves > 0, halves, np.float32(1))
        constants["own.least"] = np.full((), -1, np.float32)
        return [
            *_soft(node, "own.action"),
            node("Sub", ["own.action", "own.middles"], ["own.action.from_middle"]),
            node("Div", ["own.action.from_middle", "own.halves"], ["own.action.share"]),
            node("Clip", ["own.action.share", "own.least", "own.one"], ["own.action.held"]),
            node("Where", ["own.has_bounds", "own.action.held", "own.action.soft"], ["own.action.shown"]),
        ]
    constants["own.numbers"] = np.ones(len(choices), np.int64)
    nodes = [node("Split", ["own.action", "own.numbers"], [f"own.action.{j}" for j in range(len(choices))], axis=1)]
    for j, number in enumerate(choices):
        constants[f"own.codes.{j}"] = np.arange(1, number + 1, dtype=np.float32)[None]
        nodes += [
            node("Equal", [f"own.action.{j}", f"own.codes.{j}"], [f"own.action.{j}.is"]),
            node("Cast", [f"own.action.{j}.is"], [f"own.action.{j}.shown"], to=onnx.TensorProto.FLOAT),
        ]
    parts = [f"own.action.{j}.shown" for j in range(len(choices))]
    return [*nodes, node("Concat", parts, ["own.action.shown"], axis=1)]
