"""Strangers who have no key, and what they have recorded: nobody is led astray, kept alive or done away with by it."""

from __future__ import annotations

from typing import Any

import pytest

from rattle.services.sync.seats import Address
from rattle.wire.lockstep import (
    Bye,
    Codec,
    Datagram,
    Done,
    Gathering,
    Join,
    Phase,
    Ping,
    Pong,
    Ready,
    Role,
    SeatRefused,
    Seen,
    Tick,
    Unknown,
    Welcome,
    Working,
)
from tests.services.sync.test_coordinator import SESSION, THERE, Party

KEY = b"sixteen bytes at least"
PLACE = SESSION, 1, 2
SAID: list[Datagram] = [
    Join(7, "scout", Role.AGENT, SESSION, 1, 3, 1, 0, False, True, SESSION),
    Gathering(7, 1, 2, SESSION, 1),
    Welcome(7, *PLACE, 1, 500, 3),
    Ready(*PLACE, 1),
    Tick(*PLACE, 4, Phase.ACT, 1, 1, ("guard",)),
    Working(*PLACE, 4, Phase.ACT, 1),
    Done(*PLACE, 4, Phase.ACT, 1, True, {"scout": b"of scout"}),
    Seen(*PLACE, 4, Phase.ACT),
    Ping(*PLACE, 1),
    Pong(*PLACE, 1),
    Unknown(*PLACE),
    SeatRefused(7, "the run is over", 8, 3),
    Bye(*PLACE, "dropped"),
]


def sealed(most_ticks: int, **settings: Any) -> Party:
    """Return a run of an environment and an agent that has made so many ticks."""
    party = Party(most_ticks, key=KEY, frequency=10, **settings)
    party.join("env", Role.ENVIRONMENT)
    party.join("scout", Role.AGENT)
    party.pass_time(1.0)
    assert party.members["env", 1].done_tick > 2
    return party


def seats(party: Party) -> dict[str, tuple[int, int, Address, str]]:
    leader = party.coordinator.leader
    return {name: (seat.number, seat.life, seat.address, seat.state) for name, seat in leader.seats.items()}


def replay_to_service(party: Party, datagrams: list[tuple[Address, bytes]]) -> None:
    for address, data in datagrams:
        party._carry(party.coordinator.receive(data, address, party.now))


