"""Export of a policy to ONNX, for runtimes that know nothing of Rattle.

The graph is written by hand: the same policy gives the same bytes, and neither PyTorch nor its exporter is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy
from rattle.policies.kinds import kind_of

#: How far an exported model may be from the policy, as a part of its largest output, or of 1.
TOLERANCE = 1e-4

#: Old enough for the runtimes in use, new enough for a Shape of the first axis alone.
_OPSET, _IR_VERSION = 17, 8


def export_onnx(policy: StoredPolicy) -> bytes:
    """Return an ONNX model: `observation` (batch, ...) in, and out what describes actions, and `value` (batch,).

    What describes actions is `logits` (batch, actions) of discrete ones, of several those of one number after
    another's, and of real numbers their `mean` and the
    logarithm of their standard deviation, `log_std`, each (batch, numbers): before the hyperbolic tangent where actions
    are squashed.

    A network with memory takes `state` (batch, memory_size) too, zeros where an episode begins, and gives `next_state`.
    Where a policy sees its own past, `state_columns` in the model's metadata lists the first columns: the client writes
    the action into them, and adds the reward.

    The encoding of cell codes is part of the model. The model has been run next to the policy before it is returned; a
    difference above `TOLERANCE` raises PolicyError, as does a missing package.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise PolicyError(f"ONNX export needs the package {error.name}: pip install 'rattle[onnx]'") from None
    observation = policy.spec.observation
    element = onnx.helper.np_dtype_to_tensor_dtype(observation.dtype)
    describe = onnx.helper.make_tensor_value_info
    inputs = [describe("observation", element, ["batch", *observation.shape])]
    parts = policy.spec.action.parts
    outputs = [describe(name, onnx.TensorProto.FLOAT, ["batch", size]) for name, size in parts.items()]
    outputs.append(describe("value", onnx.TensorProto.FLOAT, ["batch"]))
    if size := policy.spec.memory_size:
        inputs.append(describe("state", onnx.TensorProto.FLOAT, ["batch", size]))
        outputs.append(describe("next_state", onnx.TensorProto.FLOAT, ["batch", size]))
    nodes, own = kind_of(policy.spec).onnx_graph(onnx, policy.spec, policy.parameters)
    nodes, constants = _in_parts(onnx, nodes, own, parts)
    used = {name for node in nodes for name in node.input}
    initialisers = [
        onnx.numpy_helper.from_array(np.asarray(constants[name]), name) for name in sorted(used & set(constants))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "policy", inputs, outputs, initialisers),
        producer_name="rattle",
        model_version=policy.version,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    if columns := policy.spec.own.columns:
        described = {name: list(range(place.start, place.stop)) for name, place in columns.items()}
        onnx.helper.set_model_props(model, {"state_columns": json.dumps(described)})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    _compare(policy, onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]))
    return data


def _in_parts(
    onnx: Any, nodes: list[Any], constants: Mapping[str, Any], parts: Mapping[str, int]
) -> tuple[list[Any], Mapping[str, Any]]:
    """Return a graph whose outputs have the names of their parts, in place of `outputs` for all of them."""
    if len(parts) > 1:
        sizes = {"part_sizes": np.array(list(parts.values()), np.int64)}
        split = onnx.helper.make_node("Split", ["outputs", "part_sizes"], list(parts), axis=1)
        return [*nodes, split], {**constants, **sizes}
    [only] = parts
    for node in nodes:
        node.input[:] = [only if name == "outputs" else name for name in node.input]
        node.output[:] = [only if name == "outputs" else name for name in node.output]
    return nodes, constants


def _compare(policy: StoredPolicy, session: Any) -> None:
    """Raise PolicyError unless the model says of random observations what the policy says of them."""
    random, spec = np.random.default_rng(0), policy.spec
    state = np.zeros((64, spec.memory_size), np.float32)
    acting = ActingPolicy(spec, policy.parameters)
    acting.forward(spec.observation.draw(random, 64), state)
    acting.own.acted(state, spec.action.draw(random, 64))
    acting.own.rewarded(state, random.integers(-1, 2, 64).astype(np.float32))
    observation = spec.observation.draw(random, 64)
    memory = {"state": state.copy()} if spec.memory_size else {}
    outputs, value = acting.forward(observation, state)
    names = [*policy.spec.action.parts, "value"]
    *parts, exported_value = session.run(names, {"observation": observation, **memory})
    exported = np.concatenate(parts, axis=1)
    with np.errstate(all="ignore"):  # weights that overflow are reported below
        differences = {
            "output": _difference(outputs, exported, exported),
            "value": _difference(value, exported_value, exported_value),
        }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise PolicyError(f"the exported model's {name} differs by {difference:.1g}: not exported")


def _difference(ours: NDArray[Any], theirs: NDArray[Any], outputs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(outputs).max()))
