"""Rollouts reach the learner once and in order, and policies reach the actor, whatever becomes of the connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import grpc
import pytest

from rattle.policies.file import StoredPolicy
from rattle.services.inference.rollout_sender import AHEAD, RolloutOutbox, RolloutSender
from rattle.services.inference.training_link import PolicyFeed, ReceivedPolicy, TrainingLink
from rattle.services.utils.protos import training_pb2
from tests.services.inference.learner_double import LearnerDouble, policy_message


class Actor:
    """One actor's link, and what its feed brought."""

    def __init__(self, learner: LearnerDouble, answer_seconds: float = 30.0) -> None:
        self.link = TrainingLink(learner.address, 2**20, answer_seconds)
        self.published: list[tuple[str, StoredPolicy]] = []
        self.feed = PolicyFeed(self.link, "main", lambda name, policy: self.published.append((name, policy)))
        self.stop = threading.Event()
        self.contributions = RolloutSender(self.link, self.feed, "main-0", self.stop)
        self.feed.start()

    def contribute_aside(self, first_world: int, held: ReceivedPolicy) -> None:
        """Contribute in a thread: it takes until there is a receipt."""
        rollout = training_pb2.Rollout(first_world=first_world)
        play = partial(self.contributions.contribute, rollout, held, continues=False)
        threading.Thread(target=play, daemon=True).start()

    def held(self) -> ReceivedPolicy:
        held = self.contributions.policy()
        assert held is not None
        return held

    def close(self) -> None:
        self.stop.set()
        self.contributions.close(time.monotonic() + 5)
        self.feed.stop()
        self.link.close()


@pytest.fixture
def learner() -> Iterator[LearnerDouble]:
    learner = LearnerDouble()
    yield learner
    learner.stop()


@pytest.fixture
def actor(learner: LearnerDouble) -> Iterator[Actor]:
    actor = Actor(learner)
    yield actor
    actor.close()


def test_who_watches_says_what_is_played_each_time(learner: LearnerDouble) -> None:
    link, said = TrainingLink(learner.address, 2**20), iter(["", "{}", "{}"])
    feed = PolicyFeed(link, "main", lambda name, policy: None, lambda: next(said))
    feed.start()
    try:
        for count in (1, 2, 3):
            learner.wait_for(lambda count=count: len(learner.watched) == count)  # type: ignore[misc]
            if count < 3:
                learner.stop()
                learner.start()
    finally:
        feed.stop()
        link.close()
    assert [request.environment for request in learner.watched] == ["", "{}", "{}"]


def test_an_outbox_numbers_keeps_and_sends_again() -> None:
    outbox = RolloutOutbox()
    for _ in range(3):
        outbox.add(training_pb2.Rollout())
    outbox.begin_stream()
    assert [outbox.next_to_send().sequence for _ in range(3)] == [1, 2, 3]  # type: ignore[union-attr]
    assert outbox.next_to_send() is None
    outbox.take(training_pb2.Receipt(sequence=1))
    outbox.take(training_pb2.Receipt(sequence=1))  # once more: of a stream that broke
    outbox.add(training_pb2.Rollout())
    assert outbox.next_to_send().sequence == 4  # type: ignore[union-attr]
    outbox.begin_stream()
    assert [outbox.next_to_send().sequence for _ in range(3)] == [2, 3, 4]  # type: ignore[union-attr]
    outbox.drop_first()
    assert len(outbox) == 2
    assert outbox.next_to_send() is None
    later = RolloutOutbox()
    assert later.life != outbox.life
    first, again = training_pb2.Rollout(), training_pb2.Rollout()
    outbox.add(first)
    later.add(again)
    assert 0 < first.life_number < again.life_number


def test_a_rollout_carries_who_played_it_and_with_what(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(3, "second"))
    actor.contributions.contribute(training_pb2.Rollout(first_world=5), actor.held(), continues=True)
    learner.wait_for(lambda: len(learner.rollouts) == 1)
    sent = learner.rollouts[0]
    assert (sent.policy_id, sent.policy_version, sent.lineage) == ("main", 3, "second")
    assert (sent.actor, sent.sequence, sent.continues, sent.first_world) == ("main-0", 1, True, 5)
    assert actor.published[0][0] == "main"
    assert actor.published[0][1].version == 3


