"""An actor's link to the Training service: policies come in and rollouts go out, whatever becomes of the service."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from rattle.clients.errors import ClientError, ConnectionBroken
from rattle.clients.retries import persevering
from rattle.policies.errors import PolicyError
from rattle.policies.file import Policy, load_policy
from rattle.services.utils.protos import training_pb2, training_pb2_grpc

#: Rollouts without a receipt that an actor may have: one is learnt from while the next is played.
AHEAD = 2
#: How long a thread may take to end after it was told to, in seconds.
PATIENCE = 2.0
_CONNECTION_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # how long a connection may take to be made
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

_log = logging.getLogger(__name__)


class RolloutRefused(ClientError):
    """The learner does not take a rollout, however often it comes."""


@dataclass(frozen=True)
class HeldPolicy:
    """A policy as the Training service sent it."""

    policy: Policy
    lineage: str
    first_tick: int  # ticks that every world has played before a rollout of this version begins
    finished: bool  # nothing more is learnt

    @property
    def name(self) -> tuple[str, int]:
        """Return what tells policies apart: the lineage and the version."""
        return self.lineage, self.policy.version


class TrainingLink:
    """The connection to one Training service; raises nothing while it is away."""

    def __init__(self, address: str, max_message_bytes: int) -> None:
        self.address = address
        limits = [(f"grpc.max_{way}_message_length", max_message_bytes) for way in ("send", "receive")]
        self._channel = grpc.insecure_channel(address, [*_CONNECTION_OPTIONS, *limits])
        self.stub = training_pb2_grpc.TrainingStub(self._channel)

    def close(self) -> None:
        """End all streams."""
        self._channel.close()

    def failure(self, error: grpc.RpcError) -> ClientError:
        """Return a failed call as an error of one line."""
        code, details = error.code(), " ".join((error.details() or "").split())
        said = f"Training service {self.address}: {details} ({code.name})"
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return RolloutRefused(said)
        return ConnectionBroken(said)


class PolicyFeed:
    """Keeps the newest version of a policy, in a thread that watches the Training service for ever."""

    def __init__(self, link: TrainingLink, policy_id: str, on_policy: Callable[[str, Policy], None]) -> None:
        self._link = link
        self.policy_id = policy_id
        self._on_policy = on_policy
        self._held: HeldPolicy | None = None
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._call: grpc.RpcContext | None = None
        self._thread = threading.Thread(target=self._run, name=f"policy {policy_id}", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and wake who waits."""
        self._stop.set()
        if self._call is not None:
            self._call.cancel()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    @property
    def held(self) -> HeldPolicy | None:
        """Return the newest policy that has come."""
        return self._held

    def wait(self, wanted: Callable[[HeldPolicy | None], bool], stop: threading.Event) -> HeldPolicy | None:
        """Wait until what is held is `wanted` and return it; None when `stop` is set, which `wake` makes it see."""
        with self._news:
            self._news.wait_for(lambda: stop.is_set() or self._stop.is_set() or wanted(self._held))
            return None if stop.is_set() or self._stop.is_set() else self._held

    def wake(self) -> None:
        """Let those who wait look at their `stop` again."""
        with self._news:
            self._news.notify_all()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                persevering(self._stop)(self._watch)
            except ClientError as error:
                if not self._stop.wait(1.0):  # what is refused may be taken by a service that is set up otherwise
                    _log.error("%s", error)

    def _watch(self) -> None:
        """Take in policies until the stream ends; raises ClientError when it ends before one has come."""
        held, came = self._held, False
        known_lineage, known_version = held.name if held else ("", 0)
        request = training_pb2.WatchPolicyRequest(
            policy_id=self.policy_id, known_lineage=known_lineage, known_version=known_version
        )
        self._call = call = self._link.stub.WatchPolicy(request)
        if self._stop.is_set():
            call.cancel()  # whoever stopped this did not see the call
        try:
            for message in call:
                self._take(message)
                came = True
        except grpc.RpcError as error:
            if not came:
                raise self._link.failure(error) from None
        except PolicyError as error:
            call.cancel()
            raise ConnectionBroken(
                f"Training service {self._link.address} sent a policy that is none: {error}"
            ) from None

    def _take(self, message: training_pb2.Policy) -> None:
        policy = load_policy(message.file)
        if policy.version != message.version:
            raise PolicyError(f"a file of version {policy.version} came as version {message.version}")
        with self._news:
            self._held = HeldPolicy(policy, message.lineage, message.first_tick, message.finished)
            self._news.notify_all()
        self._on_policy(self.policy_id, policy)


