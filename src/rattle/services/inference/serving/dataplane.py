"""The use cases of serving: both faces convert to them and from them, and know nothing of each other."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from rattle import __version__
from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.checking import (
    check,
    describe_inputs,
    describe_outputs,
    most_numbers,
    sequence_of,
)
from rattle.services.inference.serving.messages import InferRequest, InferResponse, ModelMetadata, ServerMetadata
from rattle.services.inference.serving.model_runner import ModelOutputs, ModelRunner, PendingRequest
from rattle.services.inference.serving.models import Models, Served
from rattle.services.inference.serving.sequences import SequenceTable
from rattle.services.inference.serving.tensors import OutputTensor
from rattle.wire.problems import RequestError

_SERVER = ServerMetadata("rattle", __version__, ("binary_tensor_data", "parameters", "sequence", "sequence(string_id)"))


def never() -> bool:
    """Say of a caller that cancels what it gives up that it has not."""
    return False


class DataPlane:
    """Answers requests with the forward passes of what is served."""

    def __init__(self, models: Models, metrics: InferenceMetrics, max_rows: int, sequences: SequenceTable) -> None:
        self._models = models
        self._metrics = metrics
        self._max_rows = max_rows
        self._sequences = sequences
        self._passes: dict[str, ModelRunner] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="forward-pass")
        self._is_open = True

    def close(self) -> None:
        """Take no more requests; those that wait are answered."""
        self._is_open = False

    def is_ready(self) -> bool:
        """Whether requests are welcome and something is served."""
        return self._is_open and bool(self._models.all())

    def check_ready(self) -> None:
        """Raise RequestError unless requests are welcome and something is served."""
        if not self._is_open:
            raise RequestError("shutting_down", "the service is stopping")
        if not self._models.all():
            raise RequestError("starting", "the service is starting: no policy has come yet")

    def check_model_ready(self, name: str, version: str) -> None:
        """Raise RequestError unless requests to a model are welcome."""
        self.check_ready()
        self._models.get(name, version)

    def server_metadata(self) -> ServerMetadata:
        """Return what the server is."""
        return _SERVER

    def model_metadata(self, name: str, version: str) -> ModelMetadata:
        """Return what a model takes and gives; raises RequestError where there is no such model or version."""
        return _described(self._models.get(name, version))

    def listing(self) -> list[ModelMetadata]:
        """Return what all models take and give, by name."""
        return [_described(served) for served in self._models.all()]

    def most_numbers(self, name: str, version: str) -> int:
        """Return how many numbers a request to a model has at most; raises RequestError as `infer` would."""
        self.check_ready()
        return most_numbers(self._models.get(name, version).spec, self._max_rows)

    def most_numbers_of_all(self) -> int:
        """Return how many numbers a request to any model has at most."""
        return max((most_numbers(served.spec, self._max_rows) for served in self._models.all()), default=0)

    async def infer(
        self, request: InferRequest, seconds: float | None, is_given_up: Callable[[], bool] = never
    ) -> InferResponse:
        """Answer a request; raises RequestError when it cannot be answered, or not in the time that the caller has.

        A request of a sequence waits for those that came before it. One that is refused leaves its sequence as it was.
        """
        self.check_ready()
        limit = asyncio.get_running_loop().time(), seconds
        served = self._models.get(request.model, request.version)
        step = sequence_of(request.parameters, served.spec)
        if step is None:
            _, response = await self._answer(request, served, None, limit, is_given_up)
            return response
        async with self._sequences.turn(request.model, step, served.spec) as sequence:
            served = self._models.get(request.model, request.version)
            state = sequence.recall(step, served.spec)
            answer, response = await self._answer(request, served, state, limit, is_given_up)
            sequence.remember(step, answer.served.spec, answer.next_state)
        return response

    async def _answer(
        self,
        request: InferRequest,
        served: Served,
        state: NDArray[np.float32] | None,
        limit: tuple[float, float | None],
        is_given_up: Callable[[], bool],
    ) -> tuple[ModelOutputs, InferResponse]:
        """Return what a forward pass gives a request, whose row remembers `state` where it brings nothing itself.

        `limit` is when the request came, and how many seconds its caller has; None for as many as it takes.
        """
        arguments = request, served.spec, self._max_rows
        asked = await asyncio.to_thread(check, *arguments) if request.slow else check(*arguments)
        began, own = limit
        limits = [each for each in (own, asked.seconds) if each is not None]
        question = PendingRequest(
            served,
            bool(request.version),
            asked.observation,
            _told(served, asked.state if state is None else state, asked.reward),
            asked.drawing,
            began + min(limits, default=math.inf),
            is_given_up,
        )
        answer = await self._passes_of(request.model).answer(question)
        outputs = [OutputTensor(name, answer.tensor(name)) for name in asked.outputs]
        parameters = {} if asked.fresh_seed is None else {"seed": asked.fresh_seed}
        return answer, InferResponse(request.model, answer.served.version, outputs, parameters)

    def versions(self) -> dict[str, int]:
        """Return the policy version of every model."""
        return {served.name: served.policy.version for served in self._models.all()}

    def waiting_rows(self) -> dict[str, int]:
        """Return how many rows wait for a forward pass, of every model."""
        return {name: passes.joiner.rows for name, passes in self._passes.items()}

    def running_rows(self) -> dict[str, int]:
        """Return how many rows the forward pass that runs has, of every model; 0 where none runs."""
        return {name: passes.joiner.running_rows for name, passes in self._passes.items()}

    def _passes_of(self, name: str) -> ModelRunner:
        passes = self._passes.get(name)
        if passes is None:
            passes = self._passes[name] = ModelRunner(self._models, name, self._max_rows, self._threads, self._metrics)
        return passes


def _told(
    served: Served, state: NDArray[np.float32] | None, reward: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """Return what rows remember, with the rewards of the last tick; both stay as they are."""
    if state is None or reward is None:
        return state
    told = state.copy()
    served.acting.own.rewarded(told, reward)
    return told


def _described(served: Served) -> ModelMetadata:
    inputs, outputs = describe_inputs(served.spec), describe_outputs(served.spec)
    return ModelMetadata(served.name, [served.version], "rattle", inputs, outputs)
