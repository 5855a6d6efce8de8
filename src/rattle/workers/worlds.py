"""Worlds in worker processes, behind the vector protocol."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import CannotReplay, EnvError, EnvironmentFailed, WorldsLost
from rattle.envs.logged_worlds import join_states, split_state
from rattle.envs.seeds import check_seed
from rattle.envs.user_worlds import find_class
from rattle.envs.vector import EnvironmentSpec, Vector, check_actions
from rattle.events import emit, of_runs
from rattle.wire import encoding
from rattle.wire.arrays import pack, unpack
from rattle.wire.vector import describe
from rattle.workers.memory import allocate, map_arrays, open_memory, rows
from rattle.workers.messages import Answer, Begin, Begun, Request
from rattle.workers.process import Worker, WorkerGone


class WorkerWorlds:
    """W worlds in several worker processes; implements `rattle.envs.vector.VectorWorlds` and `AsyncVectorWorlds`.

    Each worker has about as many worlds as the others. World i of a seed plays the same episodes as in this process.
    `spec` is what one world in this process has said of itself. A worker that ends, or makes no tick of a world for
    `answer_seconds`, is started again, and WorldsLost raised: its worlds have begun their next episodes then.

    Raises EnvError for what an environment raises, in the words that it would have in this process, and
    EnvironmentFailed when workers end again and again while their worlds begin.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        num_worlds: int,
        seed: int,
        first_world: int = 0,
        *,
        processes: int,
        answer_seconds: float = 30.0,
        vector: Vector = "never",
    ) -> None:
        self.spec = spec
        self.num_worlds = num_worlds
        self.num_slots = slots = num_worlds * spec.agents_per_world
        self.first_world = first_world
        self.seed = check_seed(seed)
        self.processes = min(processes, num_worlds)  # none once they are closed
        self._answer_seconds, self._vector = answer_seconds, vector
        processes = self.processes
        bounds = [num_worlds * number // processes for number in range(processes + 1)]
        self._parts = [range(first, after) for first, after in pairwise(bounds)]
        self._under_way = False  # a step that nobody has waited for
        own = find_class(spec.id)
        self._code = None if own is None else own.sha256
        self._places, self._memory_bytes = allocate(_arrays(spec, num_worlds, slots, processes))
        self._memory = open_memory(self._memory_bytes)
        shared = map_arrays(self._memory, self._memory_bytes, self._places)
        self.observation: NDArray[Any] = shared["observation"]
        self.final_observation: NDArray[Any] = shared["final_observation"]
        self.reward: NDArray[np.float32] = shared["reward"]
        self.terminated: NDArray[np.bool_] = shared["terminated"]
        self.truncated: NDArray[np.bool_] = shared["truncated"]
        self.active: NDArray[np.bool_] = shared["active"]
        self.episode: NDArray[np.uint32] = shared["episode"]
        self.metrics: Mapping[str, NDArray[np.int32]] = {one: shared[f"metrics/{one}"] for one in spec.metrics}
        self.final_metrics: Mapping[str, NDArray[np.int32]] = {
            one: shared[f"final_metrics/{one}"] for one in spec.metrics
        }
        self._action = shared["action"]
        self._at = shared["at"]  # (processes, 2): how often a world was started or stepped, and which one is just now
        self._workers: list[Worker] = []
        try:
            self._workers.extend(self._start(number, None) for number in range(processes))
            begun = [self._begun(number) for number in range(processes)]
        except BaseException:
            self.close()
            raise
        self._joins = all(one.joins for one in begun)

    def _start(self, number: int, episodes: list[int] | None) -> Worker:
        """Start the worker of a part; raises EnvError where that cannot be."""
        part, agents = self._parts[number], self.spec.agents_per_world
        of_worlds, of_worker = range(part.start, part.stop), range(number, number + 1)
        of_slots = range(part.start * agents, part.stop * agents)
        which = {"episode": of_worlds, "at": of_worker}
        begin = Begin(
            environment=self.spec.id,
            settings=dict(self.spec.settings),
            num_worlds=len(part),
            seed=self.seed,
            first_world=self.first_world + part.start,
            memory_bytes=self._memory_bytes,
            places={
                name: rows(place, own.start, own.stop)
                for name, place in self._places.items()
                for own in (which.get(name, of_slots),)
            },
            path=sys.path,
            code=self._code,
            vector=self._vector,
            episodes=episodes,
        )
        try:
            return Worker(begin, self._memory)
        except OSError as error:
            raise EnvError(f"'{self.spec.id}': no worker process can be started: {error.strerror}") from None
        except TypeError as error:
            raise EnvError(f"'{self.spec.id}': its settings cannot be told to worker processes: {error}") from None

    def _begun(self, number: int) -> Begun:
        """Wait until a worker's worlds are made; raises EnvError, and EnvironmentFailed where it ends meanwhile."""
        try:
            begun = self._workers[number].receive(Begun, None, self._at[number])
        except WorkerGone as gone:
            raise EnvironmentFailed(f"{self._whose(number)} {gone} while its worlds began") from None
        assert begun is not None  # noqa: S101 - a worker says what it has made
        if begun.description != encoding.msgpack.encode(describe(self.spec)):
            raise EnvError(f"'{self.spec.id}' has other spaces or settings in worker processes than in this one")
        return begun

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""
        before = self._settle()
        if seed is not None:
            self.seed = check_seed(seed)
        self._ask([Request("reset", seed)] * len(self._workers))
        _, lost = self._receive()
        if lost := {**lost, **before}:
            emit(of_runs.WorldsLost(error=str(self._start_again(lost, from_start=seed is not None))))

    def step(self, action: NDArray[Any]) -> None:
        """Advance every world one tick with actions (B, ...); raises WorldsLost when a worker was lost meanwhile."""
        self.step_async(action)
        self.step_wait()

    def step_async(self, action: NDArray[Any]) -> None:
        """Have the workers set out; `step_wait` waits for them."""
        check_actions(action, self.num_slots, self.spec.action_space)
        if self._under_way:
            raise EnvError("a step is under way: call step_wait() before the next one begins")
        self._under_way = True
        self._action[...] = action
        for worker in self._workers:
            worker.step()

    def step_wait(self) -> None:
        """Wait for the result of the last `step_async`; raises WorldsLost as `step` does."""
        if lost := self._settle():
            raise self._start_again(lost)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that decides what follows: where parts can be joined, the state of one batch."""
        states = [_unpacked(answer) for answer in self._asked([Request("state")] * len(self._workers))]
        if self._joins:
            return join_states(states)
        return {f"{number}/{name}": array for number, state in enumerate(states) for name, array in state.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken; in any number of workers where it is the state of one batch.

        Raises EnvError when it does not fit, and CannotReplay when an environment does not repeat itself, or its states
        are of other parts; everything is then as it was.
        """
        states = self._split(state)
        before = self._asked([Request("state")] * len(self._workers))
        outcome = [array.copy() for array in (self.reward, self.terminated, self.truncated)]
        try:
            self._asked([Request("restore", state={name: pack(one[name]) for name in one}) for one in states])
        except WorldsLost:
            raise
        except EnvError:
            self._asked([Request("restore", state=answer.state) for answer in before])
            for array, value in zip((self.reward, self.terminated, self.truncated), outcome, strict=True):
                array[:] = value
            raise
        if "seed" in states[0]:
            self.seed = int(states[0]["seed"][0])

    def _split(self, state: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
        """Return the parts of a state."""
        if self._joins:
            return split_state(state, [len(part) for part in self._parts], self.spec.agents_per_world)
        parts = [f"{number}/" for number in range(len(self._parts))]
        if {name.partition("/")[0] + "/" for name in state} != set(parts):
            raise CannotReplay(
                f"the worlds of '{self.spec.id}' were stored in another number of processes than {len(parts)}, and "
                "cannot be put together: new episodes begin"
            )
        return [
            {name.removeprefix(part): array for name, array in state.items() if name.startswith(part)} for part in parts
        ]

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return one world as it stands, in plain values."""
        number = next(number for number, part in enumerate(self._parts) if world in part)
        request = Request("snapshot", world=world - self._parts[number].start)
        if not (lost := self._settle()):
            self._workers[number].ask(request)
            answers, lost = self._receive(number)
        if lost:
            raise self._start_again(lost)
        return answers[0].snapshot

    def close(self) -> None:
        """End the workers, which close their environments."""
        if self._memory < 0:
            return
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.wait()
        os.close(self._memory)
        self._memory, self.processes = -1, 0

    def _asked(self, requests: Sequence[Request]) -> list[Answer]:
        """Return what the workers answer, one request each; raises WorldsLost, and what their worlds raise."""
        if not (lost := self._settle()):
            self._ask(requests)
            answers, lost = self._receive()
        if lost:
            raise self._start_again(lost)
        return answers

    def _ask(self, requests: Sequence[Request]) -> None:
        for worker, request in zip(self._workers, requests, strict=True):
            worker.ask(request)

    def _settle(self) -> dict[int, str]:
        """Wait for the step under way, if there is one; return the workers that were lost, and how."""
        if not self._under_way:
            return {}
        self._under_way = False
        return self._receive()[1]

    def _receive(self, only: int | None = None) -> tuple[list[Answer], dict[int, str]]:
        """Return what the workers answer, and which were lost, and how; raises the first error of their worlds."""
        answers: list[Answer] = []
        lost: dict[int, str] = {}
        failure: EnvError | None = None
        for number in range(len(self._workers)) if only is None else (only,):
            try:
                answer = self._workers[number].receive(Answer, self._answer_seconds, self._at[number])
                if answer is not None:
                    answers.append(answer)
            except WorkerGone as gone:
                lost[number] = str(gone)
            except EnvError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return answers, lost

    def _start_again(self, lost: Mapping[int, str], *, from_start: bool = False) -> WorldsLost:
        """Start lost workers again, with the next episodes of their worlds or the first; return what to say of it."""
        said = "; ".join(f"{self._whose(number)} {how}" for number, how in lost.items())
        for number in lost:
            part = self._parts[number]
            self._workers[number].kill()
            self._at[number, 1] = -1
            episodes = None if from_start else self.episode[part.start : part.stop].tolist()
            self._workers[number] = self._start(number, episodes)
        for number in lost:
            self._begun(number)
        return WorldsLost(f"{said}: new episodes begin")

    def _whose(self, number: int) -> str:
        """Name a worker by its worlds, and the one that it was at."""
        part, world = self._parts[number], int(self._at[number, 1])
        first, last = self.first_world + part.start, self.first_world + part.stop - 1
        where = f", world {first + world}" if world >= 0 else ""
        worlds = f"world {first}" if first == last else f"worlds {first} to {last}"
        return f"'{self.spec.id}'{where}: the process of {worlds}"


def _unpacked(answer: Answer) -> dict[str, NDArray[Any]]:
    return {name: unpack(array, name) for name, array in answer.state.items()}


def _arrays(spec: EnvironmentSpec, worlds: int, slots: int, processes: int) -> dict[str, Any]:
    """Return shape and type of all that is shared."""
    observation, action = spec.observation_space.zeros(0), spec.action_space.zeros(0)
    flags = ((slots,), np.dtype(np.bool_))
    metrics = ((slots,), np.dtype(np.int32))
    return {
        "observation": ((slots, *observation.shape[1:]), observation.dtype),
        "final_observation": ((slots, *observation.shape[1:]), observation.dtype),
        "action": ((slots, *action.shape[1:]), action.dtype),
        "reward": ((slots,), np.dtype(np.float32)),
        "terminated": flags,
        "truncated": flags,
        "active": flags,
        "episode": ((worlds,), np.dtype(np.uint32)),
        "at": ((processes, 2), np.dtype(np.int64)),
        **{f"metrics/{name}": metrics for name in spec.metrics},
        **{f"final_metrics/{name}": metrics for name in spec.metrics},
    }
