"""What the service is asked and answers, whatever it travels in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rattle.services.inference.serving.tensors import InputTensor, OutputTensor, TensorDescription

Parameter = bool | int | float | str
#: Inputs that a request may have, and parameters. Clients add parameters of their own, and each is looked at.
MOST_INPUTS = MOST_PARAMETERS = 16
#: Requests up to this size take no time worth speaking of, whatever is in them; larger ones may have so many fields.
SMALL_BYTES, MOST_FIELDS = 2**16, 1024
#: The parameters of a request that mean something here; clients add others of their own, which are ignored.
PARAMETERS = ("greedy", "seed", "timeout", "sequence_id", "sequence_start", "sequence_end")


class InferRequest(NamedTuple):
    """Rows, and what is asked of them."""

    model: str
    version: str  # empty: the newest
    inputs: Sequence[InputTensor]
    outputs: Sequence[str]  # none: the actions
    parameters: Mapping[str, Parameter]
    slow: bool = False  # whether reading its numbers takes long: in the event loop it would hold up all others


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
