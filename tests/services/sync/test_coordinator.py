from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.clients.lockstep import Member, MemberAnswer, Work
from rattle.services.sync.coordinator import Coordinator
from rattle.services.sync.gathering import beginning
from rattle.services.sync.tick_barrier import TickBarrier
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import ALL_IDLE, LAST, MAX_NUMBER, Bye, Codec, Join, Phase, Ping, Role, Unknown
from tests.wire.test_lockstep import datagrams

HERE, THERE = ("10.0.0.1", 1), ("10.0.0.2", 1)
SESSION = 77


class Party:
    """A coordinator and members over a network that loses nothing: a call is over when nothing more is said."""

    def __init__(
        self,
        most_ticks: int = 0,
        hashes: dict[str, dict[str, bytes]] | None = None,
        *,
        idle: bool = False,
        key: bytes | None = None,
        **settings: Any,
    ) -> None:
        self.key = key
        self.settings = SyncSection.model_validate({"members": 2, **settings})
        self.now = 0.0
        self.start_service(SESSION)
        self.members: dict[tuple[str, int], Member] = {}
        self.hashes = hashes or {}
        self.idle = idle
        self.deaf: set[tuple[str, int]] = set()
        self.to_service: list[tuple[tuple[str, int], bytes]] = []  # all datagrams that were sent
        self.to_members: list[tuple[tuple[str, int], bytes]] = []
        self.most_ticks = most_ticks  # of later ones, members do not finish the work
        self.told: dict[str, list[Work]] = defaultdict(list)  # by member, the work that it has done
        self.stepped_at: list[float] = []

    def start_service(self, session: int) -> None:
        self.coordinator = Coordinator(self.settings, Codec(self.key, is_service=True), session)
        self.coordinator.begin(self.now)

    def join(self, name: str, role: Role, life: int = 1) -> Member:
        address = name, life
        member = self.members[address] = Member(name, role, life, Codec(self.key))
        self._hear_all(address, member.begin(self.now))
        return member

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            self._carry(self.coordinator.wake(self.now))
            for address, member in self.members.items():
                if member.wake_at() <= self.now:
                    self._hear_all(address, member.wake(self.now))

    def texts(self, level: str) -> list[str]:
        return [str(event) for event in self.coordinator.out.events if event.level == level]

    def _hear_all(self, address: tuple[str, int], said: list[bytes]) -> None:
        if address not in self.deaf:
            for data in said:
                self.to_service.append((address, data))
                self._carry(self.coordinator.receive(data, address, self.now))

    def _carry(self, datagrams: list[tuple[tuple[str, int], bytes]]) -> None:
        for address, data in datagrams:
            self.to_members.append((address, data))
            member = self.members.get(address)
            if member is None or address in self.deaf:
                continue
            said = member.receive(data, self.now)
            work = member.take_work()
            if work is not None and work.tick <= self.most_ticks:
                self.told[member.name].append(work)
                if work.phase == Phase.STEP:
                    self.stepped_at.append(self.now)
                said += member.finish(MemberAnswer(self.hashes.get(member.name, {}), self.idle), self.now)
            self._hear_all(address, said)


def begun(most_ticks: int = 0, **settings: Any) -> Party:
    party = Party(most_ticks, **settings)
    party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    return party


def test_it_begins_when_as_many_have_come_as_are_wanted() -> None:
    party = Party(members=2)
    env = party.join("env", Role.ENVIRONMENT)
    assert (env.state, env.reason) == ("gathering", "1 of 2 members are there")
    assert not party.coordinator.leader.has_begun
    scout = party.join("scout", Role.AGENT)
    party.pass_time(1.0)
    assert env.state == scout.state == "seated"
    assert (party.coordinator.leader.session, party.coordinator.leader.epoch) == (SESSION, 1)


