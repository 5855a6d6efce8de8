"""Worlds that live in an environment server, behind the vector protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.clients.answers import ONLY_JSON, SlotArrays, WrongAnswer, decode, read_metrics, read_spec, read_state
from rattle.clients.connections import Connection, HttpConnection, HttpSteps, NoWebSocket, SocketSteps
from rattle.clients.errors import ClientError, ConnectionBroken, DamagedAnswer, RequestRefused
from rattle.clients.retries import believed, is_temporary, retry_for
from rattle.envs.errors import CannotReplay, EnvError, EnvironmentFailed, WorldsLost
from rattle.envs.seeds import check_seed, derive_seed
from rattle.envs.vector import EnvironmentSpec, check_actions
from rattle.errors import RattleError
from rattle.events import emit, of_services
from rattle.text import one_line
from rattle.wire import encoding
from rattle.wire.arrays import Array
from rattle.wire.checksums import DamagedMessage, note_damage
from rattle.wire.vector import PROTOCOLS, ResetAnswer, ServerSpec, SessionCreated, StepAnswer


@dataclass(frozen=True)
class Patience:
    """How long a client waits for a server, in seconds, before it tries again and before it gives up."""

    answer_seconds: float = 30.0
    retry_seconds: float = 60.0
    stop: threading.Event | None = None  # set: do not try again


#: How long the first question waits for an answer before the user is told, in seconds.
_FIRST_ANSWER_SECONDS = 2.0
#: What servers that speak JSON only may answer where MessagePack is asked for.
_NOT_IN_MESSAGEPACK = (400, 404, 405, 406, 415, 501)

#: Snapshots that a step may bring along.
MOST_WATCHED = 16


class _Numbered(msgspec.Struct):
    step: int


Answer = TypeVar("Answer", StepAnswer, ResetAnswer, _Numbered)


class _State(msgspec.Struct):
    state: dict[str, Array]


class _Info(msgspec.Struct):
    metrics: dict[str, Array]


class _Snapshot(msgspec.Struct):
    snapshot: dict[str, Any]


def ask_spec(url: str, patience: Patience | None = None) -> ServerSpec:
    """Return what a server says it is; raises ClientError when it cannot be reached or speaks another protocol."""
    patience = patience or Patience()
    # Anyone who waits is told so soon, also where a server takes connections and does not answer.
    connection = HttpConnection(url, min(_FIRST_ANSWER_SECONDS, patience.answer_seconds))

    def ask() -> ServerSpec:
        try:
            return believed(
                lambda: decode(_whole(connection.ask("GET", "/v1/spec"), connection), ServerSpec), connection.close
            )
        except ConnectionBroken:
            connection.wait_for_answers(patience.answer_seconds)
            raise

    try:
        spec = retry_for(patience.retry_seconds, stop=patience.stop)(ask)
    except ConnectionBroken as error:
        raise ConnectionBroken(_gave_up(error, patience)) from None
    except RequestRefused as error:
        if error.status in _NOT_IN_MESSAGEPACK and _answers_in_json(url, patience):
            raise ClientError(f"{connection.url}: {ONLY_JSON}") from None
        what = f"{connection.url} has no vector API" if error.status in (404, 405, 501) else connection.url
        raise ClientError(f"{what}: {error}") from None
    finally:
        connection.close()
    if spec.protocol not in PROTOCOLS:
        known = " and ".join(f"'{version}'" for version in PROTOCOLS)
        raise ClientError(f"{connection.url} speaks '{one_line(spec.protocol, 80)}', and this version {known}")
    return spec


def _whole(body: bytes, connection: HttpConnection, *, must: bool = False) -> bytes:
    """Return an answer that is what was sent, as far as its checksum tells; `must` it have one.

    Raises DamagedAnswer, with the connection closed: nobody knows where the next answer would begin.
    """
    try:
        encoding.check(body)
        if must and not encoding.has_checksum(body):
            raise DamagedMessage("it has no checksum")
    except DamagedMessage as error:
        connection.close()
        note_damage(connection.url, str(error))
        raise DamagedAnswer(f"an answer of {connection.url} arrived damaged: {error}") from None
    return body


def _answers_in_json(url: str, patience: Patience) -> bool:
    """Whether a server that refused a request in MessagePack describes itself in JSON."""
    connection = HttpConnection(url, patience.answer_seconds, accept=encoding.JSON)
    try:
        return b'"protocol"' in connection.ask("GET", "/v1/spec")
    except ClientError:
        return False
    finally:
        connection.close()


@cache
def _say_that_requests_do(url: str) -> None:
    """Say once for a server that its sessions have no WebSocket."""
    emit(of_services.NoWebSocket(url=url))


def _gave_up(error: ConnectionBroken, patience: Patience) -> str:
    return f"{error}; gave up after {patience.retry_seconds:.0f} seconds: does the server run there?"


def _failure(error: ClientError) -> RattleError:
    """Return an error as what it says of the environment, if it says that this failed."""
    return EnvironmentFailed(str(error)) if isinstance(error, RequestRefused) and error.is_failure else error


class RemoteWorlds:
    """W worlds in a session of an environment server; implements `rattle.envs.vector.VectorWorlds`.

    World i of a seed plays the same games as in this process; `first_world` gives the number of the first world here,
    `options` change the settings of the server's environment. Requests have time-outs and are repeated with back-off;
    steps are numbered, so that a repeated one is never taken twice. When the server has lost the session, because it
    was restarted for example, a new one begins and `step` raises WorldsLost: the action was not answered, and the
    arrays hold the first observations of new episodes, with the lost ones truncated where they stood. `owner` is
    a name and one of its lives: the server ends what an earlier life of the same owner has left. `make_arrays` lets
    several sessions fill one batch. `server` is what the server says of itself, if it was asked already.

    Raises ClientError when the server cannot be reached in time, refuses a request or answers nonsense, and
    EnvironmentFailed when it answers that it failed (status 500).
    """

    def __init__(
        self,
        url: str,
        num_worlds: int = 1,
        seed: int = 0,
        first_world: int = 0,
        options: Mapping[str, Any] | None = None,
        *,
        patience: Patience | None = None,
        websocket: bool = True,
        owner: tuple[str, str] | None = None,
        make_arrays: Callable[[EnvironmentSpec], SlotArrays] | None = None,
        server: ServerSpec | None = None,
    ) -> None:
        self._patience = patience or Patience()
        server = server or ask_spec(url, self._patience)
        self._features = frozenset(server.features)
        self._websocket = websocket and "websocket" in self._features
        self._checked = "crc32c" in self._features
        self._pack = encoding.pack_checked if self._checked else encoding.msgpack.encode
        self._url = url
        self._http = HttpConnection(url, self._patience.answer_seconds)
        self._steps: Connection = HttpSteps(self._http, "")  # until there is a session
        self._options = dict(options or {})
        self._owner = owner if "owners" in self._features else None
        self.num_worlds = num_worlds
        self.first_world = first_world
        self.seed = check_seed(seed)
        self._lives = 0
        self._awaits_answer = False
        self._watched: list[int] = []  # worlds whose snapshots were asked for since the last step
        self._snapshots: dict[int, dict[str, Any]] = {}  # of the worlds as they stand
        try:
            created = self._create()
        except ClientError:
            self._http.close()
            raise
        self.spec: EnvironmentSpec = read_spec(created)
        self.num_slots = num_worlds * self.spec.agents_per_world
        self._arrays = arrays = make_arrays(self.spec) if make_arrays else SlotArrays(self.spec, num_worlds)
        arrays.first_world = first_world
        arrays.begin(created)
        self.observation = arrays.observation
        self.reward = arrays.reward
        self.terminated = arrays.terminated
        self.truncated = arrays.truncated
        self.active = arrays.active
        self.final_observation = arrays.final_observation
        self.final_metrics = arrays.final_metrics
        self.episode = arrays.episode

    @property
    def metrics(self) -> Mapping[str, NDArray[np.int32]]:
        """Ask the server what the episodes in progress have come to so far."""
        body = self._ask_session("GET")
        return read_metrics(decode(body, _Info).metrics, self.final_metrics)

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""
        if seed is not None:
            self.seed = check_seed(seed)
        self._settle()
        try:
            self._reset_session(seed)
        except WorldsLost:  # a new session is at the start of new episodes, of a seed of its own
            if seed is None:
                self.truncated[:] = False
            else:
                self._reset_session(seed)

    def _reset_session(self, seed: int | None) -> None:
        message = {"step": self._number + 1} | ({} if seed is None else {"seed": self.seed})
        self._send("reset", message)
        self._arrays.begin(self._receive(ResetAnswer))

    def step(self, action: NDArray[Any]) -> None:
        """Advance every world one tick with actions (B, ...); raises WorldsLost when there is no answer to come."""
        self.step_async(action)
        self.step_wait()

    def step_async(self, action: NDArray[Any]) -> None:
        """Send the actions; `step_wait` waits for the result."""
        check_actions(action, self.num_slots, self.spec.action_space)
        if self._awaits_answer:
            raise EnvError("a step is under way: call step_wait() before the next one begins")
        small = np.asarray(action, self.spec.action_space.wire_dtype)
        message: dict[str, Any] = {"step": self._number + 1, "action": small}
        if self._watched and "step_snapshots" in self._features:
            # What was looked at after the last step will probably be looked at after this one too.
            message["snapshots"] = list(self._watched)
        self._send("step", message)

    def step_wait(self) -> None:
        """Receive the result of the last `step_async`; raises WorldsLost as `step` does."""
        watched, self._watched, self._snapshots = self._watched, [], {}
        answer = self._receive(StepAnswer)
        self._arrays.advance(answer)
        self._snapshots = dict(zip(watched, answer.snapshots, strict=False))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that decides what follows, as the server stores it; empty but for a count where it cannot."""
        own = {"remote/lives": np.array([self._lives], np.int64)}
        if "state" not in self._features:
            return own
        return own | read_state(decode(self._ask_session("GET", "/state"), _State).state)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken; raises WorldsLost, with new episodes begun, where the server cannot.

        Raises CannotReplay, with nothing changed, where the environment plays the stored episodes another way.
        """
        self._lives = int(state["remote/lives"][0])
        stored = {name: array for name, array in state.items() if name != "remote/lives"}
        if "state" not in self._features or not stored:
            self._begin_anew()
            raise WorldsLost("the environment server cannot store worlds")
        body = self._pack({"step": self._number + 1, "state": stored})
        self._snapshots = {}
        try:
            answer = self._ask_session("POST", "/state", body)
        except RequestRefused as error:
            if error.code == "cannot_replay":
                raise CannotReplay(str(error)) from None
            if error.code != "too_large":
                raise
            self._begin_anew()
            raise WorldsLost(f"the environment server takes no state of {len(body):,} bytes") from None
        self._number += 1
        self._arrays.begin(decode(answer, ResetAnswer))
        if "seed" in stored:
            self.seed = int(stored["seed"][0])

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return one world as it stands; its observation where the server has no other view of it."""
        if "snapshot" not in self._features:
            first = world * self.spec.agents_per_world
            return {"observation": self.observation[first : first + self.spec.agents_per_world].tolist()}
        if world not in self._snapshots:
            answer = self._ask_session("GET", f"/worlds/{world}")
            self._snapshots[world] = decode(answer, _Snapshot).snapshot
        if world not in self._watched and len(self._watched) < MOST_WATCHED:
            self._watched.append(world)
        return self._snapshots[world]

    def close(self) -> None:
        """End the session, if the server is there to be told."""
        self._steps.close()
        with suppress(ClientError):  # it expires by itself
            self._http.ask("DELETE", f"/v1/sessions/{self._session}")
        self._http.close()

    def _create(self) -> SessionCreated:
        seed = self.seed if not self._lives else derive_seed(self.seed, "life", self._lives)
        request = {"worlds": self.num_worlds, "seed": seed, "first_world": self.first_world, "options": self._options}
        if self._owner:
            request |= {"owner": self._owner[0], "life": self._owner[1]}
        created = decode(self._ask("POST", "/v1/sessions", self._pack(request)), SessionCreated)
        self._session, self._number = created.session, created.step
        self._steps = (
            SocketSteps(self._url, created.session, self._patience.answer_seconds)
            if self._websocket
            else HttpSteps(self._http, created.session)
        )
        return created

    def _begin_anew(self) -> None:
        """Make another session, whose episodes are not those of the earlier ones."""
        self._lives += 1
        self._snapshots = {}
        self._steps.close()
        with suppress(ClientError):  # if it is still there, it takes the place of the next
            self._http.ask("DELETE", f"/v1/sessions/{self._session}")
        created = self._create()
        if read_spec(created) != self.spec:
            raise WrongAnswer(f"{self._http.url} serves another environment than before: begin a new run with it")
        self._arrays.begin_anew(created)

    def _settle(self) -> None:
        """Fetch the answer to a step that nobody waited for, because another batch was lost meanwhile."""
        if self._awaits_answer:
            with suppress(WorldsLost):
                self._receive(_Numbered)

    def _send(self, kind: str, message: Mapping[str, Any]) -> None:
        self._awaits_answer = True
        if kind == "reset":
            self._snapshots = {}
        self._request = (kind, self._pack(message))
        self._sent = False
        with suppress(ConnectionBroken, RequestRefused):  # _receive tries again, and says what is wrong
            self._transmit()

    def _transmit(self) -> None:
        try:
            believed(lambda: self._steps.send(*self._request), self._steps.close)
        except NoWebSocket:
            _say_that_requests_do(self._http.url)
            self._websocket = False  # the next session of these worlds does not try again
            self._steps = HttpSteps(self._http, self._session)
            self._steps.send(*self._request)
        self._sent = True

    def _attempt(self) -> bytes:
        """Receive the answer to the request in flight; it goes out again, with the same number, after a failure."""
        if not self._sent:
            self._transmit()
        self._sent = False
        return self._check(self._steps.receive())

    def _receive(self, kind: type[Answer]) -> Answer:
        try:
            answer = decode(self._or_lost(lambda: self._retry_for(self._attempt)), kind)
            expected = self._number + 1
            if answer.step != expected:
                raise WrongAnswer(f"{self._http.url} answered step {answer.step} when step {expected} was asked")
        except BaseException:
            self._steps.close()  # an answer that still comes must not be taken for that of a later request
            raise
        finally:
            self._awaits_answer = False
        self._number += 1
        return answer

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        return self._retry_for(lambda: self._check(self._http.ask(method, path, body)))

    def _check(self, answer: bytes) -> bytes:
        try:
            return _whole(answer, self._http, must=self._checked)
        except DamagedAnswer:
            self._close_connections()
            raise

    def _close_connections(self) -> None:
        """Have the next request make a connection: nobody knows where answers begin on one that brought damage."""
        self._http.close()
        self._steps.close()

    def _ask_session(self, method: str, path: str = "", body: bytes | None = None) -> bytes:
        self._settle()
        return self._or_lost(lambda: self._ask(method, f"/v1/sessions/{self._session}{path}", body))

    def _retry_for(self, attempt: Callable[[], bytes]) -> bytes:
        def ask() -> bytes:
            return believed(attempt, self._close_connections)

        try:
            return ask()  # nearly always: the library that tries again takes its time
        except ClientError as error:
            if not is_temporary(error):
                raise _failure(error) from None
        try:
            return retry_for(self._patience.retry_seconds, stop=self._patience.stop)(ask)
        except ConnectionBroken as error:
            raise ConnectionBroken(_gave_up(error, self._patience)) from None
        except RequestRefused as error:
            raise _failure(error) from None

    def _or_lost(self, request: Callable[[], bytes]) -> bytes:
        try:
            return request()
        except RequestRefused as error:
            if error.code != "unknown_session":
                raise
        self._begin_anew()
        raise WorldsLost(f"{self._http.url} no longer has the session: its worlds start again")
