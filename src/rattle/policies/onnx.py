"""Export of a policy to ONNX, for runtimes that know nothing of Rattle.

The graph is written by hand: the same policy gives the same bytes, and neither PyTorch nor its exporter is needed.
"""

from __future__ import annotations

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
    """Return an ONNX model: `observation` (batch, ...) in, `logits` (batch, outputs) and `value` (batch,) out.

    A network with memory takes `state` (batch, memory_size) too, zeros where an episode begins, and gives `next_state`.

    The encoding of cell codes is part of the model. The model has been run beside the policy before it is returned; a
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
    outputs = [
        describe("logits", onnx.TensorProto.FLOAT, ["batch", policy.spec.action.outputs]),
        describe("value", onnx.TensorProto.FLOAT, ["batch"]),
    ]
    if size := policy.spec.memory_size:
        inputs.append(describe("state", onnx.TensorProto.FLOAT, ["batch", size]))
        outputs.append(describe("next_state", onnx.TensorProto.FLOAT, ["batch", size]))
    nodes, constants = kind_of(policy.spec).onnx_graph(onnx, policy.spec, policy.parameters)
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
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    _compare(policy, onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]))
    return data


def _compare(policy: StoredPolicy, session: Any) -> None:
    """Raise PolicyError unless the model says of random observations what the policy says of them."""
    observation = policy.spec.observation.draw(np.random.default_rng(0), 64)
    action = np.zeros(64, np.int64)
    log_prob, value = np.zeros(64, np.float32), np.zeros(64, np.float32)
    acting = ActingPolicy(policy.spec, policy.parameters)
    acting.act(observation, tick=0, action=action, log_prob=log_prob, value=value)
    memory = {"state": np.zeros((64, policy.spec.memory_size), np.float32)} if policy.spec.memory_size else {}
    logits, exported_value = session.run(["logits", "value"], {"observation": observation, **memory})
    with np.errstate(all="ignore"):  # weights that overflow are reported below
        below = logits - logits.max(axis=1, keepdims=True)
        log_probs = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        differences = {
            "log-probability": _difference(log_prob, log_probs[np.arange(64), action], logits),
            "value": _difference(value, exported_value, exported_value),
        }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise PolicyError(f"the exported model's {name} differs by {difference:.1g}: not exported")


def _difference(ours: NDArray[Any], theirs: NDArray[Any], outputs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(outputs).max()))