def test_who_is_missing_is_said_again_and_again() -> None:
    party = Party(participants=("env", "scout"))
    party.join("env", Role.ENVIRONMENT)
    party.pass_time(9.0)
    said = party.texts("WARNING")
    assert [text.partition(", for ")[0] for text in said] == ["waiting for scout to join"] * 3
    assert said[0].endswith("for 2 s")


def test_only_those_who_are_named_take_part() -> None:
    party = Party(participants=("env", "scout"))
    stranger = party.join("spy", Role.AGENT)
    assert stranger.state == "ended"
    assert stranger.reason == "'spy' is not one of sync.participants: env, scout"


def test_an_earlier_life_is_refused_and_a_later_one_takes_its_place() -> None:
    party = begun(most_ticks=5)
    earlier = party.members["scout", 1]
    later = party.join("scout", Role.AGENT, life=2)
    assert later.state == "seated"
    assert party.coordinator.leader.rounds.tick == 6
    party.pass_time(5.0)
    assert earlier.state == "ended"
    assert "later life" in earlier.reason
    assert party.texts("WARNING") == ["scout has been started again, and takes its place"]


def test_a_new_life_by_a_clock_that_was_set_back_takes_the_place_all_the_same() -> None:
    party = Party(most_ticks=5)
    party.join("env", Role.ENVIRONMENT)
    earlier = party.join("scout", Role.AGENT, life=1_000)
    new = party.join("scout", Role.AGENT, life=10)
    party.pass_time(5.0)
    assert (new.state, new.life, earlier.state) == ("seated", 1_001, "ended")
    assert party.coordinator.leader.rounds.tick == 6


def test_of_two_with_one_name_that_wait_for_others_the_later_stays() -> None:
    party = Party(participants=("env", "scout"))
    earlier = party.join("scout", Role.AGENT, life=1_000)
    new = party.join("scout", Role.AGENT, life=10)
    party.pass_time(5.0)
    assert (new.state, earlier.state) == ("gathering", "ended")
    assert "later life" in earlier.reason


def test_a_life_that_no_number_follows_keeps_its_place() -> None:
    party = Party(participants=("env", "scout"))
    first = party.join("scout", Role.AGENT, life=MAX_NUMBER)
    second = party.join("scout", Role.AGENT, life=10)
    assert (first.state, second.state) == ("gathering", "ended")


def test_members_that_differ_about_a_subject_are_named_with_the_first_tick() -> None:
    agreeing = {"env": {"env": b"worldenv", "s": b"the same"}, "scout": {"s": b"the same"}}
    party = begun(most_ticks=4, hashes=agreeing)
    assert party.coordinator.leader.rounds.tick == 5
    assert party.coordinator.leader.agreement.found == {}
    differing = {"env": {"env": b"worldenv", "s": b"of env.."}, "scout": {"s": b"of scout"}}
    party = begun(most_ticks=4, hashes=differing)
    (found,) = party.coordinator.leader.agreement.found.values()
    assert found[:3] == ("s", 1, ("env", "scout"))
    assert party.texts("ERROR") == ["env and scout disagree about s from tick 1 on"]
    assert party.coordinator.status(party.now)["disagreements"][0]["hashes"] == (b"of env..".hex(), b"of scout".hex())


@pytest.mark.parametrize("silent", ["wait", "drop", "forward"])
def test_a_silent_environment_is_waited_for(silent: str) -> None:
    party = begun(silent=silent)
    party.deaf.add(("env", 1))
    party.pass_time(3.0)
    assert "env has not been heard for 2 s: it is waited for" in party.texts("WARNING")
    assert "env" in party.coordinator.leader.seats


