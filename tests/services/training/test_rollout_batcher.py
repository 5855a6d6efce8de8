"""Every rollout counts at most once, whatever is repeated, reordered or started again; updates get what they should."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.services.training.rollout_batcher import Origin, ReceivedRollout, RolloutBatcher, Verdict
from rattle.wire.problems import RequestError

WORLDS = 6
SHARES = [(0, 2), (2, 1), (3, 3)]  # first world, worlds: actor i plays share i

#: What a test offers: the content is the origin itself, so that what is learnt from says who played it.
TestIntake = RolloutBatcher[Origin]


def in_order(**changes: Any) -> TestIntake:
    return RolloutBatcher(WORLDS, "here", **{"in_order": True, "max_policy_age": 2, "max_waiting": 2, **changes})


def as_it_comes(**changes: Any) -> TestIntake:
    return in_order(in_order=False, **changes)


def origin(player: int = 0, sequence: int = 1, version: int = 0, **changes: Any) -> Origin:
    first, worlds = SHARES[player]
    whole = Origin(f"actor-{player}", "life", sequence, sequence > 1, first, worlds, version, "here")
    return replace(whole, **changes)


def offer(intake: TestIntake, one: Origin) -> Verdict:
    return intake.offer(one, one)[0]


def update(intake: TestIntake) -> list[Origin]:
    """Make the update that is due and return what was learnt from."""
    parts = intake.take()
    intake.learnt(parts, intake.version + 1)
    return [part.content for part in parts]


class TestInOrder:
    def test_an_update_waits_for_all_worlds_and_orders_them(self) -> None:
        intake = in_order()
        for actor in (2, 0, 1):
            assert not intake.is_due
            assert offer(intake, origin(actor)) is Verdict.ACCEPTED
        assert intake.is_due
        assert [one.first_world for one in update(intake)] == [0, 2, 3]
        assert not intake.is_due
        assert len(intake) == 0

    def test_another_rollout_of_the_same_worlds_and_version_is_a_duplicate(self) -> None:
        intake = in_order()
        assert offer(intake, origin(0, life="one")) is Verdict.ACCEPTED
        assert offer(intake, origin(0, life="two")) is Verdict.DUPLICATE
        assert offer(intake, origin(0, actor="another", first_world=1, worlds=1)) is Verdict.DUPLICATE
        for actor in (1, 2):
            offer(intake, origin(actor))
        taken = intake.take()
        assert offer(intake, origin(0, life="three")) is Verdict.DUPLICATE  # while the update is being made
        intake.learnt(taken, 1)
        assert offer(intake, origin(0, 1, version=1, life="three")) is Verdict.ACCEPTED

    def test_worlds_that_are_divided_otherwise_take_the_place_of_what_waits(self) -> None:
        intake = in_order()
        offer(intake, origin(0))
        assert offer(intake, origin(0, actor="another", first_world=1, worlds=2)) is Verdict.ACCEPTED
        assert intake.counts[Verdict.STALE] == 1
        assert len(intake) == 1
        for number in range(3):
            assert offer(intake, origin(number, 2)) is Verdict.ACCEPTED
        assert intake.is_due
        assert [one.actor for one in update(intake)] == ["actor-0", "actor-1", "actor-2"]

    def test_what_cannot_be_learnt_from_is_to_be_played_again(self) -> None:
        intake = in_order()
        for actor in range(3):
            offer(intake, origin(actor))
        assert intake.is_due
        intake.drop(intake.take(), "second")
        assert not intake.is_due
        assert offer(intake, origin(0, 2)) is Verdict.STALE
        for actor in range(3):
            assert offer(intake, origin(actor, 3, lineage="second")) is Verdict.ACCEPTED
        assert not any(part.follows for part in intake.take())

    def test_what_could_not_be_learnt_from_is_followed_by_nothing(self) -> None:
        intake = in_order()
        for actor in range(3):
            offer(intake, origin(actor))
        intake.drop(intake.take(), "second")
        for actor in range(3):
            offer(intake, origin(actor, 2, lineage="second"))
        assert not any(part.follows for part in intake.take())

    def test_an_actor_never_waits(self) -> None:
        intake = in_order(max_waiting=1)
        for actor in range(3):
            offer(intake, origin(actor))
        assert not intake.must_wait("actor-0")

    def test_an_update_out_of_turn_makes_what_waits_stale(self) -> None:
        intake = in_order()
        offer(intake, origin(0))
        intake.learnt([], 1)
        assert len(intake) == 0
        assert intake.counts[Verdict.STALE] == 1
        assert offer(intake, origin(0, 2, version=1)) is Verdict.ACCEPTED


class TestAsItComes:
    def test_an_update_is_due_when_as_many_worlds_wait_as_the_run_has(self) -> None:
        intake = as_it_comes()
        for sequence in range(1, 3):
            assert offer(intake, origin(2, sequence)) is Verdict.ACCEPTED
            assert intake.is_due == (sequence == 2)
        assert [one.sequence for one in update(intake)] == [1, 2]

    def test_what_waits_longest_is_learnt_from_first(self) -> None:
        intake = as_it_comes()
        offered = [origin(actor, sequence) for sequence in (1, 2) for actor in (1, 2, 0)]
        for one in offered:
            offer(intake, one)
        assert update(intake) == offered[:3]
        assert len(intake) == 3

    def test_ages_are_bounded_on_arrival_and_while_waiting(self) -> None:
        intake = as_it_comes()
        intake.restore(intake.state(), 5)
        assert offer(intake, origin(0, 1, version=2)) is Verdict.STALE
        assert offer(intake, origin(0, 2, version=3)) is Verdict.ACCEPTED
        assert offer(intake, origin(1, 1, version=5)) is Verdict.ACCEPTED
        intake.learnt([], 6)
        assert len(intake) == 1
        assert intake.counts[Verdict.STALE] == 2
        offer(intake, origin(2, 1, version=6))
        assert not intake.is_due  # the dropped one is not waited for

    def test_an_actor_waits_while_its_rollouts_fill_the_queue(self) -> None:
        intake = as_it_comes(max_waiting=2)
        for sequence in (1, 2):
            offer(intake, origin(2, sequence))
        assert intake.is_due
        assert intake.must_wait("actor-2")
        assert not intake.must_wait("actor-0")
        update(intake)
        assert not intake.must_wait("actor-2")

    def test_nobody_waits_as_long_as_there_is_not_enough_for_an_update(self) -> None:
        intake = as_it_comes(max_waiting=1)
        for sequence in range(1, 5):
            offer(intake, origin(1, sequence))
            assert not intake.must_wait("actor-1")  # else, alone, it would wait for ever

    def test_actors_together_wait_too(self) -> None:
        intake = as_it_comes(max_waiting=2)
        for number in range(2 * WORLDS):
            assert not intake.must_wait(f"actor {number}")
            offer(intake, origin(1, actor=f"actor {number}"))
        assert intake.must_wait("a newcomer")


@pytest.mark.parametrize("make", [in_order, as_it_comes])
class TestInBothModes:
    def test_a_rollout_counts_once(self, make: Callable[[], TestIntake]) -> None:
        intake = make()
        verdicts = [offer(intake, origin()) for _ in range(3)]
        assert verdicts == [Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.DUPLICATE]

    def test_other_lineages_are_stale(self, make: Callable[[], TestIntake]) -> None:
        assert offer(make(), origin(1, 7, version=99, lineage="before")) is Verdict.STALE

    def test_versions_that_were_never_made_are_refused_by_field(self, make: Callable[[], TestIntake]) -> None:
        intake = make()
        with pytest.raises(RequestError, match="policy_version: 1 was never made, the newest is 0") as refused:
            offer(intake, origin(version=1))
        assert refused.value.field == "policy_version"
        assert offer(intake, origin()) is Verdict.ACCEPTED  # nothing was counted


def test_what_was_learnt_is_known_after_a_restart_and_what_only_waited_is_not() -> None:
    intake = as_it_comes()
    for sequence in (1, 2, 3):
        offer(intake, origin(2, sequence))
    update(intake)
    after = RolloutBatcher[Origin](WORLDS, "later", in_order=False, max_policy_age=2, max_waiting=2)
    after.restore(json.loads(json.dumps(intake.state())), intake.version)
    assert [offer(after, origin(2, sequence)) for sequence in (1, 2, 3)] == [
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
        Verdict.STALE,
    ]
    assert after.follow(origin(2, 3, version=1, lineage="later"))
    assert after.state()["lives"] == [("actor-2", "life", 2, 0, 3, 3, 2)]


@pytest.mark.parametrize("state", [{}, {"lives": []}, {"lives": [[1]], "followed": []}, {"lives": 3, "followed": []}])
def test_a_state_that_is_none_is_noticed(state: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        in_order().restore(state, 0)


def test_lives_are_forgotten_when_nothing_of_them_could_count_again() -> None:
    intake = as_it_comes()
    for number in range(3000):
        life = f"life {number}"
        one = origin(0, version=intake.version, life=life, first_world=0, worlds=WORLDS)
        assert offer(intake, one) is Verdict.ACCEPTED
        update(intake)
        assert offer(intake, one) is Verdict.DUPLICATE
    assert len(intake.state()["lives"]) <= 1100
    assert offer(intake, origin(0, version=0, life="life 0", worlds=WORLDS)) is Verdict.STALE
    assert dict(intake.actors()).keys() == {"actor-0"}


def test_no_life_is_forgotten_while_something_of_it_could_count_again() -> None:
    intake = as_it_comes(max_policy_age=10_000)
    played = [origin(0, version=0, life=f"life {number}", worlds=WORLDS) for number in range(1500)]
    for one in played:
        assert offer(intake, one) is Verdict.ACCEPTED
        update(intake)
    assert {offer(intake, one) for one in played} == {Verdict.DUPLICATE}


@dataclass
class Event:
    """An actor's message that arrives: a new rollout, an earlier one again, or the first of another life."""

    actor: int
    kind: str
    which: int


