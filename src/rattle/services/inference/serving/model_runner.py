"""Forward passes of joined requests: the arithmetic, and the event loop around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.events import emit, of_services
from rattle.policies.sampling import Groups, draw
from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.batching import DynamicBatcher
from rattle.services.inference.serving.checking import Sampling
from rattle.services.inference.serving.models import Models, Served
from rattle.wire.problems import RequestError

#: Passes of more multiplications, which take longer than about a millisecond, get a thread and hold nobody up.
_QUICK = 16_000_000
#: A pass begins after so many turns of the event loop that have brought no request. No turn waits for anything, so all
#: of them take some 20 microseconds; gRPC brings a request a turn at most, and has turns in between that bring none.
_QUIET_TURNS = 5
#: It begins after so many turns in any case.
_TURNS = 100


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A valid request: rows, and what is asked of them."""

    served: Served  # what it was checked against
    is_pinned: bool  # to just this version
    observation: NDArray[Any]
    state: NDArray[np.float32] | None  # what each row remembers; None: nothing, or no memory
    drawing: Sampling | None  # None: no actions are wanted
    deadline: float  # by the clock of the event loop
    is_given_up: Callable[[], bool]
    answer: asyncio.Future[ModelOutputs] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def rows(self) -> int:
        """Return how many rows it brings."""
        return len(self.observation)


class ModelOutputs(NamedTuple):
    """What a pass gives one request: arrays of its rows, and which version gave them."""

    served: Served
    outputs: NDArray[np.float32]
    value: NDArray[np.float32]
    action: NDArray[Any] | None  # within their bounds
    log_prob: NDArray[np.float32] | None
    next_state: NDArray[np.float32]  # of no columns without memory

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a tensor by the name that `describe_outputs` gives it."""
        space = self.served.spec.action
        array: NDArray[Any] = space.part(name, self.outputs) if name in space.parts else getattr(self, name)
        return array


class Computed(NamedTuple):
    """The answers of one pass, and how long they took."""

    answers: list[ModelOutputs]
    seconds: float


def compute(served: Served, questions: Sequence[PendingRequest]) -> Computed:
    """Answer several requests with one forward pass; each gets what it would get alone, to the bit."""
    began = time.perf_counter()
    if not questions:
        return Computed([], 0.0)
    observation = np.concatenate([question.observation for question in questions])
    state = _remembered(served, questions)
    outputs, value = served.acting.forward(observation, state)
    action = log_prob = None
    if any(question.drawing is not None for question in questions):
        drawn, log_prob = draw(served.spec.action, outputs, _groups(questions))
        action = served.spec.action.bound(drawn)
        served.acting.own.acted(state, drawn)
    answers, last = [], 0
    for question in questions:
        here = slice(last, last + question.rows)
        last = here.stop
        answers.append(
            ModelOutputs(
                served,
                outputs[here],
                value[here],
                None if action is None else action[here],
                None if log_prob is None else log_prob[here],
                state[here],
            )
        )
    return Computed(answers, time.perf_counter() - began)


def _remembered(served: Served, questions: Sequence[PendingRequest]) -> NDArray[np.float32]:
    """Return what the rows of all requests remember, zeros where a request brings nothing."""
    size = served.spec.memory_size
    states = [np.zeros((each.rows, size), np.float32) if each.state is None else each.state for each in questions]
    return np.concatenate(states)


def _groups(questions: Sequence[PendingRequest]) -> Groups:
    rows: list[int] = []
    seeds: list[int] = []
    greedy: list[bool] = []
    for question in questions:
        drawing = question.drawing or Sampling((0,), greedy=True)
        count = len(drawing.seeds)
        rows += [question.rows // count] * count
        seeds += drawing.seeds
        greedy += [drawing.greedy] * count
    return Groups(np.array(rows), np.array(seeds, np.uint64), np.array(greedy))


class ModelRunner:
    """The forward passes of one model, one at a time, in the event loop or in a thread."""

    def __init__(self, models: Models, name: str, max_rows: int, threads: Executor, metrics: InferenceMetrics) -> None:
        self.joiner: DynamicBatcher[PendingRequest] = DynamicBatcher(max_rows)
        self._models = models
        self._name = name
        self._threads = threads
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._turns = 0  # since the pass is due, 0 where none is
        self._quiet_turns = 0  # of these, the last that have brought no request
        self._gathered = 0  # requests that waited after the last turn

    async def answer(self, question: PendingRequest) -> ModelOutputs:
        """Return the answer of a request; raises RequestError when it cannot be had, or not in time."""
        if not self.joiner.fits(question):
            self._refuse_useless()
        self.joiner.add(question)
        if not self.joiner.running:
            self._start_soon()
        try:
            return await question.answer
        finally:
            self.joiner.remove(question)  # it still waits where this task has been cancelled

    def _start_soon(self) -> None:
        """Begin a pass when the requests that come together with this one have been read, too."""
        if not self._turns:
            self._turns, self._quiet_turns, self._gathered = 1, 0, len(self.joiner)
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        gathered = len(self.joiner)
        self._quiet_turns = 0 if gathered > self._gathered else self._quiet_turns + 1
        self._gathered = gathered
        if self._quiet_turns < _QUIET_TURNS and self._turns < _TURNS:
            self._turns += 1
            self._loop.call_soon(self._turn)
        else:
            self._turns = 0
            self._start()

    def _start(self) -> None:
        self._refuse_useless()
        taken = self.joiner.take()
        if not taken:
            return
        served = self._models.get(self._name)
        questions = [question for question in taken if _is_still_right(question, served)]
        if sum(question.rows for question in questions) * served.row_work <= _QUICK:
            self._finish(questions, partial(compute, served, questions))
        else:
            running = self._loop.run_in_executor(self._threads, compute, served, questions)
            running.add_done_callback(lambda done: self._finish(questions, done.result))

    def _finish(self, questions: Sequence[PendingRequest], computed: Callable[[], Computed]) -> None:
        try:
            answers, seconds = computed()
        except Exception as error:  # whatever it is, it ends the requests of this pass and nothing else
            emit(of_services.ForwardPassFailed(model=self._name), error=error)
            for question in questions:
                _refuse(question, RequestError("internal", "the forward pass has failed"))
        else:
            for question, answer in zip(questions, answers, strict=True):
                if not question.answer.done():
                    question.answer.set_result(answer)
            if questions:
                rows = sum(question.rows for question in questions)
                self._metrics.forward_pass(self._name, len(questions), rows, seconds)
        self.joiner.finish()
        if self.joiner:
            self._start_soon()

    def _refuse_useless(self) -> None:
        for question in self.joiner.remove_useless(self._loop.time()):
            _refuse(question, RequestError("too_late", "the time for this request was over before it was computed"))


def _is_still_right(question: PendingRequest, served: Served) -> bool:
    """Return whether a question may be asked of the version that is served now; refuse it if not."""
    if question.served is served:
        return True
    if question.is_pinned and question.served.version != served.version:
        was, name = question.served.version, served.name
        _refuse(question, RequestError("replaced", f"model_version: {was} of model '{name}' has been replaced"))
    elif question.served.spec != served.spec:
        _refuse(question, RequestError("replaced", f"model '{served.name}' is another policy now: try again"))
    return not question.answer.done()


def _refuse(question: PendingRequest, error: RequestError) -> None:
    if not question.answer.done():
        question.answer.set_exception(error)
