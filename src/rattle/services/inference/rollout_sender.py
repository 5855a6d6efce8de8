"""What an actor sends to the Training service: every rollout once, in order, whatever happens to the connection."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator

import grpc

from rattle.clients.errors import ClientError, ConnectionBroken, DamagedAnswer
from rattle.clients.retries import retry_forever
from rattle.events import bind, emit, of_runs
from rattle.services.inference.training_link import (
    BREATH,
    LONGEST_TEXT,
    PolicyFeed,
    PolicyName,
    ReceivedPolicy,
    RolloutRefused,
    StreamDeadline,
    StreamExpired,
    TrainingLink,
    restart_on_error,
)
from rattle.services.utils.checked_messages import whole
from rattle.services.utils.protos import training_pb2
from rattle.text import one_line

#: Rollouts without a receipt that an actor may have. The receipt comes when the rollout begins to be learnt from, and
#: then the next one is played: its policy is one update old, where more in advance would make it older.
AHEAD = 1
#: What the names of a rollout may add to its size.
_NAMES_BYTES = 1024


class RolloutOutbox:
    """One life of an actor's rollouts: numbered, and kept until they have a receipt. Sans I/O."""

    def __init__(self) -> None:
        self.life = secrets.token_hex(8)
        self._life_number = time.time_ns()  # a later life of the actor has a higher one
        self._sequence = 0
        self._kept: deque[training_pb2.Rollout] = deque()
        self._sent = 0  # of those kept, on the stream that is open

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def first_number(self) -> int:
        """Return the number of the oldest rollout that is kept; 0 where there is none."""
        return self._kept[0].sequence if self._kept else 0

    def add(self, rollout: training_pb2.Rollout) -> None:
        """Number a rollout and keep it."""
        self._sequence += 1
        rollout.life, rollout.life_number, rollout.sequence = self.life, self._life_number, self._sequence
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
        """Drop the rollout that a receipt is for, and those before it: receipts come in order."""
        while self._kept and self._kept[0].sequence <= receipt.sequence:
            self.drop_first()

    def drop_first(self) -> training_pb2.Rollout | None:
        """Drop and return the oldest rollout, None where there is none."""
        if not self._kept:
            return None
        self._sent = max(0, self._sent - 1)
        return self._kept.popleft()