def replay_to_members(party: Party, datagrams: list[tuple[Address, bytes]]) -> None:
    """Send what was sent to a member to every later life of it."""
    for (name, _), data in datagrams:
        for address, member in party.members.items():
            if address[0] == name:
                party._hear_all(address, member.receive(data, party.now))


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_a_bit_that_is_flipped_anywhere_is_noticed(said: Datagram) -> None:
    is_of_service = isinstance(said, Gathering | Welcome | Tick | Seen | Unknown | SeatRefused)
    writer, reader = Codec(KEY, is_service=is_of_service), Codec(KEY, is_service=not is_of_service)
    right = writer.encode(said)
    for bit in range(len(right) * 8):
        changed = bytearray(right)
        changed[bit // 8] ^= 1 << bit % 8
        assert reader.decode(bytes(changed)) is None
    assert reader.dropped["unauthenticated"] == len(right) * 8
    assert reader.decode(right) == said


@pytest.mark.parametrize("key", [None, b"another key, as long"])
def test_who_has_no_key_takes_no_seat_and_stops_nobody(key: bytes | None) -> None:
    party = sealed(1000)
    before, tick = seats(party), party.coordinator.leader.rounds.tick
    stranger = Codec(key)
    forged = [Join(2**62, name, Role.AGENT, 0, 0, 0, 0, 0, False) for name in ("scout", "env", "guard")]
    for said in (*forged, *SAID):
        for address in (THERE, ("scout", 1)):
            assert party.coordinator.receive(stranger.encode(said), address, party.now) == []
        assert party.members["scout", 1].receive(stranger.encode(said), party.now) == []
    for data in (b"", b"\x93", bytes(24), bytes(1500)):
        assert party.coordinator.receive(data, THERE, party.now) == []
    party.pass_time(1.0)
    assert seats(party) == before
    assert party.coordinator.leader.rounds.tick > tick + 8
    assert party.texts("WARNING") == [
        "datagrams without the right seal are dropped: is the token, or sync.key_file, the same everywhere?"
    ]


def test_who_waits_for_others_takes_its_seat_when_they_come() -> None:
    party = Party(key=KEY)
    env = party.join("env", Role.ENVIRONMENT)
    assert env.state == "gathering"
    party.join("scout", Role.AGENT)
    assert env.state == "seated"


def test_what_was_recorded_in_this_life_of_the_service_is_not_taken_twice() -> None:
    party = sealed(1000)
    for _ in range(3):
        before, tick, done = seats(party), party.coordinator.leader.rounds.tick, party.members["env", 1].done_tick
        to_service, to_members = list(party.to_service), list(party.to_members)
        replay_to_service(party, to_service)
        replay_to_service(party, [(THERE, data) for _, data in to_service])
        replay_to_members(party, to_members)
        assert seats(party) == before
        assert (party.coordinator.leader.rounds.tick, party.members["env", 1].done_tick) == (tick, done)
        party.pass_time(0.5)
        assert party.coordinator.leader.rounds.tick > tick + 2
    assert party.texts("WARNING") == []
    assert all(works == sorted(set(works)) for works in ([w.tick for w in told] for told in party.told.values()))


def test_answers_to_copies_from_elsewhere_are_of_no_use_at_the_member() -> None:
    party = sealed(1000)
    states = {address: (member.state, member.place) for address, member in party.members.items()}
    for _, data in list(party.to_service):
        for _, answer in party.coordinator.receive(data, THERE, party.now):
            for member in party.members.values():
                assert member.receive(answer, party.now) == []
    assert states == {address: (member.state, member.place) for address, member in party.members.items()}


def test_what_was_recorded_in_an_earlier_life_of_the_service_begins_nothing() -> None:
    party = sealed(1000)
    to_service, to_members = list(party.to_service), list(party.to_members)
    party.deaf = {("env", 1), ("scout", 1)}
    party.start_service(SESSION + 1)
    replay_to_service(party, to_service)
    assert party.coordinator.arrivals.lives == {}
    assert not party.coordinator.leader.has_begun
    party.deaf.clear()
    party.pass_time(3.0)
    replay_to_service(party, to_service)
    replay_to_members(party, to_members)
    leader, tick = party.coordinator.leader, party.coordinator.leader.rounds.tick
    party.pass_time(1.0)
    assert (leader.session, leader.epoch) == (SESSION, 2)
    assert leader.rounds.tick > tick + 8
    assert all(works == sorted(set(works)) for works in ([w.tick for w in told] for told in party.told.values()))


def test_a_member_that_has_left_or_died_does_not_come_back_by_what_it_said() -> None:
    party = sealed(1000, silent="drop")
    scout = party.members["scout", 1]
    party._hear_all(("scout", 1), scout.leave(party.now))
    replay_to_service(party, list(party.to_service))
    assert list(party.coordinator.leader.seats) == ["env"]
    assert party.coordinator.arrivals.lives == {}
    later = party.join("scout", Role.AGENT, life=2)
    party.pass_time(1.0)
    assert later.state == "seated"
    party.deaf.add(("scout", 2))
    recorded = [(address, data) for address, data in party.to_service if address[0] == "scout"]
    for _ in range(30):
        party.pass_time(0.1)
        replay_to_service(party, recorded)
    assert "scout has not been heard for 2 s: it loses its seat" in party.texts("WARNING")
    assert list(party.coordinator.leader.seats) == ["env"]


def test_who_waits_for_others_and_has_died_is_forgotten_whatever_it_said() -> None:
    party = Party(key=KEY, members=2)
    party.join("scout", Role.AGENT)
    party.pass_time(3.0)
    party.deaf.add(("scout", 1))
    for _ in range(150):
        party.pass_time(0.1)
        replay_to_service(party, list(party.to_service))
    assert "scout has left again" in party.texts("WARNING")
    party.join("env", Role.ENVIRONMENT)
    assert not party.coordinator.leader.has_begun


def test_a_member_notices_that_its_service_has_died_whatever_that_said() -> None:
    party = sealed(1000)
    scout = party.members["scout", 1]
    place, recorded = scout.place, list(party.to_members)
    party.deaf = {("env", 1), ("scout", 1)}
    for _ in range(30):
        party.pass_time(0.1)
        replay_to_members(party, recorded)
    assert (scout.state, scout.reason) == ("joining", "the Sync service is not heard")
    assert scout.place == place
    assert scout.done_tick > 2


@pytest.mark.parametrize("most_ticks", [0, 1000])
def test_a_member_that_joins_asks_on_whatever_its_service_said(most_ticks: int) -> None:
    """Old answers do not hold up the next question, end the member, or give it a seat."""
    party = Party(most_ticks, key=KEY, members=2 if most_ticks else 3, frequency=10)
    party.join("env", Role.ENVIRONMENT)
    scout = party.join("scout", Role.AGENT)
    party.pass_time(2.0)
    assert scout.state == ("seated" if most_ticks else "gathering")
    refused = Codec(KEY, is_service=True)
    recorded = [*party.to_members, (("scout", 1), refused.encode(SeatRefused(1, "the run is over", 0, 1)))]
    party.deaf = {("env", 1), ("scout", 1)}
    party.pass_time(3.0)
    asked = scout._codec.written
    for _ in range(40):
        replay_to_members(party, recorded)
        party.pass_time(0.1)
    assert scout.state in ("joining", "gathering")
    assert scout._codec.written >= asked + 2 * 5
    party.deaf.clear()
    party.start_service(SESSION + 1)
    party.join("guard", Role.AGENT)
    party.pass_time(3.0)
    assert scout.state == "seated"


def test_a_clock_that_was_set_back_keeps_no_later_start_out() -> None:
    party = Party(1000, key=KEY, frequency=10)
    party.join("env", Role.ENVIRONMENT)
    earlier = party.join("scout", Role.AGENT, life=1_000)
    new = party.join("scout", Role.AGENT, life=10)
    party.pass_time(1.0)
    assert (new.state, new.life) == ("seated", 1_001)
    party.pass_time(5.0)
    assert earlier.state == "ended"
    party._hear_all(("scout", 10), new.leave(party.now))
    third = party.join("scout", Role.AGENT, life=20)
    party.pass_time(1.0)
    assert (third.state, third.life) == ("seated", 1_002)


def test_members_and_services_of_before_understand_each_other_without_a_key() -> None:
    """Elements that came later are left out: they are 0 for those who know them."""
    join = Codec().decode(bytes.fromhex("9a0101a573636f75740100000000" + "00c2"))
    assert isinstance(join, Join)
    assert join.nonce == 0
    party = Party(5)
    answers = party.coordinator.receive(Codec().encode(join), THERE, 0.0)
    assert [Codec().decode(data) for _, data in answers] == [Gathering(1, 1, 2, 0, 0)]
