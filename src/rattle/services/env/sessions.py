"""The vector API's use cases, sans I/O: sessions of worlds, numbered steps, expiry and limits.

Time comes in as an argument, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import CannotReplay, EnvError, WorldsLost
from rattle.envs.vector import EnvironmentSpec, VectorWorlds, check_actions
from rattle.events import emit, of_runs
from rattle.extensions import FOREIGN_ERRORS
from rattle.services.utils.budget import Shares
from rattle.text import one_line
from rattle.wire.arrays import ReusedArray
from rattle.wire.problems import RequestError
from rattle.wire.vector import SessionRequest, describe

#: (settings, worlds, seed, first world) -> worlds; raises EnvError for what cannot be made.
MakeWorlds = Callable[[Mapping[str, Any], int, int, int], VectorWorlds]
Message = dict[str, Any]
#: What a world that others wrote takes at least, next to its arrays: CartPole takes 4.6 kB, and nobody knows the rest.
_FOREIGN_BYTES = 2**13
#: A session whose WebSocket broke without a goodbye is kept for so many seconds, unless it is used again.
_BROKEN_SECONDS = 10.0
#: Owners whose lives are remembered, and lives that are over.
_MOST_LIVES = 1024
#: What a request asks for, apart from its number: equal keys mean the same request.
RequestKey = tuple[str, bytes]


class Session:
    """A batch of worlds that one client steps; every change has a number."""

    def __init__(self, session_id: str, worlds: VectorWorlds, seed: int, first_world: int, memory_bytes: int) -> None:
        self.id = session_id
        self.worlds = worlds
        self.seed = seed
        self.first_world = first_world
        self.memory_bytes = memory_bytes
        self.owner = ""
        self.life = ""
        self.peer = ""  # who asked for it
        self.used_at = 0.0
        self.sockets = 0  # WebSockets that are open
        self.lost = False  # the last WebSocket broke, and nothing has used the session since
        self.users = 0  # requests that are being answered, or wait for that
        self.broken = False  # the environment failed on the way: nobody knows what the worlds are now
        self.step_number = 0
        self._last: tuple[RequestKey, Message] | None = None
        # The worlds write into the same arrays forever: what is said about them is prepared once.
        self._seen = {name: _live(getattr(worlds, name)) for name in ("observation", "active", "episode")}
        self._outcome = {name: _live(getattr(worlds, name)) for name in ("reward", "terminated", "truncated")}

    def reset(self, number: int, seed: int | None, key: RequestKey) -> Message:
        """Start episodes again, and answer what the slots see."""
        if (stored := self._stored(number, key)) is not None:
            return stored
        checked = None if seed is None else check_seed(seed)
        self._change(lambda: self.worlds.reset(checked))
        self.seed = self.seed if checked is None else checked
        return self._done(number, key, self._beginning(number))

    def step(self, number: int, action: NDArray[Any], key: RequestKey, shown: Sequence[int] = ()) -> Message:
        """Advance every world one tick; the answer's arrays are valid until the next change.

        It holds snapshots of the worlds in `shown` too.
        """
        if (stored := self._stored(number, key)) is not None:
            return stored
        worlds = self.worlds
        try:
            check_actions(action, worlds.num_slots, worlds.spec.action_space)
        except EnvError as error:
            raise RequestError("bad_value", str(error), "action") from None
        for world in shown:
            self._check_world(world, "snapshots")
        self._change(lambda: worlds.step(action))
        ended = np.flatnonzero(worlds.terminated | worlds.truncated).astype(np.int32)
        about_ended = {
            "slots": ended,
            "observation": worlds.final_observation[ended],
            "metrics": {name: values[ended] for name, values in worlds.final_metrics.items()},
        }
        answer: Message = {"step": number, **self._seen, **self._outcome, "ended": about_ended}
        if shown:
            self._change(lambda: answer.update(snapshots=[worlds.snapshot(world) for world in shown]))
        return self._done(number, key, answer)

    def restore(self, number: int, state: Mapping[str, NDArray[Any]], key: RequestKey) -> Message:
        """Continue where a state was taken."""
        if (stored := self._stored(number, key)) is not None:
            return stored
        self._check_stores()
        try:
            self._change(lambda: self.worlds.restore(state), may_refuse=True)
        except CannotReplay as error:
            raise RequestError("cannot_replay", str(error), "state") from None
        except EnvError as error:
            raise RequestError("bad_value", str(error), "state") from None
        self.seed = int(state["seed"][0]) if "seed" in state else self.seed
        return self._done(number, key, self._beginning(number))

    def created(self) -> Message:
        """Answer what a new session is and sees."""
        own = {"session": self.id, "seed": self.seed, "first_world": self.first_world}
        return self._beginning(0) | own | describe(self.worlds.spec)

    def info(self) -> Message:
        """Answer where the session stands."""
        return {
            "session": self.id,
            "step": self.step_number,
            "seed": self.seed,
            "first_world": self.first_world,
            "worlds": self.worlds.num_worlds,
            "metrics": {name: np.ascontiguousarray(values) for name, values in self.worlds.metrics.items()},
        }

    def state(self) -> Message:
        """Answer all that decides what follows; raises RequestError where worlds cannot be stored."""
        self._check_stores()
        with self._noticing_loss():
            return {"step": self.step_number, "state": self.worlds.state()}

    def snapshot(self, world: int) -> Message:
        """Answer one world in plain values."""
        self._check_world(world, "world")
        with self._noticing_loss():
            return {"step": self.step_number, "world": world, "snapshot": self.worlds.snapshot(world)}

    def _check_stores(self) -> None:
        spec = self.worlds.spec
        if spec.batch is not None:
            raise RequestError(
                "unknown_path", f"'{spec.id}' is stepped as one batch by {spec.batch.stepped_by}: it cannot be stored"
            )

    def _check_world(self, world: int, field: str) -> None:
        last = self.worlds.num_worlds - 1
        if not 0 <= world <= last:
            raise RequestError("bad_value", f"{field}: a world's number lies between 0 and {last}, got {world}", field)

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Have a client make another session where worker processes of this one have ended."""
        try:
            yield
        except WorldsLost as loss:
            self.broken = True
            emit(of_runs.WorldsLost(error=str(loss)))
            raise RequestError("unknown_session", str(loss), "session") from None

    def _change(self, change: Callable[[], None], *, may_refuse: bool = False) -> None:
        try:
            with self._noticing_loss():
                change()
        except RequestError:
            raise
        except FOREIGN_ERRORS as failure:
            if may_refuse and isinstance(failure, EnvError):
                raise
            self.broken = True
            raise environment_failed(failure) from failure
        except BaseException:
            self.broken = True
            raise

    def _stored(self, number: int, key: RequestKey) -> Message | None:
        """Return the stored answer of a repeated request, None for the next number; raises RequestError else."""
        expected = self.step_number + 1
        if number == expected:
            return None
        if number == self.step_number and self._last is not None and self._last[0] == key:
            return self._last[1]
        what = (
            "was another request"
            if number == self.step_number and number
            else "is neither the next nor the last number"
        )
        raise RequestError("wrong_step", f"step {number} {what}: continue with {expected}", "step", expected=expected)

    def _done(self, number: int, key: RequestKey, answer: Message) -> Message:
        self.step_number = number
        self._last = (key, answer)
        return answer

    def _beginning(self, number: int) -> Message:
        return {"step": number, **self._seen}


