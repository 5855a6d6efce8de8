"""Export of a policy to ONNX, for runtimes that know nothing of Rattle."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

from rattle.policies.errors import PolicyError
from rattle.policies.file import Policy

TOLERANCE = 1e-4


def export_onnx(policy: Policy) -> bytes:
    """Return an ONNX model: `observation` (batch, row) in, `logits` (batch, actions) and `value` (batch,) out.

    The encoding of cell codes is part of the model. It has been run beside the policy before it is returned; a
    difference above 1e-4 raises PolicyError, as does a missing package.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it and says so less clearly
        import torch
    except ImportError as error:
        raise PolicyError(f"ONNX export needs the package {error.name}: pip install 'rattle[onnx]'") from None
    from rattle.policies.network import Network

    network = Network(policy.spec)
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in policy.parameters.items()})
    network.eval()
    example = torch.from_numpy(_example(policy, rows=3))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["observation"],
            output_names=["logits", "value"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101  # dynamo=True always returns one
    model: bytes = program.model_proto.SerializeToString()
    _compare(network, model, onnxruntime, _example(policy, rows=64))
    return model


def _example(policy: Policy, rows: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(0)
    observation = policy.spec.observation
    if observation.kind == "codes":
        return generator.integers(0, observation.codes, (rows, observation.cells)).astype(np.uint8)
    return generator.normal(size=(rows, observation.size)).astype(np.float32)


def _compare(network: Any, model: bytes, onnxruntime: Any, observation: np.ndarray[Any, Any]) -> None:
    import torch

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(["logits", "value"], {"observation": observation})
    with torch.no_grad():
        expected = network(torch.from_numpy(observation))
    for name, ours, theirs in zip(("logits", "value"), expected, found, strict=True):
        difference = float(np.abs(ours.numpy() - theirs).max())
        if not difference <= TOLERANCE:
            raise PolicyError(f"the exported model's {name} differ by {difference}: not exported")