class RolloutSender:
    """One actor's side of learning: `policy` to play with, `contribute` what was played."""

    def __init__(self, link: TrainingLink, feed: PolicyFeed, actor: str, stop: threading.Event) -> None:
        self._link = link
        self._feed = feed
        self._actor = actor
        self._stop = stop
        self._outbox = RolloutOutbox()
        self._changed = threading.Condition()
        self._stream = 0  # the number of the stream that is open; what an earlier one still asks for is not given
        self._refused: set[PolicyName] = set()  # a rollout of these was refused: another one is needed
        self.verdicts: dict[str, int] = dict.fromkeys(("ACCEPTED", "DUPLICATE", "STALE", "REFUSED"), 0)
        self.last_error: str | None = None
        self._doubted = 0  # the number of a rollout that was refused once
        self._deadline = StreamDeadline(link.answer_seconds)
        self._call: grpc.RpcContext | None = None
        self._thread = threading.Thread(
            target=restart_on_error, args=(self._run, stop), name=f"rollouts of {actor}", daemon=True
        )
        self._thread.start()

    @property
    def life(self) -> str:
        """Return what tells this life of the actor from its others, as the Training service knows it."""
        return self._outbox.life

    def policy(
        self, newer_than: ReceivedPolicy | None = None, *, or_the_last: bool = False, seconds: float | None = None
    ) -> ReceivedPolicy | None:
        """Return the newest policy, once there is another than `newer_than` with which to continue; None when stopping.

        One that is `finished` is waited past forever, unless `or_the_last` asks for it. After so many `seconds` the
        newest is returned, even if there is no other.
        """
        known = newer_than.name if newer_than else None

        def wanted(held: ReceivedPolicy | None) -> bool:
            if held is None or held.finished:
                return held is not None and or_the_last
            if held.name in self._refused:
                self._refused.clear()
                return True
            return held.name != known

        return self._feed.wait(wanted, self._stop, seconds)

    def contribute(self, rollout: training_pb2.Rollout, held: ReceivedPolicy, *, continues: bool) -> None:
        """Send a rollout that was played with a policy; waits while earlier ones have no receipt."""
        rollout.actor = self._actor
        rollout.policy_id = self._feed.policy_id
        rollout.lineage, rollout.policy_version = held.name
        rollout.continues = continues
        if rollout.ByteSize() > self._link.max_message_bytes - _NAMES_BYTES:
            most = self._link.max_message_bytes
            self._refuse(
                held.name, f"a rollout of {rollout.ByteSize()} bytes is larger than training.max_message_bytes, {most}"
            )
            return
        with self._changed:
            self._outbox.add(rollout)
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._outbox) < AHEAD or self._stop.is_set())

    def close(self, deadline: float) -> None:
        """End the stream and wake who waits, and wait until `deadline` (monotonic) for it; `stop` must be set."""
        self._feed.wake()
        with self._changed:
            self._changed.notify_all()
        if self._call is not None:
            self._call.cancel()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        bind(agent=self._actor)
        while not self._stop.is_set():
            try:
                retry_forever(self._stop)(self._send_until_it_breaks)
                self.last_error = None
            except RolloutRefused as error:
                if self._is_doubtful():
                    continue
                with self._changed:
                    refused = self._outbox.drop_first()
                    self._changed.notify_all()
                if refused is not None:
                    self._refuse((refused.lineage, refused.policy_version), str(error))
            except ClientError as error:  # stopping
                self.last_error = str(error)

    def _is_doubtful(self) -> bool:
        """Whether the first rollout is refused for the first time: what was damaged on the way is wrong just once."""
        first = self._outbox.first_number
        known, self._doubted = self._doubted, first
        return known != first

    def _refuse(self, played_by: PolicyName, why: str) -> None:
        """Say that a rollout is dropped, and have another one played."""
        emit(of_runs.RolloutDropped(agent=self._actor, error=why))
        self.last_error = why
        self.verdicts["REFUSED"] += 1
        self._stop.wait(1.0)  # what is refused once will probably be refused again
        self._feed.wake(lambda: self._refused.add(played_by))

    def _send_until_it_breaks(self) -> None:
        """Send and take receipts until the stream ends; raises ClientError when it ends before a receipt has come."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._outbox) or self._stop.is_set())
            if self._stop.is_set():
                return
            self._outbox.begin_stream()
            self._stream += 1
        came = False
        to_send, seconds = self._to_send(self._stream), self._deadline.seconds
        self._call = call = self._link.stub.ContributeRollouts(to_send, timeout=seconds)
        if self._stop.is_set():
            call.cancel()  # anyone who stopped this did not see the call
        try:
            for receipt in call:
                self._take(whole(receipt, self._link.name))
                came = True
            failure: ClientError = ConnectionBroken(f"{self._link.name} ended the stream")
        except DamagedAnswer as error:
            failure = error
        except grpc.RpcError as error:
            failure = self._link.failure(error)
            if error.code() is grpc.StatusCode.ABORTED:
                self._stop.wait(1.0)  # another process plays under this name: do not take turns at full speed
        finally:
            call.cancel()
            self._deadline.note(came=came)
            with self._changed:
                self._stream += 1
                self._changed.notify_all()
        if not isinstance(failure, StreamExpired):
            self.last_error = str(failure)
        elif not came and len(self._outbox):
            self._link.replace_if_stuck()
        if isinstance(failure, RolloutRefused) or not (came or isinstance(failure, DamagedAnswer | StreamExpired)):
            raise failure
        self._stop.wait(BREATH)

    def _take(self, receipt: training_pb2.Receipt) -> None:
        number = receipt.verdict
        known = training_pb2.Receipt.Verdict
        name = known.Name(number) if number in known.values() else str(number)  # of a newer service
        self.verdicts[name] = self.verdicts.get(name, 0) + 1
        if receipt.verdict == known.REFUSED:
            self._say_refused(one_line(receipt.reason, LONGEST_TEXT))
        else:
            self.last_error = None
        with self._changed:
            self._outbox.take(receipt)
            self._changed.notify_all()

    def _say_refused(self, why: str) -> None:
        """Say, once, that nothing is taken from this life of the actor, and have it play on slowly."""
        if why != self.last_error:
            emit(of_runs.RolloutDropped(error=why))
        self.last_error = why
        self._stop.wait(1.0)

    def _to_send(self, stream: int) -> Iterator[training_pb2.Rollout]:
        """Yield rollouts as long as this stream is the one that is open."""
        while True:
            with self._changed:
                rollout: training_pb2.Rollout | None = None

                def ready() -> bool:
                    nonlocal rollout
                    is_open = self._stream == stream and not self._stop.is_set()
                    rollout = self._outbox.next_to_send() if is_open else None
                    return rollout is not None or not is_open

                self._changed.wait_for(ready)
            if rollout is None:
                return
            yield rollout