def _live(array: NDArray[Any]) -> ReusedArray | NDArray[Any]:
    """Return an array ready to be sent often; as it is where it does not lie in one piece."""
    return ReusedArray(array) if array.flags.c_contiguous else array


@dataclass(frozen=True)
class SessionLimits:
    """What all sessions together may take."""

    sessions: int
    worlds: int
    memory_bytes: int
    unused_seconds: float


@dataclass(frozen=True)
class Promise:
    """A place that is kept for a session while its worlds are made."""

    request: SessionRequest
    seed: int
    memory_bytes: int
    peer: str


class Sessions:
    """All sessions of a server.

    A new one takes three calls: `measure`, which may take long and runs in any thread, `promise`, and `make`, which is
    slow again. What `make` returns is for `add`; where it fails, the promise goes to `take_back`.
    """

    def __init__(self, make_worlds: MakeWorlds, limits: SessionLimits) -> None:
        self._make_worlds = make_worlds
        self.limits = limits
        self._sessions: dict[str, Session] = {}
        self._lives: dict[str, str] = {}  # of every owner, the latest
        self._over: dict[tuple[str, str], None] = {}  # owners and lives after which another came
        self._places = Shares(limits.sessions, "sessions")  # those that are being made included
        self._memory_bytes = 0  # as well
        self.spec: EnvironmentSpec = self._one_world({}).spec

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_worlds(self) -> int:
        """Return the worlds of all sessions."""
        return sum(session.worlds.num_worlds for session in self._sessions.values())

    def measure(self, request: SessionRequest) -> int:
        """Return about how many bytes the worlds would take; raises RequestError for what can never be made."""
        limits = self.limits
        if request.worlds > limits.worlds:
            raise RequestError("bad_value", f"worlds must be at most {limits.worlds}, got {request.worlds}", "worlds")
        memory_bytes = _memory_bytes(self._one_world(request.options)) * request.worlds
        if memory_bytes > limits.memory_bytes:
            raise RequestError(
                "bad_value",
                f"{request.worlds} worlds take {memory_bytes:,} bytes, the server allows {limits.memory_bytes:,}",
                "worlds",
            )
        return memory_bytes

    def begin_life(self, request: SessionRequest) -> list[Session]:
        """Take out the sessions of the owner's earlier lives and return them, to be closed.

        Lives have no order but that in which they come. Raises RequestError for one after which another came.
        """
        owner, life = request.owner, request.life
        if bool(owner) != bool(life):
            missing = "life" if owner else "owner"
            raise RequestError("bad_value", f"owner and life belong together: {missing} is missing", missing)
        if not owner:
            return []
        if (owner, life) in self._over:
            raise RequestError("replaced", "a later life of this session's owner has begun: this one is over", "life")
        before = self._lives.pop(owner, life)
        self._lives[owner] = life
        if before != life:
            self._over[owner, before] = None
        if len(self._lives) > _MOST_LIVES:
            del self._lives[next(iter(self._lives))]
        if len(self._over) > _MOST_LIVES:
            del self._over[next(iter(self._over))]
        return [self._take_out(one) for one in list(self._sessions.values()) if one.owner == owner and one.life != life]

    def promise(self, request: SessionRequest, memory_bytes: int, peer: str = "") -> Promise:
        """Keep a place for a session that a peer asks for; raises RequestError when there is none."""
        seed = secrets.randbits(63) if request.seed is None else check_seed(request.seed)
        if self._memory_bytes + memory_bytes > self.limits.memory_bytes:
            raise RequestError("full", "the worlds of all sessions take too much memory: ask for fewer worlds, or wait")
        self._places.take(peer)
        self._memory_bytes += memory_bytes
        return Promise(request, seed, memory_bytes, peer)

    def make(self, promise: Promise) -> Session:
        """Make the worlds of a session, slowly, in any thread."""
        request = promise.request
        try:
            worlds = self._make_worlds(request.options, request.worlds, promise.seed, request.first_world)
        except FOREIGN_ERRORS as error:
            of_environment = (
                error.__cause__ is not None and not request.options
            )  # what a client chose may be the reason
            if isinstance(error, EnvError) and not of_environment:
                raise RequestError("bad_value", str(error), "worlds") from None
            raise environment_failed(error) from error
        session = Session(secrets.token_hex(8), worlds, promise.seed, request.first_world, promise.memory_bytes)
        session.owner, session.life, session.peer = request.owner, request.life, promise.peer
        return session

    def take_back(self, promise: Promise) -> None:
        """Give up the place of a session that could not be made."""
        self._places.give_back(promise.peer)
        self._memory_bytes -= promise.memory_bytes

    def add(self, session: Session, now: float) -> None:
        """Keep a session that `make` has made."""
        session.used_at = now
        self._sessions[session.id] = session

    def get(self, session_id: str, now: float) -> Session:
        """Return a session, which counts as used; raises RequestError when no session has this id."""
        session = self._sessions.get(session_id)
        if session is None or self._is_old(session, now):
            raise RequestError("unknown_session", f"there is no session '{session_id}', or not any more", "session")
        session.used_at = now
        session.lost = False
        return session

    def delete(self, session_id: str, now: float) -> Session:
        """Take a session out and return it, to be closed when nothing uses its worlds any more."""
        return self._take_out(self.get(session_id, now))

    def expire(self, now: float) -> list[Session]:
        """Take out the sessions that nobody has used for too long, and return them, to be closed."""
        return [self._take_out(one) for one in list(self._sessions.values()) if self._is_old(one, now)]

    def clear(self) -> list[Session]:
        """Take out all sessions and return them, to be closed when nothing uses their worlds any more."""
        return [self._take_out(one) for one in list(self._sessions.values())]

    def _is_old(self, session: Session, now: float) -> bool:
        unused = self.limits.unused_seconds
        kept = min(_BROKEN_SECONDS, unused) if session.lost else unused
        return not session.users and now - session.used_at > kept

    def socket_opened(self, session_id: str) -> None:
        """Count a WebSocket of a session."""
        self._sessions[session_id].sockets += 1

    def socket_closed(self, session_id: str, now: float, *, broken: bool) -> None:
        """Count it no more; a session whose last WebSocket broke is kept for a few seconds only."""
        session = self._sessions.get(session_id)
        if session is None:
            return
        session.sockets -= 1
        if broken and not session.sockets:
            session.lost, session.used_at = True, now

    def _take_out(self, session: Session) -> Session:
        del self._sessions[session.id]
        self._places.give_back(session.peer)
        self._memory_bytes -= session.memory_bytes
        return session

    def _one_world(self, options: Mapping[str, Any]) -> VectorWorlds:
        try:
            world = self._make_worlds(options, 1, 0, 0)
        except EnvError as error:
            if not options:
                raise
            raise RequestError("bad_value", f"options: {error}", "options") from None
        except Exception as error:  # whatever an environment says of settings that a stranger chose
            if not options:
                raise
            why = one_line(error) or type(error).__name__
            raise RequestError("bad_value", f"options: the environment cannot be made: {why}", "options") from None
        world.close()
        return world


def environment_failed(failure: BaseException) -> RequestError:
    """Return what to say of what an environment raised; an EnvError says already which environment and world it was."""
    if isinstance(failure, EnvError):
        return RequestError("internal", one_line(failure))
    return RequestError("internal", f"the environment failed: {one_line(f'{type(failure).__name__}: {failure}')}")


def check_seed(seed: int) -> int:
    """Return a seed that worlds take; raises RequestError for one that is too large."""
    if not 0 <= seed < 2**64:
        raise RequestError("bad_value", f"seed must lie between 0 and 2**64 - 1, got {seed}", "seed")
    return seed


def _memory_bytes(world: VectorWorlds) -> int:
    """Return about what one world takes: its state, and what it hands out."""
    outputs = (world.observation, world.final_observation, world.reward, world.terminated, world.truncated)
    own = sum(array.nbytes for array in (*world.state().values(), *outputs))
    return own if world.spec.id == "snake" else own + _FOREIGN_BYTES
