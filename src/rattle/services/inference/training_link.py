"""The connection to a Training service, and the policies that come from it, whatever happens to the service."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from rattle.clients.channels import open_channel, why_no_channel
from rattle.clients.errors import ClientError, ConnectionBroken, DamagedAnswer, NotTrusted, RunOver
from rattle.clients.retries import retry_forever
from rattle.events import emit, of_runs, of_services
from rattle.learning.algorithms import Algorithm
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.services.utils.checked_messages import checked, whole
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.text import one_line
from rattle.tokens import missing_token

#: How long a thread may take to end after it was told to, in seconds.
PATIENCE = 2.0
#: How long to wait before a stream that broke off is begun again, in seconds.
BREATH = 0.1
#: The longest deadline of a stream, as a multiple of the shortest.
_MOST_DEADLINES = 16
_CONNECTION_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # another channel is another connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # how long a connection may take to be made
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

#: How gRPC says that a message is too large, with the code that it has for a server that is full, too.
_TOO_LARGE = "message larger than max"
#: Longer texts of a service are cut.
LONGEST_TEXT = 300


PolicyName = tuple[str, int]


def restart_on_error(work: Callable[[], None], stop: threading.Event) -> None:
    """Do work that ends when `stop` is set, again if it fails in a way that nobody thought of: threads must live."""
    while not stop.is_set():
        try:
            work()
        except Exception as error:
            emit(of_services.ThreadFailed(thread=threading.current_thread().name), error=error)
            stop.wait(1.0)


class RolloutRefused(ClientError):
    """The learner does not take a rollout, however often it comes."""


class StreamExpired(ConnectionBroken):
    """A stream has continued for as long as one may: the next continues where it was."""


@dataclass(frozen=True)
class ReceivedPolicy:
    """A policy as the Training service sent it."""

    policy: StoredPolicy
    lineage: str
    first_tick: int  # ticks that every world has played before a rollout of this version begins
    finished: bool  # nothing more is learnt
    rollout_ticks: int  # of a rollout; where episodes are complete, the most; 0: the service does not say
    complete_episodes: bool  # a rollout holds one complete episode of every slot

    @property
    def name(self) -> PolicyName:
        """Return what tells policies apart: the lineage and the version."""
        return self.lineage, self.policy.version

    def rollouts(self, algorithm: Algorithm) -> tuple[int, bool]:
        """Return how many ticks a rollout has, and whether it holds complete episodes.

        Training says so, whose algorithm may be a class that only it has; else an actor's own `algorithm` does.
        """
        if self.rollout_ticks:
            return self.rollout_ticks, self.complete_episodes
        return algorithm.rollout_ticks, algorithm.complete_episodes


class TrainingLink:
    """The connection to one Training service; raises nothing while it is down."""

    def __init__(self, address: str, max_message_bytes: int, answer_seconds: float = 30.0) -> None:
        """Streams are begun again every `answer_seconds`: where a length was damaged, both sides wait forever."""
        self.address = address
        self.name = f"Training service {address}"
        self.answer_seconds = answer_seconds
        self.max_message_bytes = max_message_bytes
        self._lock = threading.Lock()
        self._channels: list[grpc.Channel] = []  # the one in use is the last
        self._connect()

    def _connect(self) -> None:
        limits = [(f"grpc.max_{way}_message_length", self.max_message_bytes) for way in ("send", "receive")]
        self._channels.append(open_channel(self.address, [*_CONNECTION_OPTIONS, *limits]))
        self.stub = training_pb2_grpc.TrainingStub(checked(self._channels[-1]))

    def close(self) -> None:
        """End all streams."""
        for channel in self._channels:
            channel.close()

    def replace_if_stuck(self) -> None:
        """Have the next streams use another connection if this one answers nothing, as after a damaged length.

        Streams on the old one end with their deadlines: it is closed when it is replaced again.
        """
        with self._lock:
            try:
                self.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=self.answer_seconds)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._connect()
                    for channel in self._channels[:-2]:
                        channel.close()
                    del self._channels[:-2]

    def failure(self, error: grpc.RpcError) -> ClientError:
        """Return a failed call as an error of one line."""
        code, details = error.code(), one_line(error.details() or "", LONGEST_TEXT)
        said = f"{self.name}: {details} ({code.name})"
        if code is grpc.StatusCode.UNAUTHENTICATED:
            said = f"{self.name}: {missing_token()}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return StreamExpired(said)
        if code is grpc.StatusCode.UNAVAILABLE and (why := why_no_channel(self.address)):
            return NotTrusted(f"Training service: {why}")
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            return RunOver(f"{self.name}: {details}")
        too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details
        return RolloutRefused(said) if too_large or code is grpc.StatusCode.INVALID_ARGUMENT else ConnectionBroken(said)


class StreamDeadline:
    """How long the next stream may continue, in seconds: longer after each on which nothing came, for slow networks."""

    def __init__(self, seconds: float) -> None:
        self._least = self.seconds = seconds

    def note(self, *, came: bool) -> None:
        """Take in whether anything came on the last stream."""
        self.seconds = self._least if came else min(2 * self.seconds, _MOST_DEADLINES * self._least)


class PolicyFeed:
    """Keeps the newest version of a policy, in a thread that watches the Training service forever."""

    def __init__(
        self,
        link: TrainingLink,
        policy_id: str,
        on_policy: Callable[[str, StoredPolicy], None],
        describe: Callable[[], str] = lambda: "",
    ) -> None:
        """`describe` returns what is played here, as the service is told; an empty text where that is not known."""
        self._link = link
        self._describe = describe
        self.policy_id = policy_id
        self._on_policy = on_policy
        self._held: ReceivedPolicy | None = None
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._deadline = StreamDeadline(link.answer_seconds)
        self._call: grpc.RpcContext | None = None
        self._thread = threading.Thread(
            target=restart_on_error, args=(self._run, self._stop), name=f"policy {policy_id}", daemon=True
        )

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
    def held(self) -> ReceivedPolicy | None:
        """Return the newest policy that has come."""
        return self._held

    def wait(
        self, wanted: Callable[[ReceivedPolicy | None], bool], stop: threading.Event, seconds: float | None = None
    ) -> ReceivedPolicy | None:
        """Wait until what is held is `wanted` and return it; None when `stop` is set, which `wake` makes it see.

        After so many `seconds` return what is held, wanted or not.
        """
        with self._news:
            self._news.wait_for(lambda: stop.is_set() or self._stop.is_set() or wanted(self._held), seconds)
            return None if stop.is_set() or self._stop.is_set() else self._held

    def wake(self, change: Callable[[], None] = lambda: None) -> None:
        """Let those who wait look again at what they wait for, after a change of it."""
        with self._news:
            change()
            self._news.notify_all()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                retry_forever(self._stop)(self._watch)
            except ClientError as error:
                if not self._stop.wait(1.0):  # what is refused may be taken by a service that is set up otherwise
                    emit(of_runs.PolicyRefused(error=str(error)))

    def _watch(self) -> None:
        """Take in policies until the stream breaks; raises ClientError when it does so before one has come."""
        held, came = self._held, False
        known_lineage, known_version = held.name if held else ("", 0)
        request = training_pb2.WatchPolicyRequest(
            policy_id=self.policy_id,
            known_lineage=known_lineage,
            known_version=known_version,
            environment=self._describe(),
        )
        self._call = call = self._link.stub.WatchPolicy(request, timeout=self._deadline.seconds)
        if self._stop.is_set():
            call.cancel()  # anyone who stopped this did not see the call
        try:
            for message in call:
                self._take(whole(message, self._link.name))
                came = True
        except grpc.RpcError as error:
            failure = self._link.failure(error)
            if not came and not isinstance(failure, StreamExpired):
                raise failure from None
            if not came:
                self._link.replace_if_stuck()
        except DamagedAnswer:
            self._stop.wait(BREATH)
        except PolicyError as error:
            raise ConnectionBroken(f"{self._link.name} sent a policy that is none: {error}") from None
        finally:
            call.cancel()
            self._deadline.note(came=came)

    def _take(self, message: training_pb2.Policy) -> None:
        policy = load_policy(message.file)
        if policy.version != message.version:
            raise PolicyError(f"a file of version {policy.version} came as version {message.version}")
        with self._news:
            self._held = ReceivedPolicy(
                policy,
                message.lineage,
                message.first_tick,
                message.finished,
                message.rollout_ticks,
                message.complete_episodes,
            )
            self._news.notify_all()
        self._on_policy(self.policy_id, policy)