@pytest.mark.parametrize("silent", ["drop", "forward"])
def test_nobody_is_told_that_all_are_idle_while_an_agent_is_away(silent: str) -> None:
    party = Party(60, members=3, silent=silent, frequency=10, idle=True)
    party.join("env", Role.ENVIRONMENT)
    scout = party.join("scout", Role.AGENT)
    party.join("guard", Role.AGENT)
    party.pass_time(0.5)
    assert party.coordinator.leader.rounds.flags == ALL_IDLE or party.coordinator.leader.rounds.phase == Phase.STEP
    party.deaf.add(("guard", 1))
    party.pass_time(4.0)
    assert scout.done_tick > 10
    assert party.coordinator.leader.rounds.flags == 0
    party.deaf = {("env", 1)}  # the guard comes back in the middle of a tick
    party.pass_time(1.0)
    assert party.coordinator.leader.rounds.phase == Phase.STEP
    party.deaf.clear()
    party.pass_time(2.0)
    assert party.coordinator.leader.seats["guard"].state == "present"
    party.pass_time(0.3)
    assert party.coordinator.leader.rounds.flags == ALL_IDLE or party.coordinator.leader.rounds.phase == Phase.STEP
    answered = {name: {work.tick for work in party.told[name]} for name in ("scout", "guard")}
    after_all = [work.tick - 1 for work in party.told["scout"] if work.all_idle]
    assert answered["guard"].issuperset(after_all)
    assert answered["scout"] == set(range(1, scout.done_tick + 1))


def test_a_later_life_of_one_who_is_away_has_its_turn_with_the_others() -> None:
    party = Party(60, members=3, silent="forward", frequency=10)
    party.join("env", Role.ENVIRONMENT)
    scout = party.join("scout", Role.AGENT)
    party.join("guard", Role.AGENT)
    party.deaf.add(("guard", 1))
    party.pass_time(3.0)
    leader = party.coordinator.leader
    assert leader.seats["guard"].state == "absent"
    while leader.rounds.waiting:
        party.pass_time(0.05)
    assert leader.rounds.phase == Phase.ACT  # which waits for its time
    later = party.join("guard", Role.AGENT, life=2)
    assert later.done_tick == 0
    party.pass_time(0.5)
    assert later.done_tick == scout.done_tick
    assert [work.tick for work in party.told["scout"]] == list(range(1, scout.done_tick + 1))


def test_an_agent_is_played_on_without_and_comes_back() -> None:
    party = Party(40, members=3, silent="forward")
    env = party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.deaf.add(("scout", 1))
    party.join("guard", Role.AGENT)
    party.pass_time(4.0)
    assert env.done_tick == 40
    assert party.coordinator.leader.rounds.absent == ("scout",)
    party.deaf.clear()
    party.pass_time(1.0)
    assert party.coordinator.leader.seats["scout"].state == "present"
    assert "scout is heard again" in " ".join(party.texts("WARNING"))


def test_goodbyes_are_answered_and_nobody_waits_for_who_has_left() -> None:
    party = begun(most_ticks=3)
    scout = party.members["scout", 1]
    party._hear_all(("scout", 1), scout.leave(party.now))
    assert scout.state == "ended"
    assert list(party.coordinator.leader.seats) == ["env"]


def test_after_the_last_tick_loose_ends_are_tied_up_and_all_hear_that_it_is_over() -> None:
    party = Party(10, ticks=3)
    env, scout = party.join("env", Role.ENVIRONMENT), party.join("scout", Role.AGENT)
    party.pass_time(0.1)
    assert (env.done_tick, scout.done_tick) == (3, 4)
    assert (env.state, env.reason, scout.state) == ("ended", "the run is over", "ended")
    assert party.coordinator.leader.finished
    late = party.join("late", Role.AGENT)
    assert (late.state, late.reason) == ("ended", "the run is over")


def test_ticks_keep_their_distance() -> None:
    party = Party(1000, frequency=4)
    party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.pass_time(10.0)
    assert 38 <= party.coordinator.leader.rounds.tick <= 43  # time passes in steps of a twentieth


def test_what_was_missed_is_not_made_up_for() -> None:
    party = begun(most_ticks=1000, frequency=2)
    party.pass_time(2.0)
    party.now += 3.3  # in which the service stands still
    party.pass_time(2.0)
    assert len(party.stepped_at) >= 8
    assert all(later - earlier > 0.4 for earlier, later in pairwise(party.stepped_at))


