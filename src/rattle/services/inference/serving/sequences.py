"""Sequences of requests: what each of them remembers, in a bounded table. The time is told, not read."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.policies.spec import PolicySpec
from rattle.services.inference.serving.tensors import shown
from rattle.wire.problems import RequestError


class SequenceStep(NamedTuple):
    """What a request says of the sequence that it belongs to."""

    id: int | str
    starts: bool
    ends: bool


@dataclass(eq=False, slots=True)
class Sequence:
    """What a sequence remembers, and how many requests of it are answered or wait, one after another."""

    spec: PolicySpec  # of the policy that remembers
    state: NDArray[np.float32] | None = None  # (1, memory_size) after the last request; None: it has not begun
    used: float = 0.0  # when its last request was over
    requests: int = 0
    line: asyncio.Lock = field(default_factory=asyncio.Lock)

    def recall(self, step: SequenceStep, spec: PolicySpec) -> NDArray[np.float32] | None:
        """Return what the policy that is served remembers, None where a request starts the sequence.

        Raises RequestError, and forgets the sequence, where it was another policy that remembered.
        """
        if step.starts:
            return None
        if self.state is None:
            raise _unknown(step)
        if self.spec is not spec and self.spec != spec:
            self.state = None
            raise RequestError(
                "replaced",
                f"sequence_id: the policy became another one, which cannot continue sequence {shown(step.id)}: "
                "restart it with sequence_start",
                "sequence_id",
            )
        return self.state

    def remember(self, step: SequenceStep, spec: PolicySpec, state: NDArray[np.float32]) -> None:
        """Keep what a request leaves behind, which is nothing where it ends the sequence."""
        self.spec, self.state = spec, None if step.ends else state.copy()  # a view would keep its whole pass


class SequenceTable:
    """The sequences of all models; used by one event loop.

    A sequence is kept from the request that starts it until one that ends it is answered, or until it has been idle for
    so many seconds. `expired` is then called with its model's name.
    """

    def __init__(
        self,
        max_sequences: int,
        max_bytes: int,
        seconds: float,
        clock: Callable[[], float],
        expired: Callable[[str], None],
    ) -> None:
        self._max_sequences = max_sequences
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._expired = expired
        self._busy: dict[tuple[str, int | str], Sequence] = {}
        self._idle: OrderedDict[tuple[str, int | str], Sequence] = OrderedDict()  # that idle for longest first
        self._bytes = 0  # that all of them remember
        self._counts: Counter[str] = Counter()

    def counts(self) -> Mapping[str, int]:
        """Return how many sequences are kept, of every model that has had any."""
        self._expire()
        return self._counts

    @asynccontextmanager
    async def turn(self, model: str, step: SequenceStep, spec: PolicySpec) -> AsyncIterator[Sequence]:
        """Give a request its sequence, to overwrite, when those of the same sequence that came before it are over.

        `spec` is of the policy that is served now. Raises RequestError where there is no such sequence, or no room.
        """
        self._expire()
        key = model, step.id
        sequence = self._enter(key, step, spec)
        try:
            async with sequence.line:
                size = _size(sequence.spec)
                try:
                    yield sequence
                finally:
                    self._bytes += _size(sequence.spec) - size
        finally:
            self._leave(key, sequence)

    def _enter(self, key: tuple[str, int | str], step: SequenceStep, spec: PolicySpec) -> Sequence:
        sequence = self._busy.get(key) or self._idle.get(key)
        if step.starts:
            self._check_room(sequence, _size(spec))
        if sequence is None:
            if not step.starts:
                raise _unknown(step)
            sequence = Sequence(spec)
            self._counts[key[0]] += 1
            self._bytes += _size(spec)
        self._idle.pop(key, None)
        self._busy[key] = sequence
        sequence.requests += 1
        return sequence

    def _leave(self, key: tuple[str, int | str], sequence: Sequence) -> None:
        sequence.requests -= 1
        if sequence.requests:
            return
        del self._busy[key]
        if sequence.state is None:
            self._forget(key, sequence)
        else:
            sequence.used = self._clock()
            self._idle[key] = sequence

    def _check_room(self, sequence: Sequence | None, size: int) -> None:
        """Raise RequestError where a sequence, new or not, may not begin to remember so many bytes."""
        held = 0 if sequence is None else _size(sequence.spec)
        number = len(self._busy) + len(self._idle)
        if (sequence is None and number >= self._max_sequences) or self._bytes - held + size > self._max_bytes:
            raise RequestError(
                "full",
                f"{number} sequences remember {self._bytes} bytes; at most {self._max_sequences} may be, of "
                f"{self._max_bytes} bytes: end some with sequence_end, or try again in a while",
            )

    def _expire(self) -> None:
        until = self._clock() - self._seconds
        while self._idle:
            key, sequence = next(iter(self._idle.items()))
            if sequence.used > until:
                return
            del self._idle[key]
            self._forget(key, sequence)
            self._expired(key[0])

    def _forget(self, key: tuple[str, int | str], sequence: Sequence) -> None:
        self._counts[key[0]] -= 1
        self._bytes -= _size(sequence.spec)


def _size(spec: PolicySpec) -> int:
    """Return how many bytes a sequence of a policy remembers."""
    return 4 * spec.memory_size


def _unknown(step: SequenceStep) -> RequestError:
    return RequestError(
        "unknown_sequence",
        f"sequence_id: sequence {shown(step.id)} is not kept here: it has not begun, it has ended, it was idle for too "
        "long, or the service was started again; restart it with sequence_start",
        "sequence_id",
    )