EVENTS = st.lists(
    st.builds(
        Event,
        st.integers(0, len(SHARES) - 1),
        st.sampled_from(["new", "new", "new", "again", "restart", "late"]),
        st.integers(0, 5),
    ),
    max_size=200,
)


class Actors:
    """Actors that play with the newest policy, and send things twice, late or from other lives."""

    def __init__(self) -> None:
        self.sent: list[list[Origin]] = [[] for _ in SHARES]
        self.lives = [0] * len(SHARES)

    def message(self, event: Event, version: int) -> Origin:
        earlier = self.sent[event.actor]
        if event.kind == "again" and earlier:
            return earlier[-1 - event.which % len(earlier)]
        if event.kind == "late" and version:
            version = max(0, version - event.which)
        if event.kind == "restart":
            self.lives[event.actor] += 1
        life = f"life {self.lives[event.actor]}"
        sequence = 1 + sum(one.life == life for one in earlier)
        message = origin(event.actor, sequence, version, life=life)
        earlier.append(message)
        return message


def play(intake: TestIntake, events: Sequence[Event]) -> list[list[Origin]]:
    """Let things happen and return what each update learnt from."""
    actors, updates = Actors(), []
    for event in events:
        if intake.must_wait(f"actor-{event.actor}"):
            continue  # its stream is not read
        offer(intake, actors.message(event, intake.version))
        while intake.is_due and event.which != 3:  # now and then the learner is busy
            updates.append(update(intake))
    return updates