@pytest.mark.parametrize("silent", ["drop", "forward"])
def test_a_service_that_stood_still_blames_nobody(silent: str) -> None:
    party = begun(most_ticks=1000, frequency=10, silent=silent)
    party.pass_time(1.0)
    party.now += 5.0
    party.pass_time(1.0)
    assert party.texts("WARNING") == []
    assert party.members["scout", 1].done_tick > 15
    party.deaf.add(("scout", 1))
    party.pass_time(4.0)
    assert len(party.texts("WARNING")) == 1


@pytest.mark.parametrize(("ticks", "flags"), [(None, 0), (5, LAST), (9, 0)])
def test_which_tick_is_the_last_is_said_by_the_settings_of_this_life(ticks: int | None, flags: int) -> None:
    killed_in_the_last_phase = Join(1, "scout", Role.AGENT, SESSION, 1, 6, 1, LAST, False)
    rounds = TickBarrier(None, ticks)
    rounds.start(beginning([killed_in_the_last_phase], SESSION + 1))
    assert (rounds.tick, rounds.phase, rounds.flags) == (6, Phase.ACT, flags)


def test_who_does_not_know_all_is_not_compared_in_a_later_epoch_either() -> None:
    same = {"s": b"the same"}
    party = Party(1000, {"env": same, "scout": same}, frequency=10)
    party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.pass_time(1.0)
    party.hashes["scout"] = {"s": b"of late."}
    party.join("scout", Role.AGENT, life=2)
    party.pass_time(1.0)
    party.coordinator = Coordinator(party.coordinator.settings, Codec(), SESSION + 1)
    party.coordinator.begin(party.now)
    party.pass_time(5.0)
    assert party.coordinator.leader.epoch == 2
    assert party.members["scout", 2].done_tick > 30
    assert party.texts("ERROR") == []


def test_who_knows_all_is_compared_in_a_later_epoch_too() -> None:
    same = {"s": b"the same"}
    party = Party(1000, {"env": same, "scout": same}, frequency=10)
    party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.pass_time(1.0)
    party.coordinator = Coordinator(party.coordinator.settings, Codec(), SESSION + 1)
    party.coordinator.begin(party.now)
    party.pass_time(5.0)
    assert party.texts("ERROR") == []
    party.hashes["scout"] = {"s": b"of late."}
    party.pass_time(1.0)
    assert len(party.texts("ERROR")) == 1


@given(st.lists(datagrams, max_size=60), st.integers(0, 2**32))
def test_strangers_change_nothing(said: list[Any], seed: int) -> None:
    """Well-formed datagrams from where no member is: nobody's seat, work or place is touched."""
    party = begun(most_ticks=5)
    before = party.coordinator.leader.rounds.tick
    seats = dict(party.coordinator.leader.seats)
    random = Random(seed)  # noqa: S311 - of a test
    for datagram in said:
        if isinstance(datagram, Join) and datagram.name in seats:
            continue
        answers = party.coordinator.receive(Codec().encode(datagram), THERE, random.random())
        assert all(address == THERE for address, _ in answers) or isinstance(datagram, Join)
        assert len(answers) <= 2
    assert party.coordinator.leader.seats.items() >= seats.items()
    assert party.coordinator.leader.rounds.tick == before


def test_what_is_of_another_epoch_is_answered_with_its_own_numbers() -> None:
    party = begun()
    late = Bye(SESSION, 9, 1, "")
    assert party.coordinator.receive(Codec().encode(late), ("env", 1), 0.0) == []
    ((address, data),) = party.coordinator.receive(Codec().encode(Ping(SESSION, 9, 1, 1)), ("env", 1), 0.0)
    assert (address, Codec().decode(data)) == (("env", 1), Unknown(SESSION, 9, 1))
    assert party.coordinator.out.counts["late"] == 2