def test_an_actor_is_paced_by_receipts(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(0))
    gate = threading.Event()

    def late(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> training_pb2.Receipt.Verdict.ValueType:
        gate.wait(30)
        return training_pb2.Receipt.ACCEPTED

    learner.on_rollout = late
    held, sent = actor.held(), []

    def play() -> None:
        for number in range(4):
            actor.contributions.contribute(training_pb2.Rollout(), held, continues=False)
            sent.append(number)

    player = threading.Thread(target=play)
    player.start()
    learner.wait_for(lambda: len(learner.rollouts) == 1)
    player.join(0.3)
    assert len(sent) == AHEAD - 1
    gate.set()
    player.join(30)
    assert len(sent) == 4


def test_what_has_no_receipt_is_sent_again_after_the_service_came_back(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(0))
    held = actor.held()

    def die(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> training_pb2.Receipt.Verdict.ValueType:
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        raise AssertionError

    learner.on_rollout = die
    actor.contribute_aside(7, held)
    learner.wait_for(lambda: len(learner.rollouts) == 1)
    learner.stop()
    learner.on_rollout = lambda rollout, context: training_pb2.Receipt.ACCEPTED
    learner.start()
    learner.wait_for(lambda: learner.rollouts[-1].first_world == 7 and len(learner.rollouts) > 1)
    assert {(rollout.life, rollout.sequence) for rollout in learner.rollouts} == {(learner.rollouts[0].life, 1)}
    actor.contributions.contribute(training_pb2.Rollout(first_world=8), held, continues=True)
    learner.wait_for(lambda: learner.rollouts[-1].first_world == 8)
    assert learner.rollouts[-1].sequence == 2


def test_a_refused_rollout_is_dropped_and_another_one_is_asked_for(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(0))
    held = actor.held()

    def refuse(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> training_pb2.Receipt.Verdict.ValueType:
        if rollout.first_world == 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "reward: not finite")
        return training_pb2.Receipt.ACCEPTED

    learner.on_rollout = refuse
    actor.contributions.contribute(training_pb2.Rollout(first_world=1), held, continues=False)
    again = actor.contributions.policy(newer_than=held)
    assert again is not None
    assert again.name == held.name
    actor.contributions.contribute(training_pb2.Rollout(first_world=2), again, continues=False)
    learner.wait_for(lambda: learner.rollouts[-1].first_world == 2)
    assert [rollout.first_world for rollout in learner.rollouts] == [1, 1, 2]  # what is refused once may be damaged
    assert actor.contributions.verdicts["REFUSED"] == 1


@pytest.mark.parametrize("aborted", [False, True])
def test_nothing_is_swallowed_when_streams_end_while_the_service_stays_up(
    learner: LearnerDouble, actor: Actor, aborted: bool
) -> None:
    learner.send(policy_message(0))
    held = actor.held()
    learner.rollouts_a_stream = None if aborted else 1
    answered: set[int] = set()

    def answer(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> training_pb2.Receipt.Verdict.ValueType:
        if aborted and rollout.sequence % 2 == 0 and rollout.sequence not in answered:
            answered.add(rollout.sequence)
            context.abort(grpc.StatusCode.UNKNOWN, "a proxy was reset")
        return training_pb2.Receipt.ACCEPTED

    learner.on_rollout = answer
    for number in range(1, 13):
        actor.contributions.contribute(training_pb2.Rollout(first_world=number), held, continues=True)
        learner.wait_for(lambda number=number: number in {one.first_world for one in learner.rollouts})  # type: ignore[misc]
    assert {rollout.first_world for rollout in learner.rollouts} == set(range(1, 13))


def test_a_verdict_of_a_newer_service_ends_no_thread(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(0))
    held = actor.held()
    learner.on_rollout = lambda rollout, context: 77  # type: ignore[assignment,return-value]
    for number in range(1, 5):
        actor.contributions.contribute(training_pb2.Rollout(first_world=number), held, continues=True)
    learner.wait_for(lambda: len(learner.rollouts) == 4)


def test_an_actor_that_is_refused_says_so_once_and_plays_on_slowly(
    learner: LearnerDouble, actor: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    learner.send(policy_message(0))
    held = actor.held()
    learner.on_rollout = lambda rollout, context: training_pb2.Receipt.REFUSED
    learner.reason = "main-0 is refused\x1b[2J\nfinished"
    for number in range(1, 3):
        actor.contributions.contribute(training_pb2.Rollout(first_world=number), held, continues=True)
        assert actor.contributions.last_error == "main-0 is refused [2J finished"
    assert actor.contributions.verdicts["REFUSED"] == 2
    said = [message for message in caplog.messages if "is refused" in message]
    assert said == ["main-0 is refused [2J finished: the rollout is dropped"]


def test_a_run_that_has_failed_is_waited_for_and_said_without_codes(
    learner: LearnerDouble, actor: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    has_failed = threading.Event()

    def refuse(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> training_pb2.Receipt.Verdict.ValueType:
        if has_failed.is_set():
            return training_pb2.Receipt.ACCEPTED
        has_failed.set()
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the run has failed: mine:Loss: loss raised")
        raise AssertionError

    learner.on_rollout = refuse
    learner.send(policy_message(0))
    actor.contribute_aside(0, actor.held())
    learner.wait_for(lambda: len(learner.rollouts) == 2)
    said = [record.message for record in caplog.records]
    address = learner.address
    assert said == [
        f"Training service {address}: the run has failed: mine:Loss: loss raised: waiting until the run is continued"
    ]


def test_a_rollout_that_no_service_takes_is_not_sent(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(0))
    held = actor.held()
    actor.contributions.contribute(training_pb2.Rollout(state=["x" * 2**20]), held, continues=True)
    assert actor.contributions.verdicts["REFUSED"] == 1
    assert actor.contributions.last_error is not None
    assert "training.max_message_bytes" in actor.contributions.last_error
    again = actor.contributions.policy(newer_than=held)
    assert again is not None
    assert again.name == held.name
    assert learner.rollouts == []


def test_a_damaged_policy_is_not_played_and_asked_for_again(learner: LearnerDouble, actor: Actor) -> None:
    damaged = policy_message(1)
    damaged.file = damaged.file[:-4] + b"\0\0\0\1"
    pickled = training_pb2.Policy(policy_id="main", version=1, lineage="first", file=b"\x80\x04K\x01.")
    mislabelled = policy_message(2)
    mislabelled.version = 9
    for number, bad in enumerate((damaged, pickled, mislabelled), start=2):
        learner.send(bad)
        learner.wait_for(lambda number=number: len(learner.watched) == number)  # type: ignore[misc]
    learner.send(policy_message(4))
    assert actor.held().policy.version == 4
    assert [policy.version for _, policy in actor.published] == [4]
    assert len(learner.watched) == 4


def test_an_actor_waits_for_another_version_and_tells_lineages_apart(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(6))
    first = actor.held()
    learner.send(policy_message(6, "second"))
    second = actor.contributions.policy(newer_than=first)
    assert second is not None
    assert second.name == ("second", 6)
    learner.send(policy_message(7, "second", finished=True))
    learner.send(policy_message(5, "third"))
    third = actor.contributions.policy(newer_than=second)
    assert third is not None
    assert third.name == ("third", 5)


def test_stopping_wakes_who_waits(learner: LearnerDouble, actor: Actor) -> None:
    waited: list[ReceivedPolicy | None] = []
    waiting = threading.Thread(target=lambda: waited.append(actor.contributions.policy()))
    waiting.start()
    actor.stop.set()
    actor.contributions.close(time.monotonic() + 5)
    waiting.join(30)
    assert waited == [None]


def test_a_service_that_is_not_there_yet_is_waited_for() -> None:
    learner = LearnerDouble()
    learner.stop()
    actor = Actor(learner)
    learner.send(policy_message(2))
    learner.start()
    try:
        assert actor.held().policy.version == 2
    finally:
        actor.close()
        learner.stop()


def test_a_service_that_answers_garbage_is_waited_for(learner: LearnerDouble, actor: Actor) -> None:
    learner.send(policy_message(0))
    held = actor.held()
    learner.stop()
    answered = threading.Event()
    with socket.create_server(("127.0.0.1", learner.port)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(bytes(range(256)) * 64)
                    answered.set()

        garbage = threading.Thread(target=answer)
        garbage.start()
        actor.contribute_aside(3, held)
        assert answered.wait(30)
        listener.shutdown(socket.SHUT_RDWR)
        garbage.join(30)
    learner.start()
    learner.wait_for(lambda: bool(learner.rollouts))
    assert learner.rollouts[-1].first_world == 3
    learner.send(policy_message(1))
    newer = actor.contributions.policy(newer_than=held)
    assert newer is not None
    assert newer.policy.version == 1


def test_a_stream_on_which_nothing_comes_is_begun_anew() -> None:
    """As after a damaged length: the service waits for the rest of a rollout, and the actor for a receipt."""
    learner = LearnerDouble()
    actor = Actor(learner, answer_seconds=1.0)
    stuck = threading.Event()

    def swallow(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> training_pb2.Receipt.Verdict.ValueType:
        if not stuck.is_set():
            stuck.set()
            context.add_callback(gone.set)
            gone.wait(60)
        return training_pb2.Receipt.ACCEPTED

    gone = threading.Event()
    learner.on_rollout = swallow
    learner.send(policy_message(0))
    try:
        actor.contributions.contribute(training_pb2.Rollout(first_world=4), actor.held(), continues=False)
        learner.wait_for(lambda: len(learner.rollouts) == 2)
        assert {(rollout.first_world, rollout.sequence) for rollout in learner.rollouts} == {(4, 1)}
        learner.send(policy_message(1))
        learner.wait_for(lambda: learner.watched[-1].known_version == 1)  # and so is one that brings no policy
    finally:
        actor.close()
        learner.stop()
