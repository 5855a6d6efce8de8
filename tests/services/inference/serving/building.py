"""A tiny real policy, requests to it, and what it should answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import CodeSpace, FloatSpace
from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.dataplane import DataPlane
from rattle.services.inference.serving.messages import InferRequest, Parameter
from rattle.services.inference.serving.models import Models
from rattle.services.inference.serving.sequences import SequenceTable
from rattle.services.inference.serving.tensors import InputTensor, read_bytes
from tests.policies.building import play, random_observation, random_policy

CODES = MlpSpec(
    observation=CodeSpace(cells=9, codes=4), num_actions=3, hidden_sizes=(5,), activation="relu", value_head=True
)
FLOATS = MlpSpec(observation=FloatSpace(size=4), num_actions=2, hidden_sizes=(5,), activation="tanh", value_head=False)
MEMORY = RecurrentSpec(
    network="mingru",
    observation=CODES.observation,
    action=CODES.action,
    hidden_sizes=(5,),
    memory_layers=1,
    activation="relu",
    value_head=True,
)
MAX_ROWS = 64
DATATYPES = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64"}
SECONDS = 10.0  # for which a sequence may be idle, by a clock that tests set
PATIENCE = 60.0  # seconds that something may take on a busy machine


def policy(spec: PolicySpec = CODES, version: int = 7, seed: int = 0) -> StoredPolicy:
    return replace(random_policy(spec, seed), version=version)


def tensor(name: str, array: NDArray[Any]) -> InputTensor:
    """Return an array as it comes from the wire, read-only."""
    read = partial(read_bytes, name, array.tobytes())
    return InputTensor(name, DATATYPES[str(array.dtype)], array.shape, read)


def request(
    observation: NDArray[Any],
    *,
    model: str = "main",
    version: str = "",
    outputs: Sequence[str] = (),
    seeds: NDArray[Any] | None = None,
    **parameters: Parameter,
) -> InferRequest:
    inputs = [tensor("observation", observation)] + ([tensor("seed", seeds)] if seeds is not None else [])
    return InferRequest(model, version, inputs, outputs, parameters)


def rows(count: int, seed: int = 0, spec: PolicySpec = CODES) -> NDArray[Any]:
    return random_observation(spec, count, seed)


def chosen(
    of: StoredPolicy, observation: NDArray[Any], seed: int = 0, *, greedy: bool = False
) -> tuple[list[int], list[float], list[float]]:
    """Return the actions, log-probabilities and values that acting gives."""
    played = play(ActingPolicy(of.spec, of.parameters, seed), observation, greedy=greedy)
    return played.action.tolist(), played.log_prob.tolist(), played.value.tolist()


class Player:
    """A policy in this process whose memory is carried beside it."""

    def __init__(self, of: StoredPolicy | ActingPolicy) -> None:
        self._acting = of if isinstance(of, ActingPolicy) else ActingPolicy(of.spec, of.parameters)
        self.state = np.zeros((1, of.spec.memory_size), np.float32)

    def bits(self, observation: NDArray[Any]) -> list[bytes]:
        """Return the logits of a row and what is remembered after it, as bytes."""
        outputs, _ = self._acting.forward(observation, self.state)
        return [outputs.tobytes(), self.state.tobytes()]


class Sequences(SequenceTable):
    """A table of sequences whose clock a test sets, and what has expired."""

    def __init__(self, max_sequences: int = 1000, max_bytes: int = 2**20) -> None:
        self.now, self.gone = 0.0, list[str]()
        super().__init__(max_sequences, max_bytes, SECONDS, lambda: self.now, self.gone.append)


def data_plane(
    *policies: tuple[str, StoredPolicy], max_rows: int = MAX_ROWS, sequences: SequenceTable | None = None
) -> tuple[DataPlane, Models]:
    """Return a data plane of some policies; needs a running event loop."""
    models = Models()
    for name, content in policies or (("main", policy()),):
        models.publish(name, content)
    return DataPlane(models, InferenceMetrics(), max_rows, sequences or Sequences()), models


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))