def test_phases_are_told_with_the_tick_that_their_hashes_are_of() -> None:
    party = Party(10, ticks=2, hashes={"env": {"env": b"worldenv"}, "scout": {"s": b"the same"}})
    party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.pass_time(0.1)
    assert [(one.tick, one.phase, list(one.hashes)) for one in party.coordinator.leader.phases] == [
        (0, Phase.ACT, ["s"]),
        (1, Phase.STEP, ["env"]),
        (1, Phase.ACT, ["s"]),
        (2, Phase.STEP, ["env"]),
        (2, Phase.ACT, ["s"]),
    ]


def test_a_name_keeps_its_role() -> None:
    party = begun(most_ticks=3)
    other = party.join("env", Role.AGENT, life=2)
    assert (other.state, other.reason) == (
        "ended",
        "'env' is an environment in this run: choose another name (sync.name)",
    )
    assert party.coordinator.leader.rounds.tick == 4


def test_who_has_come_and_gone_before_the_beginning_is_not_counted() -> None:
    party = Party()
    party.join("ghost", Role.AGENT)
    party.deaf.add(("ghost", 1))
    party.pass_time(15.0)
    assert "ghost has left again" in party.texts("WARNING")
    party.join("env", Role.ENVIRONMENT)
    assert not party.coordinator.leader.has_begun


def test_a_doubled_join_whose_welcome_is_lost_holds_up_nobody() -> None:
    party = begun(most_ticks=3)
    party.most_ticks = 0  # what is told now is answered below
    doubled = Codec().encode(Join(1, "scout", Role.AGENT, 0, 0, 0, 0, 0, False))
    party.coordinator.receive(doubled, ("scout", 1), party.now)  # the welcome is lost
    scout = party.members["scout", 1]
    party.most_ticks = 10
    party._hear_all(("scout", 1), scout.finish(MemberAnswer({}), party.now))
    party.pass_time(1.0)
    assert party.coordinator.leader.rounds.tick == 11


def test_who_has_done_more_than_those_who_began_takes_them_along() -> None:
    party = begun(most_ticks=3)
    ahead = Join(1, "far", Role.AGENT, SESSION, 1, 50, 1, 0, False)
    party.coordinator.receive(Codec().encode(ahead), ("far", 1), party.now)
    party.most_ticks = 60
    party._hear_all(("scout", 1), party.members["scout", 1].finish(MemberAnswer({}), party.now))
    assert "far has done more than those who were there: the run continues with tick 51" in party.texts("WARNING")
    assert party.coordinator.leader.rounds.tick == 51


def test_a_member_that_leaves_is_not_called_back() -> None:
    party = begun()
    scout = party.members["scout", 1]
    scout.leave(party.now)
    scout.receive(Codec().encode(Unknown(*scout.place)), party.now)
    assert scout.state == "ended"


def test_who_missed_the_goodbye_hears_that_the_run_is_over() -> None:
    party = Party(1, ticks=1)
    env = party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.deaf.add(("env", 1))
    party.most_ticks = 2
    party._hear_all(("scout", 1), party.members["scout", 1].finish(MemberAnswer({}), party.now))
    assert party.coordinator.leader.finished
    party.pass_time(10.0)
    assert env.state == "joining"
    party.deaf.clear()
    party.pass_time(1.0)
    assert (env.state, env.reason) == ("ended", "the run is over")


def test_a_service_that_is_started_again_goes_on_without_a_word_of_warning() -> None:
    party = begun(most_ticks=7)
    party.coordinator = Coordinator(party.coordinator.settings, Codec(), SESSION + 1)
    party.coordinator.begin(party.now)
    party.pass_time(5.0)
    leader = party.coordinator.leader
    assert (leader.session, leader.epoch, leader.rounds.tick) == (SESSION, 2, 8)
    assert party.texts("WARNING") == []