@given(EVENTS)
@settings(max_examples=300)
def test_in_order_every_update_has_each_world_once_by_the_newest_version(events: list[Event]) -> None:
    for version, taken in enumerate(play(in_order(), events)):
        assert [(one.first_world, one.worlds, one.policy_version) for one in taken] == [
            (first, worlds, version) for first, worlds in SHARES
        ]


@given(EVENTS, st.integers(0, 3), st.integers(1, 3))
@settings(max_examples=300)
def test_as_it_comes_nothing_counts_twice_or_too_old_and_the_queue_is_bounded(
    events: list[Event], max_age: int, max_waiting: int
) -> None:
    intake = as_it_comes(max_policy_age=max_age, max_waiting=max_waiting)
    actors, counted = Actors(), set()
    for event in events:
        if not intake.must_wait(f"actor-{event.actor}"):
            offer(intake, actors.message(event, intake.version))
        assert len(intake) <= max_waiting * len(SHARES) + WORLDS
        if intake.is_due and event.which < 3:
            taken = update(intake)
            assert WORLDS <= sum(one.worlds for one in taken) < 2 * WORLDS
            assert all(intake.version - 1 - one.policy_version <= max_age for one in taken)
            names = {(one.actor, one.life, one.sequence) for one in taken}
            assert len(names) == len(taken)
            assert not names & counted
            counted |= names


SPANS = st.tuples(st.integers(0, 5), st.integers(1, 3)).filter(lambda span: sum(span) <= WORLDS)


@given(st.lists(st.tuples(SPANS, st.integers(0, 2), st.integers(1, 4), st.booleans()), max_size=60))
@settings(max_examples=300)
def test_a_rollout_follows_when_the_one_before_was_the_last_of_each_of_its_worlds(
    learnt: list[tuple[tuple[int, int], int, int, bool]],
) -> None:
    intake, last_of = in_order(), dict[int, Origin]()
    for (first, worlds), life, sequence, continues in learnt:
        one = origin(first_world=first, worlds=worlds, life=f"{life}", sequence=sequence, continues=continues)
        own = range(first, first + worlds)
        before = replace(one, sequence=sequence - 1)
        expected = continues and all(
            world in last_of and replace(last_of[world], continues=continues) == before for world in own
        )
        # A rollout of only some of an earlier one's worlds leaves the others without one that follows.
        for world in [world for world, other in last_of.items() if not expected and _touch(other, one)]:
            del last_of[world]
        last_of.update(dict.fromkeys(own, one))
        assert intake.follow(one) == expected
        intake.learnt([ReceivedRollout(one, one, expected)], intake.version + 1)


def _touch(other: Origin, one: Origin) -> bool:
    return other.first_world < one.first_world + one.worlds and one.first_world < other.first_world + other.worlds
