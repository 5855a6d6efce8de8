"""What a request asks of a policy, checked before it may join others: a bad row never meets a good one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rattle.policies.spec import PolicySpec
from rattle.services.inference.serving.messages import MOST_INPUTS, MOST_PARAMETERS, PARAMETERS, InferRequest, Parameter
from rattle.services.inference.serving.sequences import SequenceStep
from rattle.services.inference.serving.tensors import (
    InputTensor,
    TensorDescription,
    datatype_of,
    read_tensor,
    shown,
    wrong,
)

_DEFAULT_OUTPUTS = ("action",)
_DRAWN_OUTPUTS = frozenset(("action", "log_prob"))
_ALIKE = 0.75  # from here on a name is a misspelt one
_LONGEST_NAME = 40  # that is compared
#: Seeds that the service draws: a number that any program can hold, those too that count in floats.
_SEED_BITS = 53
#: Letters that the name of a sequence may have.
_LONGEST_SEQUENCE_ID = 128


class Sampling(NamedTuple):
    """How the rows of a request get their actions: all from one seed, or each from its own."""

    seeds: Sequence[int]
    greedy: bool


class ParsedRequest(NamedTuple):
    """What a valid request comes to."""

    observation: NDArray[Any]
    state: NDArray[np.float32] | None  # what each row remembers; None: nothing, or no memory
    reward: NDArray[np.float32] | None  # of the last tick, which goes with the state
    outputs: Sequence[str]
    drawing: Sampling | None  # None: nothing is drawn
    fresh_seed: int | None  # where the request brought none, and needs one
    seconds: float | None  # that the caller will wait


def describe_inputs(spec: PolicySpec) -> list[TensorDescription]:
    """Return what a policy must be given."""
    space = spec.observation
    observation = TensorDescription("observation", datatype_of(space.dtype), (-1, *space.shape))
    memory = [TensorDescription("state", "FP32", (-1, spec.memory_size))] if spec.memory_size else []
    reward = [TensorDescription("reward", "FP32", (-1,))] if "reward" in spec.own.columns else []
    return [observation, *memory, *reward]


def describe_outputs(spec: PolicySpec) -> list[TensorDescription]:
    """Return what a policy can be asked for."""
    outputs = [
        TensorDescription("action", datatype_of(spec.action.dtype), (-1, *spec.action.shape)),
        TensorDescription("log_prob", "FP32", (-1,)),
        *(TensorDescription(name, "FP32", (-1, size)) for name, size in spec.action.parts.items()),
    ]
    if spec.value_head:
        outputs.append(TensorDescription("value", "FP32", (-1,)))
    if spec.memory_size:
        outputs.append(TensorDescription("next_state", "FP32", (-1, spec.memory_size)))
    return outputs


def most_numbers(spec: PolicySpec, max_rows: int) -> int:
    """Return how many numbers a request to a policy has at most."""
    return sum(math.prod((max_rows, *known.shape[1:])) for known in describe_inputs(spec)) + max_rows  # the seeds


def check(request: InferRequest, spec: PolicySpec, max_rows: int) -> ParsedRequest:
    """Return what a request asks of a policy; raises RequestError that names the field which is wrong."""
    tensors = _by_name(request.inputs, spec)
    observation = _observation(tensors, spec, max_rows)
    number = len(observation)
    state = _finite(tensors.get("state"), (number, spec.memory_size))
    rows = observation, state, _finite(tensors.get("reward"), (number,))
    is_in_sequence = sequence_of(request.parameters, spec) is not None
    if is_in_sequence:
        _check_in_sequence(observation, state)
    outputs = _outputs(request.outputs, spec)
    greedy, seed, seconds = _parameters(request.parameters)
    seeds = _seeds(tensors.get("seed"), seed, number)
    keeps_action = "action" in spec.own.columns and (is_in_sequence or "next_state" in outputs)
    if _DRAWN_OUTPUTS.isdisjoint(outputs) and not keeps_action:
        return ParsedRequest(*rows, outputs, None, None, seconds)
    if greedy:
        return ParsedRequest(*rows, outputs, Sampling((0,), greedy=True), None, seconds)
    if seeds is not None:
        return ParsedRequest(*rows, outputs, Sampling(seeds, greedy=False), None, seconds)
    fresh = random.getrandbits(_SEED_BITS)
    return ParsedRequest(*rows, outputs, Sampling((fresh,), greedy=False), fresh, seconds)


def sequence_of(given: Mapping[str, Parameter], spec: PolicySpec) -> SequenceStep | None:
    """Return the sequence that a request belongs to; None for none, and for a policy that remembers nothing.

    Raises RequestError that names the parameter which is wrong.
    """
    if not spec.memory_size:
        return None
    starts, ends = _flag(given, "sequence_start"), _flag(given, "sequence_end")
    if name := _sequence_id(given.get("sequence_id", 0)):
        return SequenceStep(name, starts, ends)
    if starts or ends:
        raise wrong("sequence_id", "is missing, and sequence_start or sequence_end is true")
    return None


def _sequence_id(value: Parameter) -> int | str:
    if isinstance(value, str) and len(value) <= _LONGEST_SEQUENCE_ID:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    most = f"a whole number from 1 to 2**64 - 1, or text of at most {_LONGEST_SEQUENCE_ID} letters"
    raise wrong("sequence_id", f"must be {most}, got {shown(value)}")


def _flag(given: Mapping[str, Parameter], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise wrong(name, f"must be true or false, got {shown(value)}")
    return value


def _check_in_sequence(observation: NDArray[Any], state: NDArray[np.float32] | None) -> None:
    if len(observation) > 1:
        raise wrong("observation", f"a request of a sequence has one row, got {len(observation)}")
    if state is not None:
        raise wrong("state", "is kept here for a sequence: leave out state or sequence_id")


def _by_name(inputs: Sequence[InputTensor], spec: PolicySpec) -> dict[str, InputTensor]:
    if len(inputs) > MOST_INPUTS:
        raise wrong("inputs", f"a request has at most {MOST_INPUTS} inputs, got {len(inputs)}")
    tensors = {tensor.name: tensor for tensor in inputs}
    known = [*(description.name for description in describe_inputs(spec)), "seed"]
    for name in tensors:
        if name not in known:
            raise wrong("inputs", f"{shown(name)} is none; there are {', '.join(known[:-1])} and {known[-1]}")
    if len(tensors) < len(inputs):
        raise wrong("inputs", "a name occurs twice")
    return tensors


def _observation(tensors: Mapping[str, InputTensor], spec: PolicySpec, max_rows: int) -> NDArray[Any]:
    tensor, known = tensors.get("observation"), spec.observation
    if tensor is None:
        raise wrong("observation", "is missing")
    rows = tensor.shape[0] if len(tensor.shape) == 1 + len(known.shape) else 1
    if not 1 <= rows <= max_rows:
        raise wrong("observation", f"a request has 1 to {max_rows} rows, got {rows}")
    observation = read_tensor(tensor, datatype_of(known.dtype), (rows, *known.shape))
    if (place := known.find_wrong(observation)) is not None:
        raise wrong("observation", f"must hold {known.values}, and {list(place)} is {observation[place]}")
    return observation


def _finite(tensor: InputTensor | None, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    if tensor is None:
        return None
    array = read_tensor(tensor, "FP32", shape)
    if not np.isfinite(array).all():
        raise wrong(tensor.name, "must hold finite numbers")
    return array


def _outputs(names: Sequence[str], spec: PolicySpec) -> Sequence[str]:
    if not names:
        return _DEFAULT_OUTPUTS
    known = [output.name for output in describe_outputs(spec)]
    for name in names:
        if name == "value" and not spec.value_head:
            raise wrong("outputs", "this policy has no value head, and so no value")
        if name not in known:
            raise wrong("outputs", f"{shown(name)} is none; there are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise wrong("outputs", "a name occurs twice")
    return names


def _parameters(given: Mapping[str, Parameter]) -> tuple[bool, int | None, float | None]:
    if len(given) > MOST_PARAMETERS:
        raise wrong("parameters", f"a request has at most {MOST_PARAMETERS}, got {len(given)}")
    for name in set(given).difference(PARAMETERS):
        if meant := get_close_matches(name[:_LONGEST_NAME].lower(), PARAMETERS, 1, _ALIKE):
            raise wrong("parameters", f"{shown(name)} is none: did you mean {meant[0]}?")
    greedy, seed, timeout = _flag(given, "greedy"), given.get("seed"), given.get("timeout", 0)
    if seed is not None and not _is_count(seed):
        raise wrong("seed", f"must be a whole number from 0 to 2**63 - 1, got {shown(seed)}")
    if not _is_count(timeout):
        raise wrong("timeout", f"must be a whole number of microseconds, got {shown(timeout)}")
    return greedy, seed, timeout / 1e6 if timeout else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _seeds(tensor: InputTensor | None, seed: int | None, rows: int) -> Sequence[int] | None:
    if tensor is None:
        return None if seed is None else (seed,)
    if seed is not None:
        raise wrong("seed", "is given as an input and as a parameter: leave one of them out")
    seeds = read_tensor(tensor, "INT64", (rows,))
    if seeds.min() < 0:
        raise wrong("seed", f"must be from 0 to 2**63 - 1, got {seeds.min()}")
    numbers: list[int] = seeds.tolist()
    return numbers
