"""A worker process: it holds a batch of worlds, steps it when told to, and shows in shared memory the result."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from numpy.typing import NDArray
from setproctitle import setproctitle

from rattle.envs.errors import EnvError
from rattle.envs.logged_worlds import LoggedWorlds
from rattle.envs.registry import make_worlds
from rattle.envs.user_worlds import find_class
from rattle.envs.vector import VectorWorlds
from rattle.extensions import FOREIGN_ERRORS, what
from rattle.wire import encoding
from rattle.wire.arrays import pack, unpack
from rattle.wire.vector import describe
from rattle.workers.memory import map_arrays
from rattle.workers.messages import (
    ANSWER,
    DONE,
    FAILED,
    STEP,
    Answer,
    Begin,
    Begun,
    Failure,
    Request,
    read,
    write,
)

_PR_SET_PDEATHSIG = 1  # of sys/prctl.h

#: Characters of a traceback that are told.
_MOST_TRACED = 20_000


class _Hosted:
    """The worlds of this process, and the arrays that they are shown in."""

    def __init__(self, begin: Begin, shared: Mapping[str, NDArray[Any]]) -> None:
        self._begin = begin
        self.worlds = worlds = _make(begin)
        self._action = shared["action"]
        names = ("observation", "reward", "terminated", "truncated", "active", "episode")
        self._shown = [(shared[name], getattr(worlds, name)) for name in names]
        self._shown += [(shared[f"metrics/{name}"], values) for name, values in worlds.metrics.items()]
        self._final = [(shared["final_observation"], worlds.final_observation)]
        self._final += [(shared[f"final_metrics/{name}"], values) for name, values in worlds.final_metrics.items()]
        self._at = shared["at"][0]
        self._take = worlds.step
        if isinstance(worlds, LoggedWorlds):
            worlds.watch(self._note)
            self._take = worlds.take  # the process that sends actions has checked them
        self._show()

    def _note(self, world: int) -> None:
        self._at[0] += 1
        self._at[1] = world

    def _show(self) -> None:
        for target, source in self._shown:
            target[...] = source
        self._at[1] = -1

    def step(self) -> None:
        """Make a tick with the actions in shared memory."""
        self._take(self._action)
        if self.worlds.terminated.any() or self.worlds.truncated.any():
            for target, source in self._final:
                target[...] = source
        self._show()

    def answer(self, request: Request) -> Answer:
        """Do anything else."""
        worlds = self.worlds
        if request.do == "state":
            return Answer(state={name: pack(array) for name, array in worlds.state().items()})
        if request.do == "snapshot":
            return Answer(snapshot=worlds.snapshot(request.world))
        if request.do == "restore":
            worlds.restore({name: unpack(array, name).copy() for name, array in request.state.items()})
        else:
            worlds.reset(request.seed)
        self._show()
        return Answer()


def _make(begin: Begin) -> VectorWorlds:
    own = find_class(begin.environment)
    if own is not None and own.sha256 != begin.code:
        raise EnvError(f"'{begin.environment}' has changed since the worlds were made: begin again with the new code")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the process that started this one has made a world, and has warned
        worlds = make_worlds(
            begin.environment,
            begin.settings,
            begin.num_worlds,
            begin.seed,
            begin.first_world,
            vector=begin.vector,
        )
    if begin.episodes is not None:
        worlds.episode[:] = begin.episodes
        worlds.reset()
    return worlds


def _serve(channel: int, hosted: _Hosted) -> None:
    """Do what is asked for until nobody asks any more."""
    while command := os.read(channel, 1):
        try:
            if command == STEP:
                hosted.step()
                os.write(channel, DONE)
            else:
                write(channel, ANSWER, hosted.answer(read(channel, Request)))
        except FOREIGN_ERRORS as error:
            _say_failed(channel, hosted.worlds.spec.id, error)


def _say_failed(channel: int, environment: str, error: BaseException) -> None:
    trace = "".join(traceback.format_exception(error))[-_MOST_TRACED:]
    if isinstance(error, EnvError):
        failure = Failure(type(error).__name__, str(error), trace)
    else:
        failure = Failure("EnvError", f"'{environment}': {what(error)}", trace)
    write(channel, FAILED, failure)


def die_with(parent: int) -> None:
    """End when the process that started this one has ended, whatever is being done then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def main() -> None:
    """Make worlds and step them until the process that started this one closes the socket."""
    channel, memory, parent = (int(given) for given in sys.argv[1:])
    die_with(parent)
    try:
        begin = read(channel, Begin)
        sys.path[:] = begin.path
        last = begin.first_world + begin.num_worlds - 1
        setproctitle(f"rattle (worlds {begin.first_world} to {last} of {begin.environment})")
        shared = map_arrays(memory, begin.memory_bytes, begin.places)
        os.close(memory)
        try:
            hosted = _Hosted(begin, shared)
        except FOREIGN_ERRORS as error:
            _say_failed(channel, begin.environment, error)
            return
        with closing(hosted.worlds):
            description = encoding.msgpack.encode(describe(hosted.worlds.spec))
            write(channel, ANSWER, Begun(description, isinstance(hosted.worlds, LoggedWorlds)))
            _serve(channel, hosted)
    except (EOFError, ConnectionError):  # nobody is there any more
        pass


if __name__ == "__main__":
    main()
