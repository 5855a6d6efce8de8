"""Reading a server's answers into arrays, and holding them to what the server said it serves.

Nothing that a server answers is believed: compiled code uses observations as indices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any, NoReturn, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.clients.errors import ClientError
from rattle.envs.errors import EnvironmentFailed
from rattle.envs.vector import EnvironmentSpec
from rattle.wire import encoding
from rattle.wire.arrays import NAMES, Array, unpack
from rattle.wire.problems import RequestError
from rattle.wire.vector import EndedSlots, Environment, ResetAnswer, SessionCreated, StepAnswer, environment_spec

Answer = TypeVar("Answer", bound=msgspec.Struct)

#: What to say to a server of the vector API that has one of its two encodings.
ONLY_JSON = (
    "the server speaks JSON only: worlds are played in MessagePack, which it must read and answer for "
    "application/msgpack (docs/env-api.md, Encodings)"
)
_INT32 = np.dtype(np.int32)


class WrongAnswer(ClientError):
    """A server answered something that its own description rules out."""


def decode(body: bytes, answer: type[Answer]) -> Answer:
    """Return a body as an answer; raises WrongAnswer."""
    try:
        return encoding.msgpack.decode(body, answer)
    except RequestError as error:
        if body.lstrip()[:1] == b"{":  # no object in MessagePack begins so
            raise WrongAnswer(ONLY_JSON) from None
        _wrong(str(error))


def read_spec(answer: Environment | SessionCreated) -> EnvironmentSpec:
    """Return the environment that an answer describes; raises WrongAnswer."""
    try:
        return environment_spec(answer)
    except ValueError as error:
        _wrong(str(error))


class SlotArrays:
    """The arrays of B slots, filled from answers."""

    def __init__(self, spec: EnvironmentSpec, num_worlds: int) -> None:
        space = spec.observation_space
        slots = num_worlds * spec.agents_per_world
        self.spec = spec
        self.num_slots = slots
        self.first_world = 0  # the number of the first world here, for messages
        self._space = space
        self.observation: NDArray[Any] = space.zeros(slots)
        self.reward = np.zeros(slots, np.float32)
        self.terminated = np.zeros(slots, np.bool_)
        self.truncated = np.zeros(slots, np.bool_)
        self.active = np.ones(slots, np.bool_)
        self.final_observation = np.zeros_like(self.observation)
        self.final_metrics: Mapping[str, NDArray[np.int32]] = {name: np.zeros(slots, np.int32) for name in spec.metrics}
        self.episode = np.zeros(num_worlds, np.uint32)

    def part(self, first_world: int, last_world: int) -> SlotArrays:
        """Return the arrays of some worlds, which share the memory of these."""
        part = copy(self)
        worlds = slice(first_world, last_world)
        slots = slice(first_world * self.spec.agents_per_world, last_world * self.spec.agents_per_world)
        part.num_slots = slots.stop - slots.start
        for name in ("observation", "reward", "terminated", "truncated", "active", "final_observation"):
            setattr(part, name, getattr(self, name)[slots])
        part.final_metrics = {name: values[slots] for name, values in self.final_metrics.items()}
        part.episode = self.episode[worlds]
        return part

    def begin_anew(self, answer: ResetAnswer) -> None:
        """Take in the beginning of other worlds in place of lost ones, whose episodes show as cut where they stood."""
        self.final_observation[:] = self.observation
        lost = self.active.copy()
        self.begin(answer)
        self.truncated[:] = lost

    def begin(self, answer: ResetAnswer) -> None:
        """Take in what a reset answers; raises WrongAnswer and may then hold a part of it."""
        self._take_in(answer)
        for array in (self.reward, self.terminated, self.truncated, *self.final_metrics.values()):
            array[:] = 0

    def advance(self, answer: StepAnswer) -> None:
        """Take in what a step answers; raises WrongAnswer and may then hold a part of it."""
        self._take_in(answer)
        _fill(self.reward, answer.reward, "reward")
        self._check_finite(self.reward, "reward", answer.step)
        _fill_bool(self.terminated, answer.terminated, "terminated")
        _fill_bool(self.truncated, answer.truncated, "truncated")
        ended = np.flatnonzero(self.terminated | self.truncated)
        slots = _read(answer.ended.slots, "ended.slots", _INT32, (len(ended),))
        if len(ended):
            self._end(ended, slots, answer.ended, answer.step)

    def _take_in(self, answer: ResetAnswer | StepAnswer) -> None:
        _fill(self.observation, answer.observation, "observation")
        self._check_observation(self.observation, "observation", answer.step)
        _fill_bool(self.active, answer.active, "active")
        _fill(self.episode, answer.episode, "episode")

    def _end(self, ended: NDArray[np.intp], slots: NDArray[np.int32], answer: EndedSlots, step: int) -> None:
        if not np.array_equal(slots, ended):
            _wrong("ended.slots are not the slots that are terminated or truncated, in order")
        if (self.terminated & self.truncated).any():
            _wrong("terminated and truncated are both true for a slot")
        shape = (len(ended), *self.observation.shape[1:])
        seen = _read(answer.observation, "ended.observation", self.observation.dtype, shape)
        self._check_observation(seen, "ended.observation", step, slots)
        self.final_observation[ended] = seen
        for name, values in self.final_metrics.items():
            if name not in answer.metrics:
                _wrong(f"ended.metrics lacks '{name}'")
            values[ended] = _read(answer.metrics[name], f"ended.metrics.{name}", _INT32, (len(ended),))

    def _check_observation(
        self, observation: NDArray[Any], field: str, step: int, slots: NDArray[np.int32] | None = None
    ) -> None:
        if observation.dtype.kind == "f":
            self._check_finite(observation, field, step, slots)
        elif (place := self._space.find_wrong(observation)) is not None:
            _wrong(f"{field} must hold {self._space.values}, and {list(place)} is {observation[place]}")

    def _check_finite(
        self, numbers: NDArray[Any], field: str, step: int, slots: NDArray[np.int32] | None = None
    ) -> None:
        """Raise EnvironmentFailed that names the world and the agent of the first number that is not finite.

        `slots` are those of the rows, None where every slot has one.
        """
        finite = np.isfinite(numbers)
        if finite.all():
            return
        row = int(np.argwhere(~finite)[0][0])
        world, agent = divmod(row if slots is None else int(slots[row]), self.spec.agents_per_world)
        whose = f", agent {agent}" if self.spec.agents_per_world > 1 else ""
        raise EnvironmentFailed(
            f"'{self.spec.id}', world {self.first_world + world}{whose}: {field} of step {step} is not finite, or too "
            "large for float32"
        )


def read_metrics(arrays: Mapping[str, Array], like: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
    """Return metrics so far; raises WrongAnswer for missing ones and wrong arrays."""
    if missing := like.keys() - arrays.keys():
        _wrong(f"metrics lacks {', '.join(sorted(missing))}")
    return {
        name: _read(arrays[name], f"metrics.{name}", values.dtype, values.shape).copy() for name, values in like.items()
    }


def read_state(arrays: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Return a stored state's arrays, writable copies; raises WrongAnswer."""
    try:
        return {name: unpack(array, f"state.{name}").copy() for name, array in arrays.items()}
    except RequestError as error:
        _wrong(str(error))


def _fill(target: NDArray[Any], array: Array, field: str) -> None:
    target[...] = _read(array, field, target.dtype, target.shape)


def _fill_bool(target: NDArray[np.bool_], array: Array, field: str) -> None:
    """Fill with booleans; a byte other than 0 and 1 would be neither true nor false."""
    values = _read(array, field, target.dtype, target.shape).view(np.uint8)
    if values.size and values.max() > 1:
        _wrong(f"{field} holds bytes other than 0 and 1")
    target.view(np.uint8)[...] = values


def _read(array: Array, field: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array's values where it has the type and shape that it must have."""
    if array.dtype != NAMES[dtype] or array.shape != shape or len(array.data) != math.prod(shape) * dtype.itemsize:
        _wrong(f"{field} must be {NAMES[dtype]} {list(shape)}, got {array.dtype} {list(array.shape)}")
    return np.frombuffer(array.data, dtype).reshape(shape)


def _wrong(what: str) -> NoReturn:
    raise WrongAnswer(f"the server's answer does not fit what it serves: {what}. 'rattle check-env' tells more")