class Outbox:
    """One life of an actor's rollouts: numbered, and kept until they have a receipt. Sans I/O."""

    def __init__(self) -> None:
        self.life = secrets.token_hex(8)
        self._sequence = 0
        self._kept: deque[training_pb2.Rollout] = deque()
        self._sent = 0  # of those kept, on the stream that is open

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, rollout: training_pb2.Rollout) -> None:
        """Number a rollout and keep it."""
        self._sequence += 1
        rollout.life, rollout.sequence = self.life, self._sequence
        self._kept.append(rollout)

    def begin_stream(self) -> None:
        """Have all that is kept sent again: nobody knows what arrived."""
        self._sent = 0

    def next_to_send(self) -> training_pb2.Rollout | None:
        """Return the next rollout for the open stream, None while there is none."""
        if self._sent == len(self._kept):
            return None
        self._sent += 1
        return self._kept[self._sent - 1]

    def take(self, receipt: training_pb2.Receipt) -> None:
        """Drop the rollout that a receipt is for."""
        if self._kept and self._kept[0].sequence == receipt.sequence:
            self.drop_first()

    def drop_first(self) -> None:
        """Drop the oldest rollout, which is refused for good."""
        if self._kept:
            self._kept.popleft()
            self._sent = max(0, self._sent - 1)


class Contributions:
    """One actor's side of learning: `policy` to play with, `contribute` what was played."""

    def __init__(self, link: TrainingLink, feed: PolicyFeed, actor: str, stop: threading.Event) -> None:
        self._link = link
        self._feed = feed
        self._actor = actor
        self._stop = stop
        self._outbox = Outbox()
        self._again = False  # a rollout was refused: another one of the same policy is needed
        self._changed = threading.Condition()
        self._stream_open = False
        self.verdicts: dict[str, int] = dict.fromkeys(("ACCEPTED", "DUPLICATE", "STALE", "REFUSED"), 0)
        self.last_error: str | None = None
        self._call: grpc.RpcContext | None = None
        self._thread = threading.Thread(target=self._run, name=f"rollouts of {actor}", daemon=True)
        self._thread.start()

    def policy(self, newer_than: HeldPolicy | None = None) -> HeldPolicy | None:
        """Return the newest policy, once there is another than `newer_than` with which to go on; None when stopping."""
        known = newer_than.name if newer_than else None

        def wanted(held: HeldPolicy | None) -> bool:
            return held is not None and not held.finished and (held.name != known or self._again)

        held = self._feed.wait(wanted, self._stop)
        self._again = False
        return held

    def contribute(self, rollout: training_pb2.Rollout, held: HeldPolicy, *, continues: bool) -> None:
        """Send a rollout that was played with a policy; waits while earlier ones have no receipt."""
        rollout.actor = self._actor
        rollout.policy_id = self._feed.policy_id
        rollout.lineage, rollout.policy_version = held.name
        rollout.continues = continues
        with self._changed:
            self._outbox.add(rollout)
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._outbox) < AHEAD or self._stop.is_set())

    def close(self) -> None:
        """End the stream and wake who waits; `stop` must be set."""
        self._feed.wake()
        with self._changed:
            self._changed.notify_all()
        if self._call is not None:
            self._call.cancel()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                persevering(self._stop)(self._stream)
                self.last_error = None
            except RolloutRefused as error:
                self._refused(error)
            except ClientError as error:  # stopping
                self.last_error = str(error)

    def _refused(self, error: RolloutRefused) -> None:
        _log.error("%s: the rollout is dropped", error)
        self.last_error = str(error)
        self.verdicts["REFUSED"] += 1
        with self._changed:
            self._outbox.drop_first()
            self._changed.notify_all()
        self._stop.wait(1.0)  # what is refused once will probably be refused again
        self._again = True
        self._feed.wake()

    def _stream(self) -> None:
        """Send and take receipts until the stream ends; raises ClientError when it ends before a receipt has come."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._outbox) or self._stop.is_set())
            if self._stop.is_set():
                return
            self._outbox.begin_stream()
            self._stream_open = True
        came = False
        self._call = call = self._link.stub.ContributeRollouts(self._to_send())
        if self._stop.is_set():
            call.cancel()  # whoever stopped this did not see the call
        try:
            for receipt in call:
                came = True
                self._take(receipt)
        except grpc.RpcError as error:
            failure = self._link.failure(error)
            self.last_error = str(failure)
            if not came or isinstance(failure, RolloutRefused):
                raise failure from None
        finally:
            with self._changed:
                self._stream_open = False
                self._changed.notify_all()

    def _take(self, receipt: training_pb2.Receipt) -> None:
        verdict = training_pb2.Receipt.Verdict.Name(receipt.verdict)
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        with self._changed:
            self._outbox.take(receipt)
            self._changed.notify_all()

    def _to_send(self) -> Iterator[training_pb2.Rollout]:
        """Yield rollouts as long as the stream is open."""
        while True:
            with self._changed:
                rollout: training_pb2.Rollout | None = None

                def ready() -> bool:
                    nonlocal rollout
                    rollout = self._outbox.next_to_send() if self._stream_open else None
                    return rollout is not None or not self._stream_open or self._stop.is_set()

                self._changed.wait_for(ready)
            if rollout is None:
                return
            yield rollout
