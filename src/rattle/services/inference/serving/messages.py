"""What the service is asked and answers, whatever it travels in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rattle.services.inference.serving.tensors import InputTensor, OutputTensor, TensorDescription

Parameter = bool | int | float | str
#: The parameters of a request that mean something here; clients add others of their own, which are ignored.
PARAMETERS = ("greedy", "seed", "timeout")


class InferRequest(NamedTuple):
    """Rows, and what is asked of them."""

    model: str
    version: str  # empty: the newest
    inputs: Sequence[InputTensor]
    outputs: Sequence[str]  # none: the actions
    parameters: Mapping[str, Parameter]


class InferResponse(NamedTuple):
    """The answer, and which version of which model gave it."""

    model: str
    version: str
    outputs: Sequence[OutputTensor]
    parameters: Mapping[str, int]


class ServerMetadata(NamedTuple):
    """What the server is."""

    name: str
    version: str
    extensions: Sequence[str]


class ModelMetadata(NamedTuple):
    """What a model takes and gives."""

    name: str
    versions: Sequence[str]
    platform: str
    inputs: Sequence[TensorDescription]
    outputs: Sequence[TensorDescription]
